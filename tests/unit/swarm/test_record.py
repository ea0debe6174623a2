"""The record of a model: which sets were decided for it at heights that made no new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core.contract import canonical
from qres_core.contract.errors import RosterError, WireError
from qres_core.contract.rounds import MAX_VOID_SETS, VoidSet
from qres_core.contract.types import NodeId
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Merged, Result, Void
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.ledger.unmerged_sets import MAX_CHANGES, MAX_MISMATCHES, Record

FAILED = Void("QRES-E604")
MISMATCH = Void("QRES-E508")


def node(index: int) -> NodeId:
    return index.to_bytes(32, "big")


def nodes(*indices: int) -> tuple[NodeId, ...]:
    return tuple(node(index) for index in indices)


def first(n: int = 4) -> Head:
    roster = Roster(nodes(*range(1, n + 1)), 0, n)
    return Head.first("ward", b"\x05" * 32, roster, b"\x09" * 32)


def after(head: Head, senders: Sequence[NodeId], result: Result = FAILED, **change: Any) -> Head:
    """The next head; ``change``: an action and what it is about, if any."""
    wanted: RosterChange | None = None
    for action, about in change.items():
        wanted = head.roster.change("ward", action, *about)  # type: ignore[arg-type]
    members = tuple(Member(sender, bytes(32)) for sender in senders)
    made = head.after(CandidateSet(head.height + 1, members, change=wanted), result)
    again = canonical.loads(canonical.dumps(made.raw()), max_bytes=2**20, max_items=512)
    assert Head.from_raw(again) == made  # every head that can be is carried as it is
    return made


def sets(head: Head) -> tuple[VoidSet, ...]:
    return head.record.void_sets(head.roster.members)


def test_a_void_height_puts_its_set_on_record_and_a_new_model_begins_a_new_one() -> None:
    head = first()
    everybody = head.roster.members
    assert sets(head) == ()
    head = after(head, nodes(1, 2, 3))
    head = after(head, nodes(1, 3, 4))
    assert sets(head) == (
        VoidSet(everybody, everybody, nodes(1, 2, 3)),
        VoidSet(everybody, everybody, nodes(1, 3, 4)),
    )
    head = after(head, nodes(1, 2), Merged(b"\x06" * 32))
    assert head.record == Record()
    assert sets(after(head, nodes(4))) == (VoidSet(everybody, everybody, nodes(4)),)


def test_a_set_is_noted_once_and_again_after_a_mismatch() -> None:
    head = first()
    for _height in range(3):
        head = after(head, nodes(1, 2, 3))
    assert [item.mismatches for item in sets(head)] == [0]
    for _height in range(2):
        head = after(head, nodes(1, 2, 3), MISMATCH)
    assert [item.mismatches for item in sets(head)] == [0, 1]
    assert head.record.mismatches == 2
    for _height in range(2 * MAX_MISMATCHES):
        head = after(head, nodes(1, 2, 3), MISMATCH)
    assert [item.mismatches for item in sets(head)] == [*range(MAX_MISMATCHES + 1)]


def test_what_comes_after_a_full_record_is_not_noted() -> None:
    head = first(7)
    for marks in range(1, MAX_VOID_SETS + 9):
        members = [m for rank, m in enumerate(head.roster.members) if marks >> rank & 1]
        head = after(head, members)
    assert len(sets(head)) == MAX_VOID_SETS
    assert sets(head)[-1].senders == nodes(7)  # the 64th: one bit
    assert head.record == after(head, nodes(1, 2, 3, 4, 5, 6, 7)).record


def test_sets_of_earlier_rosters_are_told_by_the_names_of_then_and_of_now() -> None:
    head = first()
    head = after(head, nodes(1, 2, 3), add=[node(9)])
    head = after(head, nodes(2, 4, 9), rotate=[node(2), node(8)])
    head = after(head, nodes(1, 8), remove=[node(8)])
    head = after(head, nodes(1, 9))
    assert sets(head) == (
        VoidSet(nodes(1, 2, 3, 4), nodes(1, 8, 3, 4), nodes(1, 2, 3)),
        VoidSet(nodes(1, 2, 3, 4, 9), nodes(1, 8, 3, 4, 9), nodes(2, 4, 9)),
        VoidSet(nodes(1, 3, 4, 8, 9), nodes(1, 3, 4, 8, 9), nodes(1, 8)),
        VoidSet(nodes(1, 3, 4, 9), nodes(1, 3, 4, 9), nodes(1, 9)),
    )


def test_who_comes_back_under_its_name_has_one_name() -> None:
    head = after(first(), nodes(1, 2), remove=[node(2)])
    head = after(head, nodes(1, 3), add=[node(2)])
    assert [item.names for item in sets(head)] == [nodes(1, 2, 3, 4), nodes(1, 3, 4)]


def test_who_comes_back_and_gets_a_new_key_then_has_one_name() -> None:
    """In the sets of before it left, too: else two sets would name one member otherwise."""
    head = after(first(), nodes(1, 2), remove=[node(2)])
    head = after(head, nodes(1, 3), add=[node(2)])
    head = after(head, nodes(1, 2, 3), rotate=[node(2), node(8)])
    named = [nodes(1, 8, 3, 4), nodes(1, 3, 4), nodes(1, 8, 3, 4)]
    assert [item.names for item in sets(head)] == named
    head = after(head, nodes(1, 8), remove=[node(8)])
    assert [item.names for item in sets(head)] == [*named, nodes(1, 3, 4, 8)]
    head = after(after(head, nodes(1), add=[node(8)]), nodes(1), rotate=[node(8), node(7)])
    assert sets(head)[0].names == nodes(1, 7, 3, 4)


@pytest.mark.parametrize("left", ["remove", "rotate"])
def test_who_gave_up_a_seat_gets_no_other_one_before_there_is_a_new_model(left: str) -> None:
    """Two members of one set would have one name, and one of them would be taken for the other."""
    successor = [node(8)] if left == "rotate" else []
    head = after(first(), nodes(1, 2, 3), **{left: [node(2), *successor]})
    change = head.roster.change("ward", "rotate", node(3), node(2))
    with pytest.raises(RosterError, match="had another seat since the last model") as caught:
        head.changed(change)
    assert "add it, or make the change again" in caught.value.problems[0].fix
    with pytest.raises(RosterError):
        after(head, nodes(1), rotate=[node(3), node(2)])
    assert node(2) in after(head, nodes(1), add=[node(2)]).roster
    head = after(head, nodes(1), Merged(bytes(32)))
    assert node(2) in after(head, nodes(1), rotate=[node(3), node(2)]).roster


def test_one_set_of_two_rosters_is_noted_twice() -> None:
    head = after(after(first(), nodes(1, 2), add=[node(9)]), nodes(1, 2))
    assert len(sets(head)) == 2
    assert len(sets(after(head, nodes(1, 2)))) == 2


def test_members_change_so_often_and_then_wait_for_a_model() -> None:
    head = first()
    for place in range(MAX_CHANGES):
        head = after(head, nodes(1, 2), add=[node(20 + place)])
    change = head.roster.change("ward", "add", node(90))
    with pytest.raises(RosterError, match="since the last model") as caught:
        head.changed(change)
    assert "when the swarm has a new model" in caught.value.problems[0].fix
    with pytest.raises(RosterError):
        after(head, nodes(1), add=[node(90)])
    head = after(head, nodes(1), Merged(bytes(32)))
    assert node(90) in after(head, nodes(1), add=[node(90)]).roster


@pytest.mark.claim("C-secagg-13")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_record_is_what_a_list_of_all_heights_says(data: st.DataObject) -> None:
    """Against an oracle that keeps every height, with names that follow rotations."""
    head, fresh, log = first(), 100, list[tuple[dict[NodeId, NodeId], frozenset[NodeId], int]]()
    former = dict[NodeId, None]()
    for _height in range(data.draw(st.integers(1, 12))):
        members = head.roster.members
        former.update(dict.fromkeys(members))
        senders = data.draw(st.lists(st.sampled_from(members), min_size=1, unique=True).map(sorted))
        result = data.draw(st.sampled_from([FAILED, MISMATCH, MISMATCH, Merged(bytes(32))]))
        action = data.draw(st.sampled_from(["", "", "add", "rotate", "remove"]))
        about: list[NodeId] = []
        if action:
            fresh += 1
            away = [m for m in former if m not in members] if action == "add" else []
            new = data.draw(st.sampled_from([node(fresh), *away]))
            about = [new if action == "add" else data.draw(st.sampled_from(members))]
            about += [node(1000 + fresh)] if action == "rotate" else []
        if action == "remove" and len(members) == 2:
            action = ""
        entry = {m: m for m in members}, frozenset(senders), head.record.mismatches
        same = any((set(names), s, x) == (set(members), entry[1], entry[2]) for names, s, x in log)
        log = [] if isinstance(result, Merged) else log if same else [*log, entry]
        if action == "rotate":
            for names, _senders, _mismatches in log:
                names.update({k: about[1] for k, name in names.items() if name == about[0]})
        head = after(head, senders, result, **({action: about} if action else {}))
    told = [
        (dict(zip(item.roster, item.names, strict=True)), frozenset(item.senders), item.mismatches)
        for item in sets(head)
    ]
    without_repeats = [item for place, item in enumerate(told) if item not in told[:place]]
    assert [(set(a), b, c) for a, b, c in log] == [(set(a), b, c) for a, b, c in without_repeats]
    assert [a for a, _b, _c in log] == [a for a, _b, _c in without_repeats]
    assert all(len({*names.values()}) == len(names) for names, _b, _c in told), "one name for each"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        [0],
        [0, "\0\1"],
        [0, b"\0"],
        [0, b"\0\0"],  # nobody
        [0, b"\0\x10"],  # the fifth of four
        [0, b"\1\1"],  # a mismatch too early
        [-1, b""],
        [MAX_MISMATCHES + 1, b""],
        [0, b"\0\1\0\1"],  # twice
        [0, b"\0\1" * (MAX_VOID_SETS + 1)],
        [0, b"", b""],
        [0, b"", b"", b"", b""],
        [0, b"", b"", b"\7", b""],
        [0, b"", b"\7", b"", b""],
        [0, b"", b"", node(9), b""],  # who came is not here
        [0, b"", node(1), b"", b""],  # who went is
        [0, b"\0\x10", b"", node(1), b""],  # three members before
        [0, *[b"", b"", node(1)] * 5, b""],
        [0, b"", *[node(9), node(1), b""] * (MAX_CHANGES + 1)],
        [0, b"", node(1), node(9), b"", node(9), node(1), b""],  # back to a seat that it had
        [0, b"", node(1), b"", b"", node(9), node(1), b""],  # from one seat to another
        [True, b""],
    ],
)
def test_a_head_with_a_record_that_cannot_be_is_refused(raw: object) -> None:
    with pytest.raises(WireError) as caught:
        Record.from_raw(raw, nodes(1, 2, 3, 4))
    assert caught.value.problems[0].where.startswith("payload.head.record")


def refused(raw: object, members: tuple[NodeId, ...]) -> bool:
    try:
        Record.from_raw(raw, members)
    except WireError:
        return True
    return False


def test_a_record_has_so_much_and_no_more() -> None:
    """Each as large as may be, and a little more."""
    seven, nine = nodes(*range(1, 8)), nodes(*range(1, 10))
    marks = [bytes([0, mark]) for mark in range(1, MAX_VOID_SETS + 2)]
    assert not refused([0, b"".join(marks[:-1])], seven)
    assert refused([0, b"".join(marks)], seven)
    assert not refused([0, b"\0\1\0"], nine)
    assert refused([0, b"\0\1\0\0\2"], nine), "the second set is cut off"
    went = [[node(20 + place), b"", b""] for place in range(MAX_CHANGES + 1)]
    assert not refused([0, b"", *[part for change in went[1:] for part in change]], seven)
    assert refused([0, b"", *[part for change in went for part in change]], seven)
    assert not refused([0, b"", b"", node(1), b""], nodes(1, 2))
    assert refused([0, b"", b"", node(1), b""], nodes(1)), "nobody was there before"


def test_the_record_is_part_of_what_votes_are_bound_to() -> None:
    head = first()
    one_way, other = after(head, nodes(1, 2)), after(head, nodes(1, 3))
    assert one_way.digest != other.digest
    assert attrs.evolve(one_way, record=Record()).digest != one_way.digest
