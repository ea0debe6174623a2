from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import (
    LabError,
    RecordClip,
    RecordTrainer,
    RoundInfo,
    Trainer,
    ValueRefusedError,
    Vector,
    fixed,
    vector_digest,
)
from qres_core.contract import partition
from qres_core.contract.by_record import by_record
from qres_core.lab.data import Features, Labels
from qres_core.lab.models import Softmax
from qres_core.lab.numpy_trainer import NumpyTrainer
from qres_core.lab.torch_trainer import TorchTrainer, module_vector

STEP = 2.0**-16


def a_round(vector: Vector, *, number: int = 1, scale: int = 0) -> RoundInfo:
    return RoundInfo("lab", number, vector_digest(vector), vector.size, scale, (), 1)


def blobs(n: int, seed: int = 0) -> tuple[Features, Labels]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    centres = np.random.default_rng(99).normal(0, 2, (4, 6))
    return centres[y] + rng.normal(size=(n, 6)), y


@pytest.fixture
def torch() -> Any:
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


def trainer(module: Any, **options: Any) -> TorchTrainer:
    x, y = blobs(50)
    test_x, test_y = blobs(80, seed=1)
    return TorchTrainer(
        **({"module": module, "x": x, "y": y, "test_x": test_x, "test_y": test_y} | options)
    )


def test_missing_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for use in (lambda: trainer(object()), lambda: module_vector(object())):
        with pytest.raises(LabError) as caught:
            use()
        assert caught.value.code == "QRES-E802"
        assert caught.value.problems[0].fix == "pip install torch"


def test_is_a_trainer(torch: Any) -> None:
    assert isinstance(trainer(torch.nn.Linear(6, 4)), Trainer)


def test_vector_is_the_parameters_in_their_order(torch: Any) -> None:
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight[:] = torch.tensor([[0.5, -1.5]])
        module.bias[:] = 2.0
    assert fixed.decode(module_vector(module)).tolist() == [0.5, -1.5, 2.0]
    assert fixed.decode(module_vector(module, scale=2), scale=2).tolist() == [0.5, -1.5, 2.0]


def test_one_step_on_all_examples_is_minus_the_gradient_of_softmax_regression(torch: Any) -> None:
    module = torch.nn.Linear(6, 4).double()
    item = trainer(module, local_epochs=1, batch_size=1000, learning_rate=0.25)
    vector = module_vector(module)
    # torch stores the matrix as (classes, features), Softmax as (features, classes).
    w = fixed.decode(vector)
    ours = np.concatenate([w[:24].reshape(4, 6).T.ravel(), w[24:]])
    loss, gradient = Softmax(6, 4).loss_and_gradient(ours, item.x, item.y)
    theirs = np.concatenate([gradient[:24].reshape(6, 4).T.ravel(), gradient[24:]])
    update = item.fit(vector, a_round(vector))
    np.testing.assert_allclose(fixed.decode(update.vector), -0.25 * theirs, atol=0.51 * STEP)
    assert update.metrics["loss"] == pytest.approx(loss)
    assert update.weight == 50


def test_global_momentum_is_that_of_the_numpy_trainer(torch: Any) -> None:
    options: dict[str, Any] = {"local_epochs": 3, "batch_size": 1000, "global_momentum": 0.75}
    item = trainer(torch.nn.Linear(6, 4).double(), **options)
    other = NumpyTrainer(
        model=Softmax(6, 4), x=item.x, y=item.y, test_x=item.test_x, test_y=item.test_y, **options
    )

    def turned(vector: Vector) -> Vector:  # torch stores the matrix as (classes, features)
        return np.concatenate([vector[:24].reshape(6, 4).T.ravel(), vector[24:]])

    vector = fixed.encode(Softmax(6, 4).initial(np.random.default_rng(3))).vector
    for step in range(3):
        info = attrs.evolve(a_round(vector, number=step + 1), step=step, height=step)
        made = other.fit(vector, info).vector
        theirs = item.fit(turned(vector), info).vector
        np.testing.assert_allclose(theirs, turned(made), atol=1)
        vector = fixed.add_saturating(vector, made).vector


