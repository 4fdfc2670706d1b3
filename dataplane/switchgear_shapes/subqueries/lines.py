"""Row changes of a shape with subqueries → lines of its log, with tags and active conditions. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from switchgear_shapes.definition import Definition
from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.routing.encode import Encoder, repaired
from switchgear_shapes.subqueries.plan import Plan
from switchgear_shapes.subqueries.rows import PlanReader, Truth
from switchgear_shapes.subqueries.tags import PLAIN_SLOT, header_fields, replaceable, slot, tags


class _State:
    """A row under a view of the sources."""

    __slots__ = ("tags", "truths")

    def __init__(self, row_tags: list[str], truths: list[bool]) -> None:
        self.tags = row_tags
        self.truths = truths


class TaggedEncoder(Encoder):
    """Lines for one shape, for rows in the column order of one relation message."""

    __slots__ = ("_handle", "_plan", "_reader")

    def __init__(self, definition: Definition, stream_columns: Sequence[str], plan: Plan, handle: str) -> None:
        """Raises KeyError when a needed column is not in the stream."""
        super().__init__(definition, stream_columns)
        self._plan = plan
        self._handle = handle
        self._reader = PlanReader(plan, stream_columns)

    def lines(self, old: Values | None, new: Values | None, truth: Truth, tx: bytes, op: int) -> list[bytes]:
        """The lines of one change under the memberships that `truth` tells."""
        try:
            return self._lines(old, new, truth, tx, op)
        except UnicodeDecodeError:
            return self._lines(repaired(old), repaired(new), truth, tx, op)

    def _lines(self, old: Values | None, new: Values | None, truth: Truth, tx: bytes, op: int) -> list[bytes]:
        before = None if old is None else self._state(old, truth)
        after = None if new is None else self._state(new, truth)
        if after is None:
            if before is None:
                return []
            assert old is not None
            return [self._delete(old, tx, op)]
        assert new is not None
        fields = header_fields(after.tags, after.truths)
        if before is None:
            return [self._insert(new, tx, op, fields)]
        assert old is not None
        if any(old[index] != new[index] for index in self._identity):
            to = b'"key_change_to":' + orjson.dumps(self.key(new)) + b","
            origin = b'"key_change_from":' + orjson.dumps(self.key(old)) + b","
            return [self._delete(old, tx, op, to), self._insert(new, tx, op + 1, origin + fields)]
        removed = [tag for tag in before.tags if tag not in after.tags]
        if not replaceable(removed, after.tags):
            return [self._delete(old, tx, op), self._insert(new, tx, op + 1, fields)]
        moved = bool(removed) or before.truths != after.truths
        return self._changed(old, new, tx, op, header_fields(after.tags, after.truths, removed), always=moved)

    def _state(self, row: Values, truth: Truth) -> _State | None:
        """None for a row that is not in the shape."""
        reader = self._reader
        truths = reader.plain_truths(row)
        if not reader.possible(truths):
            return None
        slots = [PLAIN_SLOT] * reader.width
        keys = [(at, read(row)) for at, read in reader.keys]
        for at, key in keys:
            truths[at] = truth(at, key)
        if not self._plan.satisfied(truths):
            return None
        for at, key in keys:
            slots[at] = slot(self._handle, key)
        return _State(tags(self._plan, slots), truths)


def event_line(event: str, patterns: Sequence[tuple[int, str]], xids: Sequence[int], lsn: int, op: int) -> bytes:
    """A move event. `patterns` are (position, slot)."""
    body = ",".join(f'{{"pos":{at},"value":"{text}"}}' for at, text in patterns)
    ids = ",".join(map(str, xids))
    return b'{"headers":{"event":"%b","patterns":[%b],"txids":[%b],"lsn":"%d","op_position":%d}},\n' % (
        event.encode(),
        body.encode(),
        ids.encode(),
        lsn,
        op,
    )
