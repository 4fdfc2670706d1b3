"""For every test folder: real Postgres servers, a real Kubernetes control plane, and what saves time."""

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.kube",
    "tests.support.schedule",
    "tests.support.authorities",
    "tests.support.patience",
    "tests.support.ports",
    "tests.support.orphans",
]
