"""Logging to stderr, one line an entry, with secrets taken out.

The redaction works on the finished line, tracebacks included, so that no caller can forget it. It is the
second line of defence: code must not log secrets in the first place.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
LINE_MAX: Final = 16_384

_MASK: Final = "***"
_PATTERNS: Final = (
    # ?secret=…  &source_secret=…  &token=…
    (re.compile(r"(?i)([?&](?:secret|source_secret|token|api_key)=)[^&\s\"'<>]+"), rf"\1{_MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"), rf"\1\2{_MASK}"),
    # user:password@ of any URL; a password may hold an unescaped '@', so the last one counts.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s\"'/]+@"), rf"\1:{_MASK}@"),
    (
        re.compile(r"(?i)\b(password|passwd|pgpassword|sslpassword)(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&\"']+)"),
        rf"\1\2{_MASK}",
    ),
    # A JSON Web Token, which is the form of a service secret.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), _MASK),
)


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class LineFormatter(logging.Formatter):
    """``time level service logger: message`` on one line; control characters are escaped."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        line = redact(message)
        if len(line) > LINE_MAX:
            line = line[:LINE_MAX] + "…"
        line = line.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return f"{moment} {record.levelname.lower()} {self._service} {record.name}: {line}"


def configure(service: str, level: str = "info") -> None:
    """Sends everything that is logged to stderr. Raises ValueError for a level that is none of `LEVELS`."""
    if level.lower() not in LEVELS:
        raise ValueError(f"log level must be one of {', '.join(LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
