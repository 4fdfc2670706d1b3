"""Settings of the process: `ELECTRIC_*` variables, or the same names as flags.

All are read and checked before anything starts, and every problem is reported at once. Secrets come from the
environment or from files, never from the argument list. Nothing here touches the network.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switchgear_shapes.postgres.conninfo import PREFER_IPV6, BadUrl, Conninfo, parse_url
from switchgear_shapes.setting_values import (
    address,
    boolean,
    choice,
    concurrency,
    duration,
    http_url,
    integer,
    period,
    size,
    stream_id,
)


class SettingsError(ValueError):
    """One or more settings are wrong; `problems` has a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Settings:
    """Everything the process can be told. Times in seconds, sizes in bytes."""

    database: Conninfo
    pooled_database: Conninfo
    secret: str | None
    host: str = "127.0.0.1"
    port: int = 3000
    prometheus_port: int | None = None
    listen_on_ipv6: bool = False
    storage_dir: Path = Path("./persistent")
    stream_id: str = "default"
    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    db_pool_size: int = 20
    manual_table_publishing: bool = False
    temporary_slot: bool = False
    random_slot_name: bool = False
    chunk_bytes_threshold: int = 10_485_760
    cache_max_age: int = 60
    cache_stale_age: int = 300
    subquery_buffer_transactions: int = 1000
    long_poll_timeout: float = 20.0
    sse_timeout: float = 60.0
    sse_keepalive: float = 21.0
    max_concurrent: tuple[int, int] = (300, 10_000)
    max_shapes: int | None = None
    replication_idle_timeout: float = 0.0
    compaction_period: float = 600.0
    allow_shape_deletion: bool = False
    publication_refresh_period: float = 60.0
    schema_reconciler_period: float = 60.0
    tcp_send_timeout: float = 30.0
    tcp_read_timeout: float = 60.0
    log_level: str = "info"
    statsd: tuple[str, int] | None = None
    otlp_endpoint: str | None = None
    otel_export_period: float = 30.0
    system_metrics_period: float = 5.0
    service_name: str = "electric"
    resource_attributes: str | None = None

    @property
    def slot_name(self) -> str:
        return f"electric_slot_{self.stream_id}"

    @property
    def publication_name(self) -> str:
        return f"electric_publication_{self.stream_id}"


