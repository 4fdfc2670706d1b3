"""Secrets look as clients expect, cannot be guessed, and keys of different services differ."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

from switchgear_model import credentials as cr

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def part(secret: str, index: int) -> dict[str, object]:
    text = secret.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_a_secret_is_a_jwt_that_names_its_service() -> None:
    secret = cr.new_service_secret("svc-a", NOW)
    assert part(secret, 0) == {"alg": "HS256", "typ": "JWT"}
    claims = part(secret, 1)
    assert (claims["service_id"], claims["iat"]) == ("svc-a", int(NOW.timestamp()))
    signature = secret.split(".")[2]
    assert len(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))) == 32


def test_no_two_secrets_are_alike() -> None:
    made = {cr.new_service_secret("svc-a", NOW) for _ in range(100)}
    assert len(made) == 100
    assert len({secret.split(".")[2] for secret in made}) == 100


def test_pod_keys_are_the_documented_hmac_of_the_key_text() -> None:
    key = cr.new_region_key().encode()
    assert len(key) == 64
    assert cr.pod_key(key, "svc-a") == hmac.new(key, b"svc-a", hashlib.sha256).hexdigest()
    # A line break at the end of a key file is not part of the key.
    assert cr.pod_key(key + b"\n", "svc-a") == cr.pod_key(key, "svc-a")
    assert cr.pod_key(key, "svc-a") != cr.pod_key(key, "svc-b")
    assert cr.edge_internal_key(key) == cr.pod_key(key, "switchgear-edge-internal")


def test_a_hash_is_found_among_others() -> None:
    hashes = [cr.sha256_hex(text) for text in ("a", "b", "c")]
    assert all(cr.constant_time_in(one, hashes) for one in hashes)
    assert not cr.constant_time_in(cr.sha256_hex("d"), hashes)
    assert not cr.constant_time_in(cr.sha256_hex("d"), [])
    assert not cr.constant_time_in("", hashes)
    assert not cr.constant_time_in(hashes[0][:-1], hashes)
