"""One module a cloud, each with the same four functions; a cloud's packages are imported only when it is used."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import pulumi

from switchgear_infra.reading import ConfigurationError
from switchgear_infra.settings import BackupSettings, ClusterSettings, DnsSettings

_MODULES = {
    "aws": "aws",
    "eks": "aws",
    "route53": "aws",
    "s3": "aws",
    "gcp": "gcp",
    "gke": "gcp",
    "cloud-dns": "gcp",
    "gcs": "gcp",
    "azure": "azure",
    "aks": "azure",
    "azure-dns": "azure",
}


class Cloud(Protocol):
    """What a cloud's module offers."""

    def cluster(self, name: str, settings: ClusterSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
        """A cluster with nodes; its kubeconfig."""

    def record(
        self, host: str, kind: str, zone: pulumi.Input[str], settings: DnsSettings, opts: pulumi.ResourceOptions
    ) -> None:
        """A DNS record `host` → `settings.target`."""

    def bucket(self, settings: BackupSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
        """A private, versioned bucket; its name."""

    def zone(self, domain: str, group: str, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
        """A DNS zone, as `record` takes it."""


def cloud(kind: str) -> Cloud:
    """The module for a cloud or one of its parts (`eks`, `s3` …). Raises ConfigurationError without its packages."""
    name = _MODULES[kind]
    try:
        return cast(Cloud, importlib.import_module(f"switchgear_infra.clouds.{name}"))
    except ModuleNotFoundError as error:
        package = (error.name or "").replace("_", "-")
        raise ConfigurationError(
            [f"{kind} needs the package {package}: pip install 'switchgear[infra-{name}]'"]
        ) from None
