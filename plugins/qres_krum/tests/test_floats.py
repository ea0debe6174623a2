"""The same rules on float rows, outside the fixed-point grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_krum import bulyan, krum, multi_krum
from qres_krum.scores import krum_scores

from qres_core.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

Backends = list["Callable[[], AbstractContextManager[None]]"]
REALS = [np.float32, np.float64]
RULES: dict[str, Callable[[Any], NDArray[Any]]] = {
    "krum": lambda rows: krum(rows, 2),
    "multi_krum": lambda rows: multi_krum(rows, 2, 5),
    "bulyan": lambda rows: bulyan(rows, 2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("real", REALS)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda d: st.lists(
            st.lists(st.integers(-200, 200), min_size=d, max_size=d), min_size=11, max_size=14
        )
    ),
    exponent=st.integers(-20, 20),
)
@settings(deadline=None, max_examples=300)
@pytest.mark.long
def test_small_integers_times_a_power_of_two_equal_the_exact_rule(
    rule: str,
    real: type[np.floating[Any]],
    rows: list[list[int]],
    exponent: int,
    backends: Backends,
) -> None:
    """No distance of such numbers is rounded, not even in float32, so ties are ties here too.

    With a factor of 9 · 8 · 5 · 7 every exact mean of up to ten is an integer.
    """
    factor = 2520
    whole = np.array(rows, dtype=np.int32) * factor
    small = np.array(rows, dtype=real) * real(2.0**exponent)
    for backend in backends:
        with backend():
            exact = RULES[rule](whole)
            result = RULES[rule](small)
            assert result.dtype == real
            # Other rows, or the same number of others, would give a mean at least 1 / 10 away.
            assert np.allclose(result * 2.0**-exponent, exact / factor, rtol=0, atol=1e-3)


@pytest.mark.parametrize("real", REALS)
def test_scores_of_float_rows(real: type[np.floating[Any]], backends: Backends) -> None:
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((17, 3001)).astype(real)
    wide = rows.astype(np.longdouble)
    squared = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    expected = np.sort(squared, axis=1)[:, : 17 - 3 - 2].sum(axis=1)
    for backend in backends:
        with backend():
            assert np.allclose(krum_scores(rows, 3), expected.astype(float), rtol=1e-6, atol=0)


@pytest.mark.claim("C-krum-11")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_row(
    rule: str, real: type[np.floating[Any]], poison: float, backends: Backends
) -> None:
    rows = np.random.default_rng(0).standard_normal((11, 300)).astype(real)
    rows[7, 250] = poison
    for backend in backends:
        with backend(), pytest.raises(ValueRefusedError, match=r"QRES-E501 vectors: .*row 7"):
            RULES[rule](rows)


@pytest.mark.parametrize("rule", RULES)
def test_a_huge_liar_is_not_near_and_does_not_overflow(rule: str, backends: Backends) -> None:
    rows = np.random.default_rng(1).standard_normal((11, 300)).astype(np.float32)
    rows[[2, 9]] = np.float32(3e38)
    for backend in backends:
        with backend():
            result = RULES[rule](rows)
            assert np.abs(result).max() < 10


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("vectors", "code"),
    [
        (np.zeros((11, 2), dtype=np.int64), "QRES-E503"),
        (np.zeros((11, 2), dtype=np.float16), "QRES-E503"),
        (np.zeros(11, dtype=np.int32), "QRES-E502"),
        ([[0.0]] * 11, "QRES-E502"),
        (np.zeros((6, 2)), "QRES-E505"),
    ],
)
def test_other_arrays_are_refused(rule: str, vectors: Any, code: str) -> None:
    with pytest.raises(ValueRefusedError) as refusal:
        RULES[rule](vectors)
    assert refusal.value.code == code


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("real", [np.int32, *REALS])
def test_any_strides_are_read_and_nothing_is_written(
    rule: str, real: type[np.number[Any]], backends: Backends
) -> None:
    rows = np.random.default_rng(2).integers(-99, 99, size=(22, 70)).astype(real)
    rows.flags.writeable = False
    view = rows[::2, ::-3]
    for backend in backends:
        with backend():
            result = RULES[rule](view)
            assert result.tolist() == RULES[rule](np.ascontiguousarray(view)).tolist()
            assert not np.shares_memory(result, rows)
            assert result.flags.writeable
