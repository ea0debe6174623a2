"""Whole swarms in the simulator: attacks that must fail, controls, and where the plugin fails."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_envelope, make_node_ids, make_node_info
from qres_lab.vectorised import VectorisedEngine
from qres_reputation import Reputation

from qres_core import ACCEPT, Blame, Envelope, Fault, NodeId, Verdict, attacks, hookimpl, reject
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.record import RoundRecord
from qres_core.training.tasks import TaskConfig, make_task

AWAKE_AFTER = 30
QUADRATIC = TaskConfig(name="quadratic", dimension=64)


@attrs.frozen
class Tag:
    """A toy authenticator: a MAC under a key made from the identity, for honest use."""

    @staticmethod
    def _tag(envelope: Envelope) -> bytes:
        return hmac.digest(b"secret of " + envelope.sender, envelope.signing_digest, "sha256")

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return self._tag(envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        if hmac.compare_digest(self._tag(envelope), envelope.auth.get("tag", b"")):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


def _grid(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[attacks.Forgery, ...]:
    return (attacks.Forgery(np.clip(np.rint(values), -(2**31), 2**31 - 1).astype("<i4").tobytes()),)


@attrs.frozen
class Sleeper:
    strength: float = -6.0

    def forge(self, context: attacks.AttackContext) -> tuple[attacks.Forgery, ...]:
        factor = self.strength if context.round_info.number > AWAKE_AFTER else 1.0
        return _grid(factor * context.own.vector.astype(np.float64))


@attrs.frozen
class Cartel:
    """A common lie ``strength`` times as far out as the honest updates reach."""

    strength: float = 30.0

    def forge(self, context: attacks.AttackContext) -> tuple[attacks.Forgery, ...]:
        honest = context.honest.astype(np.float64)
        return _grid(honest.mean(axis=0) + self.strength * np.abs(honest).max(axis=0))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks of this file are in the registry while its tests run, and not after."""
    for name, kind in (("test-sleeper", Sleeper), ("test-cartel", Cartel)):
        made = attacks.RegisteredAttack(name, "one of this file", "the others", kind)
        monkeypatch.setitem(attacks.ATTACKS, name, made)


@attrs.frozen(eq=False)
class Played:
    """What a simulation left behind: its records, and one honest node's view of every node."""

    records: list[RoundRecord]
    plugins: Mapping[NodeId, Reputation]
    honest: list[NodeId]
    attackers: list[NodeId]

    @property
    def closed(self) -> list[RoundRecord]:
        return [record for record in self.records if record.closed]

    def scores(self, nodes: list[NodeId], by: int = 0) -> list[int]:
        records = self.plugins[self.honest[by]]._ledger.records
        return [records[node].belief.score for node in nodes]

    def banned(self, nodes: list[NodeId], by: int = 0) -> list[bool]:
        return [self.plugins[self.honest[by]].reputation(node).banned for node in nodes]


INSTALLED = {
    **scan(),
    "reputation": Installed.local("reputation", Reputation),
    "tag": Installed.local("tag", Tag),
}


def configured(
    nodes: int, quorum: int, options: Mapping[str, Any] | None, byzantine: int
) -> Config:
    """A swarm with the plain mean, with or (``None``) without the plugin."""
    swarm = {"name": "lab", "nodes": nodes, "byzantine": byzantine, "quorum": quorum}
    swarm |= {"deadline": 2.0, "vote_timeout": 1.0, "insecure": True}
    plugins: dict[str, Any] = {"memory": {}, "tag": {}, "mean": {"unprotected": True}}
    if options is not None:
        plugins["reputation"] = dict(options)
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


def play(
    scenario: Scenario,
    *,
    nodes: int,
    quorum: int,
    options: Mapping[str, Any] | None,
    byzantine: int = 0,
    task: TaskConfig = QUADRATIC,
) -> Played:
    """Every node and every message."""
    config = configured(nodes, quorum, options, byzantine)
    made = make_task(task, nodes=nodes, seed=scenario.seed, scale=0)
    engine = EventEngine(Experiment(config, scenario, made, INSTALLED))
    engine.run()
    found = {
        node.node_id: plugin.instance
        for node in engine.nodes
        for plugin in node.machine.kernel.enabled
        if isinstance(plugin.instance, Reputation)
    }
    honest = [honest_node.node_id for honest_node in engine.honest]
    attackers = [node.node_id for node in engine.nodes if node.attacker is not None]
    return Played(engine.recorder.records, found, honest, attackers)