_Parser = Callable[[str], Any]
# Variable → (field, parser). The flag is the variable's name without ELECTRIC_ or SWITCHGEAR_, in kebab case.
_VARIABLES: dict[str, tuple[str, _Parser]] = {
    "SWITCHGEAR_HOST": ("host", str),
    "ELECTRIC_PORT": ("port", integer(0, 65535)),
    "ELECTRIC_PROMETHEUS_PORT": ("prometheus_port", integer(0, 65535)),
    "ELECTRIC_LISTEN_ON_IPV6": ("listen_on_ipv6", boolean),
    "ELECTRIC_STORAGE_DIR": ("storage_dir", Path),
    "ELECTRIC_REPLICATION_STREAM_ID": ("stream_id", stream_id),
    "ELECTRIC_INSTANCE_ID": ("instance_id", str),
    "ELECTRIC_DB_POOL_SIZE": ("db_pool_size", integer(2, 1000)),
    "ELECTRIC_MANUAL_TABLE_PUBLISHING": ("manual_table_publishing", boolean),
    "CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN": ("temporary_slot", boolean),
    "ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME": ("random_slot_name", boolean),
    "ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD": ("chunk_bytes_threshold", size),
    "ELECTRIC_CACHE_MAX_AGE": ("cache_max_age", integer(0, 10**9)),
    "ELECTRIC_CACHE_STALE_AGE": ("cache_stale_age", integer(0, 10**9)),
    "ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS": ("subquery_buffer_transactions", integer(1, 10**9)),
    "ELECTRIC_LONG_POLL_TIMEOUT": ("long_poll_timeout", duration),
    "SWITCHGEAR_SSE_TIMEOUT": ("sse_timeout", duration),
    "SWITCHGEAR_SSE_KEEPALIVE": ("sse_keepalive", duration),
    "ELECTRIC_MAX_CONCURRENT_REQUESTS": ("max_concurrent", concurrency),
    "ELECTRIC_MAX_SHAPES": ("max_shapes", integer(1, 10**9)),
    "ELECTRIC_REPLICATION_IDLE_TIMEOUT": ("replication_idle_timeout", duration),
    "SWITCHGEAR_COMPACTION_PERIOD": ("compaction_period", duration),
    "ELECTRIC_ENABLE_INTEGRATION_TESTING": ("allow_shape_deletion", boolean),
    "ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD": ("publication_refresh_period", duration),
    "ELECTRIC_TWEAKS_SCHEMA_RECONCILER_PERIOD": ("schema_reconciler_period", duration),
    "ELECTRIC_TCP_SEND_TIMEOUT": ("tcp_send_timeout", duration),
    "ELECTRIC_TCP_READ_TIMEOUT": ("tcp_read_timeout", duration),
    "ELECTRIC_LOG_LEVEL": ("log_level", choice("error", "warning", "info", "debug")),
    "ELECTRIC_STATSD_HOST": ("statsd", address),
    "ELECTRIC_OTLP_ENDPOINT": ("otlp_endpoint", http_url),
    "ELECTRIC_OTEL_EXPORT_PERIOD": ("otel_export_period", period),
    "ELECTRIC_SYSTEM_METRICS_POLL_INTERVAL": ("system_metrics_period", period),
    "ELECTRIC_SERVICE_NAME": ("service_name", str),
    "OTEL_RESOURCE_ATTRIBUTES": ("resource_attributes", str),
}
_OLD_NAMES = {
    "ELECTRIC_QUERY_DATABASE_URL": "ELECTRIC_POOLED_DATABASE_URL",
    "ELECTRIC_EXPERIMENTAL_MAX_SHAPES": "ELECTRIC_MAX_SHAPES",
}
_SPECIAL = frozenset(
    {
        "ELECTRIC_POOLED_DATABASE_URL",
        "ELECTRIC_SECRET",
        "ELECTRIC_INSECURE",
        "ELECTRIC_DATABASE_USE_IPV6",
        "ELECTRIC_DATABASE_CA_CERTIFICATE_FILE",
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE",
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_INTERVAL",
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_COUNT",
        "ELECTRIC_DATABASE_TCP_USER_TIMEOUT",
        "ELECTRIC_STORAGE",
        "ELECTRIC_PERSISTENT_STATE",
    }
)
# Known to Electric and without a meaning here: accepted, so that an existing deployment starts.
_NAMES_WITHOUT_EFFECT = """
DATABASE_ID CONSUMER_PARTITIONS SHAPE_HIBERNATE_AFTER
SHAPE_SUSPEND_CONSUMER SHAPE_SUSPEND_AFTER FLUSH_STALL_GRACE_PERIOD
FEATURE_FLAGS SHAPE_DB_EXCLUSIVE_MODE SHAPE_DB_STORAGE_DIR SHAPE_DB_SYNCHRONOUS SHAPE_DB_CACHE_SIZE
SHAPE_DB_ENABLE_STATS SHAPE_DB_ENABLE_MEMORY_STATS CLEANUP_INTERVAL_MS PUBLICATION_ALTER_DEBOUNCE_TIME
TWEAKS_CONN_MAX_REQUESTS TWEAKS_HTTP_API_NUM_ACCEPTORS TWEAKS_PROCESS_REGISTRY_PARTITIONS
TWEAKS_HANDLER_FULLSWEEP_AFTER PROCESS_SPAWN_OPTS CONSUMER_GC_HEAP_THRESHOLD EXPERIMENTAL_MAX_TXN_SIZE
EXPERIMENTAL_MAX_BATCH_SIZE PROFILE_WHERE_CLAUSES OTEL_DEBUG OTEL_SAMPLING_RATIO
METRICS_SAMPLING_RATIO EXCLUDE_SPANS DROP_EMPTY_RESPONSE_SPANS HNY_API_KEY HNY_DATASET
STACK_TELEMETRY_INIT_DELAY TELEMETRY_TOP_PROCESS_LIMIT
LIVE_DASHBOARD_PORT LOG_COLORS LOG_OTP_REPORTS USAGE_REPORTING TELEMETRY_URL
"""
_BEAM_LIMITS = "ELECTRIC_" + "TELEMETRY_LONG_"
_WITHOUT_EFFECT = frozenset(("SENTRY_DSN", *(f"ELECTRIC_{name}" for name in _NAMES_WITHOUT_EFFECT.split())))
_FLAG_ONLY = {"database-url-file": "DATABASE_URL", "pooled-database-url-file": "ELECTRIC_POOLED_DATABASE_URL"}


