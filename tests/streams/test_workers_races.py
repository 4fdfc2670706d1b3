"""Several workers: what comes at once, late, or in another order than it was sent in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import httpx
import pytest

from switchgear_streams.limits import Rate
from switchgear_streams.workers.directory import Directory
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.share import Share
from tests.streams.inside import Inside
from tests.streams.server import JSON, OCTETS, TEXT, StreamsServer, serving
from tests.streams.test_workers import COUNT, Raw, alive, names, one_of_each, request
from tests.support.region import wait_until


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamsServer]:
    with serving(tmp_path_factory.mktemp("races"), "--workers", str(COUNT)) as running:
        yield running


def fork_of(source: str) -> dict[str, str]:
    return {"stream-forked-from": f"/v1/stream/{source}"}


# -- names --


def test_a_name_is_given_once_though_a_body_comes_late(several: StreamsServer, client: httpx.Client) -> None:
    sources = one_of_each("late")
    for source in sources:
        client.put(several.stream(source), headers=TEXT, content=source.encode())
    for worker in range(COUNT):
        for other in sources:
            name = next(names(f"late/{worker}/{other}", worker))
            raw = Raw(several)
            raw.send(request("PUT", name, None, "content-length: 3"))
            time.sleep(0.1)  # it is where it belongs
            assert client.put(several.stream(name), headers=fork_of(other)).status_code == 201
            raw.send(b"abc")
            status, _ = raw.answer()
            assert status in (503, 409), (worker, other)  # (409 where the fork is made in the same worker)
            raw.close()
            assert client.get(several.stream(name)).text == other
            assert client.delete(several.stream(name)).status_code == 204
            assert client.head(several.stream(name)).status_code == 404


def test_a_fork_behind_a_large_request_keeps_no_name(several: StreamsServer, client: httpx.Client) -> None:
    for worker, first in enumerate(one_of_each("behind")):
        source = one_of_each("behind")[(worker + 1) % COUNT]
        client.put(several.stream(first), headers=TEXT)
        client.put(several.stream(source), headers=TEXT)
        name = next(names("behind/fork", worker))
        raw = Raw(several)
        head = f"stream-forked-from: /v1/stream/{source}"
        raw.send(request("POST", first, bytes(4_000_000)) + request("PUT", name, b"", head))
        assert raw.answer()[0] == 204
        assert raw.answer()[0] in (503, 201)
        raw.close()
        began = time.monotonic()
        assert client.put(several.stream(name), headers=fork_of(source)).status_code in (200, 201)
        assert time.monotonic() - began < 20  # the name was not kept for somebody who is gone


def test_what_is_made_while_a_fork_is_deleted_is_there(several: StreamsServer, client: httpx.Client) -> None:
    """Both requests come to the worker that has the fork, which is not the one that gives the name."""
    made = 0
    for worker, source in enumerate(one_of_each("again")):
        client.put(several.stream(source), headers=TEXT, content=b"s")
        name = next(names(f"again/{worker}", (worker + 1) % COUNT))
        for _ in range(8):
            client.put(several.stream(name), headers=fork_of(source))
            first, second = Raw(several), Raw(several)
            for each in (first, second):
                each.send(request("GET", name))
                assert each.answer()[0] == 200
            first.socket.sendall(request("DELETE", name))
            second.socket.sendall(request("PUT", name, b"new"))
            deleted, put = first.answer()[0], second.answer()[0]
            assert deleted == 204
            assert put in (201, 409), put  # (409: before it was deleted)
            if put == 201:
                made += 1
                assert client.get(several.stream(name)).content == b"new"
            client.delete(several.stream(name))
            first.close()
            second.close()
    assert made


def test_a_fork_takes_the_name_of_what_has_expired(several: StreamsServer, client: httpx.Client) -> None:
    sources = one_of_each("expired")
    for source in sources:
        client.put(several.stream(source), headers=TEXT, content=source.encode())
    pairs = [(next(names(f"expired/{worker}/{other}", worker)), other) for worker in range(COUNT) for other in sources]
    for name, _ in pairs:
        assert client.put(several.stream(name), headers={**TEXT, "stream-ttl": "1"}).status_code == 201
    for name, other in pairs:
        while client.head(several.stream(name)).status_code == 200:
            time.sleep(0.01)
        answer = client.put(several.stream(name), headers=fork_of(other))
        assert answer.status_code == 201, (name, other, answer.text)
        assert client.get(several.stream(name)).text == other


# -- limits --


def test_a_connection_keeps_its_seat_when_it_moves(tmp_path: Path) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT), "--max-connections", "1")
    try:
        server.start()
        streams = one_of_each("seat")
        raw = Raw(server)
        for number in range(40):
            raw.socket.sendall(request("PUT", streams[number % COUNT]))
            assert raw.answer()[0] in (200, 201)
        time.sleep(3)  # each tells the others twenty times a second, unless it is held up
        for name in streams:
            other = Raw(server)
            other.send(request("GET", name))
            assert other.answer()[0] == 429
            other.close()
        raw.close()
        deadline = time.monotonic() + 60
        while True:  # the seat is free again
            other = Raw(server)
            other.send(request("GET", streams[0]))
            status = other.answer()[0]
            other.close()
            if status == 200:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        server.end()


def test_bursts_in_turns_do_not_add_up() -> None:
    """One worker after the other takes all it can: together they take the rate, and one burst each at most."""
    count, rate = 8, 100
    buckets = [Rate(rate) for _ in range(count)]
    taken = 0
    for turn in range(400):
        now = turn * 0.5
        number = 0
        while buckets[turn % count].take(now):
            number += 1
        for at, other in enumerate(buckets):
            if at != turn % count:
                other.elsewhere(number, now)
        taken += number
    assert taken <= 200 * rate + 2 * rate * count


# -- subscriptions --


def test_what_is_under_way_when_a_subscription_is_made_is_work(several: StreamsServer, client: httpx.Client) -> None:
    client.put(several.stream("underway-wakes"), headers=JSON)
    late = 0
    with ThreadPoolExecutor(1) as pool, httpx.Client(trust_env=False, timeout=30) as own:
        for number, name in enumerate(one_of_each("underway") * 100):
            if number >= 30 and late:
                break
            client.put(several.stream(name), headers=JSON)
            append = pool.submit(own.post, several.stream(name), headers=JSON, json={"n": number})
            url = several.stream(f"__ds/subscriptions/underway{number}")
            body = {"type": "pull-wake", "wake_stream": "underway-wakes"}
            body |= {"streams": [name]} if number % 2 else {"pattern": "underway/*"}  # type: ignore[dict-item]
            made = client.put(url, json=body).json()
            tail = append.result(30).headers["stream-next-offset"]
            (shown,) = [one for one in made["streams"] if one["path"] == name]
            if shown["acked_offset"] != tail:
                late += 1
                claim = client.post(f"{url}/claim", json={"worker": "w"})
                assert claim.status_code == 200, (number, claim.text)
            client.delete(url)
    assert late


def test_a_subscription_follows_a_name_from_worker_to_worker(several: StreamsServer, client: httpx.Client) -> None:
    client.put(several.stream("moved-wakes"), headers=JSON)
    sources = one_of_each("origin")
    for source in sources:
        client.put(several.stream(source), headers=JSON, json=source)
    name = next(names("moved", 1))
    url = several.stream("__ds/subscriptions/moved")
    body = {"type": "pull-wake", "pattern": "moved/**", "streams": [name], "wake_stream": "moved-wakes"}
    assert client.put(url, json=body).status_code == 201
    for turn in range(24):
        where = turn % (COUNT + 1)
        headers = fork_of(sources[where]) if where < COUNT else JSON
        assert client.put(several.stream(name), headers=headers).status_code == 201
        tail = client.post(several.stream(name), headers=JSON, json=turn).headers["stream-next-offset"]
        (shown,) = client.get(url).json()["streams"]
        assert (shown["path"], shown["tail_offset"], shown["has_pending"]) == (name, tail, True), turn
        claim = client.post(f"{url}/claim", json={"worker": "w"}).json()
        ack = {key: claim[key] for key in ("wake_id", "generation")}
        ack |= {"done": True, "acks": [{"stream": name, "offset": tail}]}
        done = client.post(f"{url}/ack", json=ack, headers={"authorization": f"Bearer {claim['token']}"})
        assert done.status_code == 200, done.text
        if turn % 3 == 0:
            assert client.delete(f"{url}/streams/{name}").status_code == 204
            assert client.post(f"{url}/streams", json={"streams": [name]}).status_code == 204
        assert client.delete(several.stream(name)).status_code == 204
        assert [one["tail_offset"] for one in client.get(url).json()["streams"]] in ([], ["-1"])
    assert client.delete(url).status_code == 204


def test_what_workers_say_of_a_name_may_come_in_any_order(tmp_path: Path) -> None:
    """It was in one worker and is in another now: whoever is heard first, the desk knows the one that there is."""

    async def check() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        engine = inside.service.engine
        mesh = Mesh(0, {}, lambda peer, problem: None)
        directory = Directory(engine, Share(inside.service, 0, mesh), mesh)
        directory._quiet = False
        engine.neighbours = directory
        body = {"type": "pull-wake", "pattern": "a/**", "wake_stream": "w"}
        made = await inside.client.put(inside.url("__ds/subscriptions/s"), json=body)
        assert made.status_code == 201, made.text
        first, second = (100, 100, 0, 70), (200, 200, 0, 50)
        before = [(1, first), (1, (100, 100, 0, 90)), (1, None)]
        after = [(2, None), (2, second)]
        for number, places in enumerate(combinations(range(5), 3)):
            key = b"a/%d" % number
            left, right = iter(before), iter(after)
            for at in range(5):
                peer, figures = next(left if at in places else right)
                directory.hear(peer, [(key, figures), (b"b/%d" % number, figures)])
            seen = directory.get(key)
            assert seen is not None
            assert (seen.generation, seen.visible) == (200, 50), places
            assert engine.subscriptions["s"].links[key].generation == 200
            assert directory.get(b"b/%d" % number) is None  # nobody wants it, so nobody would say when it has gone
        assert len(list(directory.items())) == 10
        await engine.remove(engine.subscriptions["s"])
        directory.hear(2, [(b"a/0", second)])  # it was on its way
        assert not list(directory.items())
        await inside.end()

    asyncio.run(check())


# -- the processes --


def test_a_stop_under_load_loses_nothing_that_was_answered(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT))
    streams = [name for part in range(3) for name in one_of_each(f"load{part}")]
    answered: dict[str, list[int]] = {name: [] for name in streams}
    try:
        server.start()
        for name in streams:
            client.put(server.stream(name), headers=TEXT)

        def write(part: int) -> None:
            with httpx.Client(trust_env=False, timeout=30) as own:
                for number in range(100_000):
                    name = streams[part * COUNT + number % COUNT]  # with every request to another worker
                    try:
                        answer = own.post(server.stream(name), headers=TEXT, content=b"%d;" % number)
                    except httpx.TransportError:
                        return
                    if answer.status_code == 503:
                        return
                    assert answer.status_code == 204
                    answered[name].append(number)

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write, part) for part in range(3)]
            deadline = time.monotonic() + 30
            while sum(map(len, list(answered.values()))) < 60:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert server.stop() == 0
            for writer in writers:
                writer.result(30)
        assert "Traceback" not in server.log, server.log
        server.start()
        for name in streams:
            found = [int(one) for one in client.get(server.stream(name)).text.split(";")[:-1]]
            assert found[: len(answered[name])] == answered[name]
            assert len(found) <= len(answered[name]) + 1
    finally:
        server.end()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    text = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """The launcher's wait, over one process that hangs."""
    program = (
        "import os, signal, sys, time\n"
        "from switchgear_streams.workers import launch\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print('up', os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "sys.exit(launch.wait([pid], 0.5))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        worker = int(process.stdout.readline().split()[1])
        deadline = time.monotonic() + 60
        while not catches(process.pid, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 70
        assert not alive(worker)
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_hangs_is_seen_by_the_others(several: StreamsServer) -> None:
    victim = several.workers[1]

    def live() -> int:
        """What those say that answer at all."""
        while True:
            try:
                return httpx.get(f"{several.url}/live", trust_env=False, timeout=12).status_code
            except httpx.TimeoutException:
                continue  # it came to the one that hangs

    assert live() == 200
    os.kill(victim, signal.SIGSTOP)
    try:
        assert live() == 503
    finally:
        os.kill(victim, signal.SIGCONT)
    # If it was held for half a minute, it says itself that it stood still, until it has ticked once more.
    wait_until(lambda: live() == 200, 60, "it goes on")


def test_a_worker_that_hangs_does_not_outlive_the_launcher(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT))
    workers: list[int] = []
    try:
        server.start()
        workers = server.workers
        assert client.put(server.stream("x"), headers=OCTETS, content=b"x").status_code == 201
        os.kill(workers[0], signal.SIGSTOP)
        server.kill()
        deadline = time.monotonic() + 60
        while any(alive(worker) for worker in workers):
            assert time.monotonic() < deadline, "it is stopped, and has the directory"
            time.sleep(0.02)
        server.start()
        assert client.get(server.stream("x")).content == b"x"
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        server.end()


def test_one_worker_that_cannot_start_is_a_server_that_cannot(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT))
    try:
        server.start()
        client.put(server.stream("x"), headers=OCTETS)
        assert server.stop() == 0
        place = server.data / f"worker.1.of.{COUNT}"
        place.rename(tmp_path / "aside")
        place.write_bytes(b"")  # no directory
        with pytest.raises(AssertionError, match=r"exited with 1: [\s\S]*worker 1 cannot start"):
            server.start()
        place.unlink()
        (tmp_path / "aside").rename(place)
        server.start()
        assert client.head(server.stream("x")).status_code == 200
        threads = [threading.Thread(target=server.process.send_signal, args=(signal.SIGTERM,)) for _ in range(3)]  # type: ignore[union-attr]
        for thread in threads:
            thread.start()
        assert server.process is not None
        assert server.process.wait(90) == 0
    finally:
        server.end()


