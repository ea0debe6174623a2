"""Heads and links: who is at which head, and what proves it to whoever knows an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.chain import (
    MAX_LINKS,
    SILENT,
    Head,
    Link,
    decode_links,
    encode_links,
    follow,
    last_contributed,
    link_contributed,
    silent_since,
)
from qres_core.swarm.ledger.messages import CandidateSet, Member, encode_conclusion, encode_vote
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.results import Conclusion, Merged, Result, Void
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.ledger.unmerged_sets import Record

SWARM = "ward"


def node(index: int) -> NodeId:
    return index.to_bytes(32, "big")


def roster(n: int = 4, f: int = 1) -> Roster:
    return Roster(tuple(node(1 + place) for place in range(n)), f, n - f)


def first(members: Roster | None = None) -> Head:
    return Head.first(SWARM, b"\x05" * 32, members or roster(), b"\x09" * 32)


def chosen(
    head: Head, absent: Sequence[NodeId] = (), change: RosterChange | None = None, **more: Any
) -> CandidateSet:
    members = tuple(
        Member(member, hashlib.sha256(member).digest())
        for member in head.roster.members
        if member not in absent
    )
    return CandidateSet(head.height + 1, members, change=change, **more)


def merged(head: Head) -> Merged:
    return Merged(hashlib.sha256(head.digest).digest())


def vote(at: Head, about: Conclusion | None, sender: NodeId, number: int, **more: Any) -> Envelope:
    values = {
        "swarm": at.swarm,
        "kind": "outcome/precommit",
        "round": number,
        "head": at.digest,
        "sender": sender,
        "sequence": 7,
        "time_ms": 0,
        "payload": encode_conclusion(about),
        **more,
    }
    mark = values.pop("mark", b"good")
    return Envelope(**values).with_auth({"test": mark})


def link(
    head: Head,
    result: Result | None = None,
    candidate: CandidateSet | None = None,
    voters: Sequence[NodeId] | None = None,
    number: int = 1,
    **more: Any,
) -> Link:
    """A height that a quorum decided, if nothing else is said."""
    what = merged(head) if result is None else result
    candidate = chosen(head) if candidate is None else candidate
    about = Conclusion(candidate.digest(head.digest), what)
    voters = head.roster.members[: head.roster.threshold] if voters is None else voters
    votes = tuple(vote(head, about, sender, number, **more) for sender in voters)
    return Link(head, candidate, what, number, votes)


def plain(value: object) -> Any:
    """What comes out of a message with that in it."""
    return canonical.loads(canonical.dumps(value), max_bytes=2**20)


def good(message: Envelope, members: tuple[NodeId, ...]) -> bool:
    return message.sender in members and message.auth.get("test") == b"good"


# ── heads ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_digest_of_a_head_names_every_part() -> None:
    head = first()
    others = [
        attrs.evolve(head, swarm="bed"),
        attrs.evolve(head, height=1),
        attrs.evolve(head, step=1),
        attrs.evolve(head, model=bytes(32)),
        attrs.evolve(head, roster=roster(5)),
        attrs.evolve(head, settings=bytes(32)),
        attrs.evolve(head, previous=b"\x01" * 32),
        attrs.evolve(head, bans=(node(2),)),
        attrs.evolve(head, missed=b"\0\1\0\0"),
        attrs.evolve(head, record=Record(1)),
        attrs.evolve(head, record=Record(0, ((b"\0\7",),))),
        attrs.evolve(head, waiting=(node(2),)),
    ]
    assert len({item.digest for item in (head, *others)}) == 13
    assert Head.from_raw(plain(head.raw())) == head


def test_height_counts_what_was_decided_and_step_what_was_made() -> None:
    head = first()
    made = head.after(chosen(head), merged(head))
    void = made.after(chosen(made), Void("QRES-E604"))
    assert (made.height, made.step, made.model) == (1, 1, merged(head).model)
    assert (void.height, void.step, void.model) == (2, 1, made.model)
    assert (made.previous, void.previous) == (head.digest, made.digest)
    assert made.roster == void.roster == head.roster


def test_a_member_that_is_in_no_set_for_long_does_not_propose_until_it_is_in_one() -> None:
    head, silent = first(), node(3)
    for missed in range(SILENT + 3):
        assert head.missed[2] == min(missed, SILENT)
        assert (silent in head.proposers) == (missed < SILENT)
        assert ({head.proposer(number) for number in range(9)} == {*head.proposers}) is True
        head = head.after(chosen(head, absent=[silent]), merged(head))
    head = head.after(chosen(head), merged(head))
    assert head.missed == bytes(4)
    assert silent in head.proposers


def test_as_many_propose_as_can_lie_and_more_whoever_is_silent() -> None:
    head = first(roster(7, 2))
    alone = head.roster.members[:2]
    for _height in range(SILENT):
        head = head.after(
            chosen(head, absent=[m for m in head.roster.members if m not in alone]), merged(head)
        )
    assert head.proposers == head.roster.members  # two of seven may both lie


def test_who_is_banned_does_not_propose_although_all_are_silent() -> None:
    members = first().roster.members
    head = attrs.evolve(first(), missed=bytes([SILENT]) * 4)
    assert head.proposers == members, "control"
    assert attrs.evolve(head, bans=(members[0],)).proposers == members[1:]


def test_the_next_member_coordinates_once_the_first_is_banned() -> None:
    head, members = first(), first().roster.members
    assert head.proposer(3, coordinator=True) == members[0]
    assert attrs.evolve(head, bans=members[:2]).proposer(3, coordinator=True) == members[2]
    assert attrs.evolve(head, bans=members).proposer(3, coordinator=True) == members[0]


def lie_of(head: Head, liar: NodeId) -> tuple[Misbehaviour, ...]:
    pair = [
        Envelope(SWARM, "choice/prevote", 1, head.digest, liar, number, 0, encode_vote(said))
        for number, said in ((1, None), (2, b"\x01" * 32))
    ]
    return (Misbehaviour.of(Fault.EQUIVOCATION, *pair),)


def test_proven_misbehaviour_bans_from_the_next_height_on() -> None:
    head, liar = first(), node(2)
    evidence = lie_of(head, liar)
    after = head.after(chosen(head, evidence=evidence), merged(head))
    assert head.bans == ()
    assert after.bans == (liar,)
    assert liar not in after.proposers
    assert liar in after.roster
    assert after.after(chosen(after), Void("QRES-E604")).bans == (liar,)
    # A new key does not rid it of the ban, and who leaves takes the ban along.
    rotation = after.roster.change(SWARM, "rotate", liar, node(50))
    assert after.after(chosen(after, change=rotation), merged(after)).bans == (node(50),)
    removal = after.roster.change(SWARM, "add", node(60))
    assert after.after(chosen(after, change=removal), merged(after)).bans == (liar,)


def test_a_ban_that_waits_holds_with_the_next_model_however_many_heights_are_void() -> None:
    head, liar = first(roster(5)), node(2)
    now = head.after(chosen(head, evidence=lie_of(head, liar), waits=True), Void("QRES-E604"))
    for _void in range(3):
        assert (now.bans, now.waiting) == ((), (liar,))
        assert liar in now.proposers
        assert Head.from_raw(plain(now.raw())) == now
        now = now.after(chosen(now), Void("QRES-E508"))
    made = now.after(chosen(now), merged(now))
    assert (made.bans, made.waiting) == ((liar,), ())
    # It may hold sooner, and is of the seat.
    sooner = now.after(chosen(now, evidence=lie_of(now, liar)), Void("QRES-E508"))
    assert (sooner.bans, sooner.waiting) == ((liar,), ())
    rotation = now.roster.change(SWARM, "rotate", liar, node(50))
    rotated = now.after(chosen(now, change=rotation), Void("QRES-E508"))
    assert (rotated.bans, rotated.waiting) == ((), (node(50),))
    assert rotated.after(chosen(rotated), merged(rotated)).bans == (node(50),)
    removal = now.roster.change(SWARM, "remove", liar)
    assert now.after(chosen(now, change=removal), Void("QRES-E508")).waiting == ()
    assert now.after(chosen(now, change=removal), merged(now)).bans == ()


def test_votes_of_who_is_banned_do_not_count_in_a_link() -> None:
    head = attrs.evolve(first(), bans=(node(2),))
    assert not link(head, voters=[node(1), node(2), node(3)]).holds(good)
    assert link(head, voters=[node(1), node(3), node(4)]).holds(good)


# ── links ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_survives_the_wire() -> None:
    head = first()
    change = head.roster.change(SWARM, "add", node(9))
    for made in (
        link(head),
        link(head, Void("QRES-E508"), number=3),
        link(head, candidate=chosen(head, change=change)),
    ):
        assert Link.from_bytes(made.to_bytes()).to_bytes() == made.to_bytes()
        told = encode_links([made, made])
        assert encode_links(decode_links(told)) == told
        assert all(item.holds(good) for item in decode_links(told))


def test_a_message_has_as_many_links_as_are_allowed() -> None:
    told = encode_links([link(first())] * MAX_LINKS)
    assert len(decode_links(told)) == MAX_LINKS


@pytest.mark.parametrize("count", [0, MAX_LINKS + 1])
def test_a_message_has_some_links_and_not_too_many(count: int) -> None:
    with pytest.raises(WireError, match=r"QRES-E404 payload\.links"):
        decode_links(encode_links([link(first())] * count))


def test_a_link_with_votes_about_another_set_cannot_be_built_by_the_codec() -> None:
    made = link(first())
    raw = made.raw()
    raw[2][0] = bytes(32)
    with pytest.raises(WireError, match="expected a decision on its set"):
        Link.from_raw(plain(raw))


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.text(max_size=5),
        st.binary(max_size=70),
    ),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=25,
)


@given(values)
def test_no_value_makes_the_codecs_raise_but_a_wire_error(value: object) -> None:
    read = plain(value)
    for decode in (Head.from_raw, Link.from_raw, Conclusion.from_raw):
        with pytest.raises(WireError):
            decode(read)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_of_links_raise_but_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_links(data)


@settings(max_examples=300)
@given(st.data())
def test_a_link_whose_bytes_are_changed_says_something_else_or_is_refused(
    data: st.DataObject,
) -> None:
    made = link(first())
    octets = bytearray(encode_links([made]))
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= data.draw(st.integers(1, 255))
    try:
        others = decode_links(bytes(octets))
    except WireError:
        return
    assert encode_links(others) == bytes(octets) != encode_links([made])


@given(path=st.lists(st.integers(0, 8), min_size=1, max_size=4), value=values)
def test_a_head_with_another_value_in_it_is_another_head_or_refused(
    path: list[int], value: object
) -> None:
    head = first()
    raw = plain(head.raw())
    at = raw
    for step in path[:-1]:
        at = at[step % len(at)]
        if not isinstance(at, list) or not at:
            return
    at[path[-1] % len(at)] = value
    try:
        other = Head.from_raw(plain(raw))
    except WireError:
        return
    assert (other == head) == (canonical.dumps(other.raw()) == canonical.dumps(head.raw()))
    assert other.proposer(3) in other.roster


def tamper(head: Head) -> dict[str, Link]:
    """Links of which each lacks one thing for a quorum."""
    members = head.roster.members
    fine = link(head)
    return {
        "too few": link(head, voters=members[:2]),
        "nobody": link(head, voters=()),
        "one twice": link(head, voters=(members[0], members[1], members[1])),
        "a stranger": link(head, voters=(*members[:2], node(77))),
        "not signed": attrs.evolve(
            fine, precommits=(*fine.precommits[:2], fine.precommits[2].with_auth({}))
        ),
        "forged": link(head, mark=b"bad"),
        "another result": attrs.evolve(fine, result=Merged(bytes(32))),
        "no result": attrs.evolve(fine, result=Void("QRES-E604")),
        "another set": attrs.evolve(fine, chosen=chosen(head, absent=[members[3]])),
        "another attempt": attrs.evolve(fine, round=2),
        "of another head": attrs.evolve(fine, head=attrs.evolve(head, step=9)),
        "of another swarm": link(head, swarm="bed"),
        "prevotes": link(head, kind="outcome/prevote"),
        "for nothing": link(head, payload=encode_conclusion(None)),
    }


@pytest.mark.parametrize("case", sorted(tamper(first())))
def test_a_link_that_lacks_something_does_not_hold(case: str) -> None:
    head = first()
    assert link(head).holds(good), "control"
    assert not tamper(head)[case].holds(good)


@pytest.mark.parametrize(
    "bad",
    [
        {"mark": b"bad"},
        {"round": 2},
        {"head": bytes(32)},
        {"swarm": "bed"},
        {"kind": "choice/precommit"},
        {"payload": encode_conclusion(None)},
        {"sender": node(77)},
        {"sender": node(1)},
    ],
    ids=str,
)
def test_a_wrong_vote_is_left_out_and_the_rest_counts(bad: dict[str, Any]) -> None:
    head = first()
    fine = link(head)
    wrong = vote(head, fine.decision, bad.pop("sender", node(4)), bad.pop("round", 1), **bad)
    for place in range(4):
        votes = [*fine.precommits[:place], wrong, *fine.precommits[place:]]
        assert attrs.evolve(fine, precommits=tuple(votes)).holds(good)


def test_a_link_costs_a_check_a_member_at_most() -> None:
    checks: list[NodeId] = []

    def counted(message: Envelope, members: tuple[NodeId, ...]) -> bool:
        checks.append(message.sender)
        return good(message, members)

    head = first(roster(10, 3))
    junk = [vote(head, link(head).decision, m, 1, mark=b"bad") for m in head.roster.members]
    made = link(head, voters=head.roster.members)
    assert made.holds(counted)
    assert len(checks) == head.roster.threshold
    checks.clear()
    assert not attrs.evolve(made, precommits=tuple(junk)).holds(counted)
    assert len(checks) == 10


def test_a_link_with_an_impossible_change_does_not_hold() -> None:
    head = first()
    removal = head.roster.change(SWARM, "remove", node(1))  # four members, f = 1
    assert not link(head, candidate=chosen(head, change=removal)).holds(good)
    addition = head.roster.change(SWARM, "add", node(9))
    assert link(head, candidate=chosen(head, change=addition)).holds(good)


# ── following ─────────────────────────────────────────────────────────────────────────────────────

Wanted = Callable[[Roster], RosterChange | None]
PATH: list[Wanted] = [
    lambda _members: None,
    lambda members: members.change(SWARM, "add", node(20)),
    lambda _members: None,
    lambda members: members.change(SWARM, "rotate", node(1), node(21)),
    lambda members: members.change(SWARM, "add", node(22)),
    lambda _members: None,
    lambda members: members.change(SWARM, "remove", node(2)),
    lambda _members: None,
]
"""What each of some heights changes about the members."""


def history() -> list[Link]:
    head, made = first(), list[Link]()
    for number, wanted in enumerate(PATH):
        change = wanted(head.roster)
        result: Result = Void("QRES-E604") if number == 2 else merged(head)
        made.append(link(head, result, chosen(head, change=change)))
        head = made[-1].next
    return made


def test_the_links_that_changed_the_members_and_the_last_lead_to_the_head_of_now() -> None:
    links = history()
    changed = [item for item in links if item.chosen.change is not None]
    *_before, last = follow(roster(), [*changed, links[-1]], good)
    assert last is links[-1]
    assert last.next.roster.members == (node(3), node(4), node(20), node(21), node(22))
    assert (last.next.height, last.next.step, last.next.roster.epoch) == (8, 7, 4)
    assert follow(roster(), links, good)[-1] is links[-1]
    assert follow(links[4].head.roster, links[4:], good)[-1] is links[-1]  # from later members
    assert not follow(roster(), (), good)


@pytest.mark.parametrize("missing", [1, 3, 4, 6])
def test_a_change_that_is_left_out_leads_nowhere(missing: int) -> None:
    links = history()
    assert not follow(
        roster(), [item for place, item in enumerate(links) if place != missing], good
    )


def test_links_in_another_order_lead_nowhere() -> None:
    links = history()
    assert not follow(roster(), [links[3], links[1], links[4], links[6]], good)
    assert not follow(roster(), links[4:], good)  # its members are not known


@pytest.mark.parametrize("case", sorted(tamper(first())))
@pytest.mark.parametrize("place", [0, 1, 4, 7])
def test_a_bad_link_anywhere_spoils_the_rest(place: int, case: str) -> None:
    links = history()
    links[place] = tamper(links[place].head)[case]
    assert not follow(roster(), links, good)


def test_votes_of_members_that_left_do_not_lead_on() -> None:
    """Node 1 gave its seat away, node 2 was removed: with their old keys they decide no more."""
    links = history()
    old = [node(1), node(2), node(20)]
    late = link(links[-1].next, voters=old)
    assert not follow(roster(), [*links, late], good)
    assert follow(roster(), [*links, link(links[-1].next)], good)


def test_whoever_decides_a_roster_of_its_own_convinces_nobody() -> None:
    mine = Roster((node(1),), 0, 1)
    head = attrs.evolve(first(mine), height=7)
    assert link(head).holds(good)  # by its own members, it does
    assert not follow(roster(), [link(head)], good)


# ── what a node contributed to ────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(st.data())
def test_a_chain_says_of_no_height_that_a_node_was_in_if_it_was_not(data: st.DataObject) -> None:
    """And it says so of the last one, if that is not long ago and nothing was forgotten since."""
    me, other = node(2), node(9)
    head, kept = first(roster(6)), list[Link]()
    truth, joined = -1, 0
    for _height in range(data.draw(st.integers(0, 14), label="heights")):
        members, change = head.roster.members, None
        seat = data.draw(st.sampled_from(["", "", "", "me", "other"]), label="change")
        if seat:
            who = me if seat == "me" else other
            change = head.roster.change(SWARM, "remove" if who in members else "add", who)
        away = [node(2)] if data.draw(st.booleans(), label="away") else []
        candidate = chosen(head, absent=away, change=change)
        if any(member.sender == me for member in candidate.members):
            truth = head.height
        made = link(head, candidate=candidate)
        kept = [*(item for item in kept if item.chosen.change is not None), made]
        if me in made.next.roster and me not in head.roster:
            joined = made.next.height
        head = made.next
    found = last_contributed(head, kept, me)
    assert found <= truth
    missed = head.missed[head.roster.members.index(me)] if me in head.roster else SILENT
    if truth >= joined and missed < SILENT:
        assert found == truth
    if me in head.roster:
        since = silent_since(head, me)
        assert since > truth
        # It tells of all that there was while there are not too many heights.
        assert since == 0 or since in {truth + 1, joined, head.height - SILENT}


def test_a_link_tells_of_a_contribution_that_a_head_tells_no_more() -> None:
    head, me = first(), node(2)
    made = link(head, candidate=chosen(head, change=head.roster.change(SWARM, "add", node(9))))
    late = attrs.evolve(made.next, height=99, missed=bytes([SILENT]) * 5)
    assert last_contributed(late, (made,), me) == 0
    assert last_contributed(late, (), me) == -1, "control"


def test_a_head_tells_of_contributions_since_the_node_is_a_member_and_of_none_before() -> None:
    head, me = attrs.evolve(first(), height=3), node(2)
    add = head.roster.change(SWARM, "add", node(9))
    made = link(head, candidate=chosen(head, absent=[me], change=add))
    late = attrs.evolve(made.next, height=6, missed=b"\0\4\0\0\0")
    assert last_contributed(late, (made,), me) == 1
    without = attrs.evolve(head, roster=roster(3, 0), missed=bytes(3))
    joined = attrs.evolve(
        made, head=attrs.evolve(without, roster=Roster((node(1), node(3), node(4)), 0, 3))
    )
    assert last_contributed(late, (joined,), me) == -1


def test_a_link_tells_in_which_round_of_its_height_a_contribution_was_made() -> None:
    head, me = first(), node(2)
    made = link(head, candidate=attrs.evolve(chosen(head, absent=[node(3)]), origin=5))
    found = link_contributed((made,), me, head.height)
    assert found is made
    assert (found.chosen.origin, found.head.digest) == (5, head.digest)
    assert link_contributed((made,), me, head.height + 1) is None
    assert link_contributed((made,), node(3), head.height) is None
    assert link_contributed((), me, head.height) is None


def test_a_node_that_was_told_of_a_later_roster_claims_nothing_of_before() -> None:
    head, me = first(attrs.evolve(roster(), epoch=3)), node(2)
    late = attrs.evolve(head, height=7, missed=b"\0\0\0\0")
    assert last_contributed(late, (), me) == -1
    made = link(late)
    assert last_contributed(made.next, (made,), me) == 7
    assert last_contributed(first(), (), me) == -1
