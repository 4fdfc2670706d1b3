"""Command line and environment → settings. Every problem is found and listed at once; a flag wins over its variable."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from switchgear_streams import tenants
from switchgear_streams.rules.lifetime import MAX_TTL
from switchgear_streams.rules.retention import MAX_BYTES
from switchgear_streams.workers.placing import MOST
from switchgear_wire.listener import Limits

MIB = 1_048_576
MOST_CONNECTIONS = Limits().max_connections
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """See the flags below. Sizes in bytes, `long_poll_timeout` in seconds. `secret` None: no authentication."""

    host: str
    port: int
    data_dir: Path
    long_poll_timeout: float
    root_path: str
    public_url: str | None
    secret: bytes | None
    wal_segment_bytes: int
    checkpoint_bytes: int
    max_body_bytes: int
    max_streams: int
    log_level: str
    allow_loopback_webhooks: bool = False
    retention_seconds: int | None = None
    retention_bytes: int | None = None
    max_bytes: int | None = None
    max_append_rate: int | None = None
    max_live_reads: int | None = None
    max_connections: int | None = None
    service: str | None = None
    """Its name, where a process serves several."""
    host_name: bytes | None = None
    """The Host under which it is found, where it is not by its name in the path."""
    services: tuple[Settings, ...] | None = None
    """All of them, where a process serves several."""
    public_root_url: str | None = None
    workers: int = 1
    """Processes; with more than one each has a part of the streams."""
    drain_seconds: float = 10.0
    yjs_compaction_bytes: int = MIB
    max_document_bytes: int = 16 * MIB

    @property
    def yjs_root(self) -> str | None:
        """What the paths of Yjs documents begin with; None if the root path is not like /v1/stream."""
        prefix, _, rest = (self.root_path + "/").partition("/v1/stream/")
        return f"/v1/yjs/{rest}" if not prefix else None


class SettingsError(Exception):
    """`problems`: one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="switchgear-streams",
        description="A durable streams server: append-only streams over HTTP, every acknowledged byte on the disk.",
        epilog="The secret comes from --secret-file or STREAMS_SECRET, never from the command line."
        f" SWITCHGEAR_LOG_LEVEL is one of {', '.join(LOG_LEVELS)} (default info).",
    )
    add = made.add_argument
    add("--host", help="address to listen on (SWITCHGEAR_HOST; default 127.0.0.1)")
    add("--port", help="port to listen on, 0 for any (SWITCHGEAR_PORT; default 4437)")
    add("--data-dir", help="directory of the data, used by one process at a time (SWITCHGEAR_DATA_DIR; required)")
    add(
        "--workers",
        help=f"processes that share the streams by a hash of their names (1 to {MOST}, default 1); stays as it is for"
        " the life of the data",
    )
    add("--long-poll-timeout-ms", help="how long a long-poll waits (default 30000)")
    add("--root-path", help="path in front of every stream's path (default /v1/stream)")
    add(
        "--public-url",
        help="base of Location headers and callbacks, such as https://streams.example.com (default: the Host header)",
    )
    add(
        "--public-root-url",
        help="where a proxy in front shows the root path, if under another path or host: base of Location headers and"
        " callbacks, and its path that of Stream-Forked-From (default: --public-url with --root-path)",
    )
    add("--yjs-compaction-bytes", help=f"updates of a Yjs document after which it gets a new snapshot (default {MIB})")
    add(
        "--max-document-bytes",
        help=f"largest Yjs document, snapshot and updates since: at most a quarter of a segment (default {16 * MIB})",
    )
    add("--secret-file", help="file with the secret that clients send as Bearer token")
    add("--services", help="JSON file with several services to serve, each with its secret and limits")
    add("--insecure", action="store_true", help="serve everybody without a secret")
    add("--wal-segment-bytes", help=f"size of a log segment (default {64 * MIB})")
    add("--checkpoint-bytes", help=f"amount of new data after which it is moved into packs (default {32 * MIB})")
    add(
        "--max-body-bytes",
        help=f"largest request body (default {32 * MIB}, at most a quarter of a segment)",
    )
    add("--max-streams", help="most streams that this server holds (default 2000000)")
    add("--max-bytes", help="most bytes that all streams together keep (default: no limit)")
    add("--max-append-rate", help="most appends a second (default: no limit)")
    add("--max-live-reads", help="most long-polls and SSE responses at once (default: no limit)")
    add(
        "--max-connections",
        help=f"most connections that use this service (at most {MOST_CONNECTIONS}; default: no limit)",
    )
    add("--retention-seconds", help="how long data is kept in streams that name no bound (default: for good)")
    add("--retention-bytes", help="how many bytes a stream that names no bound keeps of its newest (default: all)")
    add(
        "--allow-loopback-webhooks",
        action="store_true",
        help="for development: subscriptions may call this machine, by http, too (never where tenants are strangers)",
    )
    return made


