"""A second prover of norm/v2, written from the protocol's description, over field elements.

It shares no scalar code with the package: projections, weights and folding are plain Python
integers. Being generous, it takes any vector modulo the order and lets a cheat choose what an
honest prover computes: that is what the attack tests need.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import attrs
import numpy as np
from blake3 import blake3
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import Challenges, Combination, link_weights
from qres_zk.group import (
    ORDER,
    Points,
    add,
    blind,
    decode,
    encode,
    hash_to_group,
    integers,
    msm,
    negate,
    scalars,
)
from qres_zk.squares import four_squares

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qres_zk.statement import Context, NormStatement

K2 = 128


def bits_of(seed: bytes, row: int, columns: int, k: int) -> list[list[int]]:
    """Bits of a row of the layout, one list of ``k`` for each column."""
    width = k // 8
    raw = blake3(seed + row.to_bytes(4, "little")).digest(length=width * columns)
    return [[(raw[width * j + t // 8] >> (t % 8)) & 1 for t in range(k)] for j in range(columns)]


def point(values: Sequence[int], bases: Points, blinding: int) -> Points:
    """``sum values[i] bases[i] + blinding H``."""
    return add(msm(scalars(values), bases[: len(values)]), blind(scalars([blinding])))


def times(points: Points, factor: int) -> Points:
    """A point times a scalar."""
    return msm(scalars([factor]), points)


def minus(left: Points, right: Points) -> Points:
    """The difference of two points."""
    return add(left, negate(right))


def square_root(n: int) -> int | None:
    """A root modulo the order (which is 5 modulo 8), or ``None``."""
    n %= ORDER
    root = pow(n, (ORDER + 3) // 8, ORDER)
    for candidate in (root, root * pow(2, (ORDER - 1) // 4, ORDER) % ORDER):
        if candidate * candidate % ORDER == n:
            return candidate
    return None


@attrs.define(eq=False)
class Run:
    """Everything of one run, for a cheat to change before it is sent."""

    statement: NormStatement
    v_points: list[Points]
    cv: Points
    masked: list[int]
    crosses: list[Points]
    du: Points
    dv: Points
    e: Points
    w0: Points
    w1: Points
    t3: int
    zr: list[int]
    zu: list[int]
    zv: list[int]
    # what the challenges were, and the secrets a cheat may use
    combination: Combination
    smallness: list[list[int]]
    xs: list[int]
    c: int
    weight_row: list[int]
    claim_error: int
    context: bytes
    bases: Points
    value_base: Points
    cross_blinds: list[int]
    blinds: list[int]  # of the rows, as committed
    w_values: tuple[int, int] = (0, 0)

    @property
    def product(self) -> int:
        """The product of the folding challenges."""
        return math.prod(self.xs) % ORDER

    def row_factors(self) -> list[int]:
        """What folding multiplies each row of the vector by."""
        rows, folds = len(self.v_points), len(self.xs)
        return [
            math.prod(x for bit, x in enumerate(self.xs) if (row >> (folds - 1 - bit)) & 1) % ORDER
            for row in range(rows)
        ]

    def cross_factor(self, index: int) -> int:
        """What the final claim has of a cross commitment."""
        fold, high = divmod(index, 2)
        later = math.prod(self.xs[fold + 1 :])
        return later * (self.xs[fold] ** 2 if high else 1) % ORDER

    def link_of(self, values: Sequence[int]) -> int:
        """The link's linear form."""
        eta = self.combination.link
        head = [
            sum(eta[row] for row in range(K2) if self.smallness[row][i])
            for i in range(len(values) - K2)
        ]
        return sum(a * b for a, b in zip([*head, *eta], values, strict=True)) % ORDER

    def quadratic(self, values: Sequence[int]) -> int:
        """The quadratic form, homogenised with the challenge."""
        k = self.statement.k
        total = sum((2 * q - values[k]) ** 2 for q in values[:k])
        total += sum(value * value for value in values[k + 1 : k + 5])
        if self.combination.square:
            roots = sum(value * value for value in values[k + 6 : k + 10])
            total += self.combination.square * (roots - self.c * values[k + 5])
        return total % ORDER

    @property
    def constant(self) -> int:
        """What the quadratic relation is to give."""
        return self.statement.budget - self.combination.square * self.statement.offset

    def claimed(self) -> int:
        """``<a~, zu> - X claim(zv)``."""
        total = sum(a * z for a, z in zip(self.weight_row, self.zu, strict=True))
        return (total - self.product * self.combination.claim(self.zv)) % ORDER

    def quadratic_target(self) -> int:
        """What the quadratic form of the responses must give, with the commitments as they are."""
        return (self.w_values[0] + self.c * self.w_values[1] + self.c**2 * self.constant) % ORDER

    def com(self, value: int, blinding: int) -> Points:
        """Commitment to one value."""
        return point([value], self.value_base, blinding)

    def folded_crosses(self) -> Points:
        """The sum of the cross commitments with their factors."""
        total = self.com(0, 0)
        for index, cross in enumerate(self.crosses):
            total = add(total, times(cross, self.cross_factor(index)))
        return total

    def folded_rows(self) -> Points:
        """The folded row commitments."""
        total = self.com(0, 0)
        for factor, v_point in zip(self.row_factors(), self.v_points, strict=True):
            total = add(total, times(v_point, factor))
        return total

    def relink(self) -> None:
        """Change a response of a mask so that the link equation holds."""
        eta, index = self.combination.link, len(self.zv) - K2
        wanted = self.t3 + self.c * sum(a * w for a, w in zip(eta, self.masked, strict=True))
        error = (wanted - self.link_of(self.zv)) % ORDER
        self.zv[index] = (self.zv[index] + error * pow(eta[0], -1, ORDER)) % ORDER

    def solve_square(self, target: int) -> None:
        """Change the responses of the four squares so that the quadratic form gives ``target``."""
        k = self.statement.k
        self.zv[k + 1 : k + 5] = [0, 0, 0, 0]
        rest = (target - self.quadratic(self.zv)) % ORDER
        for second in range(200):
            root = square_root(rest - second * second)
            if root is not None:
                self.zv[k + 1 : k + 3] = [root, second]
                return
        raise AssertionError

    def bundle(self) -> ProofBundle:
        """What is sent."""
        points = [*self.v_points, self.cv, *self.crosses]
        points += [self.du, self.dv, self.e, self.w0, self.w1]
        encoded = b"".join(encode(point) for point in points)
        first, second, third, fourth = self.zr
        return ProofBundle(
            self.context,
            encoded,
            decode(encoded),
            tuple(self.masked),
            self.t3 % ORDER,
            (first, second, third, fourth),
            scalars(self.zu),
            scalars(self.zv),
        )


