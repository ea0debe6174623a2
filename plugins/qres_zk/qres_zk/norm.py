"""norm/v1, both sides: a committed vector is within a ball, and in a half-space if one is stated.

The protocol, its parameters and the argument for its soundness are written down in
``docs/explanation/zk-norm-proof.md``. In short: the verifier's challenge is a random matrix ``R``
of zeros and ones; the prover commits to the integers ``q = R u`` and ``s = sum u`` and shows

1. that all committed values are small integers, by random sums of them under one-time masks;
2. that ``q`` and ``s`` belong to the committed ``u``, by one random combination and by folding the
   rows of ``u`` with challenges until one is left;
3. that ``sum (2 q_t - s)**2``, the squares of random signed sums, plus four squares is the budget.

**Experimental: a composition of standard parts that nobody outside the project has reviewed, and
not constant-time but for the multiplications by blinds.**
"""

from __future__ import annotations

import secrets
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import squared_norm

from qres_core import ValueRefusedError, WireError
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import (
    Challenges,
    Combination,
    cross_factors,
    fold_factors,
    link_weights,
)
from qres_zk.exact import inner
from qres_zk.group import (
    ORDER,
    Points,
    Scalars,
    encode,
    generator,
    integers,
    is_identity,
    msm,
    random_scalars,
    scalars,
)
from qres_zk.pedersen import Commitment, Generators, generators
from qres_zk.scalar import (
    Folding,
    combine_rows,
    dot,
    folded_weights,
    multiply_add,
    project,
    weights,
)
from qres_zk.squares import four_squares
from qres_zk.statement import DIRECTION_SHIFT, MASKS, Context, Statement

ATTEMPTS: Final = 64
"""An honest vector fails so many in a row with probability ``2**-640``."""


# ── proving ───────────────────────────────────────────────────────────────────────────────────


def prove(
    statement: Statement, context: Context, commitment: Commitment
) -> tuple[Commitment, ProofBundle]:
    """Prove that a committed vector is within the statement.

    Args:
        statement: both sides' configuration.
        context: where and when the proof is to hold.
        commitment: to ``u``.

    Returns:
        the commitment, with another blind in its first row if an attempt failed, and the proof.

    Raises:
        ValueRefusedError: QRES-E510 if the vector is not within the statement. Nothing is proved.

    Complexity: O(d) word operations and O(b + m) in the group; see ``benchmarks/zk.py``.
    """
    relative = _relative(statement, commitment)
    for _attempt in range(ATTEMPTS):
        bundle = _attempt_proof(statement, context, commitment, relative)
        if bundle is not None:
            return commitment, bundle
        commitment = commitment.reblinded()
    raise ValueRefusedError.of("QRES-E510", "plugins.zk", f"{ATTEMPTS} attempts failed")


def _relative(statement: Statement, commitment: Commitment) -> NDArray[np.int32]:
    """``u - center`` as rows, once it is known to be within the statement."""
    values = commitment.values.astype(np.int64)
    if statement.center is not None:
        values -= statement.laid_out(statement.center)
    norm = squared_norm(values)
    if norm > statement.bound**2:
        what = f"norm {norm**0.5:.1f} steps of the grid, the bound is {statement.bound}"
        raise ValueRefusedError.of("QRES-E510", "plugins.zk", what, "clip to the bound")
    if statement.direction is not None:
        product = inner(statement.direction, values.reshape(-1)[: statement.dimension])
        if product < statement.offset:
            what = f"<direction, u> is {product - statement.offset} below the threshold"
            raise ValueRefusedError.of("QRES-E510", "plugins.zk", what)
    return values.astype(np.int32)


