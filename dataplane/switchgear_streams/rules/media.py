"""Content types: what is compared, what is JSON, what can go as text over SSE. Pure."""

from __future__ import annotations

import re

OCTETS = b"application/octet-stream"
JSON = b"application/json"
# A type and a subtype of token characters; parameters of visible ASCII (they are echoed in a header).
_MEDIA = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(;[\t\x20-\x7e]*)?")
_MAX_LENGTH = 512


def normal(raw: bytes | None) -> bytes | None:
    """The header's value if it looks like a media type, else None."""
    if raw is None or len(raw) > _MAX_LENGTH:
        return None
    raw = raw.strip()
    return raw if _MEDIA.fullmatch(raw) else None


def essence(raw: bytes) -> bytes:
    """Type and subtype in lower case, without parameters: what two content types are compared by."""
    return raw.partition(b";")[0].strip().lower()


def is_text(media: bytes) -> bool:
    """May an SSE event carry it as it is? (Everything else goes as base64.)"""
    return media == JSON or media.startswith(b"text/")
