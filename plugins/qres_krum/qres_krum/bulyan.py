"""Bulyan as a function of stacked rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, nearest_mean, squared_distances

from qres_core import options
from qres_krum.iterated import iterated_krum


def bulyan(vectors: Rows, f: int) -> NDArray[Any]:
    """Select ``n - 2 f`` rows by iterated Krum, then average near the median of every column.

    In each column the ``n - 4 f`` selected values nearest to the median of the selected are
    averaged. So a liar who gets itself selected by being close in nearly all columns cannot use
    the one where it is not.

    Args:
        vectors: shape ``(n, d)``, int32, float32 or float64; not changed.
        f: rows that may be anything, 0 or more. With 0 the result is the mean of all rows.

    Returns:
        shape ``(d,)``, the dtype of the rows, new memory. For int32 rows selection and median are
        exact, the mean is rounded half to even, and every machine returns the same. How equal
        scores are ordered: see :func:`~qres_krum.iterated.iterated_krum`.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 4 f + 3``, QRES-E501 if a float row holds NaN or an
            infinity, QRES-E502 for another shape, QRES-E503 for another dtype.
        OptionError: QRES-E105, ``f`` is negative or no integer.

    Complexity:
        one pass of pairwise distances, ``O(n**2 log n)`` to select, and a sort of every column of
        the selected rows, in blocks.

    Guarantee:
        strong Byzantine resilience: each coordinate of the result is within ``O(sigma / sqrt(d))``
        of an honest row's, ``sigma`` being the honest rows' deviation in norm. For Krum alone that
        leeway is ``O(sigma)`` in a single coordinate.

    Source:
        El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
        Byzantium", ICML 2018, section 4.

    Example:
        >>> bulyan(np.array([[2], [3], [4], [8], [15], [18], [90]], dtype=np.int32), f=1)
        array([5], dtype=int32)
    """
    options.whole(0).check("f", f)
    rows = check_rows(vectors, fewest=4 * f + 3)
    if f == 0:
        return nearest_mean(rows, len(rows))
    return near_the_median(rows, squared_distances(rows), f)


def near_the_median(rows: NDArray[Any], distances: NDArray[Any], f: int) -> NDArray[Any]:
    """Bulyan of checked rows whose squared distances are known; ``f``: 1 or more."""
    selected = sorted(iterated_krum(distances, f))
    return nearest_mean(Selected(rows, selected), len(selected) - 2 * f)


@attrs.frozen
class Selected:
    """Some rows of an array, copied one block of columns at a time."""

    rows: NDArray[Any]  # shape ``(n, d)``
    indices: Sequence[int]  # which, in the order they are to have

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.indices), self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the rows."""
        return self.rows.dtype

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Copy columns ``start`` to ``stop`` of the selected rows."""
        return self.rows[self.indices, start:stop]
