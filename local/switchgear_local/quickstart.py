"""The quickstart on a running region: apply it, wait for it, describe it.

Invariants: what is printed as working has been tried through the edge first; the database's URL goes into a Secret and
nowhere else. Must not: print a secret other than in the `curl` lines of `describe`, or change a Secret that is right.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from switchgear_model import labels

from .errors import StartError
from .install import secret
from .kubeapi import KubeApi, KubeError, Object
from .processes import write_private

NAMESPACE = "quickstart"
DATABASE_SECRET = "quickstart-database"  # noqa: S105 - the name of an object
SYNC = ("SyncSource", "app-production-db")
STREAMS = ("StreamsService", "app-production-events")
_ACTIVE_LIMIT = 180.0
_STALLED_LIMIT = 20.0
_POLL = 0.2


@dataclass(frozen=True)
class Service:
    """An active service and how to reach it."""

    kind: str
    name: str
    service_id: str
    url: str
    secret_name: str
    secret_key: str
    secret: str = field(repr=False)


def apply(api: KubeApi, database_url: str) -> None:
    """Create the namespace and the Secret with the database's URL, then apply examples/quickstart.yaml.

    Raises KubeError, or StartError when the file is missing.
    """
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    api.apply(secret(DATABASE_SECRET, NAMESPACE, {"url": database_url}))
    for document in yaml.safe_load_all(manifest()):
        if document:
            api.apply(document)


def manifest() -> str:
    """The text of quickstart.yaml: of the checkout, or of the installed package. Raises StartError."""
    checkout = Path(__file__).resolve().parents[2] / "examples" / "quickstart.yaml"
    if checkout.is_file():
        return checkout.read_text()
    packaged = importlib.resources.files("switchgear_local") / "quickstart.yaml"
    if packaged.is_file():
        return packaged.read_text()
    raise StartError("quickstart.yaml is missing from this installation. Install Switchgear again.")


def wait_active(api: KubeApi, say: Callable[[str], None], limit: float = _ACTIVE_LIMIT) -> tuple[Service, Service]:
    """Wait until both services are active and answer through the edge; tells each change of state.

    Raises StartError with the conditions of what is not active in time.
    """
    deadline = time.monotonic() + limit
    told: dict[str, str] = {}
    stalled_since: dict[str, float] = {}
    done: dict[str, Service] = {}
    while len(done) < 2:
        for kind, name in (SYNC, STREAMS):
            if kind in done:
                continue
            obj = _get(api, kind, name)
            line = f"{name}: {_summary(obj)}"
            service = _service(api, kind, obj) if _state(obj) == "active" else None
            if service is not None and _serves(service):
                done[kind] = service
                line = f"{name}: active"
            elif service is not None:
                line = f"{name}: starting"
            if told.get(kind) != line:
                told[kind] = line
                say(line)
            if not _needs_a_human(obj):
                stalled_since.pop(kind, None)
            elif time.monotonic() - stalled_since.setdefault(kind, time.monotonic()) > _STALLED_LIMIT:
                raise StartError(f"The quickstart cannot become active. {line}")
        if time.monotonic() > deadline:
            raise StartError(
                f"The quickstart was not active within {limit:.0f} s: {'; '.join(told.values())}. "
                "Look at `switchgear status` and at the logs in the data directory."
            )
        time.sleep(_POLL)
    return done[SYNC[0]], done[STREAMS[0]]


def write_demo_state(path: Path, edge_url: str, database_url: str, sync: Service, streams: Service) -> None:
    """Write what the demo page and its proxy need, secrets included, to a private file."""
    services = {
        "sync": {"service_id": sync.service_id, "url": sync.url, "secret": sync.secret},
        "streams": {"service_id": streams.service_id, "url": streams.url, "secret": streams.secret},
    }
    write_private(path, json.dumps({"edge_url": edge_url, "database_url": database_url, **services}, indent=2) + "\n")


def log_in(api_url: str, token: str, environ: Mapping[str, str] | None = None) -> Path:
    """Store the API's address and token for the command line (mode 0600); returns the file."""
    path = _login_file(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, json.dumps({"api_url": api_url, "token": token, "workspace": NAMESPACE}, indent=2) + "\n")
    return path


