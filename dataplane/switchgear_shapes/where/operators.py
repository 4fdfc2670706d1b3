"""Which operators there are for which types, and Postgres' way of choosing one. Pure.

Invariant: what is chosen here is an operator of Postgres for exactly these argument types, so that the canonical SQL,
in which every argument has its type written out, means the same there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from switchgear_shapes.where import arithmetic
from switchgear_shapes.where import types as t
from switchgear_shapes.where.expression import Type

COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=")
NEGATED: Final = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
FLIPPED: Final = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator or function: what it takes and gives."""

    args: tuple[Type, ...]
    result: Type


_TABLE: dict[str, list[Signature]] = {}


def _add(name: str, result: Type, *args: Type) -> None:
    _TABLE.setdefault(name, []).append(Signature(args, result))


def _comparisons() -> None:
    integers = (t.INT2, t.INT4, t.INT8)
    groups: list[tuple[Type, ...]] = [integers, (t.FLOAT4, t.FLOAT8), (t.DATE, t.TIMESTAMP)]
    single = (t.NUMERIC, t.TEXT, t.BPCHAR, t.UUID, t.BOOL, t.TIME, t.TIMESTAMPTZ, t.INTERVAL)
    groups += [(kind,) for kind in single]
    for name in COMPARISONS:
        for group in groups:
            for left in group:
                for right in group:
                    _add(name, t.BOOL, left, right)
    for name in ("~~", "~~*", "!~~", "!~~*"):
        _add(name, t.BOOL, t.TEXT, t.TEXT)
        _add(name, t.BOOL, t.BPCHAR, t.TEXT)


_comparisons()
_add("||", t.TEXT, t.TEXT, t.TEXT)
for _name, _args, _result in arithmetic.SIGNATURES:
    _add(_name, _result, *_args)


def known(name: str) -> bool:
    return name in _TABLE


@lru_cache(maxsize=4096)
def choose(name: str, args: tuple[Type, ...]) -> Signature | None:
    """The operator for arguments of these types by Postgres' rules; None if there is none, or more than one."""
    return select(_TABLE.get(name, []), args)


def select(signatures: list[Signature], args: tuple[Type, ...]) -> Signature | None:
    """Postgres' overload resolution: exact, else by implicit casts: most exact, then preferred, then categories."""
    wanted = args
    if len(args) == 2 and (args[0] == t.UNKNOWN) != (args[1] == t.UNKNOWN):
        known_type = args[1] if args[0] == t.UNKNOWN else args[0]
        wanted = (known_type, known_type)
    for signature in signatures:
        if signature.args == wanted or signature.args == args:
            return signature
    candidates = [s for s in signatures if len(s.args) == len(args) and _reachable(args, s.args)]
    if len(candidates) > 1:
        candidates = _best(candidates, lambda s: sum(_base(a) == p for a, p in zip(args, s.args, strict=True)))
    if len(candidates) > 1:
        candidates = _best(
            candidates,
            lambda s: sum(
                a != t.UNKNOWN and (_base(a) == p or _preferred(p)) for a, p in zip(args, s.args, strict=True)
            ),
        )
    if len(candidates) > 1 and t.UNKNOWN in args:
        candidates = _by_category(candidates, args)
    return candidates[0] if len(candidates) == 1 else None


def _base(kind: Type) -> Type:
    """varchar is text to operators: it has none of its own."""
    return kind


def _preferred(kind: Type) -> bool:
    return not kind.array and kind.name in t.PREFERRED


def _reachable(args: tuple[Type, ...], parameters: tuple[Type, ...]) -> bool:
    return all(a == t.UNKNOWN or t.implicit(a, p) for a, p in zip(args, parameters, strict=True))


def _best(candidates: list[Signature], score) -> list[Signature]:  # type: ignore[no-untyped-def]
    scores = [score(candidate) for candidate in candidates]
    return [c for c, s in zip(candidates, scores, strict=True) if s == max(scores)]


def _by_category(candidates: list[Signature], args: tuple[Type, ...]) -> list[Signature]:
    """The last rounds: what unknown literals could be."""
    kept = candidates
    for index, arg in enumerate(args):
        if arg != t.UNKNOWN:
            continue
        kinds = [candidate.args[index] for candidate in kept]
        categories = {t.category(kind) for kind in kinds}
        if "S" in categories:
            wanted = "S"
        elif len(categories) == 1:
            (wanted,) = categories
        else:
            return kept
        kept = [c for c in kept if t.category(c.args[index]) == wanted]
        preferred = [c for c in kept if _preferred(c.args[index])]
        kept = preferred or kept
    if len(kept) > 1:
        known_types = {arg for arg in args if arg != t.UNKNOWN}
        if len(known_types) == 1:
            (only,) = known_types
            fitting = [c for c in kept if all(t.implicit(only, parameter) for parameter in c.args)]
            kept = fitting if len(fitting) == 1 else kept
    return kept
