"""Patterns of stream paths: `*` stands for one segment (or a part of one), `**` for zero or more segments. Pure.

Matching takes time in proportion to pattern times path, whatever the pattern: no back-tracking.
"""

from __future__ import annotations

MAX_LENGTH = 1024
MAX_SEGMENTS = 64


class Glob:
    """A compiled pattern. Raises ValueError for one that is empty or too long."""

    def __init__(self, pattern: str) -> None:
        pattern = pattern.removeprefix("/")
        segments: list[str] = []
        for segment in pattern.split("/"):
            if segment != "**" or segments[-1:] != ["**"]:
                segments.append(segment)
        if not pattern:
            raise ValueError("is empty")
        if len(pattern.encode()) > MAX_LENGTH or len(segments) > MAX_SEGMENTS:
            raise ValueError(f"is longer than {MAX_LENGTH} bytes or {MAX_SEGMENTS} segments")
        self._segments = segments
        fixed: list[str] = []
        for segment in segments:
            if "*" in segment:
                break
            fixed.append(segment)
        self._whole = "*" not in pattern
        # "a/**" also stands for "a", so the slash after the fixed part is left out.
        self.prefix = "/".join(fixed).encode()
        """Whatever it stands for begins with this: its literal first segments."""

    def matches(self, key: bytes) -> bool:
        """Does it stand for this path (UTF-8)?"""
        if not key.startswith(self.prefix):
            return False
        if self._whole:
            return key == self.prefix
        segments = self._segments
        states = self._closure({0})
        for part in key.decode("utf-8", "replace").split("/"):
            following: set[int] = set()
            for at in states:
                if at == len(segments):
                    continue
                if segments[at] == "**":
                    following.add(at)
                elif _segment_matches(segments[at], part):
                    following.add(at + 1)
            if not following:
                return False
            states = self._closure(following)
        return len(segments) in states

    def _closure(self, states: set[int]) -> set[int]:
        return states | {at + 1 for at in states if at < len(self._segments) and self._segments[at] == "**"}


def _segment_matches(pattern: str, text: str) -> bool:
    if "*" not in pattern:
        return pattern == text
    if pattern == "*":
        return bool(text)
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:  # the earliest place is never worse
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
