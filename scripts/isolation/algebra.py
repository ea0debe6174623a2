"""The smallest set of honest inputs that a linear combination isolates, exactly.

An adversary has equations ``y[r] = x[node(r)] + sum of unknown masks``. A combination of them with
coefficients ``c`` shows something of the inputs only if all unknown masks cancel in it. Otherwise
it is uniform, whatever the inputs are. What shows is then ``sum of c[r] * x[node(r)]``. So what an
adversary gets is

    V  =  { c A : c M = 0 }

with a row of ``M`` for the unknown masks of each equation, and a row of ``A`` with a single 1, for
its input. A vector of ``V`` isolates the inputs where it is not zero. :func:`smallest` finds the
fewest that a vector other than zero has.

*Over which numbers.* Sums do not wrap, so an adversary has integers and may combine them with
rational coefficients: ``V`` is a space over the rationals. All that matters is which minors of
matrices of small integers are zero. By Hadamard's bound none of ours is as large as the Mersenne
prime that the arithmetic is modulo (:func:`prime_for`). So a minor is zero modulo the prime exactly
where it is zero, and the answer is that over the rationals. Modulo 2 it may be another one: a sum
of ``x`` and of twice something shows whether ``x`` is even. ``smallest(..., prime=2)`` tells.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import count
from typing import Final

import attrs

from isolation.transcript import Equation

Vector = dict[Hashable, int]
"""Coefficients of inputs, without zeros."""

_MERSENNE: Final = (61, 127, 521, 1279, 2203, 4423, 9689, 19937, 44497, 86243)
MOST_STEPS: Final = 50_000
"""Steps of the search in one block before it settles for a bound."""


@attrs.frozen
class Isolated:
    """A set of honest inputs that a combination isolates."""

    inputs: frozenset[Hashable]
    exact: bool  # false: there may be a smaller one, but none of a single input

    @property
    def size(self) -> int:
        """How many."""
        return len(self.inputs)


def prime_for(rows: int, largest: int = 1) -> int:
    """A prime above every minor of a matrix with so many rows of entries up to ``largest``.

    Hadamard: a minor of size ``m`` is at most ``m**(m/2) * largest**m``.
    """
    bits = rows * (math.log2(max(rows, 2)) / 2 + math.log2(max(largest, 1))) + 2
    return (1 << next(size for size in _MERSENNE if size > bits)) - 1


def reduced(rows: Iterable[Mapping[Hashable, int]], prime: int) -> list[Vector]:
    """The reduced echelon form modulo a prime, without rows of zeros."""
    found: dict[Hashable, Vector] = {}  # by pivot; no pivot is in another row
    for given in rows:
        row = {key: value % prime for key, value in given.items() if value % prime}
        for pivot in [key for key in row if key in found]:
            _subtract(row, found[pivot], row[pivot], prime)
        if not row:
            continue
        pivot = min(row, key=_order)
        inverse = pow(row[pivot], -1, prime)
        row = {key: value * inverse % prime for key, value in row.items()}
        for other in found.values():
            if pivot in other:
                _subtract(other, row, other[pivot], prime)
        found[pivot] = row
    return list(found.values())


def rank(vectors: Sequence[Vector]) -> int:
    """How many of the vectors are independent."""
    return len(reduced(vectors, prime_for(len(vectors), len(vectors))))


def _order(key: Hashable) -> tuple[Hashable, str]:
    """Columns of masks before those of inputs, see :func:`eliminated`."""
    return (key[0] if isinstance(key, tuple) else 0, repr(key))


def _subtract(row: Vector, other: Vector, times: int, prime: int) -> None:
    for key, value in other.items():
        left = (row.get(key, 0) - times * value) % prime
        if left:
            row[key] = left
        else:
            row.pop(key, None)


# ── what is left when the masks are eliminated ────────────────────────────────────────────────


def isolated(equations: Sequence[Equation], prime: int | None = None) -> Isolated | None:
    """The fewest inputs that a combination of equations isolates; ``None``: none shows any."""
    vectors = revealed(equations)
    if vectors is None:
        prime = prime or prime_for(len(equations), len(equations))
        vectors = eliminated(equations, prime)
    return smallest(vectors, prime)


def revealed(equations: Sequence[Equation]) -> list[Vector] | None:
    """Vectors of small integers that span ``V``, where masks need no elimination.

    That is where each unknown mask is on one equation, or on two with opposite signs. Take the
    equations as places, and join two that have a mask in common. ``c M = 0`` says of a mask on two
    equations that their coefficients are equal, and of one on a single equation that its
    coefficient is zero. So ``c`` is constant on each connected part, and zero on a part with a mask
    that nothing cancels. Hence the parts without such a mask give a basis of all ``c``, over every
    ring, and the sums of their inputs span ``V``.
    """
    where: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for place, equation in enumerate(equations):
        for key, sign in equation.masks:
            where[key].append((place, sign))
    parts = Parts(range(len(equations)))
    for uses in where.values():
        if len(uses) == 2 and uses[0][1] == -uses[1][1]:
            parts.join(uses[0][0], uses[1][0])
        elif len(uses) != 1:
            return None
    bound = {parts.of(uses[0][0]) for uses in where.values() if len(uses) == 1}
    sums: dict[Hashable, Vector] = defaultdict(lambda: defaultdict(int))
    for place, equation in enumerate(equations):
        if parts.of(place) not in bound:
            sums[parts.of(place)][equation.input] += 1
    return [dict(found) for found in sums.values()]


def eliminated(equations: Sequence[Equation], prime: int) -> list[Vector]:
    """Vectors that span ``V`` modulo a prime, for masks on any number of equations.

    In the reduced form with the masks as first columns, the rows without a mask span it.
    """
    rows: list[Vector] = []
    for equation in equations:
        row: Vector = defaultdict(int)
        for key, sign in equation.masks:
            row[0, key] += sign
        row[1, equation.input] += 1
        rows.append(row)
    return [
        {name: value for (_, name), value in row.items()}  # type: ignore[misc]
        for row in reduced(rows, prime)
        if all(kind for kind, _ in row)  # type: ignore[misc]
    ]


class Parts:
    """Connected parts."""

    def __init__(self, items: Iterable[Hashable]) -> None:
        self._up = {item: item for item in items}

    def of(self, item: Hashable) -> Hashable:
        """What stands for the part of an item."""
        while self._up[item] != item:
            self._up[item] = item = self._up[self._up[item]]
        return item

    def join(self, left: Hashable, right: Hashable) -> None:
        """Make one part of two."""
        self._up[self.of(left)] = self.of(right)


# ── the vector with the fewest coefficients ───────────────────────────────────────────────────


def smallest(vectors: Sequence[Vector], prime: int | None = None) -> Isolated | None:
    """The fewest inputs that a vector other than zero of the span has.

    Vectors without an input in common do not help each other: if a vector of the span has fewest
    inputs, its part in each block of connected vectors is in the span, and has no more. So each
    block is searched on its own.

    Returns ``None`` if the span is zero.
    """
    parts = Parts(range(len(vectors)))
    first: dict[Hashable, int] = {}
    for place, vector in enumerate(vectors):
        for key in vector:
            parts.join(place, first.setdefault(key, place))
    blocks: dict[Hashable, list[Vector]] = defaultdict(list)
    for place, vector in enumerate(vectors):
        blocks[parts.of(place)].append(vector)
    found = [_smallest(block, prime) for block in blocks.values()]
    sizes = [item for item in found if item is not None]
    if not sizes:
        return None
    best = min(sizes, key=lambda item: item.size)
    return Isolated(best.inputs, best.size == 1 or all(item.exact for item in sizes))


def _smallest(block: Sequence[Vector], prime: int | None) -> Isolated | None:
    largest = max((abs(value) for vector in block for value in vector.values()), default=1)
    prime = prime or prime_for(len(block), largest)
    basis = reduced(block, prime)
    if not basis:
        return None
    # If a vector of the span has one input only, it is a row of the reduced form, up to a factor:
    # its coefficients are its values at the pivots, of which all but one are zero then, and not
    # the last one either. So a single input is always found here.
    best = frozenset(min(basis, key=len))
    if len(best) == 1 or len(basis) == 1:
        return Isolated(best, exact=True)
    return _Search(basis, prime, best).run()


class _Search:
    """Which inputs must a vector be zero at, so that it is zero at as many as possible?

    Inputs whose columns are proportional are zero together, and make one *atom* that counts as
    often as it has inputs. A vector with fewest inputs is determined, up to a factor, by the atoms
    at which it is zero: otherwise two vectors with these zeros were independent, and a combination
    of them would be zero at one atom more. So the search decides of one atom after the other
    whether the vector is zero at it, and keeps a basis of the vectors that are left. It stops where
    one is left, and gives up a branch that has as many inputs as the best vector. Nothing else is
    left out, so the end is exact. The most frequent atoms come first.
    """

    def __init__(self, basis: list[Vector], prime: int, best: frozenset[Hashable]) -> None:
        columns: dict[Hashable, list[int]] = defaultdict(lambda: [0] * len(basis))
        for place, row in enumerate(basis):
            for key, value in row.items():
                columns[key][place] = value
        atoms: dict[tuple[int, ...], list[Hashable]] = defaultdict(list)
        for key, column in columns.items():
            inverse = pow(next(filter(None, column)), -1, prime)
            atoms[tuple(value * inverse % prime for value in column)].append(key)
        self._columns, members = zip(
            *sorted(atoms.items(), key=lambda item: -len(item[1])), strict=True
        )
        self._members: tuple[list[Hashable], ...] = members
        self._prime, self._best = prime, best
        self._steps = count()

    def run(self) -> Isolated:
        """The best vector, and whether the search came to its end."""
        size = len(self._columns[0])
        unit = [[int(i == j) for j in range(size)] for i in range(size)]
        exact = self._search(unit, 0, 0)
        return Isolated(self._best, exact)

    def _at(self, coefficients: Sequence[int], atom: int) -> int:
        pairs = zip(coefficients, self._columns[atom], strict=True)
        return sum(a * b for a, b in pairs) % self._prime

    def _search(self, left: list[list[int]], atom: int, weight: int) -> bool:
        """``left``: a basis of the vectors with the zeros so far, by coefficients of the rows."""
        if weight >= len(self._best):
            return True
        if next(self._steps) >= MOST_STEPS:
            return False
        if len(left) == 1:
            support = [at for at in range(len(self._columns)) if self._at(left[0], at)]
            inputs = frozenset(key for at in support for key in self._members[at])
            if len(inputs) < len(self._best):
                self._best = inputs
            return True
        while atom < len(self._columns):
            values = [self._at(row, atom) for row in left]
            if any(values):
                break
            atom += 1
        else:
            return True  # two independent vectors with these zeros: another branch has more zeros
        zero = self._search(self._kernel(left, values), atom + 1, weight)
        return self._search(left, atom + 1, weight + len(self._members[atom])) and zero

    def _kernel(self, left: list[list[int]], values: list[int]) -> list[list[int]]:
        """A basis of those that are zero where the basis has these values."""
        at = next(place for place, value in enumerate(values) if value)
        inverse, chosen = pow(values[at], -1, self._prime), left[at]
        return [
            [
                (a - values[place] * inverse * b) % self._prime
                for a, b in zip(row, chosen, strict=True)
            ]
            for place, row in enumerate(left)
            if place != at
        ]
