"""The two programs: from a stack's configuration to its components. `infra/programs` only calls them."""

from __future__ import annotations

from typing import NoReturn

import pulumi

from switchgear_infra.components.cluster import Cluster
from switchgear_infra.components.region import Region
from switchgear_infra.components.shared import Shared
from switchgear_infra.outputs import GlobalOutputs
from switchgear_infra.reading import ConfigurationError
from switchgear_infra.settings import config_value, global_settings, region_settings


def region() -> None:
    """One region. Its configuration: `region` (see Pulumi.example.yaml), and the secret `kubeconfig`."""
    config = pulumi.Config()
    try:
        settings = region_settings(config_value(config.get_object("region"), "region"))
        cluster = Cluster(settings.name, settings.cluster, config.get_secret("kubeconfig"))
        shared = GlobalOutputs.read(settings.shared) if settings.shared else None
        made = Region(settings.name, settings, cluster.provider, shared)
    except ConfigurationError as error:
        _refuse(error)
    made.outputs.export()


def shared() -> None:
    """What regions share. Its configuration: `global`."""
    try:
        settings = global_settings(config_value(pulumi.Config().get_object("global"), "global"))
        made = Shared("global", settings)
    except ConfigurationError as error:
        _refuse(error)
    made.outputs.export()


def _refuse(error: ConfigurationError) -> NoReturn:
    """One message without a stack trace; nothing has been changed yet."""
    raise pulumi.RunError(str(error))
