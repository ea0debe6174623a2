"""Twenty nodes learn digits with noise, proofs and masks, and some of them lie.

The plugins are ``dp`` (distributed noise), ``zk`` and ``secagg``, with reputation as a gate that
bans and does not weigh. Liars run plugins of their own in place of these. Each attack is also
played on the same swarm without ``zk``, where it must do what it is for.

The noise hides nobody (epsilon is near a hundred after a round): twenty nodes are too few to learn
under a small one. What is tried here does not depend on how much noise there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_arithmetic import clipped
from qres_dp.plugin import Dp
from qres_secagg.plugin import Secagg
from qres_zk import Zk
from qres_zk.bundle import ProofBundle
from qres_zk.pedersen import commit
from qres_zk.plugin import LIED

from qres_core import (
    Claims,
    Contribution,
    NodeId,
    NodeInfo,
    OwnContributions,
    RoundInfo,
    Update,
    Updates,
    Vector,
    hookimpl,
)
from qres_core.attacks.scenario import Scenario
from qres_core.claims import Verifies
from qres_core.dialogues import Revelation
from qres_core.errors import CompatibilityError, ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab import events
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.training import Trainer
from qres_core.training.tasks import Task, TaskConfig, make_task

Tables = Mapping[str, Mapping[str, object]]
Plugins = Mapping[str, Installed]

NODES, QUORUM, SEED = 21, 13, 3
TASK = TaskConfig(local_epochs=1, learning_rate=0.5)
BEFORE: Tables = {"memory": {}, "ed25519": {}, "replay": {}, "reputation": {"punish": 0.4}}
DP: Mapping[str, object] = {
    "mode": "distributed", "clip": 2.0, "delta": 1e-6, "noise_multiplier": 0.1, "rounds": 30,
}  # fmt: skip
ZK: Mapping[str, object] = {"bound": 24.0, "k": 256, "security": 40, "clip": False}
SECAGG: Mapping[str, object] = {"bound": 16.0, "noise_room": 16.0, "patience": 1.0}
INSTALLED = scan()


@attrs.frozen(eq=False)
class Played:
    """A simulation that is over: what it recorded, and its nodes, the liars last."""

    result: SimulationResult
    engine: EventEngine

    @property
    def liars(self) -> list[NodeId]:
        return [node.node_id for node in self.engine.nodes if node.attacker is not None]

    def held_against(self, who: NodeId) -> list[set[str]]:
        """What each honest node holds against a node."""
        return [set(node.kernel.against.get(who, {})) for node in self.engine.honest]

    @property
    def accused(self) -> set[NodeId]:
        """Against whom any honest node holds anything."""
        return {who for node in self.engine.honest for who in node.kernel.against}

    def counts(self, plugin: str, name: str) -> set[object]:
        """A figure of a plugin's status, at all honest nodes."""
        return {node.kernel.status()[plugin][name] for node in self.engine.honest}

    @property
    def losses(self) -> list[float]:
        return [record.metrics["loss"] for record in self.result.closed]

    @property
    def learns(self) -> bool:
        """Whether the model got better in every round that closed."""
        first = float(np.log(10))  # of a model that knows nothing
        losses = [first, *self.losses]
        return all(after < before for before, after in itertools.pairwise(losses))


def configure(plugins: Tables, byzantine: int, **swarm: Any) -> Config:
    rule: Tables = {"mean": {"unprotected": "zk" not in plugins or "weight_cap" in swarm}}
    table = {
        "name": "proved", "nodes": NODES, "byzantine": byzantine, "quorum": QUORUM,
        "deadline": 10.0, "vote_timeout": 2.0, **swarm,
    }  # fmt: skip
    return parse({"swarm": table, "plugins": {**BEFORE, **plugins, **rule}}, source="test")


def play(
    config: Config,
    rounds: int,
    *,
    hostile: Callable[[int], Plugins] | None = None,
    attack: tuple[str, float] = ("", 0.0),
    installed: Plugins | None = None,
    change: Callable[[Task], Task] = lambda task: task,
    until: Callable[[RoundRecord], bool] = lambda _record: False,
) -> Played:
    """Play so many rounds, or one more after the round of which ``until`` holds."""
    name, strength = attack
    scenario = Scenario(
        rounds=rounds, seed=SEED, jitter=0.005, lies="protocol", attack=name,
        attackers=config.swarm.byzantine if name else 0, strength=strength if name else None,
        once=tuple(
            item for item in ("ed25519.authenticate", "zk.verify")
            if item.partition(".")[0] in config.plugins
        ),
    )  # fmt: skip
    made = change(make_task(TASK, nodes=NODES, seed=SEED, scale=config.swarm.scale))

    def progress(record: RoundRecord) -> None:
        if until(record):
            made_so_far = sum(record.closed for record in engine.recorder.records)
            engine.rounds = min(engine.rounds, made_so_far + 1)

    plugins = {**INSTALLED, **(installed or {})}
    engine = EventEngine(Experiment(config, scenario, made, plugins, hostile, progress))
    try:
        engine.run()
        return Played(engine.result(), engine)
    finally:
        for kernel in engine.kernels:
            kernel.teardown()


