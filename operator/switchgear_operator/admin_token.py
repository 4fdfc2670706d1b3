"""The API's bootstrap token, made once when nobody has given one. Never read back, never logged."""

from __future__ import annotations

import logging
import secrets as randomness

from switchgear_model import labels
from switchgear_operator.kube.client import ApiError, KubeClient
from switchgear_operator.kube.refs import Ref
from switchgear_operator.specs import secrets

_log = logging.getLogger(__name__)


async def ensure(kube: KubeClient, namespace: str, name: str) -> None:
    """Creates the Secret unless it is there. No name: nothing to do. Raises `ApiError`."""
    if not name:
        return
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE},
        },
        "data": secrets.encode({labels.ADMIN_TOKEN_KEY: f"sg_admin_{randomness.token_urlsafe(32)}"}),
    }
    try:
        await kube.create(Ref("Secret", namespace, name), body)
    except ApiError as error:
        # A create that is refused as a conflict is how one looks without the right to read it.
        if not error.conflict:
            raise
        return
    _log.info("admin token created: Secret %s/%s", namespace, name)
