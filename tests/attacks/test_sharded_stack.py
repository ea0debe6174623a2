"""Liars in sharded rounds with masks and proofs: whatever they do, no other sum and no other model.

A whole swarm on a virtual clock, in which one of seven nodes lies with its own key. What honest
nodes merge is computed here from their own updates. Each guard is taken out once, and the lie that
it is for then works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Final

import attrs
import numpy as np
import pytest
from qres_secagg.client import Client
from qres_zk import aggregate as zk_aggregate
from qres_zk.statement import columns_of

from qres_core import Envelope, RoundInfo, RoundStatus, Update, Vector
from qres_core.builtin.mean import weighted_mean
from qres_core.kernel.discovery import scan
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.ledger.merkle import leaf_hash
from qres_core.swarm.ledger.messages import contribution_digest, encode_vote
from qres_core.swarm.shards.committees import ShardPlan, pack_shard
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    PART,
    RESULT,
    SHARD_MERGED,
    MergedShard,
    ShardPart,
    decode_shard_results,
    encode_shard_results,
)
from qres_core.swarm.shards.sums import encode_sums

NODES: Final = 7
LIAR: Final = 1
HONEST: Final = [0, 2, 3, 4, 5, 6]
D: Final = 100
MASKED: Final = {"secagg": {"bound": 64.0, "patience": 0.2}}
PROVED: Final = {"zk": {"bound": 64.0, "k": 256, "security": 40}}
SEVERAL: Final = 2
"""Models that the swarm makes."""


def small(index: int, info: RoundInfo) -> Update:
    """An update of a node, the same in each round of a height."""
    rng = np.random.default_rng([index, info.height])
    return Update(rng.integers(-(2**16), 2**16, info.dimension).astype(np.int32))


def swarm(
    harness: ModuleType, *tables: dict[str, Any], aggregation: str = "sharded", d: int = D
) -> Any:
    for name in ("secagg", "zk"):
        harness.INSTALLED[name] = scan()[name]
    plugins = {name: table for tables_of in tables for name, table in tables_of.items()}
    options = {"aggregation": aggregation, "deadline": 4.0}
    net = harness.Net(
        NODES, byzantine=1, initial=range(d), options=options, plugins=plugins, train=small
    )
    net.own, net.zeros = set(), {}
    return net


Lie = Callable[[Any, Envelope, int], Sequence[bytes] | None]
"""What the liar says in place of a message to a node; ``None`` for what it would say."""


@attrs.frozen
class Lying:
    """One node lies by a rule."""

    net: Any
    lie: Lie

    def __call__(self, message: Any) -> Any:
        if message.sender != LIAR:
            return None
        said = self.lie(self.net, message.envelope, message.receiver)
        return None if said is None else [(0.01, self._again(message, it)) for it in said]

    def _again(self, message: Any, payload: bytes) -> bytes:
        signed, head = message.envelope, message.envelope.head
        made = self.net.forge(LIAR, signed.kind, payload, number=signed.round, model=head)
        return bytes(made.to_bytes())


def played(net: Any, lie: Lie | None = None, seconds: float = 300.0) -> Any:
    """Play until the honest nodes made the models, or the time is over."""
    net.rule = None if lie is None else Lying(net, lie)
    net.start()
    net.run(until=lambda: min(net.steps(HONEST)) >= SEVERAL, seconds=seconds)
    assert not net.forks(HONEST)
    return net


def is_right(net: Any) -> bool:
    """Whether the models were made, and each of what its members' own updates merge to."""
    return merges_only_what_was_given(net) and min(net.steps(HONEST)) >= SEVERAL


def merges_only_what_was_given(net: Any) -> bool:
    """Whether each model that was made is of what its members' own updates merge to."""
    for index in HONEST:
        for ended in net.nodes[index].ended:
            outcome, merged = ended.outcome, ended.merged
            if outcome.status is not RoundStatus.CLOSED or merged is None:
                continue
            who = [net.index_of[member] for member in outcome.members]
            rows = np.stack([small(each, outcome.round_info).vector for each in who])
            if merged.tolist() != weighted_mean(rows, np.ones(len(who), np.int64)).tolist():
                return False
    return True


def members(net: Any) -> list[set[int]]:
    """Who was in the sets that made models, as an honest node saw it."""
    outcomes = [ended.outcome for ended in net.nodes[0].ended]
    closed = [outcome for outcome in outcomes if outcome.status is RoundStatus.CLOSED]
    return [{net.index_of[member] for member in outcome.members} for outcome in closed]


def accused(net: Any) -> set[int]:
    """Whom the plugins of honest nodes were told evidence against."""
    told = (item for index in HONEST for item in net.nodes[index].witness.evidence)
    return {net.index_of[item.subject] for item in told if item.against}


