"""Is a sum of vectors the sum of those that were committed to?

Commitments add up: ``sum_i w_i V_i`` is a commitment to ``sum_i w_i u_i`` under the summed blinds.
Who holds the sum and the summed blinds checks all rows of all members in one equation

    sum_c rho_c (sum_i w_i V_(i,c) - R_c H - sum_j S_(c,j) G_j) = 0

with random ``rho_c``. If it holds, ``S`` *is* the integer sum of the committed vectors: nobody sent
another vector than the committed one, nobody summed wrongly, nobody was left out or counted twice.
Integer, and not only modulo the order, because every committed vector is small: its proof says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qres_zk.group import ORDER, Points, Scalars, generator, is_identity, msm, scalars
from qres_zk.pedersen import generators
from qres_zk.scalar import combine_rows, multiply_add
from qres_zk.statement import Statement


def opens(
    statement: Statement,
    commitments: Sequence[Points],
    sums: NDArray[np.integer],
    blinds: Sequence[int],
    weights: Sequence[int] | None = None,
) -> bool:
    """Whether weighted commitments together are one to these sums.

    Args:
        statement: gives the layout.
        commitments: for each member its row commitments, shape ``(b, 20)``; at least one.
        sums: the exact weighted sum of the members' vectors, shape ``(d,)``, more than ``-2**63``.
        blinds: the weighted sums of their blinds, ``b`` residues.
        weights: one for each member; all 1 by default.

    Returns:
        false also where the number of blinds is wrong. A false sum passes with probability at most
        ``2**-127``.

    Complexity: O(d) word operations, and one multiplication of ``n b + m`` points.
    """
    factors = [1] * len(commitments) if weights is None else list(weights)
    if len(blinds) != statement.rows or len(factors) != len(commitments):
        return False
    random = [secrets.randbits(128) for _ in range(statement.rows)]
    summed = _combined(random, statement.laid_out(sums))
    negated = multiply_add(np.zeros_like(summed), -1, summed)
    blinding = -sum(rho * blind for rho, blind in zip(random, blinds, strict=True)) % ORDER
    own = scalars([weight * rho for weight in factors for rho in random])
    result = msm(
        np.concatenate([scalars([blinding]), negated, own]),
        np.concatenate(
            [generator(), generators(statement).vector[: statement.columns], *commitments]
        ),
    )
    return bool(is_identity(result)[0])


def _combined(factors: list[int], sums: NDArray[np.int64]) -> Scalars:
    """``combine_rows`` for all 64-bit integers: in two halves where they are large."""
    if max(int(sums.max()), -int(sums.min())) < 2**39:
        return combine_rows(factors, sums)
    low = combine_rows(factors, sums & 0xFFFFFFFF)
    return multiply_add(low, 2**32, combine_rows(factors, sums >> 32))
