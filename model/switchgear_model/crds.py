"""The CustomResourceDefinitions, generated from one place: ``python -m switchgear_model.crds DIR`` writes them.

Validation is layered: the schema for types and lengths, CEL for what needs a sentence of explanation.
The words they are written in are in `crd_schema`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from switchgear_model import kinds
from switchgear_model.conditions import MESSAGE_MAX
from switchgear_model.crd_schema import (
    DNS_LABEL,
    MAKE_NEW,
    Schema,
    display_name,
    immutable_optional,
    ref,
    rule,
    secret_key_ref,
    storage,
    struct,
    text,
)
from switchgear_model.ids import EDGE_INTERNAL_ID, SERVICE_ID_MAX, SERVICE_ID_PATTERN
from switchgear_model.labels import CATEGORY, GROUP, VERSION


def _service_fields() -> dict[str, Schema]:
    return {
        "environmentRef": ref("The Environment this service belongs to.", "environmentRef"),
        "region": text(
            "Region in which the service runs; the operator's own when absent. Immutable.",
            63,
            minLength=1,
            **{
                "x-kubernetes-validations": [
                    rule(
                        f"self.matches('{DNS_LABEL}')",
                        "region must be a region's name: lower-case letters, digits and '-'",
                    )
                ]
            },
        ),
        "serviceId": text(
            "Only for a service that moves in from elsewhere and keeps its id. Immutable.",
            SERVICE_ID_MAX,
            minLength=1,
            **{
                "x-kubernetes-validations": [
                    rule(
                        f"self.matches('{SERVICE_ID_PATTERN}')",
                        "serviceId must be lower-case letters, digits and '-' (not at the ends), "
                        f"at most {SERVICE_ID_MAX} characters; leave it out to get a new one",
                    ),
                    rule(f"self != '{EDGE_INTERNAL_ID}'", f"serviceId {EDGE_INTERNAL_ID} is reserved; choose another"),
                ]
            },
        ),
        "displayName": display_name(),
    }


def _service_rules() -> list[dict[str, str]]:
    return [
        immutable_optional("region", "A service cannot move: " + MAKE_NEW[0].lower() + MAKE_NEW[1:]),
        immutable_optional("serviceId", MAKE_NEW),
    ]


def _spec(kind: str) -> Schema:
    match kind:
        case kinds.WORKSPACE:
            return struct("What is wanted.", {"displayName": display_name()}, default={})
        case kinds.PROJECT:
            return struct("What is wanted.", {"displayName": display_name()}, default={})
        case kinds.ENVIRONMENT:
            return struct(
                "What is wanted.",
                {
                    "projectRef": ref("The Project this environment belongs to.", "projectRef"),
                    "displayName": display_name(),
                },
                required=["projectRef"],
            )
        case kinds.SYNC_SOURCE:
            return _sync_source_spec()
        case _:
            fields = _service_fields() | {
                "variant": text("Preset for a kind of use, such as json or state.", 63, minLength=1, pattern=DNS_LABEL),
                "storage": storage(),
            }
            return struct(
                "What is wanted.",
                fields,
                required=["environmentRef"],
                rules=_service_rules(),
            )


def _sync_source_spec() -> Schema:
    database = struct(
        "The Postgres database to sync from. URLs are given only by reference to a Secret.",
        {
            "urlSecretRef": secret_key_ref(
                "Where the URL of a direct connection (not through a pooler) is: the role needs REPLICATION.",
                "urlSecretRef",
            ),
            "pooledUrlSecretRef": secret_key_ref(
                "Where the URL of a pooled connection is, used for everything but replication.", "pooledUrlSecretRef"
            ),
            "poolSize": {
                "type": "integer",
                "format": "int32",
                "description": "Connections to the database at most, besides replication.",
                "minimum": 1,
                "maximum": 500,
                "default": kinds.DEFAULT_POOL_SIZE,
            },
        },
        rules=[
            # Not `required`: that error would not say that a URL is never accepted inline.
            rule(
                "has(self.urlSecretRef)",
                "database.urlSecretRef is required: put the database URL into a Secret and name it here as "
                "urlSecretRef: {name, key}; a URL is never accepted in the spec itself",
                fieldPath=".urlSecretRef",
                reason="FieldValueRequired",
            )
        ],
    )
    fields = _service_fields() | {
        "database": database,
        "manualTablePublishing": {
            "type": "boolean",
            "description": "Tables are added to the publication by hand, not by the sync server.",
            "default": False,
        },
        "storage": storage(),
        "deletionPolicy": {
            "type": "string",
            "description": "What happens to the replication slot and the publication at deletion.",
            "enum": [kinds.DELETE, kinds.ORPHAN],
            "default": kinds.DELETE,
        },
    }
    return struct(
        "What is wanted.",
        fields,
        required=["environmentRef", "database"],
        rules=_service_rules(),
    )


def _conditions() -> Schema:
    return {
        "type": "array",
        "description": "Ready always; Reconciling while progressing; Stalled when a human must act; checks by name.",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": struct(
            "One condition.",
            {
                "type": text("Name of the condition.", 64, minLength=1),
                "status": {"type": "string", "description": "Whether it holds.", "enum": ["True", "False", "Unknown"]},
                "reason": text("Stable code of why.", 64, minLength=1),
                "message": text("The same for people, with the way out.", MESSAGE_MAX),
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When status last changed.",
                    "maxLength": 40,
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Generation this was true of.",
                    "minimum": 0,
                },
            },
            required=["type", "status", "reason", "lastTransitionTime"],
        ),
    }


def _status(info: kinds.KindInfo) -> Schema:
    states = kinds.SERVICE_STATES if info.is_service else kinds.PARENT_STATES
    fields: dict[str, Schema] = {
        "observedGeneration": {
            "type": "integer",
            "format": "int64",
            "description": "Generation of the spec that this status is about.",
            "minimum": 0,
        },
        "state": {"type": "string", "description": "Where it stands, in one word.", "enum": list(states)},
        "conditions": _conditions(),
    }
    if info.is_service:
        fields |= {
            "serviceId": text("The public id.", SERVICE_ID_MAX),
            "url": text("Where clients reach the service.", 2048),
            "secretRef": struct(
                "The Secret with the service's secret.",
                {"name": text("Name of the Secret.", 253), "key": text("Key in its data.", 253)},
                required=["name", "key"],
            ),
            "secretHashes": {
                "type": "array",
                "description": "SHA-256 of every secret that is valid.",
                "maxItems": 8,
                "x-kubernetes-list-type": "atomic",
                "items": struct(
                    "One valid secret.",
                    {
                        "sha256": text("Hex SHA-256 of the whole secret.", 64, minLength=64),
                        "expiresAt": {
                            "type": "string",
                            "format": "date-time",
                            "description": "When it stops being valid; absent: never.",
                            "maxLength": 40,
                        },
                    },
                    required=["sha256"],
                ),
            },
        }
    return struct("What is.", fields)


def _columns(info: kinds.KindInfo) -> list[dict[str, Any]]:
    def column(name: str, path: str, type_: str = "string", **more: Any) -> dict[str, Any]:
        return {"name": name, "type": type_, "jsonPath": path, **more}

    columns = [column("State", ".status.state")]
    if info.is_service:
        columns.append(column("URL", ".status.url"))
    columns.append(column("Reason", '.status.conditions[?(@.type=="Ready")].reason'))
    columns.append(column("Age", ".metadata.creationTimestamp", "date"))
    if info.is_service:
        columns.append(column("Service-Id", ".status.serviceId", priority=1))
        columns.append(column("Environment", ".spec.environmentRef.name", priority=1))
    elif info.ref_field:
        columns.append(column("Project", f".spec.{info.ref_field}.name", priority=1))
    columns.append(column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1))
    return columns


_DESCRIPTIONS = {
    kinds.WORKSPACE: "The tenant: a team or an organisation. One in a namespace.",
    kinds.PROJECT: "One app or product of a workspace.",
    kinds.ENVIRONMENT: "An environment of a project, such as production, staging or pr-42.",
    kinds.SYNC_SOURCE: "A Postgres database whose tables are synced as shapes.",
    kinds.STREAMS_SERVICE: "A server of durable streams.",
}


def crd(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    info = kinds.KINDS[kind]
    needs_spec = kind not in (kinds.WORKSPACE, kinds.PROJECT)
    schema = struct(
        _DESCRIPTIONS[kind],
        {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(kind),
            "status": _status(info),
        },
        required=["spec"] if needs_spec else None,
        rules=[
            rule(
                f"size(self.metadata.name) <= 63 && self.metadata.name.matches('{DNS_LABEL}')",
                "metadata.name must be at most 63 characters: lower-case letters, digits and '-', without dots",
            )
        ],
    )
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": info.kind,
                "listKind": f"{info.kind}List",
                "plural": info.plural,
                "singular": info.singular,
                "shortNames": [info.short_name],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(info),
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def all_crds() -> list[dict[str, Any]]:
    """The definitions of all kinds, parents first."""
    return [crd(kind) for kind in kinds.KINDS]


def render(definition: dict[str, Any]) -> str:
    """One definition as the YAML that stands in ``crds/``."""
    # PyYAML is needed by whoever writes the files, not by the data planes that import the model.
    import yaml

    head = "# Generated by `make crds` from model/switchgear_model/crds.py. Change it there.\n"
    return head + yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True)


def files() -> dict[str, str]:
    """File name → content of ``crds/``."""
    return {f"{definition['metadata']['name']}.yaml": render(definition) for definition in all_crds()}


def main(arguments: list[str]) -> int:
    """Writes the definitions into a folder."""
    if len(arguments) != 1:
        print("usage: python -m switchgear_model.crds DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
