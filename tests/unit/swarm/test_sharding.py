"""Sharded rounds of a whole swarm: the same model, bit for bit, whatever ``f`` liars do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import Envelope, NodeId, RoundInfo, RoundStatus, Update
from qres_core.builtin.mean import weighted_mean
from qres_core.errors import HookError
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.ledger.merkle import leaf_hash
from qres_core.swarm.ledger.messages import contribution_digest, encode_vote
from qres_core.swarm.ledger.results import UNFINISHED, Void
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.shards.availability import Statements
from qres_core.swarm.shards.committees import CutVector, ShardPlan, pack_shard
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    ASK,
    HELD,
    PART,
    PULL,
    RESULT,
    SHARD_MERGED,
    ContributionHeader,
    HeldBlock,
    MergedShard,
    ShardPart,
    block_digest,
    decode_held,
    decode_shard_results,
    encode_ask,
    encode_held,
    encode_pull,
    encode_shard_results,
    held_name,
)
from qres_core.swarm.shards.missed import MissedShards
from qres_core.swarm.shards.phase import ShardPhase
from qres_core.swarm.shards.tallies import Holders

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
            instances = {it.name: it.instance for it in net.machine(0).kernel.enabled}
            if "tamed" in instances:
                squares = [sum(x * x for x in row) for row in rows.tolist()]
                rows = instances["tamed"].of(rows, squares.index(max(squares)))
            expected = weighted_mean(rows, weights)
            if net.aggregate == "nearest":
                expected = rows[instances["nearest"].of(rows.tolist())]
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


@pytest.mark.parametrize(("nodes", "f", "d"), [(4, 1, D), (7, 2, 3), (10, 3, 97)])
@pytest.mark.parametrize("rule", ["mean", "nearest"])
def test_a_wrapper_that_compares_whole_updates_changes_nothing_of_that(
    harness: ModuleType, nodes: int, f: int, d: int, rule: str
) -> None:
    """What it hands on is rounded, and the rule behind it is given the products of just that."""
    options = {"aggregate": rule, "plugins": {"tamed": {}}}
    there = played(plain(harness, nodes, f, d, **options))
    here = played(swarm(harness, nodes, f, d, **options))
    for step in (1, 2):
        (expected,) = {node.notebook.models[step] for node in there.nodes}
        assert {node.notebook.models[step] for node in here.nodes} == {expected}
    assert not any(node.refused for node in here.nodes)


@pytest.mark.parametrize(
    ("wrapper", "code"),
    [
        ({"uneven": {}}, "QRES-E502"),
        ({"twice": {}}, "QRES-E702"),
        ({"twice": {"times": 0}}, "QRES-E702"),
    ],
    ids=str,
)
def test_a_wrapper_that_breaks_its_word_makes_no_model_and_nobody_is_to_blame(
    harness: ModuleType, wrapper: dict[str, Any], code: str
) -> None:
    net = swarm(harness, 4, 1, aggregate="nearest", plugins=wrapper)
    net.start()
    assert net.run(until=lambda: all(node.ended for node in net.nodes))
    for index, node in enumerate(net.nodes):
        assert node.ended[0].outcome.code == code
        assert not accused(net, index)


def test_a_node_downloads_f_plus_2_vectors_and_not_one_of_each_other_node(
    harness: ModuleType,
) -> None:
    nodes, f, d = 9, 2, 30_000

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


def held_of(net: Any, envelope: Envelope) -> dict[bytes, int]:
    """What a statement says, by name: as its sender means it."""
    plan = plan_of(net, envelope)
    seats, members = len(plan.seats(envelope.sender)), net.machine(0).roster
    held, blocks = decode_held(envelope.payload, seats, 1000, len(members))
    machine = net.machine(net.index_of[envelope.sender])
    here = machine._collector.gathering.of_round(envelope.round)
    for block in blocks:
        for place, member in enumerate(members):
            if block.members >> place & 1:
                mask = sum((of >> place & 1) << seat for seat, of in enumerate(block.seats))
                held[held_name(here[member].contribution.digest)] = mask
    return held


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


def loose_shards(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Signs shards that are no encoding of anything."""
    if envelope.kind not in {"contribution", PART}:
        return None
    machine = net.machine(net.index_of[envelope.sender])
    parts = machine._collector.aggregation.parts
    cut = parts._plan.cut(parts._cut[1])
    loose = CutVector(tuple(shard + b"\0" for shard in cut.shards))
    if envelope.kind == "contribution":
        header = attrs.evolve(ContributionHeader.from_bytes(envelope.payload), root=loose.root)
        signed = attrs.evolve(envelope, payload=header.to_bytes())
        net.bent[contribution_digest(envelope)] = contribution_digest(signed)
        return (header.to_bytes(),)
    part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
    if part.contribution not in net.bent:
        return None
    named, index = net.bent[part.contribution], part.index
    return (ShardPart(named, index, loose.shards[index], loose.path(index)).to_bytes(),)