def _flag_name(variable: str) -> str:
    return variable.removeprefix("ELECTRIC_").removeprefix("SWITCHGEAR_").lower().replace("_", "-")


FLAGS: dict[str, str] = {_flag_name(name): name for name in (*_VARIABLES, *_SPECIAL - {"ELECTRIC_SECRET"})} | {
    "database-url": "DATABASE_URL",
}


def read_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with the flags laid over them. Raises SettingsError for unknown or malformed flags."""
    merged = dict(environ)
    problems: list[str] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        name, has_value, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--"):
            problems.append(f"{flag}: unexpected argument; settings are given as --name value")
            continue
        is_file = name in _FLAG_ONLY or name == "secret-file"
        if not is_file and name not in FLAGS:
            hint = "; a secret is given by ELECTRIC_SECRET or --secret-file" if name == "secret" else ""
            problems.append(f"--{name}: unknown setting{hint}")
            if not has_value and rest and not rest[0].startswith("--"):
                rest.pop(0)
            continue
        if not has_value:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif not is_file and FLAGS[name] in ("ELECTRIC_INSECURE", "ELECTRIC_MANUAL_TABLE_PUBLISHING"):
                value = "true"
            else:
                problems.append(f"--{name}: needs a value")
                continue
        if is_file:
            _read_file(name, value, merged, problems)
        elif name in ("database-url", "pooled-database-url") and _has_password(value):
            problems.append(f"--{name}: has a password, which other users of this machine could see; use --{name}-file")
        else:
            merged[FLAGS[name]] = value
    if problems:
        raise SettingsError(problems)
    return merged


def _has_password(url: str) -> bool:
    try:
        return "password" in parse_url(url).params
    except BadUrl:
        return False


def _read_file(flag: str, path: str, merged: dict[str, str], problems: list[str]) -> None:
    try:
        merged[_FLAG_ONLY.get(flag, "ELECTRIC_SECRET")] = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"--{flag}: cannot read the file: {error}")


def load(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """(settings, warnings). Raises SettingsError that lists every problem."""
    problems: list[str] = []
    warnings: list[str] = []
    values = {_OLD_NAMES.get(k, k): v for k, v in environ.items() if k in _OLD_NAMES} | {
        k: v for k, v in environ.items() if k not in _OLD_NAMES
    }
    values = {k: v for k, v in values.items() if v != ""}
    made: dict[str, Any] = {}
    for name, (target, parser) in _VARIABLES.items():
        if name in values:
            try:
                made[target] = parser(values[name])
            except ValueError as error:
                problems.append(f"{name} {error}")
    for name in sorted(values):
        if name.startswith(("ELECTRIC_", "SENTRY_DSN")) and name not in _VARIABLES and name not in _SPECIAL:
            known = name in _WITHOUT_EFFECT or name.startswith(_BEAM_LIMITS)
            effect = "has no effect in this server" if known else "is unknown; check its spelling"
            warnings.append(f"{name} {effect}")
    _databases(values, made, problems)
    _secret(values, made, problems)
    for name, allowed in (("ELECTRIC_STORAGE", "FAST_FILE"), ("ELECTRIC_PERSISTENT_STATE", "FILE")):
        if values.get(name, allowed).upper() != allowed:
            problems.append(f"{name} must be {allowed}; this server always stores shapes in files")
    if made.get("long_poll_timeout", 1.0) <= 0:
        problems.append("ELECTRIC_LONG_POLL_TIMEOUT must be above 0")
    if made.get("chunk_bytes_threshold", 1) < 1:
        problems.append("ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD must be above 0")
    if problems:
        raise SettingsError(problems)
    return Settings(**made), warnings


TCP_DEFAULTS = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A database that is gone without a word (a failover) is noticed within about a minute. The system's take hours."""


