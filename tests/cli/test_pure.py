"""The parts of the command line that need nothing but themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from switchgear_cli import login, manifests, options
from switchgear_cli.context import Context
from switchgear_cli.failures import AUTH, NOT_FOUND, VALIDATION, Failure
from switchgear_cli.options import Options
from switchgear_cli.output import Output, printable


@pytest.mark.parametrize(
    ("argv", "expected", "rest"),
    [
        (["--json", "services", "list"], Options(json=True), ["services", "list"]),
        (["services", "list", "--json", "-q"], Options(json=True, quiet=True), ["services", "list"]),
        (["services", "--token=t", "get", "x"], Options(token="t"), ["services", "get", "x"]),
        (
            ["--api-url", "http://a", "--workspace", "w", "status"],
            Options(api_url="http://a", workspace="w"),
            ["status"],
        ),
        (["apply", "--", "--json"], Options(), ["apply", "--", "--json"]),
        (["x", "--jsonx"], Options(), ["x", "--jsonx"]),
    ],
)
def test_global_options_stand_anywhere(argv: list[str], expected: Options, rest: list[str]) -> None:
    assert options.split(argv) == (expected, rest)


@pytest.mark.parametrize("argv", [["--token"], ["--token="], ["status", "--workspace"], ["--api-url="]])
def test_a_global_option_needs_its_value(argv: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        options.split(argv)
    assert caught.value.exit_code == VALIDATION


def settings(environment: dict[str, str], **given: str) -> tuple[str, str, str | None] | None:
    found = Context(Options(**given), Output(), environment).find_api()  # type: ignore[arg-type]
    return None if found is None else (found.url, found.token, found.workspace)


def test_flag_before_environment_before_stored_login(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert settings(env) is None
    login.save("http://stored/", "stored-token", "stored-space", env)
    assert settings(env) == ("http://stored", "stored-token", "stored-space")
    electric = {"ELECTRIC_API_TOKEN": "e", "ELECTRIC_WORKSPACE_ID": "we"}
    assert settings(env | electric) == ("http://stored", "e", "we")
    ours = {"SWITCHGEAR_API_TOKEN": "s", "SWITCHGEAR_WORKSPACE": "ws"}
    assert settings(env | electric | ours) == ("http://stored", "s", "ws")
    assert settings(env | electric | ours, token="f", workspace="wf") == ("http://stored", "f", "wf")


def test_a_stored_token_is_not_sent_to_another_api(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    login.save("http://stored", "stored-token", "stored-space", env)
    assert settings(env, api_url="http://evil") is None
    assert settings(env | {"ELECTRIC_API_URL": "http://evil"}) is None
    assert settings(env, api_url="http://other", token="t") == ("http://other", "t", None)


def test_the_login_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = login.save("http://a", "t1", "w", env)
    path.chmod(0o644)
    assert login.save("http://b", "t2", "", env) == path
    assert path == tmp_path / "switchgear" / "auth.json"
    assert path.stat().st_mode & 0o777 == 0o600
    found = login.load(env)
    assert found == login.Login("http://b", "t2", "")
    assert "t2" not in repr(found)
    assert [p.name for p in path.parent.iterdir()] == ["auth.json"]
    path.write_text("{broken")
    assert login.load(env) is None
    assert login.remove(env)
    assert not login.remove(env)


def test_namespaces_come_first_and_lists_are_opened() -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: a, namespace: n}}
---
---
{apiVersion: v1, kind: Namespace, metadata: {name: n, annotations: {day: 2026-11-23}}}
"""
    found = sorted(manifests.parse("file", text), key=lambda o: o["kind"] != "Namespace")
    assert [o["kind"] for o in found] == ["Namespace", "Secret"]
    assert found[0]["metadata"]["annotations"]["day"] == "2026-11-23", "a date stays the text that it is"


def test_the_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for name, kind in (("b.yaml", "Secret"), ("a.yml", "ConfigMap"), ("c.txt", "Nothing"), ("d.json", "Namespace")):
        (tmp_path / name).write_text(f'{{"apiVersion": "v1", "kind": "{kind}", "metadata": {{"name": "x"}}}}')
    assert [o["kind"] for o in manifests.read([str(tmp_path)])] == ["Namespace", "ConfigMap", "Secret"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "line"),
        ("just text", "document 1"),
        ("- 1", "a list"),
        ("apiVersion: v1\nmetadata: {name: x}", "kind is missing"),
        ("kind: Secret\nmetadata: {name: x}", "apiVersion is missing"),
        ("apiVersion: v1\nkind: Secret", "metadata.name is missing"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: 7}", "metadata.name is missing"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_what_cannot_be_applied_is_named(text: str, part: str) -> None:
    with pytest.raises(Failure) as caught:
        manifests.parse("some.yaml", text)
    assert caught.value.exit_code == VALIDATION
    assert "some.yaml" in caught.value.message
    assert part in caught.value.message


def test_an_error_in_a_secret_does_not_quote_it() -> None:
    with pytest.raises(Failure) as caught:
        manifests.parse("s.yaml", "stringData:\n  url: 'postgresql://u:hunter2@h\n  x: y'z")
    assert "hunter2" not in caught.value.message


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a�[2Jb\nc"


def test_exit_statuses() -> None:
    assert (AUTH, NOT_FOUND, VALIDATION) == (2, 3, 4)
