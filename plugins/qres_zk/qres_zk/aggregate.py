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

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_zk.group import Points, Scalars, generator, is_identity, msm, scalars, total
from qres_zk.pedersen import generators
from qres_zk.scalar import combine_rows, multiply_add
from qres_zk.statement import NormStatement


@attrs.frozen(eq=False)
class SumOpening:
    """A sum, and what shows it to be the sum of committed vectors."""

    # for each member its row commitments, shape ``(b, 20)``; at least one
    commitments: Sequence[Points]
    # the exact weighted sum of the members' vectors, shape ``(d,)``, more than ``-2**63``
    sums: NDArray[np.integer]
    blinds: Sequence[int]  # the weighted sums of their blinds, ``b`` residues
    weights: Sequence[int] | None = None  # one for each member; all 1 by default

    @property
    def factors(self) -> list[int]:
        """The weights."""
        return [1] * len(self.commitments) if self.weights is None else list(self.weights)

    def fits(self, statement: NormStatement) -> bool:
        """True if there are as many blinds and weights as there must be."""
        members = len(self.commitments)
        return len(self.blinds) == statement.rows and len(self.factors) == members > 0


def opens(
    statement: NormStatement,
    commitments: Sequence[Points],
    sums: NDArray[np.integer],
    blinds: Sequence[int],
    weights: Sequence[int] | None = None,
) -> bool:
    """True if weighted commitments together are one to these sums.

    Args:
        statement: gives the layout.
        commitments: see :class:`SumOpening`, as all that follows.
        sums: shape ``(d,)``.
        blinds: ``b`` residues.
        weights: one for each member.

    Returns:
        false also where the number of blinds is wrong. A false sum passes with probability at most
        ``2**-127``.

    Complexity: O(d) word operations, ``n b`` additions and one multiplication of ``b + m`` points;
        of ``n b + m`` where weights differ.
    """
    opening = SumOpening(commitments, sums, blinds, weights)
    return opening.fits(statement) and _hold(statement, [opening])


def opens_rows(
    statement: NormStatement,
    commitments: Points,
    shard: NDArray[np.integer],
    blinds: Sequence[int],
    start: int,
) -> bool:
    """True if some rows of a layout are those that were committed to.

    Args:
        statement: gives the layout.
        commitments: of all rows, shape ``(b, 20)``.
        shard: the coordinates from ``start`` on, whole rows but for the layout's padding.
        blinds: of all rows, ``b`` residues.
        start: a multiple of the length of a row.

    Returns:
        false also for parts of rows. Other coordinates pass with probability at most ``2**-127``:
        each row has a factor of its own, drawn afresh, so no two can make up for each other.

    Complexity: O(c) word operations and one multiplication of ``m`` points.
    """
    columns, stop = statement.columns, start + shard.size
    if start % columns or not (stop % columns == 0 or stop == statement.dimension):
        return False
    first, after = start // columns, -(-stop // columns)
    table = np.zeros((after - first) * columns, dtype=np.int64)
    table[: shard.size] = shard
    random = [secrets.randbits(128) for _ in range(first, after)]
    combined = _combined(random, table.reshape(-1, columns))
    vector = multiply_add(np.zeros((columns, 4), dtype=np.uint64), -1, combined)
    chosen = blinds[first:after]
    blinding = -sum(rho * blind for rho, blind in zip(random, chosen, strict=True))
    result = msm(
        np.concatenate([scalars([blinding]), vector, scalars(random)]),
        np.concatenate(
            [generator(), generators(statement).vector[:columns], commitments[first:after]]
        ),
    )
    return bool(is_identity(result)[0])


def opening_failures(statement: NormStatement, openings: Sequence[SumOpening]) -> tuple[int, ...]:
    """Sums, of many, that are not the sums of what was committed to.

    Every row of every sum has a factor of its own, drawn afresh, so errors of two sums cannot
    cancel. Only where the whole does not hold, each is looked at by itself.

    Args:
        statement: gives the layout.
        openings: the sums.

    Returns:
        their indices, ascending; empty if all hold.

    Complexity: as :func:`opens` for each, but for one multiplication for all.
    """
    fitting = [at for at, opening in enumerate(openings) if opening.fits(statement)]
    if not fitting or _hold(statement, [openings[at] for at in fitting]):
        return tuple(at for at in range(len(openings)) if at not in fitting)
    return tuple(
        at
        for at, opening in enumerate(openings)
        if at not in fitting or not _hold(statement, [opening])
    )


def _hold(statement: NormStatement, openings: Sequence[SumOpening]) -> bool:
    vector = np.zeros((statement.columns, 4), dtype=np.uint64)
    blinding = 0
    own: list[int] = []
    points: list[Points] = []
    for opening in openings:
        random = [secrets.randbits(128) for _ in range(statement.rows)]
        summed = _combined(random, statement.laid_out(opening.sums))
        vector = multiply_add(vector, -1, summed)
        blinding -= sum(rho * blind for rho, blind in zip(random, opening.blinds, strict=True))
        if set(opening.factors) == {1}:
            own += random
            points.append(total(opening.commitments))
        else:
            own += [weight * rho for weight in opening.factors for rho in random]
            points += opening.commitments
    result = msm(
        np.concatenate([scalars([blinding]), vector, scalars(own)]),
        np.concatenate([generator(), generators(statement).vector[: statement.columns], *points]),
    )
    return bool(is_identity(result)[0])


def _combined(factors: list[int], sums: NDArray[np.int64]) -> Scalars:
    """``combine_rows`` for all 64-bit integers: in two halves where they are large."""
    if max(int(sums.max()), -int(sums.min())) < 2**39:
        return combine_rows(factors, sums)
    low = combine_rows(factors, sums & 0xFFFFFFFF)
    return multiply_add(low, 2**32, combine_rows(factors, sums >> 32))
