"""A complete chunk that is asked for again: the first answer once more, for those who may have it, while it is true."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.log.files import Handle
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.parameters import Query
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.prepared import LIMIT, LIMIT_BYTES, ChunkResponse, Prepared, PreparedChunks
from switchgear_shapes.relations import Relation
from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.test_log import DEFINITION
from tests.support.postgres import Database

SECRET = "s3cret"
RELATION = Relation(1, "public", "t", "r", "d", ())


def told(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """An answer without what is its own."""
    headers = {k: v for k, v in response.headers.items() if k not in ("date", "x-request-id")}
    return response.status_code, headers, response.content


@pytest.mark.pg
@one_version
def test_a_chunk_asked_for_again(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, t text);"
        "INSERT INTO wide SELECT g, repeat('x', 400) FROM generate_series(1, 600) g"
    )
    server = make_server(
        ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="70000",
        ELECTRIC_SECRET=SECRET,
        ELECTRIC_INSECURE="",
        ELECTRIC_ENABLE_INTEGRATION_TESTING="true",
    ).start()

    def get(offset: str, method: str = "GET", secret: str | None = SECRET, **headers: str) -> httpx.Response:
        query = {"table": "wide", "offset": offset} | ({} if offset == "-1" else {"handle": handle})
        if secret is not None:
            query["secret"] = secret
        return server.http.request(method, server.shape_url, params=query, headers=headers)

    handle = ""
    handle = get("-1").headers["electric-handle"]
    for offset in ("-1", "0_0", "0_1"):
        answers = [get(offset) for _ in range(3)]
        assert len({response.headers["x-request-id"] for response in answers}) == 3
        first, *others = map(told, answers)
        assert others == [first, first]
        assert first[0] == 200
        assert first[1]["electric-handle"] == handle
        assert len(first[2]) > 65_536
        # Who may not have it does not get it, and revalidation is what it is for other answers.
        assert get(offset, secret="wrong").status_code == get(offset, secret=None).status_code == 401
        for _ in range(3):
            assert told(get(offset, secret=None, authorization=f"Bearer {SECRET}"))[2] == first[2]
        assert get(offset, secret=None).status_code == 401
        assert get(offset, secret=None, authorization="Bearer x").status_code == 401
        for _ in range(2):
            assert get(offset, **{"if-none-match": first[1]["etag"]}).status_code == 304
            assert get(offset, **{"if-none-match": '"x"', "origin": "http://a.b"}).content == first[2]
            head = get(offset, "HEAD")
            assert (head.headers["content-length"], head.content) == (str(len(first[2])), b"")
            assert get(offset, "POST").headers["cache-control"] == "no-cache"
        assert get(offset, origin="http://a.b").headers["access-control-allow-origin"] == "http://a.b"
    # The table is another one: so is the shape.
    database.execute("ALTER TABLE wide ADD COLUMN n int")
    database.execute("UPDATE wide SET n = 1 WHERE id = 1")
    server.wait(lambda: get("0_0").status_code == 409, 60, "the end of the shape")
    server.wait(
        lambda: get("-1").status_code == 200 and get("-1").headers["electric-handle"] != handle, 60, "another shape"
    )
    handle = get("-1").headers["electric-handle"]
    assert '"n":' in get("-1").headers["electric-schema"]
    assert [get("0_0").status_code for _ in range(3)] == [200, 200, 200]
    deleted = server.http.delete(server.shape_url, params={"table": "wide", "secret": SECRET})
    assert deleted.status_code == 202
    assert get("0_0").status_code == 409
    assert SECRET not in server.log()


@pytest.mark.pg
@one_version
def test_a_chunk_of_a_log_that_is_compacted(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="70000", SWITCHGEAR_COMPACTION_PERIOD="400ms").start()
    shape = {"table": "items", "experimental_compaction": "true"}
    Client(server, **shape).sync()
    started = time.monotonic()
    number = 0
    with database.connect() as connection:
        while time.monotonic() < started + 4 or "compacted" not in server.log():
            assert time.monotonic() < started + 60, server.log()[-2000:]
            for _ in range(20):
                number += 1
                connection.execute("UPDATE items SET v = %s WHERE id = 1", [f"{number} " + "x" * 4000])
            for _ in range(2):
                fresh = Client(server, **shape)
                fresh.sync()
                assert fresh.restarts == 0
    last = Client(server, **shape)

    def has_all() -> bool:
        last.sync()
        value: str = last.rows['"public"."items"/"1"']["v"]
        return value.startswith(f"{number} ")

    server.wait(has_all, 60, "the end")


def test_they_are_true_and_bounded(tmp_path: Path) -> None:
    shape = Shape(1, "1-1", DEFINITION, tmp_path, 1000)
    path = Path(shape.snapshot.path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 100)
    handle = Handle(str(path))
    catalog = Catalog(cast(Pool, None))
    kept = PreparedChunks()

    def keep(query: bytes, headers: bytes = b"") -> None:
        answer = ChunkResponse(b"", shape, handle, 0, 98)
        kept.keep(query, Prepared(Query([]), answer, headers, RELATION))

    def known(relation: Relation) -> None:
        catalog._known[relation.schema, relation.name] = relation

    keep(b"a")
    assert kept.find(b"a", catalog) is None, "the table is not known"
    keep(b"a")
    known(RELATION)
    assert kept.find(b"a", catalog) is not None
    known(replace(RELATION, stamp="other"))
    assert kept.find(b"a", catalog) is None
    known(RELATION)
    keep(b"a")
    shape.snapshot.path += "x"
    assert kept.find(b"a", catalog) is None
    shape.snapshot.path = str(path)
    keep(b"a")
    assert kept.find(b"a", catalog) is not None
    shape.alive = False
    assert kept.find(b"a", catalog) is None
    assert len(kept) == 0
    for number in range(3000):
        keep(b"%d" % number, b"h" * (100 if number < 2000 else 100_000))
        keep(b"0")
        assert len(kept) <= LIMIT
    assert len(kept) <= LIMIT_BYTES // 100_000 + 1
    handle.release()
