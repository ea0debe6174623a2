"""Attacks on agreement that once worked, each with the control that shows it works unguarded.

Each was found on whole nodes within the promised f: a refused set that stopped a swarm, a lock that
was given up, bans that only some nodes knew of, a coordinator that heard of no lock, certificates
that cost others time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from types import ModuleType
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from qres_core import (
    Claims,
    Evidence,
    Fault,
    NodeId,
    NodeInfo,
    RoundInfo,
    RoundStatus,
    Standing,
    Updates,
    Vector,
    hookimpl,
)
from qres_core.builtin.mean import weighted_mean
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import ValueRefusedError
from qres_core.kernel.discovery import Installed
from qres_core.swarm.agreement import choice as choosing
from qres_core.swarm.agreement.choice import Choice
from qres_core.swarm.agreement.instances import Instance
from qres_core.swarm.agreement.outcome import OutcomeVote
from qres_core.swarm.consensus.engine import Decide
from qres_core.swarm.ledger.messages import (
    CERTIFICATE,
    FETCHED,
    OUTCOME_PRECOMMIT,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    CandidateSet,
    Certificate,
    Member,
    Proposal,
    contribution_digest,
    decode_vote,
    encode_vote,
)
from qres_core.swarm.ledger.results import Result, Void

CODE = "QRES-E508"


@attrs.define
class Moody:
    """The mean, but it refuses every third set: the same ones on every node."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        if round_info.height % 3 == 1:
            raise ValueRefusedError.of(CODE, "moody", "not this one")
        return weighted_mean(updates.vectors, updates.weights)


@attrs.define
class Pivot:
    """The mean, but it refuses a set without the first node of the roster."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        if updates.senders[0] != round_info.roster[0]:
            raise ValueRefusedError.of(CODE, "pivot", "the pivot is not in the set")
        return weighted_mean(updates.vectors, updates.weights)


@attrs.define
class Grudge:
    """Bans whom the test names, by node: what a node alone holds against others."""

    bans: ClassVar[dict[NodeId, set[NodeId]]] = {}
    _own: NodeId = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        banned = sender in self.bans.get(self._own, ())
        return Standing(0, banned=True) if banned else Standing()

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        del evidence


@pytest.fixture(scope="module", name="harness")
def with_rules(harness: ModuleType) -> ModuleType:
    """The harness, with the plugins above beside its own."""
    for plugin, factory in {"moody": Moody, "pivot": Pivot, "grudge": Grudge}.items():
        harness.INSTALLED[plugin] = Installed.local(plugin, factory)
    return harness


def rounds_that_ended(net: Any, index: int) -> Counter[RoundStatus]:
    return Counter(ended.outcome.status for ended in net.nodes[index].ended)


# ── a refused set ─────────────────────────────────────────────────────────────────────────────────


def test_a_refused_set_costs_one_height(harness: ModuleType) -> None:
    net = harness.Net(5, byzantine=1, aggregate="moody")
    net.start()
    assert net.run(until=lambda: min(net.machine(i).head.height for i in range(5)) >= 30)
    assert not net.forks()
    for index in range(5):
        ended = net.nodes[index].ended[:30]
        void = [
            at
            for at, ended_round in enumerate(ended)
            if ended_round.outcome.status is RoundStatus.VOID
        ]
        assert void == list(range(1, 30, 3)), "no height more than the rule refused"
        assert {ended[at].outcome.code for at in void} == {CODE}
        assert net.machine(index).step >= 20
        assert not net.nodes[index].refused


def test_where_a_refusal_is_no_outcome_one_stops_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: nobody says that there is no model."""
    found = OutcomeVote.found

    def silent(self: OutcomeVote, result: Result, now: float) -> None:
        if not isinstance(result, Void):
            found(self, result, now)

    monkeypatch.setattr(OutcomeVote, "found", silent)
    net = harness.Net(5, byzantine=1, aggregate="moody")
    net.start()
    net.run(seconds=20)
    assert net.steps() == [1] * 5


# ── a lock that is given up ───────────────────────────────────────────────────────────────────────

LIAR = 1


