"""The words of which `crds` writes its schemas: texts, objects, CEL rules, and the fields that several kinds have.

Every text has a maxLength, because the CEL cost budget depends on it. A rule with ``oldSelf`` does not run when its
field is added or removed, so rules for optional immutable fields stand on the parent and use ``has()``.
"""

from __future__ import annotations

from typing import Any

from switchgear_model import kinds

Schema = dict[str, Any]

DNS_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_SUBDOMAIN = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def text(description: str, max_length: int, **more: Any) -> Schema:
    return {"type": "string", "description": description, "maxLength": max_length, **more}


def struct(
    description: str,
    properties: dict[str, Schema],
    *,
    required: list[str] | None = None,
    rules: list[dict[str, str]] | None = None,
    **more: Any,
) -> Schema:
    schema: Schema = {"type": "object", "description": description, "properties": properties, **more}
    if required:
        schema["required"] = required
    if rules:
        schema["x-kubernetes-validations"] = rules
    return schema


def rule(condition: str, message: str, **more: str) -> dict[str, str]:
    return {"rule": condition, "message": message, **more}


def immutable_optional(field: str, hint: str) -> dict[str, str]:
    return rule(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} is immutable: it can be given only when the object is created. {hint}",
        fieldPath=f".{field}",
        reason="FieldValueForbidden",
    )


MAKE_NEW = "Create a new object under another name, or delete this one first"


def ref(description: str, field: str) -> Schema:
    return struct(
        description,
        {
            "name": text(
                "Name of the object, in the same namespace. Immutable.",
                63,
                minLength=1,
                **{
                    "x-kubernetes-validations": [
                        rule(
                            f"self.matches('{DNS_LABEL}')",
                            f"{field}.name must be the metadata.name of the object: lower-case letters, digits and '-'",
                        ),
                        rule("self == oldSelf", f"{field}.name is immutable. {MAKE_NEW}", reason="FieldValueForbidden"),
                    ]
                },
            )
        },
        required=["name"],
    )


def secret_key_ref(description: str, field: str) -> Schema:
    # The rules are CEL and not patterns because a pattern's error quotes the value, and people paste URLs here.
    return struct(
        description,
        {
            "name": text(
                "Name of the Secret, in the same namespace.",
                253,
                minLength=1,
                **{
                    "x-kubernetes-validations": [
                        rule(
                            f"self.matches('{_DNS_SUBDOMAIN}')",
                            f"{field}.name must be the name of a Secret in this namespace (not the URL itself): "
                            "kubectl create secret generic NAME --from-literal=url=postgresql://…",
                        )
                    ]
                },
            ),
            "key": text(
                "Key in the Secret's data.",
                253,
                minLength=1,
                **{
                    "x-kubernetes-validations": [
                        rule(
                            "self.matches('^[-._a-zA-Z0-9]+$')",
                            f"{field}.key must be a key of the Secret's data: letters, digits, '-', '_' and '.'",
                        )
                    ]
                },
            ),
        },
        required=["name", "key"],
    )


def display_name() -> Schema:
    return text("Short name for people, unique within its parent.", 100, minLength=1)


def storage() -> Schema:
    size_rule = "^[1-9][0-9]{0,8}(Mi|Gi|Ti)$"
    return struct(
        "The volume on which the service keeps its data.",
        {
            "size": text(
                "Size, for example 10Gi. It can grow and never shrink.",
                16,
                default=kinds.DEFAULT_STORAGE_SIZE,
                **{
                    "x-kubernetes-validations": [
                        rule(
                            f"self.matches('{size_rule}')",
                            "storage.size must be a whole number of Mi, Gi or Ti, for example 10Gi",
                        ),
                        rule(
                            f"!self.matches('{size_rule}') || !oldSelf.matches('{size_rule}') || "
                            "quantity(self).compareTo(quantity(oldSelf)) >= 0",
                            "storage.size can grow and never shrink: give at least the present size",
                        ),
                    ]
                },
            ),
            "className": text("StorageClass; the cluster's default when absent. Immutable.", 253, minLength=1),
        },
        default={},
        rules=[immutable_optional("className", MAKE_NEW)],
    )
