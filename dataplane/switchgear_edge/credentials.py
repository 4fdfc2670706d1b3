"""The secret that a request presents, and whether a service accepts it. Pure.

Invariants: a secret is only ever compared by its SHA-256, in constant time, against the same number of hashes whether
the service exists or not; what is presented is never stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from switchgear_wire.query import parse_query, raw_pairs

# In this order: a proxy adds the first, and may pass on an Authorization header of its own user that is not for us.
ACCEPTED_NAMES = ("secret", "source_secret", "token")
# Never passed on; `api_secret` is an older name of the sync server's own.
STRIPPED_NAMES = frozenset({*ACCEPTED_NAMES, "api_secret"})
# As many hashes as a service may have; fewer are filled up, so that all comparisons take the same time.
SLOTS = 8
_DUMMY = bytes(32)


@dataclass(frozen=True, slots=True)
class SecretHash:
    """SHA-256 of a valid secret; `expires_at` is Unix time, None for one that does not expire."""

    digest: bytes
    expires_at: float | None = None


NO_HASHES: tuple[SecretHash, ...] = ()


@dataclass(frozen=True, slots=True)
class Presented:
    """What the query and headers say: the secret (None: there is none), `source_id`, and the query to pass on."""

    secret: bytes | None
    source_id: str
    query: bytes


def read(query: bytes, authorization: bytes | None) -> Presented:
    """Find the secret and take it out of the query; all other bytes of the query stay as they are, in order.

    Of several pairs with one name the first that is not empty counts.
    """
    found: dict[str, str] = {}
    kept: list[bytes] = []
    stripped = False
    for name, pair in raw_pairs(query):
        if name in STRIPPED_NAMES:
            stripped = True
            _note(found, name, pair)
        else:
            kept.append(pair)
            if name == "source_id":
                _note(found, name, pair)
    source_id = found.get("source_id", "")
    passed_on = b"&".join(kept) if stripped else query
    for name in ACCEPTED_NAMES:
        if name in found:
            return Presented(found[name].encode("utf-8", "replace"), source_id, passed_on)
    return Presented(bearer(authorization), source_id, passed_on)


def _note(found: dict[str, str], name: str, pair: bytes) -> None:
    if name not in found:
        ((_, value),) = parse_query(pair)
        if value:
            found[name] = value


def bearer(authorization: bytes | None) -> bytes | None:
    """The token of an `Authorization: Bearer` value, None for none and for other schemes."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    return token if token and scheme.lower() == b"bearer" else None


def accepts(hashes: Sequence[SecretHash], secret: bytes, now: float) -> bool:
    """Whether `secret` is among the hashes that are valid at `now` (Unix time). An unknown service has NO_HASHES."""
    digest = hashlib.sha256(secret).digest()
    good = False
    for entry in hashes:
        same = hmac.compare_digest(digest, entry.digest)
        valid = entry.expires_at is None or entry.expires_at > now
        good |= same and valid
    for _ in range(SLOTS - len(hashes)):
        hmac.compare_digest(digest, _DUMMY)  # for its time; its result is of no use
    return good
