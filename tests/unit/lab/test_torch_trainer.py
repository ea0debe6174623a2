from __future__ import annotations

import itertools
import sys
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import LabError, RoundInfo, Trainer, ValueRefusedError, Vector, fixed, vector_digest
from qres_core.lab.data import Features, Labels, partition_dirichlet
from qres_core.lab.models import Softmax
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
    parts = partition_dirichlet(y, 8, 0.1, np.random.default_rng(0))
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
