"""Unit record: one example moves what a node sends by at most the clip, exactly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from qres_dp import Dp, accounting
from qres_dp.account import PrivacyAccount
from qres_dp.fitting import refuse
from qres_dp.releases import local
from qres_lab.testing import make_node_ids

from qres_core import NodeInfo, OwnContributions, RoundInfo, Surroundings, Update, Vector, fixed
from qres_core.attacks.scenario import Scenario
from qres_core.cli.app import app
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab import simulator
from qres_core.training import RecordClip, Trainer, by_record
from qres_core.training.models import Softmax
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.tasks import TaskConfig

MODES = ["local", "distributed"]
NODES, CLIP, MOST = 5, 0.02, 40
KEY = bytes(range(32))


def plugin(mode: str, **options: Any) -> Dp:
    """A node's plugin, set up; its budget is for a thousand rounds."""
    roster = make_node_ids(NODES)
    chosen: dict[str, Any] = {"unit": "record", "records": MOST, "rounds": 1000}
    chosen |= {"mode": mode, "clip": CLIP, "delta": 1e-6, "noise_multiplier": 4.0}
    chosen |= {"honest": NODES - 1} if mode == "distributed" else {}
    chosen |= options
    if chosen.pop("z", True) is None:
        del chosen["noise_multiplier"]
    made = Dp(**chosen)
    clipped = made.claims.needs.records
    made.setup(NodeInfo(roster[0], "lab", roster, clipped=clipped))
    return made


def a_round(dimension: int) -> RoundInfo:
    return RoundInfo("lab", 1, bytes(32), dimension, 0, make_node_ids(NODES), NODES)


def trainer(examples: int = MOST) -> NumpyTrainer:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(examples, 6)) * 3.0, rng.integers(0, 4, examples)
    return NumpyTrainer(
        model=Softmax(6, 4),
        x=x,
        y=y,
        test_x=x,
        test_y=y,
        local_epochs=1,
        batch_size=10,
        learning_rate=0.5,
    )


def without(item: NumpyTrainer, index: int) -> NumpyTrainer:
    return attrs.evolve(
        item, x=np.delete(item.x, index, axis=0), y=np.delete(item.y, index, axis=0)
    )


@pytest.fixture
def same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "fresh_key", lambda: KEY)


def squared(vector: Any) -> int:
    return sum(int(value) ** 2 for value in vector)


def farthest(mode: str, clips: Callable[[Trainer], Trainer]) -> int:
    """How far what is sent moves when a record is taken away: the greatest squared distance."""
    dp, item = plugin(mode), trainer()
    model = fixed.encode(item.model.initial(np.random.default_rng(5))).vector

    def sent(data: NumpyTrainer) -> Vector:
        update = clips(data).fit(model, a_round(model.size))
        assert update is not None
        return dp.privatize(update, a_round(model.size)).vector

    whole = sent(item).astype(object)
    return max(squared(whole - sent(without(item, i))) for i in range(0, MOST, 4))


@pytest.mark.claim("C-dp-18")
@pytest.mark.usefixtures("same_keys")
@pytest.mark.parametrize("mode", MODES)
def test_a_record_moves_what_is_sent_by_at_most_the_clip(mode: str) -> None:
    clip = plugin(mode).claims.needs.records
    assert clip == RecordClip(CLIP, MOST)
    allowed = clip.steps(0) ** 2
    assert 0.8 * allowed < farthest(mode, lambda item: by_record(item, clip)) <= allowed
    # The control: a trainer that clips no examples, behind the plugin's clip of the whole update.
    assert farthest(mode, lambda item: item) > 4 * allowed


@pytest.mark.parametrize("mode", MODES)
def test_a_node_adds_noise_for_one_record(mode: str) -> None:
    """The same as for an update that is clipped to one record's clip, and not for all records."""
    dp = plugin(mode)
    sent = dp.privatize(Update(np.zeros(40_000, dtype=np.int32)), a_round(40_000)).vector
    shares = NODES - 1 if mode == "distributed" else 1
    expected = 4.0 * RecordClip(CLIP, 1).steps(0) / math.sqrt(shares)
    assert float(sent.std()) == pytest.approx(expected, rel=0.03)


def test_a_local_release_hides_which_records_there_are_and_not_who_sent_it() -> None:
    assert plugin("local").status()["relation"] == "add-remove"
    assert plugin("local", relation="replace-one").status()["relation"] == "replace-one"
    assert plugin("local", unit="node", records=0).status()["relation"] == "replace-one"
    with pytest.raises(CompatibilityError, match="only its data can be hidden"):
        plugin("local", unit="node", records=0, relation="add-remove")


