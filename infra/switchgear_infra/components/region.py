"""`Region`: Switchgear in a cluster: namespace, CRDs, what the chart installs, and what lies around it.

Invariants: every object has the component as its parent and the cluster's provider; CRDs and the backup bucket outlive
the stack (customers' data hang on them); nothing branches on a value that is known only later.
"""

from __future__ import annotations

from typing import Any

import pulumi

from switchgear_infra import release
from switchgear_infra.clouds import cloud
from switchgear_infra.kubernetes import KubernetesObject, Provider, with_images
from switchgear_infra.outputs import GlobalOutputs, RegionOutputs
from switchgear_infra.settings import RegionSettings


class Region(pulumi.ComponentResource):
    """One region. `outputs` is what other stacks may know of it."""

    def __init__(
        self,
        name: str,
        settings: RegionSettings,
        provider: Provider,
        shared: GlobalOutputs | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("switchgear:infra:Region", name, {}, opts)
        self._settings = settings
        self._provider = provider
        self._shared = shared
        charts = release.charts()
        namespace = self._object(_namespace())
        crds = [self._object(item, retain_on_delete=True) for item in charts.crds]
        registry, tag = self._images()
        for item in release.objects(settings, charts):
            self._object(with_images(item, registry, tag, charts.version), depends_on=[namespace, *crds])
        storage_class = self._storage_class()
        self._certificate(namespace)
        self._dns(namespace)
        self.outputs = RegionOutputs(
            name=settings.name,
            public_url=settings.public_url,
            namespace=release.NAMESPACE,
            storage_class=storage_class,
            backup_bucket=self._backups(),
        )
        self.register_outputs({})

    def _object(
        self,
        item: dict[str, Any],
        *,
        depends_on: list[pulumi.Resource] | None = None,
        retain_on_delete: bool = False,
    ) -> KubernetesObject:
        options = pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=depends_on, retain_on_delete=retain_on_delete
        )
        return KubernetesObject(item, options)

    def _images(self) -> tuple[pulumi.Input[str], pulumi.Input[str]]:
        """The region's own registry and tag win over the shared ones."""
        settings, shared = self._settings, self._shared
        registry: pulumi.Input[str] = settings.registry
        tag: pulumi.Input[str] = settings.tag
        if shared is not None:
            registry = registry or shared.registry
            tag = tag or shared.tag
        return registry, tag

    def _storage_class(self) -> str:
        storage = self._settings.storage
        if not storage.provisioner:
            return ""
        metadata: dict[str, Any] = {"name": storage.name, "labels": _labels()}
        if storage.default:
            metadata["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
        item: dict[str, Any] = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": metadata,
            "provisioner": storage.provisioner,
            "reclaimPolicy": "Delete",  # deleting a service deletes its data; a backup is what outlives it
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": True,
        }
        if storage.parameters:
            item["parameters"] = dict(storage.parameters)
        self._object(item)
        return storage.name

    def _certificate(self, namespace: pulumi.Resource) -> None:
        settings = self._settings
        if not settings.certificate.issuer:
            return
        spec = {
            "secretName": settings.tls_secret,
            "dnsNames": [settings.host],
            "issuerRef": {
                "group": "cert-manager.io",
                "kind": settings.certificate.issuer_kind,
                "name": settings.certificate.issuer,
            },
            "privateKey": {"rotationPolicy": "Always"},
        }
        self._object(_namespaced("cert-manager.io/v1", "Certificate", "switchgear-edge", spec), depends_on=[namespace])

    def _dns(self, namespace: pulumi.Resource) -> None:
        settings, shared = self._settings, self._shared
        dns = settings.dns
        if dns.kind == "none":
            return
        if dns.kind == "external-dns":
            if not dns.target:
                return  # external-dns reads the host from the Ingress, or from the Service's annotation
            record = {
                "dnsName": settings.host,
                "recordType": record_type(dns.target),
                "recordTTL": dns.ttl,
                "targets": [dns.target],
            }
            item = _namespaced("externaldns.k8s.io/v1alpha1", "DNSEndpoint", "switchgear-edge", {"endpoints": [record]})
            self._object(item, depends_on=[namespace])
            return
        zone: pulumi.Input[str] = dns.zone
        if not dns.zone and shared is not None:
            zone = shared.zone
        options = pulumi.ResourceOptions(parent=self)
        cloud(dns.kind).record(settings.host, record_type(dns.target), zone, dns, options)

    def _backups(self) -> pulumi.Input[str]:
        backups = self._settings.backups
        if backups.kind == "none":
            return ""
        options = pulumi.ResourceOptions(parent=self, protect=True, retain_on_delete=True)
        return cloud(backups.kind).bucket(backups, options)


def record_type(target: str) -> str:
    """A, AAAA or CNAME."""
    if ":" in target:
        return "AAAA"
    return "A" if target.replace(".", "").isdigit() else "CNAME"


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "switchgear", "app.kubernetes.io/managed-by": "Pulumi"}


def _namespace() -> dict[str, Any]:
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": release.NAMESPACE, "labels": _labels() | restricted},
    }


def _namespaced(api_version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": release.NAMESPACE, "labels": _labels()},
        "spec": spec,
    }