def _attempt_proof(
    statement: Statement,
    context: Context,
    commitment: Commitment,
    relative: NDArray[np.int32],
) -> ProofBundle | None:
    """One proof, or ``None`` where the random projections came out too large."""
    base = generators(statement)
    challenges = Challenges(statement, context)
    rows = commitment.encoded
    seed = challenges.projection(rows)

    values = _values(statement, relative, project(relative, seed, statement.k))
    if values is None:
        return None
    masks = [secrets.randbits(statement.mask_bits) for _ in range(MASKS)]
    committed = scalars(values + masks)
    values_blind = _fresh(1)[0]
    values_point = base.commit_scalars(committed, values_blind)
    smallness = challenges.smallness(encode(values_point))
    sums = smallness @ np.array(values, dtype=np.int64)
    masked = tuple(mask + int(part) for mask, part in zip(masks, sums, strict=True))
    margin = 1 << statement.hidden_bits
    if not all(margin <= one < (1 << statement.mask_bits) - margin for one in masked):
        return None  # one in 2**63: what is left is exactly uniform, whatever the values are
    combination = challenges.combination(masked)

    folding = Folding(relative, _weights(statement, seed, combination))
    blinds = integers(commitment.blinds)
    crosses: list[Points] = []
    points: list[int] = []
    answers: list[int] = []
    while folding.rows > 1:
        low_value, high_value = folding.cross()
        low_blind, high_blind = _fresh(2)
        low = base.commit_value(low_value, low_blind)
        high = base.commit_value(high_value, high_blind)
        x = challenges.fold(encode(low), encode(high))
        folding.fold(x)
        half = len(blinds) // 2
        blinds = [(blinds[i] + x * blinds[half + i]) % ORDER for i in range(half)]
        crosses += [low, high]
        points += [low_blind, high_blind]
        answers.append(x)
    row, weight_row = folding.result()
    factors, product = cross_factors(answers)
    claim_blind = sum(f * r for f, r in zip(factors, points, strict=True)) % ORDER

    masks_of = _SigmaMasks.fresh(statement)
    sigma = masks_of.commit(base, combination, weight_row, product, values)
    link = masks_of.link(link_weights(smallness, combination.link))
    encoded = encode(sigma)
    c = challenges.response(encoded, link)
    everything = np.concatenate([commitment.points, values_point, *crosses, sigma])
    return ProofBundle(
        challenges.context,
        rows + encode(everything[statement.rows : -5]) + encoded,
        everything,
        masked,
        link,
        masks_of.blind_responses(c, blinds[0], values_blind, claim_blind),
        multiply_add(masks_of.row, c, row),
        multiply_add(masks_of.values, c, committed),
    )


def _fresh(count: int) -> list[int]:
    return integers(random_scalars(count))


def _values(
    statement: Statement, relative: NDArray[np.int32], projections: list[int]
) -> list[int] | None:
    """``q, s, e`` and, with a direction, ``h, f``."""
    total = int(relative.sum(dtype=np.int64))
    rest = statement.budget - sum((2 * one - total) ** 2 for one in projections)
    if rest < 0:
        return None
    values = [*projections, total, *four_squares(rest)]
    if statement.direction is not None:
        flat = relative.reshape(-1)[: statement.dimension].astype(np.int64)
        product = inner(statement.direction, flat)
        values += [product, *four_squares(product - statement.offset)]
    return values


def _shifted(statement: Statement) -> NDArray[np.int64] | None:
    """The direction moved to non-negative entries, as rows; padding stays zero."""
    if statement.direction is None:
        return None
    return statement.laid_out(statement.direction.astype(np.int64) + DIRECTION_SHIFT)


def _weights(statement: Statement, seed: bytes, combination: Combination) -> NDArray[np.uint64]:
    """``A`` as two words a coordinate: projections, and the direction if there is one."""
    shape = (statement.rows, statement.columns)
    found = weights(seed, shape, combination.gammas)
    shifted = _shifted(statement)
    if shifted is None:
        return found
    # 110 bits by 16: in words of 32 bits, so that no product or carry is lost. Sums stay below
    # 2**128, as the projections' weights do below 2**127 + 2**120.
    other = shifted.astype(np.uint64)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    words: list[NDArray[np.uint64]] = []
    carry = np.zeros_like(other)
    for place in range(4):
        word = np.uint64((combination.direction >> (32 * place)) & 0xFFFFFFFF)
        carry += other * word
        words.append(carry & mask)
        carry >>= half
    low = words[0] | (words[1] << half)
    high = words[2] | (words[3] << half)
    summed = found[:, :, 0] + low
    result = np.empty_like(found)
    result[:, :, 0] = summed
    result[:, :, 1] = found[:, :, 1] + high + (summed < low)
    return result


@attrs.frozen(eq=False)
class _SigmaMasks:
    """One-time masks of the last step, all uniform."""

    row: Scalars
    values: Scalars
    blinds: list[int]

    @classmethod
    def fresh(cls, statement: Statement) -> _SigmaMasks:
        return cls(
            random_scalars(statement.columns),
            random_scalars(statement.values + MASKS),
            _fresh(5),
        )

    def commit(
        self,
        base: Generators,
        combination: Combination,
        weight_row: Scalars,
        product: int,
        values: list[int],
    ) -> Points:
        """Commitments to masks, to the masked claim and to the square's two lower terms."""
        rows, of_values, claim, square, cross = self.blinds
        masks = integers(self.values)
        constant, linear = quadratic_terms(combination, masks, values)
        claimed = dot(weight_row, self.row) - product * combination.claim(masks)
        return np.concatenate(
            [
                base.commit_scalars(self.row, rows),
                base.commit_scalars(self.values, of_values),
                base.commit_value(claimed, claim),
                base.commit_value(constant, square),
                base.commit_value(linear, cross),
            ]
        )

    def link(self, link: list[int]) -> int:
        """The link equation on the masks."""
        masks = integers(self.values)
        return sum(a * b for a, b in zip(link, masks, strict=True)) % ORDER

    def blind_responses(
        self, c: int, row: int, values: int, claim: int
    ) -> tuple[int, int, int, int]:
        """The four responses that open blinds."""
        rows, of_values, of_claim, square, cross = self.blinds
        return (
            (rows + c * row) % ORDER,
            (of_values + c * values) % ORDER,
            (of_claim + c * claim) % ORDER,
            (square + c * cross) % ORDER,
        )


