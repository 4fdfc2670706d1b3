"""The command ``switchgear-operator``. Ends with 0 when stopped, 2 for settings it cannot use, 1 for a fault."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from switchgear_model import logs
from switchgear_operator import settings as settings_module
from switchgear_operator.app import App
from switchgear_operator.kube import config as kube_config


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks and runs."""
    problems: list[str] = []
    settings = kubeconfig = None
    try:
        settings = settings_module.load(sys.argv[1:] if arguments is None else arguments, os.environ)
    except settings_module.SettingsError as error:
        problems += error.problems
    try:
        kubeconfig = kube_config.load()
    except kube_config.KubeConfigError as error:
        problems.append(str(error))
    if settings is None or kubeconfig is None:
        for problem in problems:
            print(f"switchgear-operator: {problem}", file=sys.stderr)
        return 2
    logs.configure("operator", settings.log_level)
    try:
        asyncio.run(App(settings, kubeconfig).run())
    except Exception as error:
        logging.getLogger(__name__).error("ended: %s", error, exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
