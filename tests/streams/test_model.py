"""Random histories against a model of the protocol: forks, closes, deletions, checkpoints, restarts of both kinds.

One client, so that every answer is determined. The seed of a failure is in the test's name.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.streams.server import JSON, OCTETS, StreamsServer, read_all, read_messages

NAMES = [f"m{number}" for number in range(7)]
STEPS = 220


@dataclass
class Model:
    """A stream as it should be. `appends`: each one's units (messages or bytes) with the offset before it."""

    json: bool
    appends: list[tuple[str, list[object]]] = field(default_factory=list)
    tail: str = ""
    closed: bool = False
    source: str | None = None
    forks: int = 0
    gone: bool = False
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    seq: str | None = None

    @property
    def content(self) -> list[object]:
        return [unit for _, units in self.appends for unit in units]


class World:
    """The server, the model, and the steps. Every step checks its answer."""

    def __init__(self, server: StreamsServer, client: httpx.Client, seed: int) -> None:
        self.server = server
        self.client = client
        self.chance = random.Random(seed)
        self.streams: dict[str, Model] = {}
        self.done: dict[str, int] = {}

    def step(self) -> None:
        steps = (
            [self.create] * 3 + [self.fork] * 3 + [self.append] * 10 + [self.produce] * 3 + [self.close, self.delete]
        )
        step = self.chance.choice([*steps, self.check])
        if self.chance.random() < 0.03:
            step = self.restart
        self.done[step.__name__] = self.done.get(step.__name__, 0) + 1
        step()

    def units(self, json_mode: bool) -> list[object]:
        count = self.chance.choice((1, 1, 2, 5, 40, 700))
        if json_mode:
            return [{"v": self.chance.randrange(1000), "t": " x " * self.chance.randrange(4)} for _ in range(count)]
        return list(self.chance.randbytes(count))

    @staticmethod
    def body(json_mode: bool, units: list[object]) -> bytes:
        return json.dumps(units).encode() if json_mode else bytes(units)  # type: ignore[arg-type]

    def pick(self) -> tuple[str, Model | None]:
        name = self.chance.choice(NAMES)
        return name, self.streams.get(name)

    def create(self) -> None:
        name, model = self.pick()
        json_mode = self.chance.random() < 0.5
        units = self.units(json_mode) if self.chance.random() < 0.5 else []
        headers = JSON if json_mode else OCTETS
        answer = self.client.put(self.server.stream(name), headers=headers, content=self.body(json_mode, units))
        if model is None:
            assert answer.status_code == 201
            made = self.streams[name] = Model(json_mode, tail=answer.headers["stream-next-offset"])
            if units:
                made.appends.append((self.start_of(made), units))
        elif model.gone or model.json != json_mode or model.closed or model.source is not None:
            assert answer.status_code == 409
        else:
            assert answer.status_code == 200
            assert answer.headers["stream-next-offset"] == model.tail

    @staticmethod
    def start_of(model: Model) -> str:
        return model.tail.split("_")[0] + "_" + "0" * 16

    def fork(self) -> None:
        name, model = self.pick()
        source_name, source = self.pick()
        headers = {"stream-forked-from": f"/v1/stream/{source_name}"}
        kept: list[tuple[str, list[object]]] = []
        bad = False
        if source is not None:
            index = self.chance.randrange(len(source.appends) + 1)
            offset = source.appends[index][0] if index < len(source.appends) else source.tail
            kept = source.appends[:index]
            headers["stream-fork-offset"] = offset
            if self.chance.random() < 0.5:
                here = source.appends[index][1] if index < len(source.appends) else []
                sub = self.chance.randrange(len(here) + 2)
                headers["stream-fork-sub-offset"] = str(sub)
                bad = sub > len(here)
                if sub:
                    kept = [*kept, (offset, here[:sub])]
        if model is not None:
            return  # the conformance suite compares repeated creations
        answer = self.client.put(self.server.stream(name), headers=headers)
        if source is None:
            assert answer.status_code == 404
        elif source.gone:
            assert answer.status_code == 409
        elif bad:
            assert answer.status_code == 400
        else:
            assert answer.status_code == 201, answer.text
            tail = answer.headers["stream-next-offset"]
            self.streams[name] = Model(source.json, list(kept), tail, source=source_name)
            source.forks += 1

    def append(self) -> None:
        name, model = self.pick()
        json_mode = model.json if model is not None else True
        if self.chance.random() < 0.05:
            json_mode = not json_mode
        units = self.units(json_mode)
        headers = dict(JSON if json_mode else OCTETS)
        seq = None
        if self.chance.random() < 0.2:
            seq = headers["stream-seq"] = f"{self.chance.randrange(1000):03d}"
        answer = self.client.post(self.server.stream(name), headers=headers, content=self.body(json_mode, units))
        if model is None:
            assert answer.status_code == 404
        elif model.gone:
            assert answer.status_code == 410
        elif model.closed or model.json != json_mode or (seq and model.seq and seq <= model.seq):
            assert answer.status_code == 409
        else:
            assert answer.status_code == 204, answer.text
            self.appended(model, units, answer)
            model.seq = seq or model.seq

    @staticmethod
    def appended(model: Model, units: list[object], answer: httpx.Response) -> None:
        model.appends.append((model.tail, units))
        assert answer.headers["stream-next-offset"] > model.tail
        model.tail = answer.headers["stream-next-offset"]

    def produce(self) -> None:
        name, model = self.pick()
        if model is None or model.gone or model.closed:
            return
        producer = self.chance.choice("pq")
        state = model.producers.get(producer)
        epoch = 0 if state is None else state[0] + self.chance.choice((0, 0, 0, 0, 1, -1))
        seq = 0 if state is None or epoch > state[0] else state[1] + self.chance.choice((1, 1, 1, 0, 2))
        if epoch < 0:
            return
        headers = {"producer-id": producer, "producer-epoch": str(epoch), "producer-seq": str(seq)}
        headers |= JSON if model.json else OCTETS
        units = self.units(model.json)
        answer = self.client.post(self.server.stream(name), headers=headers, content=self.body(model.json, units))
        if state is not None and epoch < state[0]:
            assert (answer.status_code, answer.headers["producer-epoch"]) == (403, str(state[0]))
        elif state is not None and epoch == state[0] and seq <= state[1]:
            assert (answer.status_code, answer.headers["producer-seq"]) == (204, str(state[1]))
        elif state is not None and epoch == state[0] and seq > state[1] + 1:
            assert (answer.status_code, answer.headers["producer-expected-seq"]) == (409, str(state[1] + 1))
        else:
            assert answer.status_code == 200, answer.text
            self.appended(model, units, answer)
            model.producers[producer] = (epoch, seq)

    def close(self) -> None:
        name, model = self.pick()
        answer = self.client.post(self.server.stream(name), headers={"stream-closed": "true"})
        if model is None or model.gone:
            assert answer.status_code == (404 if model is None else 410)
        else:
            assert answer.status_code == 204
            model.closed = True

    def delete(self) -> None:
        name, model = self.pick()
        answer = self.client.delete(self.server.stream(name))
        if model is None or model.gone:
            assert answer.status_code == (404 if model is None else 410)
            return
        assert answer.status_code == 204
        if model.forks:
            model.gone = True
            return
        while model is not None:
            del self.streams[name]
            if model.source is None:
                return
            name = model.source
            model = self.streams[name]
            model.forks -= 1
            if not model.gone or model.forks:
                return

    def restart(self) -> None:
        if self.chance.random() < 0.5:
            self.server.kill(self.chance)
        else:
            assert self.server.stop() == 0
        assert "Traceback" not in self.server.log
        self.server.start()
        assert "damaged" not in self.server.log
        self.check()

    def check(self) -> None:
        for name in NAMES:
            url, model = self.server.stream(name), self.streams.get(name)
            head = self.client.head(url)
            if model is None or model.gone:
                assert head.status_code == (404 if model is None else 410), name
                continue
            assert head.headers["stream-next-offset"] == model.tail
            assert ("stream-closed" in head.headers) == model.closed
            if model.json:
                assert read_messages(self.client, url) == model.content
            else:
                assert read_all(self.client, url)[0] == bytes(model.content)  # type: ignore[arg-type]
            if model.appends:
                index = self.chance.randrange(len(model.appends))
                rest = [unit for _, units in model.appends[index:] for unit in units]
                got = self.client.get(url, params={"offset": model.appends[index][0]})
                assert (got.json() if model.json else list(got.content)) == rest


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(6))
def test_histories(tmp_path: Path, client: httpx.Client, seed: int) -> None:
    flags = ("--checkpoint-bytes", "3000") if seed % 2 else ()
    module = "tests.streams.small_catalog" if seed % 3 else "switchgear_streams"
    server = StreamsServer(tmp_path, *flags, module=module)
    try:
        server.start()
        world = World(server, client, seed)
        for _ in range(STEPS):
            world.step()
        world.check()
        world.restart()
        print(f"seed {seed}: {world.done}")
        assert server.stop() == 0
    finally:
        server.end()


@pytest.mark.crash
@pytest.mark.parametrize("seed", [100, 101])
def test_histories_of_several_workers(tmp_path: Path, client: httpx.Client, seed: int) -> None:
    """Forks lie with their sources, names with their hash; any process may be the one that is killed."""
    server = StreamsServer(tmp_path, "--checkpoint-bytes", "3000", "--workers", str(seed - 98))
    try:
        server.start()
        world = World(server, client, seed)
        for _ in range(STEPS):
            world.step()
        world.check()
        world.restart()
        assert server.stop() == 0
    finally:
        server.end()
