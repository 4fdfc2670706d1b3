"""docs/operating.md names every setting of every process, with its variable and its default, as the code has them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from importlib import metadata

import pytest

from switchgear_api import settings as api
from switchgear_cli import options
from switchgear_cli.commands import region
from switchgear_edge import settings as edge
from switchgear_local import state
from switchgear_model import conditions
from switchgear_operator import settings as operator
from switchgear_shapes import settings as shapes
from switchgear_streams import settings as streams
from tests.docs import pages

PAGE = "operating.md"
NONE = "–"
VARIABLE = re.compile(r"\((?:[^)]* )?((?:SWITCHGEAR|STREAMS)_[A-Z_]+)")


def table(process: str) -> dict[str, tuple[str, str]]:
    """Flag → (variable, default) as the page has them."""
    found = {}
    markdown = pages.section(PAGE, f"### `{process}`").partition("\n####")[0]
    for flag, variable, default, meaning in pages.rows(markdown)[1:]:
        assert meaning, flag
        found[flag.strip("`")] = (variable.strip("`"), default.strip("`"))
    return found


def from_help(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Flag → (variable, default) as `--help` has them."""
    with pytest.raises(SystemExit):
        run()
    shown = re.sub(r"\n {20,}", " ", capsys.readouterr().out)
    found = {}
    for line in shown.splitlines():
        match = re.match(r"  (--[a-z-]+)(.*)", line)
        if match:
            variable = VARIABLE.search(match[2])
            default = re.search(r"default:? ([^();]+)", match[2].replace("no default", ""))
            found[match[1]] = (variable[1] if variable else NONE, default[1].strip() if default else NONE)
    return found


@pytest.mark.parametrize(
    ("process", "run"),
    [
        ("switchgear-operator", lambda: operator.load(["--help"], {})),
        ("switchgear-edge", lambda: edge.parse(["--help"], {})),
        ("switchgear-api", lambda: api.read(["--help"], {})),
        ("switchgear-streams", lambda: streams.load(["--help"], {})),
    ],
)
def test_flags_of_help(
    process: str, run: Callable[[], object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    version = metadata.version("switchgear")
    wanted = {
        flag: (variable, default.replace(version, "<version>"))
        for flag, (variable, default) in from_help(run, capsys).items()
    }
    assert len(wanted) >= 4
    documented = table(process)
    if process == "switchgear-streams":
        # The secret's variable is in the help's last line, and the log level's in no flag.
        assert documented.pop(NONE) == ("SWITCHGEAR_LOG_LEVEL", "info")
        assert documented["--secret-file"] == ("STREAMS_SECRET", NONE)
        wanted["--secret-file"] = ("STREAMS_SECRET", NONE)
        # `--help` names the bound; the default is smaller with small segments.
        wanted["--max-body-bytes"] = (NONE, str(_streams_defaults().max_body_bytes))
    assert documented == wanted


def _streams_defaults() -> streams.Settings:
    return streams.load(["--data-dir", "x", "--insecure"], {})


def test_flags_of_the_shape_server() -> None:
    documented = table("switchgear-shapes")
    flags = {f"--{flag}": variable for flag, variable in shapes.FLAGS.items()}
    flags |= {f"--{flag}": variable for flag, variable in shapes._FLAG_ONLY.items()} | {
        "--secret-file": "ELECTRIC_SECRET"
    }
    assert {flag: variable for flag, (variable, _) in documented.items()} == flags
    defaults = {field.name: field.default for field in dataclasses.fields(shapes.Settings)}
    checked = 0
    for variable, (field, parse) in shapes._VARIABLES.items():
        default = defaults[field]
        if default is dataclasses.MISSING:
            continue
        shown = next(shown for name, shown in documented.values() if name == variable)
        assert (None if shown == NONE else parse(shown)) == default, variable
        checked += 1
    assert checked > 15


def test_names_that_the_shape_server_ignores_or_translates() -> None:
    markdown = pages.section(PAGE, "### `switchgear-shapes`")
    for old, new in shapes._OLD_NAMES.items():
        assert {old, new} <= pages.codes(markdown)


def test_flags_of_up_and_down() -> None:
    documented = table("switchgear up")
    for command in (region.up, region.down):
        for name in inspect.signature(command).parameters:
            assert f"--{name.replace('_', '-')}" in documented
    assert len(documented) == 5
    listed = dict(pages.rows(pages.section(PAGE, "### `switchgear up`").partition("#### Ports")[2])[1:])
    assert listed == {name: str(port) for name, port in state.DEFAULT_PORTS.items()}


def test_every_variable_is_on_the_page() -> None:
    page = pages.text(PAGE)
    internal = {"SWITCHGEAR_CONTAINER"}
    for room in pages.ROOMS:
        source = "".join(pages.sources(room).values())
        found = set(re.findall(r'"((?:SWITCHGEAR|STREAMS|ELECTRIC)_[A-Z0-9_]+)"', source))
        missing = {name for name in found - internal if f"`{name}`" not in page}
        assert not missing, f"{room}: not in docs/{PAGE}: {sorted(missing)}"
    for name in ("--api-url", "--token", "--workspace"):
        assert name in options.HELP
        assert f"`{name}`" in page


def test_states_conditions_and_reasons() -> None:
    states = {row[0].strip("`") for row in pages.rows(pages.section(PAGE, "## States"))}
    for name in ("SERVICE_STATES", "PARENT_STATES"):
        from switchgear_model import kinds

        assert set(getattr(kinds, name)) <= states
    types = {
        value
        for name, value in vars(conditions).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"[A-Z]\w+", value)
    }
    documented = {row[0].strip("`") for row in pages.rows(pages.section(PAGE, "### Condition types"))[1:]}
    assert len(types) > 5
    assert documented == types
    reasons = {row[0].strip("`") for row in pages.rows(pages.section(PAGE, "### Reasons"))} - {"reason"}
    assert reasons == {reason.value for reason in conditions.Reason}


def test_metrics() -> None:
    page = {code.partition("{")[0] for code in pages.codes(pages.section(PAGE, "## Metrics"))}
    packages = {*pages.ROOMS}
    found = set()
    for room in ("switchgear_operator", "switchgear_edge", "switchgear_shapes", "switchgear_streams"):
        found |= {
            s
            for s in pages.strings(room)
            if re.fullmatch(r"(switchgear|streams|electric|process)_\w+[a-z]", s) and s not in packages
        }
    assert len(found) > 40
    assert not found - page, sorted(found - page)
    assert not {name for name in page if re.match(r"(switchgear|streams|electric)_", name)} - found