def _never(q: list[int], s: int, slack: int) -> list[int] | None:  # noqa: ARG001
    return None


def prove(  # noqa: PLR0915 - the protocol in one piece
    statement: NormStatement,
    context: Context,
    vector: Sequence[int],
    *,
    values: Callable[[list[int], int, int], list[int] | None] = _never,
    masked: Callable[[list[int], list[int]], list[int]] | None = None,
    product: int | None = None,
    padding_shift: int = 2**15,
) -> Run:
    """Run the protocol.

    Args:
        statement: as the verifier's. Without a center.
        context: likewise.
        vector: ``d`` integers, taken modulo the order; what follows them is put into the padding.
        values: given true ``q``, ``s`` and what is left of the budget, the values to commit to, or
            ``None`` for the honest ones.
        masked: given the honest masked sums modulo the order and the link's weights (known in
            advance only where the transcript forgets the masked sums), those to send.
        product: claimed ``<direction, u>``, if not the true one.
        padding_shift: what the half-space weighs padding with; 0 in norm/v1.
    """
    k, b, m = statement.k, statement.rows, statement.columns
    bases = hash_to_group(b"vector", 0, statement.generators)
    value_base = hash_to_group(b"value")

    def com(value: int, blinding: int) -> Points:
        return point([value], value_base, blinding)

    u = [item % ORDER for item in vector] + [0] * (b * m - len(vector))
    table = [u[m * c : m * c + m] for c in range(b)]
    blinds = [secrets.randbelow(ORDER) for _ in range(b)]
    v_points = [point(row, bases, r) for row, r in zip(table, blinds, strict=True)]
    row_blinds = list(blinds)

    def signed(number: int) -> int:
        return number - ORDER if number > ORDER // 2 else number

    challenges = Challenges(statement, context)
    seed = challenges.projection(b"".join(encode(v_point) for v_point in v_points))
    bits = [bits_of(seed, c, m, k) for c in range(b)]
    q = [
        signed(sum(table[c][j] for c in range(b) for j in range(m) if bits[c][j][t]) % ORDER)
        for t in range(k)
    ]
    s = signed(sum(u) % ORDER)
    slack = statement.budget - sum((2 * number - s) ** 2 for number in q)
    v = values(q, s, slack)
    if v is None:
        v = [*q, s, *four_squares(slack)]
    if statement.direction is not None:
        found = sum(int(g) * signed(item) for g, item in zip(statement.direction, u, strict=False))
        h = found if product is None else product
        v += [h, *four_squares(h - statement.offset)]
    y = [secrets.randbits(statement.mask_bits) for _ in range(K2)]
    full = [number % ORDER for number in (*v, *y)]
    rv = secrets.randbelow(ORDER)
    cv = point(full, bases, rv)
    smallness = challenges.smallness(encode(cv)).tolist()
    w = [(y[i] + sum(v[j] for j in range(len(v)) if smallness[i][j])) % ORDER for i in range(K2)]
    fits = all(number >> statement.mask_bits == 0 for number in w)
    placeholder = w if fits else [0] * K2
    combination = challenges.combination(tuple(placeholder))
    if masked is not None:
        w = masked(w, combination.link)

    a = [[0] * m for _ in range(b)]
    for c in range(b):
        for j in range(m):
            a[c][j] = combination.gammas[k] + sum(
                gamma for gamma, bit in zip(combination.gammas, bits[c][j], strict=False) if bit
            )
            index = c * m + j
            if statement.direction is not None:
                inside = index < statement.dimension
                moved = int(statement.direction[index]) + 2**15 if inside else padding_shift
                a[c][j] += combination.direction * moved
    true = sum(x * z for c in range(b) for x, z in zip(a[c], table[c], strict=True)) % ORDER
    claim_error = (combination.claim(full) - true) % ORDER

    crosses: list[Points] = []
    cross_blinds: list[int] = []
    xs: list[int] = []
    while len(table) > 1:
        half = len(table) // 2

        def dot(left: list[list[int]], right: list[list[int]]) -> int:
            return sum(
                x * z for p, r in zip(left, right, strict=True) for x, z in zip(p, r, strict=True)
            )

        low, high = dot(a[half:], table[:half]), dot(a[:half], table[half:])
        pair = [secrets.randbelow(ORDER) for _ in range(2)]
        t0, t1 = com(low, pair[0]), com(high, pair[1])
        x = challenges.fold(encode(t0), encode(t1))
        crosses += [t0, t1]
        cross_blinds += pair
        xs.append(x)
        table = [
            [(p + x * r) % ORDER for p, r in zip(table[i], table[half + i], strict=True)]
            for i in range(half)
        ]
        a = [
            [(x * p + r) % ORDER for p, r in zip(a[i], a[half + i], strict=True)]
            for i in range(half)
        ]
        blinds = [(blinds[i] + x * blinds[half + i]) % ORDER for i in range(half)]

    su = [secrets.randbelow(ORDER) for _ in range(m)]
    sv = [secrets.randbelow(ORDER) for _ in range(len(full))]
    ru, r2, r3, r4, r5 = (secrets.randbelow(ORDER) for _ in range(5))
    run = Run(
        statement, v_points, cv, w, crosses, com(0, 0), com(0, 0), com(0, 0), com(0, 0), com(0, 0),
        0, [], su, sv, combination, smallness, xs, 0, a[0], claim_error, challenges.context, bases,
        value_base, cross_blinds, row_blinds,
    )  # fmt: skip
    run.du, run.dv = point(su, bases, ru), point(sv, bases, r2)
    run.e = com(run.claimed(), r3)
    constant = run.quadratic(sv)  # with c = 0: the masks' own
    run.c = 1
    both = run.quadratic([x + z for x, z in zip(sv, full, strict=True)])
    of_values = run.quadratic(full)
    run.w_values = (constant, both - constant - of_values)
    run.w0 = com(constant, r4)
    run.w1 = com(both - constant - of_values, r5)
    run.t3 = run.link_of(sv)
    sigma = b"".join(encode(item) for item in (run.du, run.dv, run.e, run.w0, run.w1))
    c = run.c = challenges.response(sigma, run.t3)
    run.zu = [(x + c * z) % ORDER for x, z in zip(su, table[0], strict=True)]
    run.zv = [(x + c * z) % ORDER for x, z in zip(sv, full, strict=True)]
    folded = sum(run.cross_factor(i) * r for i, r in enumerate(cross_blinds))
    run.zr = [
        (ru + c * blinds[0]) % ORDER,
        (r2 + c * rv) % ORDER,
        (r3 + c * folded) % ORDER,
        (r4 + c * r5) % ORDER,
    ]
    return run


def same_link(run: Run) -> bool:
    """Whether the package's link weights are this module's."""
    values = run.zv
    smallness = np.array(run.smallness, dtype=np.int64)
    weights = integers(link_weights(smallness, run.combination.link))
    return sum(a * b for a, b in zip(weights, values, strict=True)) % ORDER == run.link_of(values)
