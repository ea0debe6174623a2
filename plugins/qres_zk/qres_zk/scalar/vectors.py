"""Vectors of scalars."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from qres_zk.group.scalars import Scalars, checked_scalars
from qres_zk.scalar.backend import engine
from qres_zk.scalar.checks import check_length, checked_values


def multiply_add(left: Scalars, factor: int, right: Scalars) -> Scalars:
    """Return ``left + factor * right`` row by row, modulo the order.

    Args:
        left: shape ``(n, 4)``.
        factor: any integer.
        right: shape ``(n, 4)``.

    Raises:
        ValueRefusedError: QRES-E502 or QRES-E503 if the arrays do not fit.

    Complexity: 20 ns a row, compiled; 1 µs in Python.
    """
    check_length("scalars", len(checked_scalars(right)), len(checked_scalars(left)))
    return engine().multiply_add(left, factor, right)


def dot(left: Scalars, right: Scalars) -> int:
    """Return the sum of the products of rows, modulo the order.

    Raises:
        ValueRefusedError: QRES-E502 or QRES-E503 if the arrays do not fit.

    Complexity: 20 ns a row, compiled; 1 µs in Python.
    """
    check_length("scalars", len(checked_scalars(right)), len(checked_scalars(left)))
    return engine().dot(left, right)


def combine_rows(factors: list[int], values: NDArray[Any]) -> Scalars:
    """Return ``sum_c factors[c] * values[c]`` modulo the order.

    Args:
        factors: ``b`` integers; ``b`` is below ``2**22``.
        values: shape ``(b, m)``, int32 or int64.

    Returns:
        shape ``(m, 4)``.

    Raises:
        ValueRefusedError: QRES-E502 or QRES-E503 if the arrays do not fit.

    Complexity: 1 to 5 ns a coordinate, compiled, more for longer values and factors; 0.3 µs in
        Python.
    """
    array = checked_values(values)
    check_length("factors", len(factors), len(array))
    return engine().combine_rows(factors, array)
