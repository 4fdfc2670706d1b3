"""What HTTP adds to the log: revalidation in all forms, methods, deletion, eviction, permits, metrics."""

from __future__ import annotations

import re
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_wire.descriptors import TABLE
from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Database, Postgres

pytestmark = [pytest.mark.pg]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("http"), ELECTRIC_LONG_POLL_TIMEOUT="400") as made:
        yield made


def ask(world: World, method: str, tag: str | None = None, **params: str) -> httpx.Response:
    headers = {} if tag is None else {"if-none-match": tag}
    query = {"table": "items", **params}
    return world.server.http.request(method, world.server.shape_url, params=query, headers=headers)


CACHE = {
    "-1": "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746",
    "0_0": "public, max-age=60, stale-while-revalidate=300",
    "0_inf": "public, max-age=60, stale-while-revalidate=300",
}


@pytest.mark.parametrize("offset", ["-1", "0_0", "0_inf"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@one_version
def test_revalidation(world: World, method: str, offset: str) -> None:
    """A 304 has the caching headers of the 200 that it stands for, and no schema."""
    handle = world.get().headers["electric-handle"]
    first = ask(world, method, offset=offset, handle=handle)
    assert first.status_code == 200
    tag = first.headers["etag"]
    assert tag == f'"{handle}:{offset}:{first.headers["electric-offset"]}"'
    for value in (tag, f'W/{tag}, "x"', f'"a" , {tag}'):
        again = ask(world, method, value, offset=offset, handle=handle)
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "electric-handle", "electric-offset", "electric-has-data"):
            assert again.headers[name] == first.headers[name]
        assert "electric-schema" not in again.headers
        assert ("electric-up-to-date" in again.headers) == ("electric-up-to-date" in first.headers)
    assert first.headers["cache-control"] == ("no-cache" if method == "POST" else CACHE[offset])
    assert ask(world, method, '"other"', offset=offset, handle=handle).status_code == 200


@one_version
def test_what_never_revalidates(world: World) -> None:
    """Answers without changes have tags of their own; subsets, errors and refetches have none that match."""
    now = ask(world, "GET", offset="now")
    assert now.headers["etag"].count(":") == 3
    assert ask(world, "GET", now.headers["etag"], offset="now").status_code == 200
    handle = now.headers["electric-handle"]
    live = ask(world, "GET", offset="0_inf", handle=handle, live="true")
    assert (live.headers["electric-has-data"], live.headers["cache-control"]) == (
        "false",
        "public, max-age=5, stale-while-revalidate=5",
    )
    assert "electric-schema" not in live.headers
    assert int(live.headers["electric-cursor"]) >= 0
    assert ask(world, "GET", live.headers["etag"], offset="0_inf", handle=handle, live="true").status_code == 200
    subset = ask(world, "GET", "*", offset="-1", subset__order_by="id")
    assert (subset.status_code, "etag" in subset.headers) == (200, False)
    stale = ask(world, "GET", offset="0_0", handle="1-1")
    assert (stale.status_code, stale.headers["etag"]) == (409, f'"{handle}:0_0:0_0"')
    posted = ask(world, "POST", offset="0_0", handle="1-1")
    assert (posted.status_code, posted.headers["cache-control"]) == (409, "no-cache")
    assert posted.headers["electric-handle"] == handle


@one_version
def test_live_answers_revalidate_with_data(world: World) -> None:
    table = world.table("id int PRIMARY KEY")
    client = Client(world.server, table=table)
    client.sync()
    start = client.offset
    world.database.execute(f"INSERT INTO {table} VALUES (1)")
    world.server.wait(lambda: bool(client.sync() or client.rows), 60, "the row")
    assert client.handle is not None
    params = {"table": table, "offset": start, "handle": client.handle, "live": "true"}
    first = ask(world, "GET", **params)
    assert first.json()[0]["value"] == {"id": "1"}
    again = ask(world, "GET", first.headers["etag"], **params)
    assert again.status_code == 304
    assert "electric-cursor" in again.headers
    assert "electric-up-to-date" in again.headers


@one_version
def test_empty_values_count_as_absent(world: World) -> None:
    base = world.get().headers["electric-handle"]
    response = world.get(
        where="", columns="id,title,n,mood,tags,secret", replica="", log="", experimental_compaction=""
    )
    assert response.status_code == 200
    assert world.get(replica="", log="", experimental_compaction="", handle="").headers["electric-handle"] == base
    assert errors_of(world.get(columns="")) == {"columns": ["The list of columns must not be empty"]}
    assert errors_of(world.get(queryable_columns=" ")) == {
        "queryable_columns": ["The list of queryable columns must not be empty"]
    }


@one_version
def test_stages(world: World) -> None:
    """What cannot be read comes before what is missing, then the rules, then the table, then the subset."""
    bad = {"replica": "x", "live": "true", "subset__limit": "0"}
    assert errors_of(world.get("nope", offset="", **bad)) == {"replica": ["is invalid"]}
    del bad["replica"]
    assert errors_of(world.get("nope", offset="", **bad)) == {"offset": ["can't be blank"]}
    assert errors_of(world.get("nope", offset="0_0", **bad)) == {"handle": ["can't be blank when offset != -1"]}
    assert errors_of(world.get("nope", **bad)) == {"live": ["can't be true when offset == -1"]}
    del bad["live"]
    assert set(errors_of(world.get("a.b.c", **bad))) == {"table"}
    assert set(errors_of(world.get("items", columns='"', **bad))) == {"columns"}
    assert set(errors_of(world.get("items", **bad))) == {"subset"}


@pytest.mark.parametrize(
    ("content", "status", "body"),
    [
        (b"[]", 400, {"error": "Request body must be a JSON object"}),
        (b"true", 400, {"error": "Request body must be a JSON object"}),
        (b'{"where": ', 400, {"error": "Invalid JSON in request body"}),
        (b"a=b", 400, {"error": "Invalid JSON in request body"}),
        (b" " * 8_000_001, 413, {"error": "Request body too large"}),
    ],
    ids=["array", "boolean", "cut off", "form", "too large"],
)
@one_version
def test_bodies(world: World, content: bytes, status: int, body: dict[str, str]) -> None:
    for chunked in (False, True):
        sent: Any = iter([content[: len(content) // 2], content[len(content) // 2 :]]) if chunked else content
        params = {"table": "items", "offset": "-1"}
        response = world.server.http.post(world.server.shape_url, params=params, content=sent)
        assert response.status_code == status
        assert body.items() <= response.json().items()
        assert response.headers["cache-control"] == "no-cache"


@one_version
def test_methods_have_their_cors(world: World) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        for params in ({"offset": "-1"}, {"offset": "x"}):
            response = ask(world, method, **params)
            assert response.headers["access-control-allow-methods"] == "GET, POST, HEAD, DELETE, OPTIONS"
            assert "electric-handle" in response.headers["access-control-expose-headers"]
            assert response.headers["electric-server"].startswith("ElectricSQL/")
            assert response.headers["x-request-id"]
    assert ask(world, "PATCH", offset="-1").status_code == 404
    assert ask(world, "DELETE").json() == {"message": "DELETE not allowed"}


@one_version
def test_connections_are_limited_by_the_system_alone(world: World) -> None:
    """Not by the soft limit of open files, which is often 1,024."""
    assert world.server.process is not None
    pid = world.server.process.pid
    assert len(set(resource.prlimit(pid, resource.RLIMIT_NOFILE))) == 1
    size = re.search(r"FDSize:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert size is not None
    assert int(size[1]) >= min(resource.prlimit(pid, resource.RLIMIT_NOFILE)[0], TABLE)


@one_version
def test_metrics(world: World) -> None:
    """Electric's names, by status; times and sizes in buckets that tell something."""

    def value(name: str) -> float:
        try:
            return world.server.metric(name)
        except AssertionError:
            return 0.0

    requests = 'electric_plug_serve_shape_requests_count{empty="%s",known_error="%s",live="%s",status="%s"}'
    good, bad = requests % ("false", "false", "false", 200), requests % ("false", "false", "false", 400)
    live, refused = requests % ("true", "false", "true", 200), requests % ("false", "true", "false", 503)
    names = (good, bad, live, refused, "electric_plug_serve_shape_duration_count", "electric_plug_serve_shape_count")
    before = [value(name) for name in names]
    handle = world.get().headers["electric-handle"]
    world.get(offset="x")
    world.get(offset="0_inf", handle=handle, live="true")
    with world.database.connect(autocommit=False) as connection:
        connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        world.get(subset__order_by="id")
        connection.rollback()
    after = [value(name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 1, 3, 3]
    client = Client(world.server, table=world.table("id int PRIMARY KEY"))
    client.sync()
    world.database.execute(f"INSERT INTO {client.params['table']} VALUES (1)")
    world.server.wait(lambda: bool(client.sync() or client.rows), 60, "the row")
    received = "electric_postgres_replication_transaction_received_"
    assert world.server.metric(f"{received}receive_lag_count") >= 1
    assert world.server.metric(f"{received}bytes") >= world.server.metric(f"{received}operations") * 10 > 0
    version = world.server.metric("electric_postgres_info_looked_up_pg_version")
    assert version // 10_000 == world.database.version
    with world.database.connect() as connection:
        ((end,),) = connection.execute("SELECT (pg_current_wal_lsn() - '0/0')::int8").fetchall()
    name = "electric_postgres_replication_pg_wal_offset"
    world.server.wait(lambda: world.server.metric(name) >= end, 60, "the slot to be looked at")
    text = world.server.http.get(f"{world.server.url}/metrics").text
    for line in (
        'electric_plug_serve_shape_duration_bucket{le="0.25"}',
        'electric_shape_response_size_bytes_bucket{is_live="false",le="1000000"}',
        'electric_admission_control_acquire_limit{kind="initial"} 300',
        'electric_admission_control_reject_limit{kind="existing"} 10000',
        'electric_admission_control_acquire_current{kind="existing"} 0',
        "electric_shape_snapshot_create_snapshot_task_stop_duration_count",
        "electric_shapes_total_shapes_count",
        "electric_shapes_active_shapes_count 0",
        'electric_postgres_replication_transaction_received_receive_lag_bucket{le="5"}',
    ):
        assert line in text, line


@one_version
def test_permits(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """A request for a new shape has an initial permit, and an existing one as soon as the shape has begun."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY); ALTER TABLE items REPLICA IDENTITY FULL")
    limits = '{"initial": 1, "existing": 2}'
    # Its snapshots wait long for a lock: the first request is still there when all others have been refused.
    server = make_server(
        module="tests.shapes.sharing", ELECTRIC_MAX_CONCURRENT_REQUESTS=limits, ELECTRIC_LONG_POLL_TIMEOUT="60000"
    ).start()
    database.execute("ALTER PUBLICATION electric_publication_default ADD TABLE items")  # which waits for a lock, too

    def current(kind: str) -> float:
        return server.metric(f'electric_admission_control_acquire_current{{kind="{kind}"}}')

    with database.connect(autocommit=False) as connection:
        connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        waiting = threading.Thread(target=server.get, kwargs={"table": "items", "offset": "-1"})
        waiting.start()
        server.wait(lambda: current("initial") == 1, 60, "the first request waits")
        refused = server.get(table="other", offset="-1")
        assert refused.status_code == 503
        assert refused.json()["message"] == "Concurrent initial request limit exceeded (limit: 1), please retry"
        assert refused.headers["electric-internal-known-error"] == "true"
        posted = server.http.post(server.shape_url, params={"table": "items", "offset": "-1"}, json={"where": "true"})
        assert posted.status_code == 503
        server.wait(lambda: server.metric("electric_shapes_total_shapes_count") == 1, 60, "the shape that waits")
        dead = server.get(table="items", offset="0_0", where="id = 3", handle="1-1")
        assert (dead.status_code, dead.json()) == (503, refused.json()), "a handle that nobody knows is none"
        assert server.metric("electric_shapes_total_shapes_count") == 1, "who is refused makes no shape"
        connection.rollback()
    waiting.join()
    client = Client(server, table="items")
    client.sync()
    live = {"table": "items", "offset": client.offset, "handle": client.handle, "live": "true"}
    threads = [threading.Thread(target=server.get, kwargs=live) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.wait(lambda: current("existing") == 2, 60, "two live requests wait")
    assert current("initial") == 0
    assert server.get(**live).json()["message"] == "Concurrent existing request limit exceeded (limit: 2), please retry"
    database.execute("INSERT INTO items VALUES (1)")
    for thread in threads:
        thread.join()
    server.wait(lambda: current("existing") == 0, 60, "their permits are free")


@one_version
def test_eviction(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Above ELECTRIC_MAX_SHAPES the least recently read shapes go: their clients fetch again."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v int); INSERT INTO items VALUES (1, 1)")
    server = make_server(ELECTRIC_MAX_SHAPES="2").start()
    handles = {}
    for where in ("v = 1", "v = 2"):
        handles[where] = server.get(table="items", offset="-1", where=where).headers["electric-handle"]
    server.get(table="items", offset="0_0", where="v = 1", handle=handles["v = 1"])
    server.get(table="items", offset="-1", where="v = 3")  # one more than may be: from now on, one of them goes
    server.wait(lambda: server.metric("electric_shapes_total_shapes_count") == 2, 60, "one shape less")
    assert server.get(table="items", offset="0_0", where="v = 1", handle=handles["v = 1"]).status_code == 200
    gone = server.get(table="items", offset="0_0", where="v = 2", handle=handles["v = 2"])
    assert (gone.status_code, gone.json()) == (409, [{"headers": {"control": "must-refetch"}}])
    assert gone.headers["electric-handle"] != handles["v = 2"]
