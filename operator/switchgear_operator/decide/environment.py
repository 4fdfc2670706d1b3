"""Environments: they belong to the Project of their reference. Pure."""

from __future__ import annotations

from datetime import datetime

from switchgear_operator.actions import Decision
from switchgear_operator.decide import parents
from switchgear_operator.snapshot import ParentSnapshot


def decide(snapshot: ParentSnapshot, now: datetime) -> Decision:
    """Active once its Project is ready and the name is free in it."""
    if snapshot.obj.meta.deleting is not None:
        return parents.deletion(snapshot, now)
    return parents.alive(snapshot, now)
