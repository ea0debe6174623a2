from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import RoundInfo, Vector, canonical, fixed, vector_digest
from qres_core.contract import partition
from qres_core.contract.last_step import LastStep
from qres_core.errors import ModelError, ValueRefusedError
from qres_core.training import Trainer
from qres_core.training.data import Features, Labels
from qres_core.training.models import MLP, Model, Softmax, Weights
from qres_core.training.numpy_trainer import NumpyTrainer, QuadraticTrainer, ValidatingTrainer

STEP = 2.0**-16


def a_round(vector: Vector, *, number: int = 1, scale: int = 0) -> RoundInfo:
    return RoundInfo("lab", number, vector_digest(vector), vector.size, scale, (), 1)


def blobs(n: int, seed: int = 0, classes: int = 4, features: int = 6) -> tuple[Features, Labels]:
    """Classes around random centres."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(0, 2, (classes, features))
    return centres[y] + rng.normal(size=(n, features)), y


def trainer(model: Model | None = None, n: int = 50, **options: Any) -> NumpyTrainer:
    x, y = blobs(n)
    test_x, test_y = blobs(80, seed=1)
    return NumpyTrainer(
        model=model or Softmax(6, 4), x=x, y=y, test_x=test_x, test_y=test_y, **options
    )


def start(numpy_trainer: NumpyTrainer, scale: int = 0) -> Vector:
    return fixed.encode(numpy_trainer.model.initial(np.random.default_rng(5)), scale=scale).vector


@attrs.frozen
class Centre:
    """A model whose loss is half the mean squared distance to the examples."""

    dimension: int

    def initial(self, rng: np.random.Generator) -> Weights:
        return rng.normal(size=self.dimension)

    def loss_and_gradient(self, w: Weights, x: Features, y: Labels) -> tuple[float, Weights]:
        assert len(x) == len(y)
        return float(0.5 * np.mean(np.sum((w - x) ** 2, axis=1))), w - x.mean(axis=0)

    def predict(self, w: Weights, x: Features) -> Labels:
        return np.full(len(x), int(w[0] > 0))


def test_is_a_trainer() -> None:
    assert isinstance(trainer(), Trainer)
    assert isinstance(QuadraticTrainer(optimum=np.zeros(2, np.int32)), Trainer)


@pytest.mark.parametrize("scale", [-4, 0, 3])
def test_one_step_on_all_examples_is_minus_the_gradient(scale: int) -> None:
    machine = trainer(local_epochs=1, batch_size=1000, learning_rate=0.25, scale=scale)
    vector = start(machine, scale)
    w = fixed.decode(vector, scale=scale)
    loss, gradient = machine.model.loss_and_gradient(w, machine.x, machine.y)
    update = machine.fit(vector, a_round(vector, scale=scale))
    moved = fixed.decode(update.vector, scale=scale)
    np.testing.assert_allclose(moved, -0.25 * gradient, atol=0.51 * STEP * 2.0**scale)
    assert update.metrics["loss"] == pytest.approx(loss)
    assert update.weight == len(machine.y)
    assert update.saturated == 0


def test_one_pass_uses_every_example_once() -> None:
    # With a rate too small to move the model, the pass's mean loss is the loss over all examples.
    machine = trainer(local_epochs=1, batch_size=7, learning_rate=1e-12)
    vector = start(machine)
    expected, _ = machine.model.loss_and_gradient(fixed.decode(vector), machine.x, machine.y)
    assert machine.fit(vector, a_round(vector)).metrics["loss"] == pytest.approx(expected)


def test_order_depends_on_seed_node_and_round_alone() -> None:
    vector = start(trainer())
    base = trainer(batch_size=4, seed=1, node=2)
    first = base.fit(vector, a_round(vector)).vector
    np.testing.assert_array_equal(first, base.fit(vector, a_round(vector)).vector)
    others = [
        base.fit(vector, a_round(vector, number=2)),
        attrs.evolve(base, seed=2).fit(vector, a_round(vector)),
        attrs.evolve(base, node=3).fit(vector, a_round(vector)),
    ]
    assert not any(np.array_equal(first, other.vector) for other in others)


@given(st.sampled_from([0.0, 0.1, 1.0, 5.0, 1e3]), st.floats(0.05, 0.9))
def test_stationary_point_is_that_of_the_fedprox_objective(mu: float, rate: float) -> None:
    # argmin of 1/2 mean ||w - x||^2 + mu/2 ||w - w_t||^2 is (mean x + mu w_t) / (1 + mu).
    item = trainer(
        Centre(6), local_epochs=400, batch_size=1000, learning_rate=rate, proximal=mu, n=9
    )
    vector = start(item)
    w = fixed.decode(vector)
    moved = fixed.decode(item.fit(vector, a_round(vector)).vector)
    np.testing.assert_allclose(moved, (item.x.mean(axis=0) - w) / (1 + mu), atol=STEP)


def drift(trainers: list[NumpyTrainer], vector: Vector) -> float:
    moves = np.array([fixed.decode(each.fit(vector, a_round(vector)).vector) for each in trainers])
    return float(np.linalg.norm(moves - moves.mean(axis=0), axis=1).mean())


def test_fedprox_reduces_drift_between_unlike_nodes() -> None:
    x, y = blobs(400)
    parts = partition.dirichlet(y, 8, 0.1, np.random.default_rng(0))
    whole = trainer(local_epochs=10)
    vector = start(whole)

    def drift_with(mu: float) -> float:
        return drift(
            [
                attrs.evolve(whole, x=x[part], y=y[part], node=node, proximal=mu)
                for node, part in enumerate(parts)
            ],
            vector,
        )

    drifts = [drift_with(mu) for mu in (0.0, 0.1, 1.0, 10.0)]
    assert all(more < 0.9 * less for less, more in itertools.pairwise(drifts))


def fed_cm(item: NumpyTrainer, before: Vector | None, vector: Vector) -> Weights:
    """Algorithm 1 of arXiv 2106.10874 with full batches: what a round adds to its model."""
    alpha, w = 1 - item.global_momentum, fixed.decode(vector)
    delta = None  # the last step, as a gradient of one local step
    if before is not None:
        way = fixed.decode(vector) - fixed.decode(before)
        delta = -way / (item.learning_rate * item.local_epochs)
    for _ in range(item.local_epochs):
        _loss, gradient = item.model.loss_and_gradient(w, item.x, item.y)
        direction = gradient if delta is None else alpha * gradient + (1 - alpha) * delta
        w = w - item.learning_rate * direction
    return w - fixed.decode(vector)


def at_step(vector: Vector, step: int, number: int) -> RoundInfo:
    return attrs.evolve(a_round(vector, number=number), step=step, height=step)


def test_global_momentum_is_fed_cm() -> None:
    item = trainer(local_epochs=3, batch_size=1000, learning_rate=0.25, global_momentum=0.8)
    models = [start(item)]
    for step in range(3):
        update = item.fit(models[-1], at_step(models[-1], step, step + 1))
        expected = fed_cm(item, models[-2] if step else None, models[-1])
        np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)
        models.append(fixed.add_saturating(models[-1], update.vector).vector)


def test_global_momentum_follows_the_model_that_was_decided() -> None:
    item = trainer(local_epochs=2, batch_size=1000, global_momentum=0.5)
    first, decided = start(item), start(item) + np.int32(3000)
    thought = first - np.int32(70000)
    item.fit(first, at_step(first, 0, 1))
    item.fit(thought, at_step(thought, 1, 2))  # ahead, on a model that is not decided
    for number in (3, 4):  # and a round that is aborted
        update = item.fit(decided, at_step(decided, 1, number))
        expected = fed_cm(item, first, decided)
        np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)
    update = item.fit(thought, at_step(thought, 2, 5))
    expected = fed_cm(item, decided, thought)
    np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)


def test_global_momentum_begins_anew_after_a_height_without_a_model() -> None:
    """A plugin may have refused what it led to."""
    item = trainer(local_epochs=2, batch_size=1000, global_momentum=0.5)
    first, decided = start(item), start(item) + np.int32(3000)
    item.fit(first, at_step(first, 0, 1))
    item.fit(decided, at_step(decided, 1, 2))
    for number in (3, 4):  # an aborted round too
        info = attrs.evolve(at_step(decided, 1, number), height=2)
        update = item.fit(decided, info)
        expected = fed_cm(item, None, decided)
        np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)
    after = decided + np.int32(2000)
    update = item.fit(after, attrs.evolve(at_step(after, 2, 5), height=3))
    expected = fed_cm(item, decided, after)
    np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)


def test_what_a_trainer_kept_of_the_swarms_last_step_comes_back_or_is_refused() -> None:
    first, second = (trainer(local_epochs=1, global_momentum=0.5) for _ in range(2))
    model = start(first)
    first.fit(model, at_step(model, 0, 1))
    assert first.remember() != second.remember()
    second.recall(first.remember())
    assert second.remember() == first.remember()
    spoiled = ([1, 2, 3, 4], [b"", b"", "", 0], [b"abc", b"", 0, 0], [b"", b"", 0])
    for memory in (b"", b"nothing", *map(canonical.dumps, spoiled)):
        with pytest.raises(ModelError, match="QRES-E605"):
            second.recall(memory)
    plain = trainer(local_epochs=1)
    plain.fit(model, at_step(model, 0, 1))
    plain.recall(b"")
    assert plain.remember() == b""


def test_global_momentum_begins_anew_after_steps_that_a_node_missed() -> None:
    item = trainer(local_epochs=2, batch_size=1000, global_momentum=0.5)
    first = start(item)
    later = first + np.int32(5000)
    item.fit(first, at_step(first, 0, 1))
    update = item.fit(later, at_step(later, 2, 3))
    expected = fed_cm(item, None, later)
    np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=STEP)


def judging(**options: Any) -> ValidatingTrainer:
    x, y = blobs(50)
    held_x, held_y = blobs(30, seed=2)
    shares = {"x": x, "y": y, "test_x": x, "test_y": y, "held_x": held_x, "held_y": held_y}
    many: dict[str, Any] = {"local_epochs": 2, "batch_size": 1000, "global_momentum": 0.5}
    return ValidatingTrainer(model=Softmax(6, 4), **shares, **{**many, **options})


def test_a_reference_leaves_training_alone_that_began_ahead_of_it() -> None:
    """The control has references and training share what they know of the swarm's last step."""
    shared = LastStep()
    item, alone, control = judging(), judging(), judging(last=shared, last_judged=shared)
    models = [start(item) + np.int32(1000 * step) for step in range(4)]
    for step, vector in enumerate(models):  # at each step but the first, training is ahead
        expected = alone.fit(vector, at_step(vector, step, step + 1)).vector
        found = [
            each.fit(vector, at_step(vector, step, step + 1)).vector for each in (item, control)
        ]
        assert np.array_equal(found[0], expected)
        assert np.array_equal(found[1], expected) == (step < 2)
        if step:
            before = models[step - 1]
            for each in (item, control):
                each.reference(before, at_step(before, step - 1, step))