def local(**plugins: type) -> Plugins:
    return {name: Installed.local(name, kind) for name, kind in plugins.items()}


@attrs.define(eq=False)
class Unclipped(Dp):
    """Neither clips nor adds noise, and keeps no account of it."""

    @hookimpl
    def round_opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """A ledger that lacks what left would have the node sit out."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        del round_info
        return attrs.evolve(update, weight=1)


# ── (1) a boosted update ──────────────────────────────────────────────────────────────────────

BOOST = ("sign_flip", 60.0)
"""Each liar's own update, turned round and sixty times as long."""


@attrs.define(eq=False)
class Larger(Zk):
    """Proves for a bound a hundred times as large: numbers of more bits than others take."""

    @property
    def claims(self) -> Claims:
        """The same before ``setup`` and after it: a change would be refused."""
        return attrs.evolve(
            super().claims, notices=(), verifies=Verifies(bounds="what the others prove")
        )

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self.bound = 100 * self.bound
        super().setup(node_info)


@attrs.define(eq=False)
class Glued(Zk):
    """Proves a short vector and puts the commitments to the long one into that proof."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        statement = self._statement(round_info)
        short = clipped(update.vector.astype(np.int64), statement.bound).astype(np.int32)
        sent = super().privatize(attrs.evolve(update, vector=short), round_info)
        made, rows = self._made, commit(statement, update.vector).encoded
        assert made is not None
        proof = ProofBundle.from_bytes(made.bundle, statement)
        glued = attrs.evolve(proof, encoded=rows + proof.encoded[len(rows) :])
        self._made = attrs.evolve(made, bundle=glued.to_bytes())
        return attrs.evolve(sent, vector=update.vector)


@attrs.define(eq=False)
class Unproved(Zk):
    """Sends no proof."""

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        del update, round_info
        return b""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        statement = self._statement(round_info)
        short = clipped(update.vector.astype(np.int64), statement.bound).astype(np.int32)
        sent = super().privatize(attrs.evolve(update, vector=short), round_info)
        return attrs.evolve(sent, vector=update.vector)


PROVERS = (Larger, Glued, Unproved, Zk)
"""The last is honest about a vector that is too long: it finds nothing to prove, and sits out."""
REASONS: tuple[set[str], ...] = (
    {"zk:malformed-proof"},
    {"zk:bad-proof"},
    {"zk:malformed-proof"},
    set(),
)


def boosting(number: int) -> Plugins:
    return local(dp=Unclipped, zk=PROVERS[number])


def summed(**plugins: Mapping[str, object]) -> Config:
    """One sum of all, four liars."""
    everything = {"dp": {**DP, "honest": 9}, **plugins, "secagg": {**SECAGG, "dropout": 0.15}}
    return configure(everything, len(PROVERS))


@pytest.fixture(scope="module")
def boosted() -> Played:
    return play(summed(zk=ZK), 2, hostile=boosting, attack=BOOST)


@pytest.mark.control("C-composition-7", "C-composition-8", "C-zk-16")
@pytest.mark.long
def test_boosted_updates_move_the_model_where_nothing_is_proved() -> None:
    without = play(summed(), 1, hostile=lambda _number: local(dp=Unclipped), attack=BOOST)
    assert [fate.merged for fate in without.result.fates] == [1] * len(PROVERS)
    assert (without.result.closed[0].alignment or 0.0) < 0
    assert without.losses[-1] > 2 * float(np.log(10))
    assert without.accused == set()


@pytest.mark.claim("C-zk-16")
@pytest.mark.long
def test_boosted_updates_are_refused_by_their_proofs_at_every_honest_node(boosted: Played) -> None:
    assert [fate.merged for fate in boosted.result.fates] == [0] * len(PROVERS)
    for who, reasons in zip(boosted.liars, REASONS, strict=True):
        for held in boosted.held_against(who):
            assert held <= reasons
            assert bool(held) == bool(reasons)
    assert [fate.banned_by for fate in boosted.result.fates] == [NODES - 4] * 3 + [0]


@pytest.mark.long
def test_the_honest_nodes_go_on_without_them(boosted: Played) -> None:
    result = boosted.result
    assert len(result.closed) == len(result.rounds) == 2
    assert result.unanimous
    assert boosted.learns
    assert boosted.accused == set(boosted.liars[:3])
    assert boosted.counts("zk", "sums_failed") == {0}
    assert [record.accepted for record in result.closed] == [NODES - len(PROVERS)] * 2


# ── (2) one vector committed to, another one masked ───────────────────────────────────────────


@attrs.define(eq=False)
class Swapped(Zk):
    """Commits to a short vector and proves it, and has the long one masked."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        statement = self._statement(round_info)
        short = clipped(update.vector.astype(np.int64), statement.bound).astype(np.int32)
        sent = super().privatize(attrs.evolve(update, vector=short), round_info)
        return attrs.evolve(sent, vector=update.vector)


