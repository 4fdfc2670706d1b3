"""The region key: read from its Secret, made when missing, re-read now and then. Never logged."""

from __future__ import annotations

import logging
import time
from typing import Final

from switchgear_model import credentials, labels
from switchgear_operator.kube.client import ApiError, KubeClient
from switchgear_operator.kube.refs import Ref
from switchgear_operator.queue import RetryLater
from switchgear_operator.specs import secrets

_log = logging.getLogger(__name__)

_KEPT_SECONDS: Final = 60.0
_LENGTH_MIN: Final = 32


class RegionKey:
    """One per operator."""

    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self._kube = kube
        self._ref = Ref("Secret", namespace, labels.REGION_KEY_SECRET)
        self._value: bytes | None = None
        self._read = float("-inf")

    async def get(self) -> bytes:
        """The key as the Secret has it. A known key is kept while the API server is away. Raises `RetryLater`."""
        if self._value is not None and time.monotonic() - self._read < _KEPT_SECONDS:
            return self._value
        found = await self._kube.get(self._ref)
        if found is None:
            found = await self._create()
        value = secrets.read(found, labels.REGION_KEY_KEY)
        if value is None or len(value.strip()) < _LENGTH_MIN:
            raise RetryLater(
                f"Secret {self._ref.namespace}/{self._ref.name} has no key {labels.REGION_KEY_KEY!r} of at least "
                f"{_LENGTH_MIN} characters: correct it, or delete it to have one made"
            )
        self._value, self._read = value.encode(), time.monotonic()
        return self._value

    async def _create(self) -> dict[str, object]:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": self._ref.name,
                "namespace": self._ref.namespace,
                "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE},
            },
            "data": secrets.encode({labels.REGION_KEY_KEY: credentials.new_region_key()}),
        }
        try:
            made = await self._kube.create(self._ref, body)
        except ApiError as error:
            if error.conflict:
                raise RetryLater("the region key was made by somebody else at this moment", 0.1) from None
            raise
        _log.info("region key created: Secret %s/%s", self._ref.namespace, self._ref.name)
        return made
