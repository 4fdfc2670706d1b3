"""Time to live and expiry. Pure; times are Unix milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from switchgear_wire.errors import HttpError

_WHOLE = re.compile(rb"0|[1-9][0-9]*")
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)
MAX_TTL = 10_000_000_000  # seconds: 317 years
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def whole_number(raw: bytes) -> int | None:
    """A decimal without sign, leading zeros, fraction or exponent; None if it is anything else."""
    return int(raw) if _WHOLE.fullmatch(raw) and len(raw) <= 19 else None


def parse_ttl(raw: bytes) -> int:
    """Stream-TTL in seconds. Raises 400 INVALID_TTL."""
    ttl = whole_number(raw)
    if ttl is None or ttl > MAX_TTL:
        raise HttpError(400, "INVALID_TTL", "Stream-TTL must be whole seconds in plain decimal, such as 3600.")
    return ttl


def parse_expires_at(raw: bytes) -> int:
    """Stream-Expires-At (RFC 3339) as Unix milliseconds. Raises 400 INVALID_EXPIRES_AT."""
    text = raw.decode("latin-1")
    match = _RFC3339.fullmatch(text)
    if match is not None:
        fraction = match[1]
        if fraction is not None:
            text = text.replace(fraction, (fraction + "000000")[:7], 1)
        try:
            return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            pass
    raise HttpError(400, "INVALID_EXPIRES_AT", "Stream-Expires-At must be RFC 3339, such as 2030-01-31T12:00:00Z.")


def deadline(ttl: int | None, expires_at: int | None, touched: int) -> int | None:
    """When the stream ends if nobody touches it again, None for never."""
    if expires_at is not None:
        return max(expires_at, 1)  # 0 is written for "never", and what is before it cannot be written at all
    return None if ttl is None else touched + ttl * 1000
