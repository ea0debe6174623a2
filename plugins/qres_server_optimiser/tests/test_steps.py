"""The steps of the optimisers against exact fractions and against the algorithm in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_server_optimiser import adam_moment, adaptive_step, momentum_step, yogi_moment
from qres_server_optimiser.steps import Moment

from qres_core import fixed

LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.integers(-9, 9)
PAIR = st.integers(1, 5).flatmap(
    lambda d: st.tuples(*[arrays(np.int32, d, elements=COORDINATE)] * 2)
)
SHARE = st.floats(0, 1, exclude_max=True)
Ints = NDArray[np.int32]
BETAS: dict[str, Any] = {"beta1": 0.9, "beta2": 0.99}


@pytest.mark.claim("C-optimiser-3")
@given(pair=PAIR, rate=st.floats(0.001, 10), momentum=SHARE)
@example(pair=(np.full(1, HIGHEST, np.int32),) * 2, rate=10, momentum=0.9)
@settings(max_examples=100, deadline=None)
def test_fedavgm_is_its_formula_in_python_floats(
    pair: tuple[Ints, Ints], rate: float, momentum: float
) -> None:
    merged, last = pair
    before = merged.copy(), last.copy()
    step = momentum_step(merged, last, learning_rate=rate, momentum=momentum)
    assert step.dtype == np.int32
    for found, change, earlier in zip(step.tolist(), merged.tolist(), last.tolist(), strict=True):
        exact = math.trunc(momentum * float(earlier) + rate * float(change))
        assert found == max(-fixed.LIMIT, min(fixed.LIMIT, exact))
    assert np.array_equal(merged, before[0])
    assert np.array_equal(last, before[1])


def test_a_steady_update_comes_to_ten_times_its_size_less_what_is_cut() -> None:
    """As the README says: at ``10 u - 9`` another step would be cut back to the same."""
    merged = np.arange(1, 20_001, dtype=np.int32)
    step = np.zeros_like(merged)
    for _ in range(200):
        step = momentum_step(merged, step, learning_rate=1.0, momentum=0.9)
    assert np.array_equal(step, 10 * merged - 9)


@pytest.mark.claim("C-optimiser-3")
def test_momentum_dies_out_if_nothing_is_merged() -> None:
    step = np.array([1000, -1000, 7], dtype=np.int32)
    for _ in range(60):
        step = momentum_step(np.zeros_like(step), step, learning_rate=1.0, momentum=0.9)
    assert step.tolist() == [0, 0, 0]


@pytest.mark.control("C-optimiser-3")
def test_control_rounded_a_small_step_repeats_itself_for_ever() -> None:
    step = start = np.array([4, -4, 1], dtype=np.int32)
    for _ in range(60):
        step = np.rint(0.9 * step).astype(np.int32)
    assert np.array_equal(step, start)


@pytest.mark.claim("C-optimiser-9")
@given(
    off=arrays(np.int32, 40, elements=st.integers(-1000, 1000)),
    rate=st.floats(0.1, 3),
    momentum=st.floats(0, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_what_is_off_by_e_moves_fedavgm_by_a_bounded_multiple_of_e_and_fades(
    off: Ints, rate: float, momentum: float
) -> None:
    options = {"learning_rate": rate, "momentum": momentum}
    honest, lied = (np.zeros(1, dtype=np.int32) for _ in range(2))
    bound = rate * 1000 / (1 - momentum) + 2 / (1 - momentum)  # a step is cut by less than one
    for each in off:
        honest = momentum_step(np.full(1, 500, np.int32), honest, **options)
        lied = momentum_step(np.full(1, 500 + each, np.int32), lied, **options)
        assert abs(int(lied[0]) - int(honest[0])) <= bound
    for _ in range(2):  # nobody lies any more
        before = abs(int(lied[0]) - int(honest[0]))
        honest, lied = (
            momentum_step(np.full(1, 500, np.int32), it, **options) for it in (honest, lied)
        )
        assert abs(int(lied[0]) - int(honest[0])) <= momentum * before + 1


@pytest.mark.control("C-optimiser-9")
def test_control_a_momentum_of_one_would_move_without_bound() -> None:
    """Not an option: it must be below 1."""
    step = np.zeros(1, dtype=np.int32)
    for _ in range(50):
        step = momentum_step(np.full(1, 10, np.int32), step, learning_rate=1.0, momentum=1.0)
    assert step.tolist() == [500]


@pytest.mark.claim("C-optimiser-4")
@pytest.mark.parametrize("moment", [adam_moment, yogi_moment])
def test_adaptive_steps_are_algorithm_2_in_python_floats(moment: Moment) -> None:
    """Python's floats are IEEE doubles without fused operations: the bits must be the same."""
    draw = np.random.default_rng(3)
    rate, tau, beta1, beta2 = 655.36, 65.536, 0.9, 0.99
    rounds = draw.integers(LOWEST, HIGHEST, size=(80, 40), dtype=np.int32)
    rounds >>= draw.integers(0, 32, size=rounds.shape, dtype=np.int32)
    first, second = np.zeros(40), np.full(40, tau * tau)
    m, v = [0.0] * 40, [tau * tau] * 40
    for merged in rounds:
        step, first, second = adaptive_step(
            merged, first, second, moment, learning_rate=rate, tau=tau, beta1=beta1, beta2=beta2
        )
        for i, change in enumerate(merged.tolist()):
            square = float(change) * float(change)
            m[i] = beta1 * m[i] + (1.0 - beta1) * float(change)
            sign = float(v[i] > square) - float(v[i] < square)
            if moment is yogi_moment:
                v[i] = v[i] - (1.0 - beta2) * square * sign
            else:
                v[i] = beta2 * v[i] + (1.0 - beta2) * square
            assert step[i] == round(rate * (m[i] / (math.sqrt(v[i]) + tau)))
        assert first.tolist() == m
        assert second.tolist() == v


