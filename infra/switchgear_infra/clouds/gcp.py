"""Google Cloud: GKE, Cloud DNS, Cloud Storage. The project is that of the package's own configuration."""

from __future__ import annotations

import json

import pulumi
import pulumi_gcp as gcp

from switchgear_infra.settings import BackupSettings, ClusterSettings, DnsSettings


def cluster(name: str, settings: ClusterSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = gcp.container.Cluster(
        name,
        location=settings.location,
        min_master_version=settings.version or None,
        network=settings.network or None,
        remove_default_node_pool=True,
        initial_node_count=1,
        deletion_protection=True,
        opts=opts,
    )
    gcp.container.NodePool(
        name,
        cluster=made.name,
        location=settings.location,
        autoscaling={"min_node_count": settings.minimum, "max_node_count": settings.maximum},
        node_config={
            "machine_type": settings.machine or "e2-standard-4",
            "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        },
        opts=opts,
    )
    return pulumi.Output.all(made.name, made.endpoint, made.master_auth).apply(
        lambda known: _kubeconfig(known[0], known[1], known[2]["cluster_ca_certificate"])
    )


def _kubeconfig(name: str, endpoint: str, authority: str) -> str:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "gke-gcloud-auth-plugin",
        "provideClusterInfo": True,
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": f"https://{endpoint}", "certificate-authority-data": authority},
                }
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "users": [{"name": name, "user": {"exec": plugin}}],
        }
    )


def record(host: str, kind: str, zone: pulumi.Input[str], settings: DnsSettings, opts: pulumi.ResourceOptions) -> None:
    target = f"{settings.target}." if kind == "CNAME" else settings.target
    gcp.dns.RecordSet(
        "edge", managed_zone=zone, name=f"{host}.", type=kind, ttl=settings.ttl, rrdatas=[target], opts=opts
    )


def bucket(settings: BackupSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = gcp.storage.Bucket(
        "backups",
        name=settings.bucket,
        location=settings.location,
        uniform_bucket_level_access=True,
        public_access_prevention="enforced",
        versioning={"enabled": True},
        lifecycle_rules=[
            {"action": {"type": "Delete"}, "condition": {"age": settings.retain_days, "with_state": "ANY"}}
        ],
        opts=opts,
    )
    name: pulumi.Output[str] = made.name
    return name


def zone(domain: str, group: str, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = gcp.dns.ManagedZone("domain", name=domain.replace(".", "-"), dns_name=f"{domain}.", opts=opts)
    name: pulumi.Output[str] = made.name
    return name
