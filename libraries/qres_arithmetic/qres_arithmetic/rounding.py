"""The one rounding rule: to the nearest integer, halves to the even one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def round_half_even(total: NDArray[np.int64], divisor: int) -> NDArray[np.int64]:
    """Divide integers and round to the nearest, halves to the even neighbour.

    Rounding down instead would pull the model towards minus infinity by up to a step each round.

    Args:
        total: int64, any shape; not changed.
        divisor: from 1 to ``2**62``.

    Returns:
        int64, the shape of ``total``, new memory.

    Raises:
        ValueError: ``divisor`` is out of range.

    Complexity: ``O(total.size)``.

    Example:
        >>> round_half_even(np.array([1, 3, 5, -1, -3]), 2).tolist()
        [0, 2, 2, 0, -2]
    """
    if not 1 <= divisor <= 2**62:
        raise ValueError(f"divisor must be from 1 to 2**62, got {divisor}")
    quotient, remainder = np.divmod(total, divisor)
    twice = 2 * remainder
    quotient += (twice > divisor) | ((twice == divisor) & (quotient & 1 == 1))
    return quotient
