"""Settings from flags and environment, all checked at start, every problem named at once. Pure but for the key file."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MIN_KEY = 32
_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """`problems`: one line each, saying which setting and how to put it right."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Settings:
    """`region_key` is the text of the key as bytes; times are in seconds."""

    host: str
    port: int
    internal_port: int
    region_key: bytes = field(repr=False)
    max_connections: int
    max_service_requests: int
    head_timeout: float
    drain_seconds: float
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    log_level: str

    def trusts(self, peer: str) -> bool:
        """Whether `peer` is a proxy whose X-Forwarded-* headers are believed."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.trusted_proxies)


# flag, variable, default, help
_SETTINGS = (
    ("host", "SWITCHGEAR_HOST", "127.0.0.1", "address that both listeners bind"),
    ("port", "SWITCHGEAR_PORT", "4400", "port for clients"),
    ("internal-port", "SWITCHGEAR_INTERNAL_PORT", "4401", "port for the operator, probes and metrics"),
    ("region-key-file", "SWITCHGEAR_REGION_KEY_FILE", "", "file with the region key"),
    ("max-connections", "SWITCHGEAR_MAX_CONNECTIONS", "20000", "client connections at once"),
    ("max-service-requests", "SWITCHGEAR_MAX_SERVICE_REQUESTS", "10000", "requests of one service at its pod at once"),
    ("head-timeout", "SWITCHGEAR_HEAD_TIMEOUT", "120", "seconds until a pod must have begun to answer"),
    ("drain-seconds", "SWITCHGEAR_DRAIN_SECONDS", "10", "seconds that running requests get when the edge stops"),
    ("trusted-proxies", "SWITCHGEAR_TRUSTED_PROXIES", "", "networks whose X-Forwarded-* headers are believed, a,b"),
    ("log-level", "SWITCHGEAR_LOG_LEVEL", "info", "one of " + ", ".join(_LEVELS)),
)


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """A flag wins over its variable. Raises SettingsError; SystemExit for --help and unknown flags."""
    parser = argparse.ArgumentParser(
        prog="switchgear-edge",
        description="The authenticated gateway in front of the data planes. The Kubernetes API is found by KUBECONFIG "
        "or, in a pod, by its ServiceAccount.",
    )
    for flag, variable, default, text in _SETTINGS:
        said = f"default {default}" if default else "no default"
        parser.add_argument(f"--{flag}", metavar="VALUE", help=f"{text} (or {variable}; {said})")
    flags = vars(parser.parse_args(arguments))
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    for flag, variable, default, _ in _SETTINGS:
        given = flags[flag.replace("-", "_")]
        values[flag] = (given if given is not None else environ.get(variable) or default).strip()
        names[flag] = f"--{flag} ({variable})"
    return _check(values, names)


def _check(values: Mapping[str, str], names: Mapping[str, str]) -> Settings:
    problems: list[str] = []

    def number(flag: str, low: int, high: int) -> int:
        try:
            value = int(values[flag])
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            problems.append(f"{names[flag]} must be a whole number from {low} to {high}, not {values[flag]!r}")
        return value

    level = values["log-level"].lower()
    if level not in _LEVELS:
        problems.append(f"{names['log-level']} must be one of {', '.join(_LEVELS)}, not {level!r}")
    made = Settings(
        host=values["host"],
        port=number("port", 0, 65_535),
        internal_port=number("internal-port", 0, 65_535),
        region_key=_region_key(values["region-key-file"], names["region-key-file"], problems),
        max_connections=number("max-connections", 1, 1_000_000),
        max_service_requests=number("max-service-requests", 1, 1_000_000),
        head_timeout=number("head-timeout", 1, 3600),
        drain_seconds=number("drain-seconds", 0, 600),
        trusted_proxies=_networks(values["trusted-proxies"], names["trusted-proxies"], problems),
        log_level=level,
    )
    if made.port and made.port == made.internal_port:
        problems.append(f"{names['port']} and {names['internal-port']} must differ, both are {made.port}")
    if problems:
        raise SettingsError(problems)
    return made


def _region_key(path: str, name: str, problems: list[str]) -> bytes:
    if not path:
        problems.append(f"{name} is missing: give the file that holds the region key")
        return b""
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        problems.append(f"{name}: cannot read {path}: {error.strerror}")
        return b""
    if len(key) < _MIN_KEY:
        problems.append(f"{name}: {path} holds {len(key)} bytes, a region key has at least {_MIN_KEY}")
    return key


def _networks(text: str, name: str, problems: list[str]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    made = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            made.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            problems.append(f"{name}: {part!r} is no network, such as 10.0.0.0/8")
    return tuple(made)
