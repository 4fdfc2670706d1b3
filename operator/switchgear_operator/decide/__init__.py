"""Deciding: a snapshot and the time in, actions and a status out. One module a kind; pure, no I/O.

The property that tests hold it to: carrying out the actions and deciding again ends, from any start, in a
decision without actions.
"""

from __future__ import annotations

from datetime import datetime

from switchgear_operator.actions import Decision
from switchgear_operator.decide import environment, namespace, project, streams_service, sync_source, workspace
from switchgear_operator.snapshot import NamespaceSnapshot, ParentSnapshot, ServiceSnapshot

Snapshot = ServiceSnapshot | ParentSnapshot | NamespaceSnapshot

_PARENTS = {"Workspace": workspace.decide, "Project": project.decide, "Environment": environment.decide}
_SERVICES = {"SyncSource": sync_source.decide, "StreamsService": streams_service.decide}


def decide(snapshot: Snapshot, now: datetime) -> Decision:
    """What to do about this snapshot."""
    if isinstance(snapshot, NamespaceSnapshot):
        return namespace.decide(snapshot)
    if isinstance(snapshot, ParentSnapshot):
        return _PARENTS[snapshot.obj.kind](snapshot, now)
    return _SERVICES[snapshot.obj.kind](snapshot, now)
