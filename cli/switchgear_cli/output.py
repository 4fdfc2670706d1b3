"""What the user sees: results on stdout, everything else on stderr; as JSON when asked for.

Text from servers is shown without control characters, so that a name cannot rewrite the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from switchgear_cli.failures import Failure

_COLORS = {
    "active": "green",
    "created": "green",
    "pending": "yellow",
    "validating": "yellow",
    "provisioning": "yellow",
    "configured": "yellow",
    "degraded": "dark_orange",
    "suspended": "bright_black",
    "deleting": "bright_black",
    "unchanged": "bright_black",
    "error": "red",
    "failed": "red",
}


@dataclass(frozen=True)
class Output:
    """How to speak: `json` for programs, `quiet` for only what was asked for."""

    json: bool = False
    quiet: bool = False

    def result(self, data: Any, human: str | Table | Sequence[str | Table], quiet: str | Sequence[str] = ()) -> None:
        """The result of a command in the form that was asked for: `data` for JSON, `quiet` one line each."""
        if self.json:
            sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
        elif self.quiet:
            for line in [quiet] if isinstance(quiet, str) else quiet:
                sys.stdout.write(printable(line) + "\n")
        else:
            console = _console()
            for part in [human] if isinstance(human, str | Table) else human:
                if isinstance(part, Table):
                    console.print(part)
                else:
                    sys.stdout.write(printable(part) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Progress and hints for people; nothing in JSON or quiet mode."""
        if not self.json and not self.quiet:
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def failure(self, failure: Failure) -> None:
        """Why the command ends."""
        if self.json:
            body = {"error": failure.word, "message": failure.message, "exitCode": failure.exit_code}
            sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")
        else:
            sys.stderr.write("error: " + printable(failure.message) + "\n")
        sys.stderr.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> Table:
    """A plain table; the columns State, Status and Result are coloured by what they say."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(column, value) for column, value in zip(columns, row, strict=True)))
    return made


def printable(text: str) -> str:
    """The text without control characters but for line breaks and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _cell(column: str, value: str | None) -> Text:
    text = printable(value or "-").replace("\n", " ")
    state = column in ("State", "Status", "Result")
    return Text(text, style=_COLORS.get(text, "") if state else "")


def _console() -> Console:
    # A pipe has no width: lines must not be folded there, or grep finds half a URL.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 400, highlight=False, markup=False)
