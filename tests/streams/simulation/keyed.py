"""Clients of state streams that are kept by key, and what they check. A seed's course is in `world`.

Each stream has one writer, who sends batch after batch; the last message of a batch is its number, under a key of its
own. So whoever has read to the end knows which batch was the last, and must have the rows that the model has after it:
no newest change is lost, none comes back, and no reader is given what a death takes away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.streams.states import RESET, Rows, applied, change

if TYPE_CHECKING:
    from tests.streams.simulation.world import World

KEYS = 8
PLACES = 20
MARK = "batch/number"


@dataclass
class Batch:
    messages: list[Any]
    rows: Rows
    """What there is after it."""
    notes: list[str]
    """All messages without a key up to here."""


@dataclass
class Keyed:
    """`batches`: those that took effect, by number, and perhaps one of which nobody knows."""

    name: str
    batches: dict[int, Batch] = field(default_factory=lambda: {0: Batch([], {}, [])})
    number: int = 0
    """Of the last batch that was sent."""
    sure: int = 0
    """A batch that was acknowledged, or seen: it is never lost."""
    places: list[tuple[str, Rows]] = field(default_factory=list)
    """(offset, rows of a client that is there)."""
    forks: dict[str, list[Any] | None] = field(default_factory=dict)
    """Name, what is in it. None: perhaps it was never made."""

    def last(self, rows: Rows, least: int) -> int:
        """Which batch is the last one for a reader with these rows. `least`: what was sure when it asked."""
        number = rows.get(MARK, 0)
        assert isinstance(number, int)
        assert number in self.batches, f"{self.name}: batch {number} is there, which never took effect"
        assert number >= least, f"{self.name}: batch {number} was read after {least} was sure"
        expected = self.batches[number].rows
        assert rows == expected, f"{self.name}: after batch {number} there is {rows} instead of {expected}"
        self.sure = max(self.sure, number)
        return number

    def settle(self, rows: Rows) -> None:
        """After a start of the server: what was not acknowledged is there for good, or never was."""
        last = self.last(rows, self.sure)
        for lost in [number for number in self.batches if number > last]:
            del self.batches[lost]


class Clients:
    """They live in a world, and are there again after each death of the server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance
        self.streams: dict[str, Keyed] = {}
        self.made = 0
        self.deleting: set[str] = set()

    def tasks(self) -> list[Any]:
        return [self._writer(), self._writer(), self._reader(), self._follower(), self._changer()]

    # -- reading --

    async def _read(self, name: str, offset: str, live: str = "") -> tuple[list[Any], str] | None:
        """(all messages to the end, the end's offset). None: the offset, or the stream, is gone."""
        found: list[Any] = []
        while True:
            answer = await self.world.server.ask("GET", name, query=f"offset={offset}{live}")
            if answer.status in (404, 410):
                return None
            assert answer.status in (200, 204), (name, offset, answer)
            if answer.status == 200:
                found += json.loads(answer.body)
            new = answer.headers["stream-next-offset"]
            assert offset == "-1" or new >= offset, f"{name}: a reader at {offset} was sent back to {new}"
            offset = new
            if "stream-up-to-date" in answer.headers:
                return found, offset

    async def _retained(self, name: str) -> str:
        answer = await self.world.server.ask("HEAD", name)
        return answer.headers.get("stream-retained-offset", "")

    async def check(self) -> None:
        """After a start: everything that was sure is there, also for those who go on from where they were."""
        for keyed in list(self.streams.values()):
            read = await self._read(keyed.name, "-1")
            if read is None:
                assert keyed.name in self.deleting or not keyed.sure, f"{keyed.name} is lost"
                del self.streams[keyed.name]
                continue
            messages, _ = read
            keyed.settle(applied({}, messages))
            notes = [message for message in messages if isinstance(message, str)]
            assert notes == keyed.batches[max(keyed.batches)].notes, f"{keyed.name}: messages without a key"
            keys = [(m["type"], m["key"]) for m in messages if isinstance(m, dict) and "key" in m]
            bound = 2 * KEYS + 1 + sum(len(b.messages) for b in self._since(keyed))
            assert len(keys) <= bound or keyed.forks, f"{keyed.name}: {len(keys)} changes, though it was squeezed"
            self.deleting.discard(keyed.name)
            for offset, rows in keyed.places:
                rest = await self._read(keyed.name, offset)
                if rest is None:
                    assert offset < await self._retained(keyed.name), f"{keyed.name}: {offset} is gone"
                else:
                    keyed.last(applied(rows, rest[0]), keyed.sure)
            await self._check_forks(keyed)

    def _since(self, keyed: Keyed) -> list[Batch]:
        """Batches that may not be squeezed yet."""
        stream = self.world.server.service.store.get(keyed.name.encode())
        assert stream is not None
        if not stream.compacted:
            return list(keyed.batches.values())
        own = self.world.server.service.store.packs.read(stream, stream.compacted, stream.end)
        new = own.count(b'"type":"batch"')
        return list(keyed.batches.values())[len(keyed.batches) - new - 1 :]

    async def _check_forks(self, keyed: Keyed) -> None:
        for name, content in list(keyed.forks.items()):
            read = await self._read(name, "-1")
            if read is None:
                assert content is None or name in self.deleting, f"the fork {name} is lost"
                del keyed.forks[name]
                continue
            self.deleting.discard(name)
            assert content is None or content == read[0], f"{name} is not what it was when it branched off"
            keyed.forks[name] = read[0]

    # -- at work --

    def _pick(self) -> Keyed | None:
        names = [name for name in self.streams if name not in self.deleting]
        return self.streams[self.chance.choice(names)] if names else None

    def _changes(self, keyed: Keyed, number: int) -> Batch:
        before = keyed.batches[max(keyed.batches)]
        messages: list[Any] = [RESET] if self.chance.random() < 0.02 else []
        notes = list(before.notes)
        for at in range(self.chance.choice((0, 1, 4))):
            key = f"k{self.chance.randrange(KEYS)}"
            value = [number, at, "x" * self.chance.choice((0, 5, 400))]
            deletes = self.chance.random() < 0.25
            messages.append(change(self.chance.choice("tu"), key, "delete" if deletes else "upsert", value))
        if self.chance.random() < 0.03:
            notes.append(f"{keyed.name} {number}")
            messages.append(notes[-1])
        messages.append(change("batch", "number", "upsert", number))
        return Batch(messages, applied(before.rows, messages), notes)

    async def _writer(self) -> None:
        """Nobody else may be waiting for an answer of the same stream: then it would not be known what is unknown."""
        while True:
            await self.world._pause()
            keyed = self._pick()
            if keyed is None or keyed.sure != max(keyed.batches) or keyed.name in self.world.busy:
                continue
            self.world.busy.add(keyed.name)
            keyed.number += 1
            number = keyed.number
            batch = keyed.batches[number] = self._changes(keyed, number)
            body = json.dumps(batch.messages).encode()
            answer = await self.world.server.ask("POST", keyed.name, body=body, content_type="application/json")
            self.world._note("state", keyed.name, number, answer.status)
            self.world.busy.discard(keyed.name)
            if answer.status == 404:
                continue
            assert answer.status == 204, answer
            keyed.sure = max(keyed.sure, number)
            keyed.places.append((answer.headers["stream-next-offset"], batch.rows))
            if len(keyed.places) > PLACES:
                del keyed.places[self.chance.randrange(PLACES)]
            self.world.counts["state batches"] += 1

    async def _reader(self) -> None:
        """From the start, and from anywhere that a client was."""
        while True:
            await self.world._pause()
            keyed = self._pick()
            if keyed is None:
                continue
            offset, rows = self.chance.choice([("-1", {}), *keyed.places])
            sure = keyed.sure
            read = await self._read(keyed.name, offset)
            if read is not None:
                keyed.last(applied(rows, read[0]), sure)
                self.world.counts["state reads"] += 1
            elif keyed.name not in self.deleting:
                assert offset < await self._retained(keyed.name), f"{keyed.name}: {offset} is gone"
                self.world.counts["states gone"] += 1

    async def _follower(self) -> None:
        """Long-polls of one stream, from its start on. At the end it gets every batch, whole and once."""
        while True:
            await self.world._pause()
            keyed = self._pick()
            if keyed is None:
                continue
            at, rows = "-1", Rows()
            for _ in range(self.chance.randrange(1, 30)):
                sure = keyed.sure
                read = await self._read(keyed.name, at, "" if at == "-1" else "&live=long-poll")
                if read is None:
                    break
                stream = self.world.server.service.store.get(keyed.name.encode())
                if at != "-1" and stream is not None and stream.compacted <= int(at.split("_")[1]):
                    last = rows.get(MARK, 0)
                    new = [b.messages for number, b in keyed.batches.items() if number > last]
                    told = [message for messages in new for message in messages][: len(read[0])]
                    assert read[0] == told, f"{keyed.name}: one at the end was told {read[0]} instead of {told}"
                    self.world.counts["states followed"] += 1
                at, rows = read[1], applied(rows, read[0])
                keyed.last(rows, sure)

    async def _changer(self) -> None:
        while True:
            await self.world._pause()
            chance = self.chance.random()
            if len(self.streams) < 2 or (chance < 0.02 and len(self.streams) < 4):
                await self._create()
            elif chance < 0.06:
                await self._fork()
            elif chance < 0.12:
                await self._delete()

    async def _create(self) -> None:
        self.made += 1
        keyed = Keyed(f"k{self.made}")
        answer = await self.world.server.ask(
            "PUT",
            keyed.name,
            content_type="application/json",
            stream_retention_keys="state",
            stream_retention_tombstone_seconds=str(self.chance.choice((0, 1, 3600))),
        )
        assert answer.status == 201, answer
        keyed.places.append((answer.headers["stream-next-offset"], {}))
        self.streams[keyed.name] = keyed

    async def _fork(self) -> None:
        """At the end, or where a client once was: where nothing has moved it has what that client had."""
        keyed = self._pick()
        if keyed is None or len(keyed.forks) > 1:
            return
        self.made += 1
        name, sure = f"k{self.made}", keyed.sure
        offset, rows = self.chance.choice(keyed.places)
        headers = {"stream_fork_offset": offset} if self.chance.random() < 0.5 else {}
        keyed.forks[name] = None
        answer = await self.world.server.ask("PUT", name, stream_forked_from=f"/v1/stream/{keyed.name}", **headers)
        if answer.status != 201:
            del keyed.forks[name]
            assert answer.status == 400, answer
            assert offset < await self._retained(keyed.name), f"{keyed.name}: no fork at {offset}"
            return
        read = await self._read(name, "-1")
        assert read is not None
        keyed.forks[name] = read[0]
        source = self.world.server.service.store.get(keyed.name.encode())
        assert source is not None
        if not headers:
            keyed.last(applied({}, read[0]), sure)
        elif source.compacted <= int(offset.split("_")[1]):
            assert applied({}, read[0]) == rows, f"{name} has not what its source had at {offset}"
        self.world.counts["state forks"] += 1

    async def _delete(self) -> None:
        """A fork, so that its source is squeezed again, or a stream without any."""
        forked = [keyed for keyed in self.streams.values() if keyed.forks]
        name = ""
        if forked:
            keyed = self.chance.choice(forked)
            made = [name for name, content in keyed.forks.items() if content is not None]
            name = self.chance.choice(made) if made else ""
        elif len(self.streams) > 2:
            name = self.chance.choice(list(self.streams))
        if not name or name in self.deleting:
            return
        self.deleting.add(name)
        answer = await self.world.server.ask("DELETE", name)
        assert answer.status == 204, answer
        self.streams.pop(name, None)
        for keyed in self.streams.values():
            keyed.forks.pop(name, None)
        self.world.counts["state deletions"] += 1
