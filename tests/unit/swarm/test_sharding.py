"""Sharded rounds of a whole swarm: the same model, bit for bit, whatever ``f`` liars do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import Envelope, NodeId, RoundInfo, RoundStatus, Update
from qres_core.swarm.mean import weighted_mean
from qres_core.swarm.merkle import leaf_hash
from qres_core.swarm.messages import CandidateSet, contribution_digest, encode_vote
from qres_core.swarm.shard_messages import (
    ASK,
    HELD,
    PART,
    PULL,
    RESULT,
    SHARD_MERGED,
    ContributionHeader,
    MergedShard,
    ShardPart,
    decode_held,
    decode_shard_results,
    encode_held,
    encode_shard_results,
    held_name,
)
from qres_core.swarm.shards import ShardPlan

SHARDED = {"aggregation": "sharded"}
D = 50
LIAR = 1


def varied(index: int, info: RoundInfo) -> Update:
    """A random vector, over all of the grid; the same in each round of a height."""
    rng = np.random.default_rng([index, info.height])
    wide = rng.integers(-(2**31) + 1, 2**31, info.dimension, dtype=np.int64)
    return Update(wide.astype(np.int32), weight=1 + index)


def swarm(harness: ModuleType, nodes: int, f: int, d: int = D, **more: Any) -> Any:
    more = {"options": {**SHARDED, "weight_cap": 5}, "train": varied, **more}
    return harness.Net(nodes, byzantine=f, initial=range(d), **more)


def plain(harness: ModuleType, nodes: int, f: int, d: int = D, **more: Any) -> Any:
    return swarm(harness, nodes, f, d, **{"options": {"weight_cap": 5}, **more})


def played(net: Any, models: int = 2, honest: Sequence[int] | None = None) -> Any:
    net.start()
    assert net.run(until=lambda: min(net.steps(honest)) >= models), net.steps(honest)
    assert not net.forks(honest)
    assert_right(net, honest)
    return net


def assert_right(net: Any, honest: Sequence[int] | None = None) -> None:
    """Every model is what the members' own updates merge to, computed here from whole vectors."""
    for node in net.nodes if honest is None else [net.nodes[index] for index in honest]:
        for ended in node.ended:
            outcome = ended.outcome
            if outcome.status is not RoundStatus.CLOSED or ended.merged is None:
                continue
            who = [net.index_of[member] for member in outcome.members]
            updates = [varied(index, outcome.round_info) for index in who]
            weights = np.array([min(5, update.weight) for update in updates], dtype=np.int64)
            rows = np.stack([update.vector for update in updates])
            expected = weighted_mean(rows, weights)
            if net.aggregate == "nearest":
                expected = rows[net.machine(0).kernel.enabled[-1].instance.of(rows.tolist())]
            assert ended.merged.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("nodes", "f", "d"), [(4, 1, D), (4, 0, D), (7, 2, D), (7, 2, 3), (10, 3, 97), (1, 0, 5)]
)
@pytest.mark.parametrize("rule", ["mean", "nearest"])
def test_a_sharded_swarm_makes_the_models_of_one_where_all_merge_all(
    harness: ModuleType, nodes: int, f: int, d: int, rule: str
) -> None:
    there = played(plain(harness, nodes, f, d, aggregate=rule))
    here = played(swarm(harness, nodes, f, d, aggregate=rule))
    for step in (1, 2):
        (expected,) = {node.notebook.models[step] for node in there.nodes}
        assert {node.notebook.models[step] for node in here.nodes} == {expected}
    assert not any(node.refused for node in here.nodes)


def test_a_node_downloads_f_plus_2_vectors_and_not_one_of_each_other_node(
    harness: ModuleType,
) -> None:
    nodes, f, d = 10, 2, 30_000

    def downloaded(net: Any) -> tuple[Counter[int], Counter[tuple[int, str]]]:
        played(net, 1)
        octets: Counter[int] = Counter()
        kinds: Counter[tuple[int, str]] = Counter()
        for message in net.sent:
            if message.envelope.round == 1:
                octets[message.receiver] += len(message.frame)
                kinds[message.receiver, message.kind] += len(message.envelope.payload)
        return octets, kinds

    whole, _kinds = downloaded(plain(harness, nodes, f, d))
    octets, kinds = downloaded(swarm(harness, nodes, f, d))
    for node in range(nodes):
        assert whole[node] > (nodes - 1) * 4 * d
        assert octets[node] < 1.05 * (f + 2) * 4 * d
        parts = (f + 1) * (nodes - 1) / nodes * 4 * d  # of the others' contributions
        pulled = (nodes - f - 1) / nodes * 4 * d  # of the model: the rest it merged itself
        assert parts < kinds[node, PART] < 1.02 * parts
        assert pulled < kinds[node, RESULT] < 1.02 * pulled
        assert not kinds[node, "fetch-model"]


