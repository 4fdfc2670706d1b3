"""What a stack is told: frozen values, made from the configuration with every problem listed. Pure.

Secrets are not here: the one that a stack may need (`kubeconfig`) is a secret of its own in the configuration, so that
neither these values nor their printed form can leak it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from switchgear_infra.reading import ConfigurationError, Reader

CLUSTERS = ("kubeconfig", "eks", "gke", "aks")
DNS = ("none", "external-dns", "route53", "cloud-dns", "azure-dns")
BACKUPS = ("none", "s3", "gcs", "azure")
CLOUDS = ("none", "aws", "gcp", "azure")
_CLOUD_OF = {
    "kubeconfig": "none",
    "eks": "aws",
    "gke": "gcp",
    "aks": "azure",
    "route53": "aws",
    "cloud-dns": "gcp",
    "azure-dns": "azure",
    "s3": "aws",
    "gcs": "gcp",
    "azure": "azure",
}
_STACK = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+")
_REGION = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClusterSettings:
    """Where the region runs: a cluster that exists (`kubeconfig`), or one that the stack makes."""

    kind: str
    context: str = ""
    version: str = ""
    location: str = ""
    """GCP: region or zone; Azure: location. AWS takes the region from its own configuration."""
    machine: str = ""
    minimum: int = 2
    maximum: int = 6
    network: str = ""
    """AWS: VPC id; GCP: network name; Azure: not used. Empty: the package's own default."""
    subnets: tuple[str, ...] = ()
    resource_group: str = ""
    """Azure only."""


@dataclass(frozen=True)
class EdgeSettings:
    replicas: int
    service_type: str
    service_annotations: Pairs
    ingress_class: str
    """Empty: no Ingress is made, and TLS ends at a load balancer of your own."""
    ingress_annotations: Pairs


@dataclass(frozen=True)
class CertificateSettings:
    """Of the edge's host: cert-manager's, or a Secret that is there already. Only with an Ingress."""

    issuer: str
    issuer_kind: str
    secret: str


@dataclass(frozen=True)
class DnsSettings:
    kind: str
    zone: str
    """route53: the zone's id; cloud-dns: the managed zone's name; azure-dns: the zone's name."""
    target: str
    """Where the host points to: an address or a host name. Empty with `external-dns`: the Service or Ingress itself."""
    ttl: int
    resource_group: str


@dataclass(frozen=True)
class StorageSettings:
    """The StorageClass of the services' volumes; an empty provisioner: the class exists, or is the default."""

    name: str
    provisioner: str
    parameters: Pairs
    default: bool


@dataclass(frozen=True)
class BackupSettings:
    kind: str
    bucket: str
    location: str
    retain_days: int
    resource_group: str


@dataclass(frozen=True)
class MonitoringSettings:
    service_monitors: bool
    dashboards: bool
    namespaces: tuple[str, ...]


@dataclass(frozen=True)
class RegionSettings:
    """One region: everything that `Region` needs, apart from the credentials of its cluster."""

    name: str
    public_url: str
    registry: str
    tag: str
    shared: str
    """The stack of `programs/global` that this region belongs to (`organization/project/stack`); empty: none."""
    cluster: ClusterSettings
    edge: EdgeSettings
    certificate: CertificateSettings
    dns: DnsSettings
    storage: StorageSettings
    backups: BackupSettings
    monitoring: MonitoringSettings

    @property
    def host(self) -> str:
        return urlsplit(self.public_url).hostname or ""

    @property
    def tls_secret(self) -> str:
        return self.certificate.secret or ("switchgear-edge-tls" if self.certificate.issuer else "")

    @property
    def clouds(self) -> frozenset[str]:
        """Whose packages the stack needs."""
        kinds = (self.cluster.kind, self.dns.kind, self.backups.kind)
        return frozenset(_CLOUD_OF.get(kind, "none") for kind in kinds) - {"none"}


@dataclass(frozen=True)
class GlobalSettings:
    """What regions share: the domain, its zone, and where images come from."""

    cloud: str
    domain: str
    create_zone: bool
    resource_group: str
    registry: str
    tag: str