def _databases(values: Mapping[str, str], made: dict[str, Any], problems: list[str]) -> None:
    extra: dict[str, str] = {}
    ca_file = values.get("ELECTRIC_DATABASE_CA_CERTIFICATE_FILE")
    if ca_file is not None:
        if not Path(ca_file).is_file():
            problems.append(f"ELECTRIC_DATABASE_CA_CERTIFICATE_FILE: there is no file {ca_file}")
        extra["sslrootcert"] = ca_file
    for variable, parameter, in_milliseconds in (
        ("ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE", "keepalives_idle", False),
        ("ELECTRIC_DATABASE_TCP_KEEPALIVE_INTERVAL", "keepalives_interval", False),
        ("ELECTRIC_DATABASE_TCP_KEEPALIVE_COUNT", "keepalives_count", None),
        ("ELECTRIC_DATABASE_TCP_USER_TIMEOUT", "tcp_user_timeout", True),
    ):
        if variable not in values:
            continue
        try:
            if in_milliseconds is None:
                extra[parameter] = str(integer(0, 1000)(values[variable]))
            else:
                seconds = duration(values[variable])
                extra[parameter] = str(round(seconds * 1000) if in_milliseconds else max(1, round(seconds)))
        except ValueError as error:
            problems.append(f"{variable} {error}")
    try:
        if boolean(values.get("ELECTRIC_DATABASE_USE_IPV6", "false")):
            extra[PREFER_IPV6] = "1"
    except ValueError as error:
        problems.append(f"ELECTRIC_DATABASE_USE_IPV6 {error}")
    for variable, target in (("DATABASE_URL", "database"), ("ELECTRIC_POOLED_DATABASE_URL", "pooled_database")):
        if variable not in values:
            if target == "database":
                problems.append("DATABASE_URL is required: postgresql://user:password@host:5432/database")
            continue
        try:
            info = parse_url(values[variable])
            if ca_file is not None:
                if info.params.get("sslmode") == "disable":
                    problems.append(f"{variable}: sslmode=disable contradicts ELECTRIC_DATABASE_CA_CERTIFICATE_FILE")
                extra.setdefault("sslmode", "verify-ca")
            made[target] = Conninfo(TCP_DEFAULTS | info.params | extra)
        except BadUrl as error:
            problems.append(f"{variable} {error}")
    if "database" in made:
        made.setdefault("pooled_database", made["database"])


def _secret(values: Mapping[str, str], made: dict[str, Any], problems: list[str]) -> None:
    try:
        insecure = boolean(values.get("ELECTRIC_INSECURE", "false"))
    except ValueError as error:
        problems.append(f"ELECTRIC_INSECURE {error}")
        return
    secret = values.get("ELECTRIC_SECRET")
    if insecure and secret is not None:
        problems.append("ELECTRIC_SECRET and ELECTRIC_INSECURE=true exclude each other; remove one of them")
    elif not insecure and secret is None:
        problems.append("ELECTRIC_SECRET is required (or ELECTRIC_INSECURE=true, which lets anyone read the database)")
    made["secret"] = None if insecure else secret