def test_a_reference_is_what_training_on_the_kept_examples_makes() -> None:
    item = judging()
    kept = attrs.evolve(item, x=item.held_x, y=item.held_y, last=LastStep())
    for step in range(3):
        vector = start(item) + np.int32(1000 * step)
        info = at_step(vector, step, step + 1)
        assert np.array_equal(item.reference(vector, info), kept.fit(vector, info).vector)


@pytest.mark.parametrize("model", [Softmax(6, 4), MLP(6, 5, 4)], ids=["softmax", "mlp"])
def test_large_mu_holds_the_model_still(model: Model) -> None:
    item = trainer(model, proximal=1e9)
    vector = start(item)
    np.testing.assert_array_equal(item.fit(vector, a_round(vector)).vector, 0)


def test_training_raises_the_accuracy() -> None:
    item = trainer(local_epochs=10)
    vector = start(item)
    update = item.fit(vector, a_round(vector))
    trained = fixed.add_saturating(vector, update.vector).vector
    assert item.evaluate(trained)["accuracy"] > item.evaluate(vector)["accuracy"] + 0.3
    assert item.evaluate(trained)["loss"] < item.evaluate(vector)["loss"]


def test_evaluation_counts_right_answers() -> None:
    item = trainer(Centre(6))
    vector = fixed.encode([1.0] * 6).vector
    assert item.evaluate(vector)["accuracy"] == np.mean(item.test_y == 1)


