"""A simulation that is saved has a model, and goes on after a break as if there was none."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import canonical
from qres_core.attacks import (
    ATTACKS,
    AttackContext,
    Forgery,
    catalogue,
    make_attack,
    sabotages,
    send,
)
from qres_core.attacks.memory import recall, remember
from qres_core.attacks.registry import describe
from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError, ConfigError, LabError, ModelError, QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.kernel import Kernel
from qres_core.lab.checkpoint import CHECKPOINT, MODEL
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.context.model_proof import verify
from qres_core.swarm.storage.model_file import SwarmModel
from qres_core.training.momentum import with_momentum
from qres_core.training.tasks import TaskConfig, make_task

SEED = 5
DIGITS = TaskConfig(local_epochs=1)
ENGINES = ("events", "vectorised")
MEDIAN: dict[str, Any] = {"memory": {}, "median": {"f": 1}}
SIGNED: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}, "median": {"f": 1}}
DP = {"mode": "local", "clip": 0.01, "delta": 1e-5, "noise_multiplier": 1.0, "rounds": 20}


class StoppedError(Exception):
    """Somebody pulls the plug."""


def configured(plugins: dict[str, Any], **swarm: Any) -> Config:
    raw = {
        "swarm": {
            "name": "resumed",
            "nodes": 5,
            "byzantine": 1,
            "quorum": 4,
            "insecure": "ed25519" not in plugins,
            **swarm,
        },
        "plugins": plugins,
    }
    return parse(raw, source="test")


def played(
    plugins: dict[str, Any],
    *,
    save: Path | None = None,
    resume: Path | None = None,
    stop_at: int | None = None,
    **scenario: Any,
) -> SimulationResult:
    config = configured(plugins)
    task = make_task(DIGITS, nodes=5, seed=SEED)

    def progress(record: RoundRecord) -> None:
        if stop_at is not None and record.number >= stop_at:
            raise StoppedError

    scene = Scenario(**{"rounds": 5, "seed": SEED, **scenario})
    return simulate(config, scene, task=task, progress=progress, save=save, resume=resume)


def digests(result: SimulationResult) -> list[str]:
    return [record.model_digest for record in result.closed]


CASES = [
    pytest.param(MEDIAN, {}, marks=pytest.mark.long),
    (SIGNED, {}),
    pytest.param(MEDIAN, {"attack": "sign_flip", "attackers": 1}, marks=pytest.mark.long),
    (MEDIAN, {"attack": "gaussian", "attackers": 1}),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("plugins", "scenario"), CASES)
def test_interrupted_and_resumed_is_as_played_through(
    tmp_path: Path, engine: str, plugins: dict[str, Any], scenario: dict[str, Any]
) -> None:
    scenario = {**scenario, "engine": engine}
    whole = played(plugins, **scenario)
    for stop_at in (2, 3):
        folder = tmp_path / str(stop_at)
        with pytest.raises(StoppedError):
            played(plugins, save=folder, stop_at=stop_at, **scenario)
        assert SwarmModel.load(folder / MODEL).step == stop_at
        again = played(plugins, resume=folder, **scenario)
        assert digests(again) == digests(whole)
        assert [item.metrics for item in again.rounds] == [item.metrics for item in whole.rounds]
        assert len({*again.model_digests, *whole.model_digests}) == 1
        saved = SwarmModel.load(folder / MODEL)
        assert saved.digest.hex() == whole.model_digests[0]
        assert again.notices[-1].startswith(f"continues after model {stop_at}")


def test_other_random_streams_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: what the checkpoint restores is what makes them equal."""
    scenario = {"attack": "gaussian", "attackers": 1, "engine": "vectorised"}
    whole = played({"memory": {}, "mean": {"unprotected": True}}, **scenario)
    with pytest.raises(StoppedError):
        played(
            {"memory": {}, "mean": {"unprotected": True}},
            save=tmp_path / "a",
            stop_at=2,
            **scenario,
        )
    monkeypatch.setattr("qres_core.lab.checkpoint.Checkpoint.restore", lambda *_arguments: None)
    again = played({"memory": {}, "mean": {"unprotected": True}}, resume=tmp_path / "a", **scenario)
    assert digests(again)[:2] == digests(whole)[:2]
    assert digests(again)[2:] != digests(whole)[2:]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_trainers_say_that_they_keep_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def run(**where: Any) -> SimulationResult:
        task = make_task(DIGITS, nodes=5, seed=SEED)
        fading = tuple(with_momentum(trainer, 0.9) for trainer in task.trainers)
        task = attrs.evolve(task, trainers=fading)
        scene = Scenario(rounds=where.pop("rounds", 4), seed=SEED, engine=engine)
        return simulate(configured(MEDIAN), scene, task=task, **where)

    whole = run()
    run(save=tmp_path / "run", rounds=2)
    shutil.copytree(tmp_path / "run", tmp_path / "control")
    shutil.copytree(tmp_path / "run", tmp_path / "spoiled")
    assert digests(run(resume=tmp_path / "run")) == digests(whole)

    with monkeypatch.context() as patch:
        patch.setattr("qres_core.lab.checkpoint.Checkpoint.recall", lambda *_arguments: None)
        forgotten = digests(run(resume=tmp_path / "control"))
    assert forgotten[:2] == digests(whole)[:2]
    assert forgotten[2:] != digests(whole)[2:]

    path = tmp_path / "spoiled" / CHECKPOINT
    form, text, model, head, kept, _ = canonical.loads(path.read_bytes(), max_bytes=2**24)
    memories, plugins, attack = canonical.loads(kept, max_bytes=2**24)
    assert len(memories) == 5
    bad = ([memories[0][:-1], *memories[1:]], memories[1:], [b"x"] * 5, [1] * 5, {})
    other_plugins = (plugins[1:], [*plugins[1:], {"median": 1}], [*plugins[1:], 1], {})
    changed = [[each, plugins, attack] for each in bad]
    changed += [[memories, each, attack] for each in other_plugins]
    changed += [[memories, plugins, each] for each in (b"x", 1, None)]
    for spoiled in changed:
        octets = canonical.dumps(spoiled)
        checksum = hashlib.sha256(canonical.dumps([form, text, model, head, octets])).digest()
        path.write_bytes(canonical.dumps([form, text, model, head, octets, checksum]))
        with pytest.raises(ModelError, match="QRES-E605"):
            run(resume=tmp_path / "spoiled")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_simulation_may_go_on_for_more_rounds(tmp_path: Path, engine: str) -> None:
    whole = played(MEDIAN, rounds=4, engine=engine)
    played(MEDIAN, rounds=2, engine=engine, save=tmp_path / "run")
    assert digests(played(MEDIAN, rounds=4, engine=engine, resume=tmp_path / "run")) == digests(
        whole
    )
    nothing = played(MEDIAN, rounds=4, engine=engine, resume=tmp_path / "run")
    assert digests(nothing) == digests(whole), "all is done already"


