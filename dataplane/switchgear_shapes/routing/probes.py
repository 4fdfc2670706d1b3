"""The indexes of one column within a node of the tree: value → what may match it.

`find` appends what fits the value; what it cannot decide, because the value has no key, goes to `unsure`, and the
caller evaluates. The stored items know nothing of the index they are in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from switchgear_shapes.replication.pgoutput import Value
from switchgear_shapes.routing import conditions, keys
from switchgear_shapes.routing.conditions import Atom
from switchgear_shapes.routing.intervals import End, Intervals
from switchgear_shapes.routing.keys import Key, KeyFunction

T = TypeVar("T")


class Probe(Protocol[T]):
    """Items by the keys of one kind of atom."""

    def get(self, key: Key) -> T | None: ...

    def add(self, key: Key, item: T) -> None: ...

    def remove(self, key: Key) -> None: ...

    def __len__(self) -> int: ...

    def items(self) -> Iterator[T]: ...

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None: ...


class _Hashed(Generic[T]):
    """What all probes keep: the items by their key."""

    __slots__ = ("_function", "_items")

    def __init__(self, function: KeyFunction) -> None:
        self._function = function
        self._items: dict[Key, T] = {}

    def get(self, key: Key) -> T | None:
        return self._items.get(key)

    def add(self, key: Key, item: T) -> None:
        self._items[key] = item

    def remove(self, key: Key) -> None:
        del self._items[key]

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> Iterator[T]:
        yield from self._items.values()


class Equal(_Hashed[T]):
    """Constants that the value may equal; the key None stands for NULL."""

    __slots__ = ()

    @property
    def lookup(self) -> Callable[[Value], T | None] | None:
        """The look-up itself, when values are their own keys."""
        return self._items.get if self._function is keys.same else None

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        try:
            item = self._items.get(self._function(value) if isinstance(value, bytes) else value)
        except ValueError:
            unsure.extend(self._items.values())
            return
        if item is not None:
            found.append(item)


class Elements(_Hashed[T]):
    """Constants that may be among the array's elements."""

    __slots__ = ()

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        if not isinstance(value, bytes):
            return
        try:
            present = {self._function(item) for item in keys.elements(value) if item is not None}
        except ValueError:
            unsure.extend(self._items.values())
            return
        get = self._items.get
        for key in present:
            item = get(key)
            if item is not None:
                found.append(item)


class First(_Hashed[T]):
    """Constants that the array may begin with; the key None stands for an empty array."""

    __slots__ = ()

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        if not isinstance(value, bytes):
            return
        try:
            elements = keys.elements(value)
            if elements and elements[0] is None:
                return
            item = self._items.get(self._function(elements[0]) if elements and elements[0] is not None else None)
        except ValueError:
            unsure.extend(self._items.values())
            return
        if item is not None:
            found.append(item)


class Present(_Hashed[T]):
    """IS NOT NULL: one item, under None."""

    __slots__ = ()

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        if value is not None:
            found.extend(self._items.values())


class Prefixes(_Hashed[T]):
    """Texts that the value may begin with."""

    __slots__ = ("_lengths",)

    def __init__(self, function: KeyFunction) -> None:
        super().__init__(function)
        self._lengths: dict[int, int] = {}
        """Length → number of prefixes that have it."""

    def add(self, key: Key, item: T) -> None:
        self._items[key] = item
        self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1

    def remove(self, key: Key) -> None:
        del self._items[key]
        left = self._lengths[len(key)] - 1
        if left:
            self._lengths[len(key)] = left
        else:
            del self._lengths[len(key)]

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        if not isinstance(value, bytes):
            return
        get = self._items.get
        size = len(value)
        for length in self._lengths:
            if length <= size:
                item = get(value[:length])
                if item is not None:
                    found.append(item)


class Ranges(_Hashed[T]):
    """Ranges that the value may lie in, by their (low, high), either of which may be None."""

    __slots__ = ("_above", "_above_items", "_below", "_below_items", "_between")

    def __init__(self, function: KeyFunction) -> None:
        super().__init__(function)
        self._above: list[End] = []
        self._above_items: list[T] = []
        self._below: list[End] = []
        self._below_items: list[T] = []
        self._between: Intervals[T] = Intervals()

    def add(self, key: Key, item: T) -> None:
        self._items[key] = item
        low, high = key
        if high is None:
            at = bisect_left(self._above, low)
            self._above.insert(at, low)
            self._above_items.insert(at, item)
        elif low is None:
            at = bisect_left(self._below, high)
            self._below.insert(at, high)
            self._below_items.insert(at, item)
        else:
            self._between.add(low, high, item)

    def remove(self, key: Key) -> None:
        del self._items[key]
        low, high = key
        if high is None:
            at = bisect_left(self._above, low)
            del self._above[at], self._above_items[at]
        elif low is None:
            at = bisect_left(self._below, high)
            del self._below[at], self._below_items[at]
        else:
            self._between.remove(low, high)

    def find(self, value: Value, found: list[T], unsure: list[T]) -> None:
        if not isinstance(value, bytes):
            return
        try:
            point = (self._function(value), 1)
        except ValueError:
            unsure.extend(self._items.values())
            return
        if self._above:
            found.extend(self._above_items[: bisect_left(self._above, point)])
        if self._below:
            found.extend(self._below_items[bisect_right(self._below, point) :])
        self._between.find(point, found)


_KINDS: dict[int, type[_Hashed[object]]] = {
    conditions.EQUAL: Equal,
    conditions.ELEMENT: Elements,
    conditions.PREFIX: Prefixes,
    conditions.RANGE: Ranges,
    conditions.FIRST: First,
    conditions.PRESENT: Present,
}


def probe_for(atom: Atom) -> Probe[T]:
    """An empty probe for atoms of this kind, column and key function."""
    return _KINDS[atom.kind](atom.function)  # type: ignore[return-value]
