"""A second verifier of norm/v2, as its specification says it: one equation after the other.

Slow, without random combinations: it tells which of the checks fail, by the names the
specification gives them. Hashing and the group are the package's, all else is written anew.
"""

from __future__ import annotations

import math

import numpy as np
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import Challenges
from qres_zk.group import (
    ORDER,
    POINT_BYTES,
    Points,
    add,
    equal,
    hash_to_group,
    identity,
    integers,
    msm,
    scalars,
)
from qres_zk.statement import Context, NormStatement
from zk_field_prover import bits_of, point, times


class PlainVerifier:
    """One run.

    Args:
        statement: the verifier's own.
        context: likewise.
        bundle: decoded.
        padding_shift: what the half-space weighs padding with; 0 in norm/v1.
    """

    def __init__(
        self,
        statement: NormStatement,
        context: Context,
        bundle: ProofBundle,
        padding_shift: int = 2**15,
    ) -> None:
        self.statement, self.bundle = statement, bundle
        b = statement.rows
        challenges = Challenges(statement, context)
        self.same_context = bundle.context == challenges.context
        encoded = bundle.encoded
        pieces = [encoded[at : at + POINT_BYTES] for at in range(0, len(encoded), POINT_BYTES)]
        self.points = [bundle.points[at : at + 1] for at in range(len(pieces))]
        self.seed = challenges.projection(b"".join(pieces[:b]))
        self.smallness = challenges.smallness(pieces[b]).tolist()
        self.combination = challenges.combination(bundle.masked)
        self.crosses = list(range(b + 1, len(pieces) - 5, 2))
        self.xs = [challenges.fold(pieces[at], pieces[at + 1]) for at in self.crosses]
        self.c = challenges.response(b"".join(pieces[-5:]), bundle.link)
        self.product = math.prod(self.xs) % ORDER
        self.weights = self._weights(padding_shift)
        self.row = self._folded_weights()
        self.z_u, self.z_v = integers(bundle.row), integers(bundle.values)

    def _weights(self, padding_shift: int) -> list[list[int]]:
        statement, gammas = self.statement, self.combination.gammas
        b, m, k = statement.rows, statement.columns, statement.k
        weights: list[list[int]] = [[] for _ in range(b)]
        for row, found in enumerate(weights):
            for column, chosen in enumerate(bits_of(self.seed, row, m, k)):
                weight = gammas[k] + sum(gammas[t] for t in range(k) if chosen[t])
                place = row * m + column
                if statement.direction is not None:
                    inside = place < statement.dimension
                    moved = int(statement.direction[place]) + 2**15 if inside else padding_shift
                    weight += self.combination.direction * moved
                found.append(weight)
        return weights

    def _folded_weights(self) -> list[int]:
        rows = self.weights
        for x in self.xs:
            half = len(rows) // 2
            rows = [
                [
                    (x * low + high) % ORDER
                    for low, high in zip(rows[i], rows[half + i], strict=True)
                ]
                for i in range(half)
            ]
        return rows[0]

    def _folded_commitments(self, vector: Points) -> Points:
        """The commitments to ``u``, less the center, folded."""
        statement = self.statement
        b, m = statement.rows, statement.columns
        rows = self.points[:b]
        if statement.center is not None:
            flat = np.zeros(b * m, dtype=np.int64)
            flat[: statement.dimension] = statement.center
            for row in range(b):
                moved = [-int(item) for item in flat[row * m : row * m + m]]
                rows[row] = add(rows[row], msm(scalars(moved), vector[:m]))
        for x in self.xs:
            half = len(rows) // 2
            rows = [add(rows[i], times(rows[half + i], x)) for i in range(half)]
        return rows[0]

    def _folded_crosses(self) -> Points:
        claim = identity()
        for index, at in enumerate(self.crosses):
            later = math.prod(self.xs[index + 1 :])
            claim = add(claim, times(self.points[at], later))
            claim = add(claim, times(self.points[at + 1], self.xs[index] ** 2 * later))
        return claim

    def _squares(self) -> tuple[int, int]:
        """``Q`` of the responses, and what the budget is."""
        k, z, c = self.statement.k, self.z_v, self.c
        quadratic = sum((2 * z[t] - z[k]) ** 2 for t in range(k))
        quadratic += sum(item * item for item in z[k + 1 : k + 5])
        constant = self.statement.budget
        if self.statement.direction is not None:
            delta = self.combination.square
            quadratic += delta * (sum(item * item for item in z[k + 6 : k + 10]) - c * z[k + 5])
            constant -= delta * self.statement.offset
        return quadratic, constant

    def _claimed(self) -> int:
        total = sum(a * z for a, z in zip(self.row, self.z_u, strict=True))
        return total - self.product * self.combination.claim(self.z_v)

    def _link_error(self) -> int:
        masks, link = self.z_v[self.statement.values :], self.combination.link
        linked = sum(
            eta * (mask + sum(z for z, bit in zip(self.z_v, bits, strict=False) if bit))
            for eta, bits, mask in zip(link, self.smallness, masks, strict=True)
        )
        shown = sum(eta * w for eta, w in zip(link, self.bundle.masked, strict=True))
        return (linked - self.bundle.link - self.c * shown) % ORDER

    def failing(self) -> list[str]:
        """The names of the checks that fail: ``context``, ``1`` to ``5``."""
        statement, z = self.statement, self.bundle.blinds
        vector = hash_to_group(b"vector", 0, statement.generators)
        value = hash_to_group(b"value")
        d_u, d_v, e, w_0, w_1 = self.points[-5:]
        quadratic, constant = self._squares()

        def together(first: Points, second: Points) -> Points:
            return add(first, times(second, self.c))

        squares = add(together(w_0, w_1), times(value, self.c * self.c * constant))
        values = self.points[statement.rows]
        sides = {
            "1": (together(d_u, self._folded_commitments(vector)), point(self.z_u, vector, z[0])),
            "2": (together(d_v, values), point(self.z_v, vector, z[1])),
            "3": (together(e, self._folded_crosses()), point([self._claimed()], value, z[2])),
            "4": (squares, point([quadratic], value, z[3])),
        }
        failing = [] if self.same_context else ["context"]
        failing += [name for name, (left, right) in sides.items() if not equal(left, right)[0]]
        return failing + (["5"] if self._link_error() else [])


def failing_checks(
    statement: NormStatement, context: Context, bundle: ProofBundle, padding_shift: int = 2**15
) -> list[str]:
    """The names of the checks that a decoded bundle fails, see :class:`PlainVerifier`."""
    return PlainVerifier(statement, context, bundle, padding_shift).failing()