@pytest.mark.usefixtures("same_keys")
@pytest.mark.parametrize("mode", MODES)
def test_an_update_is_as_long_as_all_records_at_most(mode: str) -> None:
    dp, bound = plugin(mode), RecordClip(CLIP, MOST).steps(0)
    info = a_round(50)

    def clipped(length: int) -> Vector:
        vector = np.zeros(50, dtype=np.int32)
        noise = dp.privatize(Update(vector), info).vector
        vector = vector.copy()
        vector[3] = length
        moved: Vector = dp.privatize(Update(vector), info).vector - noise
        return moved

    assert clipped(MOST * bound)[3] == MOST * bound  # an honest node's sum is left alone
    assert 0 <= MOST * bound - clipped(10 * MOST * bound)[3] <= 1


def test_what_a_release_says_of_itself(tmp_path: Path) -> None:
    roster = make_node_ids(NODES)
    dp = Dp(mode="local", clip=CLIP, delta=1e-6, epsilon=4.0, rounds=3, unit="record", records=9)
    dp.setup(NodeInfo(roster[0], "lab", roster, data_dir=str(tmp_path)))
    dp.round_opened(a_round(50), OwnContributions())
    dp.privatize(Update(np.zeros(50, dtype=np.int32)), a_round(50))
    assert dp.status()["unit"] == "record"
    ledger = dp._release.ledger
    assert ledger is not None
    assert [record.charge.unit for record in ledger.records] == ["record"]
    assert [record.charge.bound for record in ledger.records] == [RecordClip(CLIP, 1).steps(0)]
    dp.teardown()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"records": 0}, "records is to be set with unit record"),
        ({"unit": "node"}, "records is to be set with unit record"),
        ({"delta": 1e-3, "records": 200}, "below 1 / 1000, swarm.nodes times plugins.dp.records"),
    ],
)
def test_what_does_not_go_with_records_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E314") as caught:
        plugin("distributed", **options)
    assert said in str(caught.value)


# ── whole swarms ──────────────────────────────────────────────────────────────────────────────────

INSTALLED = {**scan(), "dp": Installed.local("dp", Dp)}
DIGITS = TaskConfig(local_epochs=1, learning_rate=8.0, batch_size=300)
DP: dict[str, Any] = {
    "unit": "record",
    "records": 300,
    "clip": 8.0 / 300,
    "delta": 1e-5,
    "epsilon": 8.0,
    "rounds": 6,
}


def configured(dp: dict[str, Any], plugins: dict[str, Any], **swarm: Any) -> Config:
    usual = {"name": "lab", "nodes": 5, "quorum": 5, "byzantine": 0, "scale": -4}
    enabled = {"memory": {}, **plugins, "dp": {**DP, **dp}}
    if "secagg" in enabled:
        enabled["secagg"] = enabled.pop("secagg")  # after dp
    enabled["mean"] = {}
    return parse({"swarm": usual | swarm, "plugins": enabled}, source="test")


def test_hospitals_learn_without_trusting_anybody() -> None:
    """Mode local with a node as the unit learns nothing here; with records it does."""
    local_ = configured({"mode": "local"}, {}, insecure=True)
    result = simulator.simulate(
        local_, Scenario(rounds=6, seed=1), task=DIGITS, installed=INSTALLED
    )
    closed = [record for record in result.rounds if record.closed]
    assert len(closed) == 6
    assert closed[-1].metrics["accuracy"] > 0.6
    assert closed[-1].plugins["dp"]["epsilon"] <= 8.0
    assert closed[-1].plugins["dp"]["unit"] == "record"


@pytest.mark.skipif(
    not {"secagg", "ed25519", "replay"} <= INSTALLED.keys(), reason="plugins not installed"
)
def test_behind_secure_aggregation_records_are_hidden_in_the_sum() -> None:
    plugins = {"ed25519": {}, "replay": {}, "secagg": {"bound": 128.0, "noise_room": 4000.0}}
    config = configured({"mode": "distributed", "honest": 4}, plugins)
    result = simulator.simulate(
        config, Scenario(rounds=2, seed=1), task=DIGITS, installed=INSTALLED
    )
    closed = [record for record in result.rounds if record.closed]
    assert len(closed) == 2
    assert len(set(result.model_digests)) == 1
    multiplier = accounting.calibrate(8.0, 1e-5, 6)
    spent = accounting.epsilon(multiplier, 2, 1e-5)
    assert closed[-1].plugins["dp"]["epsilon"] == spent


