"""The Node object and its Lease: made, kept true, renewed.

Invariants: what others set on the Node (cordon, further taints, labels) stays; the Lease is renewed only while the
node's other loops run, because they all end together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from . import objects
from .api import STRATEGIC, Api, Object
from .backoff import Backoff
from .errors import ApiError, ApiUnavailableError
from .objects import NodeFacts
from .process import boot_id
from .status import timestamp

log = logging.getLogger(__name__)

RENEW_EVERY = 10.0
_STATUS_EVERY = 240.0


def facts(name: str, host_ip: str, logs_port: int, data_dir: Path) -> NodeFacts:
    """What this machine is."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return NodeFacts(
        name=name,
        host_ip=host_ip,
        logs_port=logs_port,
        cpus=os.cpu_count() or 1,
        memory=pages,
        disk=shutil.disk_usage(data_dir).total,
        boot_id=boot_id(),
        machine_id=machine,
        kernel=platform.release(),
        version=metadata.version("switchgear"),
    )


class Registration:
    """Keeps the Node and its Lease. `cordoned` says whether new pods are unwanted."""

    def __init__(self, api: Api, node: NodeFacts) -> None:
        self._api = api
        self._facts = node
        self._path = f"/api/v1/nodes/{node.name}"
        self._lease = f"/apis/coordination.k8s.io/v1/namespaces/{objects.LEASE_NAMESPACE}/leases"
        self._written = -_STATUS_EVERY
        self.cordoned = False
        self.registered = asyncio.Event()

    async def run(self) -> None:
        """Register and renew until cancelled."""
        backoff = Backoff(0.1, 5.0, jitter=True)
        complained = False
        while True:
            try:
                await self._renew()
                await self._report()
                self.registered.set()
                backoff.reset()
                complained = False
                await asyncio.sleep(RENEW_EVERY)
            except (ApiError, ApiUnavailableError) as error:
                if not complained:
                    log.warning("registering: %s; trying again", error)
                    complained = True
                await asyncio.sleep(backoff.next())

    async def _renew(self) -> None:
        lease = objects.lease(self._facts.name, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        try:
            await self._api.patch(f"{self._lease}/{self._facts.name}", {"spec": lease["spec"]})
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(self._lease, lease)

    async def _report(self) -> None:
        node = await self._node()
        self.cordoned = bool(node["spec"].get("unschedulable"))
        now = asyncio.get_running_loop().time()
        if now - self._written < _STATUS_EVERY and _says_ready(node) and self._same_port(node):
            return
        status = objects.node_status(self._facts, timestamp(), node.get("status") or {})
        for key in ("addresses",):
            status[key] = [{"$patch": "replace"}, *status[key]]
        await self._api.patch(f"{self._path}/status", {"status": status}, STRATEGIC)
        self._written = now

    async def _node(self) -> Object:
        wanted = objects.node(self._facts.name)
        try:
            found = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            return await self._api.create("/api/v1/nodes", wanted)
        taints = found["spec"].get("taints") or []
        missing = [taint for taint in wanted["spec"]["taints"] if not any(t["key"] == taint["key"] for t in taints)]
        labels = found["metadata"].get("labels") or {}
        if missing or not wanted["metadata"]["labels"].items() <= labels.items():
            body = {"metadata": wanted["metadata"], "spec": {"taints": [*taints, *missing]}}
            found = await self._api.patch(self._path, body)
        return found

    def _same_port(self, node: Object) -> bool:
        endpoint = (node.get("status") or {}).get("daemonEndpoints", {}).get("kubeletEndpoint", {})
        return bool(endpoint.get("Port", 0) == self._facts.logs_port)


def _says_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
