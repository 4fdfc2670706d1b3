"""Projects: their parent is the Workspace that holds the namespace. Pure."""

from __future__ import annotations

from datetime import datetime

from switchgear_operator.actions import Decision
from switchgear_operator.decide import parents
from switchgear_operator.snapshot import ParentSnapshot


def decide(snapshot: ParentSnapshot, now: datetime) -> Decision:
    """Active once the namespace has a ready Workspace and the name is free in it."""
    if snapshot.obj.meta.deleting is not None:
        return parents.deletion(snapshot, now)
    return parents.alive(snapshot, now)
