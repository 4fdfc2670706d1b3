"""`Shared`: what regions have in common: the zone of their domain, and where their images come from."""

from __future__ import annotations

import pulumi

from switchgear_infra.clouds import cloud
from switchgear_infra.outputs import GlobalOutputs
from switchgear_infra.settings import GlobalSettings


class Shared(pulumi.ComponentResource):
    """`outputs` is what regions read."""

    def __init__(self, name: str, settings: GlobalSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchgear:infra:Shared", name, {}, opts)
        zone: pulumi.Input[str] = ""
        if settings.create_zone:
            options = pulumi.ResourceOptions(parent=self, protect=True, retain_on_delete=True)
            zone = cloud(settings.cloud).zone(settings.domain, settings.resource_group, options)
        self.outputs = GlobalOutputs(settings.domain, zone, settings.registry, settings.tag)
        self.register_outputs({})
