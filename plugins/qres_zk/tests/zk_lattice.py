"""Small solutions of one linear equation modulo the order, by lattice reduction.

Source: A. K. Lenstra, H. W. Lenstra, L. Lovász, "Factoring polynomials with rational
coefficients", Mathematische Annalen 261, 1982, in the integral form of H. Cohen, "A course in
computational algebraic number theory", 1993, algorithm 2.6.7.
"""

from __future__ import annotations

from fractions import Fraction

from qres_zk.group import ORDER


def _dot(left: list[int], right: list[int]) -> int:
    return sum(x * y for x, y in zip(left, right, strict=True))


def reduce_basis(basis: list[list[int]]) -> list[list[int]]:
    """An LLL-reduced basis (delta = 3/4) of the lattice of linearly independent rows."""
    b = [list(row) for row in basis]
    n = len(b)
    d = [1] + [0] * n
    lam = [[0] * n for _ in range(n)]

    def gram(i: int) -> None:
        for j in range(i + 1):
            u = _dot(b[i], b[j])
            for p in range(j):
                u = (d[p + 1] * u - lam[i][p] * lam[j][p]) // d[p]
            if j < i:
                lam[i][j] = u
            else:
                d[i + 1] = u

    def size(i: int, j: int) -> None:
        if 2 * abs(lam[i][j]) <= d[j + 1]:
            return
        q = (2 * lam[i][j] + d[j + 1]) // (2 * d[j + 1])
        b[i] = [x - q * y for x, y in zip(b[i], b[j], strict=True)]
        lam[i][j] -= q * d[j + 1]
        for p in range(j):
            lam[i][p] -= q * lam[j][p]

    for i in range(n):
        gram(i)
    i = 1
    while i < n:
        size(i, i - 1)
        if 4 * d[i + 1] * d[i - 1] < 3 * d[i] * d[i] - 4 * lam[i][i - 1] ** 2:
            b[i], b[i - 1] = b[i - 1], b[i]
            for p in range(i - 1):
                lam[i][p], lam[i - 1][p] = lam[i - 1][p], lam[i][p]
            middle = lam[i][i - 1]
            new = (d[i - 1] * d[i + 1] + middle * middle) // d[i]
            for row in range(i + 1, n):
                t = lam[row][i]
                lam[row][i] = (d[i + 1] * lam[row][i - 1] - middle * t) // d[i]
                lam[row][i - 1] = (new * t + middle * lam[row][i]) // d[i + 1]
            d[i] = new
            i = max(1, i - 1)
        else:
            for j in range(i - 2, -1, -1):
                size(i, j)
            i += 1
    return b


def small_solution(coefficients: list[int], target: int) -> list[int]:
    """Small integers ``x`` with ``sum coefficients[i] x[i] = target`` modulo the order.

    The entries are about ``ORDER ** (1 / n)`` for ``n`` coefficients.
    """
    n = len(coefficients)
    inverse = pow(coefficients[0], -1, ORDER)
    basis = [[ORDER] + [0] * (n - 1)]
    for i in range(1, n):
        row = [0] * n
        row[0], row[i] = -coefficients[i] * inverse % ORDER, 1
        basis.append(row)
    reduced = reduce_basis(basis)
    # Babai: take the reduced lattice's nearest plane, from the last vector to the first.
    rest = [target * inverse % ORDER] + [0] * (n - 1)
    exact: list[list[Fraction]] = []
    for row in reduced:
        vector = [Fraction(item) for item in row]
        for other in exact:
            norm = sum(item * item for item in other)
            factor = sum(Fraction(a) * b for a, b in zip(row, other, strict=True)) / norm
            vector = [a - factor * b for a, b in zip(vector, other, strict=True)]
        exact.append(vector)
    for row, vector in zip(reversed(reduced), reversed(exact), strict=True):
        norm = sum(item * item for item in vector)
        factor = round(sum(Fraction(a) * b for a, b in zip(rest, vector, strict=True)) / norm)
        rest = [a - factor * b for a, b in zip(rest, row, strict=True)]
    return rest
