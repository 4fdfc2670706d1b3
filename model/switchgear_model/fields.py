"""The fields of a resource as the Kubernetes API gives them, one at a time, each of the type that it must have.

Every reader raises `ModelError` with the field's path. No I/O, and nothing here knows the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ModelError(ValueError):
    """A field of a resource that is not what it must be. `field` is its path, such as ``spec.storage.size``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ModelError(path, "must be an object")
    return value


def sequence(value: Any, path: str) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ModelError(path, "must be a list")
    return value


def optional_text(raw: Mapping[str, Any], key: str, path: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{path}.{key}", "must be a string")
    return value


def text(raw: Mapping[str, Any], key: str, path: str) -> str:
    value = optional_text(raw, key, path)
    if not value:
        raise ModelError(f"{path}.{key}", "required")
    return value


def integer(raw: Mapping[str, Any], key: str, path: str, default: int) -> int:
    value = raw.get(key, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{path}.{key}", "must be a whole number")
    return value


def boolean(raw: Mapping[str, Any], key: str, path: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{path}.{key}", "must be true or false")
    return bool(value)
