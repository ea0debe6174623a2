"""What each attack sends."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from qres_core import LabError, RoundInfo, Update
from qres_core.contract.fixed import LIMIT
from qres_core.lab.attacks import ATTACKS, AttackContext, Forgery, make_attack, register

OWN = np.array([3, -7, 2**20, 0, -(2**30)], dtype=np.int32)


def context(own: np.ndarray[tuple[int], np.dtype[np.int32]] = OWN, seed: int = 0) -> AttackContext:
    info = RoundInfo("a", 1, b"m" * 32, own.size, 0, (b"s" * 32,), 1)
    honest = np.stack([own, own])
    update = Update(own, weight=5)
    return AttackContext(info, own, update, honest, 1, 0, np.random.default_rng(seed))


def vectors(name: str, strength: float | None = None) -> list[list[int]]:
    forged = make_attack(name, strength).forge(context())
    return [np.frombuffer(one.octets, dtype="<i4").tolist() for one in forged]


def test_sign_flip_negates_and_stays_on_the_grid() -> None:
    assert vectors("sign_flip", 1.0) == [[-3, 7, -(2**20), 0, 2**30]]
    assert vectors("sign_flip") == [[-12, 28, -(2**22), 0, LIMIT]]


def test_scaled_boosts_and_stays_on_the_grid() -> None:
    assert vectors("scaled", 2.0) == [[6, -14, 2**21, 0, -LIMIT]]


def test_noise_has_the_stated_size() -> None:
    own = np.full(20_000, 1000, dtype=np.int32)
    (forged,) = make_attack("noise", 3.0).forge(context(own))
    sent = np.frombuffer(forged.octets, dtype="<i4").astype(np.float64)
    # The deviation of a sample of 20,000 is within 2 % of 3,000 but for one in 10^14.
    assert abs(np.std(sent - own) - 3000) < 60
    again = make_attack("noise", 3.0).forge(context(own))
    assert again == (forged,)


def test_nan_is_a_finite_value_on_the_grid() -> None:
    assert vectors("nan") == [[0x7FC00000] * OWN.size]


def test_wrong_length_is_one_short() -> None:
    assert vectors("wrong_length") == [OWN[:-1].tolist()]


def test_duplicate_sends_two_that_differ() -> None:
    assert vectors("duplicate") == [OWN.tolist(), (-OWN).tolist()]


def test_silent_sends_nothing() -> None:
    assert vectors("silent") == []


def test_every_attack_says_what_it_is() -> None:
    for name, one in ATTACKS.items():
        assert one.name == name
        assert one.summary
        assert one.knowledge
        assert isinstance(one.make(None).forge(context()), tuple)


def test_unknown_names_and_senseless_strengths_are_refused() -> None:
    with pytest.raises(LabError, match=r"QRES-E801.*did you mean 'scaled'"):
        make_attack("scalled")
    with pytest.raises(LabError, match=r"QRES-E105.*has no strength"):
        make_attack("silent", 2.0)


def test_third_parties_can_register_one() -> None:
    @register("test_zero", summary="zeros", knowledge="nothing")
    @attrs.frozen
    class Zero:
        def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
            return (Forgery(bytes(4 * context.round_info.dimension)),)

    try:
        assert vectors("test_zero") == [[0] * OWN.size]
    finally:
        del ATTACKS["test_zero"]
