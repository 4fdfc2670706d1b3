"""The five resource kinds as frozen values, parsed from and built for the Kubernetes API.

Field names in Python are the YAML names in snake case. Parsing accepts what the CRDs accept (defaults
included, so that an object from before a default was added still reads) and refuses the rest with a
`ModelError` that names the field. No I/O; nothing here knows about HTTP or kopf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from switchgear_model import fields, ids
from switchgear_model.conditions import Condition, parse_condition
from switchgear_model.fields import ModelError
from switchgear_model.labels import API_VERSION

WORKSPACE: Final = "Workspace"
PROJECT: Final = "Project"
ENVIRONMENT: Final = "Environment"
SYNC_SOURCE: Final = "SyncSource"
STREAMS_SERVICE: Final = "StreamsService"

PENDING: Final = "pending"
VALIDATING: Final = "validating"
PROVISIONING: Final = "provisioning"
ACTIVE: Final = "active"
DEGRADED: Final = "degraded"
SUSPENDED: Final = "suspended"
ERROR: Final = "error"
DELETING: Final = "deleting"
SERVICE_STATES: Final = (PENDING, VALIDATING, PROVISIONING, ACTIVE, DEGRADED, SUSPENDED, ERROR, DELETING)
PARENT_STATES: Final = (ACTIVE, ERROR, DELETING)

DELETE: Final = "Delete"
ORPHAN: Final = "Orphan"

DEFAULT_POOL_SIZE: Final = 20
DEFAULT_STORAGE_SIZE: Final = "10Gi"


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What one must know of a kind to address it. `parent` is the kind its reference points to."""

    kind: str
    plural: str
    singular: str
    short_name: str
    parent: str | None
    ref_field: str | None
    is_service: bool


KINDS: Final[Mapping[str, KindInfo]] = {
    info.kind: info
    for info in (
        KindInfo(WORKSPACE, "workspaces", "workspace", "sgw", None, None, False),
        KindInfo(PROJECT, "projects", "project", "sgp", WORKSPACE, None, False),
        KindInfo(ENVIRONMENT, "environments", "environment", "sge", PROJECT, "projectRef", False),
        KindInfo(SYNC_SOURCE, "syncsources", "syncsource", "sgsync", ENVIRONMENT, "environmentRef", True),
        KindInfo(
            STREAMS_SERVICE, "streamsservices", "streamsservice", "sgstreams", ENVIRONMENT, "environmentRef", True
        ),
    )
}
BY_PLURAL: Final[Mapping[str, KindInfo]] = {info.plural: info for info in KINDS.values()}


@dataclass(frozen=True, slots=True)
class Meta:
    """The parts of ``metadata`` we use. `deleting` is the deletionTimestamp; times are RFC 3339."""

    name: str
    namespace: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    created: str = ""
    deleting: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def age_order(self) -> tuple[str, str]:
        """Sorts by age: creationTimestamp, then UID. The smallest is the oldest and holds what is contested."""
        return (self.created, self.uid)


