"""The requests that go on to a pod without the service's secret: a wake's own token is their credential. Pure.

Exactly `POST …/__ds/subscriptions/<id>/callback|ack|release` and `GET …/__ds/jwks.json`, spelled like this: any other
spelling needs the secret, and the pod, which checks the token, serves no other spelling of them either.
"""

from __future__ import annotations

import re

from switchgear_edge.paths import Family, Target

_BY_TOKEN = re.compile(rb"/v1/stream/[^/]+/__ds/subscriptions/[A-Za-z0-9_.~:%-]{1,600}/(?:callback|ack|release)")
_PUBLIC = re.compile(rb"/v1/stream/[^/]+/__ds/jwks\.json")


def is_open(method: str, target: Target) -> bool:
    """May it go on without the service's secret?"""
    if target.family is not Family.STREAM or b"/__ds/" not in target.path:
        return False
    if method == "POST":
        return _BY_TOKEN.fullmatch(target.path) is not None
    return method in ("GET", "HEAD") and _PUBLIC.fullmatch(target.path) is not None
