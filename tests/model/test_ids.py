"""Ids are deterministic, well-formed, and every name made from them fits where it must."""

from hypothesis import given
from hypothesis import strategies as st

from switchgear_model import ids

SERVICE_IDS = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True)


def test_the_derived_id_of_a_uid_never_changes() -> None:
    # A changed result here would rename every service there is.
    assert ids.service_id("7b1e4c1e-0000-4000-8000-000000000001") == "svc-calm-reef-d997bkbetw"


@given(st.uuids())
def test_derived_ids_have_the_documented_form(uid: object) -> None:
    made = ids.service_id(str(uid))
    assert ids.is_service_id(made)
    prefix, first, second, tail = made.split("-")
    assert (prefix, len(tail)) == ("svc", 10)
    assert first.isalpha() and second.isalpha()


def test_ids_of_many_uids_are_different() -> None:
    assert len({ids.service_id(f"uid-{n}") for n in range(20_000)}) == 20_000


@given(SERVICE_IDS)
def test_names_fit_kubernetes_and_postgres(service_id: str) -> None:
    for name in (ids.child_name, ids.database_secret_name, ids.key_secret_name, ids.pod_name):
        assert len(name(service_id)) <= 63
    # A StatefulSet's name stands in a label together with an 11 character revision.
    assert len(ids.child_name(service_id)) <= 52
    for name in (ids.slot_name(service_id), ids.publication_name(service_id)):
        assert len(name) <= 63
        assert "-" not in name


@given(SERVICE_IDS, SERVICE_IDS)
def test_two_services_never_share_a_slot(first: str, second: str) -> None:
    assert (ids.slot_name(first) == ids.slot_name(second)) == (first == second)


def test_what_is_no_service_id() -> None:
    for text in ("", "-a", "a-", "A", "a_b", "a" * 43, "a\n", ids.EDGE_INTERNAL_ID):
        assert not ids.is_service_id(text), text
    for text in ("a", "a-b", "0", "a" * 42, "svc-calm-reef-d997bkbetw"):
        assert ids.is_service_id(text), text
