"""What prover and verifier of norm/v1 both compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_zk.statement import DIRECTION_SHIFT, NormStatement


def shifted_direction(statement: NormStatement) -> NDArray[np.int64] | None:
    """The direction moved to non-negative entries, as rows; padding stays zero."""
    if statement.direction is None:
        return None
    return statement.laid_out(statement.direction.astype(np.int64) + DIRECTION_SHIFT)


def signed_sums(values: list[int], k: int) -> list[int]:
    """The random signed sums ``2 q - s`` and the four squares' roots."""
    return [2 * value - values[k] for value in values[:k]] + values[k + 1 : k + 5]
