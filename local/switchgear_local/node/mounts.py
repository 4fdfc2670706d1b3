"""Mount paths → real directories, in text. Pure.

Nothing can be mounted without root, so a container is told the real directories instead: each mount path that stands
in an env value, an argument or a working directory is replaced, longest first, on path-component boundaries.
Invariant: `/data` never changes `/database`, `/x/data` or `http://host/data`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

# What may stand before a path in an argument or a value, and what may follow a mount path.
_BEFORE = r"(?:^|(?<=[\s=:,;|&<>()\[\]{}\"'`]))"
_AFTER = r"(?=$|[/\s=:,;|&<>()\[\]{}\"'`?#*])"


class MountTable:
    """The mount paths of one container. Raises ValueError for a path that is not absolute, or is `/`."""

    def __init__(self, mounts: Mapping[str, str]) -> None:
        self._real: dict[str, str] = {}
        for path, real in mounts.items():
            clean = posixpath.normpath(path)
            if not clean.startswith("/") or clean.strip("/") == "":
                raise ValueError(f"mount path {path!r} must be absolute and not /")
            self._real["/" + clean.lstrip("/")] = real
        longest_first = sorted(self._real, key=len, reverse=True)
        self._pattern = (
            re.compile(_BEFORE + "(" + "|".join(re.escape(path) for path in longest_first) + ")" + _AFTER)
            if longest_first
            else None
        )

    def rewrite(self, text: str) -> str:
        """The text with every mount path replaced by its real directory."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._real[match.group(1)], text)

    def real(self, path: str) -> str | None:
        """The real directory of exactly this mount path, or None."""
        return self._real.get(posixpath.normpath(path))