# ── liars ─────────────────────────────────────────────────────────────────────────────────────────

Lie = Callable[[Any, Envelope, int], Sequence[bytes] | None]
"""What a liar says in place of a message to a node; ``None`` for what it would say."""


@attrs.frozen
class Lying:
    """A rule by which some nodes lie, each with its own key."""

    net: Any
    liars: Sequence[int]
    lie: Lie

    def __call__(self, message: Any) -> Any:
        if message.sender not in self.liars:
            return None
        said = self.lie(self.net, message.envelope, message.receiver)
        if said is None:
            return None
        frames = [again(self.net, message.envelope, payload) for payload in said]
        return [(0.01, frame) for frame in frames]


def again(net: Any, envelope: Envelope, payload: bytes) -> bytes:
    """A message with another payload, signed by its sender."""
    index = net.index_of[envelope.sender]
    made = net.forge(index, envelope.kind, payload, number=envelope.round, model=envelope.head)
    octets: bytes = made.to_bytes()
    return octets


def plan_of(net: Any, envelope: Envelope) -> ShardPlan:
    members = net.machine(0).roster
    return ShardPlan.of(envelope.head, members, net.f, len(net.initial))


def silent(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Contributes, and does nothing for its committees."""
    mute = envelope.kind in {HELD, SHARD_MERGED, RESULT, ASK, PULL}
    return () if mute else None


def says_garbage(_net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Says a wrong digest of each shard, another one to each node."""
    if envelope.kind != SHARD_MERGED:
        return None
    chosen, results = decode_shard_results(envelope.payload, 1000)
    wrong = {index: leaf_hash(bytes([to, index])) for index in results}
    return (encode_shard_results(chosen, wrong),)


def refuses(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that the rule refused the set."""
    if envelope.kind != SHARD_MERGED:
        return None
    chosen, results = decode_shard_results(envelope.payload, 1000)
    return (encode_shard_results(chosen, dict.fromkeys(results, "QRES-E505")),)


def serves_nothing(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that it holds all, and what is right, and gives nothing of it to anybody."""
    if envelope.kind == "contribution":
        net.own.add(contribution_digest(envelope))
    if envelope.kind == RESULT:
        return ()
    if envelope.kind == PART:
        part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
        return None if part.contribution in net.own else ()
    return None


def serves_garbage(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Gives out bent shards of the model."""
    if envelope.kind != RESULT:
        return None
    made = MergedShard.from_bytes(envelope.payload, 1000, 2**20)
    bent = bytes([made.octets[0] ^ 1]) + bytes(made.octets[1:])
    return (MergedShard(made.chosen, made.index, bent).to_bytes(),)


def wrong_root(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Signs a header that its shards do not belong to."""
    if envelope.kind == "contribution":
        header = ContributionHeader.from_bytes(envelope.payload)
        payload = ContributionHeader(header.weight, leaf_hash(header.root)).to_bytes()
        signed = attrs.evolve(envelope, payload=payload)
        net.bent[contribution_digest(envelope)] = contribution_digest(signed)
        return (payload,)
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
    named = net.bent.get(part.contribution, part.contribution)
    return (attrs.evolve(part, contribution=named).to_bytes(),)


def two_stories(_net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives each node other shards."""
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
    bent = bytes([part.octets[0] ^ (1 + to)]) + bytes(part.octets[1:])
    return (attrs.evolve(part, octets=bent).to_bytes(),)


def serves_some(_net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives its shards to one node alone."""
    return () if envelope.kind == PART and to else None


def claims_all(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that it holds all of everything, whether or not it does."""
    if envelope.kind != HELD:
        return None
    seats = len(plan_of(net, envelope).seats(envelope.sender))
    held = decode_held(envelope.payload, seats, 1000)
    return (encode_held(dict.fromkeys(held, (1 << seats) - 1)),)


def whispers_holdings(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Says what it holds to those that could step in for it, and to nobody who would miss it."""
    if envelope.kind == "contribution":
        net.sender_of[held_name(contribution_digest(envelope))] = envelope.sender
    if envelope.kind != HELD:
        return None
    plan, peer = plan_of(net, envelope), net.ids[to]
    seats = plan.seats(envelope.sender)
    told = sum(1 << place for place, index in enumerate(seats) if peer in plan.committees[index])
    held = decode_held(envelope.payload, len(seats), 1000)
    masks = {
        name: mask if net.sender_of.get(name) == peer else mask & told
        for name, mask in held.items()
    }
    return (encode_held(masks),)


def whispers_results(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Says what shards merge to, and that is right, only to those that could step in for it."""
    if envelope.kind != SHARD_MERGED:
        return None
    plan = plan_of(net, envelope)
    chosen, results = decode_shard_results(envelope.payload, 1000)
    told = {index: it for index, it in results.items() if net.ids[to] in plan.committees[index]}
    return (encode_shard_results(chosen, told),) if told else ()


def serves_f(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives its shards to ``f`` honest members, and tells the proposer alone that it holds them."""
    if envelope.kind == "contribution":
        net.own.add(contribution_digest(envelope))
    plan, liars = plan_of(net, envelope), [net.ids[index] for index in net.rule.liars]
    if envelope.kind == PART:
        part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
        honest = [who for who in plan.committees[part.index] if who not in liars]
        served = honest[: net.f] if part.contribution in net.own else honest
        return None if net.ids[to] in served else ()
    if envelope.kind == HELD and net.ids[to] != net.machine(0).proposer(envelope.round):
        seats = len(plan.seats(envelope.sender))
        held = decode_held(envelope.payload, seats, 1000)
        own = {held_name(digest) for digest in net.own}
        return (encode_held({name: mask for name, mask in held.items() if name not in own}),)
    return None


LIES: dict[str, Lie] = {
    lie.__name__: lie
    for lie in (
        silent, says_garbage, refuses, serves_nothing, serves_garbage, wrong_root, two_stories,
        serves_some, claims_all, whispers_holdings, whispers_results, serves_f,
    )
}  # fmt: skip
LEFT_OUT = {"wrong_root", "serves_some", "two_stories", "silent", "serves_f"}
"""Those whose contributions the others may not be able to have. Who is silent is one of them: it
counts itself among those that hold its shards, and nobody else does."""


@pytest.mark.parametrize("lie", ["silent", "says_garbage", "refuses", "serves_garbage"])
def test_liars_change_no_model_of_a_rule_that_compares_whole_updates(
    harness: ModuleType, lie: str
) -> None:
    """They lie about the inner products of their shards too."""
    honest = [0, 2, 3]
    net = swarm(harness, 4, 1, aggregate="nearest")
    net.rule = Lying(net, [LIAR], LIES[lie])
    played(net, 2, honest)
    assert {who for node in honest for who in accused(net, node)} <= {net.ids[LIAR]}


@cache
def quiet_seconds(harness: ModuleType, nodes: int, f: int) -> float:
    """How long three models take where nobody lies."""
    return float(played(swarm(harness, nodes, f), 3).now - harness.START)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("nodes", "f"), [(4, 1), pytest.param(7, 2, marks=pytest.mark.long)])
def test_liars_change_no_model_and_cost_a_timeout_a_height_at_most(
    harness: ModuleType, nodes: int, f: int, lie: str
) -> None:
    liars = range(LIAR, LIAR + f)
    honest = [index for index in range(nodes) if index not in liars]
    net = swarm(harness, nodes, f)
    net.own, net.bent, net.sender_of = set(), {}, {}
    net.rule = Lying(net, liars, LIES[lie])
    started = net.now
    played(net, 3, honest)
    aborted = 0
    for index in honest:
        for ended in net.nodes[index].ended:
            if ended.outcome.status is RoundStatus.ABORTED:  # only for what a liar proposed
                proposer = net.machine(index).proposer(ended.outcome.round_info.number)
                assert net.index_of[proposer] in liars
                assert lie in LEFT_OUT
                aborted += index == honest[0]
                continue
            assert ended.outcome.status is RoundStatus.CLOSED
            members = {net.index_of[member] for member in ended.outcome.members}
            assert members >= {*honest}
            if lie not in LEFT_OUT:
                assert members == {*range(nodes)}
    extra = (net.now - started) - quiet_seconds(harness, nodes, f)
    # A sender that serves too few is waited for until the deadline, as one that sends nothing.
    waits = harness.DEADLINE if lie in LEFT_OUT else harness.VOTE_TIMEOUT
    lost = aborted * 2 * (harness.DEADLINE + harness.VOTE_TIMEOUT)
    assert extra < 3 * (waits + harness.VOTE_TIMEOUT / 2) + lost
    blamed = net.nodes[0].refused
    expected = {
        "says_garbage": "wrong-shard",
        "refuses": "wrong-shard",
        "two_stories": "unproven-contribution",
        "wrong_root": "unproven-contribution",
    }
    if lie in expected:
        assert blamed[expected[lie]] > 0
    assert {who for node in honest for who in accused(net, node)} <= {net.ids[i] for i in liars}


def accused(net: Any, index: int) -> set[NodeId]:
    """Whom a node's plugins were told evidence against."""
    return {item.subject for item in net.nodes[index].witness.evidence if item.against}


def is_right(net: Any) -> bool:
    """Whether the honest of four nodes made two models, and right ones."""
    try:
        assert_right(net, [0, 2, 3])
    except AssertionError:
        return False
    return bool(min(net.steps([0, 2, 3])) >= 2)


def unproven(*_arguments: object) -> bool:
    return True


def test_one_word_for_enough_would_let_a_liar_make_the_model(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the guard is ``f + 1`` equal digests, one of which is an honest node's."""

    def makes_up(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        plan = plan_of(net, envelope)
        if envelope.kind == SHARD_MERGED:
            chosen, results = decode_shard_results(envelope.payload, 1000)
            zeros = {index: leaf_hash(bytes(plan.octets(index))) for index in results}
            return (encode_shard_results(chosen, zeros),)
        if envelope.kind == RESULT:
            made = MergedShard.from_bytes(envelope.payload, 1000, 2**20)
            zeros_of = MergedShard(made.chosen, made.index, bytes(len(made.octets)))
            return (zeros_of.to_bytes(),)
        return None

    def lied_to() -> Any:
        net = swarm(harness, 4, 1)
        net.rule = Lying(net, [LIAR], makes_up)
        net.start()
        net.run(until=lambda: min(net.steps([0, 2, 3])) >= 2, seconds=20)
        return net

    assert is_right(lied_to())
    monkeypatch.setattr(ShardPlan, "enough", 1)
    assert not is_right(lied_to())


def test_without_the_proofs_of_shards_two_stories_split_the_committees(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: members that hold different shards of one contribution find different digests."""
    net = swarm(harness, 4, 1)
    net.rule = Lying(net, [LIAR], two_stories)
    monkeypatch.setattr("qres_core.swarm.shard_gathering.proves_leaf", unproven)
    net.start()
    net.run(until=lambda: min(net.steps([0, 2, 3])) >= 2, seconds=20)
    assert not is_right(net)


@pytest.mark.parametrize(
    ("lie", "guard"),
    [
        (whispers_holdings, "shard_gathering.ShardGathering._miss"),
        (whispers_results, "shard_phase.ShardPhase._miss"),
    ],
)
def test_if_nobody_complained_whispering_liars_would_stop_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, lie: Lie, guard: str
) -> None:
    """Control: who hears enough does not step in, so who hears too little has to say so."""

    def silence(*_arguments: object) -> None:
        pass

    monkeypatch.setattr(f"qres_core.swarm.{guard}", silence)
    net = swarm(harness, 7, 2)
    net.own, net.sender_of = set(), {}
    net.rule = Lying(net, [1, 2], lie)
    net.start()
    honest = [0, 3, 4, 5, 6]
    assert not net.run(until=lambda: min(net.steps(honest)) >= 2, seconds=10)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_member_keeps_what_it_said_it_holds_though_it_did_not_see_the_votes(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Others lock the set of round 1, and node 0 goes to round 2 without a sign of that."""
    usual = "contribution", "shard/", "choice/proposal"
    net = swarm(harness, 4, 1)

    def rule(message: Any) -> Any:
        kind, to_me = message.kind, message.receiver == 0
        if message.sender == LIAR and message.round == 1 and kind.startswith("choice/pre"):
            return [(0.01, again(net, message.envelope, encode_vote(None)))]
        if message.sender == LIAR and (message.round > 1 or not kind.startswith(usual)):
            return ()
        late = message.sender == 3 and kind == "choice/prevote" and message.round == 1
        return () if to_me and (late or kind == "choice/lock") else None

    def nothing(*_arguments: object) -> list[CandidateSet]:
        return []

    if not guarded:
        monkeypatch.setattr("qres_core.swarm.known_sets.KnownSets.since", nothing)
    net.rule = rule
    net.start()
    assert net.run(until=lambda: net.machine(0).number == 2)
    machine = net.machine(0)
    (chosen,) = machine._choice.known_sets.known.values()
    assert not machine._choice.proven_sets()
    parts = machine._parts.collector.sharding.parts
    seats = plan_of(net, net.sent[0].envelope).seats(net.ids[0])
    served = [i for i in seats if net.ids[0] in parts._plan.serving(i)]
    assert served
    assert guarded is not any(parts.missing(chosen.members, index) for index in served)
