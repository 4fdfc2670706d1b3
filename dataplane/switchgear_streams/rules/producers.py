"""Idempotent producers: which of a producer's batches is new, repeated, fenced off or out of turn. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_NUMBER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """What a request says of itself."""

    producer: str
    epoch: int
    seq: int


class Verdict(Enum):
    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    FENCED = "fenced"
    NEW_EPOCH_NOT_ZERO = "new epoch must begin at 0"
    GAP = "gap"


def judge(state: tuple[int, int] | None, batch: Batch) -> Verdict:
    """`state`: the producer's (epoch, highest accepted sequence), None if it was never seen."""
    if state is None:
        return Verdict.ACCEPT if batch.seq == 0 else Verdict.GAP
    epoch, last = state
    if batch.epoch < epoch:
        return Verdict.FENCED
    if batch.epoch > epoch:
        return Verdict.ACCEPT if batch.seq == 0 else Verdict.NEW_EPOCH_NOT_ZERO
    if batch.seq <= last:
        return Verdict.DUPLICATE
    return Verdict.ACCEPT if batch.seq == last + 1 else Verdict.GAP


def expected(state: tuple[int, int] | None) -> int:
    """The sequence number that a gap answer names."""
    return 0 if state is None else state[1] + 1
