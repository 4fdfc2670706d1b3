"""The way from the command line to the local region, which is another room and may not be installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from switchgear_cli.failures import GENERIC, NOT_FOUND, Failure


def commands() -> ModuleType:
    """`switchgear_local.commands`. Raises Failure when the extra `local` is not installed."""
    try:
        return importlib.import_module("switchgear_local.commands")
    except ModuleNotFoundError as error:
        message = f"This needs the local region, which is not installed ({error.name}): pip install 'switchgear[local]'"
        raise Failure(GENERIC, message, "NOT_INSTALLED") from error


def kubeconfig(data_dir: Path | None) -> Path:
    """The admin kubeconfig of the local region. Raises Failure (not found) when there is no region."""
    found = find_kubeconfig(data_dir)
    if found is None:
        raise Failure(NOT_FOUND, "There is no local region here. Start one with `switchgear up`.")
    return found


def find_kubeconfig(data_dir: Path | None) -> Path | None:
    """The same, or None."""
    found = Path(commands().kubeconfig(data_dir=data_dir))
    return found if found.is_file() else None
