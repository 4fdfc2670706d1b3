"""What kopf does for us: watches. Its handlers only pass events on; it writes nothing anywhere.

No `on.create/update/delete`, no timers and no daemons: those keep state in annotations and per object.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import kopf

from switchgear_model import labels
from switchgear_model.kinds import KINDS
from switchgear_operator.kube.config import KubeConfig

#: (kind, object, whether it is gone)
OnEvent = Callable[[str, Mapping[str, Any], bool], None]

_OURS: Final = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}"
#: (group, version, plural, kind) of what we make, watched by its label.
_CHILDREN: Final = (
    ("apps", "v1", "statefulsets", "StatefulSet"),
    ("", "v1", "pods", "Pod"),
    ("", "v1", "services", "Service"),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
)


class Endless:
    """Pauses between attempts, for ever: kopf's own list ends after a minute, and a watch with it."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0, 3.0)
        while True:
            yield 3.0 + 2.0 * random.random()  # noqa: S311 - jitter


def settings() -> kopf.OperatorSettings:
    """kopf's settings: regular reconnects, short requests, nothing posted, nothing stored."""
    chosen = kopf.OperatorSettings()
    chosen.watching.server_timeout = 290
    chosen.watching.client_timeout = 300
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 20
    chosen.networking.error_backoffs = Endless()
    chosen.networking.enforce_retry_after = True
    chosen.queueing.worker_limit = 50
    chosen.posting.enabled = False
    chosen.posting.loggers = False
    # Not our own finalizer: kopf takes away the one it thinks is its own, as no handler of it needs one.
    chosen.persistence.finalizer = f"{labels.GROUP}/kopf-has-none"
    chosen.execution.max_workers = 2
    chosen.process.ultimate_exiting_timeout = 15
    for group, version, plural, _ in _CHILDREN:
        chosen.watching.label_selectors[group, version, plural] = _OURS
    return chosen


def registry(config: KubeConfig, on_event: OnEvent) -> kopf.OperatorRegistry:
    """A registry of our own, so that several operators can live in one process (in tests)."""
    made = kopf.OperatorRegistry()

    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(config)

    kopf.on.login(registry=made)(login)
    for kind, info in KINDS.items():
        _watch(made, labels.GROUP, labels.VERSION, info.plural, kind, on_event)
    for group, version, plural, kind in _CHILDREN:
        _watch(made, group, version, plural, kind, on_event)
    _watch(made, "", "v1", "namespaces", "Namespace", on_event)
    return made


def connection(config: KubeConfig) -> kopf.ConnectionInfo:
    """Our credentials in kopf's words. Tokens from files expire there, so that renewed ones are read."""
    renewed = config.token_file is not None
    return kopf.ConnectionInfo(
        server=config.server,
        ca_data=config.ca_data.decode() if config.ca_data else None,
        insecure=config.insecure or None,
        token=config.token(),
        certificate_data=config.client_certificate.decode() if config.client_certificate else None,
        private_key_data=config.client_key.decode() if config.client_key else None,
        expiration=datetime.now(UTC) + timedelta(minutes=10) if renewed else None,
    )


def _watch(made: kopf.OperatorRegistry, group: str, version: str, plural: str, kind: str, on_event: OnEvent) -> None:
    async def handler(event: Any, **_: Any) -> None:
        on_event(kind, event["object"], event["type"] == "DELETED")

    kopf.on.event(group, version, plural, id=f"enqueue-{plural}", registry=made)(handler)


async def run(config: KubeConfig, on_event: OnEvent, *, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Watches until `stop`. `ready` is set once kopf is up. Ends on SIGTERM too, while it has the signals."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # Every attempt of every watch while the API server is away: the walk says it once.
    logging.getLogger("kopf._cogs.clients").setLevel(logging.CRITICAL)
    await kopf.operator(
        registry=registry(config, on_event),
        settings=settings(),
        clusterwide=True,
        standalone=True,
        stop_flag=stop,
        ready_flag=ready,
    )
