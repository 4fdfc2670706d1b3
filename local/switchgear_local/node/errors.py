"""What can be wrong with a pod, a data directory or the API server, each with a stable code.

Invariant: messages name the field and the fix, and never hold a value of a Secret.
"""

from __future__ import annotations


class ConfigError(Exception):
    """A container or volume cannot be set up as its spec says (yet). `reason` is a kubelet's waiting reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class NodeError(Exception):
    """The node itself cannot run; `code` is stable, the message says how to fix it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ApiError(Exception):
    """The API server answered with an error. `status` is the HTTP status, `reason` Kubernetes' word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{message} ({status} {reason})")
        self.status = status
        self.reason = reason


class ApiUnavailableError(Exception):
    """The API server cannot be reached or did not answer in time; nothing is known about what it did."""
