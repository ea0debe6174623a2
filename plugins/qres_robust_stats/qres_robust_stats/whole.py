"""Comparisons of whole vectors by rules: computed from them, or from their inner products.

Where only a range of the columns is at hand, the inner products of the whole rows are given beside
it. Distances and lengths follow from them exactly, so a rule takes the same decisions either way.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from qres_arithmetic import (
    Rows,
    distances_of_products,
    squared_distances,
    squared_lengths,
)


def whole_distances(rows: Rows, products: NDArray[Any] | None) -> NDArray[Any]:
    """Squared distances of every two whole rows, shape ``(n, n)``.

    Args:
        rows: the whole rows; or with ``products`` int32, a range of their columns.
        products: exact inner products, Python integers, shape ``(n, n)``.

    Returns:
        as :func:`~qres_arithmetic.squared_distances`.

    Raises:
        ValueRefusedError: as there.
    """
    if products is not None:
        return distances_of_products(products)
    found: NDArray[Any] = squared_distances(rows)
    return found


def whole_lengths(rows: Rows, products: NDArray[Any] | None) -> list[int] | list[float]:
    """Squared lengths of whole rows. Arguments as for :func:`whole_distances`.

    Raises ValueRefusedError: as :func:`~qres_arithmetic.squared_lengths`.
    """
    if products is None:
        return squared_lengths(rows)
    squares: list[int] = products.diagonal().tolist()
    return squares
