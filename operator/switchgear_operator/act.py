"""Carries out actions, in order, and stops at the first that fails. The only module that writes to the cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from switchgear_model import credentials, ids, labels
from switchgear_model.kinds import Resource, Status
from switchgear_operator import actions as a
from switchgear_operator.jobs import Jobs
from switchgear_operator.kube.client import ApiError, KubeClient
from switchgear_operator.kube.refs import Ref
from switchgear_operator.observe import CLEANUP, PROBE, cleanup_digest, probe_digest
from switchgear_operator.preflight.cleanup import cleanup
from switchgear_operator.preflight.probe import probe
from switchgear_operator.specs import secrets

_log = logging.getLogger(__name__)

MANAGER: Final = "switchgear-operator"
_CONTROLLER: Final = f"{labels.GROUP}/operator"
_NOTE_MAX: Final = 1000
#: Children that can be deleted and made again at any time.
_STATELESS: Final = frozenset({"Service", "NetworkPolicy"})


class Rejected(Exception):
    """The API server will not have what we wrote, whatever the state of the world: a human must look."""

    def __init__(self, ref: Ref, message: str) -> None:
        super().__init__(f"{ref}: {message}")


class Actor:
    """Everything that writing needs, in one place."""

    def __init__(self, kube: KubeClient, jobs: Jobs, instance: str) -> None:
        self._kube = kube
        self._jobs = jobs
        self._instance = instance

    async def status(self, obj: Resource, status: Status) -> None:
        """Writes the status onto exactly the state that was observed."""
        patch = {"metadata": {"resourceVersion": obj.meta.resource_version}, "status": status.to_dict()}
        ref = Ref(obj.kind, obj.meta.namespace, obj.meta.name)
        await self._kube.merge(ref, patch, subresource="status")

    async def run(self, obj: Resource, actions: Sequence[a.Action]) -> Resource:
        """Returns the reconciled object with its newest known metadata. Raises `Rejected`, `ApiError`.

        A change of something that exists and is refused does not keep the rest from being done.
        """
        refused: Rejected | None = None
        for action in actions:
            match action:
                case a.AddFinalizer():
                    obj = await self._finalizers(obj, (*obj.meta.finalizers, labels.FINALIZER))
                case a.RemoveFinalizer():
                    rest = tuple(name for name in obj.meta.finalizers if name != labels.FINALIZER)
                    obj = await self._finalizers(obj, rest)
                    _log.info("%s %s/%s let go", obj.kind, obj.meta.namespace, obj.meta.name)
                case a.Emit(type_, reason, note):
                    await self.emit(obj, type_, reason, note)
                case a.Apply(_, _, uid) if uid is not None:
                    try:
                        await self._checked(action)
                    except Rejected as error:
                        refused = refused or error
                case _:
                    await self._checked(action)
        if refused is not None:
            raise refused
        return obj

    async def run_without(self, actions: Sequence[a.Action]) -> None:
        """Actions that are about no object of ours. Raises `Rejected`, `ApiError`."""
        for action in actions:
            await self._checked(action)

    async def _checked(self, action: a.Action) -> None:
        try:
            await self._one(action)
        except ApiError as error:
            if error.rejected and isinstance(action, a.Apply | a.Create | a.CreateServiceSecret | a.Merge):
                raise Rejected(action.ref, error.message) from None
            raise

    async def _one(self, action: a.Action) -> None:
        match action:
            case a.Apply():
                await self._apply(action)
            case a.Create(ref, body):
                await self._create(ref, body)
            case a.CreateServiceSecret(ref, body, service_id):
                secret = credentials.new_service_secret(service_id, datetime.now(UTC))
                await self._create(ref, {**body, "data": secrets.encode({labels.SERVICE_SECRET_KEY: secret})})
            case a.Merge(ref, patch, uid, version):
                _log.info("patch %s", ref)
                preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
                await self._merge(ref, _with_metadata(patch, **preconditions))
            case a.Delete(ref, uid):
                _log.info("delete %s", ref)
                await self._kube.delete(ref, uid)
            case a.StartProbe():
                self._probe(action)
            case a.StartCleanup():
                self._cleanup(action)
            case a.ForgetCleanup(uid):
                self._jobs.forget(uid, CLEANUP)
            case _:
                raise AssertionError(f"{type(action).__name__} is about an object of ours")

    async def _apply(self, action: a.Apply) -> None:
        ref, body, uid = action.ref, action.body, action.uid
        _log.info("apply %s", ref)
        try:
            await self._kube.apply(ref, body if uid is None else _with_metadata(body, uid=uid))
        except ApiError as error:
            if uid is None or error.status != 422 or ref.kind not in _STATELESS:
                raise
            # What somebody put beside our fields contradicts them, and apply cannot take it away.
            _log.warning("%s cannot be corrected and is made anew: %s", ref, error.message)
            await self._kube.delete(ref, uid)

    async def _create(self, ref: Ref, body: Mapping[str, Any]) -> None:
        _log.info("create %s", ref)
        try:
            await self._kube.create(ref, body)
        except ApiError as error:
            # Somebody made it meanwhile: the next look shows what it is.
            if not error.conflict:
                raise

    async def _merge(self, ref: Ref, patch: Mapping[str, Any]) -> dict[str, Any] | None:
        """None when the object is gone."""
        try:
            return await self._kube.merge(ref, patch)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def _finalizers(self, obj: Resource, finalizers: tuple[str, ...]) -> Resource:
        ref = Ref(obj.kind, obj.meta.namespace, obj.meta.name)
        metadata = {
            "uid": obj.meta.uid,
            "resourceVersion": obj.meta.resource_version,
            "finalizers": list(finalizers),
        }
        written = await self._merge(ref, {"metadata": metadata})
        version = written["metadata"]["resourceVersion"] if written else obj.meta.resource_version
        return replace(obj, meta=replace(obj.meta, resource_version=version, finalizers=finalizers))

    def _probe(self, action: a.StartProbe) -> None:
        digest = probe_digest(action.url, action.publishes)
        url, publishes, slot = action.url, action.publishes, ids.slot_name(action.service_id)
        self._jobs.start(action.uid, PROBE, digest, lambda: probe(url, publishes=publishes, slot=slot))

    def _cleanup(self, action: a.StartCleanup) -> None:
        service_id, url, fallback = action.service_id, action.url, action.fallback_url
        slot, publication = ids.slot_name(service_id), ids.publication_name(service_id)
        digest = cleanup_digest(url)
        self._jobs.start(
            action.uid, CLEANUP, digest, lambda: cleanup(url, fallback, slot=slot, publication=publication)
        )

    async def emit(self, obj: Resource, type_: str, reason: str, note: str) -> None:
        """Posts an Event about the object. One that cannot be posted (the namespace is going) is only logged."""
        now = datetime.now(UTC)
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{obj.meta.name}-"[:200], "namespace": obj.meta.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": type_,
            "reason": reason,
            "note": note[:_NOTE_MAX],
            "regarding": {
                "apiVersion": labels.API_VERSION,
                "kind": obj.kind,
                "namespace": obj.meta.namespace,
                "name": obj.meta.name,
                "uid": obj.meta.uid,
                "resourceVersion": obj.meta.resource_version,
            },
        }
        _log.info("%s %s/%s: %s: %s", obj.kind, obj.meta.namespace, obj.meta.name, reason, note)
        try:
            await self._kube.create(Ref("Event", obj.meta.namespace), body)
        except ApiError as error:
            _log.info("event %s not posted: %s", reason, error.reason or error.status)


def _with_metadata(body: Mapping[str, Any], **fields: str) -> dict[str, Any]:
    return {**body, "metadata": {**body.get("metadata", {}), **fields}}
