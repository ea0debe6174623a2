"""What a set may carry beside contributions, and what a proposer puts there, check by check."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest

from qres_core import Fault
from qres_core.contract.errors import RosterError
from qres_core.errors import RoundError
from qres_core.swarm.ledger.messages import EVIDENCE_BYTES, CandidateSet, Member, encode_vote
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.unmerged_sets import EMPTY, MAX_CHANGES
from qres_core.swarm.members.amendments import Amendments, evidence_room

LIAR = 3


@pytest.fixture(name="net")
def _net(harness: ModuleType) -> Any:
    """Five members, of which the liar is a puppet."""
    net = harness.Net(5, byzantine=1, puppets=(LIAR,))
    net.start()
    return net


def amendments(net: Any) -> Amendments:
    found = net.machine(0)._height.choice._amendments
    assert isinstance(found, Amendments)
    return found


def everybody(net: Any, *absent: int) -> CandidateSet:
    there = [node_id for index, node_id in enumerate(net.ids) if index not in absent]
    return CandidateSet(1, tuple(Member(member, bytes(32)) for member in sorted(there)))


def lie(net: Any, *, signed: bool = True, key: int = LIAR, by: int = LIAR) -> Misbehaviour:
    """Two votes of the liar."""
    head = net.machine(0).head.digest
    votes = [
        net.forge(by, "choice/prevote", encode_vote(c), number=1, model=head, key=key)
        for c in (None, b"\x01" * 32)
    ]
    return Misbehaviour.of(
        Fault.EQUIVOCATION, *(vote if signed else vote.with_auth({}) for vote in votes)
    )


def merger(**does: Any) -> Any:
    """A stand-in that has no objections of its own."""
    stand_in: dict[str, Any] = {
        "admits": lambda _members: True,
        "remain": lambda members, *_given, **_more: members,
    }
    return SimpleNamespace(**{**stand_in, **does})


def refuses(*_given: object, **_more: object) -> Any:
    raise RoundError.of("QRES-E604", "test", "refused")


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────


def test_the_room_for_evidence_has_a_ceiling_of_its_own() -> None:
    assert evidence_room(4096) == 1024
    assert evidence_room(2**40) == EVIDENCE_BYTES


@pytest.mark.parametrize(("spare", "holds"), [(0, True), (-1, False)])
def test_evidence_that_fills_the_room_is_taken_and_no_more(
    net: Any, spare: int, *, holds: bool
) -> None:
    item = lie(net)
    candidate = attrs.evolve(everybody(net), evidence=(item,))
    carried = amendments(net)
    carried._room = sum(len(message.to_bytes()) for message in item.messages) + spare
    assert carried.hold(candidate, net.now) is holds


def test_what_nobody_signed_proves_nothing_where_nobody_checks_signatures(net: Any) -> None:
    """In a swarm without authenticators every message is authentic."""
    kernel = net.machine(0).kernel
    object.__setattr__(kernel, "authentic", lambda *_given: True)
    carried = amendments(net)
    assert carried.proves(lie(net), net.now), "control"
    assert not carried.proves(lie(net, signed=False), net.now)


def test_evidence_against_who_is_banned_already_is_not_carried_again(net: Any) -> None:
    """The evidence of one height proves its fault at the next, too."""
    carried, item = amendments(net), lie(net)
    assert carried.proves(item, net.now), "control"
    context = net.machine(0)._context
    carried._previous = context.head
    context.head = attrs.evolve(context.head, height=1, previous=context.head.digest)
    assert carried.proves(item, net.now), "control"
    context.head = attrs.evolve(context.head, bans=(net.ids[LIAR],))
    assert not carried.proves(item, net.now)


@pytest.mark.parametrize(("key", "kept"), [(LIAR, True), (1, False)])
def test_a_refused_message_is_kept_if_it_proves_something(
    net: Any, key: int, *, kept: bool
) -> None:
    head = net.machine(0).head.digest
    vote = net.forge(LIAR, "choice/prevote", b"?", number=1, model=head, key=key)
    amendments(net).note(Fault.MALFORMED_PAYLOAD, vote, net.now)
    assert (net.ids[LIAR] in net.machine(0)._pool) is kept


@pytest.mark.parametrize(("key", "proposed"), [(LIAR, True), (1, False)])
def test_what_is_no_proof_any_more_is_not_proposed(net: Any, key: int, *, proposed: bool) -> None:
    """Who replaced its key since did not make, for all that the others see, what it made."""
    item = lie(net, key=key)
    net.machine(0)._pool.add(item)
    found = amendments(net).added_to(everybody(net), merger(), net.now, first=True)
    assert found.evidence == ((item,) if proposed else ())


# ── leaving out those who leave ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("absent", "admits", "whole"),
    [
        ((), lambda _members: True, False),  # the control: without the liar a quorum is left
        ((0,), lambda _members: True, True),
        ((), lambda _members: False, True),
        ((), refuses, True),
    ],
)
def test_a_set_without_those_who_leave_is_proposed_if_others_would_take_it(
    net: Any, monkeypatch: pytest.MonkeyPatch, absent: tuple[int, ...], admits: Any, *, whole: bool
) -> None:
    """With the liar in it, nothing would be left to decide on."""

    def leave(_self: object, candidate: CandidateSet, _merger: object) -> bool:
        return candidate.waits or net.ids[LIAR] not in {m.sender for m in candidate.members}

    monkeypatch.setattr(Amendments, "leave_sets", leave)
    net.machine(0)._pool.add(lie(net))
    plain = everybody(net, *absent)
    found = amendments(net).added_to(plain, merger(admits=admits), net.now, first=True)
    assert (found.members == plain.members) is whole
    assert found.waits is whole


@pytest.mark.parametrize(("remain", "left"), [(None, True), (refuses, False)])
def test_where_a_plugin_refuses_to_say_what_remains_nothing_is_known_to_be_left(
    net: Any, monkeypatch: pytest.MonkeyPatch, remain: Any, *, left: bool
) -> None:
    kernel = net.machine(0).kernel
    has = kernel.has
    monkeypatch.setattr(kernel, "has", lambda hook: hook == "revealable" or has(hook))
    candidate = attrs.evolve(everybody(net), evidence=(lie(net),))
    stand_in = merger() if remain is None else merger(remain=remain)
    assert amendments(net).leave_sets(candidate, stand_in) is left
    said = amendments(net).objection(candidate, stand_in)
    assert said == (None if left else "no set would be left to decide on without those who leave")


# ── changes of the members ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("forged", [False, True])
def test_a_change_whose_signatures_are_not_authentic_any_more_is_not_proposed(
    net: Any, harness: ModuleType, *, forged: bool
) -> None:
    change = net.change("remove", 4, signers=() if forged else range(4))
    if forged:
        made = (change.statement(net.ids[index], 0) for index in range(4))
        change = change.signed(harness.sign(net.ids[LIAR], statement) for statement in made)
    net.hand_over(change, [0])
    found = amendments(net).added_to(everybody(net), merger(), net.now, first=True)
    assert (found.change is None) is forged


@pytest.mark.parametrize("why", ["", "plugins", "too many changes"])
def test_a_change_that_others_would_refuse_is_not_proposed(net: Any, why: str) -> None:
    machine = net.machine(0)
    net.hand_over(net.change("remove", 4, signers=range(4)), [0])
    if why == "plugins":
        object.__setattr__(machine.kernel, "refusals", lambda *_given: ("too few",))
    if why == "too many changes":
        record = attrs.evolve(EMPTY, changes=((b"", bytes(32)),) * MAX_CHANGES)
        machine._context.head = attrs.evolve(machine.head, record=record)
        with pytest.raises(RosterError, match="QRES-E607"):
            machine.head.changed(net.change("remove", 4))
    found = amendments(net).added_to(everybody(net), merger(), net.now, first=True)
    assert (found.change is None) is bool(why)
    objected = amendments(net).objection(
        attrs.evolve(everybody(net), change=net.change("remove", 4)), merger()
    )
    assert bool(objected) is (why == "plugins")