@dataclass(frozen=True, slots=True)
class SecretKeyRef:
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`size` is a Kubernetes quantity in Mi, Gi or Ti; `class_name` None means the default class."""

    size: str = DEFAULT_STORAGE_SIZE
    class_name: str | None = None


@dataclass(frozen=True, slots=True)
class Database:
    url_secret_ref: SecretKeyRef
    pooled_url_secret_ref: SecretKeyRef | None = None
    pool_size: int = DEFAULT_POOL_SIZE


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    project: str
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class SyncSourceSpec:
    environment: str
    database: Database
    region: str | None = None
    service_id: str | None = None
    display_name: str | None = None
    manual_table_publishing: bool = False
    storage: Storage = Storage()
    deletion_policy: str = DELETE


@dataclass(frozen=True, slots=True)
class StreamsServiceSpec:
    environment: str
    region: str | None = None
    service_id: str | None = None
    display_name: str | None = None
    variant: str | None = None
    storage: Storage = Storage()


@dataclass(frozen=True, slots=True)
class SecretHash:
    """Hex SHA-256 of a valid service secret; `expires_at` (RFC 3339) only while it is being rotated out."""

    sha256: str
    expires_at: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Status of any kind; the last four fields are used by services only."""

    observed_generation: int = 0
    state: str = ""
    conditions: tuple[Condition, ...] = ()
    service_id: str | None = None
    url: str | None = None
    secret_ref: SecretKeyRef | None = None
    secret_hashes: tuple[SecretHash, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON. Fields without a value are None: in a merge patch that removes them."""
        ref = self.secret_ref
        return {
            "observedGeneration": self.observed_generation,
            "state": self.state or None,
            "conditions": [c.to_dict() for c in self.conditions],
            "serviceId": self.service_id,
            "url": self.url,
            "secretRef": {"name": ref.name, "key": ref.key} if ref else None,
            "secretHashes": [_hash_dict(h) for h in self.secret_hashes] or None,
        }


def _hash_dict(value: SecretHash) -> dict[str, Any]:
    return {"sha256": value.sha256} | ({"expiresAt": value.expires_at} if value.expires_at else {})


@dataclass(frozen=True, slots=True)
class Workspace:
    meta: Meta
    spec: WorkspaceSpec
    status: Status
    kind: str = WORKSPACE


@dataclass(frozen=True, slots=True)
class Project:
    meta: Meta
    spec: ProjectSpec
    status: Status
    kind: str = PROJECT


@dataclass(frozen=True, slots=True)
class Environment:
    meta: Meta
    spec: EnvironmentSpec
    status: Status
    kind: str = ENVIRONMENT


@dataclass(frozen=True, slots=True)
class SyncSource:
    meta: Meta
    spec: SyncSourceSpec
    status: Status
    kind: str = SYNC_SOURCE


@dataclass(frozen=True, slots=True)
class StreamsService:
    meta: Meta
    spec: StreamsServiceSpec
    status: Status
    kind: str = STREAMS_SERVICE


Parent = Workspace | Project | Environment
Service = SyncSource | StreamsService
Resource = Parent | Service


def manifest(kind: str, name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """An object of one of our kinds, ready to be applied. `spec` has the YAML field names; None values are left out."""
    if kind not in KINDS:
        raise ModelError("kind", f"unknown kind {kind!r}; one of {', '.join(KINDS)}")
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": _without_none(spec),
    }


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def claimed_id(service: Service) -> str:
    """The service id this object claims: the one of its spec, else the one derived from its UID."""
    return service.spec.service_id or ids.service_id(service.meta.uid)


def parent_name(resource: Resource) -> str | None:
    """The name its reference points to; None where the parent is implied or there is none."""
    match resource:
        case Environment():
            return resource.spec.project
        case SyncSource() | StreamsService():
            return resource.spec.environment
        case _:
            return None


def short_name(resource: Resource) -> str:
    """The name people use inside its parent: `displayName`, else the object's name."""
    return resource.spec.display_name or resource.meta.name


def parse(raw: Mapping[str, Any]) -> Resource:
    """Reads an object of one of our kinds. Raises `ModelError` for another kind or a malformed field."""
    kind = raw.get("kind")
    meta = parse_meta(fields.mapping(raw.get("metadata"), "metadata"))
    status = parse_status(fields.mapping(raw.get("status"), "status"))
    spec = fields.mapping(raw.get("spec"), "spec")
    display_name = fields.optional_text(spec, "displayName", "spec")
    match kind:
        case "Workspace":
            return Workspace(meta, WorkspaceSpec(display_name), status)
        case "Project":
            return Project(meta, ProjectSpec(display_name), status)
        case "Environment":
            return Environment(meta, EnvironmentSpec(_ref(spec, "projectRef"), display_name), status)
        case "SyncSource":
            return SyncSource(meta, _sync_source_spec(spec), status)
        case "StreamsService":
            return StreamsService(meta, _streams_spec(spec), status)
        case _:
            raise ModelError("kind", f"unknown kind {kind!r}; one of {', '.join(KINDS)}")


def _sync_source_spec(spec: Mapping[str, Any]) -> SyncSourceSpec:
    database = fields.mapping(spec.get("database"), "spec.database")
    url = _secret_ref(database, "urlSecretRef", "spec.database")
    if url is None:
        raise ModelError("spec.database.urlSecretRef", "required: the name and key of the Secret with the database URL")
    return SyncSourceSpec(
        environment=_ref(spec, "environmentRef"),
        database=Database(
            url_secret_ref=url,
            pooled_url_secret_ref=_secret_ref(database, "pooledUrlSecretRef", "spec.database"),
            pool_size=fields.integer(database, "poolSize", "spec.database", DEFAULT_POOL_SIZE),
        ),
        region=fields.optional_text(spec, "region", "spec"),
        service_id=_service_id(spec),
        display_name=fields.optional_text(spec, "displayName", "spec"),
        manual_table_publishing=fields.boolean(spec, "manualTablePublishing", "spec"),
        storage=_storage(spec),
        deletion_policy=fields.optional_text(spec, "deletionPolicy", "spec") or DELETE,
    )


def _streams_spec(spec: Mapping[str, Any]) -> StreamsServiceSpec:
    return StreamsServiceSpec(
        environment=_ref(spec, "environmentRef"),
        region=fields.optional_text(spec, "region", "spec"),
        service_id=_service_id(spec),
        display_name=fields.optional_text(spec, "displayName", "spec"),
        variant=fields.optional_text(spec, "variant", "spec"),
        storage=_storage(spec),
    )


def parse_meta(raw: Mapping[str, Any]) -> Meta:
    """Reads ``metadata`` of any object. Raises `ModelError`."""
    return Meta(
        name=fields.text(raw, "name", "metadata"),
        namespace=fields.optional_text(raw, "namespace", "metadata") or "",
        uid=fields.optional_text(raw, "uid", "metadata") or "",
        resource_version=fields.optional_text(raw, "resourceVersion", "metadata") or "",
        generation=fields.integer(raw, "generation", "metadata", 0),
        created=fields.optional_text(raw, "creationTimestamp", "metadata") or "",
        deleting=fields.optional_text(raw, "deletionTimestamp", "metadata"),
        finalizers=tuple(str(f) for f in fields.sequence(raw.get("finalizers"), "metadata.finalizers")),
        labels=dict(fields.mapping(raw.get("labels"), "metadata.labels")),
        annotations=dict(fields.mapping(raw.get("annotations"), "metadata.annotations")),
    )


def parse_status(raw: Mapping[str, Any]) -> Status:
    """Reads ``status`` of any of our kinds; an absent one is an empty status. Raises `ModelError`."""
    hashes = fields.sequence(raw.get("secretHashes"), "status.secretHashes")
    return Status(
        observed_generation=fields.integer(raw, "observedGeneration", "status", 0),
        state=fields.optional_text(raw, "state", "status") or "",
        conditions=tuple(
            parse_condition(fields.mapping(c, "status.conditions"))
            for c in fields.sequence(raw.get("conditions"), "status.conditions")
        ),
        service_id=fields.optional_text(raw, "serviceId", "status"),
        url=fields.optional_text(raw, "url", "status"),
        secret_ref=_secret_ref(raw, "secretRef", "status"),
        secret_hashes=tuple(
            SecretHash(
                fields.text(h, "sha256", "status.secretHashes"),
                fields.optional_text(h, "expiresAt", "status.secretHashes"),
            )
            for h in (fields.mapping(h, "status.secretHashes") for h in hashes)
        ),
    )


def _ref(spec: Mapping[str, Any], key: str) -> str:
    return fields.text(fields.mapping(spec.get(key), f"spec.{key}"), "name", f"spec.{key}")


def _secret_ref(raw: Mapping[str, Any], key: str, path: str) -> SecretKeyRef | None:
    if raw.get(key) is None:
        return None
    ref = fields.mapping(raw[key], f"{path}.{key}")
    return SecretKeyRef(fields.text(ref, "name", f"{path}.{key}"), fields.text(ref, "key", f"{path}.{key}"))


def _storage(spec: Mapping[str, Any]) -> Storage:
    raw = fields.mapping(spec.get("storage"), "spec.storage")
    return Storage(
        size=fields.optional_text(raw, "size", "spec.storage") or DEFAULT_STORAGE_SIZE,
        class_name=fields.optional_text(raw, "className", "spec.storage"),
    )


def _service_id(spec: Mapping[str, Any]) -> str | None:
    value = fields.optional_text(spec, "serviceId", "spec")
    if value is not None and not ids.is_service_id(value):
        raise ModelError(
            "spec.serviceId",
            f"must be lower-case letters, digits and '-' (not at the ends), at most {ids.SERVICE_ID_MAX} characters",
        )
    return value
