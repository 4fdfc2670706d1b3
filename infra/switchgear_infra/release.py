"""What the Helm charts install, as plain objects for one region. Pure.

`release.json` is the charts' own output, made by the real Helm with tokens in place of what differs from region to
region and everything optional switched on (`python -m switchgear_infra.render`). `objects` puts a region's settings in.
A test compares the result with Helm's for a matrix of settings, so that the two ways to install never drift apart.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from switchgear_infra.settings import RegionSettings

Object = dict[str, Any]

NAMESPACE = "switchgear-system"
REGION = "region-token"
HOST = "host-token.invalid"
URL = f"https://{HOST}"
CLASS = "class-token"
TLS_SECRET = "tls-token"  # noqa: S105 - the name of a Secret
REGISTRY = "registry-token.invalid"
TAG = "0.0.0-token"
MONITORING = "monitoring-token"
TOKENS: Object = {
    "region": {"name": REGION, "publicUrl": URL},
    "image": {"registry": REGISTRY, "tag": TAG},
    "edge": {"ingress": {"enabled": True, "className": CLASS, "tlsSecretName": TLS_SECRET}},
    "networkPolicy": {"monitoringNamespaces": [MONITORING]},
    "serviceMonitor": {"enabled": True},
    "dashboards": {"enabled": True},
}
"""The values that `release.json` was made with."""


@dataclass(frozen=True)
class Charts:
    """What Helm printed: the CRDs' chart and the other one, and the version that images have by default."""

    crds: list[Object]
    objects: list[Object]
    version: str


def charts() -> Charts:
    data = json.loads(resources.files("switchgear_infra").joinpath("release.json").read_text())
    return Charts(data["crds"], data["objects"], data["version"])


def values(settings: RegionSettings) -> Object:
    """The chart's values that mean the same as these settings."""
    edge = settings.edge
    return {
        "region": {"name": settings.name, "publicUrl": settings.public_url},
        "image": {"registry": settings.registry, "tag": settings.tag},
        "edge": {
            "replicas": edge.replicas,
            "service": {"type": edge.service_type, "annotations": dict(edge.service_annotations)},
            "ingress": {
                "enabled": bool(edge.ingress_class),
                "className": edge.ingress_class,
                "tlsSecretName": settings.tls_secret,
                "annotations": dict(edge.ingress_annotations),
            },
        },
        "networkPolicy": {"monitoringNamespaces": list(settings.monitoring.namespaces)},
        "serviceMonitor": {"enabled": settings.monitoring.service_monitors},
        "dashboards": {"enabled": settings.monitoring.dashboards},
    }


def objects(settings: RegionSettings, made: Charts) -> list[Object]:
    """The chart's objects for a region. Images still have their tokens: see `image`."""
    found = [copy.deepcopy(item) for item in made.objects if _wanted(item, settings)]
    for item in found:
        _edge(item, settings)
        _monitoring(item, settings)
    return [_replaced(item, settings) for item in found]


def image(text: str, registry: str, tag: str, version: str) -> str:
    """An image of the charts with a region's registry and tag; empty ones mean the node's registry, this release."""
    prefix = registry.rstrip("/")
    return text.replace(f"{REGISTRY}/", f"{prefix}/" if prefix else "").replace(TAG, tag or version)


def is_image(text: str) -> bool:
    return text.startswith(f"{REGISTRY}/")


def mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """The same tree with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    return value


def _wanted(item: Object, settings: RegionSettings) -> bool:
    kind = item["kind"]
    if kind == "Ingress":
        return bool(settings.edge.ingress_class)
    if kind == "ServiceMonitor":
        return settings.monitoring.service_monitors
    if kind == "ConfigMap" and "grafana_dashboard" in item["metadata"].get("labels", {}):
        return settings.monitoring.dashboards
    return True


def _edge(item: Object, settings: RegionSettings) -> None:
    edge = settings.edge
    kind, name = item["kind"], item["metadata"]["name"]
    if (kind, name) == ("Deployment", "switchgear-edge"):
        item["spec"]["replicas"] = edge.replicas
    elif (kind, name) == ("Service", "switchgear-edge"):
        item["spec"]["type"] = edge.service_type
        if edge.service_annotations:
            item["metadata"]["annotations"] = dict(edge.service_annotations)
    elif (kind, name) == ("Ingress", "switchgear-edge"):
        if edge.ingress_annotations:
            item["metadata"]["annotations"] = dict(edge.ingress_annotations)
        if not settings.tls_secret:
            item["spec"].pop("tls", None)


def _monitoring(item: Object, settings: RegionSettings) -> None:
    """One token stands for the list of namespaces from which metrics may be read."""
    if item["kind"] != "NetworkPolicy":
        return
    for rule in item["spec"].get("ingress", ()):
        rule["from"] = [
            changed for peer in rule.get("from", ()) for changed in _peers(peer, settings.monitoring.namespaces)
        ] or rule.get("from", [])
        if not rule["from"]:
            del rule["from"]


def _peers(peer: Object, namespaces: tuple[str, ...]) -> Iterator[Object]:
    text = json.dumps(peer)
    if f'"{MONITORING}"' not in text:
        yield peer
        return
    for namespace in namespaces:
        yield json.loads(text.replace(f'"{MONITORING}"', json.dumps(namespace)))


def _replaced(item: Object, settings: RegionSettings) -> Object:
    exact = {
        REGION: settings.name,
        URL: settings.public_url,
        HOST: settings.host,
        CLASS: settings.edge.ingress_class,
        TLS_SECRET: settings.tls_secret,
        MONITORING: ",".join(settings.monitoring.namespaces),
        "Helm": "Pulumi",
    }
    changed: Object = mapped(item, lambda text: exact.get(text, text))
    return changed
