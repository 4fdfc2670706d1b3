"""Messages of Postgres' `pgoutput` plugin, protocol version 1: bytes → typed values. Pure.

`decode` understands every message. Row changes come by the hundred thousand, so that there are two more ways to read
them: `rows` without an object around the values, and `leading` for only the first columns.
Every length in a message is checked against the bytes that are there: a truncated or malformed frame raises
`MalformedMessage`, never another error, and never reads or allocates beyond the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error
from typing import Final, TypeVar


class MalformedMessage(ValueError):
    """The bytes are no pgoutput message of protocol version 1."""


class _Unchanged:
    """A large value that the update did not touch; its bytes are not in the stream."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = _Unchanged()
Value = bytes | None | _Unchanged
Values = list[Value]
"""A row in column order, each value as text in UTF-8, None for NULL."""


@dataclass(frozen=True, slots=True)
class Begin:
    final_lsn: int
    commit_time: int
    """Microseconds since 2000-01-01."""
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    lsn: int
    end_lsn: int


@dataclass(frozen=True, slots=True)
class RelationColumn:
    name: str
    type_oid: int
    type_modifier: int
    in_identity: bool


@dataclass(frozen=True, slots=True)
class RelationMessage:
    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    oid: int
    new: Values


@dataclass(frozen=True, slots=True)
class Update:
    """`old` is None when the stream has no old row; `old_is_key` when it has only key columns."""

    oid: int
    old: Values | None
    old_is_key: bool
    new: Values


@dataclass(frozen=True, slots=True)
class Delete:
    oid: int
    old: Values
    old_is_key: bool


