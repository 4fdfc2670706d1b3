"""Configurations of regions, as a stack's file has them, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROGRAMS = Path(__file__).resolve().parents[2] / "infra" / "programs"

PLAIN: dict[str, Any] = {"name": "local", "publicUrl": "http://edge.test:8080", "cluster": {"kind": "kubeconfig"}}
FULL: dict[str, Any] = {
    "name": "eu-west-1",
    "publicUrl": "https://eu.sync.example.com",
    "registry": "registry.example.com/platform/",
    "tag": "1.2.3",
    "cluster": {"kind": "kubeconfig", "context": "admin"},
    "edge": {
        "replicas": 5,
        "serviceType": "LoadBalancer",
        "serviceAnnotations": {"cloud.example.com/scheme": "internal"},
        "ingressClass": "nginx",
        "ingressAnnotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
    },
    "certificate": {"issuer": "letsencrypt"},
    "dns": {"kind": "external-dns", "target": "203.0.113.7"},
    "storage": {"name": "fast", "provisioner": "csi.example.com", "parameters": {"type": "ssd"}, "default": True},
    "monitoring": {"serviceMonitors": True, "dashboards": True, "namespaces": ["monitoring", "observability"]},
}
INGRESS_WITHOUT_TLS: dict[str, Any] = {
    "name": "lab",
    "publicUrl": "http://lab.example.com",
    "edge": {"ingressClass": "traefik", "replicas": 1, "serviceType": "NodePort"},
    "tag": "0.9.0",
}
MATRIX = {"plain": PLAIN, "full": FULL, "ingress without TLS": INGRESS_WITHOUT_TLS}


def example(name: str) -> dict[str, Any]:
    """The region of one of the committed stack files."""
    config = yaml.safe_load((PROGRAMS / "region" / f"Pulumi.{name}.yaml").read_text())["config"]
    found: dict[str, Any] = config["switchgear-region:region"]
    return found
