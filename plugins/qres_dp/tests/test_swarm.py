"""Whole swarms in the simulator, and what the solver refuses before one starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp, accounting
from qres_dp.correlated import EncodingMemory
from qres_dp.releases.encoded import EncodedRelease
from qres_lab.testing import make_node_ids

from qres_core import (
    Claims,
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    Update,
    Vector,
    hookimpl,
)
from qres_core.attacks.scenario import Scenario
from qres_core.claims import Privatizes
from qres_core.errors import CompatibilityError, RoundError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.goal import Goal
from qres_core.kernel.kernel import Kernel
from qres_core.lab import simulator
from qres_core.lab.record import SimulationResult
from qres_core.training.tasks import TaskConfig

INSTALLED = {
    **scan(),
    "dp": Installed.local("dp", Dp),
}
QUADRATIC = TaskConfig(name="quadratic", dimension=64)


def configured(dp: dict[str, Any], *, nodes: int = 7, **swarm: Any) -> Config:
    usual = {"name": "lab", "nodes": nodes, "quorum": nodes, "byzantine": 0}
    usual |= {"scale": -8, "insecure": True}
    plugins: dict[str, Any] = {"memory": {}, "dp": {"clip": 1.0, "delta": 1e-6, **dp}, "mean": {}}
    return parse({"swarm": {**usual, **swarm}, "plugins": plugins}, source="test")


def played(config: Config, rounds: int) -> SimulationResult:
    scenario = Scenario(rounds=rounds, seed=1)
    return simulator.simulate(config, scenario, task=QUADRATIC, installed=INSTALLED)


def test_a_swarm_learns_until_the_budget_is_spent_and_shows_it() -> None:
    result = played(configured({"mode": "local", "epsilon": 20.0, "rounds": 3}), 4)
    closed = [record for record in result.rounds if record.closed]
    assert len(closed) == 3
    multiplier = accounting.calibrate(20.0, 1e-6, 3)
    for count, record in enumerate(closed, start=1):
        shown = record.plugins["dp"]
        assert shown["epsilon"] == accounting.epsilon(multiplier, count, 1e-6)
        assert shown["epsilon_budget"] == 20.0
    # All nodes hold one model, noise or not.
    assert len({record.model_digest for record in closed}) == 3


def test_only_the_noise_differs_between_two_runs_of_one_seed() -> None:
    noisy = configured({"mode": "local", "epsilon": 20.0, "rounds": 3})
    assert len({played(noisy, 1).rounds[0].model_digest for _ in range(2)}) == 2
    plain = attrs.evolve(noisy, plugins={"memory": {}, "mean": {}})
    assert len({played(plain, 1).rounds[0].model_digest for _ in range(2)}) == 1


def refused(config: Config) -> set[str]:
    with pytest.raises(CompatibilityError) as error:
        Kernel.from_config(config, installed=INSTALLED)
    return {problem.code for problem in error.value.problems}


BUDGET: dict[str, Any] = {"epsilon": 8.0, "rounds": 3}
GOAL = "accuracy >= 0.9"


@pytest.mark.claim("C-dp-30")
def test_a_goal_of_the_nodes_own_figures_is_refused() -> None:
    dp = {"mode": "local", **BUDGET}
    assert refused(configured(dp, until=GOAL)) == {"QRES-E314"}
    Kernel.from_config(configured(dp), installed=INSTALLED)


@pytest.mark.control("C-dp-30")
def test_the_word_that_a_model_is_good_enough_tells_one_record() -> None:
    """Two data sets differ by a record, and the word by everything: no noise is between them."""
    goal = Goal.parse(GOAL)
    assert goal is not None
    right = np.array([True] * 9 + [False])
    assert goal.is_reached({"accuracy": float(right.mean())})
    assert not goal.is_reached({"accuracy": float(right[1:].mean())})
    # Without noise anybody may say it.
    plain = attrs.evolve(configured({}, until=GOAL), plugins={"memory": {}, "mean": {}})
    Kernel.from_config(plain, installed=INSTALLED)


@pytest.mark.claim("C-dp-21")
def test_shares_that_everybody_sees_are_refused() -> None:
    assert refused(configured({"mode": "distributed", "honest": 5, **BUDGET})) == {"QRES-E303"}


@pytest.mark.control("C-dp-22")
def test_weights_are_refused() -> None:
    options = {"mode": "distributed", "honest": 5, **BUDGET}
    assert "QRES-E310" in refused(configured(options, weight_cap=10))


DIST60 = """
[swarm]
name = "dist"
nodes = 60
byzantine = 0
quorum = 42
[plugins.memory]
[plugins.ed25519]
[plugins.replay]
[plugins.dp]
mode = "distributed"
clip = 0.5
epsilon = 4.0
rounds = 60
delta = 1e-5
honest = 41
[plugins.secagg]
bound = 8.0
noise_room = 200.0
corrupt = 0.3
dropout = 0.03
[plugins.mean]
unprotected = true
"""


@pytest.mark.claim("C-dp-12")
@pytest.mark.skipif(
    not {"secagg", "ed25519", "replay"} <= INSTALLED.keys(), reason="plugins not installed"
)
def test_nodes_that_may_collude_are_not_counted_on_and_the_number_named_starts() -> None:
    raw = tomllib.loads(DIST60)
    with pytest.raises(CompatibilityError) as error:
        Kernel.from_config(parse(raw, source="test"), installed=INSTALLED)
    (problem,) = error.value.problems
    assert problem.where == "plugins.dp.honest"
    assert "18 of them may know their own" in problem.what
    found = re.match(r"honest <= (\d+),", problem.fix)
    assert found is not None
    raw["plugins"]["dp"]["honest"] = int(found[1])
    config = parse(raw, source="test")
    kernel = Kernel.from_config(config, installed=INSTALLED)
    # In a round the plugin counts as the solver does; secure aggregation too, see
    # tests/integration/test_colluders.py.
    roster, dp = make_node_ids(60), Dp(**raw["plugins"]["dp"])
    dp.setup(NodeInfo(roster[0], "dist", roster, colluding=kernel.solution.colluding))
    opening = RoundInfo("dist", 1, bytes(32), 650, 0, roster, 42)
    assert dp._release.around(opening).colluders == 18
    dp.teardown()
    # The control: where nobody is taken for colluding, 41 shares are secret.
    raw["plugins"]["dp"]["honest"] = 41
    raw["plugins"]["secagg"]["corrupt"] = 0.0
    Kernel.from_config(parse(raw, source="test"), installed=INSTALLED)


@pytest.mark.skipif(
    not {"secagg", "ed25519", "replay"} <= INSTALLED.keys(), reason="plugins not installed"
)
def test_behind_secure_aggregation_shares_are_the_noise_of_the_sum() -> None:
    swarm = {"name": "lab", "nodes": 7, "quorum": 6, "byzantine": 1, "scale": -6}
    dp = {"mode": "distributed", "clip": 1.0, "delta": 1e-6, "honest": 5, **BUDGET}
    plugins = {"memory": {}, "ed25519": {}, "replay": {}, "mean": {"unprotected": True}}
    secagg = {"bound": 2000.0, "noise_room": 4000.0}
    config = parse(
        {"swarm": swarm, "plugins": {**plugins, "dp": dp, "secagg": secagg}}, source="test"
    )
    result = played(config, 1)
    (record,) = [record for record in result.rounds if record.closed]
    assert record.accepted >= 6
    multiplier = accounting.calibrate(8.0, 1e-6, 3)
    assert record.plugins["dp"]["epsilon"] == accounting.epsilon(multiplier, 1, 1e-6)
    assert len(set(result.model_digests)) == 1


@attrs.define(eq=False)
class Stunt:
    """Cuts off what is far from zero, as a plugin may that saves bytes."""

    most: int = 1000
    is_harmless: bool = False

    @property
    def claims(self) -> Claims:
        return Claims(tolerates=None, privatizes=Privatizes(keeps=self.is_harmless))

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        del round_info
        cut = np.clip(update.vector, -self.most, self.most)
        return attrs.evolve(update, vector=cut)


@pytest.mark.skipif(
    not {"secagg", "ed25519", "replay"} <= INSTALLED.keys(), reason="plugins not installed"
)
def test_what_changes_shares_of_noise_is_refused_and_would_leave_too_little_noise() -> None:
    installed = {**INSTALLED, "stunt": Installed.local("stunt", Stunt)}
    dp = {"mode": "distributed", "clip": 1.0, "delta": 1e-6, "honest": 5, **BUDGET}

    def started(*order: str, **options: Any) -> Kernel:
        tables = {"dp": {**dp, **options.pop("dp", {})}, "stunt": options}
        tables["secagg"] = {"bound": 2000.0, "noise_room": 4000.0}
        first: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}}
        plugins = {**first, **{name: tables[name] for name in order}, "mean": {}}
        swarm = {"name": "lab", "nodes": 7, "quorum": 6, "byzantine": 0, "scale": -6}
        return Kernel.from_config(
            parse({"swarm": swarm, "plugins": plugins}, source="t"), installed=installed
        )

    with pytest.raises(CompatibilityError, match=r"QRES-E314 .*plugins\.stunt may change") as error:
        started("dp", "stunt", "secagg")
    assert "put [plugins.stunt] before [plugins.dp]" in str(error.value)
    # Before the noise, without such shares, or where it keeps what has noise, it may be there.
    assert started("stunt", "dp", "secagg")
    assert started("dp", "stunt", "secagg", dp={"mode": "local", "honest": 0})
    assert started("dp", "stunt", "secagg", is_harmless=True)
    # The control: what such a plugin makes of shares adds up to less noise than is accounted for.
    roster, plugin = make_node_ids(7), Dp(**{**dp, "rounds": 60})
    plugin.setup(NodeInfo(roster[0], "lab", roster))
    size = 16_000  # a tenth of the variance is nine deviations of what is measured
    info = RoundInfo("lab", 1, bytes(32), size, -6, roster, 6)
    plugin.round_opened(info, OwnContributions())
    mechanism = plugin._release.fitted(info)
    shares = [plugin.privatize(Update(np.zeros(size, np.int32)), info) for _ in range(5)]
    stunt = Stunt(most=int(mechanism.share**0.5))
    for found, is_enough in ((shares, True), ([stunt.privatize(s, info) for s in shares], False)):
        total = np.sum([item.vector.astype(np.float64) for item in found], axis=0)
        assert (float(np.var(total)) > 0.9 * float(mechanism.variance)) == is_enough
    plugin.teardown()


ENCODED: dict[str, Any] = {
    "mode": "distributed",
    "clip": 1.0,
    "delta": 1e-6,
    "honest": 5,
    "epsilon": 8.0,
    "rounds": 8,
    "noise": "correlated",
    "band": 4,
    "separation": 4,
}


def encoded(secagg: dict[str, Any] | None = None, **others: Any) -> Config:
    swarm = {"name": "lab", "nodes": 7, "quorum": 6, "byzantine": 0, "scale": -6}
    plugins: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}, "dp": ENCODED}
    plugins["secagg"] = {"bound": 2000.0, "noise_room": 4000.0, **(secagg or {})}
    return parse({"swarm": swarm, "plugins": {**plugins, **(others or {"mean": {}})}}, source="t")


needs_secagg = pytest.mark.skipif(
    not {"secagg", "ed25519", "replay"} <= INSTALLED.keys(), reason="plugins not installed"
)


@needs_secagg
def test_encoded_updates_are_decoded_to_one_model_behind_secure_aggregation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node misses the first change of the model, and takes three models from the others."""
    closed, changes = EncodedRelease.closed, EncodingMemory.changes
    forgetful, lacked = set[bytes](), list[tuple[int, str]]()

    def miss(self: EncodedRelease, outcome: Outcome) -> None:
        forgetful.update([] if forgetful else [self.by.node])
        if self.by.node not in forgetful or outcome.round_info.step > 0:
            closed(self, outcome)

    def count(self: EncodingMemory, step: int, model: bytes) -> Sequence[Vector]:
        try:
            return changes(self, step, model)
        except RoundError as error:
            lacked.append((step, error.code))
            raise

    monkeypatch.setattr(EncodedRelease, "closed", miss)
    monkeypatch.setattr(EncodingMemory, "changes", count)
    result = played(encoded(), 6)
    assert [record.closed for record in result.rounds] == [True] * 6
    assert len(set(result.model_digests)) == 1
    assert lacked == [(step, "QRES-E608") for step in (1, 2, 3)]
    shown = [record.plugins["dp"]["epsilon"] for record in result.rounds]
    assert shown == sorted(shown)
    assert 0 < shown[-1] <= 8.0


@needs_secagg
@pytest.mark.control("C-dp-28")
def test_what_encoded_updates_need_is_refused_by_name_with_the_numbers() -> None:
    narrow = {"bound": 64.0, "noise_room": 100.0}
    with pytest.raises(CompatibilityError) as error:
        Kernel.from_config(encoded(narrow), installed=INSTALLED)
    fixes = {problem.where: problem.fix for problem in error.value.problems}
    room = re.search(r"noise_room >= ([\d.]+)", fixes["plugins.secagg.noise_room"])
    assert room is not None
    assert float(room[1]) > 100
    wide = {"bound": 64.0, "noise_room": float(room[1])}
    Kernel.from_config(encoded(wide), installed=INSTALLED)


@needs_secagg
@pytest.mark.claim("C-dp-28")
@pytest.mark.skipif("median" not in INSTALLED, reason="plugins not installed")
def test_encoded_updates_are_refused_in_groups_and_beside_other_rules() -> None:
    assert "QRES-E303" in refused(encoded({"group_size": 7, "min_size": 6}))
    assert "QRES-E303" in refused(encoded(median={"f": 0}))