def region_settings(value: Any, path: str = "region") -> RegionSettings:
    """From the configuration value `region`. Raises ConfigurationError with every problem."""
    problems: list[str] = []
    reader = Reader(value, path, problems)
    made = RegionSettings(
        name=_region_name(reader),
        public_url=_public_url(reader),
        registry=reader.text("registry", ""),
        tag=_tag(reader),
        shared=_stack(reader),
        cluster=_cluster(reader.section("cluster")),
        edge=_edge(reader.section("edge")),
        certificate=_certificate(reader.section("certificate")),
        dns=_dns(reader.section("dns")),
        storage=_storage(reader.section("storage")),
        backups=_backups(reader.section("backups")),
        monitoring=_monitoring(reader.section("monitoring")),
    )
    reader.done()
    _check_together(made, problems, path)
    if problems:
        raise ConfigurationError(problems)
    return made


def global_settings(value: Any, path: str = "global") -> GlobalSettings:
    """From the configuration value `global`. Raises ConfigurationError with every problem."""
    problems: list[str] = []
    reader = Reader(value, path, problems)
    made = GlobalSettings(
        cloud=reader.choice("cloud", CLOUDS, "none"),
        domain=reader.name("domain"),
        create_zone=reader.flag("createZone", False),
        resource_group=reader.text("resourceGroup", ""),
        registry=reader.text("registry", ""),
        tag=_tag(reader),
    )
    reader.done()
    if made.create_zone and made.cloud == "none":
        reader.problem("createZone", "needs a cloud that holds the zone; set cloud, or leave createZone out")
    if made.cloud == "azure" and made.create_zone and not made.resource_group:
        reader.problem("resourceGroup", "is missing: zones of Azure lie in a resource group")
    if problems:
        raise ConfigurationError(problems)
    return made


def _region_name(reader: Reader) -> str:
    name = reader.text("name")
    if name and not _REGION.fullmatch(name):
        reader.problem("name", f"{name!r} is no region name; use up to 63 lower case letters, digits and '-'")
    return name


def _public_url(reader: Reader) -> str:
    url = reader.text("publicUrl")
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in url:
        reader.problem("publicUrl", f"{url!r} is no base URL; write it like https://eu.sync.example.com")
    return url.rstrip("/")


def _tag(reader: Reader) -> str:
    tag = reader.text("tag", "")
    if tag == "latest":
        reader.problem("tag", "'latest' changes by itself; name a version, or leave it out for this release's own")
    return tag


def _stack(reader: Reader) -> str:
    name = reader.text("global", "")
    if name and not _STACK.fullmatch(name):
        reader.problem("global", f"{name!r} is no stack; write it as organization/project/stack")
    return name


def _cluster(reader: Reader) -> ClusterSettings:
    made = ClusterSettings(
        kind=reader.choice("kind", CLUSTERS, "kubeconfig"),
        context=reader.text("context", ""),
        version=reader.text("version", ""),
        location=reader.text("location", ""),
        machine=reader.text("machine", ""),
        minimum=reader.integer("minimum", 2, 1, 1000),
        maximum=reader.integer("maximum", 6, 1, 1000),
        network=reader.text("network", ""),
        subnets=reader.texts("subnets"),
        resource_group=reader.text("resourceGroup", ""),
    )
    reader.done()
    if made.minimum > made.maximum:
        reader.problem("minimum", f"is {made.minimum}, above maximum ({made.maximum})")
    if made.kind in ("gke", "aks") and not made.location:
        reader.problem("location", f"is missing: {made.kind} needs to know where")
    if made.kind == "aks" and not made.resource_group:
        reader.problem("resourceGroup", "is missing: AKS clusters lie in a resource group")
    if made.kind != "kubeconfig" and made.context:
        reader.problem("context", "is of a kubeconfig; this stack makes its cluster")
    if made.kind == "kubeconfig":
        given = [f for f in ("version", "location", "machine", "network", "subnets") if reader.has(f)]
        for field in given:
            reader.problem(field, "is for clusters that the stack makes; set cluster.kind, or leave it out")
    return made


def _edge(reader: Reader) -> EdgeSettings:
    made = EdgeSettings(
        replicas=reader.integer("replicas", 2, 1, 1000),
        service_type=reader.choice("serviceType", ("ClusterIP", "NodePort", "LoadBalancer"), "ClusterIP"),
        service_annotations=reader.mapping("serviceAnnotations"),
        ingress_class=reader.text("ingressClass", ""),
        ingress_annotations=reader.mapping("ingressAnnotations"),
    )
    reader.done()
    if made.ingress_annotations and not made.ingress_class:
        reader.problem("ingressAnnotations", "need an Ingress; set ingressClass")
    return made


