"""`auth login|whoami|logout`: the stored login."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from switchgear_cli import login
from switchgear_cli.api import Api
from switchgear_cli.context import API_URL, TOKEN, ApiSettings, current
from switchgear_cli.failures import GENERIC, Failure, validation
from switchgear_cli.output import table

auth = App(name="auth", help="Log in to the API.")
_MAX_TOKEN = 4096


def register(app: App) -> None:
    """Adds the commands."""
    app.command(auth)


@auth.command(name="login")
def log_in(
    *,
    token_file: Annotated[
        Path | None, Parameter(help="File with the token; else it is asked for, or read from stdin.")
    ] = None,
) -> int:
    """Check a token and store it, readable by you only. The API's URL comes from --api-url or SWITCHGEAR_API_URL."""
    context = current()
    options, env = context.options, context.environment
    stored = login.load(env)
    url = options.api_url or next((env[v] for v in API_URL if env.get(v)), "") or (stored.api_url if stored else "")
    if not url:
        raise validation("Say where the API is: --api-url http://HOST:PORT")
    token = (
        options.token or next((env[v] for v in TOKEN if env.get(v)), "") if token_file is None else _read(token_file)
    )
    token = token or _ask()
    settings = ApiSettings(url.rstrip("/"), token, options.workspace)
    with Api(settings) as api:
        who = api.call("GET", "/v1/whoami")
    known = [str(entry["id"]) for entry in who["workspaces"]]
    if options.workspace is not None and options.workspace not in known:
        raise validation(f"There is no workspace {options.workspace!r}; there is: {', '.join(known) or 'none'}")
    workspace = options.workspace or (known[0] if len(known) == 1 else "")
    try:
        path = login.save(settings.url, token, workspace, env)
    except OSError as error:
        raise Failure(GENERIC, f"The login cannot be stored: {error.strerror} ({error.filename})") from error
    answer = {"apiUrl": settings.url, "workspace": workspace or None, "type": who["type"], "name": who["name"]}
    where = f", workspace {workspace}" if workspace else ""
    context.output.result(
        answer, f"Logged in to {settings.url} as {who['name']}{where} (stored in {path})", settings.url
    )
    return 0


@auth.command(name="whoami")
def whoami() -> int:
    """Show who the token belongs to and which workspaces it sees."""
    context = current()
    with Api() as api:
        who = api.call("GET", "/v1/whoami")
    rows = [[str(entry["id"]), str(entry["name"])] for entry in who["workspaces"]]
    human: list[str | Table] = [
        f"{who['name']} ({who['type']}) at {context.api().url}",
        table(["Workspace", "Name"], rows),
    ]
    context.output.result(who, human, str(who["name"]))
    return 0


@auth.command(name="logout")
def log_out() -> int:
    """Forget the stored login."""
    context = current()
    gone = login.remove(context.environment)
    context.output.result({"loggedOut": gone}, "Logged out." if gone else "There was no login.")
    return 0


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise validation(f"The token file {path} cannot be read.") from error
    if not token:
        raise validation(f"The token file {path} is empty.")
    return token


def _ask() -> str:
    given = getpass.getpass("Admin token: ") if sys.stdin.isatty() else sys.stdin.readline(_MAX_TOKEN)
    token = given.strip()
    if not token:
        raise validation("There was no token: give it on stdin, by --token-file, or in SWITCHGEAR_API_TOKEN")
    return token