def watch(
    scenario: Scenario, *, options: Mapping[str, Any] | None, task: TaskConfig = QUADRATIC
) -> Played:
    """Twenty nodes seen by one of them: every contribution and hook, no votes."""
    config = configured(20, 13, options, 0)
    made = make_task(task, nodes=20, seed=scenario.seed, scale=0)
    engine = VectorisedEngine(Experiment(config, scenario, made, INSTALLED))
    engine.run()
    plugins = [plugin.instance for plugin in engine.kernel.enabled]
    found = {engine.ids[0]: plugin for plugin in plugins if isinstance(plugin, Reputation)}  # noqa: B035
    honest = 20 - scenario.attackers
    return Played(engine.recorder.records, found, engine.ids[:honest], engine.ids[honest:])


def rounds_to_ban(plugin: Reputation) -> int:
    """Rounds from waking up to the ban, by the options alone."""
    score = plugin.start
    for _ in range(AWAKE_AFTER):
        score = min(1.0, score + plugin.reward)
        score -= plugin.decay * (score - plugin.start)
    attacks_needed = 0
    while score >= plugin.ban_below:
        attacks_needed += 1
        if attacks_needed >= plugin.outlier_rounds:
            score -= plugin.punish
        score -= plugin.decay * (score - plugin.start)
    return attacks_needed


# ── sleepers ──────────────────────────────────────────────────────────────────────────────────────


def test_the_rule_implies_nine_rounds_without_decay() -> None:
    # 0.8 after thirty rewards; two rounds of patience, then seven times 0.1.
    assert rounds_to_ban(Reputation(decay=0.0)) == 2 + 7
    assert rounds_to_ban(Reputation()) == 2 + 6  # decay takes the score just under 0.8


@pytest.mark.claim("C-trust-10")
@pytest.mark.parametrize(("attackers", "decay"), [(5, 0.001), (6, 0.0)])
def test_sleepers_are_banned_when_the_rule_says(attackers: int, decay: float) -> None:
    options = {"decay": decay}
    last = AWAKE_AFTER + rounds_to_ban(Reputation(**options))
    scenario = Scenario(rounds=last + 5, seed=2, attack="test-sleeper", attackers=attackers)
    swarm = watch(scenario, options=options)
    for record in swarm.closed:
        assert record.attackers_accepted == (attackers if record.number <= last else 0)
    assert swarm.banned(swarm.attackers) == [True] * attackers
    assert swarm.banned(swarm.honest) == [False] * (20 - attackers)
    assert min(swarm.scores(swarm.honest)) >= 500_000


@pytest.mark.control("C-reputation-10", "C-trust-10")
@pytest.mark.long
def test_a_swarm_bans_its_sleepers_and_recovers_and_without_the_plugin_it_does_not() -> None:
    last = AWAKE_AFTER + rounds_to_ban(Reputation())
    scenario = Scenario(rounds=45, seed=1, attack="test-sleeper", attackers=5)
    swarm = play(scenario, nodes=20, quorum=14, options={}, byzantine=5, task=TaskConfig())
    accuracy = {record.number: record.metrics["accuracy"] for record in swarm.closed}
    assert accuracy[AWAKE_AFTER] > 0.9
    assert accuracy[last] < 0.5
    assert swarm.closed[-1].metrics["accuracy"] > 0.85
    assert [r.attackers_accepted for r in swarm.closed] == [5] * last + [0] * (45 - last)
    for by in range(15):  # every honest node sees the same
        assert swarm.banned(swarm.attackers, by) == [True] * 5
        assert swarm.banned(swarm.honest, by) == [False] * 15
        assert min(swarm.scores(swarm.honest, by)) >= 500_000
        assert swarm.scores(swarm.attackers, by) == swarm.scores(swarm.attackers)
    control = watch(scenario, options=None, task=TaskConfig())
    assert control.closed[AWAKE_AFTER - 1].metrics["accuracy"] > 0.9
    assert control.closed[-1].attackers_accepted == 5
    assert control.closed[-1].metrics["accuracy"] < 0.3


