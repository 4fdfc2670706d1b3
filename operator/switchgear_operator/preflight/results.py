"""What probing and cleaning up found out. Pure values; decisions read them."""

from __future__ import annotations

from dataclasses import dataclass

from switchgear_model import conditions as c
from switchgear_model.conditions import Condition, Reason
from switchgear_operator.preflight.errors import Fault


@dataclass(frozen=True, slots=True)
class Check:
    """One named check. `transient`: a failure that may pass by itself."""

    type: str
    ok: bool
    reason: Reason
    message: str
    transient: bool = False

    def condition(self) -> Condition:
        """The check as a condition."""
        return (
            c.true(self.type, self.reason, self.message) if self.ok else c.false(self.type, self.reason, self.message)
        )


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """All checks that could be made, in order; after a failed connection there is only that one."""

    checks: tuple[Check, ...]

    @property
    def failure(self) -> Check | None:
        """The first failed check."""
        return next((check for check in self.checks if not check.ok), None)


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """`fault` None: slot and publication are gone."""

    fault: Fault | None = None
