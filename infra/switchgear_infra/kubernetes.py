"""Any Kubernetes object as a Pulumi resource: the object as it is, under the type that the Kubernetes provider expects.

The typed classes of `pulumi_kubernetes` would rename every field on the way in and out; what comes from a chart is
passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi_kubernetes import Provider

from switchgear_infra import release

__all__ = ["KubernetesObject", "Provider", "with_images"]


class KubernetesObject(pulumi.CustomResource):
    """One object. Its name among the stack's resources is `<kind>/<namespace>/<name>`."""

    def __init__(self, item: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        api_version, kind = item["apiVersion"], item["kind"]
        group = api_version if "/" in api_version else f"core/{api_version}"
        metadata = item["metadata"]
        parts = [kind.lower(), *([metadata["namespace"]] if "namespace" in metadata else []), metadata["name"]]
        super().__init__(f"kubernetes:{group}:{kind}", "/".join(parts), dict(item), opts)


def with_images(
    item: dict[str, Any], registry: pulumi.Input[str], tag: pulumi.Input[str], version: str
) -> dict[str, Any]:
    """The object with its images' registry and tag, which may come from another stack."""

    def change(text: str) -> Any:
        if not release.is_image(text):
            return text
        if isinstance(registry, str) and isinstance(tag, str):
            return release.image(text, registry, tag, version)
        return pulumi.Output.all(registry, tag).apply(lambda known: release.image(text, known[0], known[1], version))

    changed: dict[str, Any] = release.mapped(item, change)
    return changed