def test_global_momentum_leaves_frozen_parameters_alone(torch: Any) -> None:
    module = torch.nn.Linear(6, 4).double()
    module.bias.requires_grad_(requires_grad=False)
    item = trainer(module, local_epochs=2, global_momentum=0.75)
    first = module_vector(module)
    second = first + np.int32(2000)
    item.fit(first, a_round(first))
    made = item.fit(second, attrs.evolve(a_round(second, number=2), step=1, height=1)).vector
    assert made[:24].any()
    assert not made[24:].any()


def mlp(torch: Any) -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4)
    )


def test_fit_depends_on_seed_node_and_round_alone(torch: Any) -> None:
    module = mlp(torch)
    base = trainer(module, batch_size=4, seed=1, node=2)
    vector = module_vector(module)
    first = base.fit(vector, a_round(vector)).vector
    torch.manual_seed(12345)
    np.testing.assert_array_equal(first, base.fit(vector, a_round(vector)).vector)
    others = [
        base.fit(vector, a_round(vector, number=2)),
        attrs.evolve(base, seed=2).fit(vector, a_round(vector)),
        attrs.evolve(base, node=3).fit(vector, a_round(vector)),
    ]
    assert not any(np.array_equal(first, other.vector) for other in others)


def test_fit_leaves_torchs_generator_and_the_callers_module_alone(torch: Any) -> None:
    module = mlp(torch)
    item = trainer(module)
    vector = module_vector(module)
    before = torch.get_rng_state()
    item.fit(vector, a_round(vector))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(module_vector(module), vector)


def test_fedprox_reduces_drift_between_unlike_nodes(torch: Any) -> None:
    x, y = blobs(400)
    parts = partition.dirichlet(y, 8, 0.1, np.random.default_rng(0))
    module = torch.nn.Linear(6, 4)
    vector = module_vector(module)

    def drift(mu: float) -> float:
        moves = np.array(
            [
                fixed.decode(
                    trainer(module, x=x[part], y=y[part], node=node, proximal=mu)
                    .fit(vector, a_round(vector))
                    .vector
                )
                for node, part in enumerate(parts)
            ]
        )
        return float(np.linalg.norm(moves - moves.mean(axis=0), axis=1).mean())

    drifts = [drift(mu) for mu in (0.0, 0.1, 1.0, 10.0)]
    assert all(more < 0.9 * less for less, more in itertools.pairwise(drifts))


def test_large_mu_holds_the_model_still(torch: Any) -> None:
    module = torch.nn.Linear(6, 4)
    vector = module_vector(module)
    update = trainer(module, proximal=1e9).fit(vector, a_round(vector))
    np.testing.assert_array_equal(update.vector, 0)


def test_training_raises_the_accuracy(torch: Any) -> None:
    module = torch.nn.Linear(6, 4)
    item = trainer(module, local_epochs=10)
    vector = module_vector(module)
    update = item.fit(vector, a_round(vector))
    trained = fixed.add_saturating(vector, update.vector).vector
    assert item.evaluate(trained)["accuracy"] > item.evaluate(vector)["accuracy"] + 0.3
    assert item.evaluate(trained)["loss"] < item.evaluate(vector)["loss"]


def test_frozen_parameters_do_not_move(torch: Any) -> None:
    module = torch.nn.Linear(6, 4)
    module.bias.requires_grad_(requires_grad=False)
    vector = module_vector(module)
    update = trainer(module).fit(vector, a_round(vector))
    np.testing.assert_array_equal(update.vector[24:], 0)
    assert np.count_nonzero(update.vector[:24]) > 12


def test_another_loss_has_no_accuracy(torch: Any) -> None:
    x, _ = blobs(50)
    target = x @ np.arange(6.0)[:, None]
    options = {"x": x, "y": target, "test_x": x, "test_y": target, "learning_rate": 0.02}
    module = torch.nn.Linear(6, 1)
    item = trainer(module, loss=torch.nn.functional.mse_loss, local_epochs=50, **options)
    vector = module_vector(module)
    update = item.fit(vector, a_round(vector))
    figures = item.evaluate(fixed.add_saturating(vector, update.vector).vector)
    assert figures.keys() == {"loss"}
    assert figures["loss"] < item.evaluate(vector)["loss"] / 100


def test_divergence_is_refused_by_name(torch: Any) -> None:
    module = mlp(torch)
    vector = module_vector(module)
    with pytest.raises(ValueRefusedError) as caught:
        trainer(module, learning_rate=1e30, local_epochs=20).fit(vector, a_round(vector))
    assert caught.value.code == "QRES-E501"


