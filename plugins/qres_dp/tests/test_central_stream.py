"""Correlated noise in mode central: the same on every node, also on one that missed rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp, accounting
from qres_dp.central_stream import FILE, CentralStream
from qres_dp.correlated import CorrelatedNoise
from qres_dp.stream import StreamShape

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    Outcome,
    RoundStatus,
    Update,
    Updates,
    ValueRefusedError,
    Vector,
)
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab import simulator
from qres_core.lab.scenario import Scenario
from qres_core.lab.tasks import TaskConfig

Arrive = Callable[[list[Update]], tuple[Updates, tuple[Contribution, ...]]]
Mean = Callable[[Updates], Vector]
OPTIONS: dict[str, Any] = {
    "mode": "central",
    "noise": "correlated",
    "band": 4,
    "separation": 4,
    "clip": 1.0,
    "epsilon": 4.0,
    "rounds": 6,
}
LONG = np.full(50, 10**6, dtype=np.int32)
SHAPE = StreamShape(6, 4, 4, 2.0, 0, 10**6, 8, apart=1)


def swarm(make_node: Callable[..., Any], count: int = 4, **options: Any) -> list[Any]:
    return [make_node(i, nodes=count, **{**OPTIONS, **options}) for i in range(count)]


def send(nodes: list[Any]) -> list[Update]:
    return [node.send(LONG) for node in nodes]


def merge(
    nodes: list[Any],
    sent: list[Update],
    arrive: Arrive,
    mean: Mean,
    status: RoundStatus = RoundStatus.CLOSED,
) -> Vector:
    """All nodes merge what was sent, and open the next round; what the model moves by."""
    arrival = arrive(sent)
    moves: dict[bytes, Vector] = {}
    for node in nodes:
        revealed = node.plugin.reveal(*arrival, node.info)
        move = node.plugin.wrap_aggregate(mean, revealed, node.info)
        moves[move.tobytes()] = move
        node.plugin.round_closed(Outcome(node.info, status, bytes(32)))
        node.next_round(step=node.info.step + (status is RoundStatus.CLOSED))
    assert len(moves) == 1
    return next(iter(moves.values()))


def test_a_swarm_spends_its_budget_on_the_stream(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    spent: list[float] = []
    for _round in range(6):
        merge(nodes, send(nodes), arrive, mean)
        spent.append(nodes[0].plugin.status()["epsilon"])
    assert spent == sorted(spent)
    assert 3.99 < spent[-1] <= 4.0
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        nodes[0].send(LONG)


def test_the_models_hold_the_sums_and_the_noise_of_the_keys(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    shape = nodes[0].plugin._release.stream(nodes[0].info).shape
    oracle = CorrelatedNoise(shape.factor, shape.variance, shape.dimension, shape.steps)
    assert shape.sensitivity == shape.bound  # a node is added or removed, not replaced
    for _round in range(5):
        sent = send(nodes)
        move = merge(nodes, sent, arrive, mean)
        noise = oracle.draw(nodes[0].plugin._release._stream._keys[-1])
        oracle.advance(noise)
        total = sum(frame.vector.astype(np.int64) for frame in sent) + noise
        assert np.abs(move - total / 4).max() <= 0.5


def test_nodes_take_turns_with_their_data(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    took: list[list[bool]] = []
    for _round in range(6):
        sent = send(nodes)
        took.append([bool(frame.vector.any()) for frame in sent])
        merge(nodes, sent, arrive, mean)
    for turns in zip(*took, strict=True):
        places = [place for place, took_part in enumerate(turns) if took_part]
        assert all(b - a == 4 for a, b in itertools.pairwise(places))
        assert 1 <= len(places) <= 2


@pytest.mark.parametrize("status", [RoundStatus.ABORTED, RoundStatus.VOID])
def test_an_attempt_without_a_model_stays_charged_costs_no_more_and_leaves_no_noise(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean, status: RoundStatus
) -> None:
    nodes = swarm(make_node)
    merge(nodes, send(nodes), arrive, mean)
    before = nodes[0].plugin.status()["epsilon"]
    merge(nodes, send(nodes), arrive, mean, status)
    attempted = nodes[0].plugin.status()["epsilon"]
    assert attempted > before
    merge(nodes, send(nodes), arrive, mean)
    assert nodes[0].plugin.status()["epsilon"] == attempted
    assert len(nodes[0].plugin._release._stream._keys) == 2


def test_a_node_that_missed_rounds_sits_out_once_and_merges_at_once(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    late = nodes[-1]
    sent = send(nodes)
    merge(nodes[:-1], sent, arrive, mean)  # the last node sent, and was then cut off
    late.next_round(step=1)
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        late.send(LONG)
    merge(nodes, send(nodes[:-1]), arrive, mean)  # the same result on all, asserted within
    merge(nodes, send(nodes), arrive, mean)


def test_liars_cannot_change_the_noise(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node, byzantine=1)
    merge(nodes, send(nodes), arrive, mean)
    sent = send(nodes)
    forged = Companion(bytes(64))  # a seed, and a history of other noise
    sent[0] = attrs.evolve(sent[0], companions={"dp": forged})
    merge(nodes, sent, arrive, mean)
    assert bytes(32) not in nodes[0].plugin._release._stream._keys
    # The control: as many as are promised not to lie, and nobody knows what is true.
    sent = [attrs.evolve(item, companions={"dp": Companion(bytes(96))}) for item in send(nodes)]
    stream = nodes[0].plugin._release._stream
    stream.hear(2, [frame.companions["dp"].body[32:] for frame in sent], 1)
    assert stream._keys == [bytes(32)] * 2


def test_a_node_that_starts_again_goes_on(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean, tmp_path: Path
) -> None:
    folders = [tmp_path / str(i) for i in range(4)]
    nodes = [
        make_node(i, nodes=4, data_dir=str(folder), **OPTIONS) for i, folder in enumerate(folders)
    ]
    for _round in range(3):
        merge(nodes, send(nodes), arrive, mean)
    for node, folder in zip(nodes, folders, strict=True):
        node.plugin.teardown()
        assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    again = [
        make_node(i, nodes=4, data_dir=str(folder), opened=False, **OPTIONS)
        for i, folder in enumerate(folders)
    ]
    for old, new in zip(nodes, again, strict=True):
        new.info = old.info
        new.plugin.round_opened(new.info)
    merge(again, send(again), arrive, mean)
    for node in again:
        node.plugin.teardown()


@pytest.mark.parametrize("damage", ["cut", "flip", "junk", "none"])
def test_a_file_that_is_damaged_is_learned_again(tmp_path: Path, damage: str) -> None:
    stream = CentralStream("lab", SHAPE, tmp_path)
    for number in range(3):
        stream.draw(bytes([number]) * 32)
        stream.closed()
    told = stream.testimony(3)
    sound = (tmp_path / FILE).read_bytes()
    octets = {
        "cut": sound[:-5],
        "flip": sound[:50] + bytes([sound[50] ^ 1]) + sound[51:],
        "junk": b"\xff" * 400,
        "none": sound,
    }[damage]
    (tmp_path / FILE).write_bytes(octets)
    again = CentralStream("lab", SHAPE, tmp_path)
    if damage == "none":
        assert again.testimony(3) == told
        assert CentralStream("other", SHAPE, tmp_path).testimony(0) == b""
    else:
        with pytest.raises(ValueRefusedError, match="QRES-E507"):
            again.testimony(3)
        again.hear(3, [told, told], 1)
    assert np.array_equal(again.draw(bytes(32)), stream.draw(bytes(32)))


def test_without_agreement_nothing_is_merged() -> None:
    stream = CentralStream("lab", SHAPE, None)
    for said in ([], [bytes(32)], [bytes(32)] * 2 + [b"\1" * 32] * 2, [bytes(31)] * 9):
        with pytest.raises(ValueRefusedError, match="QRES-E505"):
            stream.hear(1, said, 1)


def test_a_long_stream_does_not_fit_a_contribution() -> None:
    options: dict[str, Any] = {**OPTIONS, "delta": 1e-6, "rounds": 2**14 + 1}
    with pytest.raises(CompatibilityError, match="32 bytes"):
        Dp(**options)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_swarm_in_the_simulator(loss: float) -> None:
    dp = {**OPTIONS, "delta": 1e-6, "epsilon": 20.0}
    tables: dict[str, Any] = {"memory": {}, "dp": dp, "mean": {}}
    usual = {"name": "lab", "nodes": 5, "quorum": 4, "byzantine": 0, "scale": -6, "insecure": True}
    installed = {**scan(), "dp": Installed.local("dp", Dp)}
    task = TaskConfig(name="quadratic", dimension=32)
    result = simulator.simulate(
        parse({"swarm": usual, "plugins": tables}, source="test"),
        Scenario(rounds=5, seed=2, loss=loss),
        task=task,
        installed=installed,
    )
    assert len(result.closed) >= 4
    assert result.unanimous
    shown: Any = result.closed[-1].plugins["dp"]["epsilon"]
    assert 0.0 < shown <= 20.0


def test_what_a_step_costs_without_sampling() -> None:
    # The whole stream is one release of the multiplier: nothing of it is paid twice.
    paid = math.fsum(SHAPE.price(step) ** -2 for step in range(SHAPE.steps))
    assert accounting.epsilon(paid**-0.5, 1, 1e-6) <= accounting.epsilon(2.0, 1, 1e-6) * (1 + 1e-6)
