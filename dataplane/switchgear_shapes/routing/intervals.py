"""Intervals that contain a value: a treap ordered by lower end, in which every node knows its subtree's highest end.

Finding costs the logarithm of all intervals and grows with those found, not with those that are there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
End = Any
"""Anything that compares with the other ends and with the values looked for."""


class _Node(Generic[T]):
    __slots__ = ("high", "item", "left", "low", "priority", "right", "top")

    def __init__(self, low: End, high: End, item: T, priority: float) -> None:
        self.low = low
        self.high = high
        self.item = item
        self.priority = priority
        self.top = high
        self.left: _Node[T] | None = None
        self.right: _Node[T] | None = None

    def update(self) -> _Node[T]:
        top = self.high
        if self.left is not None and self.left.top > top:
            top = self.left.top
        if self.right is not None and self.right.top > top:
            top = self.right.top
        self.top = top
        return self


class Intervals(Generic[T]):
    """Items by (low, high), each pair once. An interval contains what is above `low` and below `high`."""

    def __init__(self) -> None:
        self._root: _Node[T] | None = None
        self._random = random.Random(1)  # noqa: S311 - only balances a tree

    def add(self, low: End, high: End, item: T) -> None:
        before, after = _split(self._root, low, high)
        node = _Node(low, high, item, self._random.random())
        self._root = _merge(_merge(before, node), after)

    def remove(self, low: End, high: End) -> None:
        """The interval must be there."""
        path: list[_Node[T]] = []
        node = self._root
        while node is not None and (node.low, node.high) != (low, high):
            path.append(node)
            node = node.left if (low, high) < (node.low, node.high) else node.right
        assert node is not None
        replacement = _merge(node.left, node.right)
        while path:
            parent = path.pop()
            if parent.left is node:
                parent.left = replacement
            else:
                parent.right = replacement
            node, replacement = parent, parent.update()
        self._root = replacement

    def find(self, value: End, found: list[T]) -> None:
        """Append the items of all intervals that contain `value`."""
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node is None or not value < node.top:
                continue
            stack.append(node.left)
            if node.low < value:
                stack.append(node.right)
                if value < node.high:
                    found.append(node.item)

    def __iter__(self) -> Iterator[T]:
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node is not None:
                yield node.item
                stack += (node.left, node.right)


def _split(root: _Node[T] | None, low: End, high: End) -> tuple[_Node[T] | None, _Node[T] | None]:
    """The nodes before and after (low, high)."""
    if root is None:
        return None, None
    if (root.low, root.high) < (low, high):
        root.right, after = _split(root.right, low, high)
        return root.update(), after
    before, root.left = _split(root.left, low, high)
    return before, root.update()


def _merge(left: _Node[T] | None, right: _Node[T] | None) -> _Node[T] | None:
    """One treap of two, everything in `left` being before everything in `right`."""
    if left is None or right is None:
        return right if left is None else left
    if left.priority > right.priority:
        left.right = _merge(left.right, right)
        return left.update()
    right.left = _merge(left, right.left)
    return right.update()
