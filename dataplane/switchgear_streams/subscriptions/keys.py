"""The server's own keys: Ed25519 to sign webhooks, a secret for tokens.

The Ed25519 library is loaded on first use only, for it is a quarter of an idle server's memory.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(slots=True)
class Key:
    """`public`: 32 bytes. The private half never leaves this module but for `dump`."""

    seed: bytes = field(repr=False)
    public: bytes
    _private: Ed25519PrivateKey | None = field(default=None, repr=False)

    @property
    def kid(self) -> str:
        """RFC 7638 thumbprint."""
        canonical = b'{"crv":"Ed25519","kty":"OKP","x":"%b"}' % _b64(self.public)
        return "ds_" + _b64(hashlib.sha256(canonical).digest()).decode()

    def jwk(self) -> dict[str, str]:
        x = _b64(self.public).decode()
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "alg": "EdDSA", "x": x}

    def sign(self, moment: int, body: bytes) -> bytes:
        """The value of Webhook-Signature. `moment`: Unix seconds."""
        if self._private is None:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            self._private = Ed25519PrivateKey.from_private_bytes(self.seed)
        signature = self._private.sign(b"%d." % moment + body)
        return b"t=%d,kid=%b,ed25519=%b" % (moment, self.kid.encode(), _b64(signature))


@dataclass(slots=True)
class Keyring:
    """`keys`: the last one signs, all are published."""

    token_secret: bytes = field(repr=False)
    keys: list[Key]

    def dump(self) -> dict[str, Any]:
        return {
            "token": self.token_secret.hex(),
            "keys": [{"seed": key.seed.hex(), "public": key.public.hex()} for key in self.keys],
        }

    def jwks(self) -> bytes:
        return orjson.dumps({"keys": [key.jwk() for key in self.keys]})


def restore(raw: dict[str, Any]) -> Keyring:
    """The inverse of `dump`."""
    keys = [Key(bytes.fromhex(one["seed"]), bytes.fromhex(one["public"])) for one in raw["keys"]]
    return Keyring(bytes.fromhex(raw["token"]), keys)


def generate() -> Keyring:
    """New keys. Takes a moment: the library is loaded."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    key = Key(private.private_bytes_raw(), private.public_key().public_bytes_raw(), private)
    return Keyring(secrets.token_bytes(32), [key])


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