def test_a_swarm_whose_trainer_has_no_examples_is_refused() -> None:
    task = TaskConfig(name="quadratic", dimension=64)
    with pytest.raises(CompatibilityError, match=r"QRES-E318 node-0: QuadraticTrainer"):
        simulator.simulate(
            configured({"mode": "local"}, {}, insecure=True),
            Scenario(rounds=1, seed=1),
            task=task,
            installed=INSTALLED,
        )


def test_a_node_that_does_not_clip_its_records_is_not_set_up() -> None:
    config = configured({"mode": "local"}, {}, insecure=True)
    kernel = Kernel.from_config(config, installed=INSTALLED)
    roster = make_node_ids(5)
    with pytest.raises(CompatibilityError, match=r"QRES-E318 plugins\.dp"):
        kernel.setup(NodeInfo(roster[0], "lab", roster))


def test_what_changes_an_update_after_its_records_were_clipped_is_refused() -> None:
    dp = Dp(**{**DP, "mode": "local"})
    around = Surroundings(nodes=5, byzantine=0, quorum=5, scale=-4, before=("quantize",))
    assert not list(dp.check(attrs.evolve(around, before=())))
    with pytest.raises(CompatibilityError, match=r"plugins\.quantize changes the update after"):
        refuse(dp.check(around))


CONFIG = """
[swarm]
name = "lab"
nodes = 5
quorum = 5
byzantine = 0
insecure = true
[trainer.task]
name = "{task}"
local_epochs = {epochs}
[plugins.memory]
[plugins.dp]
mode = "local"
unit = "record"
records = {records}
clip = 0.1
delta = 1e-5
epsilon = 4.0
rounds = 60
[plugins.mean]
"""


@pytest.mark.parametrize(
    ("task", "epochs", "records", "code"),
    [
        ("digits", 1, 300, ""),
        ("digits", 1, 200, "QRES-E318"),  # a node has 270
        ("digits", 5, 300, "QRES-E105"),
        ("quadratic", 1, 300, "QRES-E318"),
    ],
)
def test_check_says_whether_the_trainer_will_do(
    tmp_path: Path, task: str, epochs: int, records: int, code: str
) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(CONFIG.format(task=task, epochs=epochs, records=records))
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    assert result.exit_code == (2 if code else 0), result.output
    if code:
        assert code in result.output


# ── several records of a person ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_group_costs_what_its_distance_costs(size: int) -> None:
    """The oracle is the curve of the Gaussian mechanism at the group's distance (Balle, Wang)."""
    z, rounds, delta = 8.4, 60, 1e-5
    account = PrivacyAccount({z: rounds}, delta)
    epsilon = account.of_group(size)
    mu = size * math.sqrt(rounds) / z
    first, second = (
        0.5 * math.erfc((epsilon / mu + sign * mu / 2) / math.sqrt(2.0)) for sign in (-1, 1)
    )
    true = first - math.exp(epsilon + math.log(second))
    assert true == pytest.approx(delta, rel=1e-6)
    assert true <= delta * (1.0 + 1e-9)
    assert account.of_group(1) == account.epsilon


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_no_group_is_empty(size: Any) -> None:
    with pytest.raises(CompatibilityError, match="has no account"):
        PrivacyAccount({8.0: 60}, 1e-5).of_group(size)


def test_a_plan_says_what_it_promises_a_person_with_several_records() -> None:
    asked = ["dp", "plan", "--epsilon", "4", "--rounds", "60", "--unit", "record"]
    whole = ["--mode", "distributed", "--nodes", "10", "--honest", "9", "--dimension", "650"]
    whole += ["--clip", "0.02", "--records", "135"]
    shown = CliRunner().invoke(app, [*asked, *whole, "--json"])
    report = json.loads(shown.output)
    account = PrivacyAccount({report["noise_multiplier"]: 60}, 1e-5)
    expected = [{"size": n, "epsilon": account.of_group(n)} for n in (2, 5, 10)]
    assert report["groups"] == expected
    assert report["mechanism"]["unit"] == "record"
    assert report["mechanism"]["bound_steps"] == RecordClip(0.02, 1).steps(0)
    # Nine nodes in ten share the noise, and the longest mean is 135 clips.
    noise = report["mechanism"]["noise_of_mean"] * math.sqrt(650)
    assert report["mechanism"]["signal_to_noise"] == pytest.approx(135 * 0.02 / noise)
    told = CliRunner().invoke(app, asked).output
    printed = [re.search(rf"\b{n} records together epsilon (\S+)", told) for n in (2, 5, 10)]
    for group, found in zip(expected, printed, strict=True):
        assert found is not None
        assert group["epsilon"] <= float(found[1]) <= group["epsilon"] * (1.0 + 1e-5)
