"""Means and weighted sums of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated, run_columns
from qres_arithmetic.passes import feed
from qres_arithmetic.rounding import round_half_even
from qres_arithmetic.rows import Rows, refuse_non_finite
from qres_core.errors import ValueRefusedError

WEIGHT_UNIT: Final = 2**30
"""Exact weights are integers that sum to this."""

_WIDTH: Final = 8208
_SUM_TOLERANCE: Final = 1e-6


def mean_of(rows: Rows, indices: Sequence[int]) -> NDArray[Any]:
    """Return the equally weighted mean of some rows.

    Args:
        rows: shape ``(n, d)``; not changed.
        indices: one or more rows; one that is named twice counts twice.

    Returns:
        shape ``(d,)``, the dtype of ``rows``, new memory. int32: exact, rounded half to even;
        never out of range, as a mean lies among its inputs. Floats: summed in float64.

    Raises:
        ValueRefusedError: QRES-E501 if a row that is read is not finite.
        ValueError: ``indices`` is empty.
        IndexError: an index is out of range.

    Complexity: ``O(len(indices) d)``; memory beside the result is one block of columns.

    Example:
        >>> mean_of(np.array([[1, 2, -1], [2, 3, -2]], dtype=np.int32), [0, 1]).tolist()
        [2, 2, -2]
    """
    chosen = [int(i) for i in indices]
    if not chosen:
        raise ValueError("indices must not be empty")
    if not -len(rows) <= min(chosen) <= max(chosen) < len(rows):
        raise IndexError(f"indices must be rows of {len(rows)}, got {chosen}")
    return _combination(rows, chosen, [1] * len(chosen), len(chosen))


def quantised(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn weights that sum to about one into integers that sum to exactly ``2**30``.

    Each is rounded, and what is missing or too much goes to the largest, of equals the first.

    Args:
        weights: float64, shape ``(n,)``, finite, not negative, summing to 1 within a millionth.

    Returns:
        int64, shape ``(n,)``, not negative.

    Raises:
        ValueRefusedError: QRES-E506 if the weights are not as stated, or so many that rounding
            cannot be made up for.

    Complexity: ``O(n)``.

    Example:
        >>> quantised(np.array([1 / 3, 1 / 3, 1 / 3])).tolist()
        [357913942, 357913941, 357913941]
    """
    _check_weights(weights)
    whole = np.rint(weights * float(WEIGHT_UNIT)).astype(np.int64)
    largest = int(np.argmax(whole))
    whole[largest] += WEIGHT_UNIT - int(whole.sum())
    if whole[largest] < 0:
        raise ValueRefusedError.of(
            "QRES-E506", "weights", f"{len(whole)} weights are too many to add up to 2**30"
        )
    return whole


