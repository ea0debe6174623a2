"""What goes wrong when defences are put together carelessly, tried on swarms that have them.

Secure aggregation hands a rule one sum, and the rule says nothing; one node's NaN or claim of a
million examples is in everybody's mean; two sets of survivors open two sums. Each is refused, or
ends at the honest value, and each has a run that shows the attack works where nothing stops it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from qres_secagg.messages import Kind, decode_listing, encode_listing

from qres_core import Envelope
from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab import adversary, network, simulator
from qres_core.lab.record import SimulationResult
from qres_core.swarm.ledger.messages import encode_contribution
from qres_core.training.tasks import TaskConfig

Tables = Mapping[str, Mapping[str, object]]
TASK = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
TRUST: Tables = {"memory": {}, "ed25519": {}, "replay": {}}
SECAGG: Mapping[str, object] = {"bound": 64.0, "patience": 1.0}
LISTS = f"dialogue/secagg/{int(Kind.LIST)}"


def swarm(plugins: Tables, nodes: int, byzantine: int, **more: Any) -> Config:
    table = {"name": "c", "nodes": nodes, "byzantine": byzantine, "quorum": nodes - byzantine}
    return parse({"swarm": {**table, **more}, "plugins": {**TRUST, **plugins}}, source="test")


def play(
    config: Config, attack: str = "", attackers: int = 0, rounds: int = 2, **more: Any
) -> SimulationResult:
    scenario = Scenario(
        rounds=rounds, seed=3, attack=attack, attackers=attackers, jitter=0.005, **more
    )
    return simulator.simulate(config, scenario, task=TASK)


def aligned(result: SimulationResult) -> bool:
    """Whether every merged update points where the honest nodes' mean does."""
    return all((record.alignment or 0.0) > 0.5 for record in result.closed)


# ── a robust rule behind secure aggregation ───────────────────────────────────────────────────────


@pytest.mark.claim("C-composition-5")
@pytest.mark.parametrize("rule", ["krum", "bulyan", "median", "trimmed_mean", "geometric_median"])
def test_a_rule_that_would_see_one_sum_is_refused(rule: str) -> None:
    config = swarm({"secagg": SECAGG, rule: {"f": 2}}, 11, 2)
    with pytest.raises(CompatibilityError) as caught:
        Kernel.from_config(config, installed=scan())
    problems = {problem.code: str(problem) for problem in caught.value.problems}
    assert f"plugins.{rule}" in problems["QRES-E303"]
    assert "plugins.secagg shows only one sum" in problems["QRES-E303"]
    assert "groups" in problems["QRES-E303"]


@pytest.mark.claim("C-composition-5", "C-composition-12")
def test_krum_with_groups_too_few_for_it_is_refused() -> None:
    """Groups of 3 of the 9 in a quorum are 3 rows, and two liars need 7."""
    groups = {**SECAGG, "group_size": 3, "min_size": 3, "dropout": 0.04}
    with pytest.raises(CompatibilityError, match=r"QRES-E304 plugins\.krum: needs 7 rows"):
        Kernel.from_config(swarm({"secagg": groups, "krum": {"f": 2}}, 11, 2), installed=scan())


@pytest.mark.claim("C-composition-5")
def test_a_plain_mean_that_withstands_two_of_eleven_is_refused() -> None:
    config = swarm({"secagg": SECAGG, "mean": {}}, 11, 2)
    with pytest.raises(CompatibilityError, match=r"QRES-E309 plugins\.mean"):
        Kernel.from_config(config, installed=scan())


@pytest.mark.control("C-composition-5")
@pytest.mark.long
def test_two_hostile_nodes_of_eleven_without_secure_aggregation_change_nothing() -> None:
    bare = play(swarm({"mean": {"unprotected": True}}, 11, 2), "scaled", 2)
    assert bare.closed
    assert not aligned_in_length(bare)
    result = play(swarm({"krum": {"f": 2}}, 11, 2), "sign_flip", 2)
    assert len(result.closed) == 2
    assert aligned(result)


def aligned_in_length(result: SimulationResult) -> bool:
    """Whether the swarm came nearer to its optimum in every round."""
    losses = [record.metrics["loss"] for record in result.closed]
    return all(after < before for before, after in itertools.pairwise(losses))


