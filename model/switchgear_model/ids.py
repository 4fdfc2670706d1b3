"""Identifiers: service ids derived from UIDs, and every name that follows from a service id.

Pure and deterministic: the same UID gives the same id for ever, so that a lost status can be rebuilt.
The word lists are part of that promise: never reorder, remove or insert words.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

SERVICE_ID_MAX: Final = 42
SERVICE_ID_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
#: Pseudo service id under which the edge's internal listener has its key; no service may claim it.
EDGE_INTERNAL_ID: Final = "switchgear-edge-internal"
RESERVED_SERVICE_IDS: Final = frozenset({EDGE_INTERNAL_ID})

_SERVICE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST: Final = _words(
    """
    amber autumn basalt birch bold brave breezy bright brisk bronze calm candid cedar chalk clear clever cobalt
    copper coral crisp curious dapper dawn deep eager early ember fair fern firm fleet flint fond frosty gentle
    gilded glad golden granite green hardy hazel honest humble indigo ivory jade jolly keen kind lively loyal
    lucid maple mellow merry mild misty modest noble oaken olive opal patient
    """
)
_SECOND: Final = _words(
    """
    anvil arch badger barge beacon bison brook canyon cape castle cliff comet cove crane creek delta dune eagle
    falcon fjord forge fox gale garnet glade grove gull harbor hare hawk heron hill inlet island kite lagoon lake
    lantern lark ledge lynx marsh meadow mesa mill moose orbit osprey otter peak pier pine plover pond prairie
    quarry raven reef ridge river robin sparrow summit trail
    """
)


def service_id(uid: str) -> str:
    """The public id of the service whose object has this UID: ``svc-<word>-<word>-<10 characters>``."""
    number = int.from_bytes(hashlib.sha256(b"switchgear service id\0" + uid.encode()).digest(), "big")
    number, first = divmod(number, len(_FIRST))
    number, second = divmod(number, len(_SECOND))
    tail = ""
    for _ in range(10):
        number, index = divmod(number, len(_ALPHABET))
        tail += _ALPHABET[index]
    return f"svc-{_FIRST[first]}-{_SECOND[second]}-{tail}"


def is_service_id(text: str) -> bool:
    """Whether the text can be a service id (form and length; says nothing about existence)."""
    return len(text) <= SERVICE_ID_MAX and _SERVICE_ID.fullmatch(text) is not None and text not in RESERVED_SERVICE_IDS


def stream_id(service_id: str) -> str:
    """The replication stream id: Postgres names allow ``_`` and not ``-``. Injective on service ids."""
    return service_id.replace("-", "_")


def slot_name(service_id: str) -> str:
    """The logical replication slot of a sync source."""
    return f"electric_slot_{stream_id(service_id)}"


def publication_name(service_id: str) -> str:
    """The publication of a sync source (63 bytes at most: Postgres' limit is the reason for the id's length)."""
    return f"electric_publication_{stream_id(service_id)}"


def child_name(service_id: str) -> str:
    """The name of the service's Secret, PVC, StatefulSet, Service and NetworkPolicy."""
    return f"sg-{service_id}"


def database_secret_name(service_id: str) -> str:
    """The Secret with the operator's own copy of the database URL."""
    return f"sg-{service_id}-database"


def key_secret_name(service_id: str) -> str:
    """The Secret with the pod's key."""
    return f"sg-{service_id}-key"


def pod_name(service_id: str) -> str:
    """The only pod of the service's StatefulSet."""
    return f"sg-{service_id}-0"
