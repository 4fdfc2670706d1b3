"""The options that every command takes, wherever they stand on the command line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from switchgear_cli.failures import validation

HELP = """\
Options of every command, before or after it:

- `--json`: results as JSON on stdout, errors as JSON on stderr
- `-q`, `--quiet`: only the id, URL, path or secret that was asked for
- `--api-url URL`: the API (else SWITCHGEAR_API_URL, ELECTRIC_API_URL, stored login)
- `--workspace NAME`: the workspace (else SWITCHGEAR_WORKSPACE, ELECTRIC_WORKSPACE_ID, stored login)
- `--token TOKEN`: the API's token (else SWITCHGEAR_API_TOKEN, ELECTRIC_API_TOKEN, stored login); others on this
  machine can see a command line, so prefer the variable or `switchgear auth login`

Exit status: 0 done, 1 error, 2 authentication, 3 not found, 4 invalid input, 5 conflict.
"""

_VALUES = ("--api-url", "--token", "--workspace")


@dataclass(frozen=True)
class Options:
    """The global options as typed; None where not given."""

    json: bool = False
    quiet: bool = False
    api_url: str | None = None
    token: str | None = None
    workspace: str | None = None


def split(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Takes the global options out of the arguments. Nothing after `--` is touched. Raises Failure (validation)."""
    options = Options()
    rest: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            return options, [*rest, argument, *arguments]
        if argument == "--json":
            options = replace(options, json=True)
        elif argument in ("-q", "--quiet"):
            options = replace(options, quiet=True)
        elif name in _VALUES:
            if not equals:
                if not arguments:
                    raise validation(f"{name} needs a value")
                value = arguments.pop(0)
            if not value:
                raise validation(f"{name} needs a value")
            options = _with(options, name, value)
        else:
            rest.append(argument)
    return options, rest


def _with(options: Options, name: str, value: str) -> Options:
    if name == "--api-url":
        return replace(options, api_url=value)
    if name == "--token":
        return replace(options, token=value)
    return replace(options, workspace=value)