@pytest.mark.parametrize("tables", [(MASKED,), (PROVED,), (PROVED, MASKED)], ids=str)
def test_a_sharded_swarm_makes_the_models_of_one_where_all_merge_all(
    harness: ModuleType, tables: Iterable[dict[str, Any]]
) -> None:
    there = played(swarm(harness, *tables, aggregation="everyone"))
    here = played(swarm(harness, *tables))
    assert is_right(here)
    for step in range(1, SEVERAL + 1):
        models = {node.notebook.models[step] for net in (here, there) for node in net.nodes}
        assert len(models) == 1
    assert not any(node.refused for node in here.nodes)


def test_a_node_downloads_f_plus_1_masked_vectors_and_the_sums(harness: ModuleType) -> None:
    d = 20_000
    downloaded = Counter[tuple[int, str]]()
    for message in played(swarm(harness, MASKED, d=d)).sent:
        if message.envelope.round == 1:
            downloaded[message.receiver, message.kind] += len(message.envelope.payload)
    shard = 4 * d / (NODES // 2)  # bytes; f + 1 = 2 members serve each, and one member serves none
    for node in range(NODES):
        own = 1 if downloaded[node, PART] else 0  # shards that it opened itself
        parts, sums = own * (NODES - 1) * shard, 4 * d - own * shard
        assert parts <= downloaded[node, PART] <= 1.02 * parts
        # A sum of seven updates below 2**16 takes 19 bits and a sign.
        assert sums * 19 / 32 < downloaded[node, RESULT] < 1.04 * sums * 20 / 32
        assert not downloaded[node, "fetch-model"]
        every = sum(size for (who, _kind), size in downloaded.items() if who == node)
        assert every < 1.2 * 3 * 4 * d  # with the dialogue's messages
    assert sum(1 for node in range(NODES) if downloaded[node, PART]) == NODES - NODES % 2


# ── committees ────────────────────────────────────────────────────────────────────────────────────


def made_up(net: Any, index: int) -> bytes:
    """Sums of a shard that nobody has."""
    return encode_sums(np.zeros((1, net.plan.width(index)), dtype=np.int64))


def plan_of(net: Any, envelope: Envelope) -> ShardPlan:
    machine = net.machine(0)
    run = machine.kernel.shard_run(D)
    return ShardPlan.of(envelope.head, machine.roster, net.f, D, run=run)


def sums_garbage(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that all sums are zero, and gives out zeros."""
    net.plan = plan_of(net, envelope)
    if envelope.kind == SHARD_MERGED:
        chosen, results = decode_shard_results(envelope.payload, NODES)
        zeros = {index: leaf_hash(made_up(net, index)) for index in results}
        return (encode_shard_results(chosen, zeros),)
    if envelope.kind == RESULT:
        made = MergedShard.from_bytes(envelope.payload, NODES, 2**20)
        octets = made_up(net, made.index)
        return (MergedShard(made.chosen, made.index, octets).to_bytes(),)
    return None


def two_stories(net: Any, envelope: Envelope, to: int) -> Sequence[bytes] | None:
    """Gives each node another masked shard."""
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, NODES, 2**20)
    plan = plan_of(net, envelope)
    numbers = plan.unpack(part.index, part.octets).copy()
    numbers[0] ^= 1 + to
    bent = pack_shard(numbers, plan.bounds(part.index)[0])
    return (attrs.evolve(part, octets=bent).to_bytes(),)


def withholds(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Signs a header, and gives its shards to nobody."""
    if envelope.kind == "contribution":
        net.own.add(contribution_digest(envelope))
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, NODES, 2**20)
    return () if part.contribution in net.own else None


def holds_and_withholds(net: Any, envelope: Envelope, _to: int) -> Sequence[bytes] | None:
    """Says that it holds all and what is right, and gives nothing to anybody but its own shards."""
    if envelope.kind == "contribution":
        net.own.add(contribution_digest(envelope))
    if envelope.kind == RESULT:
        return ()
    if envelope.kind != PART:
        return None
    part = ShardPart.from_bytes(envelope.payload, NODES, 2**20)
    return None if part.contribution in net.own else ()


@pytest.mark.parametrize("lie", [sums_garbage, two_stories, withholds, holds_and_withholds])
def test_no_lie_about_shards_changes_a_sum_or_opens_another(harness: ModuleType, lie: Lie) -> None:
    net = played(swarm(harness, MASKED), lie)
    assert is_right(net)
    assert accused(net) <= {LIAR}
    left_out = lie in (two_stories, withholds)
    assert all(set(HONEST) <= who and (LIAR in who) is not left_out for who in members(net))
    if lie is sums_garbage:
        assert accused(net) == {LIAR}
        assert net.nodes[0].refused["wrong-shard"] > 0


def test_one_word_for_enough_would_let_a_member_make_up_the_sums(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the guard is ``f + 1`` equal digests, one of which is an honest node's."""
    monkeypatch.setattr(ShardPlan, "enough", 1)
    assert not is_right(played(swarm(harness, MASKED), sums_garbage, seconds=30))


def test_proofs_of_sums_leave_a_member_nothing_to_make_up_even_then(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every node compares the sums with the commitments: no model is better than a wrong one."""
    monkeypatch.setattr(ShardPlan, "enough", 1)
    net = swarm(harness, PROVED, MASKED)
    net.rule = Lying(net, sums_garbage)
    net.start()

    def refusals() -> list[bool]:
        ended = (net.nodes[index].ended for index in HONEST)
        return [any(item.outcome.code == "QRES-E508" for item in items) for items in ended]

    # The liar's word must come before a true one: not every committee lets it.
    assert net.run(until=lambda: all(refusals()))
    assert merges_only_what_was_given(net)


def test_without_the_paths_of_shards_two_stories_would_split_the_sums(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: members with different masked shards of one contribution open different sums."""
    monkeypatch.setattr("qres_core.swarm.shards.gathering.proves_leaf", lambda *_arguments: True)
    assert not is_right(played(swarm(harness, MASKED), two_stories, seconds=30))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_states_no_set_with_an_input_that_it_did_not_mask(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """As where all merge all: it compares all coordinates of its own contribution."""
    net = swarm(harness, MASKED)
    victim, other = net.machine(0), net.machine(0).kernel.prove

    def another(update: Update, info: RoundInfo) -> dict[str, bytes]:
        sharding = victim._collector.aggregation
        cut = sharding.parts.cut

        def bent(payload: bytes) -> Any:
            header, shards = cut(payload)
            vector = sharding.parts.own_vector(shards.root).copy()
            vector[0] ^= 1
            shards = sharding.parts._plan.cut(vector)
            sharding.parts._cut = shards.root, vector
            return attrs.evolve(type_of(header), root=shards.root).to_bytes(), shards

        sharding.parts.cut = bent
        return dict(other(update, info))

    def type_of(header: bytes) -> Any:
        from qres_core.swarm.shards.messages import ContributionHeader  # noqa: PLC0415

        return ContributionHeader.from_bytes(header)

    if not guarded:
        monkeypatch.setattr(Client, "goes_by", lambda self, _digest, name: _goes_by(self, name))
    victim.kernel.prove = another
    net.start()
    net.run(until=lambda: net.machine(0).head.height >= 1, seconds=20)
    said = {m.envelope.sender for m in net.sent if m.kind == "dialogue/secagg/3"}
    assert (net.ids[0] in said) is not guarded


def _goes_by(client: Any, name: bytes) -> None:
    client._digest = name


@pytest.mark.parametrize("guarded", [True, False])
def test_a_masked_set_that_one_lock_alone_remembers_is_opened_three_rounds_later(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Every node still has what it masked then, and the shards of the others."""
    if not guarded:
        monkeypatch.setattr(Consensus, "may_be_won", lambda *_arguments: False)
    net = swarm(harness, MASKED)
    liar, locked = (net.index_of[net.machine(0).proposer(number)] for number in (2, 4))
    heard: dict[int, set[int]] = {}

    def rule(message: Any) -> Any:
        """The node ``locked`` hears a quorum of round 1, and nobody else does before round 4."""
        kind, number, to = message.kind, message.round, message.receiver
        if kind == "choice/lock" or (kind == "choice/proposal" and number in (2, 3)):
            return ()
        if number != 1 or to == locked or not kind.startswith("choice/pre"):
            return None
        if message.sender == liar:
            nil = encode_vote(None)
            made = net.forge(liar, kind, nil, number=1, model=message.envelope.head)
            return [(0.01, made.to_bytes())]
        if kind == "choice/prevote":
            three = heard.setdefault(to, set())
            if len(three) < 3:
                three.add(message.sender)
            return None if message.sender in three else ()
        return None

    net.rule = rule
    net.start()
    assert net.run(until=lambda: net.machine(locked).head.height == 1, seconds=300)
    outcome = net.nodes[locked].ended[-1].outcome
    assert outcome.round_info.number == 4, "control: no earlier round decided"
    assert outcome.status is (RoundStatus.CLOSED if guarded else RoundStatus.VOID)


# ── proofs of updates that can be seen ────────────────────────────────────────────────────────────


def bending(net: Any, how: Callable[[Vector], Vector]) -> None:
    """Have the liar prove one vector, and cut another one into shards."""
    kernel = net.machine(LIAR).kernel
    privatize = kernel.privatize

    def privatized(update: Update, info: RoundInfo) -> Update:
        made: Update = privatize(update, info)
        return attrs.evolve(made, vector=how(made.vector))

    def proved(_update: Update, _info: RoundInfo) -> dict[str, bytes]:
        return {"zk": net.nodes[LIAR].plugin("zk")._made.bundle}

    kernel.privatize, kernel.prove = privatized, proved


def in_one_shard(vector: Vector) -> Vector:
    """Twenty times as long in one row."""
    bent = vector.copy()
    bent[: columns_of(D)] *= 20
    return bent


def between_shards(vector: Vector) -> Vector:
    """What one row has too much, another one lacks: in the sum of all rows it cancels."""
    bent, row = vector.copy(), columns_of(D)
    bent[:row] += 2**20
    bent[row : 2 * row] -= 2**20
    return bent


@pytest.mark.parametrize("how", [in_one_shard, between_shards])
def test_shards_of_another_vector_than_was_proved_are_in_no_set(
    harness: ModuleType, how: Callable[[Vector], Vector]
) -> None:
    net = swarm(harness, PROVED)
    bending(net, how)
    assert is_right(played(net))
    assert all(who == set(HONEST) for who in members(net))
    assert accused(net) == {LIAR}
    found = sum(net.nodes[i].refused["zk:another-vector-than-committed"] for i in HONEST)
    assert found > 0


def test_without_the_check_of_shards_a_proof_would_be_about_another_vector(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: members keep what only the Merkle root fixes."""
    monkeypatch.setattr("qres_zk.plugin.opens_rows", lambda *_arguments: True)
    net = swarm(harness, PROVED)
    bending(net, between_shards)
    played(net)
    assert LIAR in members(net)[0]
    assert not is_right(net)


def test_errors_that_cancel_are_found_by_factors_that_nobody_foresees(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with one factor for all rows, a shard of two rows would hide what cancels."""

    class Ones:
        def randbits(self, _bits: int) -> int:
            return 1

    def both_rows(vector: Vector) -> Vector:
        bent, row = vector.copy(), columns_of(D)
        bent[0] += 2**20
        bent[row] -= 2**20
        return bent

    monkeypatch.setattr(zk_aggregate, "secrets", Ones())
    monkeypatch.setattr("qres_zk.plugin.Zk.shard_run", lambda _self, d: 2 * columns_of(d))
    net = swarm(harness, PROVED)
    bending(net, both_rows)
    played(net)
    assert LIAR in members(net)[0]
    monkeypatch.undo()
    monkeypatch.setattr("qres_zk.plugin.Zk.shard_run", lambda _self, d: 2 * columns_of(d))
    net = swarm(harness, PROVED)
    bending(net, both_rows)
    assert is_right(played(net))
    assert all(who == set(HONEST) for who in members(net))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_shard_that_a_proof_refuses_is_checked_once_however_often_it_comes(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    net = swarm(harness, PROVED)
    bending(net, in_one_shard)
    checked: Counter[tuple[int, bytes, int]] = Counter()
    for index in HONEST:
        kernel = net.machine(index).kernel
        kernel.verify_shard = _counted(kernel.verify_shard, index, checked)
    accept = ShardGathering._accept

    def forgetful(parts: Any, *arguments: Any) -> None:
        parts._checks._refused.clear()
        accept(parts, *arguments)

    if not guarded:
        monkeypatch.setattr(ShardGathering, "_accept", forgetful)
    net.wait_for_all()
    played(net)  # the liar gives its shards again and again, since nobody says that it holds them
    assert accused(net) == {LIAR}
    assert (max(checked.values()) == 1) is guarded


def _counted(verify: Any, index: int, checked: Counter[tuple[int, bytes, int]]) -> Any:
    def counted(made: Any, shard: Vector, start: int, info: RoundInfo) -> Any:
        checked[index, made.digest, start] += 1
        return verify(made, shard, start, info)

    return counted


@pytest.mark.parametrize("aggregation", ["everyone", "sharded"])
def test_proofs_of_visible_updates_go_with_a_sample_of_participants(
    harness: ModuleType, aggregation: str
) -> None:
    """Nobody but the sample proves, and a liar of the sample is found as always."""
    harness.INSTALLED["zk"] = scan()["zk"]
    options = {"aggregation": aggregation, "deadline": 4.0, "participants": 5}
    net = harness.Net(
        NODES, byzantine=1, quorum=4, initial=range(D), options=options, plugins=PROVED, train=small
    )
    bending(net, in_one_shard)
    played(net)
    assert is_right(net)
    assert all(LIAR not in who and 4 <= len(who) <= 5 for who in members(net))
    assert accused(net) <= {LIAR}
