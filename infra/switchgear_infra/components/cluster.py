"""`Cluster`: the Kubernetes cluster of a region, as a provider: one that exists, or one that the stack makes.

The clouds' packages are imported only when they are used (see `clouds/`).
"""

from __future__ import annotations

import pulumi

from switchgear_infra.clouds import cloud
from switchgear_infra.kubernetes import Provider
from switchgear_infra.reading import ConfigurationError
from switchgear_infra.settings import ClusterSettings


class Cluster(pulumi.ComponentResource):
    """`provider` reaches the cluster; `kubeconfig` is secret."""

    def __init__(
        self,
        name: str,
        settings: ClusterSettings,
        kubeconfig: pulumi.Output[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`kubeconfig` is that of an existing cluster. Raises ConfigurationError when it is needed and not given."""
        if settings.kind == "kubeconfig" and kubeconfig is None:
            text = "is missing; set it as a secret, from a file: pulumi config set --secret kubeconfig < FILE"
            raise ConfigurationError([f"kubeconfig: {text}"])
        super().__init__("switchgear:infra:Cluster", name, {}, opts)
        if kubeconfig is None or settings.kind != "kubeconfig":
            child = pulumi.ResourceOptions(parent=self)
            kubeconfig = cloud(settings.kind).cluster(name, settings, child)
        self.kubeconfig: pulumi.Output[str] = pulumi.Output.secret(kubeconfig)
        self.provider = Provider(
            name,
            kubeconfig=self.kubeconfig,
            context=settings.context or None,
            opts=pulumi.ResourceOptions(parent=self, additional_secret_outputs=["kubeconfig"]),
        )
        self.register_outputs({})