@pytest.mark.parametrize("model", [Softmax(6, 4), MLP(6, 5, 4)], ids=["softmax", "mlp"])
def test_divergence_is_refused_by_name(model: Model) -> None:
    item = trainer(model, learning_rate=1e308, local_epochs=20)
    vector = start(item)
    with pytest.raises(ValueRefusedError) as caught:
        item.fit(vector, a_round(vector))
    assert caught.value.code == "QRES-E501"
    assert "learning rate" in caught.value.problems[0].fix


def test_moves_beyond_the_grid_are_counted() -> None:
    item = trainer(local_epochs=1, batch_size=1000, learning_rate=1e9)
    vector = start(item)
    update = item.fit(vector, a_round(vector))
    assert 0 < update.saturated == np.count_nonzero(np.abs(update.vector) == fixed.LIMIT)


@pytest.mark.parametrize(
    "either",
    [trainer(), QuadraticTrainer(optimum=np.zeros(28, np.int32))],
    ids=["numpy", "quadratic"],
)
def test_rounds_of_another_model_or_grid_are_refused(
    either: NumpyTrainer | QuadraticTrainer,
) -> None:
    right = np.zeros(28, np.int32)
    either.fit(right, a_round(right))
    for wrong, code in (
        (np.zeros(27, np.int32), "QRES-E502"),
        (np.zeros(28, np.float64), "QRES-E503"),
    ):
        for refuse in (
            lambda v=wrong: either.fit(v, a_round(right)),
            lambda v=wrong: either.evaluate(v),
        ):
            with pytest.raises(ValueRefusedError) as caught:
                refuse()
            assert caught.value.code == code
    with pytest.raises(ValueRefusedError) as caught:
        either.fit(right, a_round(right, scale=2))
    assert caught.value.code == "QRES-E504"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("local_epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("proximal", -1.0),
        ("global_momentum", 1.0),
    ],
)
def test_options_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        trainer(**{field: value})


