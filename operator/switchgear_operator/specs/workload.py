"""The StatefulSet of a service: the same pod everywhere, on the process node and in any cluster. Pure."""

from __future__ import annotations

from typing import Any, Final

from switchgear_model import ids, labels
from switchgear_model.kinds import Service, SyncSource
from switchgear_operator.snapshot import Config
from switchgear_operator.specs.common import Json, child_labels, metadata, selector, with_hash
from switchgear_operator.specs.network import container_port

_MEMORY: Final = "512Mi"
_CPU: Final = "50m"
TERMINATION_GRACE: Final = 30


def statefulset(obj: Service, service_id: str, config: Config, checksum: str) -> Json:
    """One replica on the service's own volume; a change of `checksum` restarts the pod."""
    name = ids.child_name(service_id)
    return with_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(obj, service_id, name),
            "spec": {
                "replicas": 1,
                "podManagementPolicy": "Parallel",
                "serviceName": name,
                "selector": {"matchLabels": selector(service_id)},
                "template": {
                    "metadata": {
                        "labels": child_labels(obj, service_id),
                        "annotations": {labels.SECRETS_CHECKSUM: checksum},
                    },
                    "spec": _pod(obj, service_id, config),
                },
            },
        }
    )


def _pod(obj: Service, service_id: str, config: Config) -> Json:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": labels.POD_UID,
            "runAsGroup": labels.POD_UID,
            "fsGroup": labels.POD_UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [{"key": labels.PROCESS_NODE_TAINT, "operator": "Exists"}],
        "containers": [_container(obj, service_id, config)],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": ids.child_name(service_id)}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(obj: Service, service_id: str, config: Config) -> Json:
    is_source = isinstance(obj, SyncSource)
    container: Json = {
        "name": labels.SHAPES_CONTAINER if is_source else labels.STREAMS_CONTAINER,
        "image": config.shapes_image if is_source else config.streams_image,
        "command": ["switchgear-shapes" if is_source else "switchgear-streams"],
        "env": _shapes_env(obj, service_id) if isinstance(obj, SyncSource) else _streams_env(service_id),
        "ports": [{"name": labels.PORT_NAME, "containerPort": container_port(obj.kind), "protocol": "TCP"}],
        # Long enough for a first snapshot or a recovery before liveness begins to count.
        "startupProbe": _probe("/ready", period=1, failures=600),
        "readinessProbe": _probe("/ready", period=2, failures=2),
        "livenessProbe": _probe("/live", period=10, failures=3),
        "resources": {"requests": {"cpu": _CPU, "memory": _MEMORY}, "limits": {"memory": _MEMORY}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": labels.DATA_MOUNT}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    if not is_source:
        container["args"] = _streams_args(service_id, config)
    return container


def _probe(path: str, *, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": labels.PORT_NAME, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _value(name: str, value: str) -> Json:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _from_secret(name: str, secret: str, key: str, *, optional: bool = False) -> Json:
    ref: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        ref["optional"] = True
    return {"name": name, "valueFrom": {"secretKeyRef": ref}}


def _shapes_env(obj: SyncSource, service_id: str) -> list[Json]:
    database = ids.database_secret_name(service_id)
    return [
        _field("SWITCHGEAR_HOST", "status.podIP"),
        _value("ELECTRIC_PORT", str(labels.SHAPES_PORT)),
        _from_secret("DATABASE_URL", database, labels.DATABASE_URL_KEY),
        _from_secret("ELECTRIC_POOLED_DATABASE_URL", database, labels.DATABASE_POOLED_URL_KEY, optional=True),
        _from_secret("ELECTRIC_SECRET", ids.key_secret_name(service_id), labels.POD_KEY_KEY),
        _value("ELECTRIC_REPLICATION_STREAM_ID", ids.stream_id(service_id)),
        _value("ELECTRIC_STORAGE_DIR", f"{labels.DATA_MOUNT}/shapes"),
        _value("ELECTRIC_DB_POOL_SIZE", str(obj.spec.database.pool_size)),
        _value("ELECTRIC_MANUAL_TABLE_PUBLISHING", "true" if obj.spec.manual_table_publishing else "false"),
        _field("ELECTRIC_INSTANCE_ID", "metadata.name"),
    ]


def _streams_env(service_id: str) -> list[Json]:
    return [
        _field("SWITCHGEAR_HOST", "status.podIP"),
        _from_secret("STREAMS_SECRET", ids.key_secret_name(service_id), labels.POD_KEY_KEY),
    ]


def _streams_args(service_id: str, config: Config) -> list[str]:
    return [
        "--port",
        str(labels.STREAMS_PORT),
        "--data-dir",
        f"{labels.DATA_MOUNT}/streams",
        "--root-path",
        f"/v1/stream/{service_id}",
        "--public-url",
        config.public_url,
    ]
