"""Floats are printed digit for digit as Postgres does: constants of clauses are compared as texts with the stream's."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

import pytest

from switchgear_shapes.where.values import float4, print_float4, print_float8
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


def between(bits: int, highest: int) -> list[float]:
    """Short decimals that lie exactly between two floats of so many bits, as what reading them gives."""
    found = []
    for power in range(40):
        for digits in range(1, 2000):
            number = digits * 10**power
            size = number.bit_length()
            if bits < size <= highest and (number >> (size - bits - 1)) % 2 and not number % (1 << (size - bits - 1)):
                found.append(float(number))
    return found


def doubles(rng: random.Random) -> list[float]:
    found = between(53, 1000)
    assert 1e23 in found
    found += [math.ldexp(1.0, exponent) for exponent in range(-1074, 1024)]
    found += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(3000)]
    found += [float(rng.getrandbits(rng.randrange(50, 70))) for _ in range(3000)]
    return [value for value in found if math.isfinite(value)]


def singles(rng: random.Random) -> list[float]:
    found = [float4(value) for value in between(24, 127)]
    found += [math.ldexp(sign, exponent) for exponent in range(-149, 128) for sign in (1.0, -1.0)]
    found += [struct.unpack("<f", rng.randbytes(4))[0] for _ in range(3000)]
    found += [float4(rng.getrandbits(rng.randrange(20, 40)) / 8) for _ in range(3000)]
    return [value for value in found if math.isfinite(value)]


@pytest.mark.parametrize(
    ("kind", "values", "shown"), [("float8", doubles, print_float8), ("float4", singles, print_float4)]
)
def test_floats_are_printed_as_postgres_does(
    database: Database, kind: str, values: Callable[[random.Random], list[float]], shown: Callable[[float], str]
) -> None:
    wanted = values(random.Random(5))
    texts = [repr(value) for value in wanted]
    with database.connect() as connection:
        rows = connection.execute(
            f"SELECT x::{kind}::text FROM unnest(%s::text[]) WITH ORDINALITY u(x, n) ORDER BY n".encode(), [texts]
        ).fetchall()
    wrong = [(ours, theirs) for value, (theirs,) in zip(wanted, rows, strict=True) if (ours := shown(value)) != theirs]
    assert wrong == []
