"""Decoded query pairs → plain values and bracket maps, as form decoders nest them. Pure.

`params[1]=x` is the entry 1 of the map `params`; `subset[where]=x` is another way to write `subset__where=x`. Of a name
that is given twice the last one counts. Bytes that are no UTF-8 stand in the texts as lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_MAPS = frozenset({"params", "subset__params"})
_SUBSET = "subset__"
_NO_UTF8 = re.compile("[\udc80-\udcff]")


class Query:
    """The parameters of one request: plain `values`, and `maps` of those that may have brackets."""

    __slots__ = ("broken", "maps", "nested", "subset_names", "values")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.values: dict[str, str] = {}
        self.maps: dict[str, dict[str, str]] = {}
        self.nested: set[str] = set()
        """Names that were given with brackets which mean nothing here."""
        self.subset_names: set[str] = set()
        """The names of the subset parameters that were given, without their prefix."""
        self.broken: set[str] = set()
        """Names whose value is no UTF-8."""
        for name, value in pairs:
            if not value.isascii() and _NO_UTF8.search(value):
                self.broken.add(_plain(name))
            if "[" in name:
                self._bracketed(name, value)
            else:
                self.values[name] = value
                if name.startswith(_SUBSET):
                    self.subset_names.add(name[len(_SUBSET) :])

    def _bracketed(self, name: str, value: str) -> None:
        root, _, rest = name.partition("[")
        keys = rest.removesuffix("]").split("][") if rest.endswith("]") else [rest]
        if root == "subset":
            root, keys = _SUBSET + keys[0], keys[1:]
        if root.startswith(_SUBSET):
            self.subset_names.add(root[len(_SUBSET) :])
            if not keys:
                self.values[root] = value
                return
        if root in _MAPS and len(keys) == 1 and keys[0]:
            self.maps.setdefault(root, {})[keys[0]] = value
        else:
            self.nested.add(root)


def _plain(name: str) -> str:
    """The parameter that a name with brackets is an entry of."""
    root, _, rest = name.partition("[")
    return _SUBSET + rest.partition("]")[0] if root == "subset" else root


def numbered(given: Mapping[str, str]) -> tuple[str, ...]:
    """The values of `{"1": …, "2": …}` in their order. Raises ValueError with the text that clients see."""
    by_number: dict[int, str] = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit()) or len(key) > 9:
            raise ValueError("Parameters can only use numbers as keys")
        if "\0" in value:
            raise ValueError("Parameters cannot have NUL characters")
        by_number[int(key)] = value
    if len(by_number) != len(given) or any(number not in by_number for number in range(1, len(by_number) + 1)):
        raise ValueError("Parameters must be numbered sequentially, starting from 1")
    return tuple(by_number[number] for number in sorted(by_number))
