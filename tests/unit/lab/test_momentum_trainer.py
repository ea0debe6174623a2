from __future__ import annotations

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from qres_core import RoundInfo, canonical, fixed
from qres_core.errors import ModelError, ValueRefusedError
from qres_core.training import Reference, RememberingTrainer, Trainer, Validator
from qres_core.training.models import Softmax
from qres_core.training.momentum_trainer import MomentumTrainer

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)


def trainer(**options: float) -> MomentumTrainer:
    return MomentumTrainer(
        model=Softmax(3, 3),
        x=X[:20],
        y=Y[:20],
        test_x=X[30:],
        test_y=Y[30:],
        held_x=X[20:30],
        held_y=Y[20:30],
        **{"batch_size": 20, **options},  # type: ignore[arg-type]
    )


def info(number: int, d: int = 12) -> RoundInfo:
    return RoundInfo("lab", number, bytes(32), d, 0, (), 1)


def model(number: int) -> NDArray[np.int32]:
    return fixed.encode(np.random.default_rng(number).normal(0, 0.1, 12)).vector


def test_it_is_all_that_a_judging_node_needs() -> None:
    item = trainer()
    assert isinstance(item, Trainer)
    assert isinstance(item, Validator)
    assert isinstance(item, Reference)
    assert isinstance(item, RememberingTrainer)


@pytest.mark.parametrize("what", ["fit", "reference"])
def test_each_round_adds_the_gradient_to_a_momentum_that_fades(what: str) -> None:
    item = trainer(beta=0.5, learning_rate=0.2, weight_decay=0.1)
    x, y = (X[:20], Y[:20]) if what == "fit" else (X[20:30], Y[20:30])
    momentum = np.zeros(12)
    for number in (1, 2, 3):
        vector = model(number)
        w = fixed.decode(vector)
        momentum = 0.5 * momentum + Softmax(3, 3).loss_and_gradient(w, x, y)[1] + 0.1 * w
        found = item.fit(vector, info(number)).vector if what == "fit" else None
        found = item.reference(vector, info(number)) if found is None else found
        assert np.abs(fixed.decode(found) + 0.2 * momentum).max() <= 2**-16


def test_a_round_that_is_asked_about_again_counts_once() -> None:
    twice, once = trainer(), trainer()
    for number in (1, 2, 3):
        twice.fit(model(9), info(number))
        again = twice.fit(model(number), info(number)).vector
        assert np.array_equal(again, once.fit(model(number), info(number)).vector)


def test_own_and_held_out_momentum_are_kept_apart() -> None:
    both, alone = trainer(), trainer()
    for number in (1, 2, 3):
        both.reference(model(number), info(number))
        found = both.fit(model(number), info(number)).vector
        assert np.array_equal(found, alone.fit(model(number), info(number)).vector)


def test_another_process_goes_on_with_both_momenta() -> None:
    whole, before, after, control = trainer(), trainer(), trainer(), trainer()
    for item in (whole, before):
        for number in (1, 2):
            item.fit(model(number), info(number))
            item.reference(model(number), info(number))
    after.recall(before.remember())

    def third(item: MomentumTrainer, number: int) -> bytes:
        made = item.fit(model(number), info(number)).vector
        return made.tobytes() + item.reference(model(number), info(number)).tobytes()

    assert third(after, 2) == third(before, 2), "a round that it trained in already counts once"
    assert third(after, 3) == third(whole, 3)
    assert third(control, 3) != third(whole, 3)


@pytest.mark.parametrize("bad", [b"", b"x", [1], [[b"", b""], []], [[b"", b"", b""]] * 2])
def test_what_another_trainer_kept_is_refused(bad: object) -> None:
    memory = bad if isinstance(bad, bytes) else canonical.dumps(bad)
    with pytest.raises(ModelError, match="QRES-E605"):
        trainer().recall(memory)


def test_batches_follow_seed_node_and_round() -> None:
    def first(**options: int) -> list[int]:
        vector = trainer(**{"batch_size": 4, **options}).fit(model(1), info(1)).vector
        return [int(item) for item in vector]

    assert first() == first()
    assert first() != first(seed=1)
    assert first() != first(node=1)


def test_loss_and_accuracy_are_those_of_the_examples() -> None:
    item = trainer()
    vector = model(1)
    held = Softmax(3, 3).loss_and_gradient(fixed.decode(vector), X[20:30], Y[20:30])[0]
    assert item.validate(vector) == pytest.approx(held)
    right = Softmax(3, 3).predict(fixed.decode(vector), X[30:]) == Y[30:]
    assert item.evaluate(vector)["accuracy"] == np.mean(right)


def test_what_is_no_model_or_of_another_grid_is_refused() -> None:
    item = trainer()
    with pytest.raises(ValueRefusedError, match="QRES-E502"):
        item.fit(np.zeros(5, dtype=np.int32), info(1))
    with pytest.raises(ValueRefusedError, match="QRES-E502"):
        item.validate(np.zeros(5, dtype=np.int32))
    with pytest.raises(ValueRefusedError, match="QRES-E504"):
        item.fit(model(1), attrs.evolve(info(1), scale=3))
