"""A reference takes as many steps as a training, so that honest nodes are near to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import TorchTrainer  # noqa: E402
from qres_torch import trainer as trainer_module  # noqa: E402
from qres_torch.loop import Repeated  # noqa: E402
from small import a_round, adam, blobs, loader, net, trainer  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset, TensorDataset  # noqa: E402

from qres_core.attacks.scenario import Scenario  # noqa: E402
from qres_core.kernel.config import parse  # noqa: E402
from qres_core.lab.record import SimulationResult  # noqa: E402
from qres_core.lab.simulator import simulate  # noqa: E402
from qres_core.training.tasks import Task  # noqa: E402

NODES, SIGNS, LENGTH = 7, 12, 8
SWARM = {
    "swarm": {"name": "text", "nodes": NODES, "byzantine": 2, "quorum": 5, "insecure": True},
    "plugins": {"memory": {}, "validated_mean": {"f": 2}},
}


class Transformer(torch.nn.Module):  # type: ignore[misc,name-defined]
    """One layer, to tell the next sign of a text."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.signs = torch.nn.Embedding(SIGNS, 16)
        self.places = torch.nn.Parameter(0.02 * torch.randn(LENGTH, 16))
        self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.out = torch.nn.Linear(16, SIGNS)

    def forward(self, x: Any) -> Any:
        past = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.out(self.layer(self.signs(x) + self.places, past)).transpose(1, 2)


def text(n: int, seed: int) -> TensorDataset:
    """Walks along one chain of signs, which is the same for all nodes."""
    chain = np.random.default_rng(0).dirichlet(np.full(SIGNS, 0.2), SIGNS)
    rng, rows = np.random.default_rng(seed), np.zeros((n, LENGTH + 1), dtype=np.int64)
    rows[:, 0] = rng.integers(0, SIGNS, n)
    for at in range(LENGTH):
        rows[:, at + 1] = [rng.choice(SIGNS, p=chain[sign]) for sign in rows[:, at]]
    return TensorDataset(torch.tensor(rows[:, :-1]), torch.tensor(rows[:, 1:]))


def played() -> SimulationResult:
    """Seven honest nodes with eight batches to train on and a single one to judge by."""
    module = Transformer()

    def node(index: int) -> TorchTrainer:
        return TorchTrainer(
            module,
            DataLoader(text(64, 10 + index), batch_size=8, shuffle=True),
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
            held_out=DataLoader(text(8, 50 + index), batch_size=8),
            test=DataLoader(text(64, 1), batch_size=64),
            keep_optimizer=True,
            pooled=True,
            index=index,
        )

    trainers = tuple(node(index) for index in range(NODES))
    task = Task("text", trainers[0].vector(), trainers)
    scenario = Scenario(rounds=4, seed=1, engine="vectorised")
    return simulate(parse(SWARM, source="test"), scenario, task=task)


def test_no_honest_set_of_a_swarm_that_judges_by_one_batch_is_refused() -> None:
    result = played()
    assert len(result.closed) == len(result.rounds) == 4
    assert result.final("loss") < np.log(SIGNS)


def test_with_a_reference_of_fewer_steps_honest_sets_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: as many steps as there are held-out batches, whatever a training takes."""
    monkeypatch.setattr(trainer_module, "_as_many", lambda held_out, _train_loader: held_out)
    result = played()
    refused = [record.reason for record in result.rounds if not record.closed]
    assert len(refused) >= 2, "half of the rounds, of nobody but honest nodes"


def steps_of(item: TorchTrainer) -> tuple[int, int]:
    """How many steps ``fit`` takes, and how many ``reference``."""
    made, steps = [0], list[int]()
    inner = torch.optim.SGD.step

    def step(optimizer: Any, *given: Any) -> Any:
        made[0] += 1
        return inner(optimizer, *given)

    vector = item.vector()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        for call in (item.fit, item.reference):
            made[0] = 0
            call(vector, a_round(vector))
            steps.append(made[0])
    return steps[0], steps[1]


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("batch", [2, 30])
def test_a_reference_takes_as_many_steps_as_a_training(batch: int, *, resident: bool) -> None:
    held_out = loader(30, 1, batch_size=batch)
    item = trainer(net(), loader(40), held_out=held_out, epochs=3, resident=resident)
    assert steps_of(item) == (15, 15)


def own(module: Any, batches: Any, _round_info: Any) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    assert isinstance(batches.dataset, TensorDataset)
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()


def test_so_does_a_training_of_the_user_s_own() -> None:
    item = trainer(optimizer=None, train=own, held_out=loader(30, 1, batch_size=30))
    assert steps_of(item) == (5, 5)


class Stream(IterableDataset):  # type: ignore[misc,name-defined]
    def __iter__(self) -> Any:
        return iter(list(blobs(40)))


def test_of_batches_without_a_length_a_pass_over_the_held_out_ones_counts() -> None:
    item = trainer(net(), DataLoader(Stream(), batch_size=8), held_out=loader(30, 1, batch_size=10))
    assert steps_of(item) == (5, 3)


def test_all_batches_have_their_turn_and_none_at_all_end_the_pass() -> None:
    batches = Repeated([1, 2, 3], 2)
    assert [list(batches) for _ in range(3)] == [[1, 2], [3, 1], [2, 3]]
    assert len(batches) == 2
    assert list(Repeated([], 2)) == []


def test_a_reference_is_the_same_again() -> None:
    item = trainer(held_out=loader(30, 1, batch_size=10), optimizer=adam, epochs=2)
    vector = item.vector()
    first = item.reference(vector, a_round(vector))
    item.fit(vector, a_round(vector))
    np.testing.assert_array_equal(first, item.reference(vector, a_round(vector)))
