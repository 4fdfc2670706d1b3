"""Times of conditions move only when a status flips."""

from datetime import UTC, datetime, timedelta

from switchgear_model import conditions as c

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_a_time_moves_with_the_status_and_not_with_the_message() -> None:
    first = c.stamp([c.false(c.READY, c.Reason.PROVISIONING, "a")], [], 1, NOW)
    second = c.stamp([c.false(c.READY, c.Reason.POD_NOT_READY, "b")], first, 2, NOW + timedelta(hours=1))
    third = c.stamp([c.true(c.READY, c.Reason.ACTIVE)], second, 2, NOW + timedelta(hours=2))
    assert first[0].last_transition_time == second[0].last_transition_time == "2026-11-23T12:00:00Z"
    assert (second[0].message, second[0].observed_generation) == ("b", 2)
    assert third[0].last_transition_time == "2026-11-23T14:00:00Z"


def test_messages_are_bounded() -> None:
    stamped = c.stamp([c.false(c.READY, c.Reason.UNKNOWN, "x" * 5000)], [], 1, NOW)
    assert len(stamped[0].message) == c.MESSAGE_MAX
    # What is written is what was decided, or a status would be written again and again.
    assert c.parse_condition(stamped[0].to_dict()) == stamped[0]


def test_timestamps() -> None:
    assert c.parse_timestamp(c.timestamp(NOW)) == NOW
    assert c.parse_timestamp("") is None
    assert c.parse_timestamp("yesterday") is None


def test_reasons_are_camel_case_and_unique() -> None:
    values = [reason.value for reason in c.Reason]
    assert len(set(values)) == len(values)
    assert all(value.isalpha() and value[0].isupper() for value in values)
