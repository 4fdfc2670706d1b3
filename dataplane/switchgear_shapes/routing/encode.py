"""Row changes → lines of a shape log, without their ends. Pure.

A line's body is everything up to and including `"op_position":N`; what follows (`}}` or `,"last":true}}`) depends on
whether it is the shape's last line of the transaction, which is known only at the commit.
Every line carries `"lsn":"…","op_position":…` in exactly this form: the log finds positions by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from switchgear_shapes.definition import Definition
from switchgear_shapes.identifiers import key_prefix
from switchgear_shapes.replication.pgoutput import UNCHANGED, Value, Values

END = b"}},\n"
END_LAST = b',"last":true}},\n'
SEPARATOR_BYTES = 2
"""Lines end with a comma and a newline, so that a slice of the log is the inside of a JSON array."""


def text_of(value: Value) -> str | None:
    """A value as clients get it. Raises UnicodeDecodeError (see `repaired`)."""
    return value.decode() if type(value) is bytes else None


def repaired(row: Values | None) -> Values | None:
    """The row with bytes that are no UTF-8 (a SQL_ASCII database) as U+FFFD."""
    if row is None:
        return None
    return [v.decode("utf-8", "replace").encode() if isinstance(v, bytes) else v for v in row]


def key_part(text: str | None) -> str:
    """One value of a row's key."""
    return "/_" if text is None else '/"' + text.replace("/", "//") + '"'


class Encoder:
    """Lines for one projection of one table, for rows in the column order of one relation message.

    Raises KeyError when a needed column is not in the stream.
    """

    __slots__ = (
        "_full",
        "_hidden",
        "_identity",
        "_key",
        "_key_set",
        "_keyless",
        "_prefix",
        "_relation",
        "_salt",
        "_selected",
        "_tails",
        "_transaction",
    )

    def __init__(self, definition: Definition, stream_columns: Sequence[str]) -> None:
        at = {name: index for index, name in enumerate(stream_columns)}
        self._prefix = key_prefix(definition.schema, definition.table)
        self._key = [at[name] for name in definition.key_columns]
        self._key_set = frozenset(self._key)
        self._hidden = [at[name] for name in definition.hidden_columns]
        self._identity = (*self._key, *self._hidden)
        self._salt = definition.salt
        self._selected = [(name, at[name]) for name in definition.columns]
        self._full = definition.full_replica
        self._keyless = not definition.pk
        self._relation = orjson.dumps([definition.schema, definition.table])
        self._transaction = b""
        self._tails: dict[bytes, bytes] = {}
        """Operation → the headers of a line without fields of its own up to its op, for the transaction at hand."""

    def encode(self, old: Values | None, new: Values | None, tx: bytes, op: int) -> list[bytes]:
        """The lines of one change: an insert (no `old`), a delete (no `new`) or an update, which may need none or two.

        `tx` is what `transaction_headers` made. Neither row may have UNCHANGED values (see `fill_unchanged`).
        """
        try:
            return self._encode(old, new, tx, op)
        except UnicodeDecodeError:
            return self._encode(repaired(old), repaired(new), tx, op)

    def _encode(self, old: Values | None, new: Values | None, tx: bytes, op: int) -> list[bytes]:
        if old is None:
            assert new is not None
            return [self._insert(new, tx, op)]
        if new is None:
            return [self._delete(old, tx, op)]
        return self._update(old, new, tx, op)

    def key(self, row: Values) -> str:
        key = self._prefix
        for index in self._key:
            key += key_part(text_of(row[index]))
        return key + hidden_part(self._salt, [text_of(row[index]) for index in self._hidden]) if self._hidden else key

    def _insert(self, row: Values, tx: bytes, op: int, extra: bytes = b"") -> bytes:
        """`extra`: more header fields, each with its comma."""
        value = {name: text_of(row[index]) for name, index in self._selected}
        return self._line({"key": self.key(row), "value": value}, b"insert", extra, tx, op)

    def _delete(self, row: Values, tx: bytes, op: int, extra: bytes = b"") -> bytes:
        keys = self._key_set
        everything = self._full or self._keyless
        value = {name: text_of(row[index]) for name, index in self._selected if everything or index in keys}
        return self._line({"key": self.key(row), "value": value}, b"delete", extra, tx, op)

    def _update(self, old: Values, new: Values, tx: bytes, op: int) -> list[bytes]:
        for index in self._identity:
            if old[index] != new[index]:
                before, after = self.key(old), self.key(new)
                to = b'"key_change_to":' + orjson.dumps(after) + b","
                origin = b'"key_change_from":' + orjson.dumps(before) + b","
                return [self._delete(old, tx, op, to), self._insert(new, tx, op + 1, origin)]
        return self._changed(old, new, tx, op)

    def _changed(
        self, old: Values, new: Values, tx: bytes, op: int, extra: bytes = b"", *, always: bool = False
    ) -> list[bytes]:
        """An update that leaves the key as it is; `always`: also without a changed value."""
        keys = self._key_set
        full = self._full
        value: dict[str, str | None] = {}
        previous: dict[str, str | None] = {}
        for name, index in self._selected:
            current = new[index]
            if old[index] != current:
                previous[name] = text_of(old[index]) if full else None
            elif not full and index not in keys:
                continue
            value[name] = current.decode() if type(current) is bytes else None
        if not previous and not always:
            return []
        message: dict[str, object] = {"key": self.key(new), "value": value}
        if full:
            message["old_value"] = previous
        return [self._line(message, b"update", extra, tx, op)]

    def _line(self, message: dict[str, object], operation: bytes, extra: bytes, tx: bytes, op: int) -> bytes:
        if extra:
            return b"%b%b%d" % (orjson.dumps(message)[:-1], self._headers(operation, extra + tx), op)
        if tx is not self._transaction:
            self._transaction = tx
            self._tails.clear()
        tail = self._tails.get(operation)
        if tail is None:
            tail = self._tails[operation] = self._headers(operation, tx)
        return b"%b%b%d" % (orjson.dumps(message)[:-1], tail, op)

    def _headers(self, operation: bytes, rest: bytes) -> bytes:
        return b',"headers":{"operation":"%b","relation":%b,%b' % (operation, self._relation, rest)


def transaction_headers(xid: int, lsn: int) -> bytes:
    """The header fields that all lines of a transaction share."""
    return b'"txids":[%d],"lsn":"%d","op_position":' % (xid, lsn)


def fill_unchanged(old: Values, new: Values) -> bool:
    """Put the old row's value where the stream left an unchanged large value out; False if it is not there either."""
    for index, value in enumerate(new):
        if value is UNCHANGED:
            if index >= len(old) or old[index] is UNCHANGED:
                return False
            new[index] = old[index]
    return True


def hidden_part(salt: str, values: Sequence[str | None]) -> str:
    """The key part for columns that a client must not see: the same hash as in the snapshot's SQL."""
    text = salt + "".join(key_part(value) for value in values)
    return '/"' + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + '"'
