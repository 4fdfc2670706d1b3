"""What Pulumi applies is what Helm installs: for every configuration, the objects are equal."""

from __future__ import annotations

from typing import Any

import pytest

from switchgear_infra import release, render
from switchgear_infra.settings import region_settings
from tests.infra.configurations import MATRIX
from tests.support.helm import CHARTS, helm_binary


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def test_the_committed_release_is_what_the_charts_give_today() -> None:
    assert render.TARGET.read_text() == render.render(helm_binary(), CHARTS), (
        "release.json is older than the charts: python -m switchgear_infra.render HELM charts"
    )


@pytest.mark.parametrize("name", MATRIX)
def test_the_objects_are_those_of_helm(name: str) -> None:
    settings = region_settings(MATRIX[name])
    charts = release.charts()
    ours = [
        release.mapped(item, lambda text: release.image(text, settings.registry, settings.tag, charts.version))
        for item in release.objects(settings, charts)
    ]
    theirs = render.template(helm_binary(), CHARTS / "switchgear", release.values(settings))
    managed = [release.mapped(item, lambda text: {"Helm": "Pulumi"}.get(text, text)) for item in theirs]
    assert by_name(ours).keys() == by_name(managed).keys()
    for key, item in by_name(ours).items():
        assert item == by_name(managed)[key], key


@pytest.mark.parametrize("name", MATRIX)
def test_no_token_is_left(name: str) -> None:
    settings = region_settings(MATRIX[name])
    charts = release.charts()
    left: list[str] = []

    def look(text: str) -> str:
        left.extend([text] if "token" in text and ("-token" in text) and "invalid" in text else [])
        return text

    for item in release.objects(settings, charts):
        release.mapped(
            release.mapped(item, lambda text: release.image(text, settings.registry, settings.tag, "0")), look
        )
    assert left == []
