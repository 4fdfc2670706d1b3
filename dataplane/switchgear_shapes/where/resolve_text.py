"""Typing of LIKE and of COLLATE. Pure."""

from __future__ import annotations

import dataclasses
from typing import Final

from switchgear_shapes.where import canonical, like
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Resolving, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression
from switchgear_shapes.where.grammar import Tree, names_of

LIKE: Final = {"~~": False, "!~~": True, "~~*": False, "!~~*": True}
"""The operators, and whether they are negated."""


def like_test(typing: Coercion, name: str, left: Term, right: Term, location: int) -> Expression:
    merged = typing.merged(left, right)
    if not merged.explicit and (
        merged.ambiguous or (merged.collation is not None and not merged.collation.deterministic)
    ):
        raise at(location, 'LIKE needs one deterministic collation; use COLLATE "C"')
    rule = typing.case_rule(location, left, right) if name.endswith("*") else ""
    pattern = right.expression
    if isinstance(pattern, Const) and pattern.text is not None:
        try:
            like.matcher(pattern.text.encode())
        except like.BadPattern as error:
            raise at(location, str(error)) from None
    if any(isinstance(side.expression, Const) and side.expression.text is None for side in (left, right)):
        return canonical.NULL
    args = (left.expression, right.expression)
    call = typing.fold(Call(t.BOOL, name.removeprefix("!"), args, rule), location)
    return canonical.negation(call) if LIKE[name] else call


def collate(typing: Resolving, node: Tree, location: int) -> Term:
    names = names_of(node["collname"])
    if names not in (["C"], ["POSIX"], ["pg_catalog", "C"], ["pg_catalog", "POSIX"]):
        raise at(location, f'collation {".".join(names)} is not supported; only COLLATE "C" is')
    term = typing.resolve(node["arg"])
    if term.type == t.UNKNOWN:
        term = typing.coerce(term, t.TEXT)
    if term.type.array or term.type.name not in t.STRINGS:
        raise at(location, f"collations are not supported by type {t.shown(term.type)}")
    expression = term.expression
    if term.collation is not None and not term.collation.deterministic:
        expression = Call(term.type, "collate", (expression,))
    return dataclasses.replace(term, expression=expression, explicit=True, ambiguous=False, location=location)
