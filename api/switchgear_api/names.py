"""Names: from the short name a person gives to the name of a resource, and back. Pure.

A resource's `metadata.name` is unique in its workspace and a DNS label of at most 63 characters; the short name is
kept in `spec.displayName` and is unique within its parent only. `<parent>-<short name>` can be the same for different
parents ("a-b" + "c", "a" + "b-c"), and a short name may hold characters that a label may not: then a short hash of
parent and short name is added, so that the same call always leads to the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from switchgear_model import ids, kinds

MAX_NAME = 63
SERVICE_KINDS = (kinds.SYNC_SOURCE, kinds.STREAMS_SERVICE)
_HASH = 6
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Whether the text can be the name of a resource."""
    return _LABEL.fullmatch(text) is not None


def candidates(parent: str | None, short: str) -> tuple[str, str]:
    """The preferred resource name for `short` below the resource `parent`, and the one to use when it is taken.

    Both are valid resource names. They are equal when the preferred one needed a hash already.
    """
    wanted = short if parent is None else f"{parent}-{short}"
    digest = hashlib.sha256(f"{parent or ''}/{short}".encode()).hexdigest()[:_HASH]
    slug = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9-]+", "-", wanted.lower())).strip("-")
    hashed = f"{slug[: MAX_NAME - _HASH - 1].rstrip('-')}-{digest}".lstrip("-")
    return (wanted, hashed) if is_name(wanted) else (hashed, hashed)


def short_name(resource: Mapping[str, Any]) -> str:
    """The name to show: displayName, else the resource's own name."""
    spec = resource.get("spec") or {}
    return str(spec.get("displayName") or resource["metadata"]["name"])


def service_id(resource: Mapping[str, Any]) -> str:
    """A service's public id: given in its spec, else derived from its UID, so known as soon as it exists."""
    given = (resource.get("spec") or {}).get("serviceId")
    return str(given) if given else ids.service_id(str(resource["metadata"]["uid"]))


def matching(resources: Iterable[Mapping[str, Any]], reference: str) -> list[Mapping[str, Any]]:
    """The resources that a caller may mean by `reference`: the one with that resource name, the one with that service
    id, else all with that short name. More than one is ambiguous."""
    found = list(resources)
    exact = [r for r in found if r["metadata"]["name"] == reference]
    if exact:
        return exact
    by_id = [r for r in found if r.get("kind") in SERVICE_KINDS and service_id(r) == reference]
    return by_id or [r for r in found if (r.get("spec") or {}).get("displayName") == reference]
