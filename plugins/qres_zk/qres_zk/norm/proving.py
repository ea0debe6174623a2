"""The prover of norm/v2."""

from __future__ import annotations

import secrets
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import squared_norm

from qres_core.errors import ValueRefusedError
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import (
    Challenges,
    Combination,
    cross_factors,
    link_weights,
)
from qres_zk.exact import inner
from qres_zk.group import (
    ORDER,
    Points,
    Scalars,
    encode,
    integers,
    random_scalars,
    scalars,
)
from qres_zk.norm.relations import shifted_direction, signed_sums
from qres_zk.pedersen import Commitment, Generators, generators
from qres_zk.scalar import (
    Folding,
    dot,
    multiply_add,
    project,
    weights,
)
from qres_zk.squares import four_squares
from qres_zk.statement import MASKS, Context, NormStatement

ATTEMPTS: Final = 64
"""An honest vector fails so many in a row with probability ``2**-640``."""


def prove(
    statement: NormStatement, context: Context, commitment: Commitment
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


def _relative(statement: NormStatement, commitment: Commitment) -> NDArray[np.int32]:
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
    statement: NormStatement,
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
    if not all(margin <= number < (1 << statement.mask_bits) - margin for number in masked):
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
    statement: NormStatement, relative: NDArray[np.int32], projections: list[int]
) -> list[int] | None:
    """``q, s, e`` and, with a direction, ``h, f``."""
    total = int(relative.sum(dtype=np.int64))
    rest = statement.budget - sum((2 * projection - total) ** 2 for projection in projections)
    if rest < 0:
        return None
    values = [*projections, total, *four_squares(rest)]
    if statement.direction is not None:
        flat = relative.reshape(-1)[: statement.dimension].astype(np.int64)
        product = inner(statement.direction, flat)
        values += [product, *four_squares(product - statement.offset)]
    return values


def _weights(statement: NormStatement, seed: bytes, combination: Combination) -> NDArray[np.uint64]:
    """``A`` as two words a coordinate: projections, and the direction if there is one."""
    shape = (statement.rows, statement.columns)
    found = weights(seed, shape, combination.gammas)
    shifted = shifted_direction(statement)
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
    def fresh(cls, statement: NormStatement) -> _SigmaMasks:
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
        constant, linear = _quadratic_terms(combination, masks, values)
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

    def link(self, weights: Scalars) -> int:
        """The link equation on the masks."""
        return dot(weights, self.values)

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


def _quadratic_terms(
    combination: Combination, masks: list[int], values: list[int]
) -> tuple[int, int]:
    """Constant and linear coefficient in ``c`` of the quadratic form of ``masks + c values``."""
    k = len(combination.gammas) - 1
    mask, value = signed_sums(masks, k), signed_sums(values, k)
    constant = sum(a * a for a in mask)
    linear = 2 * sum(a * b for a, b in zip(mask, value, strict=True))
    if combination.square:
        mask, value = masks[k + 6 : k + 10], values[k + 6 : k + 10]
        constant += combination.square * sum(a * a for a in mask)
        crossed = 2 * sum(a * b for a, b in zip(mask, value, strict=True)) - masks[k + 5]
        linear += combination.square * crossed
    return constant % ORDER, linear % ORDER