@pytest.mark.claim("C-optimiser-4")
@given(
    rounds=st.lists(arrays(np.int32, 3, elements=COORDINATE), min_size=1, max_size=12),
    beta2=st.floats(0.9, 0.999),
)
@settings(max_examples=100, deadline=None)
def test_a_coordinate_of_fedadam_moves_no_farther_than_said(
    rounds: list[Ints], beta2: float
) -> None:
    rate, beta1 = 1000.0, 0.9
    bound = rate * (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    first, second = np.zeros(3), np.full(3, 1e-6)
    for merged in rounds:
        step, first, second = adaptive_step(
            merged, first, second, adam_moment,
            learning_rate=rate, tau=1e-3, beta1=beta1, beta2=beta2,
        )  # fmt: skip
        assert np.abs(step).max() <= bound + 1


@pytest.mark.control("C-optimiser-4")
def test_control_updates_that_grow_come_to_the_bound_and_plain_momentum_past_it() -> None:
    rate, growing = 1000.0, 1.1 ** np.arange(150.0)
    first, second = np.zeros(1), np.full(1, 1e-6)
    step = plain = np.zeros(1, dtype=np.int32)
    for size in growing:
        merged = np.array([round(100 * size)], dtype=np.int32)
        step, first, second = adaptive_step(
            merged, first, second, adam_moment, learning_rate=rate, tau=1e-3, **BETAS
        )
        plain = momentum_step(merged, plain, learning_rate=1.0, momentum=0.9)
    assert 2.3 * rate < step[0] <= 2.35 * rate + 1
    assert plain[0] > 2.35 * rate


def test_the_bound_holds_where_tau_is_next_to_nothing() -> None:
    """On the coarsest grid: what is left of a single update dies out in both moments together."""
    rate, tau, beta1, beta2 = 1e6 * 2.0**-16, 1e-9 * 2.0**-16, 0.9, 0.82
    bound = rate * (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    first, second = np.zeros(1), np.full(1, tau * tau)
    for merged in [1] + [0] * 1000:
        step, first, second = adaptive_step(
            np.array([merged], dtype=np.int32), first, second, adam_moment,
            learning_rate=rate, tau=tau, beta1=beta1, beta2=beta2,
        )  # fmt: skip
        assert abs(step[0]) <= bound
    assert (first[0], second[0]) == (0.0, 0.0)


@pytest.mark.claim("C-optimiser-3")
def test_what_dies_out_is_never_a_subnormal_number() -> None:
    first, second = np.array([1.0]), np.array([1.0])
    nothing = np.zeros(1, dtype=np.int32)
    for _ in range(9000):
        _, first, second = adaptive_step(
            nothing, first, second, adam_moment, learning_rate=1.0, tau=1.0, **BETAS
        )
        assert first[0] == 0.0 or first[0] >= 2.0**-61
        assert second[0] == 0.0 or second[0] >= 2.0**-121
    assert (first[0], second[0]) == (0.0, 0.0)


def test_a_step_beyond_the_grid_is_held_within_it() -> None:
    step, _, _ = adaptive_step(
        np.array([HIGHEST, LOWEST], dtype=np.int32),
        np.zeros(2), np.zeros(2), adam_moment,
        learning_rate=1e308, tau=1e-300, beta1=0.0, beta2=0.99,
    )  # fmt: skip
    assert step.tolist() == [fixed.LIMIT, -fixed.LIMIT]