def two_stories(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives each node other shards."""
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
    plan = plan_of(net, envelope)
    numbers = plan.unpack(part.index, part.octets).copy()
    numbers[0] ^= 1 + to
    bent = pack_shard(numbers, plan.bounds(part.index)[0])
    return (attrs.evolve(part, octets=bent).to_bytes(),)


def serves_some(_net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives its shards to one node alone."""
    return () if envelope.kind == PART and to else None


def claims_all(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that it holds all of everything, whether or not it does."""
    if envelope.kind != HELD:
        return None
    seats = len(plan_of(net, envelope).seats(envelope.sender))
    held = held_of(net, envelope)
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
    held = held_of(net, envelope)
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
        held = held_of(net, envelope)
        own = {held_name(digest) for digest in net.own}
        return (encode_held({name: mask for name, mask in held.items() if name not in own}),)
    return None


def two_headers(_net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Signs another contribution for node 0, so that it means another one than the rest."""
    if envelope.kind != "contribution" or to:
        return None
    header = ContributionHeader.from_bytes(envelope.payload)
    return (ContributionHeader(header.weight, leaf_hash(header.root)).to_bytes(),)


LIES: dict[str, Lie] = {
    lie.__name__: lie
    for lie in (
        silent, says_garbage, refuses, serves_nothing, serves_garbage, wrong_root, two_stories,
        loose_shards, serves_some, claims_all, whispers_holdings, whispers_results, serves_f,
        two_headers,
    )
}  # fmt: skip
LEFT_OUT = {
    "wrong_root", "serves_some", "two_stories", "loose_shards", "silent", "serves_f", "two_headers",
}  # fmt: skip
"""Those whose contributions the others may not be able to have. Who is silent is one of them: it
counts itself among those that hold its shards, and nobody else does."""


@pytest.mark.parametrize(
    "lie", ["silent", "says_garbage", "refuses", "serves_garbage", "whispers_results"]
)
@pytest.mark.parametrize("wrappers", [{}, {"tamed": {}}], ids=["rule", "wrapper and rule"])
def test_liars_change_no_model_of_a_rule_that_compares_whole_updates(
    harness: ModuleType, lie: str, wrappers: dict[str, Any]
) -> None:
    """They lie about the inner products of their shards too."""
    honest = [0, 2, 3]
    net = swarm(harness, 4, 1, aggregate="nearest", plugins=wrappers)
    net.rule = Lying(net, [LIAR], LIES[lie])
    played(net, 2, honest)
    assert {who for node in honest for who in accused(net, node)} <= {net.ids[LIAR]}


@cache
def quiet_seconds(harness: ModuleType, nodes: int, f: int) -> float:
    """How long three models take where nobody lies."""
    return float(played(swarm(harness, nodes, f), 3).now - harness.START)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("nodes", "f"), [(4, 1), pytest.param(9, 2, marks=pytest.mark.long)])
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
        "loose_shards": "malformed-payload",
    }
    if lie in expected:
        assert blamed[expected[lie]] > 0
    assert {who for node in honest for who in accused(net, node)} <= {net.ids[i] for i in liars}


