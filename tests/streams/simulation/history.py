"""What clients were told, and whether all of it can be true: the check is linear, for answers say positions.

Invariants that are checked of every stream, over all deaths of the server:
every acknowledged append is there once, at the place that was said; nothing is there that nobody sent; no reader saw
anything that is not there later; appends, reads, tails and closes are linearizable (each takes effect at one moment
between question and answer).
"""

from __future__ import annotations

from dataclasses import dataclass, field

NEVER = 1 << 60


@dataclass
class Sent:
    """An append. `end` None: no answer yet, or never."""

    data: bytes
    asked: int
    answered: int = NEVER
    end: int | None = None


@dataclass
class Seen:
    """A read or HEAD that was told the tail (`up_to_date`), or a position that the tail had reached."""

    asked: int
    answered: int
    tail: int
    up_to_date: bool
    closed: bool


@dataclass
class Stream:
    """All that is known of one stream."""

    name: str
    sent: list[Sent] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    """What readers saw, from the start."""
    close_asked: int = NEVER
    close_answered: int = NEVER

    def observe(self, start: int, data: bytes) -> None:
        """A reader got `data` from `start`; readers only go on from where one was before."""
        assert start <= len(self.content), f"{self.name}: a reader began beyond what anybody saw"
        known = bytes(self.content[start : start + len(data)])
        assert data.startswith(known), f"{self.name}: two readers saw different bytes at {start}"
        self.content += data[len(known) :]

    def check_content(self, now: bytes) -> None:
        """`now`: the whole stream, after a start of the server."""
        assert now.startswith(self.content), f"{self.name}: a reader saw what is lost"
        left = {sent.data for sent in self.sent}
        assert len(left) == len(self.sent)
        at = 0
        while at < len(now):
            stop = now.index(b";", at) + 1
            data = now[at:stop]
            assert data in left, f"{self.name}: {data!r} at {at} is there twice, or was never sent"
            left.discard(data)
            at = stop
        for sent in self.sent:
            if sent.end is not None:
                there = now[sent.end - len(sent.data) : sent.end]
                assert there == sent.data, f"{self.name}: acknowledged {sent.data!r} is not where it was said to be"
            if sent.data not in left and sent.end is None:  # it took effect: now it is known where
                sent.end = now.index(sent.data) + len(sent.data)
        self.content = bytearray(now)

    def check_order(self) -> None:
        """Linearizability. Appends with a place, in the order of their places."""
        placed = sorted((sent for sent in self.sent if sent.end is not None), key=lambda sent: sent.end or 0)
        latest = -1
        for sent in placed:
            assert sent.answered > latest, f"{self.name}: {sent.data!r} was answered before an earlier one was asked"
            latest = max(latest, sent.asked)
            assert sent.asked < self.close_answered, f"{self.name}: appended after it was closed"
        latest_tail = -1
        for seen in sorted(self.seen, key=lambda seen: seen.answered):
            for sent in placed:
                assert sent.end is not None
                if sent.end <= seen.tail:
                    assert sent.asked < seen.answered, f"{self.name}: seen before it was sent"
                elif seen.up_to_date:
                    assert sent.answered > seen.asked, f"{self.name}: a tail without what was acknowledged before"
            if seen.closed:
                assert self.close_asked < seen.answered, f"{self.name}: closed before anybody asked for it"
            elif seen.up_to_date:
                assert self.close_answered > seen.asked, f"{self.name}: open after its close was acknowledged"
        ordered = sorted(self.seen, key=lambda seen: seen.asked)
        ended = sorted(self.seen, key=lambda seen: seen.answered)
        index = 0
        for seen in ordered:  # a tail never goes back in time
            while index < len(ended) and ended[index].answered < seen.asked:
                latest_tail = max(latest_tail, ended[index].tail)
                index += 1
            if seen.up_to_date:
                assert seen.tail >= latest_tail, f"{self.name}: the tail went back"
