"""The verifier of norm/v2."""

from __future__ import annotations

import secrets

import attrs
import numpy as np

from qres_core.errors import WireError
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import (
    Challenges,
    cross_factors,
    fold_factors,
    link_weights,
)
from qres_zk.group import (
    ORDER,
    Points,
    Scalars,
    generator,
    integers,
    is_identity,
    msm,
    scalars,
)
from qres_zk.norm.relations import shifted_direction, signed_sums
from qres_zk.pedersen import generators
from qres_zk.scalar import (
    combine_rows,
    dot,
    folded_weights,
    multiply_add,
)
from qres_zk.statement import Context, NormStatement


@attrs.frozen(eq=False)
class CombinedEquations:
    """A proof's equations, combined at random into one that must give the identity."""

    blinding: int  # factor of ``H``
    value: int  # factor of ``G0``
    vector: Scalars  # factors of ``G_j``, shape ``(generators, 4)``
    own: list[int]  # factors of the bundle's points, in their order
    points: Points  # these points


def prepare(statement: NormStatement, context: Context, bundle: ProofBundle) -> CombinedEquations:
    """Check a proof's scalars and gather its equations in the group.

    The equations are combined with 128-bit randomisers, drawn afresh from the operating system.

    Raises:
        WireError: QRES-E404, the proof is of another context or a scalar equation does not hold.

    Complexity: O(d) word operations.
    """
    challenges = Challenges(statement, context)
    if bundle.context != challenges.context:
        raise WireError.of("QRES-E404", "proof.context", "made for another statement or context")
    rows, folds, k = statement.rows, statement.folds, statement.k
    seed = challenges.projection(bundle.cut(0, rows))
    smallness = challenges.smallness(bundle.cut(rows))
    combination = challenges.combination(bundle.masked)
    answers = [
        challenges.fold(bundle.cut(rows + 1 + 2 * index), bundle.cut(rows + 2 + 2 * index))
        for index in range(folds)
    ]
    c = challenges.response(bundle.cut(rows + 1 + 2 * folds, 5), bundle.link)

    values = integers(bundle.values)
    linked = dot(link_weights(smallness, combination.link), bundle.values)
    expected = bundle.link + c * sum(
        a * w for a, w in zip(combination.link, bundle.masked, strict=True)
    )
    if (linked - expected) % ORDER:
        raise WireError.of("QRES-E404", "proof.masked", "not the sums of the committed values")

    of_values, of_weights = fold_factors(answers)
    factors, product = cross_factors(answers)
    weight_row = folded_weights(seed, (rows, statement.columns), combination.gammas, of_weights)
    shifted = shifted_direction(statement)
    if shifted is not None:
        added = combine_rows(of_weights, shifted)
        weight_row = multiply_add(weight_row, combination.direction, added)
    claimed = dot(weight_row, bundle.row) - product * combination.claim(values)
    squares = sum(signed_sum * signed_sum for signed_sum in signed_sums(values, k))
    budget = statement.budget
    if combination.square:
        roots = values[k + 6 : k + 10]
        squares += combination.square * (sum(f * f for f in roots) - c * values[k + 5])
        budget -= combination.square * statement.offset

    first, second, third, fourth = (secrets.randbits(128) | 1 for _ in range(4))
    opened = bundle.row
    if statement.center is not None:
        moved = combine_rows(of_values, statement.laid_out(statement.center))
        opened = multiply_add(opened, c, moved)
    vector = np.zeros((statement.generators, 4), dtype=np.uint64)
    vector[: statement.columns] = multiply_add(vector[: statement.columns], -first, opened)
    count = len(bundle.values)
    vector[:count] = multiply_add(vector[:count], -second, bundle.values)
    weights_of = (first, second, third, fourth)
    blinding = -sum(a * z for a, z in zip(weights_of, bundle.blinds, strict=True))
    own = [first * c * of_value for of_value in of_values]
    own.append(second * c)
    own += [third * c * factor for factor in factors]
    own += [first, second, third, fourth, fourth * c]
    value = fourth * (c * c * budget - squares) - third * claimed
    return CombinedEquations(blinding % ORDER, value % ORDER, vector, own, bundle.points)


def holds(statement: NormStatement, terms: list[CombinedEquations]) -> bool:
    """True if the terms of all proofs together give the identity: one multiplication for all.

    With one proof that does not hold among them, the answer is yes with probability at most
    ``2**-126``.
    """
    base = generators(statement)
    vector = terms[0].vector
    for term in terms[1:]:
        vector = multiply_add(vector, 1, term.vector)
    few = scalars([sum(term.blinding for term in terms), sum(term.value for term in terms)])
    own = scalars([factor for term in terms for factor in term.own])
    points = [generator(), base.value, base.vector, *(term.points for term in terms)]
    result = msm(np.concatenate([few, vector, own]), np.concatenate(points))
    return bool(is_identity(result)[0])


def verify(statement: NormStatement, context: Context, bundle: ProofBundle) -> None:
    """Check a proof.

    ``context``: the verifier's own view of who proves, and when. Raises WireError: QRES-E404, it
    does not hold.
    """
    if not holds(statement, [prepare(statement, context, bundle)]):
        raise WireError.of("QRES-E404", "proof", "does not hold")
