"""The headless Service and the NetworkPolicy of a service. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from switchgear_model import ids, labels
from switchgear_model.kinds import SYNC_SOURCE, Service
from switchgear_operator.snapshot import Config
from switchgear_operator.specs.common import Json, metadata, selector, with_hash

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def container_port(kind: str) -> int:
    """The port on which a service's container listens."""
    return labels.SHAPES_PORT if kind == SYNC_SOURCE else labels.STREAMS_PORT


def headless_service(obj: Service, service_id: str) -> Json:
    """Gives the pod a name in the cluster's DNS; nothing is balanced."""
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(obj, service_id, ids.child_name(service_id)),
            "spec": {
                "clusterIP": "None",
                "selector": selector(service_id),
                "ports": [
                    {
                        "name": labels.PORT_NAME,
                        "port": container_port(obj.kind),
                        "targetPort": labels.PORT_NAME,
                        "protocol": "TCP",
                    }
                ],
            },
        }
    )


def policy(obj: Service, service_id: str, config: Config, database_ports: Sequence[int]) -> Json:
    """In: the edge of the installation's namespace, and whoever reads metrics. Out: DNS and the database's port."""
    egress: list[dict[str, Any]] = [{"ports": _DNS}]
    if database_ports:
        egress.append({"ports": [{"port": port, "protocol": "TCP"} for port in database_ports]})
    edge = {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: config.namespace}},
        "podSelector": {"matchLabels": {labels.APP_NAME: labels.APP_EDGE}},
    }
    metrics = [{"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: name}}} for name in config.metrics_namespaces]
    return with_hash(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(obj, service_id, ids.child_name(service_id)),
            "spec": {
                "podSelector": {"matchLabels": selector(service_id)},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [edge, *metrics], "ports": [{"port": labels.PORT_NAME, "protocol": "TCP"}]}],
                "egress": egress,
            },
        }
    )
