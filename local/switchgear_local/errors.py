"""The errors of the local region that a person at the terminal can do something about.

Invariant: each message says what is wrong and how to go on, and none holds a secret.
"""

from __future__ import annotations


class LocalError(RuntimeError):
    """Something on this machine stops the region; the command line prints the message and ends with status 1."""


class BinariesError(LocalError):
    """A program could not be found, downloaded or built."""


class StartError(LocalError):
    """A process of the region did not start, or did not become ready within its limit."""


class BusyError(LocalError):
    """Another `switchgear up` owns this data directory."""