def test_the_result_has_the_model(tmp_path: Path) -> None:
    seen: list[SwarmModel] = []
    config, task = configured(SIGNED, scale=-2), make_task(DIGITS, nodes=5, seed=SEED, scale=-2)
    result = simulate(
        config, Scenario(rounds=2, seed=SEED), task=task, on_model=seen.append, save=tmp_path / "a"
    )
    assert [model.step for model in seen] == [1, 2]
    assert result.model.digest.hex() == result.model_digests[0]
    assert task.evaluate(result.model.vector)["accuracy"] == result.final("accuracy")
    np.testing.assert_array_equal(result.model.weights, result.model.vector * 2.0**-18)
    with np.load(tmp_path / "a" / MODEL, allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["model"], result.model.weights)
    assert "model" not in json.loads(json.dumps(result.to_json()))

    # All honest nodes vouch; their keys follow from the seed, so that this shows the way, no more.
    roster = [voucher.sender.hex() for voucher in result.model.vouchers]
    known = configured({"ed25519": {}}, scale=-2, roster=roster)
    assert verify(SwarmModel.load(tmp_path / "a" / MODEL), known, 0.0).vouchers == 5


@pytest.mark.parametrize(("plugins", "engine"), [(MEDIAN, "events"), (SIGNED, "vectorised")])
def test_what_nobody_signed_is_refused_by_name(
    tmp_path: Path, plugins: dict[str, Any], engine: str
) -> None:
    played(plugins, rounds=1, engine=engine, save=tmp_path / "run")
    known = configured({"ed25519": {}}, roster=[f"{number:064x}" for number in range(5)])
    with pytest.raises(ModelError, match=r"QRES-E606.*no node signed it"):
        verify(SwarmModel.load(tmp_path / "run" / MODEL), known, 0.0)


