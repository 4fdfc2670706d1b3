"""Azure: AKS, Azure DNS, Blob Storage, in resource groups that exist."""

from __future__ import annotations

import base64

import pulumi
import pulumi_azure_native as azure

from switchgear_infra.settings import BackupSettings, ClusterSettings, DnsSettings


def cluster(name: str, settings: ClusterSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = azure.containerservice.ManagedCluster(
        name,
        resource_name_=name,
        resource_group_name=settings.resource_group,
        location=settings.location,
        kubernetes_version=settings.version or None,
        dns_prefix=name,
        identity={"type": "SystemAssigned"},
        agent_pool_profiles=[
            {
                "name": "nodes",
                "mode": "System",
                "vm_size": settings.machine or "Standard_D4s_v5",
                "enable_auto_scaling": True,
                "count": settings.minimum,
                "min_count": settings.minimum,
                "max_count": settings.maximum,
                "os_type": "Linux",
            }
        ],
        opts=opts,
    )
    found = azure.containerservice.list_managed_cluster_user_credentials_output(
        resource_group_name=settings.resource_group,
        resource_name=made.name,
        opts=pulumi.InvokeOutputOptions(parent=made),
    )
    return pulumi.Output.secret(found.kubeconfigs.apply(lambda configs: base64.b64decode(configs[0].value).decode()))


def record(host: str, kind: str, zone: pulumi.Input[str], settings: DnsSettings, opts: pulumi.ResourceOptions) -> None:
    name = pulumi.Output.from_input(zone).apply(lambda known: relative_name(host, known))
    azure.dns.RecordSet(
        "edge",
        resource_group_name=settings.resource_group,
        zone_name=zone,
        relative_record_set_name=name,
        record_type=kind,
        ttl=settings.ttl,
        a_records=[{"ipv4_address": settings.target}] if kind == "A" else None,
        aaaa_records=[{"ipv6_address": settings.target}] if kind == "AAAA" else None,
        cname_record={"cname": settings.target} if kind == "CNAME" else None,
        opts=opts,
    )


def relative_name(host: str, zone: str) -> str:
    """The host's name within the zone; `@` is the zone itself."""
    return "@" if host == zone else host.removesuffix(f".{zone}")


def bucket(settings: BackupSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = azure.storage.StorageAccount(
        "backups",
        account_name=settings.bucket,
        resource_group_name=settings.resource_group,
        location=settings.location or None,
        kind="StorageV2",
        sku={"name": "Standard_ZRS"},
        allow_blob_public_access=False,
        minimum_tls_version="TLS1_2",
        enable_https_traffic_only=True,
        opts=opts,
    )
    azure.storage.BlobContainer(
        "backups",
        account_name=made.name,
        container_name="backups",
        resource_group_name=settings.resource_group,
        opts=pulumi.ResourceOptions(parent=made, retain_on_delete=True),
    )
    azure.storage.ManagementPolicy(
        "backups",
        account_name=made.name,
        management_policy_name="default",
        resource_group_name=settings.resource_group,
        policy={
            "rules": [
                {
                    "name": "expire",
                    "type": "Lifecycle",
                    "enabled": True,
                    "definition": {
                        "filters": {"blob_types": ["blockBlob"]},
                        "actions": {
                            "base_blob": {"delete": {"days_after_modification_greater_than": settings.retain_days}}
                        },
                    },
                }
            ]
        },
        opts=pulumi.ResourceOptions(parent=made, retain_on_delete=True),
    )
    name: pulumi.Output[str] = made.name
    return name


def zone(domain: str, group: str, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = azure.dns.Zone("domain", zone_name=domain, resource_group_name=group, location="global", opts=opts)
    name: pulumi.Output[str] = made.name
    return name
