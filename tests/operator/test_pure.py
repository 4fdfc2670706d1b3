"""Settings, URLs, kubeconfigs, comparison and the mirror."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from switchgear_model import kinds
from switchgear_operator import settings
from switchgear_operator.__main__ import main
from switchgear_operator.health import Vitals, render
from switchgear_operator.kube import config
from switchgear_operator.preflight import url
from switchgear_operator.preflight.errors import connection_fault, query_fault
from switchgear_operator.specs.common import drifted
from switchgear_operator.specs.secrets import checksum
from switchgear_operator.store import Store

# Settings


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environ = {
        "SWITCHGEAR_PUBLIC_URL": "https://env",
        "SWITCHGEAR_REGION": "eu",
        "SWITCHGEAR_EDGE_URL": "http://a, http://b:1",
        "SWITCHGEAR_METRICS_NAMESPACES": "monitoring, alloy",
    }
    made = settings.load(["--public-url", "https://flag/"], environ)
    assert (made.public_url, made.region, made.namespace) == ("https://flag", "eu", "switchgear-system")
    assert made.edge_urls == ("http://a", "http://b:1")
    assert made.shapes_image.startswith("switchgear/shapes:")
    assert (made.metrics_namespaces, made.admin_token_secret) == (("monitoring", "alloy"), "")


def test_every_problem_is_named_at_once() -> None:
    arguments = ["--region", "EU", "--edge-url", "127.0.0.1:1", "--health-port", "x", "--resync-seconds", "61"]
    arguments += ["--metrics-namespaces", "a,B", "--admin-token-secret", "X"]
    with pytest.raises(settings.SettingsError) as caught:
        settings.load([*arguments, "--log-level", "loud"], {})
    said = " ".join(caught.value.problems)
    for flag in ("--region", "--edge-url", "--health-port", "--resync-seconds", "--log-level", "--public-url"):
        assert flag in said
    assert "--metrics-namespaces: 'B'" in said and "--admin-token-secret: 'X'" in said
    assert len(caught.value.problems) == 8


def test_the_command_ends_with_2_and_lists_the_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    monkeypatch.delenv("SWITCHGEAR_PUBLIC_URL", raising=False)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "--public-url is required" in said and "kubeconfig /nowhere/config" in said


# Database URLs


@pytest.mark.parametrize(
    ("text", "hosts", "database"),
    [
        ("postgresql://a:b@db/shop", (("db", 5432),), "shop"),
        ("postgres://a@DB:6000/shop?sslmode=verify-full", (("db", 6000),), "shop"),
        ("postgresql://a:b%40c@[::1]:5433/s%20p", (("::1", 5433),), "s p"),
        ("postgresql://a:b@one:1,two:2/shop?target_session_attrs=read-write", (("one", 1), ("two", 2)), "shop"),
        ("postgresql://a:b@db/shop?sslrootcert=system", (("db", 5432),), "shop"),
    ],
)
def test_usable_urls(text: str, hosts: tuple[tuple[str, int], ...], database: str) -> None:
    assert url.target(text) == url.Target(hosts, database)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "host=db password=hunter2 user=a",
        "mysql://a:hunter2@db/x",
        "postgresql://db/x",
        "postgresql://a:hunter2@db",
        "postgresql://a:hunter2@db/",
        "postgresql://a:hunter2@db:port/x",
        "postgresql://a:hunter2@db:99999/x",
        "postgresql://a:hunt@er2@db/x",
        "postgresql://a:hunter2@/x",
        "postgresql://a:hunter2@%2Fvar%2Frun/x",
        "postgresql://a:hunter2@[::1/x",
        "postgresql://a:hunter2@db/x#hunter2",
        " postgresql://a:hunter2@db/x",
        "postgresql://a:hunter2@db/x?sslmode=yes",
        "postgresql://a:hunter2@db/x?passfile=/etc/passwd",
        "postgresql://a:hunter2@db/x?sslkey=/var/run/secrets/token",
        "postgresql://a:hunter2@db/x?service=s",
        "postgresql://a:hunter2@db/x?host=/tmp",
        "postgresql://a:hunter2@db/x?hunter2%20x=1",
    ],
)
def test_unusable_urls_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(url.UrlInvalid) as caught:
        url.target(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert url.ports(text) == ()


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_breaks_the_parser(text: str, tail: str) -> None:
    for candidate in (
        text,
        "postgresql://a:b@" + text,
        "postgresql://a:b@h/d?" + tail,
        "postgresql://" + text + "@h/" + tail,
    ):
        try:
            url.target(candidate)
        except url.UrlInvalid:
            continue


def test_the_same_database_with_other_credentials() -> None:
    assert url.same_database("postgresql://a:b@db/x", "postgres://c:d@DB:5432/x?sslmode=require")
    assert not url.same_database("postgresql://a:b@db/x", "postgresql://a:b@db/y")
    assert not url.same_database("postgresql://a:b@db/x", "nonsense")


def test_addresses_for_people_and_other_credentials_for_the_same_server() -> None:
    old, new = "postgresql://a:b@db/x%20y", "postgresql://c:d@DB:5432/z?sslmode=require"
    assert url.address(old) == "db:5432/x y" and url.address("nonsense") == "an unknown database"
    assert url.with_credentials(old, new) == "postgresql://c:d@DB:5432/x%20y?sslmode=require"
    # Credentials of one server are never shown to another.
    assert url.with_credentials(old, "postgresql://c:d@other/x") is None
    assert url.with_credentials("nonsense", new) is None


@given(st.text(max_size=200))
def test_faults_never_pass_on_the_servers_text(text: str) -> None:
    marked = f"{text} hunter2secret"
    assert "hunter2secret" not in connection_fault(marked).message
    assert connection_fault(marked).reason
    assert "hunter2secret" not in query_fault("XX000", "do it").message


# Comparison


def test_what_the_server_or_others_add_is_no_difference() -> None:
    desired = {"spec": {"replicas": 1, "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}}
    live = {
        "spec": {
            "replicas": 1,
            "defaulted": True,
            "containers": [
                {"name": "sidecar"},
                {"name": "a", "image": "i", "env": [{"name": "Y"}, {"name": "X", "value": "1", "more": 1}]},
            ],
        },
        "status": {},
    }
    assert not drifted(desired, live)


@pytest.mark.parametrize(
    "live",
    [
        {},
        {"a": 1, "l": ["x"]},
        {"a": 2, "l": ["x", "y"]},
        {"a": 1, "l": ["y", "x"]},
        {"a": 1, "l": None},
        {"a": 1, "l": "xy"},
        None,
    ],
)
def test_what_we_want_and_is_not_so_is_a_difference(live: Any) -> None:
    assert drifted({"a": 1, "l": ["x", "y"]}, live)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_a_thing_does_not_differ_from_itself(value: Any) -> None:
    assert not drifted(value, value)


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3), st.text(min_size=1, max_size=4))
def test_the_checksum_changes_with_every_value(values: dict[str, str], extra: str) -> None:
    before = checksum("key", values)
    assert before == checksum("key", dict(reversed(values.items())))
    assert before != checksum("other", values)
    changed = values | {extra: values.get(extra, "") + "x"}
    assert before != checksum("key", changed)
    assert checksum("k", {"a": "bc"}) != checksum("k", {"ab": "c"})


# Kubeconfigs


def kubeconfig(tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
    path = tmp_path / "config"
    body = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster or {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(body))
    return path


def test_tokens_certificates_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "token").write_text("t1\n")
    made = config.from_file(
        kubeconfig(
            tmp_path,
            {
                "tokenFile": "token",
                "client-certificate-data": base64.b64encode(b"C").decode(),
                "client-key-data": "Sw==",
            },
            {"server": "https://x:1", "certificate-authority": "ca.crt"},
        )
    )
    assert (made.server, made.ca_data, made.client_certificate, made.client_key) == ("https://x:1", b"CA", b"C", b"K")
    assert made.token() == "t1"
    (tmp_path / "token").write_text("t2")
    assert made.token() == "t2"
    assert "t2" not in repr(made) and "b'K'" not in repr(made)


@pytest.mark.parametrize("user", [{"exec": {}}, {"auth-provider": {}}, {"client-certificate": "missing"}])
def test_a_kubeconfig_we_cannot_use_is_refused(tmp_path: Path, user: dict[str, Any]) -> None:
    with pytest.raises(config.KubeConfigError, match="config"):
        config.from_file(kubeconfig(tmp_path, user))


@pytest.mark.parametrize("text", ["", "[]", "a: {", "current-context: x"])
def test_a_broken_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(config.KubeConfigError):
        config.from_file(path)


# The mirror


def streams(name: str, version: int, **spec: Any) -> dict[str, Any]:
    made = kinds.manifest("StreamsService", name, "ns", {"environmentRef": {"name": "e"}, **spec})
    made["metadata"] |= {"uid": f"u-{name}", "resourceVersion": str(version)}
    return made


def test_an_older_state_never_replaces_a_newer_one() -> None:
    store = Store()
    store.update(streams("a", 10, displayName="new"), gone=False)
    assert store.update(streams("a", 9, displayName="old"), gone=False).after is None
    found = store.get(("StreamsService", "ns", "a"))
    assert found is not None and found.spec.display_name == "new"
    assert store.update(streams("a", 11), gone=True).after is None
    assert len(store) == 0 and list(store.namespace("ns")) == [] and store.by_uid("u-a") is None


def test_a_walk_finds_what_watches_missed_and_remembers_it_until_they_tell() -> None:
    store = Store()
    store.update(streams("a", 1), gone=False)
    store.update(streams("b", 2), gone=False)
    assert store.replace("StreamsService", [streams("b", 5), streams("c", 6)]) == [("StreamsService", "ns", "a")]
    assert set(store.stale(-1)) == {("StreamsService", "ns", "b"), ("StreamsService", "ns", "c")}
    assert store.stale(3600) == []
    store.update(streams("b", 5), gone=False)
    store.update(streams("c", 7), gone=True)
    assert store.stale(-1) == []


def test_claims_follow_the_objects() -> None:
    store = Store()
    store.update(streams("a", 1, serviceId="moved"), gone=False)
    store.update(streams("b", 2, serviceId="moved"), gone=False)
    assert set(store.claimants("moved")) == {("StreamsService", "ns", "a"), ("StreamsService", "ns", "b")}
    store.update(streams("a", 3, serviceId="moved"), gone=True)
    assert store.claimants("moved") == [("StreamsService", "ns", "b")]


def test_an_object_we_cannot_read_is_left_alone() -> None:
    store = Store()
    assert store.update({"kind": "Environment", "metadata": {"name": "x"}, "spec": {}}, gone=False).after is None
    assert len(store) == 0


def test_vitals_are_told() -> None:
    vitals = Vitals(True, 1.0, 0, 2, 1, 0, 5, {"Project": 1.5}, {("Project", "unchanged"): 3})
    text = render(vitals)
    assert "switchgear_operator_queue_depth 2\n" in text
    assert 'switchgear_operator_reconcile_total{kind="Project",result="unchanged"} 3\n' in text
    assert vitals.problem() is None
    assert Vitals(True, 1.0, 1, 0, 0, 0, 0).problem()


def test_deciding_and_building_import_nothing_that_does_io() -> None:
    program = (
        "import sys, switchgear_operator.decide, switchgear_operator.routing;"
        "print([m for m in ('aiohttp', 'psycopg', 'kopf', 'asyncio', 'yaml') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