def test_another_setting_is_refused_by_name(tmp_path: Path) -> None:
    played(MEDIAN, rounds=1, save=tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        played({**MEDIAN, "nnm": {"f": 1}}, resume=tmp_path / "run", seed=SEED + 1, loss=0.1)
    assert caught.value.code == "QRES-E105"
    where = {problem.where for problem in caught.value.problems}
    assert where == {"plugins.nnm.f", "simulation.loss", "simulation.seed"}
    other = make_task(TaskConfig(model="mlp"), nodes=5, seed=SEED)
    with pytest.raises(ConfigError, match="QRES-E105 first model"):
        simulate(
            configured(MEDIAN), Scenario(rounds=1, seed=SEED), task=other, resume=tmp_path / "run"
        )


def test_a_budget_of_privacy_is_not_begun_anew(tmp_path: Path) -> None:
    plugins = {"memory": {}, "dp": DP, "mean": {"unprotected": True}}
    with pytest.raises(StoppedError):
        played(plugins, engine="vectorised", save=tmp_path / "run", stop_at=1)
    (tmp_path / "run" / MODEL).write_bytes(b"mine")
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with pytest.raises(CompatibilityError, match=r"QRES-E317 plugins\.dp"):
        played(plugins, engine="vectorised", resume=tmp_path / "run")
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    assert (tmp_path / "run" / MODEL).read_bytes() == b"mine"


def test_what_begins_anew_is_told(tmp_path: Path) -> None:
    plugins = {**SIGNED, "reputation": {}}
    scenario = {"loss": 0.01, "attack": "gaussian", "attackers": 1}
    played(plugins, rounds=1, save=tmp_path / "run", **scenario)
    told = played(plugins, rounds=2, resume=tmp_path / "run", **scenario).notices
    anew = next(message for message in told if "lose their memory of earlier rounds: " in message)
    assert "replay" in anew
    assert "reputation" in anew
    assert "median" not in anew
    assert any("simulation.loss" in message for message in told)


SHORT = ("sign_flip", "ipm", "mimic", "searched", "noise", "replay")
CONTRADICTING = "duplicate"


def attacked(
    attack: str, engine: str, folder: Path, *wrappers: str, seed: int = SEED, **network: Any
) -> tuple[SimulationResult, SimulationResult]:
    """A run with two attackers, and one that goes on after a break."""
    plugins: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}}
    liars = 1 if wrappers else 2  # a wrapper asks for more updates
    plugins |= {name: {"f": liars} for name in (*wrappers, "median")}
    config = configured(plugins, nodes=7, byzantine=liars, quorum=5)
    labelled = {"label_flip", "backdoor", "backdoor_hidden", "backdoor_aside"}
    chosen = DIGITS if attack in labelled else TaskConfig(name="quadratic", dimension=5)
    task = make_task(chosen, nodes=7, seed=SEED)

    def play(rounds: int, **places: Path) -> SimulationResult:
        scene = Scenario(
            rounds=rounds, seed=seed, engine=engine, attack=attack, attackers=2, **network
        )
        return simulate(config, scene, task=task, **places)

    whole = play(4)
    play(2, save=folder)
    return whole, play(4, resume=folder)


def equal(whole: SimulationResult, again: SimulationResult) -> bool:
    """Whether both made the same models, four of them."""
    assert len(whole.closed) == 4
    assert digests(again)[:2] == digests(whole)[:2]
    return digests(again) == digests(whole)


@pytest.mark.parametrize(
    "attack",
    [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.long)
        for name in (*catalogue(), *sabotages())
        if name != CONTRADICTING
    ],
)
def test_attackers_go_on_as_if_there_was_no_break(attack: str, tmp_path: Path) -> None:
    """Every attack of the lab but one, in both engines where both play it."""
    for engine in ENGINES if attack in catalogue() else ENGINES[:1]:
        assert equal(*attacked(attack, engine, tmp_path / engine))


