"""Sums that nobody can look behind, in a run of Flower: clients talk between two messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from qres_flower import QresStrategy
from small_flower import (
    SEED,
    MemoryGrid,
    arrays_of,
    honest,
    initial,
    numbers,
    returning,
    scaled,
    write,
)

from qres_core import Envelope, fixed
from qres_core.errors import CompatibilityError
from qres_core.swarm.ledger.messages import ContributionBody

pytestmark = pytest.mark.usefixtures("in_run")
SUMS = "[plugins.secagg]\n\n[plugins.mean]\n"
GROUPS = """
[plugins.secagg]
group_size = 3
min_size = 3
corrupt = 0.0
dropout = 0.0

[plugins.median]
f = 1
"""
NOISE = """[plugins.dp]
mode = "distributed"
honest = 3
clip = 4.0
delta = 1e-3
rounds = 2
noise_multiplier = 0.01

[plugins.secagg]
noise_room = 1.0

[plugins.mean]
"""
SIZE = 6
"""Numbers of the model."""


def inside(folder: Path, plugins: str = SUMS, **swarm: Any) -> Path:
    text = f'{plugins}\n[node]\ndata_dir = "{folder / "data"}"\n'
    options = {"nodes": 5, "byzantine": 0, "quorum": 4, **swarm}
    return write(folder / "qres.toml", text, **options)


def run(config: Path, grid: Any, rounds: int = 1) -> tuple[QresStrategy, Any]:
    inner = FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)
    strategy = QresStrategy(inner, config, lab_seed=SEED)
    return strategy, strategy.start(grid, initial(), num_rounds=rounds)


def clients(count: int, config: Path) -> Any:
    return LeavingGrid.of([honest(index) for index in range(count)], config)


@attrs.define(eq=False)
class LeavingGrid(MemoryGrid):
    """Clients that answer so many messages and no more, by Flower's id; and what was signed."""

    answers: dict[int, int] = attrs.field(factory=dict[int, int])
    calls: int = 0
    frames: list[bytes] = attrs.field(factory=list[bytes])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        self.silent = {node for node, most in self.answers.items() if self.calls >= most}
        self.calls += 1
        found = list(MemoryGrid.send_and_receive(self, messages, timeout=timeout))
        for reply in found:
            if not reply.has_error() and "qres" in reply.content:
                self.frames += reply.content["qres"].get("frames", [])
        return found


@pytest.mark.claim("C-flower-6")
def test_a_run_with_sums_learns_what_one_without_does(tmp_path: Path) -> None:
    (tmp_path / "sums").mkdir()
    config = inside(tmp_path / "sums")
    grid = clients(5, config)
    strategy, hidden = run(config, grid, 2)
    assert [each.merged for each in strategy.rounds] == [(100, 101, 102, 103, 104)] * 2
    plain = inside(tmp_path, "[plugins.mean]\n")
    _strategy, seen = run(plain, clients(5, plain), 2)
    for name, values in numbers(seen.arrays).items():
        assert np.array_equal(values, numbers(hidden.arrays)[name]), name


def vectors(grid: Any) -> list[Any]:
    """The updates that left clients, as the server sees them; real numbers."""
    found: list[Any] = []
    for frame in grid.frames:
        read = Envelope.from_bytes(frame, max_bytes=2**24)
        if read.kind == "contribution":
            body = ContributionBody.from_bytes(read.payload, SIZE)
            found.append(fixed.decode(body.vector, scale=0))
    return found


def moved_by_a_liar(folder: Path, plugins: str, byzantine: int) -> float:
    """How far nine clients, of whom one lies within the bound, end from what the honest learn."""
    config = inside(folder, plugins, nodes=9, byzantine=byzantine, quorum=9)
    liar = returning(lambda values: scaled(values, -3.0))
    grid = LeavingGrid.of([*[honest(index) for index in range(8)], liar], config)
    strategy, result = run(config, grid)
    assert len(strategy.rounds[0].merged) == 9  # the liar's update is masked as all are
    expected = np.array([[1.5, -0.5], [0.25, 1.0]])
    return float(np.abs(numbers(result.arrays)["weight"] - expected).max())


@pytest.mark.claim("C-secagg-24")
def test_a_median_of_groups_withstands_a_liar(tmp_path: Path) -> None:
    assert moved_by_a_liar(tmp_path, GROUPS, 1) < 0.05


@pytest.mark.control("C-secagg-24")
def test_one_sum_does_not_withstand_that_liar(tmp_path: Path) -> None:
    assert moved_by_a_liar(tmp_path, SUMS, 0) > 0.5


