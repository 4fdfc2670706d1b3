"""Names from short names and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from switchgear_api import names
from switchgear_model import ids


def resource(name: str, display: str | None = None, kind: str = "SyncSource", uid: str = "u") -> dict[str, object]:
    return {"kind": kind, "metadata": {"name": name, "uid": uid}, "spec": {"displayName": display} if display else {}}


def test_the_convention() -> None:
    assert names.candidates("app", "production")[0] == "app-production"
    assert names.candidates(None, "app")[0] == "app"


def test_a_name_that_is_no_label_gets_a_hash() -> None:
    first, second = names.candidates("app", "Feature/Login")
    assert first == second
    assert first.startswith("app-feature-login-")
    assert first != names.candidates("app", "feature-login")[0]


def test_a_taken_name_has_another_for_each_parent() -> None:
    one, other = names.candidates("a", "b-c"), names.candidates("a-b", "c")
    assert one[0] == other[0]
    assert one[1] != other[1]


@given(st.one_of(st.none(), st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)), st.text(min_size=1))
def test_every_candidate_is_a_valid_name(parent: str | None, short: str) -> None:
    for candidate in names.candidates(parent, short):
        assert names.is_name(candidate), candidate
    assert names.candidates(parent, short) == names.candidates(parent, short)


def test_a_reference_is_a_resource_name_before_an_id_before_a_short_name() -> None:
    service_id = ids.service_id("uid-3")
    first, second, third = resource("x", "db"), resource("db", "other"), resource("y", "db", uid="uid-3")
    assert names.matching([first, second, third], "db") == [second]
    assert names.matching([first, third], "db") == [first, third]
    assert names.matching([first, second, third], service_id) == [third]
    assert names.matching([first], "nothing") == []