@dataclass(frozen=True, slots=True)
class Truncate:
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Origin, type and logical-decoding messages."""

    kind: int


Message = Begin | Commit | RelationMessage | Insert | Update | Delete | Truncate | Ignored

_I16 = Struct("!H").unpack_from
_I32 = Struct("!I").unpack_from
_VALUE = Struct("!BI").unpack_from
_TEXT, _NULL, _UNCHANGED = b"tnu"
_NEW, _OLD, _KEY = b"NOK"
_BEGIN = Struct("!QqI")
_COMMIT = Struct("!BQQq")
_COLUMN = Struct("!Ii")

BEGIN, COMMIT, RELATION, INSERT, UPDATE, DELETE, TRUNCATE = b"BCRIUDT"
_IGNORED = frozenset(b"OYM")
ROW_KINDS = frozenset((INSERT, UPDATE, DELETE))


def head(data: bytes, start: int = 0) -> tuple[int, int]:
    """(kind, relation) of a message, the latter only of an insert, update or delete. Raises MalformedMessage."""
    try:
        kind, oid = _VALUE(data, start)
    except error:
        raise MalformedMessage("message is too short") from None
    return kind, oid


def rows(data: bytes, start: int = 0) -> tuple[Values | None, Values | None, bool, bool]:
    """(old row, new row, whether the old one has only key columns, whether the new one lacks values).

    Raises MalformedMessage.
    """
    try:
        size = len(data)
        if data[start] == UPDATE and data[start + 5] == _OLD:  # by far the most, and they have two rows
            try:
                old, at, _ = _quick_row(data, start + 6)
                new, end, lacking = _quick_row(data, at + 1)
                if end == size and data[at] == _NEW:
                    return old, new, False, lacking
            except error:
                pass  # the last value is NULL; or something is wrong, and the careful way says what
        old_row, new_row, old_is_key = _rows(data, start, size)
    except IndexError as short:
        raise MalformedMessage(f"malformed message: {short}") from None
    return old_row, new_row, old_is_key, new_row is not None and UNCHANGED in new_row


def _quick_row(data: bytes, at: int) -> tuple[Values, int, bool]:
    """The row at `at`, where it ends, and whether it lacks values. The caller compares the end with what is there.

    Raises struct.error where less than a length follows, which the end of a sound message may do.
    """
    count: int = _I16(data, at)[0]
    at += 2
    values: Values = []
    append = values.append
    value_at = _VALUE
    lacking = False
    for _ in range(count):
        tag, length = value_at(data, at)
        if tag == _TEXT:
            at += 5
            end = at + length
            append(data[at:end])
            at = end
            continue
        at += 1
        if tag == _NULL:
            append(None)
        elif tag == _UNCHANGED:
            append(UNCHANGED)
            lacking = True
        else:
            raise IndexError(f"unknown value tag {tag:#04x}")
    return values, at, lacking


def leading(data: bytes, start: int, depth: int, width: int) -> tuple[Values | None, Values | None] | None:
    """The first `depth` values of the old and the new row, which must be `width` columns wide.

    None when they cannot be told without reading more closely: `rows` says what is wrong, if anything is. What lies
    behind those values is not checked. Values that an update left out are those of the old row.
    """
    try:
        kind = data[start]
        tag = data[start + 5]
        at = start + 6
        old: Values | None = None
        if kind != INSERT:
            if tag != _OLD or _I16(data, at)[0] != width:
                return None
            at += 2
            old, at = _leading(data, at, depth, width if kind == UPDATE else depth)
            if kind == DELETE:
                return (old, None) if at <= len(data) else None
            tag = data[at]
            at += 1
        if tag != _NEW or _I16(data, at)[0] != width:
            return None
        new, at = _leading(data, at + 2, depth, depth)
    except (IndexError, error):
        return None
    if at > len(data):
        return None
    if old is not None and UNCHANGED in new:
        new = [old[index] if value is UNCHANGED else value for index, value in enumerate(new)]
    return old, new


def _leading(data: bytes, at: int, depth: int, width: int) -> tuple[Values, int]:
    """`depth` values, and the position behind `width`. Positions may lie behind the end: the caller checks the last."""
    values: Values = []
    value_at = _VALUE
    for _ in range(depth):
        tag, length = value_at(data, at)
        if tag == _TEXT:
            end = at + 5 + length
            values.append(data[at + 5 : end])
            at = end
            continue
        at += 1
        if tag == _NULL:
            values.append(None)
        elif tag == _UNCHANGED:
            values.append(UNCHANGED)
        else:
            raise IndexError
    for _ in range(width - depth):
        tag, length = value_at(data, at)
        at += 5 + length if tag == _TEXT else 1
    return values, at


def decode(data: bytes, start: int = 0) -> Message:
    """One message, from `start` to the end of `data`. Raises MalformedMessage."""
    try:
        return _decode(data, start)
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, MalformedMessage):
            raise
        raise MalformedMessage(f"malformed message: {error}") from None


def _decode(data: bytes, start: int) -> Message:
    size = len(data)
    kind = data[start]
    at = start + 1
    if kind in ROW_KINDS:
        old, new, old_is_key = _rows(data, start, size)
        oid: int = _I32(data, at)[0]
        if new is None:
            assert old is not None
            return Delete(oid, old, old_is_key)
        return Insert(oid, new) if kind == INSERT else Update(oid, old, old_is_key, new)
    if kind == BEGIN:
        _need(size, at + _BEGIN.size)
        return _whole(Begin(*_BEGIN.unpack_from(data, at)), at + _BEGIN.size, size)
    if kind == COMMIT:
        _need(size, at + _COMMIT.size)
        _, lsn, end_lsn, _ = _COMMIT.unpack_from(data, at)
        return _whole(Commit(lsn, end_lsn), at + _COMMIT.size, size)
    if kind == RELATION:
        return _relation(data, at, size)
    if kind == TRUNCATE:
        return _truncate(data, at, size)
    if kind in _IGNORED:
        return Ignored(kind)
    raise MalformedMessage(f"unknown message kind {kind:#04x}")


def _rows(data: bytes, start: int, size: int) -> tuple[Values | None, Values | None, bool]:
    at = start + 6
    _need(size, at)
    kind = data[start]
    tag = data[start + 5]
    old: Values | None = None
    if kind == DELETE or (kind == UPDATE and tag != _NEW):
        if tag not in (_OLD, _KEY):
            raise MalformedMessage(f"expected an old row, found {tag:#04x}")
        old, at = _row(data, at, size)
        if kind == DELETE:
            _end(at, size)
            return old, None, tag == _KEY
        _need(size, at + 1)
        at += 1
    elif kind not in ROW_KINDS:
        raise MalformedMessage(f"expected a row, found message kind {kind:#04x}")
    if data[at - 1] != _NEW:
        raise MalformedMessage(f"expected a new row, found {data[at - 1]:#04x}")
    new, at = _row(data, at, size)
    _end(at, size)
    return old, new, tag == _KEY


def _relation(data: bytes, at: int, size: int) -> RelationMessage:
    _need(size, at + 4)
    oid: int = _I32(data, at)[0]
    schema, at = _string(data, at + 4)
    name, at = _string(data, at)
    _need(size, at + 3)
    identity = chr(data[at])
    count: int = _I16(data, at + 1)[0]
    at += 3
    columns = []
    for _ in range(count):
        _need(size, at + 1)
        in_identity = bool(data[at] & 1)
        column, at = _string(data, at + 1)
        _need(size, at + _COLUMN.size)
        type_oid, modifier = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(RelationColumn(column, type_oid, modifier, in_identity))
    # An empty schema stands for pg_catalog.
    return _whole(RelationMessage(oid, schema or "pg_catalog", name, identity, tuple(columns)), at, size)


def _truncate(data: bytes, at: int, size: int) -> Truncate:
    _need(size, at + 5)
    count: int = _I32(data, at)[0]
    at += 5
    _need(size, at + 4 * count)
    oids = tuple(_I32(data, at + 4 * index)[0] for index in range(count))
    return _whole(Truncate(oids), at + 4 * count, size)


def _row(data: bytes, at: int, size: int) -> tuple[Values, int]:
    """The values of a row whose column count is at `at`; and where the row ends."""
    _need(size, at + 2)
    count: int = _I16(data, at)[0]
    at += 2
    values: Values = []
    append = values.append
    length_at = _I32
    for _ in range(count):
        tag = data[at]
        if tag == _TEXT:
            start = at + 5
            if start > size:
                raise MalformedMessage("value length is cut off")
            at = start + length_at(data, at + 1)[0]
            if at > size:
                raise MalformedMessage("value is longer than its message")
            append(data[start:at])
        elif tag == _NULL:
            append(None)
            at += 1
        elif tag == _UNCHANGED:
            append(UNCHANGED)
            at += 1
        else:
            raise MalformedMessage(f"unknown value tag {tag:#04x}")
    return values, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode("utf-8"), end + 1


def _need(size: int, end: int) -> None:
    if end > size:
        raise MalformedMessage("message is cut off")


_M = TypeVar("_M", bound=Message)


def _whole(message: _M, end: int, size: int) -> _M:
    _end(end, size)
    return message


def _end(end: int, size: int) -> None:
    if end != size:
        raise MalformedMessage(f"message has {size - end} bytes too many")
