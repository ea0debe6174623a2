"""Which sums may follow one another: exact linear algebra says what an adversary can isolate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import permission
from qres_secagg.graph import topology
from qres_secagg.levels import finest
from qres_secagg.parameters import Parameters
from qres_secagg.permission import Classes, Permission

from qres_core import NodeId
from qres_core.dialogues import MAX_VOID_SETS, VoidSet

told_apart: Any = Classes.told_apart
"""Here members are numbers."""
EXACT = settings(max_examples=150, deadline=None)


# ── the oracle ────────────────────────────────────────────────────────────────────────────────


def rank(rows: Iterable[Sequence[int]]) -> int:
    """Over the rationals, by elimination."""
    left, found = [[Fraction(x) for x in row] for row in rows], 0
    while left:
        row = left.pop()
        place = next((i for i, x in enumerate(row) if x), None)
        if place is None:
            continue
        found += 1
        left = [
            [x - other[place] / row[place] * y for x, y in zip(other, row, strict=True)]
            for other in left
        ]
    return found


def isolated(sums: Sequence[Collection[Any]], corrupt: Collection[Any]) -> set[Any]:
    """Whose input alone is a rational combination of the sums and the inputs of the corrupt."""
    honest = sorted({member for item in sums for member in item}.difference(corrupt))
    rows = [[int(member in item) for member in honest] for item in sums]
    whole = rank(rows)
    return {
        member
        for place, member in enumerate(honest)
        if rank([[*row[:place], *row[place + 1 :]] for row in rows]) < whole
    }


def worst(sums: Sequence[Collection[Any]], members: Collection[Any], corrupt: int) -> set[Any]:
    """Who is isolated by the worst of all choices of so many corrupt members."""
    return set().union(
        *(isolated(sums, some) for some in itertools.combinations(sorted(members), corrupt))
    )


def test_the_oracle_finds_what_is_known() -> None:
    assert isolated([{1, 2, 3}, {1, 2}], ()) == {3}
    assert isolated([{1, 2, 3}, {1}], {2}) == {1, 3}
    assert isolated([{1, 2}, {2, 3}, {1, 3}], ()) == {1, 2, 3}  # half of two less the third
    assert isolated([{1, 2, 3, 4}, {1, 2}], ()) == set()
    assert worst([{1, 2, 3, 4}, {1, 2}], {1, 2, 3, 4}, 1) == {1, 2, 3, 4}
    assert worst([{1, 2, 3}], {1, 2, 3}, 1) == set()


# ── classes ───────────────────────────────────────────────────────────────────────────────────


def opened(members: Collection[int], groups: Sequence[Sequence[int]], least: int) -> list[set[int]]:
    inside = [set(members).intersection(group) for group in groups]
    return [item for item in inside if len(item) >= least]


@attrs.frozen
class Setting:
    """Members 0..n-1 in groups, at two levels."""

    n: int
    corrupt: int
    levels: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def least(self) -> int:
        return max(3, self.corrupt + 2)


@st.composite
def settings_of_groups(draw: st.DrawFn) -> Setting:
    n, corrupt = draw(st.integers(6, 11)), draw(st.integers(0, 2))
    order = draw(st.permutations(range(n)))
    count = draw(st.integers(1, 2))
    coarse = [tuple(order[place::count]) for place in range(count)]
    fine = [half for group in coarse for half in (group[::2], group[1::2])]
    return Setting(n, corrupt, (tuple(coarse), tuple(fine)))


@pytest.mark.claim("C-secagg-10")
@EXACT
@given(setting=settings_of_groups(), data=st.data())
def test_no_combination_of_permitted_sums_isolates_anybody(
    setting: Setting, data: st.DataObject
) -> None:
    sums: list[set[int]] = []
    for level in sorted(data.draw(st.lists(st.integers(0, 1), min_size=2, max_size=5))):
        groups = setting.levels[level]
        asked = data.draw(st.sets(st.integers(0, setting.n - 1)))
        left = data.draw(st.sampled_from([asked, set(range(setting.n)) - asked]))
        classes = told_apart(sums, setting.corrupt + 2)
        kept = classes.permitted(left, groups, setting.least)
        assert kept <= left
        assert classes.permitted(kept, groups, setting.least) == kept
        sums += opened(kept, groups, setting.least)
    assert worst(sums, range(setting.n), setting.corrupt) == set()


@pytest.mark.control("C-secagg-10")
@pytest.mark.parametrize("guarded", [True, False])
def test_control_a_set_without_one_member_isolates_it(*, guarded: bool) -> None:
    everybody, one_less = set(range(9)), set(range(8))
    classes = told_apart([everybody], 3 if guarded else 0)
    after = classes.permitted(one_less, [sorted(everybody)], 3)
    found = worst([everybody, set(after)], everybody, 1)
    assert found == (set() if guarded else {8})
    assert len(after) == (6 if guarded else 8)


def test_the_same_set_is_permitted_again_and_so_is_what_divides_nothing() -> None:
    group = [list(range(12))]
    sums = [set(range(12)), set(range(9))]
    classes = told_apart(sums, 3)
    for members in (range(12), range(9), range(9, 12)):
        assert classes.permitted(members, group, 3) == set(members)
    # Not even a class that is too small keeps its set from being opened once more.
    assert told_apart(sums, 99).permitted(range(9), group, 3) == set(range(9))


def test_as_few_leave_as_are_needed() -> None:
    everybody = [list(range(20))]
    classes = told_apart([set(range(20))], 4)

    def left_of(members: Collection[int]) -> int:
        return len(classes.permitted(members, everybody, 4))

    assert left_of(range(20)) == 20
    assert [left_of(range(n)) for n in (19, 18, 17, 16, 15)] == [16, 16, 16, 16, 15]
    assert left_of(range(4)) == 4
    assert left_of(range(3)) == 3  # no sum of so few is opened, so nothing is divided


@EXACT
@given(setting=settings_of_groups(), data=st.data())
def test_no_other_permitted_set_within_it_has_more_members_and_more_inputs(
    setting: Setting, data: st.DataObject
) -> None:
    """Against trying out every set; members of a group that is not opened stay in."""
    groups = setting.levels[0]
    everybody, away = range(setting.n), st.sets(st.integers(0, setting.n - 1), max_size=3)
    before = set(everybody) - data.draw(away)
    classes = told_apart(opened(before, groups, setting.least), setting.corrupt + 2)
    left = set(everybody) - data.draw(away)

    def value(members: Collection[int]) -> tuple[int, int]:
        return sum(map(len, opened(members, groups, setting.least))), len(members)

    inputs, size = value(classes.permitted(left, groups, setting.least))
    for many in range(size + 1, len(left) + 1):
        for some in itertools.combinations(sorted(left), many):
            if classes.permitted(some, groups, setting.least) == set(some):
                assert value(some)[0] < inputs or not value(some)[0]


def test_who_was_away_comes_in_with_enough_others() -> None:
    everybody = [list(range(20))]
    classes = told_apart([set(range(12))], 4)

    def left_of(members: Collection[int]) -> Collection[int]:
        return classes.permitted(members, everybody, 4)

    assert left_of(range(15)) == set(range(12))
    assert left_of(range(16)) == set(range(16))
    assert left_of(range(8, 20)) == set(range(8, 20))
    assert left_of(range(9, 20)) == set(range(12, 20))  # three of the class would be alone


def test_a_group_that_cannot_be_opened_does_not_close_the_others() -> None:
    groups = [list(range(8)), list(range(8, 16))]
    classes = told_apart(groups, 5)
    kept = classes.permitted(set(range(16)) - {3}, groups, 5)
    assert opened(kept, groups, 5) == [set(range(8, 16))]


def test_whoever_is_away_each_costs_one_part() -> None:
    """However the classes came about: a bound on what absent members and liars take away."""
    group, part = [list(range(60))], 5
    less = [set(range(60)) - set(range(start, start + 5)) for start in range(0, 55, 5)]
    classes = told_apart([set(range(60)), *less], part)
    for away in ({1}, {1, 7}, {1, 2, 59}, {0, 5, 10, 15}):
        kept = classes.permitted(set(range(60)) - away, group, part)
        assert len(kept) >= 60 - len(away) * (2 * part - 1)


def test_liars_that_propose_can_make_a_part_larger_than_the_first_one() -> None:
    """And no larger than twice that, less one: what a page says of swarms without room for it."""
    group, part = [list(range(41))], 3
    sums, costs = [set(range(41))], list[int]()
    for start in range(0, 36, part):
        classes = told_apart(sums, part)
        costs.append(41 - len(classes.permitted(set(range(40)), group, part)))
        kept = classes.permitted(set(range(41)) - set(range(start, start + part)), group, part)
        assert len(kept) == 41 - part
        sums.append(set(kept))
    classes = told_apart(sums, part)
    costs.append(41 - len(classes.permitted(set(range(40)), group, part)))
    assert (costs[0], max(costs), costs[-1]) == (part, 2 * part - 1, 2 * part - 1)


def test_an_absent_member_costs_its_whole_class_where_the_record_is_full() -> None:
    group = [list(range(60))]
    classes = told_apart([set(range(60)), set(range(55))], math.inf)
    assert classes.permitted(range(1, 60), group, 5) == set(range(55, 60))


def test_a_full_record_divides_nothing_more_and_goes_on() -> None:
    group = [list(range(12))]
    classes = told_apart([set(range(12)), set(range(8))], math.inf)
    assert classes.permitted(range(12), group, 3) == set(range(12))
    assert classes.permitted(range(11), group, 3) == set(range(8))
    assert classes.permitted(set(range(12)) - {2}, group, 3) == set(range(8, 12))


# ── the record of a model ─────────────────────────────────────────────────────────────────────


def numbers(n: int, corrupt: int, size: int) -> Parameters:
    return Parameters(
        dimension=1, k=n - 1, t=(n + corrupt) // 2 + 1, corrupt=corrupt,
        min_survivors=max(3, corrupt + 2), bound=1, summands=n, group_size=size,
        acks=(n + corrupt) // 2 + 1,
    )  # fmt: skip


@attrs.define
class Chain:
    """Void heights of one model, with what was opened at them."""

    corrupt: int
    size: int
    roster: tuple[NodeId, ...]
    sets: list[VoidSet] = attrs.field(factory=list)
    mismatches: int = 0
    sums: list[set[NodeId]] = attrs.field(factory=list)  # by the names of now
    rosters: list[set[NodeId]] = attrs.field(factory=list)  # by the names of now
    fresh: Iterator[NodeId] = attrs.field(factory=lambda: iter(make_node_ids(60)[30:]))

    @property
    def record(self) -> Permission:
        info = attrs.evolve(
            make_round_info(1, nodes=4),
            roster=self.roster,
            void_sets=tuple(self.sets),
            mismatches=self.mismatches,
        )
        least = max(3, self.corrupt + 2)
        return Permission(
            info,
            lambda n: numbers(n, self.corrupt, self.size),
            lambda n: finest(size=self.size, least=least, nodes=n),
        )

    def void(self, asked: Collection[NodeId], *, mismatch: bool = False) -> frozenset[NodeId]:
        """A height without a model: what of a set is permitted is opened."""
        record = self.record
        kept = record.permitted(asked)
        assert record.permits(kept)
        graph = topology(record.session(7))
        least = max(3, self.corrupt + 2)
        inside = [{self.roster[r] for r in group}.intersection(kept) for group in graph.groups]
        self.sums += [item for item in inside if len(item) >= least]
        self.sets.append(VoidSet(self.roster, self.roster, tuple(sorted(kept)), self.mismatches))
        self.rosters.append(set(self.roster))
        self.mismatches += mismatch
        return kept

    def change(self, gone: NodeId | None, came: bool) -> None:  # noqa: FBT001 - as in the record
        new = next(self.fresh) if came else None
        members = {*self.roster} - {gone}
        self.roster = tuple(sorted({*members, new} if new else members))
        if gone and new:
            self.sums = [{new if m == gone else m for m in item} for item in self.sums]
            self.rosters = [{new if m == gone else m for m in item} for item in self.rosters]
            self.sets = [
                attrs.evolve(item, names=tuple(new if m == gone else m for m in item.names))
                for item in self.sets
            ]

    def liars(self) -> Iterable[set[NodeId]]:
        """All choices of corrupt members, so many of each roster and no more."""
        rosters = [*self.rosters, set(self.roster)]
        everybody = sorted(set().union(*rosters))
        most = self.corrupt + len(everybody) - len(rosters[0])
        for some in itertools.combinations(everybody, most):
            left = set(some)
            while any(len(left & roster) > self.corrupt for roster in rosters):
                roster = next(r for r in rosters if len(left & r) > self.corrupt)
                left.discard(max(left & roster))
            yield left


@pytest.mark.claim("C-secagg-10")
@settings(max_examples=60, deadline=None)
@given(corrupt=st.integers(0, 2), size=st.sampled_from([0, 4, 5]), data=st.data())
def test_no_combination_isolates_anybody_though_members_change(
    corrupt: int, size: int, data: st.DataObject
) -> None:
    chain = Chain(corrupt, size if size > corrupt + 1 else 0, make_node_ids(30)[:9])
    for _height in range(data.draw(st.integers(2, 4))):
        away = data.draw(st.sets(st.sampled_from(chain.roster), max_size=4))
        kept = chain.void({*chain.roster} - away, mismatch=data.draw(st.booleans()))
        assert chain.record.permits(kept) or chain.record.level
        gone = data.draw(st.sampled_from([None, *chain.roster]))
        came = data.draw(st.booleans())
        if len(chain.roster) > 7 or gone is None or came:
            chain.change(gone, came and len(chain.roster) < 11)
    for some in itertools.islice(chain.liars(), 80):
        assert isolated(chain.sums, some) == set()


@pytest.mark.control("C-secagg-13")
def test_control_who_is_removed_is_isolated_where_the_record_begins_anew() -> None:
    chain = Chain(1, 0, make_node_ids(30)[:9])
    gone = chain.roster[4]
    chain.void(chain.roster)
    chain.change(gone, came=False)
    guarded = chain.record.permitted(chain.roster)
    assert len(guarded) == 6
    assert isolated([*chain.sums, set(guarded)], ()) == set()
    chain.sets = []
    assert isolated([*chain.sums, set(chain.record.permitted(chain.roster))], ()) == {gone}


def test_who_rotates_its_key_is_one_member_and_who_comes_may_be_one_liar_more() -> None:
    chain = Chain(1, 0, make_node_ids(30)[:9])
    chain.void(chain.roster)
    chain.change(chain.roster[2], came=True)
    assert chain.record.permits(chain.roster)  # the same people
    assert chain.record.classes.least == 3
    chain.change(None, came=True)
    assert len(chain.roster) == 10
    assert chain.record.classes.least == 4
    assert not chain.record.permits(chain.roster)  # the new one is alone


def test_after_a_mismatch_the_same_set_is_opened_in_smaller_groups() -> None:
    chain = Chain(1, 0, make_node_ids(30)[:12])
    chain.void(chain.roster, mismatch=True)
    assert chain.record.level == 1
    assert chain.record.permits(chain.roster)
    chain.void(chain.roster, mismatch=True)
    assert [len(item) for item in chain.sums] == [12, 6, 6]
    away = chain.roster[0]
    chain.void({*chain.roster} - {away}, mismatch=True)
    assert worst(chain.sums, chain.roster, 1) == set()


@pytest.mark.parametrize(("cuts", "left"), [(0, 16), (1, 13), (4, 0)])
def test_groups_that_are_halved_cost_the_classes_that_are_small_by_then(
    cuts: int, left: int
) -> None:
    """As a page says: nothing may be left, although all are there."""
    chain = Chain(1, 0, make_node_ids(30)[:16])
    finer = attrs.evolve(chain.record, info=attrs.evolve(chain.record.info, mismatches=1))
    ahead = [[chain.roster[rank] for rank in half] for half in topology(finer.session(1)).groups]
    chain.void(chain.roster)
    for cut in range(cuts):
        gone = {ahead[0].pop(), ahead[1].pop(), ahead[cut % 2].pop()}
        assert chain.void({*chain.roster} - gone) == {*chain.roster} - gone
    assert chain.record.permits(chain.roster)
    chain.mismatches += 1
    assert len(chain.record.permitted(chain.roster)) == left


def test_a_full_record_permits_no_other_set() -> None:
    chain = Chain(1, 0, make_node_ids(30)[:9])
    chain.void(chain.roster)
    chain.sets *= MAX_VOID_SETS
    assert chain.record.permits(chain.roster)
    assert chain.record.permitted(chain.roster[:6]) == frozenset()


@pytest.mark.parametrize("guarded", [True, False])
def test_sets_of_which_nothing_is_opened_leave_the_record_room_for_others(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A rule that needs all three groups, and an outage of one of them for seventy heights.

    In the control they fill the record. Then nothing can be opened of anybody any more, even if all
    are back, and so there is no new model, with which the record would begin anew.
    """
    if not guarded:
        monkeypatch.setattr(permission, "MAX_UNOPENED", MAX_VOID_SETS + 1)
    chain = Chain(1, 8, make_node_ids(30)[:24])

    def now() -> Permission:
        return attrs.evolve(chain.record, rows=3)

    first = topology(now().session(1)).groups[0]
    outages = [{chain.roster[rank] for rank in some} for some in itertools.combinations(first, 2)]
    late = [{node} for node in chain.roster if node not in outages[0]][:3]
    for there, gone in itertools.islice(itertools.product(outages, late), 70):
        present = {*chain.roster} - {chain.roster[rank] for rank in first} | there
        kept = now().permitted(present - gone)
        assert not now().opens(kept)
        if kept and len(chain.sets) < MAX_VOID_SETS:
            assert kept == present - gone
            chain.sets.append(VoidSet(chain.roster, chain.roster, tuple(sorted(kept))))
    assert len(chain.sets) == (permission.MAX_UNOPENED if guarded else MAX_VOID_SETS)
    assert now().permitted(chain.roster) == (frozenset(chain.roster) if guarded else frozenset())
    assert now().opens(now().permitted(chain.roster)) is guarded
