"""`up`, `down`, `kubeconfig`: the local region."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from switchgear_cli import region
from switchgear_cli.context import current
from switchgear_cli.failures import GENERIC, Failure, validation

DataDir = Annotated[
    Path | None,
    Parameter(help="Where the region keeps its state (SWITCHGEAR_DATA_DIR)."),
]
_MAX_URL = 4096


def register(app: App) -> None:
    """Adds the commands."""
    app.command(up, name="up")
    app.command(down, name="down")
    app.command(kubeconfig, name="kubeconfig")


def up(
    *,
    demo: Annotated[bool, Parameter(negative=(), help="Also the quickstart, a database and a live page.")] = False,
    database_url: Annotated[
        str | None,
        Parameter(
            help="Database for the demo instead of its own; `-` reads it from stdin. Other users of the machine can "
            "see a command line: prefer --database-url-env.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    database_url_env: Annotated[
        str | None, Parameter(help="Name of the environment variable with the database's URL.")
    ] = None,
    data_dir: DataDir = None,
) -> int:
    """Start a whole region on this machine, until Ctrl-C."""
    url = secret_value("--database-url", database_url, database_url_env)
    if url is not None and not demo:
        raise validation("--database-url goes with --demo: plain `up` uses no database")
    return _status(region.commands().up(demo=demo, database_url=url, data_dir=data_dir))


def down(
    *,
    wipe: Annotated[
        bool, Parameter(negative=(), help="Then remove everything: services, replication slots, all state.")
    ] = False,
    data_dir: DataDir = None,
) -> int:
    """Stop the region that runs on this machine; `up` finds everything again."""
    return _status(region.commands().down(wipe=wipe, data_dir=data_dir))


def kubeconfig(*, data_dir: DataDir = None) -> int:
    """Print the path of the region's kubeconfig, for kubectl: export KUBECONFIG=$(switchgear kubeconfig)."""
    found = str(region.kubeconfig(data_dir))
    current().output.result({"kubeconfig": found}, found, found)
    return 0


def secret_value(flag: str, given: str | None, variable: str | None) -> str | None:
    """A secret from its flag (`-` is stdin), or from the environment variable `variable`. Raises Failure."""
    if given is not None and variable is not None:
        raise validation(f"give either {flag} or {flag}-env, not both")
    if variable is not None:
        value = os.environ.get(variable, "")
        if not value:
            raise validation(f"{flag}-env: the environment variable {variable} is not set")
        return value.strip()
    if given == "-":
        value = sys.stdin.readline(_MAX_URL + 1).strip()
        if not value:
            raise validation(f"{flag} -: there was nothing on stdin")
        return value
    if given is not None and not given.strip():
        raise validation(f"{flag} is empty")
    return given


def _status(result: object) -> int:
    if result is None:
        return 0
    if isinstance(result, int):
        return result
    raise Failure(GENERIC, f"unexpected result of the local region: {type(result).__name__}")
