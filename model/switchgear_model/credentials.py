"""Credentials: service secrets, their hashes, and the keys between edge and pods.

Nothing here logs. Secrets are compared in constant time, and only their hashes are ever published.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable
from datetime import datetime

import orjson

from switchgear_model.ids import EDGE_INTERNAL_ID


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_service_secret(service_id: str, now: datetime) -> str:
    """A new secret that grants the use of one service.

    It has the form of an HS256 JWT ``{service_id, iat, jti}`` because existing clients and tools expect
    one. The signing key is made here and forgotten: nobody verifies the signature, the edge compares the
    hash of the whole text. The signature is what makes it unguessable (256 bits).
    """
    header = _b64(orjson.dumps({"alg": "HS256", "typ": "JWT"}))
    claims = {"service_id": service_id, "iat": int(now.timestamp()), "jti": str(uuid.uuid4())}
    signed = f"{header}.{_b64(orjson.dumps(claims))}"
    signature = hmac.new(secrets.token_bytes(32), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_b64(signature)}"


def sha256_hex(secret: str | bytes) -> str:
    """Hex SHA-256 of a whole secret: what ``status.secretHashes`` carries."""
    data = secret.encode() if isinstance(secret, str) else secret
    return hashlib.sha256(data).hexdigest()


def new_region_key() -> str:
    """A new region key: 32 random bytes as hex text."""
    return secrets.token_hex(32)


def pod_key(region_key: bytes, service_id: str) -> str:
    """The key a service's pod accepts: hex HMAC-SHA256 of the service id under the region key's text."""
    return hmac.new(region_key.strip(), service_id.encode(), hashlib.sha256).hexdigest()


def edge_internal_key(region_key: bytes) -> str:
    """The Bearer of the edge's internal listener."""
    return pod_key(region_key, EDGE_INTERNAL_ID)


def constant_time_in(secret_hash: str, hashes: Iterable[str]) -> bool:
    """Whether a hex hash is among the given ones, in a time that does not tell which one or how much of it."""
    found = 0
    for candidate in hashes:
        found |= hmac.compare_digest(secret_hash.encode(), candidate.encode())
    return bool(found)
