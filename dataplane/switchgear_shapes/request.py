"""Query parameters of `/v1/shape` → a typed request. Pure: no catalogue, no I/O.

The order of the checks and their texts are the protocol's; the first stage that finds something ends the parse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from switchgear_shapes import offsets
from switchgear_shapes.errors import ShapeError, invalid, invalid_fields
from switchgear_shapes.identifiers import BadIdentifier, parse_list, parse_relation
from switchgear_shapes.offsets import Offset

NOT_YET = "are not supported by this server yet; leave the parameter out."
_SUBSET_KEYS = frozenset({"where", "order_by", "limit", "offset", "params", "where_expr", "order_by_expr"})


@dataclass(frozen=True, slots=True)
class ShapeParams:
    """What names a shape, as the client wrote it: hashable, so that it can be an index into resolved shapes."""

    schema: str
    table: str
    columns: tuple[str, ...] | None
    queryable_columns: tuple[str, ...] | None
    full_replica: bool
    changes_only: bool


@dataclass(frozen=True, slots=True)
class ShapeRequest:
    """One request for (a part of) a shape's log. `offset` is None for `now`."""

    params: ShapeParams
    offset: Offset | None
    offset_text: str
    handle: str | None
    live: bool
    sse: bool
    cursor: int


def query_map(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pairs of a query string → map; the last of a name wins, as form decoders do."""
    return dict(pairs)


def parse(query: dict[str, str]) -> ShapeRequest:
    """The request that the parameters mean. Raises ShapeError (400)."""
    _check_casts(query)
    offset, offset_text = _offset(query)
    handle = query.get("handle") or None
    initial = offset is None or offset == offsets.BEFORE_ALL
    if handle is None and not initial:
        raise invalid("handle", "can't be blank when offset != -1")
    live = _flag(query, "live")
    if live and offset == offsets.BEFORE_ALL:
        raise invalid("live", "can't be true when offset == -1")
    if live and offset is None:
        raise invalid("live", "can't be true when offset is 'now'")
    sse = _flag(query, "live_sse" if "live_sse" in query else "experimental_live_sse")
    if sse and not live:
        raise invalid("live_sse", "can't be true unless live is also true")
    return ShapeRequest(
        params=parse_params(query),
        offset=offset,
        offset_text=offset_text,
        handle=None if initial else handle,
        live=live,
        sse=sse,
        cursor=_cursor(query.get("cursor", "")),
    )


def parse_params(query: dict[str, str]) -> ShapeParams:
    """The shape's definition alone (DELETE uses only this). Raises ShapeError (400)."""
    table = query.get("table", "")
    if not table.strip():
        raise invalid("table", "can't be blank")
    try:
        schema, name = parse_relation(table)
    except BadIdentifier as error:
        raise invalid("table", str(error)) from None
    columns = _columns(query, "columns", "columns")
    queryable = _columns(query, "queryable_columns", "queryable columns")
    _refuse_later_parameters(query)
    return ShapeParams(
        schema=schema,
        table=name,
        columns=columns,
        queryable_columns=queryable,
        full_replica=query.get("replica") == "full",
        changes_only=query.get("log") == "changes_only",
    )


def check_body(body: Any) -> None:
    """The body of a POST may only carry subset keys. Raises ShapeError (400)."""
    if not isinstance(body, dict):
        raise ShapeError(400, {"error": "Request body must be a JSON object"})
    allowed = _SUBSET_KEYS | {"subset"}
    unknown = sorted(key for key in body if key not in allowed)
    if unknown:
        raise invalid_fields(
            {key: ["is not allowed in the request body; only subset keys are"] for key in unknown[:20]}
        )
    if body:
        raise invalid("subset", f"Subset snapshots {NOT_YET}")


def _check_casts(query: dict[str, str]) -> None:
    errors: dict[str, list[str]] = {}
    if query.get("replica", "default") not in ("default", "full"):
        errors["replica"] = ["is invalid"]
    if query.get("log", "full") not in ("full", "changes_only"):
        errors["log"] = ["is invalid"]
    if query.get("experimental_compaction", "false") not in ("true", "false", "1", "0", ""):
        errors["experimental_compaction"] = ["is invalid"]
    if errors:
        raise invalid_fields(errors)


def _offset(query: dict[str, str]) -> tuple[Offset | None, str]:
    text = query.get("offset", "")
    if not text:
        raise invalid("offset", "can't be blank")
    if text == "now":
        return None, "now"
    offset = offsets.parse(text)
    if offset is None:
        raise invalid("offset", "has invalid format")
    return offset, offsets.render(offset)


def _flag(query: dict[str, str], name: str) -> bool:
    return name in query and query[name] != "false"


def _cursor(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _columns(query: dict[str, str], field: str, what: str) -> tuple[str, ...] | None:
    if field not in query:
        return None
    try:
        names = parse_list(query[field])
    except BadIdentifier as error:
        raise invalid(field, str(error)) from None
    if not names:
        raise invalid(field, f"The list of {what} must not be empty")
    return tuple(sorted(set(names)))


def _refuse_later_parameters(query: dict[str, str]) -> None:
    """Filters change which rows a client may see: one that cannot be applied must never be ignored."""
    errors: dict[str, list[str]] = {}
    if query.get("where"):
        errors["where"] = [f"Where clauses {NOT_YET}"]
    for key in query:
        if key == "params" or key.startswith("params["):
            errors["params"] = [f"Parameters {NOT_YET}"]
        elif key.startswith(("subset__", "subset[")) or key == "subset":
            errors["subset"] = [f"Subset snapshots {NOT_YET}"]
    if query.get("experimental_compaction") in ("true", "1"):
        errors["experimental_compaction"] = [f"Compacted logs {NOT_YET}"]
    if errors:
        raise invalid_fields(errors)