@pytest.mark.claim("C-composition-5")
@pytest.mark.long
def test_a_rule_over_groups_ends_at_the_honest_value() -> None:
    """One liar sends what it likes, and spoils the sum of its group: one row of three."""
    groups = {**SECAGG, "group_size": 3, "min_size": 3, "dropout": 0.04}
    config = swarm({"secagg": groups, "median": {"f": 1}}, 12, 1, quorum=9)
    clean, attacked = play(config), play(config, "sign_flip", 1)
    assert len(clean.closed) == len(attacked.closed) == 2
    assert attacked.unanimous
    assert aligned(attacked)
    assert aligned_in_length(attacked)


# ── one node's numbers ────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-grid-1")
@pytest.mark.parametrize("attack", ["nan", "inf", "wrong_length"])
@pytest.mark.parametrize("rule", ["median", "krum"])
@pytest.mark.long
def test_one_node_that_sends_no_numbers(attack: str, rule: str) -> None:
    result = play(swarm({rule: {"f": 1}}, 8, 1), attack, 1)
    assert len(result.closed) == 2
    assert result.unanimous
    assert aligned(result)


@pytest.mark.long
@pytest.mark.parametrize("attack", ["nan", "inf"])
def test_one_node_that_sends_no_numbers_into_a_group(attack: str) -> None:
    groups = {**SECAGG, "group_size": 3, "min_size": 3, "dropout": 0.04}
    result = play(swarm({"secagg": groups, "median": {"f": 1}}, 12, 1, quorum=9), attack, 1)
    assert len(result.closed) == 2
    assert aligned(result)


def claiming(monkeypatch: pytest.MonkeyPatch, weight: int) -> None:
    """Attackers claim so many examples, whatever the harness would let them."""
    encode = encode_contribution

    def claim(_weight: int, octets: bytes, proofs: Mapping[str, bytes], *more: Any) -> bytes:
        return encode(weight, octets, proofs, *more)

    monkeypatch.setattr(adversary, "encode_contribution", claim)


@pytest.mark.claim("C-agreement-4", "C-composition-5")
@pytest.mark.control("C-agreement-4", "C-composition-5")
@pytest.mark.parametrize("claim", [10**9, pytest.param(2**30, marks=pytest.mark.long)])
def test_one_node_that_claims_a_billion_examples(
    monkeypatch: pytest.MonkeyPatch, claim: int
) -> None:
    claiming(monkeypatch, claim)
    loose = play(swarm({"mean": {"unprotected": True}}, 8, 1, weight_cap=2**30), "sign_flip", 1)
    assert not aligned(loose)  # what the claim is worth where nothing caps it
    for rule in ("median", "krum"):
        capped = play(swarm({rule: {"f": 1}}, 8, 1), "sign_flip", 1)
        assert len(capped.closed) == 2
        assert aligned(capped)


def test_a_claim_of_examples_does_not_reach_the_weights_of_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claiming(monkeypatch, 10**9)
    groups = {**SECAGG, "group_size": 3, "min_size": 3, "dropout": 0.04}
    result = play(swarm({"secagg": groups, "median": {"f": 1}}, 12, 1, quorum=9), "sign_flip", 1)
    assert len(result.closed) == 2
    assert aligned(result)


# ── two sets of survivors ─────────────────────────────────────────────────────────────────────────


def two_lists(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever leads the first round leaves another node out for each half of the swarm."""
    carry, told = network.SimulatedNetwork.carry, list[str]()

    def lying(self: Any, sender: Any, receiver: Any, frame: bytes, **more: Any) -> None:
        envelope = Envelope.from_bytes(frame, max_bytes=2**24)
        if envelope.kind == LISTS and envelope.round == 1 and envelope.sender == sender.node_id:
            sid, listing = decode_listing(envelope.payload)
            members = dict(listing.members)
            gone = sorted(members)[receiver.index % 2]
            del members[gone]
            body = encode_listing(sid, attrs.evolve(listing, members=members))
            bare = attrs.evolve(
                envelope, payload=body, sequence=sender.machine.take_sequence(), auth={}
            )
            frame = sender.machine.kernel.sign(bare).to_bytes()
            told.append(envelope.kind)
        carry(self, sender, receiver, frame, **more)

    monkeypatch.setattr(network.SimulatedNetwork, "carry", lying)
    return told


def test_two_sets_of_survivors_open_nothing_and_the_next_round_is_honest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = swarm({"secagg": SECAGG, "mean": {"unprotected": True}}, 8, 1)
    clean = play(config)
    told = two_lists(monkeypatch)
    result = play(config)
    assert told
    assert result.unanimous
    assert len(result.closed) == len(clean.closed) == 2
    assert aligned(result)
    first = result.rounds[0]
    opened = first.plugins["secagg"]["rounds_opened"]
    assert first.closed == bool(opened)  # at most one of the two sums, and then for everybody
