"""The documentation pages as data: their sections, and the rows of their tables."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Every room, and where its packages are.
ROOMS = {
    "switchgear_model": ROOT / "model",
    "switchgear_operator": ROOT / "operator",
    "switchgear_wire": ROOT / "dataplane",
    "switchgear_edge": ROOT / "dataplane",
    "switchgear_shapes": ROOT / "dataplane",
    "switchgear_streams": ROOT / "dataplane",
    "switchgear_api": ROOT / "api",
    "switchgear_cli": ROOT / "cli",
    "switchgear_local": ROOT / "local",
    "switchgear_infra": ROOT / "infra",
}
_CELL_ENDS = re.compile(r"(?<!\\)\|")


def text(name: str) -> str:
    """A page of docs/."""
    return (DOCS / name).read_text("utf-8")


def section(page: str, heading: str) -> str:
    """What stands below the heading, up to the next one of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    lines = iter(text(page).splitlines())
    assert any(line == heading for line in lines), f"docs/{page} has no heading {heading!r}"
    found = []
    for line in lines:
        if re.match(rf"#{{1,{level}}} ", line):
            break
        found.append(line)
    return "\n".join(found)


def rows(markdown: str) -> list[list[str]]:
    """The cells of every table row, header rows too."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not re.match(r"\|[-:|\s]+$", line)]
    return [[cell.strip().replace("\\|", "|") for cell in _CELL_ENDS.split(line)[1:-1]] for line in lines]


def codes(markdown: str) -> set[str]:
    """Everything between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", markdown))


@cache
def sources(package: str) -> dict[str, str]:
    """A room's modules: path below the repository's root → text."""
    folder = ROOMS[package] / package
    return {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in sorted(folder.rglob("*.py"))}


@cache
def trees(package: str) -> list[ast.Module]:
    """The same, parsed."""
    return [ast.parse(source) for source in sources(package).values()]


@cache
def strings(package: str) -> set[str]:
    """Every string constant of a room's modules."""
    return {
        node.value
        for tree in trees(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
