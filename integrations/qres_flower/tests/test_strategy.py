"""A strategy inside ours: what it gets, what clients that lie change, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Krum, Strategy
from qres_flower import QresStrategy
from small_flower import (
    SEED,
    MemoryGrid,
    Reply,
    arrays_of,
    honest,
    initial,
    numbers,
    returning,
    scaled,
    write,
)

from qres_core.errors import CompatibilityError, ValueRefusedError

pytestmark = pytest.mark.usefixtures("in_run")


def started(strategy: Strategy, grid: MemoryGrid, rounds: int = 1) -> Any:
    return strategy.start(grid, initial(), num_rounds=rounds)


def wrapped(config: Path, inner: Strategy | None = None, **options: Any) -> QresStrategy:
    made = inner or FedAvg(min_train_nodes=1, min_available_nodes=1)
    return QresStrategy(made, config, lab_seed=SEED, **options)


def four(*liars: Reply) -> list[Reply]:
    return [*[honest(index) for index in range(4 - len(liars))], *liars]


def test_without_liars_a_mean_is_that_of_flower(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml", "[plugins.mean]", byzantine=0)
    ours = started(wrapped(config), MemoryGrid.of(four(), config), 3)
    theirs = started(FedAvg(), MemoryGrid.of(four(), None), 3)
    found, expected = numbers(ours.arrays), numbers(theirs.arrays)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=2**-15)
    assert ours.train_metrics_clientapp[3]["loss"] == pytest.approx(0.625)
    assert ours.evaluate_metrics_clientapp[3]["loss"] == pytest.approx(0.625)


def test_arrays_keep_names_shapes_and_dtypes(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    found = numbers(started(wrapped(config), MemoryGrid.of(four(), config), 2).arrays)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
        name: (a.shape, a.dtype) for name, a in numbers(initial()).items()
    }
    assert found["steps"] == 2
    # Flower's own FedAvg makes a float of an integer: the control.
    theirs = started(FedAvg(), MemoryGrid.of(four(), None), 2)
    assert numbers(theirs.arrays)["steps"].dtype == np.float64


@pytest.mark.claim("C-flower-1")
@pytest.mark.control("C-flower-1")
def test_a_liar_moves_fedavg_and_not_ours(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    liar = returning(scaled)
    ours = numbers(started(wrapped(config), MemoryGrid.of(four(liar), config)).arrays)
    theirs = numbers(started(FedAvg(), MemoryGrid.of(four(liar), None)).arrays)
    expected = np.array([[1.5, -0.5], [0.25, 1.0]])
    assert np.abs(ours["weight"] - expected).max() < 0.05
    assert np.abs(theirs["weight"] - expected).max() > 10


@pytest.mark.claim("C-flower-3")
@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        (lambda v: {**v, "weight": v["weight"] * np.nan}, "QRES-E501", "weight"),
        (lambda v: {**v, "bias": np.float64("inf")}, "QRES-E501", "bias"),
        (lambda v: {**v, "weight": np.zeros((4,), np.float32)}, "QRES-E502", "weight"),
        (lambda v: {n: a for n, a in v.items() if n != "bias"}, "QRES-E502", "bias"),
        (lambda v: {**v, "more": np.zeros(2)}, "QRES-E502", "more"),
        (lambda v: {**v, "weight": np.zeros((2, 2), complex)}, "QRES-E503", "weight"),
    ],
)
def test_a_bad_array_leaves_its_client_out_by_name(
    tmp_path: Path, change: Any, code: str, name: str
) -> None:
    config = write(tmp_path / "qres.toml")
    strategy = wrapped(config)
    result = started(strategy, MemoryGrid.of(four(returning(change)), config))
    (found,) = strategy.rounds
    assert found.merged == (100, 101, 102)
    assert code in found.left_out[103]
    assert name in found.left_out[103]
    assert np.isfinite(numbers(result.arrays)["weight"]).all()


@pytest.mark.claim("C-flower-3")
def test_a_client_without_the_mod_does_not_count(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), MemoryGrid.of(four(), config)
    bare = MemoryGrid.of(four(), None)
    grid.clients = {**grid.clients, 103: bare.clients[103]}
    started(strategy, grid)
    assert strategy.rounds[0].left_out == {103: "host:no-qres-mod"}
    assert strategy.rounds[0].merged == (100, 101, 102)


def test_below_the_quorum_the_model_stays(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), MemoryGrid.of(four(), config)
    grid.silent = {102, 103}
    result = started(strategy, grid)
    assert "quorum" in strategy.rounds[0].reason
    assert len(result.arrays) == 0
    grid.silent = set()
    assert len(started(strategy, grid).arrays) == 3


def test_a_client_that_fails_is_reported_as_flower_does(tmp_path: Path) -> None:
    def failing(_message: Any, _context: Any) -> Any:
        raise RuntimeError("no data here")

    config = write(tmp_path / "qres.toml")
    strategy = wrapped(config)
    started(strategy, MemoryGrid.of(four(failing), config))
    assert strategy.rounds[0].left_out == {103: "no data here"}
    assert strategy.rounds[0].merged == (100, 101, 102)


@pytest.mark.parametrize("cap", [1, 20])
def test_claims_of_examples_count_up_to_the_cap(tmp_path: Path, cap: int) -> None:
    rules = "[plugins.mean]"
    config = write(tmp_path / "qres.toml", rules, byzantine=0, swarm=f"weight_cap = {cap}")
    greedy = returning(lambda values: {**values, "bias": np.float64(1.0)}, claimed=10**9)
    result = started(wrapped(config), MemoryGrid.of(four(greedy), config))
    others = [(1.0 + index / 128) / 2 for index in range(3)]
    weight = min(10, cap)
    expected = (weight * sum(others) + cap * 1.0) / (3 * weight + cap)
    assert numbers(result.arrays)["bias"] == pytest.approx(expected, abs=2**-15)


@pytest.mark.control("C-flower-5")
def test_an_optimiser_inside_takes_its_step_from_the_merged_model(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    liar = returning(scaled)
    ours = numbers(started(wrapped(config, FedAdam()), MemoryGrid.of(four(liar), config)).arrays)
    # What FedAdam makes of the median alone.
    grid = MemoryGrid.of([honest(1)], None)
    alone = FedAdam(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    expected = numbers(started(alone, grid).arrays)
    np.testing.assert_allclose(ours["weight"], expected["weight"], atol=1e-3)


def test_fedprox_still_tells_its_clients_mu(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    grid = MemoryGrid.of(four(), config)
    started(wrapped(config, FedProx(proximal_mu=0.25)), grid)
    train = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert {next(iter(m.content.config_records.values()))["proximal-mu"] for m in train} == {0.25}


@pytest.mark.claim("C-flower-5")
def test_what_needs_single_replies_is_refused_inside(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    with pytest.raises(CompatibilityError, match=r"QRES-E323.*Krum"):
        QresStrategy(Krum(num_malicious_nodes=1), config, lab_seed=SEED)
    with pytest.raises(CompatibilityError, match="QRES-E323"):
        QresStrategy(wrapped(config), config, lab_seed=SEED)
    logged = FedAvg()
    logged.strategy = Krum(num_malicious_nodes=1)  # as a wrapper names what is inside it
    with pytest.raises(CompatibilityError, match=r"QRES-E323.*Krum"):
        QresStrategy(logged, config, lab_seed=SEED)


@pytest.mark.parametrize(
    "whole",
    [
        np.array([2**63 - 1, 0], np.int64),
        np.array([-(2**63), 0], np.int64),
        np.array([2**64 - 1, 0], np.uint64),
        np.array([2**53 + 1, 0], np.int64),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_whole_numbers_that_nobody_changed_survive(tmp_path: Path, whole: Any, step: int) -> None:
    def training(message: Message, _context: Any) -> Message:
        content = RecordDict({"metrics": MetricRecord({"num-examples": 10})})
        if message.metadata.message_type.startswith("train"):
            found = numbers(message.content["arrays"])
            moving = np.array([0, step], whole.dtype)
            content["arrays"] = arrays_of(
                {"weight": found["weight"] + np.float32(1), "seed": found["seed"] + moving}
            )
        return Message(content, reply_to=message)

    config = write(tmp_path / "qres.toml")
    first = arrays_of({"weight": np.zeros(2, np.float32), "seed": whole})
    found = wrapped(config).start(MemoryGrid.of([training] * 4, config), first, num_rounds=2)
    seed = numbers(found.arrays)["seed"]
    assert seed.dtype == whole.dtype
    assert seed.tolist() == [int(whole[0]), 2 * step]


def test_a_first_model_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    first = arrays_of({"weight": np.zeros(2), "best": np.array([np.inf])})
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 arrays\['best'\]"):
        wrapped(config).start(MemoryGrid.of(four(), config), first, num_rounds=1)


def test_a_folder_is_given_back_at_the_end(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    folder = tmp_path / "data"
    config.write_text(f'{config.read_text("utf-8")}\n[node]\ndata_dir = "{folder}"\n', "utf-8")
    for _run in range(2):
        strategy = wrapped(config)
        started(strategy, MemoryGrid.of(four(), config))
        assert len(strategy.rounds[0].merged) == 4


def evaluating(figures: dict[str, Any]) -> Reply:
    """Honest in training, and tells this of the evaluation."""

    def reply(message: Message, context: Any) -> Message:
        if message.metadata.message_type.startswith("train"):
            return honest(3)(message, context)
        return Message(RecordDict({"metrics": MetricRecord(figures)}), reply_to=message)

    return reply


@pytest.mark.claim("C-flower-3")
@pytest.mark.parametrize(
    "figures",
    [
        {"num-examples": 10, "evil": 1.0},
        {"num-examples": 10},
        {"num-examples": 10, "loss": [1.0, 2.0]},
        {"num-examples": 10, "loss": []},
        {"num-examples": 10, "loss": float("nan")},
        {"num-examples": 10, "loss": float("inf")},
        {"num-examples": [10], "loss": 0.5},
        {"num-examples": float("nan"), "loss": 0.5},
        {"num-examples": -1, "loss": 0.5},
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_figures_of_a_liar_neither_end_the_run_nor_replace_those_of_others(
    tmp_path: Path, figures: dict[str, Any], place: int
) -> None:
    config = write(tmp_path / "qres.toml", swarm="weight_cap = 100")
    replies = four()[:3]
    replies.insert(place, evaluating(figures))
    grid = MemoryGrid.of(replies, config)
    result = started(wrapped(config), grid, 2)
    assert set(result.evaluate_metrics_clientapp) == {1, 2}
    for means in result.evaluate_metrics_clientapp.values():
        assert means == {"loss": pytest.approx(0.5)}
    # The control: what Flower makes of the same replies, where it says anything of them.
    if "evil" in figures:
        with pytest.raises(Exception, match=r"."):
            started(FedAvg(), MemoryGrid.of(four(evaluating(figures)), None), 2)


def test_clients_never_see_our_record(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def looking(message: Any, context: Any) -> Any:
        seen.append(set(message.content))
        return honest(3)(message, context)

    config = write(tmp_path / "qres.toml")
    started(wrapped(config), MemoryGrid.of(four(looking), config))
    assert seen == [{"arrays", "config"}] * 2


def test_no_model_of_a_client_leaves_it(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    grid = MemoryGrid.of(four(), config)
    caught: list[Any] = []

    def copied(replies: list[Any]) -> list[Any]:
        caught.extend(dict(reply.content.items()) for reply in replies)
        return replies

    grid.on_the_way = copied
    started(wrapped(config), grid)
    assert all(set(content) == {"qres"} for content in caught)
