"""What a running command knows: its global options, its settings and how to speak to the user.

Settings: flag, else environment variable, else stored login. (The product we replace lets a stored login win over a
flag, which surprises; ours is the other way round on purpose.) A stored token is only ever sent to the API that it was
stored for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from switchgear_cli import login
from switchgear_cli.failures import AUTH, Failure
from switchgear_cli.options import Options
from switchgear_cli.output import Output

API_URL = ("SWITCHGEAR_API_URL", "ELECTRIC_API_URL")
TOKEN = ("SWITCHGEAR_API_TOKEN", "ELECTRIC_API_TOKEN")
WORKSPACE = ("SWITCHGEAR_WORKSPACE", "ELECTRIC_WORKSPACE_ID")


@dataclass(frozen=True)
class ApiSettings:
    """Where the API is and as whom to call it. `workspace` may be unknown."""

    url: str
    token: str = field(repr=False)
    workspace: str | None


@dataclass(frozen=True)
class Context:
    """One run of the command."""

    options: Options
    output: Output
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def api(self) -> ApiSettings:
        """The settings for the API. Raises Failure (authentication) when a part is missing."""
        found = self.find_api()
        if found is None:
            message = "Not logged in: run `switchgear auth login`, or set SWITCHGEAR_API_URL and SWITCHGEAR_API_TOKEN."
            raise Failure(AUTH, message, "NOT_LOGGED_IN")
        return found

    def find_api(self) -> ApiSettings | None:
        """The settings for the API, or None when URL or token is missing."""
        stored = login.load(self.environment) or login.Login("", "")
        url = (self.options.api_url or self._variable(API_URL) or stored.api_url).rstrip("/")
        own = url == stored.api_url.rstrip("/")
        token = self.options.token or self._variable(TOKEN) or (stored.token if own else "")
        workspace = self.options.workspace or self._variable(WORKSPACE) or (stored.workspace if own else "")
        return ApiSettings(url, token, workspace or None) if url and token else None

    def _variable(self, names: tuple[str, ...]) -> str:
        return next((self.environment[name] for name in names if self.environment.get(name)), "")


_current: ContextVar[Context] = ContextVar("switchgear_cli_context")


def set_current(context: Context) -> None:
    """Makes this the context of the command that runs."""
    _current.set(context)


def current() -> Context:
    """The context of the command that runs."""
    return _current.get()