def log_out(api_url: str, environ: Mapping[str, str] | None = None) -> bool:
    """Remove the stored login if it is for the API at `api_url`; whether it was."""
    path = _login_file(environ)
    try:
        ours = json.loads(path.read_text())["api_url"] == api_url
        if ours:
            path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(ours)


def _login_file(environ: Mapping[str, str] | None) -> Path:
    env = os.environ if environ is None else environ
    base = env.get("XDG_CONFIG_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".config"
    return root / "switchgear" / "auth.json"


def describe(sync: Service, streams: Service, table: str, stream: str) -> list[str]:
    """The lines that show how to use both services; the one place where secrets are printed."""
    shape = f"{sync.url}?table={table}&offset=-1&source_id={sync.service_id}&secret={sync.secret}"
    records = f"{streams.url}/{stream}?offset=-1"
    bearer = f"Authorization: Bearer {streams.secret}"
    return [
        f"Postgres Sync   {sync.url}   (source_id={sync.service_id})",
        f"  its secret    {_where(sync)}",
        f"curl -fsS {shlex.quote(shape)}",
        "",
        f"Durable Streams {streams.url}/<path>",
        f"  its secret    {_where(streams)}",
        f"curl -fsS -H {shlex.quote(bearer)} {shlex.quote(records)}",
    ]


def _where(service: Service) -> str:
    return f"Secret {service.secret_name}, key {service.secret_key}, namespace {NAMESPACE}"


def _get(api: KubeApi, kind: str, name: str) -> Object:
    try:
        return api.get(labels.API_VERSION, kind, name, NAMESPACE) or {}
    except KubeError as error:
        if error.status in (0, 429) or error.status >= 500:  # the API server is being restarted: it heals
            return {}
        raise


def _service(api: KubeApi, kind: str, obj: Object) -> Service | None:
    status = obj["status"]
    reference = status["secretRef"]
    try:
        found = api.get("v1", "Secret", reference["name"], NAMESPACE)
    except KubeError:
        return None
    if found is None:
        return None
    return Service(
        kind=kind,
        name=obj["metadata"]["name"],
        service_id=status["serviceId"],
        url=status["url"],
        secret_name=reference["name"],
        secret_key=reference["key"],
        secret=base64.b64decode(found["data"][reference["key"]]).decode(),
    )


def _serves(service: Service) -> bool:
    """True when a request reaches the service's pod: whatever it says, it is not the edge that refuses."""
    url = f"{service.url}?source_id={service.service_id}&secret={service.secret}"
    headers = {}
    if service.kind == STREAMS[0]:
        url = f"{service.url}/switchgear-is-there"
        headers = {"Authorization": f"Bearer {service.secret}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(urllib.request.Request(url, headers=headers), timeout=10).close()  # noqa: S310 - our own edge
    except urllib.error.HTTPError as error:
        # A shape request without a table is a 400, a stream that does not exist a 404: both come from the pod.
        return error.code in (400, 404)
    except (OSError, urllib.error.URLError):
        return False
    return True


def _state(obj: Mapping[str, Any]) -> str:
    return str(obj.get("status", {}).get("state", ""))


def _needs_a_human(obj: Mapping[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Stalled" and c.get("status") == "True" for c in conditions)


def _summary(obj: Mapping[str, Any]) -> str:
    state = _state(obj) or "pending"
    conditions = obj.get("status", {}).get("conditions") or []
    ready = next((c for c in conditions if c.get("type") == "Ready" and c.get("status") != "True"), None)
    if state == "active" or ready is None:
        return state
    message = str(ready.get("message", ""))
    return f"{state}, {ready.get('reason', '')}" + (f": {message}" if message else "")
