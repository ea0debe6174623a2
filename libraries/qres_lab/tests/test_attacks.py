"""What each attack sends."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from qres_core import RoundInfo, Update
from qres_core.attacks import ATTACKS, AttackContext, Forgery, catalogue, make_attack, register
from qres_core.attacks.context import no_probe
from qres_core.contract.fixed import LIMIT
from qres_core.errors import LabError

OWN = np.array([3, -7, 2**20, 0, -(2**30)], dtype=np.int32)


def context(
    own: NDArray[np.int32] = OWN, *, index: int = 0, number: int = 1, scale: int = 0
) -> AttackContext:
    return AttackContext(
        RoundInfo("a", number, b"m" * 32, own.size, scale, (b"s" * 32,), 1),
        own,
        Update(own, weight=5),
        np.stack([own, own]),
        2,
        index,
        np.random.default_rng(0),
        lambda rows: rows[0],
    )


def vectors(name: str, strength: float | None = None, **more: int) -> list[list[int]]:
    forged = make_attack(name, strength).forge(context(**more))
    assert all(item.weight == 5 for item in forged)
    return [np.frombuffer(item.octets, dtype="<i4").tolist() for item in forged]


@pytest.mark.claim("C-attack-1")
def test_sign_flip_negates_and_stays_on_the_grid() -> None:
    assert vectors("sign_flip", 1.0) == [[-3, 7, -(2**20), 0, 2**30]]
    assert vectors("sign_flip") == [[-12, 28, -(2**22), 0, LIMIT]]


@pytest.mark.claim("C-attack-1")
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


@pytest.mark.parametrize(("scale", "deviation"), [(0, 65536 * 3), (4, 65536 * 3 / 16)])
def test_gaussian_is_measured_in_the_units_of_the_model(scale: int, deviation: float) -> None:
    own = np.zeros(20_000, dtype=np.int32)
    (forged,) = make_attack("gaussian", 3.0).forge(context(own, scale=scale))
    sent = np.frombuffer(forged.octets, dtype="<i4").astype(np.float64)
    # As above: 20,000 draws, 2 %.
    assert abs(np.std(sent) - deviation) < 0.02 * deviation
    assert abs(np.mean(sent)) < 0.03 * deviation


def test_inf_is_two_finite_values_in_turn() -> None:
    high, low = 0x7F800000, 0xFF800000 - 2**32
    assert vectors("inf") == [[high, low, high, low, high]]


def test_cancelling_pairs_are_nothing_to_integers_and_too_much_for_floats() -> None:
    (first,), (second,) = vectors("cancellation", index=0), vectors("cancellation", index=1)
    assert (first, second) == ([LIMIT] * OWN.size, [-LIMIT] * OWN.size)
    rows = np.array([OWN, first, second, -OWN, OWN], dtype=np.int32)
    assert rows.sum(axis=0, dtype=np.int64).tolist() == OWN.tolist()
    in_floats = np.zeros(OWN.size, dtype=np.float32)
    for row in rows[[0, 1, 2]]:
        in_floats += row.astype(np.float32)
    assert in_floats.astype(np.int64)[:2].tolist() != OWN[:2].tolist()
    wrapped = (rows[0] + rows[1]).tolist()  # int32
    assert wrapped[0] < 0 < OWN[0]


@pytest.mark.parametrize(("scale", "steps"), [(0, 2**30), (4, 2**26)])
def test_offset_moves_every_coordinate_alike_and_stays_on_the_grid(scale: int, steps: int) -> None:
    (sent,) = vectors("offset", scale=scale)
    assert sent == [min(int(x) + steps, LIMIT) for x in OWN]


@pytest.mark.parametrize(("number", "expected"), [(3, OWN), (4, 100 * OWN.astype(np.int64))])
def test_a_sleeper_strikes_after_its_round(number: int, expected: NDArray[np.int64]) -> None:
    held = np.clip(expected, -LIMIT, LIMIT).tolist()
    assert vectors("sleeper", 3.0, number=number) == [held]


def test_nan_is_a_finite_value_on_the_grid() -> None:
    assert vectors("nan") == [[0x7FC00000] * OWN.size]


def test_wrong_length_is_one_short() -> None:
    assert vectors("wrong_length") == [OWN[:-1].tolist()]


def test_duplicate_sends_two_that_differ() -> None:
    assert vectors("duplicate") == [OWN.tolist(), (-OWN).tolist()]


def test_silent_sends_nothing() -> None:
    assert vectors("silent") == []


def test_every_attack_says_what_it_is() -> None:
    for name, attack in catalogue().items():
        assert attack.name == name
        assert attack.summary
        assert attack.knowledge
        assert isinstance(attack.make(None).forge(context()), tuple)


def test_unknown_names_and_senseless_strengths_are_refused() -> None:
    with pytest.raises(LabError, match=r"QRES-E801.*did you mean 'scaled'"):
        make_attack("scalled")
    with pytest.raises(LabError, match=r"QRES-E105.*has no strength"):
        make_attack("silent", 2.0)
    for senseless in (math.nan, math.inf):
        with pytest.raises(LabError, match=r"QRES-E105.*must be finite"):
            make_attack("scaled", senseless)


def test_an_attack_that_probes_without_a_probe_is_refused() -> None:
    blind = attrs.evolve(context(), probe=no_probe)
    with pytest.raises(LabError, match=r"QRES-E105.*probes = True"):
        make_attack("optimised_ipm").forge(blind)


def test_a_plan_is_worked_out_once_a_round_for_all_colluders() -> None:
    worked: list[int] = []
    first = context(index=0)
    second = attrs.evolve(context(index=1), board=first.board)
    for item in (first, second, first):
        assert item.agreed(lambda: worked.append(1) or "plan") == "plan"
    assert worked == [1]


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_attack_also_works_where_nobody_is_honest(name: str) -> None:
    alone = attrs.evolve(context(), honest=np.empty((0, OWN.size), dtype=np.int32))
    assert isinstance(make_attack(name).forge(alone), tuple)


def test_third_parties_can_register_one() -> None:
    @register("test_zero", summary="zeros", knowledge="nothing")
    @attrs.frozen
    class Zero:
        def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
            return (Forgery(bytes(4 * context.round_info.dimension), 5),)

    try:
        assert vectors("test_zero") == [[0] * OWN.size]
    finally:
        del ATTACKS["test_zero"]