def _certificate(reader: Reader) -> CertificateSettings:
    made = CertificateSettings(
        issuer=reader.name("issuer", ""),
        issuer_kind=reader.choice("issuerKind", ("ClusterIssuer", "Issuer"), "ClusterIssuer"),
        secret=reader.name("secret", ""),
    )
    reader.done()
    if made.issuer and made.secret:
        reader.problem("secret", "is for a certificate of your own; leave it or issuer out")
    return made


def _dns(reader: Reader) -> DnsSettings:
    made = DnsSettings(
        kind=reader.choice("kind", DNS, "none"),
        zone=reader.text("zone", ""),
        target=reader.text("target", ""),
        ttl=reader.integer("ttl", 300, 30, 86_400),
        resource_group=reader.text("resourceGroup", ""),
    )
    reader.done()
    if made.kind == "azure-dns" and not made.resource_group:
        reader.problem("resourceGroup", "is missing: zones of Azure lie in a resource group")
    if made.kind in ("route53", "cloud-dns", "azure-dns") and not made.target:
        reader.problem("target", f"is missing: {made.kind} must be told the address or host of the load balancer")
    return made


def _storage(reader: Reader) -> StorageSettings:
    made = StorageSettings(
        name=reader.name("name", "switchgear"),
        provisioner=reader.text("provisioner", ""),
        parameters=reader.mapping("parameters"),
        default=reader.flag("default", False),
    )
    reader.done()
    if not made.provisioner and (made.parameters or made.default or reader.has("name")):
        reader.problem("provisioner", "is missing: without it no StorageClass is made")
    return made


def _backups(reader: Reader) -> BackupSettings:
    made = BackupSettings(
        kind=reader.choice("kind", BACKUPS, "none"),
        bucket=reader.text("bucket", ""),
        location=reader.text("location", ""),
        retain_days=reader.integer("retainDays", 30, 1, 3650),
        resource_group=reader.text("resourceGroup", ""),
    )
    reader.done()
    if made.kind != "none" and not _BUCKET.fullmatch(made.bucket):
        reader.problem("bucket", "must be 3 to 63 lower case letters, digits and '-'")
    if made.kind == "gcs" and not made.location:
        reader.problem("location", "is missing: buckets of GCS lie somewhere, such as EU")
    if made.kind == "azure" and not made.resource_group:
        reader.problem("resourceGroup", "is missing: storage accounts lie in a resource group")
    if made.kind == "azure" and not re.fullmatch(r"[a-z0-9]{3,24}", made.bucket):
        reader.problem("bucket", "names a storage account: 3 to 24 lower case letters and digits")
    return made


def _monitoring(reader: Reader) -> MonitoringSettings:
    made = MonitoringSettings(
        service_monitors=reader.flag("serviceMonitors", False),
        dashboards=reader.flag("dashboards", False),
        namespaces=reader.texts("namespaces") or ("monitoring",),
    )
    reader.done()
    return made


def _check_together(made: RegionSettings, problems: list[str], path: str) -> None:
    https = made.public_url.startswith("https://")
    if made.edge.ingress_class and https and not made.tls_secret:
        problems.append(f"{path}.certificate: publicUrl is https and there is an Ingress: name an issuer or a secret")
    if made.tls_secret and not made.edge.ingress_class:
        problems.append(f"{path}.certificate: only an Ingress uses it; set edge.ingressClass")
    if made.tls_secret and made.public_url and not https:
        problems.append(f"{path}.publicUrl: must begin with https://, because there is a certificate")
    exposed = made.edge.ingress_class or made.edge.service_type == "LoadBalancer" or made.dns.target
    if made.dns.kind == "external-dns" and not exposed:
        problems.append(
            f"{path}.dns: nothing has an address that it could point to; set dns.target, edge.ingressClass"
            " or edge.serviceType: LoadBalancer"
        )
    if made.dns.kind in ("route53", "cloud-dns", "azure-dns") and not made.dns.zone and not made.shared:
        problems.append(f"{path}.dns.zone: is missing, and there is no global stack that could tell it")


def config_value(config: Mapping[str, Any] | None, name: str) -> Any:
    """The one structured value of a stack's configuration. Raises ConfigurationError when it is not there."""
    if config is None:
        raise ConfigurationError([f"{name}: is missing; see Pulumi.example.yaml beside the program"])
    return config
