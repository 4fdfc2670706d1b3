"""What is generated is what is committed; the generator refuses values that nobody described."""

from __future__ import annotations

import json
import re
from importlib import metadata

import jsonschema
import pytest
import yaml

from charts import generate, values
from switchgear_model import crds, rbac
from tests.charts.matrix import MATRIX, PUBLIC
from tests.docs import pages
from tests.support.helm import CHARTS, rendered, template


def test_the_files_are_generated() -> None:
    found = {path: path.read_text("utf-8") for path in generate.files() if path.exists()}
    assert found == generate.files(), "run `make charts` and commit the result"
    assert not generate.stale()


@pytest.mark.parametrize(
    "text", ["a: 1", "# -- A list\na: []", "# -- A\n# @schema nobody\na: x", "# a section's comment\na:\n  b: true"]
)
def test_values_must_be_described(text: str) -> None:
    with pytest.raises(values.ValuesError):
        values.parse(text)


@pytest.mark.parametrize("chart", generate.CHARTS)
def test_defaults_fit_their_own_schema(chart: str) -> None:
    text = (CHARTS / chart / "values.yaml").read_text("utf-8")
    schema = values.schema(chart, values.parse(text))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(text), schema)
    if chart == "switchgear":
        for case in MATRIX.values():
            jsonschema.validate(case, schema)


def test_roles_and_bindings_are_the_model_s() -> None:
    """The laptop applies `rbac.objects` as they are; the chart must give the same rights to the same accounts."""
    wanted = {(obj["kind"], obj["metadata"]["name"]): obj for obj in rbac.objects("sg-test")}
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in rendered(PUBLIC)}
    checked = 0
    for key, obj in wanted.items():
        if obj["kind"] == "Namespace":
            continue
        for field in ("rules", "roleRef", "subjects"):
            assert found[key].get(field) == obj.get(field), key
        assert found[key]["metadata"].get("namespace") == obj["metadata"].get("namespace"), key
        aggregated = {k: v for k, v in obj["metadata"]["labels"].items() if "aggregate" in k}
        assert aggregated.items() <= found[key]["metadata"]["labels"].items()
        checked += 1
    assert checked > 12
    kinds = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"}
    assert {key for key in found if key[0] in kinds} == {key for key in wanted if key[0] in kinds}


def test_the_definitions_are_the_model_s() -> None:
    wanted = {definition["metadata"]["name"]: definition["spec"] for definition in crds.all_crds()}
    for keep in (True, False):
        found = rendered({"keep": keep, "commonLabels": {"a": "b"}}, "switchgear-crds")
        assert {obj["metadata"]["name"]: obj["spec"] for obj in found} == wanted
        for obj in found:
            kept = obj["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            assert kept == ("keep" if keep else None)
            assert obj["metadata"]["labels"]["a"] == "b"


def test_version_of_charts_and_images_is_ours() -> None:
    for chart in generate.CHARTS:
        about = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text("utf-8"))
        assert about["appVersion"] == metadata.version("switchgear")


def test_dashboards_ask_for_metrics_that_there_are() -> None:
    documented = {code.partition("{")[0] for code in pages.codes(pages.section("operating.md", "## Metrics"))}
    asked = set()
    for path in sorted((CHARTS / "switchgear" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text("utf-8"))
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 5
        for panel in board["panels"]:
            for target in panel["targets"]:
                names = re.findall(r"\b(?:switchgear|streams|electric|process)_\w+", target["expr"])
                assert names, target
                asked |= set(names)
    assert not asked - documented
    assert len(asked) > 30


def test_nothing_random_and_nothing_looked_up() -> None:
    for file in CHARTS.rglob("templates/*"):
        text = file.read_text("utf-8")
        for word in ("lookup", "rand", "genCA", "genSelfSigned", "uuidv4", "now ", "helm.sh/hook"):
            assert f"{word} " not in text and f"({word}" not in text, (file.name, word)
    assert template(values=MATRIX["ingress"]) == template(values=MATRIX["ingress"])
