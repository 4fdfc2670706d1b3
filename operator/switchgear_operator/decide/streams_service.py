"""Streams services: nothing but the common life of a service. Pure."""

from __future__ import annotations

from datetime import datetime

from switchgear_operator.actions import Decision
from switchgear_operator.decide import service
from switchgear_operator.snapshot import ServiceSnapshot


def decide(snapshot: ServiceSnapshot, now: datetime) -> Decision:
    """What to do about a StreamsService."""
    return service.decide(snapshot, now, _nothing_first, _nothing_to_release)


def _nothing_first(snapshot: ServiceSnapshot, now: datetime) -> service.Prepared:
    return service.Prepared()


def _nothing_to_release(snapshot: ServiceSnapshot, now: datetime) -> service.Released:
    return service.Released()