@given(
    steps=st.integers(1, 6),
    rate=st.floats(0.01, 1.9),
    mu=st.floats(0.0, 50.0),
    scale=st.integers(-3, 3),
)
def test_quadratic_is_its_steps_in_closed_form(
    steps: int, rate: float, mu: float, scale: int
) -> None:
    optimum = fixed.encode([3.0, -2.0, 0.5], scale=scale).vector
    vector = fixed.encode([-1.0, 0.25, 0.5], scale=scale).vector
    quadratic_trainer = QuadraticTrainer(
        optimum=optimum, local_epochs=steps, learning_rate=rate, proximal=mu, scale=scale
    )
    best, anchor = fixed.decode(optimum, scale=scale), fixed.decode(vector, scale=scale)
    w = anchor.copy()
    for _ in range(steps):
        w = (w - rate * (w - best) + rate * mu * anchor) / (1 + rate * mu)
    update = quadratic_trainer.fit(vector, a_round(vector, scale=scale))
    moved = fixed.decode(update.vector, scale=scale)
    np.testing.assert_allclose(moved, w - anchor, atol=0.51 * STEP * 2.0**scale)
    assert update.metrics["loss"] == pytest.approx(np.mean((best - anchor) ** 2))


def test_quadratic_measures_the_distance() -> None:
    quadratic_trainer = QuadraticTrainer(optimum=fixed.encode([3.0, 0.0]).vector)
    assert quadratic_trainer.evaluate(fixed.encode([0.0, 4.0]).vector) == {
        "loss": 12.5,
        "distance": 5.0,
    }


def test_quadratic_divergence_is_refused_by_name() -> None:
    quadratic_trainer = QuadraticTrainer(
        optimum=fixed.encode([3.0, 0.0]).vector, learning_rate=1e200, local_epochs=5
    )
    vector = np.zeros(2, np.int32)
    with pytest.raises(ValueRefusedError) as caught:
        quadratic_trainer.fit(vector, a_round(vector))
    assert caught.value.code == "QRES-E501"