@pytest.mark.claim("C-reputation-10")
@pytest.mark.parametrize(
    ("seed", "model"), [(1, "softmax"), (2, "softmax"), (3, "softmax"), (1, "mlp")]
)
@pytest.mark.long
def test_nobody_honest_is_banned_where_data_differ_much(seed: int, model: str) -> None:
    uneven = TaskConfig(partition="dirichlet", alpha=0.1, model=model)
    swarm = watch(Scenario(rounds=30, seed=seed), options={}, task=uneven)
    assert swarm.closed[-1].metrics["accuracy"] > 0.8
    assert not any(swarm.banned(swarm.honest))
    assert min(swarm.scores(swarm.honest)) >= 500_000


# ── slander ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-blame-1")
def test_slander_bans_the_slanderer_and_not_the_slandered() -> None:
    scenario = Scenario(rounds=8, seed=3, attack="forge", attackers=2)
    swarm = play(scenario, nodes=10, quorum=6, options={"decay": 0.0, "flood": 0})
    assert swarm.records[0].rejected["tag:bad-tag"] > 0
    for by in range(8):
        assert swarm.banned(swarm.attackers, by) == [True, True]
        # Eight rounds they took part in, and not one thing held against them.
        assert swarm.scores(swarm.honest, by) == [580_000] * 8


@pytest.mark.control("C-reputation-2")
def test_slander_by_a_flood_bans_the_link_within_a_round() -> None:
    kernel = kernel_of()
    roster = make_node_ids(4)
    kernel.setup(make_node_info(nodes=4))
    forged = make_envelope(sender=roster[1]).with_auth({"tag": bytes(32)})
    for _ in range(193):
        refused = kernel.inbound(forged.to_bytes(), roster[2], 0.0)
        assert isinstance(refused, Rejection)
        assert refused.subject == roster[2]
    assert kernel.standing(roster[2]).banned
    assert not kernel.standing(roster[1]).banned
    assert not kernel.admit(roster[2], b"").accepted
    assert kernel.admit(roster[1], b"").accepted
    genuine = make_envelope(sender=roster[2])
    refused = kernel.inbound(kernel.sign(genuine).to_bytes(), roster[2], 0.0)
    assert isinstance(refused, Rejection)
    assert refused.reason == "banned"


def kernel_of() -> Kernel:
    swarm = {"name": "testing", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True}
    plugins: dict[str, Any] = {"memory": {}, "tag": {}, "mean": {}, "reputation": {}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    return Kernel.from_config(config, installed=INSTALLED)


# ── whitewashing ──────────────────────────────────────────────────────────────────────────────────


def test_a_new_key_does_not_wash_a_banned_node_of_a_fixed_roster() -> None:
    kernel = kernel_of()
    kernel.setup(make_node_info(nodes=4))
    fresh = b"\x77" * 32
    washed = kernel.sign(make_envelope(sender=fresh))
    refused = kernel.inbound(washed.to_bytes(), fresh, 0.0)
    assert isinstance(refused, Rejection)
    assert refused.reason is Fault.UNKNOWN_SENDER


def test_whoever_lets_new_keys_into_the_roster_lets_the_banned_back_at_the_start_score(
    node: Callable[..., Any],
) -> None:
    # Nothing in the plugin can know that two keys are one person.
    item = node(punish=0.4)
    item.open()
    item.against(item.roster[1])
    assert item.banned(item.roster[1])
    roomier = node(nodes=8)
    assert roomier.score(next(n for n in roomier.roster if n not in item.roster)) == 500_000


# ── where it must fail ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sybils", "who_is_banned"),
    [pytest.param(4, "sybils", marks=pytest.mark.long), (7, "honest")],
)
def test_the_watch_belongs_to_the_majority(sybils: int, who_is_banned: str) -> None:
    """From equal scores, more than half of the roster in one hand makes the honest the outliers."""
    scenario = Scenario(rounds=14, seed=4, attack="test-cartel", attackers=sybils)
    swarm = play(scenario, nodes=12, quorum=5, options={})
    assert any(swarm.banned(swarm.honest)) == (who_is_banned == "honest")
    assert any(swarm.banned(swarm.attackers)) == (who_is_banned == "sybils")


@pytest.mark.control("C-reputation-3", "C-trust-10")
def test_just_below_the_factor_nobody_is_caught() -> None:
    """What the documentation admits: a lie as far out as honest updates may be is not seen."""
    scenario = Scenario(rounds=12, seed=5, attack="test-cartel", attackers=2, strength=0.2)
    swarm = play(scenario, nodes=12, quorum=8, options={})
    assert swarm.scores(swarm.attackers) == swarm.scores(swarm.honest[:2])
    assert not any(swarm.banned(swarm.attackers))
