"""What an operator is started with: flags, else the environment, else defaults; checked all at once.

Pure but for reading the arguments and the environment it is given.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final
from urllib.parse import urlsplit

from switchgear_model import labels, logs

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class SettingsError(Exception):
    """Settings that cannot be used; `problems` has one sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator must be told. `edge_urls` empty: edges are found as pods. `health_port` 0: off."""

    namespace: str
    region: str
    public_url: str
    edge_urls: tuple[str, ...]
    shapes_image: str
    streams_image: str
    metrics_namespaces: tuple[str, ...]
    admin_token_secret: str
    health_host: str
    health_port: int
    resync_seconds: float
    log_level: str


def version() -> str:
    """The version of this distribution."""
    return metadata.version("switchgear")


def load(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Raises `SettingsError` with every problem found. ``--help`` exits as usual."""
    parser = argparse.ArgumentParser(
        prog="switchgear-operator",
        description="Runs Switchgear's resources on a Kubernetes cluster (KUBECONFIG, or the pod's ServiceAccount).",
    )
    names = {
        "namespace": ("SWITCHGEAR_NAMESPACE", labels.SYSTEM_NAMESPACE, "namespace of the installation"),
        "region": ("SWITCHGEAR_REGION", labels.DEFAULT_REGION, "name of the region this operator serves"),
        "public-url": ("SWITCHGEAR_PUBLIC_URL", "", "public base URL of the edge (required)"),
        "edge-url": ("SWITCHGEAR_EDGE_URL", "", "edges' internal listeners, comma separated; absent: found as pods"),
        "shapes-image": ("SWITCHGEAR_SHAPES_IMAGE", f"switchgear/shapes:{version()}", "image of the sync server"),
        "streams-image": ("SWITCHGEAR_STREAMS_IMAGE", f"switchgear/streams:{version()}", "image of the streams server"),
        "metrics-namespaces": ("SWITCHGEAR_METRICS_NAMESPACES", "", "namespaces that may read services' metrics, a,b"),
        "admin-token-secret": ("SWITCHGEAR_ADMIN_TOKEN_SECRET", "", "Secret to make for the API's token when missing"),
        "host": ("SWITCHGEAR_HOST", "127.0.0.1", "address of the health listener"),
        "health-port": ("SWITCHGEAR_HEALTH_PORT", "0", "port of the health listener; 0: off"),
        "resync-seconds": ("SWITCHGEAR_RESYNC_SECONDS", "45", "time between walks over everything, at most 60"),
        "log-level": ("SWITCHGEAR_LOG_LEVEL", "info", ", ".join(logs.LEVELS)),
    }
    for name, (variable, default, description) in names.items():
        shown = f"; default {default}" if default else ""
        parser.add_argument(f"--{name}", default=None, help=f"{description} ({variable}{shown})".replace("%", "%%"))
    parsed = vars(parser.parse_args(list(arguments)))

    def value(name: str) -> str:
        variable, default, _ = names[name]
        given = parsed[name.replace("-", "_")]
        return str(given if given is not None else environ.get(variable) or default)

    return _checked(value)


def _checked(value: Callable[[str], str]) -> Settings:
    problems: list[str] = []
    for name in ("namespace", "region"):
        if not _LABEL.fullmatch(value(name)):
            problems.append(f"--{name}: {value(name)!r} is not a DNS label (lower-case letters, digits and '-')")
    public_url = value("public-url").rstrip("/")
    if not public_url:
        problems.append("--public-url is required: the base URL at which clients reach the edge")
    elif not _is_base_url(public_url):
        problems.append(f"--public-url: {public_url!r} is not an http(s) URL such as https://edge.example.com")
    edge_urls = tuple(url.strip().rstrip("/") for url in value("edge-url").split(",") if url.strip())
    problems += [
        f"--edge-url: {url!r} is not an http(s) URL such as http://127.0.0.1:4401"
        for url in edge_urls
        if not _is_base_url(url)
    ]
    metrics_namespaces = tuple(name.strip() for name in value("metrics-namespaces").split(",") if name.strip())
    for flag, name in [*(("metrics-namespaces", n) for n in metrics_namespaces), *_given(value, "admin-token-secret")]:
        if not _LABEL.fullmatch(name):
            problems.append(f"--{flag}: {name!r} is not a DNS label (lower-case letters, digits and '-')")
    health_port = _number(value("health-port"), 0, 65535, "--health-port", problems)
    resync = _number(value("resync-seconds"), 1, 60, "--resync-seconds", problems)
    if value("log-level").lower() not in logs.LEVELS:
        problems.append(f"--log-level: {value('log-level')!r} is none of {', '.join(logs.LEVELS)}")
    if problems:
        raise SettingsError(problems)
    return Settings(
        namespace=value("namespace"),
        region=value("region"),
        public_url=public_url,
        edge_urls=edge_urls,
        shapes_image=value("shapes-image"),
        streams_image=value("streams-image"),
        metrics_namespaces=metrics_namespaces,
        admin_token_secret=value("admin-token-secret"),
        health_host=value("host"),
        health_port=int(health_port),
        resync_seconds=resync,
        log_level=value("log-level").lower(),
    )


def _given(value: Callable[[str], str], name: str) -> list[tuple[str, str]]:
    return [(name, value(name))] if value(name) else []


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment and parts.username is None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0


def _number(text: str, low: float, high: float, name: str, problems: list[str]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        problems.append(f"{name}: {text!r} is not a number from {low:g} to {high:g}")
        return low
    return number
