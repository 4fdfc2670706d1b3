"""What the text of a setting may be, and what it means: durations, sizes, choices.

Pure functions from a text to a value. Each raises ValueError with what the text must be; the caller knows its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

_DURATION = re.compile(r"(\d+)\s*(ms|msec|s|sec|m|min)?")
_DURATION_UNITS = {None: 0.001, "ms": 0.001, "msec": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0}
_SIZE = re.compile(r"(\d+)\s*(B|KB|KiB|MB|MiB|GB|GiB)?")
_SIZE_UNITS = {
    None: 1,
    "B": 1,
    "KB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
}
MINIMAL_PERIOD = 0.1
_STREAM_ID = re.compile(r"[a-z_][a-z0-9_]*")


def duration(text: str) -> float:
    """Seconds. Bare numbers are milliseconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a duration such as 500ms, 30s or 2min")
    return int(match[1]) * _DURATION_UNITS[match[2]]


def size(text: str) -> int:
    """Bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a size in bytes, or such as 64KiB or 10MB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def stream_id(text: str) -> str:
    if not _STREAM_ID.fullmatch(text) or len(text) > 63 - len("electric_publication_"):
        raise ValueError("must be at most 42 lower-case letters, digits and underscores, and not begin with a digit")
    return text


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of: {', '.join(allowed)}")
        return text

    return parse


def address(text: str) -> tuple[str, int]:
    """`host` or `host:port` of a StatsD server."""
    host, _, number = text.strip().rpartition(":") if re.search(r":\d+$", text) else (text.strip(), "", "8125")
    if not host or not number.isdigit() or not 0 < int(number) < 65536 or re.search(r"[\s/@]", host):
        raise ValueError("must be a host, or host:port")
    return host.strip("[]"), int(number)


def http_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise ValueError("must be a URL that begins with http:// or https://")
    return text


def period(text: str) -> float:
    """A duration in which something is done once."""
    seconds = duration(text)
    if seconds < MINIMAL_PERIOD:
        raise ValueError(f"must be at least {MINIMAL_PERIOD * 1000:g}ms")
    return seconds


def concurrency(text: str) -> tuple[int, int]:
    """`{"initial": n, "existing": m}`; either may be left out."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or any(type(n) is not int or n < 1 for n in value.values()):
        raise ValueError('must be JSON such as {"initial":300,"existing":10000}')
    if unknown := set(value) - {"initial", "existing"}:
        raise ValueError(f"has unknown keys: {', '.join(sorted(unknown))}")
    return value.get("initial", 300), value.get("existing", 10_000)
