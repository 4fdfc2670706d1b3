"""The SQL of shapes with subqueries: what a subquery returns, and what leaves and enters a shape. Pure text.

Names and literals are quoted, filters are canonical text. Values are rendered as in `snapshot`.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from switchgear_shapes.definition import Definition
from switchgear_shapes.identifiers import literal, quote
from switchgear_shapes.postgres.session import Row
from switchgear_shapes.relations import Relation
from switchgear_shapes.snapshot import COPY_OPTIONS, key_sql, table_sql, values_sql
from switchgear_shapes.subqueries.equality import Key, normal_sql
from switchgear_shapes.subqueries.moves import Flips
from switchgear_shapes.subqueries.plan import Membership, Plan
from switchgear_shapes.subqueries.plan import plan as plan_of
from switchgear_shapes.subqueries.tags import condition_sql, fields_sql, satisfied_sql
from switchgear_shapes.subqueries.values import Group
from switchgear_shapes.where.expression import Column, Expression, Subquery
from switchgear_shapes.where.render import render

LEAVES, ENTERS = b"-", b"+"


# -- a subquery's result --


def source_select(spec: Subquery, plan: Plan | None, limit: int) -> str:
    """Groups of a subquery's rows with their number: see `source_rows`. At most `limit` of them."""
    selected = [_normal(column) for column in spec.columns]
    where = ""
    if plan is not None:
        memberships = dict(plan.memberships)
        alive = []
        for disjunct in plan.disjuncts:
            plain = [condition_sql(plan, at, plain_sql) for at in disjunct if at not in memberships]
            alive.append("(" + (" AND ".join(plain) or "true") + ")")
        if memberships:
            selected += [f"{sql}::int" for sql in alive]
        for condition in memberships.values():
            selected += [_normal(column) for column in condition.columns]
        where = f" WHERE {' OR '.join(alive) or 'false'}"
    numbers = ", ".join(str(number + 1) for number in range(len(selected)))
    return (
        f"SELECT {', '.join(selected)}, count(*) FROM ONLY {quote(spec.schema)}.{quote(spec.table)}{where}"  # noqa: S608
        f" GROUP BY {numbers} LIMIT {limit:d}"
    )


def source_rows(spec: Subquery, plan: Plan | None, rows: Sequence[Row]) -> dict[Group, int]:
    """What `source_select` returned."""
    found: dict[Group, int] = {}
    width = len(spec.columns)
    memberships = {} if plan is None else dict(plan.memberships)
    disjuncts = plan.disjuncts if plan is not None and memberships else ()
    for row in rows:
        group = _group(_key(row[:width]), row[width:-1], disjuncts, memberships)
        found[group] = found.get(group, 0) + int(row[-1] or 0)
    return found


def _group(output: Key, rest: Row, disjuncts: Sequence[tuple[int, ...]], memberships: dict[int, Membership]) -> Group:
    alive = [disjunct for disjunct, flag in zip(disjuncts, rest, strict=False) if flag == "1"]
    asked = [tuple(at for at in disjunct if at in memberships) for disjunct in alive]
    if not asked or not all(asked):
        return Group(output)
    keys: dict[int, Key] = {}
    start = len(disjuncts)
    for at, condition in memberships.items():
        keys[at] = _key(rest[start : start + len(condition.columns)])
        start += len(condition.columns)
    return Group(output, tuple(dict.fromkeys(tuple((at, keys[at]) for at in positions) for positions in asked)))


def _normal(column: Column) -> str:
    name = quote(column.name)
    return f"CASE WHEN {name} IS NOT NULL THEN {normal_sql(column.type, name)} END"


def _key(row: Row) -> Key:
    return tuple(None if value is None else value.encode() for value in row)


# -- what leaves and enters a shape --


