"""Every test runs once, what belongs together in one piece, and no name in the tables is of yesterday."""

from __future__ import annotations

from pathlib import Path

from tests.support.schedule import SECONDS, SHARING, in_order, unit

ROOT = Path(__file__).resolve().parents[2]


def test_the_longest_first_and_in_one_piece() -> None:
    nodeids = [
        "tests/wire/test_a.py::test_1",
        "tests/edge/test_a.py::test_1[a::b]",
        "tests/wire/test_a.py::test_2",
        "tests/shapes/test_oracle.py::test_2",
        "tests/wire/test_b.py::test_1",
        "tests/api/test_a.py::test_1",
        "tests/shapes/test_oracle.py::test_1",
    ]
    assert in_order(nodeids) == [1, 5, 3, 6, 0, 2, 4]


def test_the_names_are_of_files() -> None:
    paths = {path for paths in SHARING.values() for path in paths} | (set(SECONDS) - set(SHARING))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_a_unit_has_what_it_shares() -> None:
    assert unit("tests/node/test_pods.py::test_x") == unit("tests/local/test_region_processes.py::test_y")
    assert unit("tests/local/test_wipe.py::test_x[tests/node/]") == "tests/local/test_wipe.py"
