"""AWS: EKS, Route 53, S3. The account and the region are those of the packages' own configuration (`aws:region`)."""

from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws
import pulumi_eks as eks

from switchgear_infra.settings import BackupSettings, ClusterSettings, DnsSettings


def cluster(name: str, settings: ClusterSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = eks.Cluster(
        name,
        version=settings.version or None,
        vpc_id=settings.network or None,
        private_subnet_ids=list(settings.subnets) or None,
        instance_type=settings.machine or "m7i.large",
        desired_capacity=settings.minimum,
        min_size=settings.minimum,
        max_size=settings.maximum,
        node_associate_public_ip_address=False,
        create_oidc_provider=True,
        opts=opts,
    )
    kubeconfig: pulumi.Output[str] = made.kubeconfig.apply(
        lambda value: value if isinstance(value, str) else json.dumps(value)
    )
    return kubeconfig


def record(host: str, kind: str, zone: pulumi.Input[str], settings: DnsSettings, opts: pulumi.ResourceOptions) -> None:
    aws.route53.Record(
        "edge", zone_id=zone, name=host, type=kind, ttl=settings.ttl, records=[settings.target], opts=opts
    )


def bucket(settings: BackupSettings, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = aws.s3.Bucket("backups", bucket=settings.bucket, opts=opts)
    within = pulumi.ResourceOptions(parent=made, retain_on_delete=True)
    aws.s3.BucketVersioning("backups", bucket=made.id, versioning_configuration={"status": "Enabled"}, opts=within)
    aws.s3.BucketPublicAccessBlock(
        "backups",
        bucket=made.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=within,
    )
    aws.s3.BucketServerSideEncryptionConfiguration(
        "backups",
        bucket=made.id,
        rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
        opts=within,
    )
    aws.s3.BucketLifecycleConfiguration(
        "backups",
        bucket=made.id,
        rules=[
            {
                "id": "expire",
                "status": "Enabled",
                "filter": {"prefix": ""},
                "expiration": {"days": settings.retain_days},
                "noncurrent_version_expiration": {"noncurrent_days": 7},
            }
        ],
        opts=within,
    )
    name: pulumi.Output[str] = made.bucket
    return name


def zone(domain: str, group: str, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made: pulumi.Output[str] = aws.route53.Zone("domain", name=domain, opts=opts).zone_id
    return made