def test_that_contradictions_may_come_in_another_order_is_told(tmp_path: Path) -> None:
    whole, again = attacked(CONTRADICTING, "events", tmp_path / "run")
    assert not equal(whole, again)
    assert any("contradict each other" in note for note in again.notices)
    whole, again = attacked(CONTRADICTING, "vectorised", tmp_path / "control")
    assert equal(whole, again)
    assert not any("contradict each other" in note for note in again.notices)


def test_attackers_ahead_of_the_observer_go_on_from_where_they_were(tmp_path: Path) -> None:
    assert equal(*attacked("mimic", "events", tmp_path / "run", delay=1.0))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_attack_without_its_memory_would_show(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the checkpoint gives back to the attack is what makes them equal."""
    monkeypatch.setattr("qres_core.lab.adversary.recall", lambda *_arguments: None)
    assert not equal(*attacked("mimic", engine, tmp_path / "run"))


@pytest.mark.parametrize("mended", [True, False])
def test_attackers_draw_the_same_in_any_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """After a break they act in another order. In the control all draw from one stream."""
    streams = Experiment.stream
    common: dict[int, np.random.Generator] = {}

    def shared(self: Experiment, *purpose: int) -> np.random.Generator:
        if purpose == (2,):
            common[id(self)] = streams(self, 2)
        return common[id(self)] if purpose[0] in {2, 5} else streams(self, *purpose)

    if not mended:
        monkeypatch.setattr(Experiment, "stream", shared)
    found = [
        equal(
            *attacked("noise", "events", tmp_path / str(seed), "bucketing", seed=seed, jitter=0.1)
        )
        for seed in range(3)
    ]
    assert all(found) if mended else not all(found)


@attrs.define(eq=False)
class Grudge:
    """An attack that keeps what no checkpoint holds."""

    summary = "remembers"
    knowledge = "nothing"
    kept: object = attrs.field(factory=object, init=False)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Send what is trained."""
        return send(context, context.own.vector)


def test_an_attack_whose_memory_is_lost_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = describe("grudge", Grudge, summary="remembers", knowledge="nothing")
    monkeypatch.setitem(ATTACKS, "grudge", entry)
    with pytest.raises(
        CompatibilityError, match=r"QRES-E317 simulation\.attack.*'grudge' keeps kept, a object"
    ):
        attacked("grudge", "events", tmp_path / "run")


@pytest.mark.parametrize("memory", [b"", b"?", canonical.dumps(["", {"_rounds": ["int", "x"]}])])
def test_a_memory_that_is_not_the_attacks_is_refused(memory: bytes) -> None:
    with pytest.raises((ValueError, QresError)):
        recall(make_attack("mimic", None), "mimic", memory)


def test_what_an_attack_keeps_survives() -> None:
    for value in (None, True, -(2**70), 0.1, "x", b"x", np.arange(6.0).reshape(2, 3)):
        before, after = Grudge(), Grudge()
        before.kept = value
        recall(after, "grudge", remember(before))
        assert type(after.kept) is type(value)
        assert np.array_equal(after.kept, value) if isinstance(value, np.ndarray) else True
        assert isinstance(value, np.ndarray) or after.kept == value


def test_that_attackers_forget_what_they_heard_is_told(tmp_path: Path) -> None:
    scenario: dict[str, Any] = {"attack": "replay", "attackers": 1}
    for label, wanted in (("run", scenario), ("control", {})):
        played(MEDIAN, rounds=1, save=tmp_path / label, **wanted)
        told = played(MEDIAN, rounds=1, resume=tmp_path / label, **wanted).notices
        assert bool(wanted) == any("forgets the messages that it heard" in note for note in told)


def test_what_the_deadline_decided_is_told(tmp_path: Path) -> None:
    """Which contributions come in time depends on the delay of each message."""
    task = make_task(TaskConfig(name="quadratic", dimension=3), nodes=5, seed=SEED)
    told: list[tuple[str, ...]] = []
    for deadline, late in ((30.0, False), (0.9, True)):
        folder = tmp_path / str(deadline)
        config = configured(MEDIAN, deadline=deadline)
        scene = Scenario(rounds=2, seed=SEED, jitter=0.4)
        result = simulate(config, scene, task=task, save=folder)
        assert late == any(record.accepted < 5 for record in result.closed), "control"
        told.append(simulate(config, scene, task=task, resume=folder).notices)
    assert not any("arrived in time" in note for note in told[0])
    assert any("arrived in time" in note for note in told[1])


@pytest.mark.parametrize("mended", [True, False])
def test_what_all_keep_alike_is_not_taken_from_a_node_that_lacks_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """The first node took the last model from others. In the control its memory is kept."""
    clipping: dict[str, Any] = {"memory": {}, "centred_clipping": {"f": 1, "radius": 2.0}}
    clipping["centred_clipping"]["history"] = True
    lacks: list[bool] = []

    def agreed(engine: EventEngine) -> Kernel | None:
        lacks.append(not engine.observer.merged)
        return choose(engine) if mended else engine.observer.kernel

    chosen: Any = EventEngine._agreed
    choose: Callable[[EventEngine], Kernel | None] = chosen.fget
    monkeypatch.setattr(EventEngine, "_agreed", property(agreed))
    lossy: dict[str, Any] = {"loss": 0.25, "jitter": 0.3}
    for seed in range(40):
        played(clipping, save=tmp_path / str(seed), seed=seed, rounds=3, **lossy)
        if lacks[-1]:
            break
    assert lacks[-1]
    again = played(clipping, resume=tmp_path / str(seed), seed=seed, **lossy)
    assert len(again.closed) == (5 if mended else 3)


# ── folders ───────────────────────────────────────────────────────────────────────────────────


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(LabError, match="QRES-E803"):
            played(MEDIAN, save=place)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match=r"QRES-E605.*no checkpoint"):
            played(MEDIAN, resume=place)


