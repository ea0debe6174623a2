"""Relations that prover and verifier of norm/v2 both compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_zk.statement import DIRECTION_SHIFT, NormStatement


def shifted_direction(statement: NormStatement) -> NDArray[np.int64] | None:
    """The direction moved to non-negative entries, as rows; padding is moved with it.

    ``s`` is the sum of all ``b m`` committed coordinates, so ``h + 2**15 s`` is ``<g, u>`` moved by
    ``2**15`` at each of them. norm/v1 left the padding where it was: a prover with ``-x`` there
    proved ``2**15 x`` more than ``<g, u>``.
    """
    if statement.direction is None:
        return None
    return statement.laid_out(statement.direction) + DIRECTION_SHIFT


def signed_sums(values: list[int], k: int) -> list[int]:
    """The random signed sums ``2 q - s`` and the four squares' roots."""
    return [2 * value - values[k] for value in values[:k]] + values[k + 1 : k + 5]
