"""Fixtures of the API's tests."""

from tests.api.server import api_server, workspace

__all__ = ["api_server", "workspace"]