def test_rounds_of_another_model_or_grid_are_refused(torch: Any) -> None:
    module = torch.nn.Linear(6, 4)
    item = trainer(module)
    vector = module_vector(module)
    with pytest.raises(ValueRefusedError) as caught:
        item.fit(vector[1:], a_round(vector))
    assert caught.value.code == "QRES-E502"
    with pytest.raises(ValueRefusedError) as caught:
        item.fit(vector, a_round(vector, scale=1))
    assert caught.value.code == "QRES-E504"


# ── single examples ───────────────────────────────────────────────────────────────────────────────


def rows_of(item: TorchTrainer, vector: Vector) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate(list(item.record_steps(vector, a_round(vector))))


def test_steps_of_examples_are_those_of_softmax_regression_in_numpy(torch: Any) -> None:
    module = torch.nn.Linear(6, 4).double()
    item = trainer(module, local_epochs=1, batch_size=16, learning_rate=0.25)
    vector = module_vector(module)

    # torch stores the matrix as (classes, features), Softmax as (features, classes).
    def turned(flat: Any, shape: tuple[int, int]) -> Any:
        matrix = flat[..., :24].reshape(*flat.shape[:-1], *shape).swapaxes(-1, -2)
        return np.concatenate([matrix.reshape(*flat.shape[:-1], 24), flat[..., 24:]], axis=-1)

    ours = turned(vector, (4, 6))
    data = {name: getattr(item, name) for name in ("x", "y", "test_x", "test_y")}
    options = {"local_epochs": 1, "batch_size": 16, "learning_rate": 0.25}
    plain = NumpyTrainer(model=Softmax(6, 4), **data, **options)
    theirs = np.concatenate(list(plain.record_steps(ours, a_round(ours))))
    np.testing.assert_allclose(rows_of(item, vector), turned(theirs, (6, 4)), atol=1e-14)
    clip = RecordClip(0.01, 50)
    mine = by_record(item, clip).fit(vector, a_round(vector))
    other = by_record(plain, clip).fit(ours, a_round(ours))
    assert mine is not None
    assert other is not None
    # A number halfway between two steps of the grid may be rounded either way.
    assert np.abs(mine.vector - turned(other.vector, (6, 4))).max() <= 1


def test_steps_of_examples_add_up_to_the_gradient_of_any_module(torch: Any) -> None:
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.GroupNorm(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    ).double()
    item = trainer(module, local_epochs=1, batch_size=50, learning_rate=0.25)
    assert isinstance(item, RecordTrainer)
    assert item.records() == 50
    vector = module_vector(module)
    whole = fixed.decode(item.fit(vector, a_round(vector)).vector)
    np.testing.assert_allclose(rows_of(item, vector).sum(axis=0), whole, atol=0.51 * STEP)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_another_example_leaves_the_steps_of_the_others_alone(torch: Any, precision: str) -> None:
    module = mlp(torch).to(getattr(torch, precision))
    item = trainer(module, local_epochs=1, batch_size=16)
    vector = module_vector(module)
    x, y = np.array(item.x), np.array(item.y)
    x[20], y[20] = -7.0, (y[20] + 1) % 4
    rows, others = rows_of(item, vector), rows_of(attrs.evolve(item, x=x, y=y), vector)
    assert [i for i in range(50) if not np.array_equal(rows[i], others[i])] == [20]  # to the bit


class PlacedTrainer(TorchTrainer):
    """As a trainer once was: what is drawn for an example follows its place in a batch."""

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[Any]:
        del round_info
        torch: Any = sys.modules["torch"]
        self._load(vector)
        weights = {name: each.detach() for name, each in self.module.named_parameters()}

        def loss_of(weights: Any, x: Any, y: Any) -> Any:
            return self._loss(torch.func.functional_call(self.module, weights, (x[None],)), y[None])

        gradients = torch.func.vmap(torch.func.grad(loss_of), (None, 0, 0), randomness="different")
        x, y = self._tensors(self.x, self.y)
        for first in range(0, len(y), self.batch_size):
            torch.manual_seed(first)
            part = slice(first, first + self.batch_size)
            made = gradients(weights, x[part], y[part])
            rows = torch.cat([each.flatten(1) for each in made.values()], dim=1)
            yield rows.double().mul(-self.learning_rate / self.batch_size).numpy()