def combine(rows: Rows, weights: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[Any]:
    """Return the convex combination ``sum(w[i] * rows[i])``.

    Args:
        rows: shape ``(n, d)``; not changed. Rows of weight zero are not read.
        weights: shape ``(n,)``, not negative: float64 summing to 1 within a millionth, or int64
            summing to ``2**30``.

    Returns:
        shape ``(d,)``, the dtype of ``rows``, new memory. int32: of the :func:`quantised` weights
        exactly, divided by ``2**30``, rounded half to even; the sum is at most ``2**61``. Floats:
        summed in float64.

    Raises:
        ValueRefusedError: QRES-E506 for weights that are not as stated; QRES-E501 if a row that
            is read is not finite.

    Complexity: ``O(n d)``; memory beside the result is one block of columns.

    Example:
        >>> combine(np.array([[0, 8], [4, 0]], dtype=np.int32), np.array([0.25, 0.75])).tolist()
        [3, 2]
    """
    if weights.shape != (len(rows),):
        raise ValueRefusedError.of(
            "QRES-E506", "weights", f"expected shape ({len(rows)},), got {weights.shape}"
        )
    _check_weights(weights)
    if weights.dtype == np.int64 or rows.dtype == np.int32:
        if weights.dtype != np.int64:
            weights = quantised(cast("NDArray[np.float64]", weights))
        chosen = np.flatnonzero(weights)
        return _combination(rows, chosen.tolist(), weights[chosen].tolist(), WEIGHT_UNIT)
    chosen = np.flatnonzero(weights)
    return _combination(rows, chosen.tolist(), weights[chosen].tolist(), 1)


def _combination(
    rows: Rows, chosen: list[int], weights: list[int] | list[float], divisor: int
) -> NDArray[Any]:
    """Return ``sum(weights[c] * rows[chosen[c]]) / divisor``."""
    out = np.empty(rows.shape[1], dtype=rows.dtype)
    if rows.dtype == np.int32:
        _combine_integers(rows, chosen, weights, divisor, out)
        return out
    _combine_floats(rows, chosen, weights, divisor, out)
    if not np.isfinite(out).all():
        refuse_non_finite(rows, sorted(set(chosen)))
        # The rows are finite: float64 overflowed. Divided first, each step stays in range.
        _combine_floats(rows, chosen, [w / divisor for w in weights], 1, out)
    return out


def _combine_integers(
    rows: Rows, chosen: list[int], weights: Sequence[float], divisor: int, out: NDArray[Any]
) -> None:
    if accelerated():
        from qres_arithmetic import combination_kernels as kernels  # noqa: PLC0415 - loads numba

        which = np.array(chosen, dtype=np.int64) % len(rows)
        factors = np.array(weights, dtype=np.int32)

        def run(block: Any, first: int, last: int, at: int) -> None:
            part = out[at : at + last - first]
            kernels.exact_combination(block, which, factors, divisor, first, last, part)

        _run(rows, run, kernels.WIDTH)
        return
    for start in range(0, len(out), _WIDTH):
        columns = slice(start, start + _WIDTH)
        total: NDArray[np.int64] = np.zeros(out[columns].shape, dtype=np.int64)
        for i, weight in zip(chosen, weights, strict=True):
            total += rows[i, columns].astype(np.int64) * int(weight)
        out[columns] = round_half_even(total, divisor)


def _combine_floats(
    rows: Rows, chosen: list[int], weights: Sequence[float], divisor: int, out: NDArray[Any]
) -> None:
    if accelerated():
        from qres_arithmetic import combination_kernels as kernels  # noqa: PLC0415 - loads numba

        which = np.array(chosen, dtype=np.int64) % len(rows)
        factors = np.array(weights, dtype=np.float64)

        def run(block: Any, first: int, last: int, at: int) -> None:
            part = out[at : at + last - first]
            kernels.float_combination(block, which, factors, float(divisor), first, last, part)

        _run(rows, run, kernels.WIDTH)
        return
    with np.errstate(all="ignore"):
        for start in range(0, len(out), _WIDTH):
            columns = slice(start, start + _WIDTH)
            total = np.zeros(out[columns].shape)
            for i, weight in zip(chosen, weights, strict=True):
                total += rows[i, columns] * np.float64(weight)
            out[columns] = total / divisor


def _run(rows: Rows, kernel: Callable[[Any, int, int, int], None], width: int) -> None:
    def work(start: int, stop: int) -> None:
        feed(rows, width, start, stop, kernel)

    run_columns(work, rows.shape[1], width, len(rows))


def _check_weights(weights: NDArray[np.float64] | NDArray[np.int64]) -> None:
    if weights.dtype == np.int64:
        fits = weights.min(initial=0) >= 0 and sum(weights.tolist()) == WEIGHT_UNIT
        wanted = "2**30"
    else:
        fits = (
            weights.dtype == np.float64
            and bool(np.isfinite(weights).all())
            and weights.min(initial=0.0) >= 0
            and abs(math.fsum(weights.tolist()) - 1) <= _SUM_TOLERANCE
        )
        wanted = "1"
    if not fits:
        raise ValueRefusedError.of(
            "QRES-E506", "weights", f"expected numbers of at least 0 that sum to {wanted}"
        )