def load(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError with all problems; SystemExit for --help and unknown flags."""
    given = parser().parse_args(argv)
    problems: list[str] = []

    def whole(flag: str, raw: str | None, default: int, low: int, high: int) -> int:
        if raw is None or raw == "":
            return default
        if not raw.isascii() or not raw.isdigit() or not low <= int(raw) <= high:
            problems.append(f"{flag} must be a whole number from {low} to {high}, not {raw!r}")
            return default
        return int(raw)

    data_dir = given.data_dir or environment.get("SWITCHGEAR_DATA_DIR")
    if not data_dir:
        problems.append("--data-dir (or SWITCHGEAR_DATA_DIR) is required: where the data is kept")
    root = given.root_path if given.root_path is not None else "/v1/stream"
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", root) or "/." in root:
        problems.append(f"--root-path must be like /v1/stream, without / at its end, not {root!r}")
    public_url = given.public_url or None
    if public_url is not None and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", public_url):
        problems.append(f"--public-url must be like https://host or https://host/base, not {public_url!r}")
    public_root_url = given.public_root_url or None
    if public_root_url is not None and not re.fullmatch(r"https?://[^/?#\s]+(/[^/?#\s]+)+", public_root_url):
        problems.append(f"--public-root-url must be like https://host/path, not {public_root_url!r}")
        public_root_url = None
    log_level = environment.get("SWITCHGEAR_LOG_LEVEL") or "info"
    if log_level.lower() not in LOG_LEVELS:
        problems.append(f"SWITCHGEAR_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {log_level!r}")
    several = given.services is not None
    secret = _secret(given.secret_file, given.insecure, environment, problems, several)
    segment = whole(
        "--wal-segment-bytes", given.wal_segment_bytes, (16 if several else 64) * MIB, 256 * 1024, 4096 * MIB
    )
    max_body = whole("--max-body-bytes", given.max_body_bytes, min(32 * MIB, segment // 4), 1, 1024 * MIB)
    if max_body > segment // 2:
        problems.append("--max-body-bytes must be at most half of --wal-segment-bytes")
    settings = Settings(
        host=given.host or environment.get("SWITCHGEAR_HOST") or "127.0.0.1",
        port=whole("--port", given.port or environment.get("SWITCHGEAR_PORT"), 4437, 0, 65535),
        data_dir=Path(data_dir or "."),
        long_poll_timeout=whole("--long-poll-timeout-ms", given.long_poll_timeout_ms, 30_000, 1, 3_600_000) / 1000,
        root_path=root,
        public_url=None if public_url is None else public_url.rstrip("/"),
        secret=secret,
        wal_segment_bytes=segment,
        checkpoint_bytes=whole("--checkpoint-bytes", given.checkpoint_bytes, 32 * MIB, 1024, 4096 * MIB),
        max_body_bytes=max_body,
        log_level=log_level.upper(),
        max_streams=whole("--max-streams", given.max_streams, 2_000_000, 1, 100_000_000),
        max_bytes=whole("--max-bytes", given.max_bytes, 0, 1, MAX_BYTES) or None,
        max_append_rate=whole("--max-append-rate", given.max_append_rate, 0, 1, 10_000_000) or None,
        max_live_reads=whole("--max-live-reads", given.max_live_reads, 0, 1, 10_000_000) or None,
        max_connections=whole("--max-connections", given.max_connections, 0, 1, MOST_CONNECTIONS) or None,
        retention_seconds=whole("--retention-seconds", given.retention_seconds, 0, 1, MAX_TTL) or None,
        retention_bytes=whole("--retention-bytes", given.retention_bytes, 0, 1, MAX_BYTES) or None,
        allow_loopback_webhooks=given.allow_loopback_webhooks,
        public_root_url=public_root_url,
        workers=whole("--workers", given.workers, 1, 1, MOST),
        yjs_compaction_bytes=whole("--yjs-compaction-bytes", given.yjs_compaction_bytes, MIB, 1024, 1024 * MIB),
        max_document_bytes=whole(
            "--max-document-bytes", given.max_document_bytes, min(16 * MIB, segment // 4), 1024, segment // 4
        ),
    )
    if several:
        found = tenants.read(Path(given.services), problems)
        settings = replace(settings, services=tuple(_service(settings, one) for one in found))
    if problems:
        raise SettingsError(problems)
    return settings


def _service(common: Settings, one: tenants.Tenant) -> Settings:
    """The settings of one of several services: its own, and for the rest those of the process."""
    return replace(
        common,
        service=one.id,
        host_name=one.host,
        data_dir=common.data_dir / one.id,
        root_path=common.root_path if one.host is not None else f"{common.root_path}/{one.id}",
        public_root_url=None,
        secret=one.secret,
        **{name: value for name, value in one.limits.items() if value is not None},  # type: ignore[arg-type]
    )


def _secret(
    file: str | None, insecure: bool, environment: Mapping[str, str], problems: list[str], several: bool
) -> bytes | None:
    variable = environment.get("STREAMS_SECRET")
    ways = sum((file is not None, variable is not None, insecure))
    if several:
        if ways:
            problems.append(
                "with --services each service has its own secret: no --secret-file, STREAMS_SECRET, --insecure"
            )
        return None
    if ways != 1:
        problems.append("give exactly one of --secret-file, STREAMS_SECRET and --insecure")
        return None
    if insecure:
        return None
    if file is not None:
        try:
            secret = Path(file).read_bytes().strip()
        except OSError as error:
            problems.append(f"--secret-file cannot be read: {error.strerror}")
            return None
    else:
        secret = (variable or "").strip().encode()
    problem = tenants.secret_problem(secret)
    if problem is not None:
        problems.append(problem)
    return secret
