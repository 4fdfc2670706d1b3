"""Pod spec → environment and arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_local.node.environment import (
    PodFacts,
    Reference,
    Sources,
    arguments,
    expand,
    field_value,
    process_environment,
    references,
    variables,
)
from switchgear_local.node.errors import ConfigError
from switchgear_local.node.mounts import MountTable

FACTS = PodFacts(
    name="p-0",
    namespace="ns",
    uid="u1",
    node_name="n",
    host_ip="127.0.0.1",
    pod_ip="127.64.0.9",
    service_account="sa",
    labels={"app": "web"},
    annotations={"a.b/c": "d"},
)
SECRET = "s3cr3t-value"
SOURCES = Sources(
    secrets={"db": {"url": SECRET.encode(), "raw": b"\xff\xfe", "nul": b"a\0b"}},
    config_maps={"cfg": {"LEVEL": b"debug", "not=a=name": b"x"}},
)


def secret_ref(name: str, key: str, *, optional: bool = False) -> dict[str, object]:
    return {"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": optional}}}


def test_values_refer_to_earlier_ones_only() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2"},
        {"name": "C", "value": "$(LATER) $$(A) $A $"},
        {"name": "LATER", "value": "x"},
        {"name": "EMPTY"},
    ]
    got = variables({"env": env}, FACTS, SOURCES)
    assert got == {"A": "1", "B": "12", "C": "$(LATER) $(A) $A $", "LATER": "x", "EMPTY": ""}


@given(st.text(alphabet="$()AB x", max_size=30))
def test_expansion_never_fails_and_leaves_text_without_dollars_alone(text: str) -> None:
    got = expand(text, {"A": "1"})
    if "$" not in text:
        assert got == text
    assert "$(A)" not in expand(text.replace("$$", ""), {"A": "1"})


def test_downward_fields() -> None:
    paths = {
        "metadata.name": "p-0",
        "metadata.namespace": "ns",
        "metadata.uid": "u1",
        "metadata.labels['app']": "web",
        "metadata.labels['none']": "",
        "metadata.annotations['a.b/c']": "d",
        "spec.nodeName": "n",
        "spec.serviceAccountName": "sa",
        "status.podIP": "127.64.0.9",
        "status.hostIP": "127.0.0.1",
    }
    assert {path: field_value(path, FACTS) for path in paths} == paths
    with pytest.raises(ConfigError, match="not supported"):
        field_value("status.phase", FACTS)


def test_env_from_comes_first_and_env_wins() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "cfg"}, "prefix": "P_"}, {"secretRef": {"name": "db"}}],
        "env": [{"name": "url", "value": "own"}],
    }
    container["envFrom"][1]["secretRef"]["name"] = "only"
    sources = Sources(secrets={"only": {"url": b"theirs", "more": b"m"}}, config_maps=SOURCES.config_maps)
    assert variables(container, FACTS, sources) == {"P_LEVEL": "debug", "url": "own", "more": "m"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (secret_ref("gone", "url"), "Secret 'gone' not found"),
        (secret_ref("db", "gone"), "couldn't find key 'gone' in Secret 'db'"),
        (secret_ref("db", "nul"), "NUL"),
        ({"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}, "resourceFieldRef"),
        ({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k"}}}, "ConfigMap 'gone' not found"),
    ],
)
def test_what_is_missing_is_named_and_values_are_not(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        variables({"env": [entry]}, FACTS, SOURCES)
    assert caught.value.reason == "CreateContainerConfigError"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("entry", [secret_ref("gone", "k", optional=True), secret_ref("db", "gone", optional=True)])
def test_optional_references_may_be_missing(entry: dict[str, object]) -> None:
    assert variables({"env": [entry]}, FACTS, SOURCES) == {}


def test_bytes_that_are_not_text_survive() -> None:
    got = variables({"env": [secret_ref("db", "raw")]}, FACTS, SOURCES)
    assert got["X"].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_references_are_collected() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "cfg", "optional": True}}],
        "env": [secret_ref("db", "url"), {"name": "A", "value": "x"}],
    }
    assert list(references(container)) == [Reference("ConfigMap", "cfg", True), Reference("Secret", "db", False)]


def test_arguments_expand_and_are_rewritten() -> None:
    container = {"name": "c", "command": ["run", "--dir=/data/x"], "args": ["$(A)", "$(NONE)", "/data"]}
    got = arguments(container, {"A": "1"}, MountTable({"/data": "/real/vol"}))
    assert got == ["run", "--dir=/real/vol/x", "1", "$(NONE)", "/real/vol"]


def test_a_container_without_a_command_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no images"):
        arguments({"name": "c", "args": ["x"]}, {}, MountTable({}))


def test_a_process_gets_only_what_its_pod_says() -> None:
    mounts = MountTable({"/tmp": "/real/tmp", "/data": "/real/data"})
    got = process_environment({"D": "/data/x"}, FACTS, mounts, program_path="/venv/bin:/usr/bin", home="/h")
    assert got == {
        "HOME": "/h",
        "HOSTNAME": "p-0",
        "LANG": "C.UTF-8",
        "TMPDIR": "/real/tmp",
        "D": "/real/data/x",
        "PATH": "/venv/bin:/usr/bin",
    }
    own = process_environment({"PATH": "/opt/bin"}, FACTS, MountTable({}), program_path="/venv/bin", home="/h")
    assert own["PATH"] == "/venv/bin:/opt/bin"


def test_secrets_are_not_in_representations() -> None:
    assert SECRET not in repr(SOURCES)