def test_services_by_host_with_several_workers(tmp_path: Path) -> None:
    listed = '{"services": [{"id": "a", "insecure": true, "host": "a.test"}, {"id": "b", "insecure": true}]}'
    (tmp_path / "services.json").write_text(listed)
    flags = ("--workers", str(COUNT), "--services", str(tmp_path / "services.json"))
    server = StreamsServer(tmp_path, *flags, flags_only=True)
    try:
        server.start()
        with httpx.Client(trust_env=False, timeout=30, headers={"host": "a.test"}) as own:
            for number in range(6):
                assert own.put(server.stream(f"s{number}"), headers=TEXT, content=b"a").status_code == 201
                made = own.put(server.stream(f"f{number}"), headers=fork_of(f"s{number}"))
                assert made.status_code == 201, made.text
                assert own.get(server.stream(f"f{number}")).content == b"a"
            assert own.get(f"{server.url}/usage").json()["written_bytes"] == 6
        with httpx.Client(trust_env=False, timeout=30) as own:
            assert own.get(server.stream("s1")).status_code == 401
            for number in range(6):
                assert own.put(server.stream(f"b/s{number}"), headers=TEXT, content=b"bb").status_code == 201
            assert own.get(f"{server.url}/usage/b").json()["written_bytes"] == 12
        assert server.stop() == 0
    finally:
        server.end()