@pytest.mark.claim("C-secagg-25")
@pytest.mark.parametrize(
    ("plugins", "refusal"),
    [
        ("[plugins.secagg]\n\n[plugins.krum]\nf = 1\n", r"QRES-E303 plugins\.krum.*only one sum"),
        (GROUPS.replace("median", "krum"), r"QRES-E304 plugins\.krum: needs 5 rows.*leaves 3"),
    ],
)
def test_krum_beside_sums_is_refused_by_name(tmp_path: Path, plugins: str, refusal: str) -> None:
    with pytest.raises(CompatibilityError, match=refusal):
        run(inside(tmp_path, plugins, nodes=9, byzantine=1, quorum=9), None)


@pytest.mark.claim("C-flower-6")
def test_the_server_sees_no_update(tmp_path: Path) -> None:
    config = inside(tmp_path)
    grid = clients(5, config)
    run(config, grid)
    assert len(vectors(grid)) == 5
    assert not any(np.abs(each).max() < 8 for each in vectors(grid))


@pytest.mark.control("C-flower-6")
def test_without_sums_it_sees_all_of_them(tmp_path: Path) -> None:
    """The control: what clients learn is below 4."""
    config = inside(tmp_path, "[plugins.mean]\n")
    grid = clients(5, config)
    run(config, grid)
    assert len(vectors(grid)) == 5
    assert all(np.abs(each).max() < 8 for each in vectors(grid))


def test_whoever_leaves_in_the_dialogue_is_left_out(tmp_path: Path) -> None:
    config = inside(tmp_path)
    grid = clients(5, config)
    grid.answers = {102: 3}
    strategy, result = run(config, grid)
    assert strategy.rounds[0].merged == (100, 101, 103, 104)
    expected = np.mean([(1.0 + index / 128) / 2 for index in (0, 1, 3, 4)])
    assert abs(float(numbers(result.arrays)["bias"]) - expected) < 2**-14


def test_whoever_leaves_after_training_counts(tmp_path: Path) -> None:
    config = inside(tmp_path)
    grid = clients(5, config)
    grid.answers = {102: 6}  # five turns, and its update
    strategy, _result = run(config, grid)
    assert strategy.rounds[0].merged == (100, 101, 102, 103, 104)


def test_a_client_without_the_mod_is_left_out(tmp_path: Path) -> None:
    config = inside(tmp_path)
    grid = clients(5, config)
    bare = clients(5, config)

    def other(message: Message, _context: Any) -> Message:
        return Message(message.content, reply_to=message)

    grid.clients = {**bare.clients, 104: other}
    strategy, _result = run(config, grid)
    assert strategy.rounds[0].merged == (100, 101, 102, 103)
    assert 104 in strategy.rounds[0].left_out


def learning(index: int) -> Callable[[Message, Context], Message]:
    """A client whose update is as long as the server's learning rate makes it."""

    def reply(message: Message, _context: Context) -> Message:
        rate = float(message.content.config_records["config"]["lr"])
        values = numbers(message.content.array_records["arrays"])
        values["bias"] = values["bias"] + (0.3 + 0.1 * index) * rate
        metrics = MetricRecord({"num-examples": 10})
        content = RecordDict({"metrics": metrics, "arrays": arrays_of(values)})
        return Message(content, reply_to=message)

    return reply


@pytest.mark.parametrize(
    ("rate", "clipped", "told"),
    [(11.0, False, set()), (12.0, False, {104}), (14.0, False, {103, 104}), (14.0, True, set())],
)
def test_a_limit_a_server_learns_whose_update_is_beyond_the_bound_unless_it_is_clipped(
    tmp_path: Path, rate: float, told: set[int], *, clipped: bool
) -> None:
    """So rates find the largest coordinate of each, 0.7 of the last one: the bound is 8."""
    config = inside(tmp_path, NOISE if clipped else SUMS)
    grid = MemoryGrid.of([learning(index) for index in range(5)], config)
    inner = FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)
    strategy = QresStrategy(inner, config, lab_seed=SEED)
    strategy.start(grid, initial(), num_rounds=1, train_config=ConfigRecord({"lr": rate}))
    assert set(strategy.rounds[0].left_out) == told


def test_noise_is_shared_out_among_the_members_of_a_sum(tmp_path: Path) -> None:
    config = inside(tmp_path, NOISE)
    grid = clients(5, config)
    strategy, result = run(config, grid)
    assert len(strategy.rounds[0].merged) == 5
    found = float(numbers(result.arrays)["bias"])
    assert 0 < abs(found - np.mean([(1 + i / 128) / 2 for i in range(5)])) < 0.2