@attrs.define(eq=False)
class Whole(Zk):
    """Makes no model of fewer contributions than a quorum."""

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Revelation:
        found = super().reveal(updates, contributions, round_info)
        if sum(map(len, found.updates.members)) < round_info.quorum:
            raise ValueRefusedError.of("QRES-E508", "plugins.zk", "fewer than the quorum")
        return found


@attrs.define(eq=False)
class Unfilled(Zk):
    """Gives the rule the sums that hold, be they too few for it."""

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        super().setup(attrs.evolve(node_info, rows=1))


TIGHT = 17
"""Of 21 nodes in groups of five or six: a quorum that no group can be missing from."""


def grouped(quorum: int = QUORUM, **plugins: Mapping[str, object]) -> Config:
    """Sums of five, one liar."""
    groups = {**SECAGG, "group_size": 5, "min_size": 4, "corrupt": 0.05}
    everything = {"dp": {**DP, "honest": 3}, **plugins, "secagg": groups}
    return configure(everything, 1, quorum=quorum)


def ruled() -> Config:
    """Sums of seven, one liar, and a rule that needs all three of them."""
    groups = {**SECAGG, "group_size": 7, "min_size": 5, "corrupt": 0.05}
    config = configure({"dp": {**DP, "honest": 3}, "zk": ZK, "secagg": groups}, 1, quorum=18)
    plugins = {name: table for name, table in config.plugins.items() if name != "mean"}
    return attrs.evolve(config, plugins={**plugins, "median": {"f": 1}})


def swapping(_number: int) -> Plugins:
    return local(dp=Unclipped, zk=Swapped)


def banned(record: RoundRecord) -> bool:
    return record.banned_attackers == 1


@pytest.fixture(scope="module")
def swapped() -> Played:
    return play(grouped(TIGHT, zk=ZK), 12, hostile=swapping, attack=BOOST, until=banned)


@pytest.mark.control("C-zk-16", "C-zk-20")
@pytest.mark.long
def test_another_vector_is_masked_unnoticed_where_nothing_is_committed_to() -> None:
    without = play(grouped(), 1, hostile=lambda _number: local(dp=Unclipped), attack=BOOST)
    assert [fate.merged for fate in without.result.fates] == [1]
    assert (without.result.closed[0].alignment or 0.0) < 0
    assert without.accused == set()


@pytest.mark.claim("C-zk-16")
@pytest.mark.long
def test_who_masks_another_vector_is_found_by_every_honest_node(swapped: Played) -> None:
    (liar,) = swapped.liars
    assert all(f"zk:{LIED}" in held for held in swapped.held_against(liar))
    assert swapped.accused == {liar}
    assert [fate.banned_by for fate in swapped.result.fates] == [NODES - 1]
    assert all(record.banned_honest == 0 for record in swapped.result.rounds)


