"""`switchgear-api`: reads the settings, connects, serves until SIGTERM or SIGINT, then drains and exits with 0."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import uvicorn
from lightkube.core.exceptions import ConfigError

from switchgear_api import settings
from switchgear_api.app import create_app
from switchgear_api.auth.admin_token import AdminToken, TokenFileError
from switchgear_api.kube import Kube, kubeconfig_from_environment
from switchgear_model import logs

log = logging.getLogger("switchgear_api")

_DRAIN_SECONDS = 20
_MAX_CONNECTIONS = 512
_KEEP_ALIVE_SECONDS = 75


def main() -> None:
    """Runs the process. Exit status 2 when it cannot start as configured."""
    logs.configure("switchgear-api")
    # httpx writes every request's URL at info, which is noise here.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        wanted = settings.read(sys.argv[1:], os.environ)
        token = AdminToken(wanted.admin_token_file)
        kube = Kube(kubeconfig_from_environment())
    except settings.SettingsError as error:
        for problem in error.problems:
            log.error("%s", problem)
        sys.exit(2)
    except TokenFileError as error:
        log.error("%s", error)
        sys.exit(2)
    except (ConfigError, OSError, KeyError) as error:
        log.error("no usable Kubernetes configuration: %s. Set KUBECONFIG, or run in a cluster", error)
        sys.exit(2)
    config = uvicorn.Config(
        create_app(kube, token, public_url=wanted.public_url),
        host=wanted.host,
        port=wanted.port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        ws="none",
    )
    # uvicorn drains at a signal and then raises it again, for whoever wraps it. Without a handler of ours that would
    # end the process with the signal's status, but a graceful stop is success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    uvicorn.Server(config).run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
