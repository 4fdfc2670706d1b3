"""One cluster with one real node for this folder, with our images; skipped, loudly, where there can be none.

The time of each part is printed at the end of the run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from images import assemble
from switchgear_local.postgres import PostgresServer, find
from tests.realnode import machine, programs
from tests.realnode.cluster import Cluster, fingerprint
from tests.support import nodejs, processes
from tests.support.region import wait_until

_TIMES: list[tuple[str, float]] = []


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Note how long a part takes, for the summary."""
    started = time.monotonic()
    try:
        yield
    finally:
        _TIMES.append((part, time.monotonic() - started))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    obstacle = programs.obstacle()
    if obstacle is None and (not shutil.which("apt-get") or "bookworm" not in Path("/etc/os-release").read_text()):
        obstacle = "images are assembled on Debian 12 only"
    if obstacle is not None:
        pytest.skip(f"REAL NODE NOT TESTED: {obstacle}")
    before = fingerprint()
    folder = Path(tempfile.mkdtemp(prefix="sg-node-"))
    folder.chmod(0o755)  # Postgres runs as another user
    running = Cluster(folder)
    try:
        with timed("images"), nodejs.locked(nodejs.cache_dir() / "images.lock"):
            made = assemble.assemble(folder / "images", nodejs.cache_dir() / "images")
        with timed("node"):
            running.start(*(image.archive for image in made))
        yield running
    finally:
        with timed("node's end"):
            running.close()
        shutil.rmtree(folder)
    # The kernel takes namespaces and what runs in them away on the side.
    wait_until(lambda: fingerprint() == before, 60, lambda: f"{fingerprint()} instead of {before}")
    wait_until(lambda: not processes.find(str(folder)), 60, lambda: f"{processes.find(str(folder))} are left")
    assert not [*Path("/sys/fs/cgroup").glob(f"*/{machine.CGROUP}"), *Path("/sys/fs/cgroup").glob(machine.CGROUP)]


@pytest.fixture(scope="module")
def node_postgres(cluster: Cluster) -> Iterator[PostgresServer]:
    """A Postgres beside the node, which pods reach at the outer end of the cable."""
    server = PostgresServer(
        find(18),
        cluster.folder / "postgres",
        durable=False,
        settings={"listen_addresses": f"127.0.0.1,{machine.HOST}"},
        binary_copies=cluster.folder / "postgres-binaries",
    )
    server.start()
    try:
        with (server.pgdata / "pg_hba.conf").open("a") as rules:
            rules.write(f"\nhost all all {machine.PODS} scram-sha-256\n")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL)")
            connection.execute("INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 500) i")
        yield server
    finally:
        server.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The time of each part, where nothing captures it."""
    if _TIMES:
        terminalreporter.write_line("real node: " + ", ".join(f"{part} {seconds:.0f} s" for part, seconds in _TIMES))
