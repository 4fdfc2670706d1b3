"""Fixtures shared by every test folder: real Postgres servers and a real Kubernetes control plane."""

pytest_plugins = ["tests.support.postgres", "tests.support.kube"]
