"""Reads the objects to apply from YAML or JSON text. Pure but for reading the files.

Order: namespaces and CRDs first, whatever the file says, because without them the rest has no place; everything else
stays as written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from switchgear_cli.failures import NOT_FOUND, Failure, validation

Json = dict[str, Any]
MAX_BYTES = 16 * 1024 * 1024
_SUFFIXES = (".yaml", ".yml", ".json")


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: what looks like a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FIRST = {"Namespace": 0, "CustomResourceDefinition": 1}


def read(sources: Sequence[str]) -> list[Json]:
    """All objects of files, directories (their .yaml, .yml and .json files) or `-` for stdin, in order of applying.

    Raises Failure naming the file and the document that cannot be read.
    """
    found: list[Json] = []
    for source in sources:
        for name, text in _texts(source):
            found.extend(parse(name, text))
    if not found:
        raise validation(f"There is no object in {', '.join(sources)}.")
    return sorted(found, key=lambda o: _FIRST.get(o["kind"], 2))


def parse(name: str, text: str) -> list[Json]:
    """The objects of one text; `name` is for messages."""
    found: list[Json] = []
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        # Not the error's own text: it quotes the line, which may be part of a Secret.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or "it is not valid YAML"
        raise validation(f"{name} cannot be read{where}: {what}") from None
    except RecursionError:
        raise validation(f"{name} cannot be read: it is nested too deep") from None
    for number, document in enumerate(documents, 1):
        if document is not None:
            found.extend(_objects(f"{name}, document {number}", document))
    return found


def _objects(where: str, document: Any) -> Iterator[Json]:
    if not isinstance(document, dict):
        raise validation(f"{where}: expected an object with apiVersion, kind and metadata, not {_kind_of(document)}")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str) or not document[field]:
            raise validation(f"{where}: {field} is missing")
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], 1):
            yield from _objects(f"{where}, item {number}", item)
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise validation(f"{where} ({document['kind']}): metadata.name is missing")
    if not isinstance(metadata.get("namespace", ""), str):
        raise validation(f"{where} ({document['kind']}): metadata.namespace must be text")
    yield document


def _texts(source: str) -> Iterable[tuple[str, str]]:
    if source == "-":
        return [("standard input", _decode("standard input", sys.stdin.buffer.read(MAX_BYTES + 1)))]
    path = Path(source)
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
            return [(str(p), _decode(str(p), p.read_bytes())) for p in files]
        return [(source, _decode(source, path.read_bytes()))]
    except FileNotFoundError:
        raise Failure(NOT_FOUND, f"There is no file {source}.") from None
    except OSError as error:
        raise Failure(1, f"{source} cannot be read: {error.strerror}") from error


def _decode(name: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise validation(f"{name} is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise validation(f"{name} is not UTF-8 text") from None


def _kind_of(value: Any) -> str:
    return {list: "a list", str: "text", int: "a number", float: "a number", bool: "a boolean"}.get(type(value), "this")