def step_statement(definition: Definition, relation: Relation, plan: Plan, handle: str, flips: Flips) -> str:
    """COPY of one line per row that leaves or enters because of `flips`, without their offsets.

    Run in a snapshot in which the flips have happened: what a condition was before is what it is now, but for the keys
    that changed. The first character of a line is LEAVES or ENTERS.
    """
    prefix = _unused_prefix(relation)
    names = [quote(f"{prefix}{at}") for at in range(len(plan.conditions))]
    earlier = list(names)
    where = definition.where
    used = {*definition.columns, *definition.key_columns, *definition.hidden_columns, *(where.columns if where else ())}
    inner = [quote(name) for name in sorted(used)]
    touched = []
    for at, name in enumerate(names):
        inner.append(f"{condition_sql(plan, at, plain_sql)} AS {name}")
        condition = plan.conditions[at]
        if at in flips and isinstance(condition, Membership):
            among = keys_sql(condition.columns, list(flips[at]))
            touched.append(among)
            flipped = quote(f"{prefix}f{at}")
            inner.append(f"(({among}) IS TRUE) AS {flipped}")
            earlier[at] = f"({name} <> {flipped})"
    now, was = satisfied_sql(plan, names), satisfied_sql(plan, earlier)
    columns = {column.name: column for column in relation.columns}
    everything = definition.full_replica or not definition.pk
    left = [name for name in definition.columns if everything or name in definition.pk]
    key = literal('{"key":') + " || " + key_sql(definition, columns) + " || " + literal(',"value":{') + " || "
    table = orjson.dumps([definition.schema, definition.table]).decode()
    leaving = " || ".join(
        [
            f"'{LEAVES.decode()}' || {key}{values_sql(columns, left)}",
            literal(f'}},"headers":{{"operation":"delete","relation":{table},'),
        ]
    )
    entering = " || ".join(
        [
            f"'{ENTERS.decode()}' || {key}{values_sql(columns, definition.columns)}",
            literal(f'}},"headers":{{"operation":"insert","relation":{table},"is_move_in":true,'),
            fields_sql(plan, handle, names),
        ]
    )
    query = (
        f"SELECT CASE WHEN {was} THEN {leaving} ELSE {entering} END"  # noqa: S608 - every name and value is quoted
        f" FROM (SELECT {', '.join(inner)} FROM {table_sql(definition)} WHERE {' OR '.join(touched)}) AS changed"
        f" WHERE ({was}) <> ({now})"
    )
    return f"COPY ({query}) TO STDOUT WITH ({COPY_OPTIONS})"


def keys_sql(columns: Sequence[Column], keys: Sequence[Key]) -> str:
    """Whether the columns are one of the keys, NULL being equal to NULL; true, or false, or NULL for no."""
    names = [quote(column.name) for column in columns]
    whole = [key for key in keys if None not in key]
    parts = []
    if whole and len(names) == 1:
        parts.append(f"{names[0]} IN ({', '.join(_value(key[0]) for key in whole)})")
    elif whole:
        rows = ", ".join("(" + ", ".join(_value(value) for value in key) + ")" for key in whole)
        parts.append(f"({', '.join(names)}) IN ({rows})")
    for key in keys:
        if None in key:
            compared = zip(names, key, strict=True)
            tests = [f"{name} IS NULL" if value is None else f"{name} = {_value(value)}" for name, value in compared]
            parts.append("(" + " AND ".join(tests) + ")")
    return " OR ".join(parts)


def _value(value: bytes | None) -> str:
    assert value is not None
    return literal(value.decode())


def _unused_prefix(relation: Relation) -> str:
    """A beginning of names that no column has."""
    prefix = "condition"
    while any(column.name.startswith(prefix) for column in relation.columns):
        prefix += "_"
    return prefix


def header_fields(definition: Definition, handle: str) -> str | None:
    """SQL for the header fields of a row that is in the shape: tags and active conditions, each with its comma.

    None for a shape without subqueries.
    """
    where = definition.where
    if where is None or not where.subqueries:
        return None
    made = plan_of(where)
    return fields_sql(made, handle, [condition_sql(made, at, plain_sql) for at in range(len(made.conditions))])


def plain_sql(expression: Expression) -> str:
    """A condition without subqueries."""
    return render(expression)