def moved_without(item: TorchTrainer, vector: Vector, absent: int) -> float:
    """How far the update moves when an example is taken away, in bounds."""
    left = {name: np.delete(np.asarray(getattr(item, name)), absent, axis=0) for name in ("x", "y")}
    clip = RecordClip(0.01, 50)
    made = [by_record(each, clip) for each in (item, attrs.evolve(item, **left))]
    sums = [each.fit(vector, a_round(vector)) for each in made]
    difference = np.subtract(*(each.vector.astype(object) for each in sums if each is not None))
    return float(difference @ difference) ** 0.5 / clip.steps(0)


def layers_with(torch: Any, name: str) -> Any:
    if name == "dropout":
        return torch.nn.Sequential(mlp(torch), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4))
    if name == "spectral norm":  # each pass in training changes its buffers
        normed = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 8))
        return torch.nn.Sequential(normed, torch.nn.Tanh(), torch.nn.Linear(8, 4))
    if name == "recurrent":
        return recurrent(torch)
    return mlp(torch).to(getattr(torch, name))


def recurrent(torch: Any) -> Any:
    """A module that goes on from what it kept of the pass before, outside its buffers."""

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = torch.nn.RNNCell(6, 5), torch.nn.Linear(5, 4)
            self.kept = torch.zeros(1, 5)

        def forward(self, x: Any) -> Any:
            kept = self.cell(x, self.kept.expand(len(x), 5))
            self.kept = kept[:1].detach()
            return self.out(4.0 * kept)

    return Recurrent()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "dropout", "spectral norm", "recurrent"])
def test_without_an_example_the_steps_of_the_others_are_the_same_to_the_bit(
    torch: Any, name: str
) -> None:
    module = layers_with(torch, name)
    vector = module_vector(module)
    item = trainer(module, local_epochs=1, batch_size=16)
    left = attrs.evolve(item, x=np.delete(item.x, 3, axis=0), y=np.delete(item.y, 3))
    rows = np.delete(rows_of(item, vector), 3, axis=0)
    np.testing.assert_array_equal(rows_of(left, vector), rows)
    assert 0.0 < moved_without(item, vector, 3) <= 1.0


def test_what_is_drawn_by_an_example_s_place_moves_the_update_by_many_bounds(torch: Any) -> None:
    """The control: when an example goes, all later ones are in other places."""
    module = layers_with(torch, "dropout")
    x, y = blobs(50)
    options: dict[str, Any] = {"x": x, "y": y, "test_x": x, "test_y": y}
    item = PlacedTrainer(module=module, local_epochs=1, batch_size=16, **options)
    assert moved_without(item, module_vector(module), 3) > 2.0


def test_a_module_that_is_not_copied_carries_an_example_on_to_the_others(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what one example leaves in the module moves the steps of all later ones."""
    item = trainer(recurrent(torch), local_epochs=1, batch_size=16)
    vector = module_vector(item.module)
    monkeypatch.setattr("qres_core.lab.torch_trainer.copy.deepcopy", lambda it, _memo=None: it)
    assert moved_without(item, vector, 3) > 1.0


def test_an_update_moves_by_at_most_twice_the_bound_for_another_example(torch: Any) -> None:
    """One is taken away, and one put in its place."""
    module, clip = mlp(torch), RecordClip(0.01, 50)
    item = trainer(module, local_epochs=1, batch_size=16)
    vector = module_vector(module)
    x = np.array(item.x)
    x[20] *= -100.0
    made = [attrs.evolve(item, x=x), item]
    updates = [by_record(each, clip).fit(vector, a_round(vector)) for each in made]
    difference = np.subtract(*(each.vector.astype(object) for each in updates if each is not None))
    assert 0 < (difference @ difference) <= (2 * clip.steps(0)) ** 2


def test_frozen_parameters_ask_for_no_step(torch: Any) -> None:
    module = torch.nn.Linear(6, 4)
    module.bias.requires_grad_(requires_grad=False)
    rows = rows_of(trainer(module, local_epochs=1), module_vector(module))
    assert not rows[:, 24:].any()
    assert rows[:, :24].any(axis=1).all()


def test_batch_normalisation_has_no_single_examples(torch: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    with pytest.raises(LabError, match="1 is a BatchNorm1d") as caught:
        by_record(trainer(module, local_epochs=1), RecordClip(0.01, 50))
    assert caught.value.problems[0].fix == "use GroupNorm or LayerNorm, which look at one example"
