"""The parameters of a subset snapshot, from the query or from the body of a POST → typed values. Pure.

Invariant: a body can only say what a subset is, never which shape it is of: a proxy that fixes the shape in the URL
cannot be bypassed by it. Errors are nested under `subset`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from switchgear_shapes.errors import ShapeError, invalid_fields
from switchgear_shapes.parameters import Query, numbered

KEYS = frozenset({"where", "order_by", "limit", "offset", "params", "where_expr", "order_by_expr"})
"""`…_expr` are structured forms of the same filters, for proxies; they are not read here."""
NO_UTF8 = "is not valid UTF-8"
MAX_NUMBER = 2**63 - 1
_NAMED_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Subset:
    """Which rows of the shape are asked for. `where` and `order_by` are SQL as the client wrote it."""

    where: str | None = None
    order_by: str | None = None
    limit: int | None = None
    offset: int | None = None
    params: tuple[str, ...] = ()


def subset_error(**errors: Any) -> ShapeError:
    """400 for subset parameters: field → list of texts (or one text, as the protocol has it for failed casts)."""
    return invalid_fields({"subset": errors})


def from_query(query: Query) -> Subset | None:
    """The subset that the query asks for; None when it asks for the log. Raises ShapeError (400)."""
    if "subset" in query.values:
        raise invalid_fields({"subset": ["is invalid"]})
    names = query.subset_names
    if not names:
        return None
    given: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name in sorted(names & KEYS):
        full = f"subset__{name}"
        if full in query.broken:
            errors[name] = [NO_UTF8]
        elif full in query.nested or (full in query.maps and full in query.values):
            errors[name] = ["is invalid"]
        else:
            given[name] = query.maps[full] if full in query.maps else query.values[full]
    return _subset(given, errors)


def from_body(data: bytes) -> Subset | None:
    """The subset that a POST body asks for; None for an empty one. Raises ShapeError (400)."""
    if not data.strip():
        return None
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ShapeError(400, {"error": "Invalid JSON in request body", "details": str(error)}) from None
    if not isinstance(body, dict):
        raise ShapeError(400, {"error": "Request body must be a JSON object"})
    unknown = sorted(key for key in body if key not in KEYS and key != "subset")
    if unknown:
        text = "is not allowed in the request body; only subset keys are"
        raise invalid_fields({key: [text] for key in unknown[:_NAMED_ERRORS]})
    if "subset" not in body:
        return _subset(body, {}) if body else None
    inner = body["subset"]
    if not isinstance(inner, dict):
        raise invalid_fields({"subset": ["is invalid"]})
    if len(body) > 1:
        raise invalid_fields({"subset": ["is given both as an object and by keys beside it"]})
    unknown = sorted(key for key in inner if key not in KEYS)
    if unknown:
        raise subset_error(**{key: ["is not a subset parameter"] for key in unknown[:_NAMED_ERRORS]})
    return _subset(inner, {})


def _subset(given: dict[str, Any], errors: dict[str, list[str]]) -> Subset:
    where = _text(given, "where", errors)
    order_by = _text(given, "order_by", errors)
    limit = _number(given, "limit", errors)
    offset = _number(given, "offset", errors)
    if limit is not None and limit < 1:
        errors["limit"] = ["must be greater than 0"]
    if offset is not None and offset < 0:
        errors["offset"] = ["must be greater than or equal to 0"]
    params = _params(given.get("params"), errors)
    if not errors and order_by is None and (limit is not None or offset is not None):
        errors["order_by"] = ["order_by is required when limit or offset is present"]
    if errors:
        raise subset_error(**errors)
    return Subset(where, order_by, limit, offset, params)


def _text(given: dict[str, Any], name: str, errors: dict[str, list[str]]) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        errors[name] = ["is invalid"]
        return None
    return value if value.strip() else None


def _number(given: dict[str, Any], name: str, errors: dict[str, list[str]]) -> int | None:
    value = given.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        digits = value.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 20:
            value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_NUMBER:
        errors[name] = ["is invalid"]
        return None
    return value


def _params(value: Any, errors: dict[str, list[str]]) -> tuple[str, ...]:
    """A map, or the JSON text of one. Numbers and booleans count as their text."""
    if isinstance(value, str) and value.strip():
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            errors["params"] = ["is invalid"]
            return ()
    if value is None or value == "":
        return ()
    if not isinstance(value, dict):
        errors["params"] = ["is invalid"]
        return ()
    texts: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, str):
            texts[key] = item
        elif isinstance(item, (bool, int, float)):
            texts[key] = orjson.dumps(item).decode()
        else:
            errors["params"] = ["is invalid"]
            return ()
    try:
        return numbered(texts)
    except ValueError as error:
        errors["params"] = [str(error)]
        return ()