def chosen_by(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, dict[NodeId, set[bytes]]]:
    """The sets that nodes decide, by head."""
    decided: dict[bytes, dict[NodeId, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    take = Choice._decided

    def note(self: Choice, action: Decide, now: float) -> None:
        decided[self._head][self._context.node_id].add(action.value)
        take(self, action, now)

    monkeypatch.setattr(Choice, "_decided", note)
    return decided


def play_an_old_certificate(net: Any) -> None:
    """One liar has a set decided that the rule refuses, and shows its certificate again later.

    In the round after it, nodes 0, 2 and 3 lock another set. Node 2 decides that, and its
    precommit is late for 0 and 3, to whom the liar hands the old certificate meanwhile.
    """
    ids = net.ids

    def rule(message: Any) -> Any:
        late = message.round == 2 and message.kind == PRECOMMIT
        if late and message.receiver in (0, 3) and message.sender == 2:
            return [(2.0, message.frame)]
        slow = message.sender == 2 and message.receiver in (0, 3) and message.now > at[0]
        return [(2.0, message.frame)] if slow and message.kind == CERTIFICATE else None

    at = [float("inf")]
    net.rule = rule
    net.start()
    net.run(seconds=0.2)
    head = net.machine(0).head.digest
    made = {
        message.envelope.sender: message.envelope
        for message in net.sent
        if message.kind == "contribution" and message.round == 1
    }
    update = harness_update(net, LIAR)
    own = net.forge(LIAR, "contribution", update, number=1, model=head)
    net.inject(own, [0, 2, 3])
    made[ids[LIAR]] = own
    named = [ids[1], ids[2], ids[3]]
    members = tuple(Member(who, contribution_digest(made[who])) for who in sorted(named))
    refused = CandidateSet(1, members)
    value = refused.digest(head)
    proposal = Proposal(refused).to_bytes()
    net.inject(net.forge(LIAR, PROPOSAL, proposal, number=1, model=head), [0, 2, 3])
    for kind in (PREVOTE, PRECOMMIT):
        said = net.forge(LIAR, kind, encode_vote(value), number=1, model=head)
        net.inject(said, [0, 2, 3], delay=0.05)
    net.run(seconds=0.5)
    votes = {
        message.envelope.sender: message.envelope
        for message in net.sent
        if message.kind == PRECOMMIT
        and message.round == 1
        and decode_vote(message.envelope.payload) == value
    }
    assert len(votes) == 3, "the set was decided"
    certificate = Certificate(refused, 1, tuple(votes[who] for who in sorted(votes))).to_bytes()
    at[0] = net.now
    for delay in np.arange(0.0, 3.0, 0.05):
        for receiver in (0, 3):
            now = net.machine(receiver)
            for about in {head, now.head.digest}:
                told = net.forge(LIAR, CERTIFICATE, certificate, number=2, model=about)
                net.inject([told][0], [receiver], delay=float(delay))
        for who in named:
            quoted = net.forge(LIAR, FETCHED, made[who].to_bytes(), number=2, model=head)
            net.inject(quoted, [0, 3], delay=float(delay) + 0.01)
    net.run(seconds=30.0)


def harness_update(net: Any, index: int) -> bytes:
    from qres_core.swarm.ledger.messages import ContributionBody  # noqa: PLC0415

    del net
    vector = np.array([index * 1000, 7, 1], dtype=np.int32)
    return ContributionBody(1, vector).to_bytes()


def test_an_old_certificate_of_a_refused_set_leads_nobody_astray(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = chosen_by(monkeypatch)
    net = harness.Net(4, byzantine=1, puppets=[LIAR], aggregate="pivot", quorum=3)
    play_an_old_certificate(net)
    honest = [0, 2, 3]
    assert not net.forks(honest)
    assert min(net.steps(honest)) >= 3
    assert not any(net.nodes[index].diverged for index in honest)
    for by_node in decided.values():
        assert len(set.union(*by_node.values())) == 1, "one set at each head"
    statuses = rounds_that_ended(net, 0)
    assert statuses[RoundStatus.VOID] == 1, "the refused set cost one height"


def test_nodes_that_give_up_a_lock_on_their_own_decide_two_sets(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a node that cannot merge lets go of its lock and tries another set."""
    decided = chosen_by(monkeypatch)

    def give_up(self: OutcomeVote, result: Result, now: float) -> None:
        if isinstance(result, Void):
            machine = machines[self._context.node_id]
            machine._context.kernel.rejections["gave up"] += 1
            machine._open_height(machine.number + 1, now)
            return
        found(self, result, now)

    found = OutcomeVote.found
    monkeypatch.setattr(OutcomeVote, "found", give_up)
    # The harness would notice a second set by itself.
    monkeypatch.setattr(harness.Notebook, "record_chosen", lambda *_arguments: None)
    net = harness.Net(4, byzantine=1, puppets=[LIAR], aggregate="pivot", quorum=3)
    machines = {node.node_id: node.machine for node in net.live}
    play_an_old_certificate(net)
    assert any(len(set.union(*by_node.values())) > 1 for by_node in decided.values())


# ── bans that only some know of ───────────────────────────────────────────────────────────────────


def models_beside_split_bans(harness: ModuleType, bans: dict[int, int], seconds: float) -> int:
    """Models of seven nodes; two of them contribute and do not vote, and some others ban one."""
    liars = (5, 6)

    def rule(message: Any) -> Any:
        mute = message.kind.startswith(("choice/", "outcome/", CERTIFICATE))
        return () if message.sender in liars and mute else None

    net = harness.Net(7, byzantine=2, rule=rule, plugins={"grudge": {}}, quorum=5)
    Grudge.bans.clear()
    Grudge.bans.update({net.ids[who]: {net.ids[whom]} for who, whom in bans.items()})
    net.start()
    net.run(seconds=seconds, events=10**7)
    assert not net.forks(range(5))
    Grudge.bans.clear()
    return min(net.steps(range(5)))


@pytest.mark.long
def test_two_liars_that_each_have_one_victim_do_not_stop_the_swarm(harness: ModuleType) -> None:
    quiet = models_beside_split_bans(harness, {}, 300)
    split = models_beside_split_bans(harness, {0: 5, 1: 6}, 300)
    assert quiet > 50
    assert 3 * split >= quiet


def test_a_voter_that_waives_nothing_lets_two_liars_stop_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control, for a short time."""
    assert models_beside_split_bans(harness, {0: 5, 1: 6}, 20) > 10
    monkeypatch.setattr(choosing, "WAIVED", 10**6)
    assert models_beside_split_bans(harness, {0: 5, 1: 6}, 20) <= 3


# ── a coordinator that hears of no lock ───────────────────────────────────────────────────────────


def models_after_one_bad_round(harness: ModuleType, topology: str) -> int:
    """The proposal of round 1 is late for one node, and a liar has only node 2 lock on its set.

    It tells 0 and 1 that it voted against the set, and is silent from then on.
    """

    def rule(message: Any) -> Any:
        first = message.round == 1 and message.now < harness.START + 5
        return () if first and message.kind == PROPOSAL and message.receiver == 1 else None

    net = harness.Net(
        4, byzantine=1, puppets=[3], rule=rule, quorum=3, options={"topology": topology}
    )
    net.start()
    said = set[bytes]()

    def proposed() -> bool:
        found = [message for message in net.sent if message.kind == PROPOSAL and message.round == 1]
        said.update(message.envelope.payload for message in found)
        return bool(said)

    assert net.run(until=proposed, seconds=5)
    head = net.machine(0).head.digest
    value = Proposal.from_bytes(next(iter(said)), 4).candidate.digest(head)
    for choice, receivers in ((value, [2]), (None, [0, 1])):
        told = net.forge(3, PREVOTE, encode_vote(choice), number=1, model=head)
        net.inject(told, receivers)
    assert net.run(until=lambda: min(net.machine(at).number for at in (0, 1)) >= 2, seconds=20)
    assert net.machine(2)._height.choice.engine.lock is not None
    net.run(seconds=300, until=lambda: min(net.steps(range(3))) >= 20, events=200_000)
    assert not net.forks(range(3))
    return min(net.steps(range(3)))


@pytest.mark.parametrize("topology", ["coordinator", "gossip"])
def test_a_coordinator_hears_of_locks(harness: ModuleType, topology: str) -> None:
    assert models_after_one_bad_round(harness, topology) >= 20


def test_a_coordinator_that_is_shown_no_lock_makes_no_model(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Instance, "_show", lambda *_arguments: None)
    assert models_after_one_bad_round(harness, "coordinator") == 0


# ── bogus certificates ────────────────────────────────────────────────────────────────────────────


def signatures_checked(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    """How many quoted signatures a node checks of one liar's 200 bogus certificates."""
    net = harness.Net(4, byzantine=1, puppets=[3])
    net.start()
    net.run(seconds=0.02)
    machine = net.machine(0)
    head = machine.head.digest
    checked = [0]
    authentic = machine.kernel.authentic

    def count(*arguments: Any) -> bool:
        checked[0] += 1
        return bool(authentic(*arguments))

    monkeypatch.setattr(machine.kernel, "authentic", count)
    bogus = CandidateSet(1, tuple(Member(who, bytes(32)) for who in net.ids))
    value = bogus.digest(head)
    votes = tuple(
        net.forge(index, PRECOMMIT, encode_vote(value), number=1, model=head, key=3)
        for index in range(4)
    )
    told = Certificate(bogus, 1, votes).to_bytes()
    for at in range(200):
        net.inject(net.forge(3, CERTIFICATE, told, number=1, model=head), [0], delay=0.0001 * at)
    net.run(seconds=0.025)
    assert machine.head.digest == head
    return checked[0], net


def test_a_bogus_certificate_costs_little_and_its_sender_answers_for_it(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, net = signatures_checked(harness, monkeypatch)
    assert checked <= 4
    facts = {(item.subject, item.fact) for item in net.nodes[0].witness.evidence}
    assert (net.ids[3], Fault.UNPROVEN_CERTIFICATE) in facts


def test_a_node_that_forgets_who_lied_checks_them_all(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(set[NodeId]):
        def __contains__(self, item: object) -> bool:
            del item
            return False

    build = Instance.__init__

    def forget(self: Instance, *arguments: Any, **more: Any) -> None:
        build(self, *arguments, **more)
        self._liars = Forgetful()

    monkeypatch.setattr(Instance, "__init__", forget)
    checked, _net = signatures_checked(harness, monkeypatch)
    assert checked >= 200


# ── models that dialogues made ───────────────────────────────────────────────────────────────────


class Once:
    """A dialogue that finishes before the nodes are killed, and never again."""

    over = False
    ready = True

    def __init__(self) -> None:
        self._decided = False

    @property
    def finished(self) -> bool:
        return self._decided and not Once.over

    def start(self) -> list[Send]:
        return [Send(b"here")]

    def receive(self, message: DialogueMessage) -> list[Send]:
        del message
        return []

    def tick(self, now: float) -> list[Send]:
        del now
        return []

    def decided(self, *_agreed: Any) -> list[Send]:
        self._decided = True
        return []


def models_after_a_power_cut(swarm: ModuleType, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """All nodes stop when they have voted for a model, and before it is decided."""

    def open_one(own: NodeId, info: RoundInfo) -> Once:
        del own, info
        return Once()

    held = [True]

    def rule(message: Any) -> Any:
        return () if held[0] and message.kind == OUTCOME_PRECOMMIT else None

    Once.over = False
    patch.setattr(swarm.Talk, "script", staticmethod(open_one))
    net = swarm.Net(4, byzantine=1, plugins={"talk": {}}, rule=rule)
    net.start()
    net.run(seconds=0.4)
    assert all(net.machine(index)._height.outcome.engine.lock is not None for index in range(4))
    Once.over = True
    for index in range(4):
        net.restart(index)
    held[0] = False
    net.run(seconds=40)
    heads = [net.machine(index).head for index in range(4)]
    assert len({head.digest for head in heads if head.height == heads[0].height}) == 1
    return min(head.height for head in heads), min(net.steps())


def test_a_model_that_was_voted_for_survives_a_power_cut(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights, models = models_after_a_power_cut(harness, monkeypatch)
    assert models == 1, "what was locked became the model"
    assert heights > 1, "and the swarm goes on, in void heights here"


def test_a_model_that_is_not_written_down_stops_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: nodes are locked on a model that nobody has any more."""
    monkeypatch.setattr(harness.Notebook, "record_made", lambda *_arguments: None)
    assert models_after_a_power_cut(harness, monkeypatch) == (0, 0)
