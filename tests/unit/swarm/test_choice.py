"""The first instance of a height: who may propose what, and who votes for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest

from qres_core import Envelope, Fault, NodeId, RoundStatus, Standing
from qres_core.swarm.agreement.choice import WAIVED, KnownSets, refusal
from qres_core.swarm.ledger.chain import SILENT
from qres_core.swarm.ledger.messages import CandidateSet, Member, Proposal, encode_vote
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.roster import RosterChange

LIAR = 1  # proposes round 1
HONEST = (0, 2, 3)


def statuses(net: Any, index: int) -> list[RoundStatus]:
    return [ended.outcome.status for ended in net.nodes[index].ended]


def staged(harness: ModuleType, **more: Any) -> Any:
    """Round 1 with the contributions of all but the liar, who is about to propose."""
    net = harness.Net(4, byzantine=1, puppets=(LIAR,), **more)
    net.wait_for_all()
    net.start()
    net.run(seconds=0.5)
    return net


def made(net: Any) -> CandidateSet:
    held = net.machine(0).contributions
    pairs = sorted((sender, item.digest) for sender, item in held.items())
    return CandidateSet(1, tuple(Member(sender, digest) for sender, digest in pairs))


def propose(net: Any, candidate: CandidateSet, to: Sequence[int] = HONEST) -> None:
    """The liar proposes and votes for it."""
    head = net.machine(0).head.digest
    payload = Proposal(candidate).to_bytes()
    net.inject(net.forge(LIAR, "choice/proposal", payload, number=1, model=head), to)
    vote = net.vote(LIAR, "choice/prevote", candidate.digest(head), number=1, model=head)
    net.inject(vote, to)


# ── own views ─────────────────────────────────────────────────────────────────────────────────────


def dissent(harness: ModuleType, bans: dict[int, set[int]], *, reputation: bool = True) -> Any:
    """Nodes that ban others by themselves, where every set needs everybody."""
    net = harness.Net(4, byzantine=1, quorum=4)
    for index, against in bans.items():
        kernel = net.machine(index).kernel
        has, whom = kernel.has, {net.ids[other] for other in against}

        def standing(sender: NodeId, whom: set[NodeId] = whom) -> Standing:
            return Standing(banned=sender in whom)

        def with_reputation(hook: str, has: Any = has) -> bool:
            return hook == "reputation" or has(hook)

        object.__setattr__(kernel, "standing", standing)
        if reputation:
            object.__setattr__(kernel, "has", with_reputation)
    return net


def test_what_few_have_against_a_member_is_waived_after_some_attempts(harness: ModuleType) -> None:
    """Two honest nodes ban a member that the others do not: no set would ever get a quorum."""
    net = dissent(harness, {0: {3}, 2: {3}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=60.0)
    ended = statuses(net, 1)
    assert ended[: WAIVED + 1] == [RoundStatus.ABORTED] * WAIVED + [ended[WAIVED]]
    assert ended.index(RoundStatus.CLOSED) >= WAIVED
    assert len(net.nodes[1].ended[-1].outcome.members) == 4
    reasons = {e.outcome.reason for e in net.nodes[0].ended if e.outcome.reason}
    assert "set-names-banned" in reasons
    assert not net.forks()


def test_objections_against_more_than_can_lie_are_never_waived(harness: ModuleType) -> None:
    net = dissent(harness, {0: {1, 3}, 2: {1, 3}})
    net.start()
    net.run(seconds=60.0)
    assert net.steps() == [0, 0, 0, 0]


def test_without_reputations_nothing_is_waived(harness: ModuleType) -> None:
    net = dissent(harness, {0: {3}, 2: {3}}, reputation=False)
    net.start()
    net.run(seconds=60.0)
    assert net.steps() == [0, 0, 0, 0]


def test_a_single_objection_costs_nothing(harness: ModuleType) -> None:
    net = dissent(harness, {0: {3}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=3.0)
    assert statuses(net, 0)[0] is RoundStatus.CLOSED


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────


def test_evidence_in_a_decided_set_bans_from_the_next_height(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,))
    net.start()
    head = net.machine(0).head
    for choice in (None, b"\x01" * 32):
        net.inject(net.vote(3, "choice/prevote", choice, number=1, model=head.digest), [0, 1, 2])
    net.run(seconds=0.1)
    assert all(net.ids[3] in net.machine(index)._pool for index in range(3))
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 1)
    for index in range(3):
        assert net.machine(index).head.bans == (net.ids[3],)
        (link,) = net.machine(index)._history.recent.values()
        assert [item.subject for item in link.chosen.evidence] == [net.ids[3]]
        assert link.head.bans == ()
    before = len(net.nodes[0].ended)
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 8)
    assert not net.forks([0, 1, 2])
    # It neither proposes nor holds anybody up any more, and what it says is not taken.
    assert set(statuses(net, 0)[before:]) == {RoundStatus.CLOSED}
    assert net.ids[3] not in net.machine(0).head.proposers
    number, head = net.machine(0).number, net.machine(0).head
    net.inject(net.vote(3, "choice/prevote", None, number=number, model=head.digest), [0])
    net.run(seconds=0.005)
    assert net.ids[3] not in net.machine(0)._height.choice.engine.tally(number, 1).votes
    assert all(not net.machine(index)._pool for index in range(3))


def test_a_set_that_names_who_the_swarm_banned_is_refused(harness: ModuleType) -> None:
    net = harness.Net(7, byzantine=2, puppets=(LIAR, 3))
    honest = (0, 2, 4, 5, 6)
    net.start()
    head = net.machine(0).head.digest
    for choice in (None, b"\x01" * 32):
        net.inject(net.vote(3, "choice/prevote", choice, number=1, model=head), honest)
    machine = net.machine(0)

    def is_the_liars_turn() -> bool:
        turn = machine.proposer(machine.number) == net.ids[LIAR]
        return bool(machine.head.bans and turn and len(machine.contributions) == 5)

    assert net.run(until=is_the_liars_turn)
    number, digest = machine.number, machine.head.digest
    held = {sender: item.digest for sender, item in machine.contributions.items()}
    held[net.ids[3]] = b"\x66" * 32
    members = tuple(Member(sender, held[sender]) for sender in sorted(held))
    payload = Proposal(CandidateSet(number, members)).to_bytes()
    net.inject(net.forge(LIAR, "choice/proposal", payload, number=number, model=digest), honest)
    net.run(seconds=0.01)
    assert {net.nodes[index].refused["set-names-stranger"] for index in honest} == {1}
    assert machine._height.choice.engine.proposal(number) is None


def lies(net: Any) -> dict[str, tuple[Misbehaviour, ...]]:
    """Evidence, the first of which proves something."""
    head = net.machine(0).head.digest

    def votes(sender: int, *, head: bytes = head, key: int | None = None) -> list[Envelope]:
        return [
            net.forge(sender, "choice/prevote", encode_vote(c), number=1, model=head, key=key)
            for c in (None, b"\x01" * 32)
        ]

    def conflict(pair: list[Envelope]) -> tuple[Misbehaviour, ...]:
        return (Misbehaviour.of(Fault.EQUIVOCATION, *pair),)

    first, second = votes(3)
    again = net.forge(3, "choice/prevote", encode_vote(None), number=1, model=head)
    return {
        "proven": conflict(votes(3)),
        "forged": conflict(votes(3, key=LIAR)),
        "not signed": conflict([first.with_auth({}), second.with_auth({})]),
        "of no head that is known": conflict(votes(3, head=b"\x66" * 32)),
        "the same twice": conflict([first, again]),
        "of other kinds": conflict(
            [first, net.forge(3, "choice/precommit", second.payload, number=1, model=head)]
        ),
        "no fault": (Misbehaviour.of(Fault.MALFORMED_PAYLOAD, first),),
    }


LIES = (
    "proven", "forged", "not signed", "of no head that is known", "the same twice",
    "of other kinds", "no fault",
)  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_evidence_that_proves_nothing_makes_a_proposal_invalid(
    harness: ModuleType, case: str
) -> None:
    net = staged(harness)
    cases = lies(net)
    assert tuple(cases) == LIES
    propose(net, attrs.evolve(made(net), evidence=cases[case]))
    net.run(seconds=0.2)
    if case == "proven":  # the control
        assert {machine.machine.head.bans for machine in net.live} == {(net.ids[3],)}
    else:
        assert {net.nodes[index].refused["unproven-change"] for index in HONEST} == {1}
        assert net.steps() == [0, 0, 0]
        assert net.run(until=lambda: min(net.steps()) >= 1)
        assert net.machine(0).head.bans == ()


# ── changes of the members ────────────────────────────────────────────────────────────────────────


def signed(
    harness: ModuleType, net: Any, change: RosterChange, by: Sequence[int], key: int | None = None
) -> RosterChange:
    return change.signed(
        harness.sign(net.ids[index if key is None else key], change.statement(net.ids[index], 0))
        for index in by
    )


def changes(harness: ModuleType, net: Any) -> dict[str, RosterChange]:
    """Changes, the first of which is fine."""
    roster = net.machine(0).head.roster
    add = roster.change("ward", "add", b"\x77" * 32)
    later = attrs.evolve(roster, epoch=1).change("ward", "add", b"\x77" * 32)
    return {
        "fine": signed(harness, net, add, [0, 1, 2]),
        "nobody's": add,
        "of too few": signed(harness, net, add, [0, 1]),
        "forged": signed(harness, net, add, [0, 1, 2], key=LIAR),
        "of a later roster": signed(harness, net, later, [0, 1, 2, 3]),
        "of another swarm": signed(
            harness, net, roster.change("bed", "add", b"\x77" * 32), [0, 1, 2, 3]
        ),
        "impossible": signed(
            harness, net, roster.change("ward", "remove", net.ids[3]), [0, 1, 2, 3]
        ),
    }


CHANGES = (
    "fine", "nobody's", "of too few", "forged", "of a later roster", "of another swarm",
    "impossible",
)  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_that_is_not_wanted_or_impossible_makes_a_proposal_invalid(
    harness: ModuleType, case: str
) -> None:
    net = staged(harness)
    cases = changes(harness, net)
    assert tuple(cases) == CHANGES
    head = net.machine(0).head
    propose(net, attrs.evolve(made(net), change=cases[case]))
    net.run(seconds=0.2, until=lambda: min(net.steps()) >= 1)
    if case == "fine":  # the control
        for index in HONEST:
            assert b"\x77" * 32 in net.machine(index).head.roster
            assert net.machine(index).head.previous == head.digest
    else:
        assert {net.nodes[index].refused["unproven-change"] for index in HONEST} == {1}
        assert net.steps() == [0, 0, 0]


def test_signatures_that_a_liar_strips_from_a_locked_change_stop_nobody(
    harness: ModuleType,
) -> None:
    """The digest of a set does not cover them. Node 2 gets the set stripped, and must propose it.

    Its proof is the quorum that prevoted for it: honest ones of them looked at the signatures.
    """
    net = staged(harness)
    head = net.machine(0).head.digest
    change = changes(harness, net)["fine"]
    candidate = attrs.evolve(made(net), change=change)
    bare = attrs.evolve(candidate, change=attrs.evolve(change, signatures=()))
    assert bare.digest(head) == candidate.digest(head)
    propose(net, candidate, to=[0, 3])
    net.run(seconds=0.2)
    # Nodes 0 and 3 prevoted for it, and with the liar's vote are locked; node 2 knows of none.
    value = candidate.digest(head)
    assert net.machine(0)._height.choice.engine.lock is not None
    votes = tuple(
        net.vote(index, "choice/prevote", value, number=1, model=head) for index in (0, 1, 3)
    )
    payload = Proposal(bare, 1, votes).to_bytes()
    net.inject(net.forge(LIAR, "choice/lock", payload, number=1, model=head), [2])
    vote = net.vote(LIAR, "choice/precommit", None, number=1, model=head)
    net.inject(vote, HONEST)
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=20.0)
    assert not net.forks(HONEST)
    proposed = [m for m in net.sent if m.kind == "choice/proposal" and m.sender == 2]
    assert Proposal.from_bytes(proposed[0].envelope.payload, 4).candidate.change is not None
    for index in HONEST:
        assert b"\x77" * 32 in net.machine(index).head.roster
        assert not [e for e in net.nodes[index].witness.evidence if e.against]


# ── proposers ─────────────────────────────────────────────────────────────────────────────────────


def test_a_member_that_is_silent_for_long_costs_no_rounds_any_more(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,))
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= SILENT, seconds=120.0)
    early = len(net.nodes[0].ended)
    assert RoundStatus.ABORTED in statuses(net, 0)
    assert net.machine(0).head.missed[3] == SILENT
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= SILENT + 9, seconds=120.0)
    assert RoundStatus.ABORTED not in statuses(net, 0)[early + 1 :]
    assert not net.forks([0, 1, 2])


def test_a_proposal_of_a_round_out_of_reach_leaves_nothing_behind(harness: ModuleType) -> None:
    net = staged(harness)
    machine = net.machine(0)
    turns = [n for n in range(2, 400) if machine.proposer(n) == net.ids[LIAR]]
    head = machine.head.digest
    for number in turns:
        for standing in (1, 2):
            members = tuple(attrs.evolve(m, standing=standing) for m in made(net).members)
            payload = Proposal(CandidateSet(number, members)).to_bytes()
            sent = net.forge(LIAR, "choice/proposal", payload, number=number, model=head)
            net.inject(sent, [0])
    net.run(seconds=0.001)
    assert len(turns) > 90
    assert not machine._height.choice.known_sets.known
    assert not machine._height.choice.known_sets.proposed
    assert not machine._pool


def test_a_proposal_of_who_is_not_the_proposer_is_refused_and_proves_its_lie(
    harness: ModuleType,
) -> None:
    net = staged(harness)
    head = net.machine(0).head.digest
    assert net.machine(0).proposer(2) != net.ids[LIAR]
    payload = Proposal(attrs.evolve(made(net), origin=2)).to_bytes()
    net.inject(net.forge(LIAR, "choice/proposal", payload, number=2, model=head), [0])
    net.run(seconds=0.001)
    machine = net.machine(0)
    assert machine._height.choice.engine.proposal(2) is None
    assert net.nodes[0].refused["not-the-proposer"] == 1
    assert net.ids[LIAR] in machine._pool


@pytest.mark.parametrize("voters", [(0, 1, 3), (0, 3)])
def test_a_proposal_with_a_lock_needs_the_votes_of_a_quorum_for_it(
    harness: ModuleType, voters: tuple[int, ...]
) -> None:
    """Node 2 proposes next. Without the votes anybody could have a set judged as if it had them."""
    net = harness.Net(4, byzantine=1, puppets=(1, 2))
    net.start()
    net.run(seconds=0.2)
    head = net.machine(0).head.digest
    candidate = CandidateSet(1, tuple(Member(who, bytes(32)) for who in net.ids[:3]))
    value = candidate.digest(head)
    votes = tuple(net.vote(by, "choice/prevote", value, number=1, model=head) for by in voters)
    payload = Proposal(candidate, 1, votes).to_bytes()
    net.inject(net.forge(2, "choice/proposal", payload, number=2, model=head), [0])
    net.run(seconds=0.001)
    proven = len(voters) == 3  # the control
    assert (net.machine(0)._height.choice.engine.proposal(2) is not None) is proven
    assert net.nodes[0].refused["unproven-lock"] == (0 if proven else 1)


@pytest.mark.parametrize("member", [True, False])
def test_who_has_no_vote_accepts_nothing_and_asks_nobody(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    member: bool,  # noqa: FBT001 - True is the control
) -> None:
    net = staged(harness)
    machine, whole = net.machine(0), made(net)
    candidate = attrs.evolve(whole, members=whole.members[1:])  # both of them were drawn
    asked: list[object] = []
    monkeypatch.setattr(
        machine._height.choice._opinions, "ask", lambda *given: asked.append(given) or ""
    )
    if not member:
        roster = attrs.evolve(machine.head.roster, members=net.ids[1:], byzantine=0)
        machine._context.head = attrs.evolve(machine.head, roster=roster, missed=bytes(3))
    value, merger = candidate.digest(machine.head.digest), machine._height.choice.merger
    assert machine._height.choice._accepts(candidate, value, merger, net.now) is member
    assert bool(asked) is member


def test_a_set_that_names_who_was_not_drawn_is_not_accepted(harness: ModuleType) -> None:
    net = harness.Net(7, byzantine=2, quorum=3, options={"participants": 4})
    net.start()
    machine = net.machine(0)
    drawn = sorted(machine._context.drawn(1))
    idle = next(who for who in net.ids if who not in drawn)
    for senders, fits in ((drawn, True), (sorted([*drawn[1:], idle]), False)):
        candidate = CandidateSet(1, tuple(Member(sender, bytes(32)) for sender in senders))
        merger: Any = SimpleNamespace(admits=lambda _members: True)
        said = refusal(machine._context, merger, candidate, lambda _judge: "")
        assert said == ("" if fits else "it names a member that was not drawn to train")


def test_what_is_proposed_of_a_round_that_is_near_is_kept_and_the_rest_forgotten() -> None:
    forgotten: list[bytes] = []
    engine: Any = SimpleNamespace(
        is_near=lambda number: number > 5, values=frozenset(), forget=forgotten.append
    )
    sets = KnownSets(b"head", engine, SimpleNamespace(complete=lambda _set: True))  # type: ignore[arg-type]
    old, near = (sets.know(CandidateSet(number, ())) for number in (3, 7))
    sets.proposed = {3: {old: None}, 7: {near: None}}  # type: ignore[dict-item]
    sets.forget_old()
    assert (list(sets.proposed), list(sets.known), forgotten) == ([7], [near], [old])