BAD: list[Any] = [None, -1, 1.5, 2**64, -(2**70), math.nan, math.inf, "x", [], {}, {"a": 1}, True]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside: Any = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, inner in inside:
        yield (*path, key)
        yield from paths(inner, (*path, key))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.long
def test_a_checkpoint_that_somebody_wrote_anew_is_played_or_refused_by_name(
    tmp_path: Path, engine: str
) -> None:
    """Its checksum is right: whoever changes a checkpoint can change that too."""
    config = configured({"memory": {}, "mean": {"unprotected": True}})
    task = make_task(TaskConfig(name="quadratic", dimension=3), nodes=5, seed=SEED)
    scene = Scenario(rounds=1, seed=SEED, engine=engine)
    simulate(config, scene, task=task, save=tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    form, text, model, head, kept, _ = canonical.loads(path.read_bytes(), max_bytes=2**20)

    def play(facts: Any) -> None:
        text = json.dumps(facts)
        checksum = hashlib.sha256(canonical.dumps([form, text, model, head, kept])).digest()
        path.write_bytes(canonical.dumps([form, text, model, head, kept, checksum]))
        simulate(config, scene, task=task, resume=tmp_path / "run")

    play(json.loads(text))  # control
    refused: set[str] = set()
    codes: set[str] = set()
    for place in paths(json.loads(text)):
        if place[0] == "settings" and len(place) > 1:
            continue
        for bad in BAD:
            facts = json.loads(text)
            inner = facts
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = bad
            try:
                play(facts)
            except QresError as error:
                codes.add(error.code)
                refused.add(str(place[0]))
    assert codes == {"QRES-E105", "QRES-E605"}
    assert refused == {"settings", "number", "now", "streams", "counts", "records"}


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    config = configured({"memory": {}, "mean": {"unprotected": True}})
    task = make_task(TaskConfig(name="quadratic", dimension=3), nodes=5, seed=SEED)
    scene = Scenario(rounds=1, seed=SEED, engine="vectorised")
    simulate(config, scene, task=task, save=tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    content = path.read_bytes()
    simulate(config, scene, task=task, resume=tmp_path / "run")  # control
    rng = np.random.default_rng(SEED)
    for at in [*range(0, len(content), 37), len(content) - 1]:
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ModelError, match="QRES-E605"):
            simulate(config, scene, task=task, resume=tmp_path / "run")
    for cut in (0, 1, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError, match="QRES-E605"):
            simulate(config, scene, task=task, resume=tmp_path / "run")
