"""What can keep the server from starting, each with a message that names the way out."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot start; the message is for the operator's eyes."""