@pytest.mark.claim("C-zk-18")
@pytest.mark.control("C-zk-22")
@pytest.mark.long
def test_its_groups_are_left_out_until_then_although_fewer_than_a_quorum_are_left(
    swapped: Played,
) -> None:
    """A sum that is wrong is in no model: every model is better than the one before."""
    result = swapped.result
    assert not any(record.void for record in result.rounds)
    assert result.unanimous
    assert swapped.learns
    *lying, last = result.closed
    assert 2 <= len(lying) < 12
    assert swapped.counts("zk", "sums_failed") == {len(lying)}
    assert (last.accepted, last.attackers_accepted) == (NODES - 1, 0)


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation is over after a few rounds without a model."""
    monkeypatch.setattr(events, "MAX_ABORTED", 3)


@pytest.mark.control("C-zk-18")
@pytest.mark.usefixtures("soon_over")
@pytest.mark.long
def test_its_liar_would_stop_a_swarm_that_leaves_no_group_out_of_a_quorum() -> None:
    """Groups are the same for one model: height after height is void, and nobody is found."""
    stopped = play(
        grouped(TIGHT, zk=ZK), 1, hostile=swapping, attack=BOOST, installed=local(zk=Whole)
    )
    assert stopped.losses == []
    assert len(stopped.result.void) == len(stopped.result.rounds) == 3
    assert all("QRES-E508" in record.reason for record in stopped.result.rounds)
    assert stopped.accused <= set(stopped.liars)


@pytest.mark.claim("C-zk-18")
@pytest.mark.long
def test_a_rule_that_needs_all_sums_goes_on_although_a_liar_spoils_its_own() -> None:
    attacked = play(ruled(), 2, hostile=swapping, attack=BOOST)
    assert not any(record.void for record in attacked.result.rounds)
    assert attacked.result.unanimous
    assert attacked.learns
    assert attacked.counts("zk", "sums_failed") == {2}
    assert attacked.accused <= set(attacked.liars)


@pytest.mark.control("C-zk-18")
@pytest.mark.usefixtures("soon_over")
@pytest.mark.long
def test_such_a_rule_would_stop_the_swarm_if_nothing_came_for_the_sum_that_failed() -> None:
    stopped = play(ruled(), 1, hostile=swapping, attack=BOOST, installed=local(zk=Unfilled))
    assert stopped.losses == []
    assert len(stopped.result.void) == len(stopped.result.rounds) == 3
    assert all("QRES-E505" in record.reason for record in stopped.result.rounds)


@pytest.mark.claim("C-zk-22")
@pytest.mark.usefixtures("soon_over")
@pytest.mark.long
def test_of_one_sum_that_may_not_be_split_its_liars_leave_no_model_and_are_not_found() -> None:
    stopped = play(summed(zk=ZK), 1, hostile=swapping, attack=BOOST)
    assert stopped.losses == []
    assert len(stopped.result.void) == len(stopped.result.rounds) == 3
    assert all("QRES-E508" in record.reason for record in stopped.result.rounds)
    assert stopped.accused == set()


@pytest.mark.claim("C-zk-22")
def test_sums_that_liars_can_spoil_altogether_are_named_before_the_start() -> None:
    def notices(config: Config) -> list[str]:
        return [text for text in Kernel.from_config(config).solution.notices if "spoil" in text]

    (notice,) = notices(summed(zk=ZK))
    assert "4 liars that mask other vectors than they proved spoil the sum of all" in notice
    assert notices(summed()) == notices(grouped(TIGHT, zk=ZK)) == notices(ruled()) == []


# ── (3) another sum ───────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class FalseSums(Secagg):
    """In the swarm's first round, gives out sums that point the other way."""

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Revelation:
        opened = super().reveal(updates, contributions, round_info)
        if round_info.number > 1 or opened.updates.sums is None:
            return opened
        turned = attrs.evolve(
            opened.updates, vectors=-opened.updates.vectors, sums=-opened.updates.sums
        )
        return attrs.evolve(opened, updates=turned)


@attrs.define(eq=False)
class Credulous(Zk):
    """Takes every sum for what it is said to be."""

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Revelation:
        del contributions, round_info
        return Revelation(updates)


@pytest.mark.control("C-zk-13", "C-zk-16")
@pytest.mark.long
def test_false_sums_are_merged_where_nothing_is_committed_to() -> None:
    without = play(summed(), 1, installed=local(secagg=FalseSums))
    assert without.result.unanimous
    assert (without.result.closed[0].alignment or 0.0) < 0


@pytest.mark.claim("C-zk-16")
@pytest.mark.parametrize("make", [summed, grouped])
@pytest.mark.long
def test_every_node_refuses_the_false_sums_it_is_given(make: Callable[..., Config]) -> None:
    """As if all left the adding up to somebody who lies: nothing is merged, nobody is accused."""
    given = play(make(zk=ZK), 1, installed=local(secagg=FalseSums))
    refused, after = given.result.rounds
    sums = 1 if make is summed else 4
    assert not refused.closed
    assert "QRES-E508" in refused.reason
    assert given.counts("zk", "sums_failed") == {sums}
    assert after.closed
    assert (after.alignment or 0.0) > 0.3
    assert given.learns
    assert given.accused == set()


