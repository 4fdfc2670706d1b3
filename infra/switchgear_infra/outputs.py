"""What a stack tells others: small, typed, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pulumi


@dataclass(frozen=True)
class GlobalOutputs:
    """What every region reads of the global stack."""

    domain: pulumi.Input[str]
    zone: pulumi.Input[str]
    """As `dns.zone` of a region takes it; empty: regions are told theirs."""
    registry: pulumi.Input[str]
    tag: pulumi.Input[str]

    def export(self) -> None:
        pulumi.export("global", {"domain": self.domain, "zone": self.zone, "registry": self.registry, "tag": self.tag})

    @classmethod
    def read(cls, stack: str) -> Self:
        """From the stack's `StackReference`. Fields that it does not export are empty."""
        shared: pulumi.Output[Mapping[str, Any]] = pulumi.StackReference(stack).require_output("global")

        def field(name: str) -> pulumi.Output[str]:
            return shared.apply(lambda value: str(value.get(name) or ""))

        return cls(field("domain"), field("zone"), field("registry"), field("tag"))


@dataclass(frozen=True)
class RegionOutputs:
    """What is known of a region from outside."""

    name: pulumi.Input[str]
    public_url: pulumi.Input[str]
    namespace: pulumi.Input[str]
    storage_class: pulumi.Input[str]
    backup_bucket: pulumi.Input[str]

    def export(self) -> None:
        pulumi.export(
            "region",
            {
                "name": self.name,
                "publicUrl": self.public_url,
                "namespace": self.namespace,
                "storageClass": self.storage_class,
                "backupBucket": self.backup_bucket,
            },
        )
