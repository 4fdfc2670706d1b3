"""Grafana dashboards as data: a few rows of panels over the metrics of docs/operating.md. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
_RATE: Final = "[$__rate_interval]"
_SERVICE: Final = 'service=~"$service"'


@dataclass(frozen=True)
class Panel:
    """One graph: `queries` are (expression, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""


def _rate(metric: str, by: str = "", selector: str = "") -> str:
    inner = f"rate({metric}{{{selector}}}{_RATE})" if selector else f"rate({metric}{_RATE})"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


REGION: Final = (
    Panel(
        "Requests at the edge",
        "reqps",
        ((_rate("switchgear_edge_requests_total", "route, status"), "{{route}} {{status}}"),),
    ),
    Panel(
        "Client connections",
        "short",
        (
            ("sum by (pod) (switchgear_edge_connections)", "{{pod}}"),
            ("sum(switchgear_edge_requests_running)", "requests at pods"),
        ),
    ),
    Panel(
        "Refused and failed",
        "reqps",
        (
            (_rate("switchgear_edge_refused_connections"), "refused at the limit"),
            (_rate("switchgear_edge_upstream_errors_total", "kind"), "pod: {{kind}}"),
        ),
    ),
    Panel(
        "What the edges know",
        "short",
        (("max(switchgear_edge_routes)", "service ids"), ("max(switchgear_edge_pods)", "pods")),
    ),
    Panel(
        "Age of the edges' knowledge",
        "s",
        (("max by (collection) (switchgear_edge_watch_age_seconds)", "{{collection}}"),),
        "Above 600 s: the edge hears nothing from the Kubernetes API.",
    ),
    Panel(
        "Reconciles",
        "ops",
        ((_rate("switchgear_operator_reconcile_total", "kind, result"), "{{kind}} {{result}}"),),
    ),
    Panel(
        "Operator's queue",
        "short",
        (
            ("max(switchgear_operator_queue_depth)", "waiting"),
            ("max(switchgear_operator_queue_busy)", "in work"),
            ("max(switchgear_operator_objects)", "objects"),
        ),
    ),
    Panel(
        "Operator's health",
        "short",
        (
            ("max(switchgear_operator_walk_age_seconds)", "seconds since the last walk"),
            ("max(switchgear_operator_stale_changes)", "changes that no watch reported"),
            (_rate("switchgear_operator_reconcile_failures_total"), "failures a second"),
        ),
    ),
)

SHAPES: Final = (
    Panel(
        "WAL that the slot holds back",
        "bytes",
        ((f"max by (service) (electric_postgres_replication_slot_retained_wal_size{{{_SERVICE}}})", "{{service}}"),),
        "What grows without end fills the database's disk.",
    ),
    Panel(
        "Behind the database",
        "bytes",
        (
            (
                f"max by (service) (electric_postgres_replication_slot_confirmed_flush_lsn_lag{{{_SERVICE}}})",
                "{{service}}",
            ),
        ),
    ),
    Panel(
        "Requests",
        "reqps",
        ((_rate("electric_plug_serve_shape_requests_count", "service", _SERVICE), "{{service}}"),),
    ),
    Panel(
        "Shapes", "short", ((f"max by (service) (electric_shapes_total_shapes_count{{{_SERVICE}}})", "{{service}}"),)
    ),
    Panel(
        "Live requests waiting",
        "short",
        ((f"max by (service) (switchgear_live_waiters{{{_SERVICE}}})", "{{service}}"),),
    ),
    Panel(
        "Changes from Postgres",
        "ops",
        ((_rate("electric_postgres_replication_transaction_received_operations", "service", _SERVICE), "{{service}}"),),
    ),
    Panel(
        "Refused for admission",
        "reqps",
        ((_rate("electric_admission_control_reject_count", "service, kind", _SERVICE), "{{service}} {{kind}}"),),
    ),
    Panel(
        "Snapshots",
        "ops",
        (
            (_rate("switchgear_snapshots_total", "service", _SERVICE), "{{service}}"),
            (_rate("switchgear_snapshots_failed_total", "service", _SERVICE), "{{service}} failed"),
        ),
    ),
    Panel("Memory", "bytes", ((f"max by (service) (process_resident_memory_bytes{{{_SERVICE}}})", "{{service}}"),)),
    Panel("CPU", "percentunit", ((_rate("process_cpu_seconds_total", "service", _SERVICE), "{{service}}"),)),
)

STREAMS: Final = (
    Panel(
        "Requests", "reqps", ((_rate("streams_requests_total", "service, method", _SERVICE), "{{service}} {{method}}"),)
    ),
    Panel("Appends", "ops", ((_rate("streams_appends_total", "service", _SERVICE), "{{service}}"),)),
    Panel("Appended", "Bps", ((_rate("streams_appended_bytes_total", "service", _SERVICE), "{{service}}"),)),
    Panel("Streams", "short", ((f"max by (service) (streams_streams{{{_SERVICE}}})", "{{service}}"),)),
    Panel(
        "Waiting readers",
        "short",
        (
            (f"max by (service) (streams_long_polls{{{_SERVICE}}})", "{{service}} long-polls"),
            (f"max by (service) (streams_sse_subscribers{{{_SERVICE}}})", "{{service}} event streams"),
        ),
    ),
    Panel(
        "Log",
        "bytes",
        (
            (f"max by (service) (streams_wal_retained_bytes{{{_SERVICE}}})", "{{service}} kept"),
            (f"max by (service) (streams_unsealed_bytes{{{_SERVICE}}})", "{{service}} not yet in packs"),
        ),
    ),
    Panel("Syncs to disk", "ops", ((_rate("streams_wal_syncs_total", "service", _SERVICE), "{{service}}"),)),
    Panel(
        "Trouble with disks",
        "short",
        (
            (f"max by (service) (streams_disk_full{{{_SERVICE}}})", "{{service}} full"),
            (f"max by (service) (streams_damaged_streams{{{_SERVICE}}})", "{{service}} damaged streams"),
        ),
    ),
    Panel(
        "Subscriptions",
        "ops",
        (
            (_rate("streams_wakes_delivered_total", "service", _SERVICE), "{{service}} delivered"),
            (_rate("streams_wakes_failed_total", "service", _SERVICE), "{{service}} failed"),
        ),
    ),
)


def files() -> dict[str, str]:
    """File name → JSON."""
    made = {
        "region.json": _dashboard("switchgear-region", "Switchgear: region", REGION, None),
        "shapes.json": _dashboard(
            "switchgear-shapes", "Switchgear: sync sources", SHAPES, "electric_shapes_total_shapes_count"
        ),
        "streams.json": _dashboard("switchgear-streams", "Switchgear: streams services", STREAMS, "streams_streams"),
    }
    return {name: json.dumps(content, indent=1) + "\n" for name, content in made.items()}


def _dashboard(uid: str, title: str, panels: tuple[Panel, ...], services_of: str | None) -> Json:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    variables: list[Json] = [source]
    if services_of is not None:
        query = f"label_values({services_of}, service)"
        variables.append(
            {
                "name": "service",
                "type": "query",
                "label": "Service",
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "query": {"query": query, "refId": "service"},
                "definition": query,
                "refresh": 2,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return {
        "uid": uid,
        "title": title,
        "tags": ["switchgear"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> Json:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }
