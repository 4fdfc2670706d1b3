"""Parts of the range of ports: they do not meet, whatever the number of workers."""

from __future__ import annotations

import pytest

from tests.support.ports import part


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_do_not_meet(count: int) -> None:
    parts = [range(*part(15_000, 32_000, index, count)) for index in range(count)]
    ports = [port for one in parts for port in one]
    assert len(set(ports)) == len(ports) > 16_990
    assert set(ports) <= set(range(15_000, 32_000))
