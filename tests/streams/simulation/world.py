"""One seed's course: clients at work, deaths of the server at any operation of the disk, and the checks after each."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from unittest import mock

from switchgear_streams import adoption
from switchgear_streams import stream as streams
from switchgear_streams.rules import state
from tests.streams.simulation.disk import PowerLoss, SimulatedDisk
from tests.streams.simulation.history import Seen, Sent, Stream
from tests.streams.simulation.keyed import Clients
from tests.streams.simulation.loop import SimulatedLoop
from tests.streams.simulation.server import Answer, Server

EPOCH = 1_800_000_000.0
# A life lasts so long (virtual time), if it is not ended before.
LIFE = 1.5
# After the last death everything must have gone on within this time.
LIVELY = 30.0


def position(answer: Answer) -> int:
    return int(answer.headers["stream-next-offset"].split("_")[1])


class World:
    """`run` returns the trace's digest; the same seed, the same digest."""

    def __init__(self, seed: int, lives: int) -> None:
        self.seed = seed
        self.lives = lives
        self.chance = random.Random(seed)
        self.disk = SimulatedDisk(random.Random(seed + 1))
        self.streams: dict[str, Stream] = {}
        self.open: list[str] = []
        self.gone: set[str] = set()
        self.producers: dict[str, tuple[int, Sent | None, str]] = {}
        self.counts: Counter[str] = Counter()
        self._moment = 0
        self._made = 0
        self._number = 0
        self.keyed = Clients(self)
        self.busy: set[str] = set()
        """State streams whose writer waits for its answer."""
        self._trace: list[str] = []
        self.server: Server

    def moment(self) -> int:
        """A new point in the order of all questions and answers."""
        self._moment += 1
        return self._moment

    # -- lives --

    def run(self) -> str:
        random.seed(self.seed)
        started = 0.0
        for life in range(self.lives + 1):
            last = life == self.lives
            loop = SimulatedLoop(random.Random(self.chance.random()))
            loop.set_exception_handler(lambda _, context: None)
            asyncio.set_event_loop(loop)
            if not last:
                self.disk.ends_after = self.disk.operations + self.chance.randrange(5, 220)
                if self.chance.random() < 0.1:
                    self.disk.breaks_at = self.disk.syncs + self.chance.randrange(2, 40)
            try:
                self._note("start", life)
                self._live(loop, EPOCH + started, last)
            except PowerLoss:
                pass
            started += loop.time() + 1
            self._bury(loop)
            if not last:
                how = self.disk.restart(power=self.chance.random() < 0.7)
                self.counts[how.partition(":")[0]] += 1
                self._note("death", how)
        for stream in self.streams.values():
            stream.check_order()
        everything = "\n".join([*self._trace, *self.disk.trace])
        return hashlib.sha256(everything.encode()).hexdigest()

    def _live(self, loop: SimulatedLoop, epoch: float, last: bool) -> None:
        async def life() -> None:
            try:
                self.server = Server(self.disk, loop, self.chance, epoch)
            except OSError:  # a disk that breaks while it starts: it says so and ends
                assert self.disk.breaks_at is not None
                self.disk.die()
            self.busy.clear()
            await self._check()
            await self.keyed.check()
            self.server.check_books()
            clients = [self._appender(), self._appender(), self._producer("p"), self._producer("q")]
            clients += [self._reader(), self._follower(), self._changer(), *self.keyed.tasks()]
            tasks = [asyncio.ensure_future(client) for client in clients]
            try:
                done, waiting = await asyncio.wait(tasks, timeout=LIFE, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                self.counts["squeezes"] += self.server.service.checkpointer.squeezes
                self.counts["adoptions"] += self.server.service.checkpointer.adoptions
            for task in done:
                task.result()
            if last:  # nothing goes wrong any more: all of it must still work
                for task in waiting:
                    task.cancel()
                await asyncio.wait_for(self._liveliness(), LIVELY)
            elif not self.disk.dead:
                self.disk.die()

        loop.run_until_complete(life())

    def _bury(self, loop: SimulatedLoop) -> None:
        self.disk.dead = True
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for _ in range(3):
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except PowerLoss:
                continue
        for stream in self.streams.values():
            for seen in stream.seen:
                assert seen.answered
        loop.close()
        asyncio.set_event_loop(None)

    def _note(self, *what: object) -> None:
        self._trace.append(" ".join(map(str, what)))

    # -- after a start --

    async def _check(self) -> None:
        assert self.server.service.store.damaged == 0, "undamaged data was called damaged"
        for name, stream in self.streams.items():
            if name in self.gone:
                continue
            content, at = b"", 0
            while True:
                answer = await self.server.ask("GET", name, query=f"offset={self._token(name, at)}")
                if answer.status == 404 and name not in self.open:
                    break  # its creation or deletion was not answered
                assert answer.status == 200, (name, answer)
                content += answer.body
                at = position(answer)
                if "stream-up-to-date" in answer.headers:
                    break
            if answer.status == 404:
                self.gone.add(name)
                assert not any(sent.end is not None for sent in stream.sent) or name in self._deleting
                continue
            stream.check_content(content)
            closed = "stream-closed" in answer.headers
            assert not closed or stream.close_asked < self._moment + 1
            assert closed or stream.close_answered > self._moment, f"{name}: an acknowledged close is lost"
        for name in self.gone:
            assert (await self.server.ask("HEAD", name)).status == 404, f"{name} is there again"
        self.counts["checks"] += 1

    def _token(self, name: str, at: int) -> str:
        return "-1" if at == 0 else f"{self._spaces[name]}_{at:016d}"

    async def _liveliness(self) -> None:
        name = await self._create()
        assert (await self._append(name)) is not None
        answer = await self.server.ask("GET", name, query="offset=-1")
        assert answer.body.count(b";") == 1

    # -- clients --

    _spaces: dict[str, str]
    _deleting: set[str]

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.02))

    def _pick(self) -> str | None:
        return self.chance.choice(self.open) if self.open else None

    def _payload(self) -> bytes:
        self._number += 1
        return b"%d:%b;" % (self._number, b"x" * self.chance.choice((0, 3, 90, 700, 3000)))

    async def _create(self) -> str:
        self._made += 1
        name = f"s{self._made}"
        self.streams[name] = Stream(name)
        answer = await self.server.ask("PUT", name, content_type="application/octet-stream")
        assert answer.status == 201, answer
        self._spaces[name] = answer.headers["stream-next-offset"].split("_")[0]
        self.open.append(name)
        self.counts["creations"] += 1
        return name

    async def _append(self, name: str, sent: Sent | None = None, **headers: str) -> Answer | None:
        """None: the stream is closed or deleted meanwhile."""
        stream = self.streams[name]
        if sent is None:
            sent = Sent(self._payload(), self.moment())
            stream.sent.append(sent)
        answer = await self.server.ask("POST", name, body=sent.data, content_type="application/octet-stream", **headers)
        self._note("append", name, answer.status)
        if answer.status in (404, 409) and "producer-expected-seq" not in answer.headers:
            return None
        assert answer.status in (200, 204), answer
        if answer.status == 200 or not headers:
            sent.end, sent.answered = position(answer), self.moment()
            self.counts["appends"] += 1
        return answer

    async def _appender(self) -> None:
        while True:
            await self._pause()
            name = self._pick()
            if name is not None:
                await self._append(name)

    async def _producer(self, who: str) -> None:
        """After a death it repeats what was not answered, and is never told of a gap."""
        while True:
            await self._pause()
            seq, sent, name = self.producers.get(who, (0, None, ""))
            if sent is None or name not in self.open:
                picked = self._pick()
                if picked is None:
                    continue
                if picked != name:
                    seq = 0
                    if any(key[1] == picked for key in self._epochs if key[0] == who):
                        self._epochs[who, picked] += 1
                    else:
                        self._epochs[who, picked] = 0
                name, sent = picked, Sent(self._payload(), self.moment())
                self.streams[name].sent.append(sent)
                self.producers[who] = (seq, sent, name)
            else:
                self.counts["repeated batches"] += 1
            epoch = self._epochs[who, name]
            answer = await self._append(name, sent, producer_id=who, producer_epoch=str(epoch), producer_seq=str(seq))
            if answer is not None:
                assert answer.headers["producer-seq"] == str(seq), "a producer was told of another sequence"
                if answer.status == 204:  # it was there already
                    self.counts["duplicates"] += 1
                self.producers[who] = (seq + 1, None, name)
            else:
                self.producers[who] = (0, None, "")

    _epochs: dict[tuple[str, str], int]

    async def _reader(self) -> None:
        """Catch-up reads from anywhere that was seen, and HEAD."""
        while True:
            await self._pause()
            name = self._pick()
            if name is None:
                continue
            at = self.chance.choice((0, len(self.streams[name].content)))
            await self._read(name, at, f"offset={self._token(name, at)}")
            asked = self.moment()
            answer = await self.server.ask("HEAD", name)
            if answer.status == 200:
                self._saw(name, asked, answer, up_to_date=True)

    async def _follower(self) -> None:
        """Long-polls."""
        while True:
            await self._pause()
            name = self._pick()
            if name is not None:
                at = len(self.streams[name].content)
                await self._read(name, at, f"offset={self._token(name, at)}&live=long-poll")

    async def _read(self, name: str, at: int, query: str) -> None:
        asked = self.moment()
        answer = await self.server.ask("GET", name, query=query)
        self._note("read", name, at, answer.status, len(answer.body))
        if answer.status == 404:
            assert name in self._deleting, answer
            return
        assert answer.status in (200, 204), answer
        self.streams[name].observe(at, answer.body)
        if "live" not in query:  # a long-poll is answered at a moment before now, when something happened
            self._saw(name, asked, answer, up_to_date="stream-up-to-date" in answer.headers)
        self.counts["reads"] += 1

    def _saw(self, name: str, asked: int, answer: Answer, *, up_to_date: bool) -> None:
        closed = "stream-closed" in answer.headers
        self.streams[name].seen.append(Seen(asked, self.moment(), position(answer), up_to_date, closed))

    async def _changer(self) -> None:
        """Creates, closes and deletes."""
        while True:
            await self._pause()
            chance = self.chance.random()
            if len(self.open) < 3 or chance < 0.2:
                await self._create()
            elif chance < 0.35:
                name = self.chance.choice(self.open)
                stream = self.streams[name]
                if stream.close_asked > self._moment:
                    stream.close_asked = self.moment()
                answer = await self.server.ask("POST", name, stream_closed="true")
                if answer.status == 204:
                    stream.close_answered = min(stream.close_answered, self.moment())
                    self.counts["closes"] += 1
            elif chance < 0.5 and len(self.open) > 5:
                name = self.chance.choice(self.open)
                self._deleting.add(name)
                self.open.remove(name)
                answer = await self.server.ask("DELETE", name)
                assert answer.status == 204, answer
                self.gone.add(name)
                self.counts["deletions"] += 1


def simulate(seed: int, lives: int) -> tuple[str, Counter[str]]:
    """One seed. Raises AssertionError with the seed for whatever cannot be."""
    world = World(seed, lives)
    world._spaces, world._deleting, world._epochs = {}, set(), {}
    try:
        small = mock.patch.object(streams, "LARGE", 600), mock.patch.object(adoption, "MIN_LARGE", 1500)
        with mock.patch.object(state, "MIN_NEW", 600), small[0], small[1], mock.patch.object(adoption, "MAX_RUNS", 9):
            return world.run(), world.counts
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
