"""The coarse clock: it goes with the loop's, but not through pauses."""

from __future__ import annotations

from switchgear_wire.clock import Clock


def test_a_pause_does_not_count() -> None:
    clock = Clock()
    assert clock.now == 0
    assert clock.tick(1000.0) == 1000.0
    assert clock.tick(1001.0) == clock.now == 1001.0
    assert clock.tick(1061.0) <= 1003.0
    before = clock.now
    assert clock.tick(1062.25) == before + 1.25
