"""docs/architecture.md has a line for every module, and no line for a module that is gone; links lead somewhere."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs import pages

PAGE = "architecture.md"


def modules(room: str) -> set[str]:
    """Paths below the package; an `__init__.py` that only says what the package is does not count."""
    folder = pages.ROOMS[room] / room
    found = set()
    for path, source in pages.sources(room).items():
        name = str((pages.ROOT / path).relative_to(folder))
        if not name.endswith("__init__.py") or _has_code(source):
            found.add(name)
    return found


def _has_code(source: str) -> bool:
    return any(
        not isinstance(node, ast.Expr) and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        for node in ast.parse(source).body
    )


@pytest.mark.parametrize("room", pages.ROOMS)
def test_every_module_is_in_the_map(room: str) -> None:
    folder = pages.ROOMS[room].relative_to(pages.ROOT)
    table = pages.rows(pages.section(PAGE, f"### `{folder}/{room}`"))[1:]
    listed = [name.strip("`") for name, _ in table]
    assert len(listed) == len(set(listed))
    assert modules(room) == set(listed)
    assert all(len(does) > 10 for _, does in table)


def test_links_and_anchors_lead_somewhere() -> None:
    checked = 0
    for page in [*pages.DOCS.glob("*.md"), *pages.ROOT.glob("*.md")]:
        markdown = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", markdown):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            if found.is_relative_to(pages.DOCS):
                assert found.exists(), f"{page.name}: {target}"
                checked += 1
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name}: {target}"
    assert checked > 5
