"""An update in which every example counts for at most so much, exactly."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qres_core import RoundInfo, Update, Vector, fixed
from qres_core.contract import record_clip
from qres_core.contract.by_record import ByRecord, by_record, clipped_sum
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.errors import CompatibilityError, LabError, OptionError, ValueRefusedError
from qres_core.training import RecordClip, RecordTrainer, Trainer
from qres_core.training.models import MLP, Model, Softmax
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.tasks import TaskConfig, make_task

FEATURES, CLASSES = 6, 4
Rows = NDArray[np.float64]


def a_round(dimension: int, scale: int = 0) -> RoundInfo:
    return RoundInfo("lab", 1, bytes(32), dimension, scale, (), 1)


def squared(vector: NDArray[Any]) -> int:
    return sum(int(value) ** 2 for value in vector)


@attrs.frozen(eq=False)
class Rowed:
    """A trainer with the steps of its examples made up."""

    rows: Sequence[Any]

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        raise AssertionError((vector, round_info))

    def evaluate(self, vector: Vector) -> dict[str, float]:
        return {"size": float(vector.size)}

    def records(self) -> int:
        return sum(len(part) for part in self.rows)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[Any]:
        del vector, round_info
        yield from self.rows


def sent(rows: Rows, clip: RecordClip, scale: int = 0) -> Vector:
    vector = np.zeros(rows.shape[1], dtype=np.int32)
    made = by_record(Rowed([rows]), clip).fit(vector, a_round(vector.size, scale))
    assert made is not None
    assert made.weight == 1
    return made.vector


@st.composite
def steps_of_examples(draw: st.DrawFn) -> Rows:
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    values = st.one_of(
        st.floats(-2.0, 2.0),
        st.floats(allow_nan=True, allow_infinity=True),
        st.sampled_from([0.0, 1e300, -1e300, 5e-324, 32768.0, -32768.0]),
    )
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(flat, dtype=np.float64).reshape(shape)


@pytest.mark.claim("C-dp-18")
@given(steps_of_examples(), st.floats(1e-5, 1e5), st.integers(-6, 6), st.data())
def test_an_example_moves_the_update_by_at_most_the_bound(
    rows: Rows, bound: float, scale: int, data: st.DataObject
) -> None:
    clip = RecordClip(bound, 10)
    absent = data.draw(st.integers(0, len(rows) - 1))
    without = sent(np.delete(rows, absent, axis=0), clip, scale).astype(object)
    moved = sent(rows, clip, scale).astype(object) - without
    assert squared(moved) <= clip.steps(scale) ** 2
    assert squared(without) <= (len(rows) * clip.steps(scale)) ** 2


@pytest.mark.control("C-dp-18")
def test_without_the_clip_an_example_moves_the_update_farther() -> None:
    rows, clip = np.full((3, 4), 0.5), RecordClip(0.25, 10)
    free = clipped_sum(rows, record_clip.LARGEST) - clipped_sum(rows[1:], record_clip.LARGEST)
    held = clipped_sum(rows, clip.steps(0)) - clipped_sum(rows[1:], clip.steps(0))
    assert squared(held) <= clip.steps(0) ** 2 < squared(free)


@given(
    st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=40),
    st.integers(0, 2**31 - 1),
)
def test_the_clip_is_that_of_exact_arithmetic(row: list[int], bound: int) -> None:
    """The oracle multiplies and divides whole numbers of Python."""
    square = squared(np.array(row, dtype=object))
    expected = row
    if square > bound * bound:
        factor = math.isqrt((bound * bound << 60) // square)
        expected = [(abs(value) * factor >> 30) * (1 if value > 0 else -1) for value in row]
    real = np.ldexp(np.array([row], dtype=np.float64), -fixed.FRACTION_BITS)
    assert clipped_sum(real, bound).tolist() == expected


def test_a_row_in_the_ball_is_only_rounded_and_one_outside_keeps_its_length() -> None:
    rows = np.random.default_rng(1).normal(size=(1, 650))
    rows /= np.linalg.norm(rows)
    np.testing.assert_array_equal(
        clipped_sum(rows, 2**16 + 1), fixed.encode(rows[0]).vector.astype(np.int64)
    )
    bound = 2**14
    assert 0.998 * bound < math.sqrt(squared(clipped_sum(rows, bound))) <= bound


def test_many_rows_are_added_as_few_are() -> None:
    rows = np.random.default_rng(2).normal(size=(200, 3000))  # more than fit a block
    at_once = clipped_sum(rows, 1000)
    np.testing.assert_array_equal(at_once, sum(clipped_sum(row[None], 1000) for row in rows))


def test_an_example_that_is_not_finite_counts_as_none() -> None:
    rows = np.array([[0.5, 0.25], [math.nan, 0.25], [0.25, -math.inf]])
    np.testing.assert_array_equal(clipped_sum(rows, 2**20), clipped_sum(rows[:1], 2**20))


def test_the_bound_in_steps_is_rounded_down() -> None:
    assert 1 << record_clip._FRACTION_BITS == 1 << fixed.FRACTION_BITS
    assert record_clip.LARGEST == fixed.LIMIT
    assert RecordClip(0.01, 1).steps(0) == 655
    assert RecordClip(0.01, 1).steps(-4) == 10485
    assert RecordClip(1e-9, 1).steps(0) == 0
    assert RecordClip(1e9, 1).steps(0) == fixed.LIMIT


@pytest.mark.parametrize(("bound", "most"), [(0.0, 1), (math.nan, 1), (1.0, 0), (1.0, 2**31)])
def test_a_bound_of_nothing_is_refused(bound: float, most: int) -> None:
    with pytest.raises(OptionError, match="QRES-E105"):
        RecordClip(bound, most)


# ── trainers ──────────────────────────────────────────────────────────────────────────────────────


class Plain:
    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update(vector)

    def evaluate(self, vector: Vector) -> dict[str, float]:
        return {"size": float(vector.size)}


class Judge(Rowed):
    def validate(self, vector: Vector) -> float:
        return float(vector.sum())

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        raise AssertionError((vector, round_info))


def test_nothing_is_asked_of_a_trainer_where_the_unit_is_a_node() -> None:
    plain = Plain()
    assert by_record(plain, None) is plain


@pytest.mark.claim("C-dp-18")
def test_a_trainer_without_single_examples_is_refused() -> None:
    assert isinstance(Plain(), Trainer)
    with pytest.raises(CompatibilityError, match=r"node-1: Plain does not say") as caught:
        by_record(Plain(), RecordClip(1.0, 5), node="node-1")
    assert caught.value.code == "QRES-E318"


def test_a_node_with_more_examples_than_stated_is_refused() -> None:
    rows = np.zeros((6, 2))
    assert by_record(Rowed([rows]), RecordClip(1.0, 6))
    with pytest.raises(CompatibilityError, match="6 examples, and no node may have more than 5"):
        by_record(Rowed([rows]), RecordClip(1.0, 5))


def test_a_trainer_is_wrapped_once() -> None:
    wrapped = by_record(Rowed([np.zeros((1, 2))]), RecordClip(1.0, 6))
    assert by_record(wrapped, RecordClip(1.0, 6)) is wrapped
    other = by_record(wrapped, RecordClip(2.0, 6))
    assert isinstance(other, ByRecord)
    assert isinstance(other.inner, Rowed)


def test_it_evaluates_and_judges_and_makes_no_reference() -> None:
    vector, info = np.ones(2, dtype=np.int32), a_round(2)
    judge = by_record(Judge([np.zeros((1, 2))]), RecordClip(1.0, 6))
    assert judge.evaluate(vector, info) == {"size": 2.0}
    able = abilities_of(judge)
    assert able.validate is not None
    assert able.validate(vector) == 2.0
    assert able.reference is None
    other = by_record(Rowed([np.zeros((1, 2))]), RecordClip(1.0, 6))
    assert abilities_of(other).validate is None


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ([[0.0, 0.0]], "QRES-E503"),
        (np.zeros((1, 2), dtype=np.int32), "QRES-E503"),
        (np.zeros(2), "QRES-E502"),
        (np.zeros((1, 3)), "QRES-E502"),
    ],
)
def test_steps_of_another_shape_or_type_are_refused(part: object, code: str) -> None:
    made = by_record(Rowed([part]), RecordClip(1.0, 6))
    with pytest.raises(ValueRefusedError) as caught:
        made.fit(np.zeros(2, dtype=np.int32), a_round(2))
    assert caught.value.code == code


def test_more_steps_than_examples_are_refused() -> None:
    @attrs.frozen(eq=False)
    class Counting(Rowed):
        def records(self) -> int:
            return 1

    made = by_record(Counting([np.zeros((2, 2)), np.zeros((2, 2))]), RecordClip(1.0, 3))
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        made.fit(np.zeros(2, dtype=np.int32), a_round(2))


# ── the trainers of the lab ───────────────────────────────────────────────────────────────────────


def numpy_trainer(model: Model, n: int = 30, **options: Any) -> NumpyTrainer:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, FEATURES)) * 3.0, rng.integers(0, CLASSES, n)
    chosen = {"local_epochs": 1, "batch_size": 10, "learning_rate": 0.5, **options}
    return NumpyTrainer(model=model, x=x, y=y, test_x=x, test_y=y, **chosen)


MODELS = [Softmax(FEATURES, CLASSES), MLP(FEATURES, 5, CLASSES)]


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_of_all_examples_are_the_step_of_their_mean(model: Model) -> None:
    item = numpy_trainer(model, batch_size=30)
    w = fixed.encode(model.initial(np.random.default_rng(5))).vector
    rows = np.concatenate(list(item.record_steps(w, a_round(w.size))))
    _, gradient = model.loss_and_gradient(fixed.decode(w), item.x, item.y)
    np.testing.assert_allclose(rows.sum(axis=0), -0.5 * gradient, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_what_an_example_asks_for_does_not_depend_on_the_others(model: Model) -> None:
    item = numpy_trainer(model)
    w = fixed.encode(model.initial(np.random.default_rng(5))).vector
    rows = np.concatenate(list(item.record_steps(w, a_round(w.size))))
    fewer = attrs.evolve(item, x=np.delete(item.x, 4, axis=0), y=np.delete(item.y, 4))
    others = np.concatenate(list(fewer.record_steps(w, a_round(w.size))))
    np.testing.assert_array_equal(others, np.delete(rows, 4, axis=0))  # to the bit


def test_the_example_of_the_protocol_keeps_its_promise() -> None:
    code = str(RecordTrainer.__doc__).partition("Example::")[2].partition("A product")[0]
    space: dict[str, Any] = {"fixed": fixed}
    exec(textwrap.dedent(code), space)  # noqa: S102 - the documentation's own code
    rng, absent = np.random.default_rng(0), 1
    x, y, w = rng.normal(size=(5, 33)), rng.normal(size=5), rng.integers(-(2**16), 2**16, 33)
    vector = w.astype(np.int32)

    def rows(keep: list[int]) -> Any:
        item = space["Ridge"]()
        item.x, item.y, item.rate, item.usual_size = x[keep], y[keep], 0.1, 5
        assert item.records() == len(keep)
        return np.concatenate(list(item.record_steps(vector, a_round(33))))

    some = [i for i in range(5) if i != absent]
    np.testing.assert_array_equal(rows(some), rows(list(range(5)))[some])


def test_what_an_example_asks_for_does_not_depend_on_how_the_others_lie_in_memory() -> None:
    """One example by columns is one by rows; of two, the numbers of each lie apart."""
    model, rng = MLP(7, 17, 5), np.random.default_rng(5)
    both, y = rng.normal(size=(2, 7)), np.array([0, 2])
    w = fixed.encode(model.initial(rng)).vector
    items = [
        attrs.evolve(numpy_trainer(model), x=np.asfortranarray(x), y=y[: len(x)])
        for x in (both, both[:1])
    ]
    rows = [next(iter(item.record_steps(w, a_round(w.size))))[0] for item in items]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("model", MODELS)
def test_an_update_of_the_lab_moves_by_at_most_the_bound_and_one_of_sgd_farther(
    model: Model,
) -> None:
    item, clip = numpy_trainer(model), RecordClip(0.02, 100)
    assert isinstance(item, RecordTrainer)
    w = fixed.encode(model.initial(np.random.default_rng(5))).vector

    def farthest(each: list[Trainer]) -> int:
        updates = [other.fit(w, a_round(w.size)) for other in each]
        made = [update.vector.astype(object) for update in updates if update is not None]
        return max(squared(made[0] - other) for other in made[1:])

    data = [item] + [
        attrs.evolve(item, x=np.delete(item.x, i, axis=0), y=np.delete(item.y, i))
        for i in range(10)
    ]
    assert farthest([by_record(each, clip) for each in data]) <= clip.steps(0) ** 2
    assert farthest(list(data)) > clip.steps(0) ** 2


@pytest.mark.parametrize(
    "options", [{"local_epochs": 2}, {"proximal": 0.1}, {"global_momentum": 0.1}]
)
def test_several_steps_of_a_round_have_no_place(options: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="QRES-E105"):
        by_record(numpy_trainer(MODELS[0], **options), RecordClip(1.0, 100))


def test_a_task_without_data_has_no_examples() -> None:
    task = make_task(TaskConfig(name="quadratic", dimension=3), nodes=2, seed=0)
    with pytest.raises(CompatibilityError, match="QuadraticTrainer does not say"):
        by_record(task.trainers[0], RecordClip(1.0, 100))