def test_small_bytes_that_claim_large_shards_are_not_unpacked_before_a_header_names_them(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made of them, and of each sender and shard one is kept, as it came."""
    d = 2**20
    net = swarm(harness, 4, 1, d=d)
    unpacked: list[int] = []
    unpack = ShardPlan.unpack

    def counted(plan: ShardPlan, index: int, octets: bytes) -> Any:
        unpacked.append(index)
        return unpack(plan, index, octets)

    monkeypatch.setattr(ShardPlan, "unpack", counted)
    net.start()
    machine = net.machine(0)
    parts = machine._collector.aggregation.parts
    cut = parts._plan.cut(np.zeros(d, dtype=np.int32))
    octets = sum(map(len, cut.shards))
    assert 4 * d > 1000 * octets
    for number in range(50):
        for index, shard in enumerate(cut.shards):
            sent = ShardPart(bytes([number]) * 32, index, shard, cut.path(index)).to_bytes()
            frame = net.forge(LIAR, PART, sent, number=1, model=machine.head.digest).to_bytes()
            machine.receive(frame, net.ids[LIAR], net.now)
    assert 0 < len(parts._waiting) <= len(cut.shards)
    assert sum(len(part.octets) for part, _envelope in parts._waiting.values()) <= octets
    assert not unpacked


def accused(net: Any, index: int) -> set[NodeId]:
    """Whom a node's plugins were told evidence against."""
    return {item.subject for item in net.nodes[index].witness.evidence if item.against}


def is_right(net: Any) -> bool:
    """Whether nodes 0, 2 and 3, which are honest, made two models, and right ones."""
    try:
        assert_right(net, [0, 2, 3])
    except AssertionError:
        return False
    return bool(min(net.steps([0, 2, 3])) >= 2)


def unproven(*_arguments: object) -> bool:
    return True


def makes_zeros(plan: ShardPlan, envelope: Envelope) -> Sequence[bytes] | None:
    """Says that all shards merge to zeros, and gives them."""
    zeros = plan.cut(np.zeros(plan.dimension, dtype=np.int32))
    if envelope.kind == SHARD_MERGED:
        chosen, results = decode_shard_results(envelope.payload, 1000)
        false = {index: zeros.leaves[index] for index in results}
        return (encode_shard_results(chosen, false),)
    if envelope.kind == RESULT:
        made = MergedShard.from_bytes(envelope.payload, 1000, 2**20)
        return (MergedShard(made.chosen, made.index, zeros.shards[made.index]).to_bytes(),)
    return None


def test_one_word_for_enough_would_let_a_liar_make_the_model(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the guard is ``f + 1`` equal digests, one of which is an honest node's."""

    def makes_up(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        return makes_zeros(plan_of(net, envelope), envelope)

    def lied_to() -> Any:
        net = swarm(harness, 4, 1)
        net.rule = Lying(net, [LIAR], makes_up)
        net.start()
        net.run(until=lambda: min(net.steps([0, 2, 3])) >= 8, seconds=20)
        return net

    assert is_right(lied_to())
    monkeypatch.setattr(ShardPlan, "enough", 1)
    assert not is_right(lied_to())


def test_a_node_makes_no_model_of_what_is_settled_and_is_no_shard(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes more than ``f`` liars. It finds none, and goes on with what a quorum found."""

    def junk(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        if envelope.kind == SHARD_MERGED:
            chosen, results = decode_shard_results(envelope.payload, 1000)
            return (encode_shard_results(chosen, dict.fromkeys(results, leaf_hash(b"junk"))),)
        if envelope.kind == RESULT:
            made = MergedShard.from_bytes(envelope.payload, 1000, 2**20)
            return (MergedShard(made.chosen, made.index, b"junk").to_bytes(),)
        return None

    monkeypatch.setattr(ShardPlan, "enough", 1)
    net = swarm(harness, 4, 1)
    net.rule = Lying(net, [LIAR, 2, 3], junk)
    net.start()
    merging, found = net.machine(0)._collector.aggregation.merging, list[Any]()
    joined = merging._all
    merging._all = lambda shards: found.append(joined(shards)) or found[-1]
    assert net.run(until=lambda: net.nodes[0].ended, seconds=60)
    assert found
    assert set(found) == {Void(UNFINISHED)}
    assert_right(net)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("first", [2, 1])
def test_a_drawn_committee_is_as_good_as_its_majority_and_those_that_serve_first(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, together: bool, first: int
) -> None:
    """Committees of three of twelve. Three liars in three of them do nothing, two in one make the
    model: that they hardly ever sit together is all that protects. So does one alone if no more
    than one serves first."""
    for module in ("kernel.sharded", "swarm.shards.committees"):
        monkeypatch.setattr(f"qres_core.{module}.is_safe", unproven)
        monkeypatch.setattr(f"qres_core.{module}.serving_first", lambda *_arguments: first)
    options = {**SHARDED, "weight_cap": 5, "shard_committee": 3}
    net = swarm(harness, 12, 3, options=options)
    head = net.machine(0).head
    plan = ShardPlan.at(head, D, 3)
    assert (len(plan), plan.enough) == (12 // first, 2)
    where: Sequence[tuple[int, int]] = ((0, 0), (0, 1), (2, 0))
    if not together:
        where = ((0, 0), (2, 0), (4, 0))
    if first == 1:  # of all shards, or of none: each member serves one first
        where = ((0, 0), (4, 0), (8, 0)) if together else ()
    liars = [net.index_of[plan.committees[shard][place]] for shard, place in where]
    honest = [index for index in range(12) if index not in liars]

    def lie(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        return makes_zeros(plan, envelope) if envelope.head == head.digest else None

    net.rule = Lying(net, liars, lie)
    net.start()
    net.run(until=lambda: min(net.steps(honest)) >= 1, seconds=20)
    if together:
        with pytest.raises(AssertionError):
            assert_right(net, honest)
    else:
        assert_right(net, honest)
        assert min(net.steps(honest)) >= 1


def test_a_node_that_decided_takes_shards_from_members_that_are_in_later_rounds(
    harness: ModuleType,
) -> None:
    """A liar proposes to two of three and lets one of them decide at once. The others decide a
    round later, and say so in all that they send."""
    net = swarm(harness, 4, 1)
    began, head = net.now, net.machine(0).head
    liar = net.index_of[head.proposer(1)]
    serving = next(it for it in ShardPlan.at(head, D).committees if net.ids[liar] in it[:2])
    told = [net.index_of[member] for member in serving if member != net.ids[liar]]
    early = told[1]  # it steps in: it serves nothing first, and has to ask for the shards
    honest = [index for index in range(4) if index != liar]
    late: list[float] = []

    def lie(message: Any) -> Sequence[Any] | None:
        if message.sender != liar:
            return None
        if message.kind in ("choice/proposal", "choice/prevote"):
            return None if message.receiver in told and message.round == 1 else ()
        if message.kind == "choice/precommit" and message.receiver == early and not late:
            late.append(message.now)
            return [(max(0.01, began + 2.35 - message.now), message.frame)]
        if message.kind in ("contribution", PART, HELD):
            return None if message.now < began + 0.5 else ()
        return ()

    net.rule = lie
    net.start()
    net.run(until=lambda: min(net.steps(honest)) >= 1, seconds=30)
    assert late
    ends = [ended.outcome for index in honest for ended in net.nodes[index].ended]
    assert not [outcome for outcome in ends if outcome.status is RoundStatus.VOID]
    assert min(net.steps(honest)) >= 1
    served = [m for m in net.sent if (m.kind, m.receiver) == (PART, early) and m.now > late[0]]
    rounds = {message.round for message in served}
    assert max(rounds) > 1, "control: it was served from a later round"
    assert_right(net, honest)


def test_what_a_liars_blocks_mean_is_not_remembered_without_end() -> None:
    members = make_node_ids(8)
    context: Any = SimpleNamespace(roster=members)
    made: Any = SimpleNamespace(contribution=SimpleNamespace(digest=bytes(32)))
    all_here: Any = SimpleNamespace(firsts=lambda _number: dict.fromkeys(members, made))
    holders = Holders(ShardPlan.of(bytes(32), members, 1, 8))
    statements = Statements(context, all_here, cast("Any", None), 1, holders)
    statements._came[1, 0] = 255
    sizes: list[int] = []
    for mask in range(1, 256):
        assert statements._contributions(HeldBlock(0, bytes(32), mask, ()), 1) is not None
        sizes.append(len(statements._meant))
    assert max(sizes) == 32
    assert sizes[:32] == list(range(1, 33)), "control: they are remembered"


def test_who_copies_the_root_of_a_node_does_not_have_it_hold_its_vector_again(
    harness: ModuleType,
) -> None:
    net = swarm(harness, 4, 1)
    net.start()
    assert net.run(until=lambda: any((m.kind, m.sender) == ("contribution", 0) for m in net.sent))
    own = next(m.envelope for m in net.sent if (m.kind, m.sender) == ("contribution", 0))
    collector = net.machine(0)._collector
    copied = net.forge(LIAR, "contribution", own.payload, number=1, model=own.head)
    assert collector._held(own, contribution_digest(own)).contribution.vector.size > 1, "control"
    assert collector._held(copied, contribution_digest(copied)).contribution.vector.size == 1


@pytest.mark.parametrize("same", [True, False])
def test_bits_about_other_contributions_than_those_here_say_nothing(
    same: bool,  # noqa: FBT001 - True is the control
) -> None:
    """A member that signed two gave one of them here, and the other to who speaks."""
    roster = tuple(sorted(make_node_ids(4)))
    digest = bytes([7]) * 32
    envelope = SimpleNamespace(sender=roster[1], round=1)
    held = SimpleNamespace(contribution=SimpleNamespace(digest=digest), envelope=envelope)
    gathering: Any = SimpleNamespace(
        firsts=lambda _number: {roster[1]: held},
        after=lambda count: [digest][count:],
        get=lambda _digest: held,
    )
    plan: Any = SimpleNamespace(seats=lambda _member: range(1))
    head: Any = SimpleNamespace(roster=Roster(roster, 1, 3))
    kernel: Any = SimpleNamespace(found=lambda _what, find: find())
    context: Any = SimpleNamespace(roster=roster, byzantine=1, head=head, kernel=kernel)
    told: list[list[int]] = []
    holders: Any = SimpleNamespace(
        take=lambda _sender, _named: None,
        bits=lambda names: [1 << 5 for _name in names],
        note=lambda _sender, seats: told.append(list(seats)),
    )
    statements = Statements(context, gathering, plan, 9, holders)
    meant = digest if same else bytes([8]) * 32
    block = HeldBlock(0, block_digest([meant]), 0b10, (0b10,))
    said = Envelope("s", HELD, 1, bytes(32), roster[2], 1, 0, encode_held({}, [block]))
    statements.take(said, 1)
    assert told == ([[1 << 5]] if same else [])
    assert (roster[2] in statements._others.get(0, ())) is not same


@pytest.mark.parametrize("guarded", [True, False])
def test_names_that_a_liar_makes_up_are_not_kept(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Of its last statement as many names as there are members wait for their contributions."""
    if not guarded:
        monkeypatch.setattr(Statements, "_take_named", lambda self, *it: self.holders.take(*it))
    net = swarm(harness, 4, 1)
    net.start()
    net.run(until=lambda: min(net.steps()) >= 1)
    machine = net.machine(0)
    parts = machine._collector.aggregation.parts
    before, most = len(parts.holders), parts._most
    for turn in range(3):
        made_up = [leaf_hash(bytes([turn, number])) for number in range(most)]
        held = encode_held({held_name(digest): 1 for digest in made_up})
        envelope = net.forge(LIAR, HELD, held, number=machine.number, model=machine.head.digest)
        parts.take_held(envelope, net.now)
        assert [*parts._statements._early] == ([net.ids[LIAR]] if guarded else [])
        assert all(len(early) == 4 for early in parts._statements._early.values())
    assert (len(parts.holders) == before) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_what_is_said_of_a_contribution_before_it_comes_counts_once_it_is_here(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Nobody says it again, and the bits of statements say nothing: two headers spoil them."""
    if not guarded:
        monkeypatch.setattr(Statements, "_wait", lambda *_arguments: None)

    def by_name(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        return (encode_held(held_of(net, envelope)),) if envelope.kind == HELD else None

    net = swarm(harness, 4, 1)
    lying = Lying(net, range(4), by_name)
    late = net.now + 0.4

    def rule(message: Any) -> Any:
        if message.kind == "contribution" and message.receiver == 0 and message.sender == LIAR:
            return [(late - message.now, message.frame)]
        return () if message.kind.startswith("choice/") else lying(message)

    net.rule = rule
    net.start()
    net.run(seconds=0.39)
    collector = net.machine(0)._collector
    parts, here = collector.aggregation.parts, net.machine(2)._collector.gathering
    digest = here.of_round(1)[net.ids[LIAR]].contribution.digest
    assert collector.gathering.get(digest) is None
    assert not parts.holders.available(digest)
    net.rule = lambda message: None if message.kind == "contribution" else ()
    net.run(until=lambda: collector.gathering.get(digest) is not None, seconds=1.0)
    assert parts.holders.available(digest) is guarded


def test_without_the_proofs_of_shards_two_stories_split_the_committees(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: members that hold different shards of one contribution find different digests."""

    def lied_to() -> Any:
        net = swarm(harness, 7, 2)
        net.rule = Lying(net, [LIAR], two_stories)
        net.start()
        net.run(until=lambda: min(net.steps([0, 2, 3])) >= 2, seconds=20)
        return net

    assert is_right(lied_to())
    monkeypatch.setattr("qres_core.swarm.shards.gathering.proves_leaf", unproven)
    assert not is_right(lied_to())


@pytest.mark.parametrize(
    ("lie", "guard"),
    [
        (whispers_holdings, "missed.MissedShards.questions"),
        (whispers_results, "phase.ShardPhase._miss"),
    ],
)
def test_if_nobody_complained_whispering_liars_would_stop_a_height(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, lie: Lie, guard: str
) -> None:
    """Control: who hears enough does not step in, so who hears too little has to say so."""

    def silence(*_arguments: object) -> dict[NodeId, object]:
        return {}

    monkeypatch.setattr(f"qres_core.swarm.shards.{guard}", silence)
    net = swarm(harness, 12, 2)  # each node is outside of the committees of most shards
    net.own, net.sender_of = set(), {}
    plan = ShardPlan.of(net.machine(0).head.digest, net.machine(0).roster, 2, D)
    liars = [net.index_of[plan.committees[index][0]] for index in (0, 2)]
    net.rule = Lying(net, liars, lie)
    net.start()
    honest = [index for index in range(12) if index not in liars]
    net.run(until=lambda: all(net.nodes[index].ended for index in honest), seconds=10)
    first = [net.nodes[index].ended[0].outcome for index in honest if net.nodes[index].ended]
    assert all(outcome.status is not RoundStatus.CLOSED for outcome in first)


@pytest.mark.parametrize("guarded", [True, False])
def test_who_means_another_contribution_than_the_rest_is_told_by_name(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The liar does not vote, so node 0 has to, and it cannot read what the others say by bits."""

    def lie(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
        votes = envelope.kind.startswith("choice/pre")
        return () if votes else two_headers(net, envelope, to)

    def nothing(*_arguments: object) -> list[bytes]:
        return []

    if not guarded:
        monkeypatch.setattr(Statements, "read_again", nothing)
        monkeypatch.setattr(ShardGathering, "_tell", nothing)
    net = swarm(harness, 4, 1)
    net.rule = Lying(net, [LIAR], lie)
    net.start()
    net.run(until=lambda: all(net.nodes[index].ended for index in (0, 2, 3)), seconds=10)
    ended = [net.nodes[index].ended for index in (0, 2, 3)]
    closed = [bool(item) and item[0].outcome.status is RoundStatus.CLOSED for item in ended]
    assert all(closed) is guarded


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

    if not guarded:
        monkeypatch.setattr(Consensus, "may_be_won", not_won)
    net.rule = rule
    net.start()
    assert net.run(until=lambda: net.machine(0).number == 2)
    machine = net.machine(0)
    (chosen,) = machine._height.choice.known_sets.known.values()
    assert not machine._height.choice.proven_sets()
    parts = machine._collector.aggregation.parts
    seats = plan_of(net, net.sent[0].envelope).seats(net.ids[0])
    served = [i for i in seats if net.ids[0] in parts._plan.serving(i)]
    assert served
    assert guarded is not any(parts.missing(chosen.members, index) for index in served)


def not_won(*_arguments: object) -> bool:
    return False


def hiding_a_lock(net: Any) -> tuple[int, int]:
    """Have one node alone lock the set of round 1, and nobody hear of it before it proposes.

    The liar prevotes for the set to that node and nil to the others. That node's prevote is
    lost to these. Proposals of the rounds between are lost. Returns the liar and the node.
    """
    proposer = net.machine(0).proposer
    liar, locked = (net.index_of[proposer(number)] for number in (2, 4))

    def rule(message: Any) -> Any:
        kind, number = message.kind, message.round
        if kind == "choice/lock" or (kind == "choice/proposal" and number in (2, 3)):
            return ()
        if number == 1 and message.receiver != locked and kind.startswith("choice/pre"):
            if message.sender == liar:
                return [(0.01, again(net, message.envelope, encode_vote(None)))]
            return () if (kind, message.sender) == ("choice/prevote", locked) else None
        return None

    net.rule = rule
    return liar, locked


@pytest.mark.parametrize("guarded", [True, False])
def test_a_set_that_one_lock_alone_remembers_for_three_rounds_is_merged(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Rounds 2 and 3 come to nothing, and round 4 decides the set of round 1."""
    if not guarded:
        monkeypatch.setattr(Consensus, "may_be_won", not_won)
    net = swarm(harness, 4, 1)
    liar, locked = hiding_a_lock(net)
    honest = [index for index in range(4) if index != liar]
    net.start()
    assert net.run(until=lambda: net.machine(locked).head.height == 1, seconds=60)
    (lock,) = {ended.outcome.round_info.number for ended in net.nodes[locked].ended[-1:]}
    assert lock == 4, "control: no earlier round decided"
    outcome = net.nodes[locked].ended[-1].outcome
    assert outcome.status is (RoundStatus.CLOSED if guarded else RoundStatus.VOID)
    assert not net.forks(honest)
    assert_right(net, honest)


def test_rounds_in_which_no_quorum_can_have_voted_leave_no_shards_behind(
    harness: ModuleType,
) -> None:
    """However many come to nothing: all prevoted nil, and every node heard it."""
    net = swarm(harness, 4, 1)
    net.rule = lambda message: () if message.kind == "choice/proposal" else None
    net.start()
    assert net.run(until=lambda: net.machine(0).number >= 5)
    for node in net.nodes:
        collector = node.machine._collector
        rounds = {held.envelope.round for held in collector.gathering._by_digest.values()}
        assert rounds <= {node.machine.number}
        assert {*collector.aggregation.parts._own} <= {*collector.gathering._by_digest}


@pytest.mark.parametrize("guarded", [True, False])
def test_more_silent_members_than_f_in_one_committee_stop_no_height(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Six of ten are there, a quorum, and all three members of a committee of ``f = 1`` are not."""
    if not guarded:
        at = ShardPlan.at

        def bare(*arguments: Any) -> ShardPlan:
            made = at(*arguments)
            committees = tuple(committee[:3] for committee in made.committees)
            return attrs.evolve(made, committees=committees)

        monkeypatch.setattr(ShardPlan, "at", bare)
    net = swarm(harness, 10, 1, quorum=6)
    head = net.machine(0).head
    proposer = net.index_of[head.proposer(1)]
    plan = ShardPlan.at(head, D)
    (away,) = [them[:3] for them in plan.committees if head.proposer(1) not in them[:3]][:1]
    silent = {net.index_of[member] for member in away}
    others = [index for index in range(10) if index not in silent]
    net.rule = lambda message: () if message.sender in silent else None
    net.start()
    net.run(until=lambda: all(net.nodes[index].ended for index in others), seconds=20)
    assert proposer in others
    ended = [net.nodes[index].ended[0].outcome for index in others]
    assert {outcome.status for outcome in ended} == {
        RoundStatus.CLOSED if guarded else RoundStatus.ABORTED
    }
    if guarded:
        assert_right(net, others)


@pytest.mark.parametrize("guarded", [True, False])
def test_one_that_asks_for_everything_has_nobody_download_more(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It asks all members for all shards and all results at once; whoever lacks them waits."""

    def greedy(net: Any, head: bytes, message: Any) -> Any:
        if message.kind == "choice/proposal":  # time enough to fetch what it asks for
            return [(0.2, message.frame)]
        if message.sender != LIAR or message.kind not in (HELD, SHARD_MERGED):
            return None
        plan, number = plan_of(net, message.envelope), message.round
        if message.kind == HELD:
            here = net.machine(LIAR)._collector.gathering.of_round(number).values()
            seats = plan.seats(net.ids[message.receiver])
            wanted = [(item.contribution.digest, index) for item in here for index in seats]
            asked = net.forge(LIAR, ASK, encode_ask(wanted), number=number, model=head)
        else:
            chosen, _results = decode_shard_results(message.envelope.payload, 1000)
            payload = encode_pull(chosen, range(len(plan)))
            asked = net.forge(LIAR, PULL, payload, number=number, model=head)
        return [(0.01, message.frame), (0.02, asked.to_bytes())]

    def downloaded(*, asks: bool) -> float:
        net = swarm(harness, 9, 2, 30_000)
        head = net.machine(0).head.digest
        net.rule = partial(greedy, net, head) if asks else None
        played(net, 1)
        octets: Counter[int] = Counter()
        for message in net.sent:
            if message.kind == PART and message.envelope.head == head:
                octets[message.receiver] += len(message.frame)
        return max(octets[index] for index in range(9) if index != LIAR)

    quiet = downloaded(asks=False)
    if not guarded:
        wanted = MissedShards.to_fetch

        def at_once(missed: Any, lacks: Any, now: float) -> Any:
            times, missed._times = missed._times, dict.fromkeys(missed._times, (now, 1))
            missed.fetch_at = now
            found = wanted(missed, lacks, now)
            missed._times = times
            return found

        monkeypatch.setattr(MissedShards, "to_fetch", at_once)
        monkeypatch.setattr(ShardPhase, "_turn", lambda *_arguments: 1)
    assert (downloaded(asks=True) <= 1.02 * quiet) is guarded


@pytest.mark.parametrize("error", [MemoryError, OSError, ValueError])
@pytest.mark.parametrize("guarded", [True, False])
def test_who_cannot_compute_a_shard_blames_nobody_and_is_not_blamed(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    *,
    guarded: bool,
) -> None:
    """A rule raises at node 0 alone. The others merge, and node 0 takes what they found."""
    if not guarded:
        monkeypatch.setattr("qres_core.swarm.shards.phase.is_own_trouble", lambda _error: False)
        monkeypatch.setattr("qres_core.swarm.shards.phase.MAY_BE_OWN", ())
    net = swarm(harness, 7, 2)
    rule = net.machine(0).kernel

    def raising(*_arguments: Any, **_named: Any) -> Any:
        made = HookError.of("QRES-E701", "plugins.mean.aggregate", "raised")
        raise made from error("of this machine alone")

    rule.aggregate_shard = raising
    played(net, 2)
    statuses = {ended.outcome.status for node in net.nodes for ended in node.ended}
    assert statuses == {RoundStatus.CLOSED}
    blamed = {who for index in range(1, 7) for who in accused(net, index)}
    assert blamed == (set() if guarded else {net.ids[0]})
    assert not accused(net, 0)


@pytest.mark.parametrize("code", ["QRES-E604", "QRES-E701"])
@pytest.mark.parametrize("guarded", [True, False])
def test_liars_that_say_with_one_node_that_a_hook_raised_have_nobody_blamed(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, code: str, *, guarded: bool
) -> None:
    """It is true of one node, so the others of its committee are right as well.

    So it is where the dialogue of one node alone did not finish: its plugin did not open the round.
    """
    if not guarded:
        monkeypatch.setattr("qres_core.swarm.shards.phase.MAY_BE_OWN", ())
    net = swarm(harness, 4, 1)
    head = net.machine(0).head
    lying, sick = (net.index_of[who] for who in ShardPlan.at(head, D).committees[0][:2])
    right = [index for index in range(4) if index not in (lying, sick)]

    def raising(*_arguments: Any, **_named: Any) -> Any:
        raise HookError.of(code, "plugins.mean.aggregate", "raised")

    def lie(_net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
        if envelope.kind != SHARD_MERGED:
            return None
        chosen, results = decode_shard_results(envelope.payload, 1000)
        return (encode_shard_results(chosen, dict.fromkeys(results, code)),)

    net.machine(sick).kernel.aggregate_shard = raising
    net.rule = Lying(net, [lying], lie)
    net.start()
    net.run(until=lambda: all(len(net.nodes[index].ended) >= 3 for index in right), seconds=60)
    blamed = {net.index_of[who] for index in right for who in accused(net, index)}
    assert (not blamed & {*right, sick}) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_a_late_liar_that_whispers_to_proposers_aborts_no_round(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Its header comes just before the proposal, and only the proposer hears that enough hold it.

    The others ask for what they hear too little of, before the round is over.
    """
    options = {**SHARDED, "weight_cap": 5, "deadline": 6.0, "vote_timeout": 1.0}
    net = swarm(harness, 4, 1, options=options)
    honest, late, own = [0, 2, 3], 5.4, set[bytes]()

    def rule(message: Any) -> Any:
        envelope = message.envelope
        if message.sender != LIAR:
            return None
        if message.kind == "contribution":
            own.add(contribution_digest(envelope))
            return [(late, message.frame)]
        if envelope.kind == PART:
            part = ShardPart.from_bytes(envelope.payload, 1000, 2**20)
            if part.contribution not in own:
                return None
            them = plan_of(net, envelope).committees[part.index]
            served = [who for who in them if net.index_of[who] != LIAR]
            to = net.ids[message.receiver]
            lies = net.ids[LIAR] in them
            return [(late, message.frame)] if to in served[: 1 if lies else 2] else ()
        proposer = net.machine(0).proposer(message.round)
        if envelope.kind == HELD and net.ids[message.receiver] != proposer:
            names = {held_name(digest) for digest in own}
            held = held_of(net, envelope)
            fewer = {name: mask for name, mask in held.items() if name not in names}
            return [(0.01, again(net, envelope, encode_held(fewer)))]
        return None

    if not guarded:
        monkeypatch.setattr(MissedShards, "_hurry", lambda *_arguments: None)
    net.rule = rule
    net.wait_for_all()
    net.start()
    net.run(until=lambda: min(net.steps(honest)) >= 2, seconds=120)
    statuses = [ended.outcome.status for ended in net.nodes[0].ended]
    assert (RoundStatus.ABORTED not in statuses) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_shards_whose_holders_fell_silent_are_given_to_others_or_in_no_set(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Both members that serve a shard say that they hold it, and are gone when it is proposed."""
    if not guarded:
        monkeypatch.setattr(Holders, "look", lambda *_arguments: False)
    net = swarm(harness, 10, 1, quorum=6, options={**SHARDED, "weight_cap": 5, "deadline": 4.0})
    head = net.machine(0).head
    proposer = head.proposer(1)
    plan = ShardPlan.at(head, D)
    gone = next(them[:2] for them in plan.committees if proposer not in them[:2])
    silent = {net.index_of[member] for member in gone}
    others = [index for index in range(10) if index not in silent]
    absent = next(index for index in others if net.ids[index] != proposer)
    start = net.now

    def rule(message: Any) -> Any:
        late = message.now > start + 0.3 and silent & {message.sender, message.receiver}
        return () if late or message.sender == absent else None

    net.rule = rule
    net.start()
    there = [index for index in others if index != absent]
    net.run(until=lambda: all(net.nodes[index].ended for index in there), seconds=40)
    held = {m.sender for m in net.sent if m.kind == HELD and m.now <= start + 0.3}
    assert held >= silent, "control: they said what they hold"
    ended = [net.nodes[index].ended[0].outcome for index in there]
    assert {outcome.status for outcome in ended} == {
        RoundStatus.CLOSED if guarded else RoundStatus.VOID
    }
    if guarded:
        assert not {net.index_of[who] for who in ended[0].members} & silent
        assert_right(net, there)
