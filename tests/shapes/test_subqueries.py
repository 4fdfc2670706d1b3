"""The pure part of subqueries: disjunctions, what a subquery returns, tags."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest

from switchgear_shapes.log.sources import SourceState, decode_deltas, encode_deltas
from switchgear_shapes.subqueries import moves
from switchgear_shapes.subqueries.moves import Kept
from switchgear_shapes.subqueries.plan import Membership, Plain, SubqueryRefused, plan
from switchgear_shapes.subqueries.tags import replaceable, slot, tags
from switchgear_shapes.subqueries.values import Group, Nested, Source
from switchgear_shapes.where.expression import (
    BOOL,
    And,
    Call,
    Column,
    Expression,
    InSubquery,
    IsNull,
    Not,
    Or,
    Subquery,
    Type,
    Where,
)

INT = Type("int4")
PLAIN = [Column(BOOL, f"b{n}") for n in range(3)]
QUERIES = tuple(Subquery(20_000 + n, "public", f"t{n}", (Column(INT, "id"),), None) for n in range(2))
ASKED = [InSubquery((Column(INT, f"c{n}"),), n) for n in range(2)]


def where(expression: Expression, queries: tuple[Subquery, ...] = QUERIES) -> Where:
    return Where(expression, "", frozenset(), queries)


def random_expression(rng: random.Random, depth: int) -> Expression:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice([*PLAIN, *ASKED, *ASKED])
    kind = rng.randrange(3)
    if kind == 0:
        return Not(random_expression(rng, depth - 1))
    args = tuple(random_expression(rng, depth - 1) for _ in range(rng.randrange(2, 4)))
    return And(args) if kind == 1 else Or(args)


def kleene(node: Expression, values: dict[Expression, bool | None]) -> bool | None:
    match node:
        case Not(arg):
            value = kleene(arg, values)
            return None if value is None else not value
        case And(args) | Or(args):
            found = [kleene(arg, values) for arg in args]
            absorbing = isinstance(node, Or)
            if absorbing in found:
                return absorbing
            return None if None in found else not absorbing
        case _:
            return values[node]


def test_the_disjunction_is_true_exactly_when_the_clause_is() -> None:
    rng = random.Random(1)
    for _ in range(300):
        expression = random_expression(rng, rng.randrange(1, 5))
        try:
            made = plan(where(expression))
        except SubqueryRefused:
            continue
        atoms: list[Expression] = [*PLAIN, *ASKED]
        cases = list(product((True, False, None), repeat=len(atoms)))
        for case in rng.sample(cases, 80):
            values = dict(zip(atoms, case, strict=True))
            truths = []
            for condition in made.conditions:
                if isinstance(condition, Plain):
                    truths.append(kleene(condition.expression, values) is True)
                else:
                    value = values[InSubquery(condition.columns, condition.query)]
                    truths.append(value is False if condition.negated else value is True)
            assert made.satisfied(truths) is (kleene(expression, values) is True), expression


def test_a_clause_that_would_explode_is_refused() -> None:
    pairs = tuple(
        Or((InSubquery((Column(INT, f"x{n}"),), 0), InSubquery((Column(INT, f"y{n}"),), 1))) for n in range(7)
    )
    with pytest.raises(SubqueryRefused, match="more than 100 alternatives"):
        plan(where(And(pairs)))
    assert len(plan(where(And(pairs[:6]))).disjuncts) == 64


@pytest.mark.parametrize("node", [IsNull(ASKED[0]), Call(BOOL, "=", (ASKED[0], PLAIN[0]))])
def test_subqueries_within_other_operators_are_refused(node: Expression) -> None:
    with pytest.raises(SubqueryRefused, match="AND, OR and NOT"):
        plan(where(Or((PLAIN[0], node))))


def test_types_without_a_normal_form_are_refused() -> None:
    column = Column(Type("interval"), "i")
    query = Subquery(20_000, "public", "t", (column,), None)
    with pytest.raises(SubqueryRefused, match="type interval"):
        plan(where(InSubquery((column,), 0), (query,)))


def test_parts_without_subqueries_are_one_condition() -> None:
    made = plan(where(And((*PLAIN, ASKED[0]))))
    assert [type(condition) for condition in made.conditions] == [Plain, Membership]
    assert made.disjuncts == ((0, 1),)


# -- what a subquery returns --

VALUES: list[bytes | None] = [None, b"1", b"2", b"3"]


def equals(left: tuple[bytes | None, ...], right: tuple[bytes | None, ...]) -> bool | None:
    """Row comparison as SQL has it."""
    result: bool | None = True
    for a, b in zip(left, right, strict=True):
        if a is None or b is None:
            result = None if result is not False else False
        elif a != b:
            result = False
    return result


def is_in(key: tuple[bytes | None, ...], members: list[tuple[bytes | None, ...]]) -> bool | None:
    found = [equals(key, member) for member in members]
    return True if True in found else None if None in found else False


@pytest.mark.parametrize("width", [1, 2])
def test_membership_and_its_changes_are_those_of_sql(width: int) -> None:
    rng = random.Random(width)
    keys = list(product(VALUES, repeat=width))
    for _ in range(60):
        source = Source(width)
        rows: dict[Group, int] = {}
        truths = dict.fromkeys(keys, (False, True))
        for _ in range(25):
            deltas: dict[Group, int] = {}
            for _ in range(rng.randrange(1, 4)):
                group = Group(rng.choice(keys))
                if None in group.output and rng.random() < 0.7:
                    continue
                have = rows.get(group, 0) + deltas.get(group, 0)
                delta = rng.choice([1, 1, -1]) if have else 1
                deltas[group] = deltas.get(group, 0) + delta
            source.apply(deltas)
            for group, delta in deltas.items():
                rows[group] = rows.get(group, 0) + delta
            changes = source.take_changes()
            members = [group.output for group, count in rows.items() if count]
            before = truths
            truths = {key: (is_in(key, members) is True, is_in(key, members) is False) for key in keys}
            for key in keys:
                assert (source.truth(key, False), source.truth(key, True)) == truths[key], (key, members)
            assert changes.entered == {key: now[0] for key, now in truths.items() if now[0] is not before[key][0]}
            if not changes.uncertain:
                assert changes.excluded == {key: now[1] for key, now in truths.items() if now[1] is not before[key][1]}


def test_nested_sources_requalify_rows() -> None:
    """SELECT a FROM u WHERE b IN (q0) OR (flag AND c NOT IN (q1)), against brute force."""
    rng = random.Random(3)
    for _ in range(40):
        inner = [Source(1), Source(1)]
        members: list[dict[Group, int]] = [{}, {}]
        outer = Source(1, {0: Nested(inner[0], False), 1: Nested(inner[1], True)})
        rows: dict[tuple[Any, ...], int] = {}
        for _ in range(30):
            for number, source in enumerate(inner):
                deltas = {}
                for value in rng.sample(VALUES, rng.randrange(3)):
                    group = Group((value,))
                    have = members[number].get(group, 0)
                    deltas[group] = rng.choice([1, -1]) if have else 1
                    members[number][group] = have + deltas[group]
                source.apply(deltas)
            changed: dict[Group, int] = {}
            for _ in range(rng.randrange(4)):
                row = (rng.choice(VALUES), rng.choice(VALUES), rng.choice(VALUES), rng.random() < 0.5)
                have = rows.get(row, 0)
                delta = rng.choice([1, -1]) if have else 1
                rows[row] = have + delta
                a, b, c, flag = row
                ways = (((0, (b,)),), ((1, (c,)),)) if flag else (((0, (b,)),),)
                group = Group((a,), ways)
                changed[group] = changed.get(group, 0) + delta
            for position, source in enumerate(inner):
                found = source.take_changes()
                if found:
                    outer.follow(position, found)
            outer.apply(changed)
            lists = [[g.output for g, n in held.items() if n] for held in members]
            want: dict[Any, int] = {}
            for (a, b, c, flag), count in rows.items():
                if count and (is_in((b,), lists[0]) is True or (flag and is_in((c,), lists[1]) is False)):
                    want[(a,)] = want.get((a,), 0) + count
            assert outer.counts == want
            fresh = Source(1, outer.nested, dict(outer.rows))
            fresh.count_all()
            assert fresh.counts == want


def test_a_stored_result_goes_back_and_forth() -> None:
    """Whatever was written and lost, the rows right before any transaction that is still needed can be had again."""
    rng = random.Random(4)
    spec = QUERIES[0]
    groups = [Group((b"1",)), Group((None,)), Group((b"\xff",), (((0, (b"x", None)),),))]
    for _ in range(50):
        state = SourceState(7, spec, (("id", 23),), {}, 0)
        history = {0: dict(state.rows)}
        log = []
        for lsn in range(10, 200, 10):
            deltas = {}
            for group in rng.sample(groups, rng.randrange(1, 4)):
                deltas[group] = rng.choice([1, -1]) if state.rows.get(group) else 1
            state.apply(lsn, decode_deltas(encode_deltas(deltas)))
            log.append((lsn, deltas))
            history[lsn] = dict(state.rows)
            if rng.random() < 0.1:
                state.forget_before(rng.randrange(1, lsn))
        again = SourceState.from_json(state.to_json())
        for lsn, deltas in log:  # the write-ahead log may repeat what the checkpoint has
            again.apply(lsn, deltas)
        assert again.rows == history[190]
        target = rng.randrange(again.base + 1, 200)
        again.roll_back(target)
        assert again.rows == history[max(lsn for lsn in history if lsn < target)]
        for lsn, deltas in log:
            if lsn > again.position:
                again.apply(lsn, deltas)
        assert again.rows == history[190]


# -- steps --


def test_what_transactions_change_together() -> None:
    rng = random.Random(5)
    keys = [(b"1",), (b"2",), (None,)]
    for _ in range(200):
        truth = {(at, key): rng.random() < 0.5 for at in range(2) for key in keys}
        start = dict(truth)
        kept = []
        for number in range(rng.randrange(1, 6)):
            flips: moves.Flips = {}
            for at, key in rng.sample(sorted(truth, key=repr), rng.randrange(3)):
                truth[at, key] = not truth[at, key]
                flips.setdefault(at, {})[key] = truth[at, key]
            kept.append(Kept(number, number, 0, flips))
        earlier, net = moves.before(kept), moves.net(kept)
        for (at, key), now in truth.items():
            assert earlier.get(at, {}).get(key, now) is start[at, key]
            assert net.get(at, {}).get(key) is (now if now is not start[at, key] else None)


def test_a_snapshot_cuts_the_stream_at_the_first_it_does_not_see() -> None:
    assert moves.first_unseen([(1, True), (2, True), (3, False)], 10) == 3
    assert moves.first_unseen([(1, True), (2, True)], 10) == 10
    assert moves.first_unseen([(1, True), (2, False), (3, True)], 10) is None
    assert moves.first_unseen([(1, True), (12, False)], 10) == 10


# -- tags --


def test_tags_have_a_slot_per_position() -> None:
    made = plan(where(Or((And((PLAIN[0], ASKED[0])), ASKED[1]))))
    assert tags(made, ["1", "aa", "bb"]) == ["1/aa/", "//bb"]
    assert slot("h", (b"1",)) != slot("i", (b"1",))
    assert len({slot("h", key) for key in [(b"1",), (None,), (b"_",), (b'1"/"2',), (b"1", b"2"), (b"1/",)]}) == 6


def test_clients_lose_the_slots_of_a_removed_tag() -> None:
    assert replaceable(["aa"], ["bb"])
    assert replaceable(["1/aa"], ["1/bb"])
    assert replaceable(["aa/"], ["/bb", "cc/"])
    assert not replaceable(["aa/bb"], ["cc/bb"])
