"""What a trainer can passes through all that is around it; a wrapper changes what it says."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import RoundInfo, Update, Vector
from qres_core.contract.trainer_abilities import (
    TrainerAbilities,
    Wrapper,
    abilities_of,
    base_of,
)
from qres_core.errors import ConfigError


class Everything:
    """A trainer with every ability."""

    pooled = True

    def __init__(self, base: bytes = b"") -> None:
        self.base = base

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update(vector)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"at": float(vector[0])}

    def validate(self, vector: Vector) -> float:
        return float(vector[0])

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        del round_info
        return vector

    def remember(self) -> bytes:
        return b"memory"

    def recall(self, memory: bytes) -> None:
        assert memory == b"memory"

    def base_digest(self) -> bytes:
        return self.base

    def records(self) -> int:
        return 1

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> list[np.ndarray]:
        del round_info
        return [vector[None].astype(np.float64)]


class Plain:
    """A wrapper of a user's own, which says nothing."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


def test_a_wrapper_can_what_the_trainer_can_but_for_single_examples() -> None:
    """Through any number of them; a wrapper that is written tomorrow needs no line for it."""
    trainer = Everything(bytes(32))
    whole, wrapped = abilities_of(trainer), abilities_of(Wrapper(Wrapper(trainer)))
    clips = ("records", "clip")
    for field in attrs.fields(TrainerAbilities):
        if field.name not in clips:
            assert getattr(whole, field.name)
            assert getattr(wrapped, field.name) == getattr(whole, field.name), field.name
    assert whole.records is trainer
    assert wrapped.records is None
    assert base_of(Wrapper(trainer)) == bytes(32)


def test_a_wrapper_gives_the_round_to_a_trainer_that_asks_for_none() -> None:
    vector = np.array([3], dtype=np.int32)
    assert Wrapper(Everything()).evaluate(vector, make_round_info(1)) == {"at": 3.0}


def test_a_users_own_wrapper_says_for_itself_whether_it_judges() -> None:
    """What does not travel by a method of its own does not judge for it."""
    trainer = Everything()
    able = abilities_of(Plain(trainer))
    assert (able.validate, able.reference, able.records) == (None, None, None)
    assert able.pooled
    assert able.memory is trainer
    assert able.base is trainer


def test_nobody_can_nothing() -> None:
    for nobody in (None, object()):
        able = abilities_of(nobody)
        assert not any(getattr(able, field.name) for field in attrs.fields(TrainerAbilities))
    assert base_of(None) == b""


@pytest.mark.parametrize("digest", [b"short", "0" * 32, None])
def test_a_base_that_is_no_digest_is_refused(digest: bytes) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E104 trainer: base_digest returned"):
        base_of(Wrapper(Everything(digest)))
