"""Query parameters of `/v1/shape` → a typed request. Pure: no catalogue, no I/O.

The order of the checks and their texts are the protocol's; the first stage that finds something ends the parse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from switchgear_shapes import offsets
from switchgear_shapes.errors import invalid, invalid_fields
from switchgear_shapes.identifiers import BadIdentifier, parse_list, parse_relation
from switchgear_shapes.offsets import Offset
from switchgear_shapes.parameters import Query, numbered
from switchgear_shapes.subset_request import NO_UTF8, Subset, from_query

_NAMES = (
    *("table", "offset", "handle", "live", "live_sse", "experimental_live_sse", "cursor", "where", "params"),
    *("columns", "queryable_columns", "replica", "log", "experimental_compaction"),
)
_PLAIN = frozenset(_NAMES)
_BOOLEANS = frozenset({"true", "false", "1", "0", ""})


@dataclass(frozen=True, slots=True)
class ShapeParams:
    """What names a shape, as the client wrote it: hashable, so that it can be an index into resolved shapes."""

    schema: str
    table: str
    columns: tuple[str, ...] | None
    queryable_columns: tuple[str, ...] | None
    full_replica: bool
    changes_only: bool
    where: str | None = None
    values: tuple[str, ...] = ()
    """What the clause's `$1`, `$2`, … stand for."""
    compaction: bool = False

    @property
    def weight(self) -> int:
        """About how many characters it holds."""
        return len(self.where or "") + sum(map(len, self.values))


@dataclass(frozen=True, slots=True)
class ShapeRequest:
    """One request for (a part of) a shape's log, or for a subset of its rows. `offset` is None for `now`."""

    params: ShapeParams
    offset: Offset | None
    offset_text: str
    handle: str | None
    live: bool
    sse: bool
    cursor: int
    subset: Subset | None = None


def parse(query: Query) -> ShapeRequest:
    """The request that the parameters mean. Raises ShapeError (400)."""
    _check_casts(query)
    values = query.values
    offset, offset_text = _offset(values)
    handle = values.get("handle") or None
    initial = offset is None or offset == offsets.BEFORE_ALL
    if handle is None and not initial:
        raise invalid("handle", "can't be blank when offset != -1")
    live = _flag(values, "live")
    if live and offset == offsets.BEFORE_ALL:
        raise invalid("live", "can't be true when offset == -1")
    if live and offset is None:
        raise invalid("live", "can't be true when offset is 'now'")
    sse = _flag(values, "live_sse" if "live_sse" in values else "experimental_live_sse")
    if sse and not live:
        raise invalid("live_sse", "can't be true unless live is also true")
    return ShapeRequest(
        params=_parse_params(query),
        offset=offset,
        offset_text=offset_text,
        handle=None if initial else handle,
        live=live,
        sse=sse,
        cursor=_cursor(values.get("cursor", "")),
        subset=from_query(query),
    )


def parse_params(query: Query) -> ShapeParams:
    """The shape's definition alone (DELETE uses only this). Raises ShapeError (400)."""
    _check_casts(query)
    return _parse_params(query)


def with_body(request: ShapeRequest, subset: Subset) -> ShapeRequest:
    """The request with the subset that its body asks for. Raises ShapeError (400)."""
    if request.subset is not None:
        raise invalid("subset", "is given both in the query and in the body")
    return replace(request, subset=subset)


def _parse_params(query: Query) -> ShapeParams:
    values = query.values
    table = values.get("table", "")
    if not table.strip():
        raise invalid("table", "can't be blank")
    try:
        schema, name = parse_relation(table)
    except BadIdentifier as error:
        raise invalid("table", str(error)) from None
    where = values.get("where", "")
    try:
        numbers = numbered(query.maps.get("params", {}))
    except ValueError as error:
        raise invalid("params", str(error)) from None
    return ShapeParams(
        schema=schema,
        table=name,
        columns=_columns(values, "columns", "columns"),
        queryable_columns=_columns(values, "queryable_columns", "queryable columns"),
        full_replica=values.get("replica") == "full",
        changes_only=values.get("log") == "changes_only",
        where=where if where.strip() else None,
        values=numbers,
        compaction=values.get("experimental_compaction") in ("true", "1"),
    )


def _check_casts(query: Query) -> None:
    """What cannot be read at all: one answer for all such fields together."""
    errors = {name: ["is invalid"] for name in sorted(query.nested & _PLAIN)}
    errors |= {name: [NO_UTF8] for name in sorted(query.broken & _PLAIN)}
    values = query.values
    if values.get("replica", "") not in ("", "default", "full"):
        errors["replica"] = ["is invalid"]
    if values.get("log", "") not in ("", "full", "changes_only"):
        errors["log"] = ["is invalid"]
    if values.get("experimental_compaction", "") not in _BOOLEANS:
        errors["experimental_compaction"] = ["is invalid"]
    if values.get("params"):
        errors["params"] = ["is invalid"]
    if errors:
        raise invalid_fields(errors)


def _offset(values: dict[str, str]) -> tuple[Offset | None, str]:
    text = values.get("offset", "")
    if not text:
        raise invalid("offset", "can't be blank")
    if text == "now":
        return None, "now"
    offset = offsets.parse(text)
    if offset is None:
        raise invalid("offset", "has invalid format")
    return offset, offsets.render(offset)


def _flag(values: dict[str, str], name: str) -> bool:
    return name in values and values[name] != "false"


def _cursor(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _columns(values: dict[str, str], field: str, what: str) -> tuple[str, ...] | None:
    if field not in values:
        return None
    try:
        names = parse_list(values[field])
    except BadIdentifier as error:
        raise invalid(field, str(error)) from None
    if not names:
        raise invalid(field, f"The list of {what} must not be empty")
    return tuple(sorted(set(names)))