def quadratic_terms(
    combination: Combination, masks: list[int], values: list[int]
) -> tuple[int, int]:
    """Constant and linear coefficient in ``c`` of the quadratic form of ``masks + c values``."""
    k = len(combination.gammas) - 1
    mask, value = _signed(masks, k), _signed(values, k)
    constant = sum(a * a for a in mask)
    linear = 2 * sum(a * b for a, b in zip(mask, value, strict=True))
    if combination.square:
        mask, value = masks[k + 6 : k + 10], values[k + 6 : k + 10]
        constant += combination.square * sum(a * a for a in mask)
        crossed = 2 * sum(a * b for a, b in zip(mask, value, strict=True)) - masks[k + 5]
        linear += combination.square * crossed
    return constant % ORDER, linear % ORDER


def _signed(values: list[int], k: int) -> list[int]:
    """The random signed sums ``2 q - s`` and the four squares' roots."""
    return [2 * one - values[k] for one in values[:k]] + values[k + 1 : k + 5]


# ── verifying ─────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Terms:
    """A proof's equations, combined at random into one that must give the identity.

    Attributes:
        blinding: factor of ``H``.
        value: factor of ``G0``.
        vector: factors of ``G_j``, shape ``(generators, 4)``.
        own: factors of the bundle's points, in their order.
        points: these points.
    """

    blinding: int
    value: int
    vector: Scalars
    own: list[int]
    points: Points


def prepare(statement: Statement, context: Context, bundle: ProofBundle) -> Terms:
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
        challenges.fold(bundle.cut(rows + 1 + 2 * one), bundle.cut(rows + 2 + 2 * one))
        for one in range(folds)
    ]
    c = challenges.response(bundle.cut(rows + 1 + 2 * folds, 5), bundle.link)

    values = integers(bundle.values)
    linked = sum(
        a * z for a, z in zip(link_weights(smallness, combination.link), values, strict=True)
    )
    expected = bundle.link + c * sum(
        a * w for a, w in zip(combination.link, bundle.masked, strict=True)
    )
    if (linked - expected) % ORDER:
        raise WireError.of("QRES-E404", "proof.masked", "not the sums of the committed values")

    of_values, of_weights = fold_factors(answers)
    factors, product = cross_factors(answers)
    weight_row = folded_weights(seed, (rows, statement.columns), combination.gammas, of_weights)
    shifted = _shifted(statement)
    if shifted is not None:
        added = combine_rows(of_weights, shifted)
        weight_row = multiply_add(weight_row, combination.direction, added)
    claimed = dot(weight_row, bundle.row) - product * combination.claim(values)
    squares = sum(one * one for one in _signed(values, k))
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
    own = [first * c * one for one in of_values]
    own.append(second * c)
    own += [third * c * one for one in factors]
    own += [first, second, third, fourth, fourth * c]
    value = fourth * (c * c * budget - squares) - third * claimed
    return Terms(blinding % ORDER, value % ORDER, vector, own, bundle.points)


def holds(statement: Statement, terms: list[Terms]) -> bool:
    """Whether the terms of all proofs together give the identity: one multiplication for all.

    With one proof that does not hold among them, the answer is yes with probability at most
    ``2**-126``.
    """
    base = generators(statement)
    vector = terms[0].vector
    for one in terms[1:]:
        vector = multiply_add(vector, 1, one.vector)
    few = scalars([sum(one.blinding for one in terms), sum(one.value for one in terms)])
    own = scalars([factor for one in terms for factor in one.own])
    points = [generator(), base.value, base.vector, *(one.points for one in terms)]
    result = msm(np.concatenate([few, vector, own]), np.concatenate(points))
    return bool(is_identity(result)[0])


def verify(statement: Statement, context: Context, bundle: ProofBundle) -> None:
    """Check a proof.

    Args:
        statement: the verifier's own.
        context: the verifier's own view of who proves, and when.
        bundle: decoded with the same statement.

    Raises:
        WireError: QRES-E404, it does not hold.
    """
    if not holds(statement, [prepare(statement, context, bundle)]):
        raise WireError.of("QRES-E404", "proof", "does not hold")
