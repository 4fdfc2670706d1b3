"""The entry point of `switchgear`: takes the global options, finds the command, turns failures into exit statuses.

Nothing here or below prints a traceback for something a user can cause.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import metadata

from cyclopts import App, CycloptsError

from switchgear_cli import options
from switchgear_cli.commands import apply, auth, environments, region, services, status
from switchgear_cli.context import Context, set_current
from switchgear_cli.failures import GENERIC, VALIDATION, Failure
from switchgear_cli.output import Output, printable

_HELP = "Switchgear: a self-hosted Electric Cloud. Start with `switchgear up --demo`."
_INTERRUPTED = 130


def build() -> App:
    """The whole command."""
    app = App(
        name="switchgear",
        help=_HELP,
        help_epilogue=options.HELP,
        help_format="markdown",
        version=metadata.version("switchgear"),
    )
    for module in (region, apply, status, environments, services, auth):
        module.register(app)
    return app


def run(argv: Sequence[str]) -> int:
    """Runs one command line; the exit status."""
    output = Output(json="--json" in argv, quiet=False)
    try:
        chosen, rest = options.split(argv)
        output = Output(chosen.json, chosen.quiet)
        set_current(Context(chosen, output))
        result = build()(rest, exit_on_error=False, print_error=False, result_action="return_value")
    except Failure as failure:
        output.failure(failure)
        return failure.exit_code
    except CycloptsError as error:
        output.failure(Failure(VALIDATION, f"{printable(str(error)).strip()} (see --help)"))
        return VALIDATION
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _closed_pipe()
    except Exception as error:
        if not _is_local_error(error):
            raise
        output.failure(Failure(GENERIC, str(error)))
        return GENERIC
    return result if isinstance(result, int) else 0


def main() -> None:
    """`switchgear`."""
    # Libraries log requests with their URLs; a command's own words are enough.
    for noisy in ("httpx", "httpx2", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    sys.exit(run(sys.argv[1:]))


def _closed_pipe() -> int:
    # `switchgear status | head`: nobody reads on. Python would complain at exit when it flushes stdout.
    sys.stdout = None
    return 0


def _is_local_error(error: Exception) -> bool:
    """Whether the local region says that something on this machine is in the way; its message is for people."""
    errors = sys.modules.get("switchgear_local.errors")
    return errors is not None and isinstance(error, errors.LocalError)


if __name__ == "__main__":
    main()
