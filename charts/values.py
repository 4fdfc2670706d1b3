"""A commented values.yaml → its JSON schema and its table. Pure.

A comment that begins with ``--`` describes the value below it and makes it a leaf of the schema; one that begins with
``@schema`` says more about it than its default does: a name of `NAMED`, or a schema as JSON. A mapping without a
description is a section, and takes exactly the keys that stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

Json = dict[str, Any]

_KEY: Final = re.compile(r"^( *)([A-Za-z]\w*):(?: |$)")
_QUANTITY: Final = {"type": ["string", "integer"], "pattern": "^[0-9.]+(m|k|Ki|M|Mi|G|Gi)?$"}
_QUANTITIES: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"cpu": _QUANTITY, "memory": _QUANTITY, "ephemeral-storage": _QUANTITY},
}

NAMED: Final[dict[str, Json]] = {
    "dns-label": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "log-level": {"enum": ["debug", "info", "warning", "error"]},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "name-list": {"type": "array", "maxItems": 100, "items": {"type": "string", "minLength": 1}},
    "string-map": {"type": "object", "additionalProperties": {"type": "string"}},
    "object": {"type": "object"},
    "object-list": {"type": "array", "items": {"type": "object"}},
    "parent-refs": {
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {
                **{key: {"type": "string"} for key in ("group", "kind", "name", "namespace", "sectionName")},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            },
        },
    },
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests"],
        "properties": {"requests": {**_QUANTITIES, "required": ["cpu", "memory"]}, "limits": _QUANTITIES},
    },
}


class ValuesError(Exception):
    """A values.yaml that says too little or something contradictory about one of its values."""


@dataclass(frozen=True)
class Value:
    """One documented value: a leaf of the schema."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: Json


def parse(text: str) -> list[Value]:
    """Every documented value, in order. Raises ValuesError for a leaf without a description."""
    tree = yaml.safe_load(text)
    values: list[Value] = []
    inside: tuple[str, ...] | None = None
    for path, description, narrowed in _keys(text):
        if inside is not None and path[: len(inside)] == inside:
            continue
        inside = None
        default = _at(tree, path)
        if description is None:
            if not isinstance(default, dict) or not default:
                raise ValuesError(f"{'.'.join(path)} has no description")
            continue
        inside = path
        values.append(Value(path, default, description, _schema(path, default, narrowed)))
    return values


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], str | None, str | None]]:
    """(path, description, @schema) of every key in block style."""
    stack: list[tuple[int, str]] = []
    comments: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped.lstrip("#").strip())
            continue
        match = _KEY.match(line)
        if match is not None:
            indent = len(match.group(1))
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, match.group(2)))
            description = next((c[2:].strip() for c in comments if c.startswith("--")), None)
            narrowed = next((c.removeprefix("@schema").strip() for c in comments if c.startswith("@schema")), None)
            yield tuple(name for _, name in stack), description, narrowed
        comments = []


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _schema(path: tuple[str, ...], default: Any, narrowed: str | None) -> Json:
    if narrowed is None:
        for kind, name in ((bool, "boolean"), (int, "integer"), (str, "string")):
            if isinstance(default, kind):
                return {"type": name}
        raise ValuesError(f"{'.'.join(path)} needs an @schema")
    if narrowed.startswith("{"):
        found: Json = json.loads(narrowed)
        return found
    if narrowed not in NAMED:
        raise ValuesError(f"{'.'.join(path)}: there is no schema named {narrowed}")
    return NAMED[narrowed]


def schema(title: str, values: list[Value]) -> Json:
    """The strict JSON schema (draft 7, which Helm reads) of a values file."""
    root: Json = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        "type": "object",
        "additionalProperties": False,
        # Helm adds it when the chart is a part of another.
        "properties": {"global": {"type": "object"}},
    }
    for value in values:
        place = root
        for name in value.path[:-1]:
            empty = {"type": "object", "additionalProperties": False, "properties": {}}
            place = place["properties"].setdefault(name, empty)
        place["properties"][value.path[-1]] = {"description": value.description, **value.schema}
    return root


def table(values: list[Value]) -> str:
    """The values as a table in Markdown."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default, ensure_ascii=False)
        description = value.description.replace("|", "\\|")
        lines.append(f"| `{'.'.join(value.path)}` | `{default}` | {description} |")
    return "\n".join(lines) + "\n"