@pytest.mark.claim("C-zk-16")
@pytest.mark.long
def test_a_node_that_lies_about_the_sum_has_only_itself_to_tell_it_to() -> None:
    """Everybody adds up alone. Who merges another sum has another model, and is in no later round.

    All it can do is to be of no use in the rounds that it leads: those make no model.
    """
    played = play(
        grouped(zk=ZK), 2, attack=("scaled", 1.0),
        hostile=lambda _number: local(secagg=FalseSums, zk=Credulous),
    )  # fmt: skip
    result = played.result
    assert len(result.closed) == 2
    assert result.unanimous
    assert played.learns
    assert played.counts("zk", "sums_failed") == {0}
    assert played.accused == set()
    assert [record.attackers_accepted for record in result.closed] == [1, 0]
    liar = played.engine.nodes[-1].machine
    assert liar.model_digest.hex() not in {record.model_digest for record in result.closed}


# ── weights ───────────────────────────────────────────────────────────────────────────────────

LOOSE: Mapping[str, object] = {**ZK, "bound": 256.0}
CAP = 200
PUBLIC: Mapping[str, object] = {
    "bound": 256.0, "ring": 64, "patience": 1.0, "weights": "public", "max_weight": CAP,
}  # fmt: skip


def weighted(**plugins: Mapping[str, object]) -> Config:
    return configure(plugins, 1, weight_cap=CAP)


@attrs.frozen(eq=False)
class Unequal:
    """A node that says it has so many examples."""

    trainer: Trainer
    weight: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        return attrs.evolve(self.trainer.fit(vector, round_info), weight=self.weight)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.trainer.evaluate(vector)


def unequal(task: Task) -> Task:
    """Nodes with 1 to 20 examples."""
    trainers = tuple(Unequal(trainer, 1 + index) for index, trainer in enumerate(task.trainers))
    return attrs.evolve(task, trainers=trainers)


@attrs.define(eq=False)
class Heavier(Secagg):
    """Says that its update counts once and counts it as often as it may."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        heavy = super().privatize(attrs.evolve(update, weight=CAP), round_info)
        return attrs.evolve(heavy, weight=1)


@pytest.mark.claim("C-zk-17")
@pytest.mark.long
def test_proofs_hold_for_sums_of_unequal_weights() -> None:
    """The models are those of the swarm that hides nothing, bit for bit."""
    hidden = play(weighted(zk=LOOSE, secagg=PUBLIC), 2, change=unequal)
    plain = play(weighted(), 2, change=unequal)
    equal = play(weighted(), 1)
    assert hidden.counts("zk", "sums_failed") == {0}
    assert hidden.accused == set()
    digests = [record.model_digest for record in hidden.result.closed]
    assert digests == [record.model_digest for record in plain.result.closed]
    assert digests[0] != equal.result.closed[0].model_digest  # the weights do count


@pytest.mark.claim("C-zk-17")
@pytest.mark.long
def test_a_weight_other_than_the_one_said_is_noticed() -> None:
    def attacked(**plugins: Mapping[str, object]) -> Played:
        heavier = local(secagg=Heavier)
        attack = ("sign_flip", 20.0)  # within the bound: only the weight is a lie
        groups = {**PUBLIC, "group_size": 5, "min_size": 4}
        config = weighted(**plugins, secagg=groups)
        return play(config, 1, change=unequal, hostile=lambda _number: heavier, attack=attack)

    without, noticed = attacked(), attacked(zk=LOOSE)
    assert (without.result.closed[0].alignment or 0.0) < 0
    assert (noticed.result.closed[0].alignment or 0.0) > 0.5
    assert noticed.counts("zk", "proofs_refused") == {0}
    assert noticed.counts("zk", "sums_failed") == {1}
    assert noticed.accused == set()  # one failure names nobody


@pytest.mark.control("C-zk-17")
def test_a_proof_is_no_protection_where_weights_are_unequal() -> None:
    """It bounds an update, and not how often it counts: the swarm that relies on it is refused."""
    config = weighted(zk=LOOSE, secagg=PUBLIC)
    relying = attrs.evolve(config, plugins={**config.plugins, "mean": {}})
    with pytest.raises(CompatibilityError, match=r"QRES-E309 plugins\.mean: .*weight_cap is 200"):
        Kernel.from_config(relying, installed=INSTALLED)


def test_unequal_weights_with_noise_are_refused_before_the_start() -> None:
    config = configure({"dp": {**DP, "honest": 3}, "zk": ZK, "secagg": PUBLIC}, 1, weight_cap=CAP)
    with pytest.raises(CompatibilityError, match=r"QRES-E310 plugins\.dp: needs equal weights"):
        Kernel.from_config(config, installed=INSTALLED)
