"""What tells a client why a row is in a shape: `tags` and `active_conditions`, from stream rows and in SQL. Pure.

A tag is one disjunct: for each position a slot, joined by `/`; empty where the disjunct does not ask the position, `1`
for a condition without a subquery, else a hash of the row's key at that position. The stream side and the SQL side
make the same bytes. The salt (the shape's handle) keeps hashes of one shape from being looked up in another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from switchgear_shapes.identifiers import literal, quote
from switchgear_shapes.subqueries.equality import Key, normal_sql
from switchgear_shapes.subqueries.plan import Membership, Plain, Plan
from switchgear_shapes.where.expression import Column, Expression, Subquery

Render = Callable[[Expression], str]

PLAIN_SLOT = "1"


def slot(salt: str, key: Key) -> str:
    """The hash of a key."""
    parts = [salt.encode()]
    for value in key:
        parts.append(b"/_" if value is None else b'/"' + value.replace(b"/", b"//") + b'"')
    return hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()


def tags(plan: Plan, slots: Sequence[str]) -> list[str]:
    """One tag per disjunct; `slots` has one entry per position."""
    width = range(len(slots))
    return ["/".join(slots[at] if at in disjunct else "" for at in width) for disjunct in plan.disjuncts]


def header_fields(row_tags: Sequence[str], truths: Sequence[bool], removed: Sequence[str] = ()) -> bytes:
    """The fields for a message's headers, each with its comma."""
    fields = f'"tags":[{_quoted(row_tags)}],'
    if removed:
        fields += f'"removed_tags":[{_quoted(removed)}],'
    conditions = ",".join("true" if truth else "false" for truth in truths)
    fields += f'"active_conditions":[{conditions}],'
    return fields.encode()


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f'"{name}"' for name in names)


def replaceable(removed: Sequence[str], kept: Sequence[str]) -> bool:
    """Whether clients can take tags from a row that keeps others.

    They index a row by its slots, and with a removed tag they forget all of its slots, also one that a kept tag has.
    """
    held = {(at, text) for tag in kept for at, text in enumerate(tag.split("/")) if len(text) > 1}
    return all((at, text) not in held for tag in removed for at, text in enumerate(tag.split("/")))


# -- SQL --


def condition_sql(plan: Plan, position: int, render: Render) -> str:
    """A boolean that is never NULL: whether the condition is true of the row."""
    condition = plan.conditions[position]
    if isinstance(condition, Plain):
        return f"(({render(condition.expression)}) IS TRUE)"
    columns = ", ".join(quote(column.name) for column in condition.columns)
    left = columns if len(condition.columns) == 1 else f"({columns})"
    operator = "NOT IN" if condition.negated else "IN"
    return f"(({left} {operator} ({select_sql(plan.subqueries[condition.query])})) IS TRUE)"


def select_sql(query: Subquery) -> str:
    columns = ", ".join(quote(column.name) for column in query.columns)
    where = "" if query.where is None else f" WHERE ({query.where.sql})"
    return f"SELECT {columns} FROM ONLY {quote(query.schema)}.{quote(query.table)}{where}"  # noqa: S608 - quoted


def slot_sql(salt: str, columns: Sequence[Column]) -> str:
    parts = [literal(salt)]
    for column in columns:
        name = quote(column.name)
        text = f"replace({normal_sql(column.type, name)}, '/', '//')"
        parts.append(f"CASE WHEN {name} IS NULL THEN '/_' ELSE '/\"' || {text} || '\"' END")
    return f"md5(convert_to({' || '.join(parts)}, 'UTF8'))"


def fields_sql(plan: Plan, salt: str, truths: Sequence[str]) -> str:
    """SQL for the bytes of `header_fields`; `truths` are the conditions' booleans, as SQL."""
    slots = [
        slot_sql(salt, condition.columns) if isinstance(condition, Membership) else literal(PLAIN_SLOT)
        for condition in plan.conditions
    ]
    parts = [literal('"tags":[')]
    for number, disjunct in enumerate(plan.disjuncts):
        text = '","' if number else '"'
        for at in range(len(slots)):
            text += "/" if at else ""
            if at in disjunct:
                parts += [literal(text), slots[at]]
                text = ""
        parts.append(literal(text))
    parts.append(literal('"],"active_conditions":['))
    for at, truth in enumerate(truths):
        parts.append(f"CASE WHEN {truth} THEN '{',' if at else ''}true' ELSE '{',' if at else ''}false' END")
    parts.append(literal("],"))
    return " || ".join(parts)


def satisfied_sql(plan: Plan, truths: Sequence[str]) -> str:
    """SQL for whether the row is in the shape."""
    if not plan.disjuncts:
        return "false"
    return " OR ".join("(" + " AND ".join(truths[at] for at in disjunct) + ")" for disjunct in plan.disjuncts)
