"""The files in crds/ are what the model says, bounded everywhere, and small enough for every client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from switchgear_model import crds, kinds

FOLDER = Path(__file__).parents[2] / "crds"


def test_the_files_are_generated_from_the_model() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")}
    assert found == crds.files(), "run `make crds` and commit the result"


def test_the_writer_writes_them(tmp_path: Path) -> None:
    assert crds.main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(crds.files())
    assert crds.main([]) == 2


def schemas(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict) and "type" in schema:
        yield path, schema
        for name, inner in (schema.get("properties") or {}).items():
            yield from schemas(inner, f"{path}.{name}")
        if "items" in schema:
            yield from schemas(schema["items"], f"{path}[]")


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_every_text_and_list_is_bounded_and_described(kind: str) -> None:
    version = crds.crd(kind)["spec"]["versions"][0]
    for path, schema in schemas(version["schema"]["openAPIV3Schema"]):
        if path in (".apiVersion", ".kind", ".metadata"):
            continue
        assert schema.get("description"), path
        if schema["type"] == "string" and "enum" not in schema:
            assert "maxLength" in schema, path
        if schema["type"] == "array":
            assert "maxItems" in schema, path
        assert "x-kubernetes-preserve-unknown-fields" not in schema, path
        for rule in schema.get("x-kubernetes-validations", []):
            assert rule["message"], path


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_definitions_fit_into_an_annotation(kind: str) -> None:
    # Client-side apply keeps the object in an annotation of at most 262,144 bytes.
    assert len(json.dumps(crds.crd(kind))) < 60_000


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_print_columns_and_names(kind: str) -> None:
    spec = yaml.safe_load(crds.render(crds.crd(kind)))["spec"]
    info = kinds.KINDS[kind]
    shown = [c["name"] for c in spec["versions"][0]["additionalPrinterColumns"] if not c.get("priority")]
    assert shown == (["State", "URL", "Reason", "Age"] if info.is_service else ["State", "Reason", "Age"])
    assert spec["names"]["categories"] == ["switchgear"]
    assert spec["names"]["shortNames"] == [info.short_name]
    assert spec["versions"][0]["subresources"] == {"status": {}}
