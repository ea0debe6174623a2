"""Write the test vectors of the exact arithmetic, from a reference that shares no code with it.

``docs/reference/arithmetic.md`` specifies every rule; here each is a few slow lines of pure Python
on integers, fractions and IEEE 754 doubles, written from that page. ::

    python3 scripts/arithmetic_vectors.py          # write docs/reference/arithmetic-vectors.json
    python3 scripts/arithmetic_vectors.py --check  # exit status 1 if it would change

The output is the same on every machine and every version of Python.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, Final, TypeAlias

Row: TypeAlias = list[int]
Rows: TypeAlias = list[Row]
Floats: TypeAlias = list[float]
Case: TypeAlias = dict[str, Any]
Graph: TypeAlias = list[set[int]]

VERSION: Final = 1
TARGET: Final = Path(__file__).resolve().parent.parent / "docs/reference/arithmetic-vectors.json"
TOP: Final = 2**31 - 1
BOTTOM: Final = -(2**31)
UNIT: Final = 2**30

# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


def half_even(total: int | Fraction, divisor: int) -> int:
    """``total / divisor`` to the nearest integer, halves to the even one."""
    return round(Fraction(total) / divisor)


def exact_sum(terms: Sequence[float]) -> float:
    """The sum of doubles, rounded once."""
    return float(sum(map(Fraction, terms)))


def floats(matrix: list[list[int]]) -> list[Floats]:
    """Integers to the nearest doubles."""
    return [[float(entry) for entry in row] for row in matrix]


def sweep(matrix: list[Floats], vector: Floats) -> Floats:
    """``matrix @ vector``, column by column from the left; two roundings for each entry."""
    total = [0.0] * len(matrix)
    for column, factor in enumerate(vector):
        for row, entries in enumerate(matrix):
            total[row] = total[row] + entries[column] * factor
    return total


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


def distance(left: Row, right: Row) -> int:
    """The squared Euclidean distance."""
    return sum((x - y) ** 2 for x, y in zip(left, right, strict=True))


def distances(rows: Rows) -> list[list[int]]:
    """The squared distances of all pairs."""
    return [[distance(left, right) for right in rows] for left in rows]


def norms(rows: Rows) -> list[int]:
    """The squared lengths."""
    return [sum(x * x for x in row) for row in rows]


def mean_of(rows: Rows, which: Sequence[int]) -> Row:
    """The mean of some rows."""
    return [half_even(sum(column), len(which)) for column in zip(*(rows[i] for i in which))]  # noqa: B905


def nearest(squares: Sequence[float], count: int) -> list[int]:
    """The indices of the ``count`` least, of equals the lower ones, in that order."""
    return sorted(range(len(squares)), key=lambda i: (squares[i], i))[:count]


def quantised(weights: Floats) -> Row:
    """Weights in units of 2**-30 that sum to exactly 1."""
    units = [round(weight * UNIT) for weight in weights]
    units[units.index(max(units))] += UNIT - sum(units)
    return units


def combination(rows: Rows, weights: Floats) -> Row:
    """The weighted sum, with the weights in whole units."""
    return weighted_sum(rows, quantised(weights))


def weighted_sum(rows: Rows, units: Row) -> Row:
    """The sum of units times rows, in grid steps."""
    return [
        half_even(sum(unit * x for unit, x in zip(units, column, strict=True)), UNIT)
        for column in zip(*rows, strict=True)
    ]


# ── rules for each coordinate ─────────────────────────────────────────────────────────────────────


def mean(rows: Rows, weights: Row) -> Row:
    """The weighted mean."""
    return [
        half_even(sum(w * x for w, x in zip(weights, column, strict=True)), sum(weights))
        for column in zip(*rows, strict=True)
    ]


def order_mean(rows: Rows, low: int, high: int) -> Row:
    """The mean of the sorted values number ``low .. high - 1``."""
    return [
        half_even(sum(sorted(column)[low:high]), high - low) for column in zip(*rows, strict=True)
    ]


def median(rows: Rows) -> Row:
    """The coordinate-wise median."""
    return order_mean(rows, (len(rows) - 1) // 2, len(rows) // 2 + 1)


def weighted_median(rows: Rows, weights: Row) -> Row:
    """The half-sum of the least values that hold half, and more than half, of all weight."""
    total = sum(weights)

    def least(column: tuple[int, ...], enough: Callable[[int], bool]) -> int:
        return min(
            x
            for x in column
            if enough(2 * sum(w for w, y in zip(weights, column, strict=True) if y <= x))
        )

    return [
        half_even(least(column, lambda w: w >= total) + least(column, lambda w: w > total), 2)
        for column in zip(*rows, strict=True)
    ]


def trimmed_mean(rows: Rows, f: int) -> Row:
    """The mean without the ``f`` least and the ``f`` greatest."""
    return order_mean(rows, f, len(rows) - f)


def nearest_mean(rows: Rows, count: int) -> Row:
    """The mean of the ``count`` values nearest to the median."""
    result: Row = []
    for column in zip(*rows, strict=True):
        ordered = sorted(column)
        middles = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
        first = 0
        while first + count < len(ordered) and ordered[first] + ordered[first + count] < middles:
            first += 1
        result.append(half_even(sum(ordered[first : first + count]), count))
    return result


def meamed(rows: Rows, f: int) -> Row:
    """The mean of the ``n - f`` values nearest to the median."""
    return nearest_mean(rows, len(rows) - f)


# ── rules that choose rows ────────────────────────────────────────────────────────────────────────


def krum_score(squares: list[list[int]], row: int, among: Sequence[int], count: int) -> int:
    """The sum of a row's ``count`` least squared distances to others."""
    return sum(sorted(squares[row][other] for other in among if other != row)[:count])


def multi_krum(rows: Rows, f: int, m: int) -> Row:
    """The mean of the ``m`` rows of least score."""
    n, squares = len(rows), distances(rows)
    scores = [krum_score(squares, row, range(n), n - f - 2) for row in range(n)]
    return mean_of(rows, nearest(scores, m))


def bulyan(rows: Rows, f: int) -> Row:
    """Iterated Krum, then the mean near the median."""
    left, squares = list(range(len(rows))), distances(rows)
    chosen: list[int] = []
    while len(chosen) < len(rows) - 2 * f:
        count = max(1, len(left) - f - 2)
        everyone = len(left) - 1
        pick = min(
            left,
            key=lambda row: (
                krum_score(squares, row, left, count),
                krum_score(squares, row, left, everyone),
                row,
            ),
        )
        chosen.append(pick)
        left.remove(pick)
    return nearest_mean([rows[row] for row in chosen], len(rows) - 4 * f)


def mda(rows: Rows, f: int) -> Row:
    """The mean of the subset of least diameter, of several the one of the most central rows."""
    squares = distances(rows)

    def diameter(subset: Sequence[int]) -> int:
        return max((squares[i][j] for i in subset for j in subset), default=0)

    # `combinations` keeps the order of what it is given, and `min` returns the first.
    subsets = combinations(central_first(squares), len(rows) - f)
    return mean_of(rows, min(subsets, key=diameter))


def central_first(squares: list[list[int]]) -> list[int]:
    """Rows by the sum of their squared distances, of equal sums the lower first."""
    return nearest([sum(row) for row in squares], len(squares))


def monna(rows: Rows, f: int, pivot: int) -> Row:
    """The mean of the ``n - f`` rows nearest to one, which is among them."""
    squares = [distance(row, rows[pivot]) for row in rows]
    squares[pivot] = -1
    return mean_of(rows, nearest(squares, len(rows) - f))


# ── the steps that MDA's search is allowed ────────────────────────────────────────────────────────


def mda_steps(rows: Rows, f: int) -> int:
    """How many branches the search opens."""
    order = central_first(distances(rows))
    n, squares = len(rows), distances([rows[row] for row in order])
    steps = [0]
    if f == 0:
        return 0

    def beyond(limit: int) -> Graph:
        return [{j for j in range(n) if squares[i][j] > limit} for i in range(n)]

    radii = [sorted(row)[n - f - 1] for row in squares]
    centre = radii.index(min(radii))
    ball = nearest(squares[centre], n - f)
    widest = max(squares[i][j] for i in ball for j in ball)
    pairs = {squares[i][j] for i in range(n) for j in range(i)}
    values = sorted(value for value in pairs if radii[centre] <= value <= widest)
    found = set(range(n)) - set(ball)
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        cover = vertex_cover(beyond(values[middle]), set(range(n)), f, steps)
        if cover is None:
            low = middle + 1
        else:
            high, found = middle, cover
    complete(beyond(values[high]), f, found, steps)
    return steps[0]


def complete(graph: Graph, f: int, cover: set[int], steps: list[int]) -> list[int]:
    """The lexicographically first independent set of ``n - f`` vertices."""
    undecided, dropped = set(range(len(graph))), set[int]()
    kept: list[int] = []
    for vertex in range(len(graph)):
        if len(kept) == len(graph) - f:
            break
        if vertex not in undecided:
            continue
        near = graph[vertex] & undecided
        if vertex in cover:
            limit = f - len(dropped) - len(near)
            rest = vertex_cover(graph, undecided - near - {vertex}, limit, steps)
            if rest is None:
                dropped.add(vertex)
                undecided.remove(vertex)
                continue
            cover = dropped | near | rest
        kept.append(vertex)
        dropped |= near
        undecided -= near | {vertex}
    return kept


def vertex_cover(graph: Graph, alive: set[int], limit: int, steps: list[int]) -> set[int] | None:
    """A cover of at most ``limit`` vertices, or nothing."""
    branches = [(alive, limit, set[int]())]
    while branches:
        steps[0] += 1
        reduced = reduce_graph(graph, *branches.pop())
        if reduced is None:
            continue
        alive, limit, taken = reduced
        if not alive:
            return taken
        degrees = {vertex: len(graph[vertex] & alive) for vertex in alive}
        most = max(degrees.values())
        if sum(sorted(degrees.values())[-limit:] if limit else []) * 2 < sum(degrees.values()):
            continue
        if clique_bound(graph, alive) > limit:
            continue
        if most == 2:
            rest = cycle_cover(graph, alive)
            if len(rest) <= limit:
                return taken | rest
            continue
        widest = min(vertex for vertex in alive if degrees[vertex] == most)
        near = graph[widest] & alive
        others = alive - near - {widest}
        mirrors = {widest} | {other for other in others if near <= graph[other]}
        branches.append((alive - mirrors, limit - len(mirrors), taken | mirrors))
        branches.append((others, limit - len(near), taken | near))
    return None


def reduce_graph(
    graph: Graph, alive: set[int], limit: int, taken: set[int]
) -> tuple[set[int], int, set[int]] | None:
    """Take vertices that need no choice, until every degree is from 2 to ``limit``."""
    alive, changed = set(alive), True
    while changed and limit >= 0:
        changed = False
        for vertex in sorted(alive):
            near = graph[vertex] & alive
            if vertex not in alive or 2 <= len(near) <= limit:
                continue
            alive.discard(vertex)
            if near:
                chosen = {vertex} if len(near) > limit else near
                alive -= chosen
                taken, limit, changed = taken | chosen, limit - 1, True
                if limit < 0:
                    return None
    return None if limit < 0 else (alive, limit, taken)


def clique_bound(graph: Graph, alive: set[int]) -> int:
    """Disjoint cliques, greedily: each needs all its vertices but one."""
    free, needed = set(alive), 0
    for seed in sorted(alive, key=lambda vertex: (len(graph[vertex] & alive), vertex)):
        if seed not in free:
            continue
        free.remove(seed)
        members = graph[seed] & free
        while members:
            best = max(members, key=lambda v: (len(graph[v] & members), -v))
            free.remove(best)
            members &= graph[best]
            needed += 1
    return needed


def cycle_cover(graph: Graph, alive: set[int]) -> set[int]:
    """Every other vertex of each cycle, from its least one on to the lesser neighbour."""
    alive, cover = set(alive), set[int]()
    while alive:
        onward, takes = {min(alive)}, True
        while onward:
            vertex = min(onward)
            alive.remove(vertex)
            if takes:
                cover.add(vertex)
            takes = not takes
            onward = graph[vertex] & alive
    return cover


# ── rules that move a point ───────────────────────────────────────────────────────────────────────


def from_mixture(squares: list[Floats], from_start: Floats, weights: Floats) -> Floats:
    """The squared distance of each row from the mixture; the last weight is the start's."""
    some, last = weights[:-1], weights[-1]
    if not any(some):
        return from_start
    mixed = sweep(squares, some)
    if last:
        mixed = [m + away * last for m, away in zip(mixed, from_start, strict=True)]
    terms = [weight * m for weight, m in zip(some, mixed, strict=True)]
    if last:
        shared = exact_sum([w * away for w, away in zip(some, from_start, strict=True)])
        terms.append(last * shared)
    half = 0.5 * exact_sum(terms)
    return [max(m - half, 0.0) for m in mixed]


def geometric_median(
    rows: Rows,
    iterations: int = 32,
    smoothing: float = 2.0**-16,
    weights: Row | None = None,
    start: str = "medoid",
) -> Row:
    """Weiszfeld's algorithm on distances."""
    n, squares = len(rows), floats(distances(rows))
    from_zero = [float(norm) for norm in norms(rows)]
    counts = weights or [1] * n
    point = [0.0] * n + [1.0]
    if start == "medoid":
        point = [*majority(squares, counts), 0.0]
    for _ in range(iterations):
        away = from_mixture(squares, from_zero, point)
        pulls = [
            float(w) / max(math.sqrt(square), smoothing)
            for w, square in zip(counts, away, strict=True)
        ]
        total = exact_sum(pulls)
        point = [*(pull / total for pull in pulls), 0.0]
    return combination([*rows, [0] * len(rows[0])], point)


def majority(squares: list[Floats], counts: Row) -> Floats:
    """Equal shares for the rows nearest the medoid that hold more than half of all weight."""
    costs = [
        exact_sum([math.sqrt(square) * w for square, w in zip(row, counts, strict=True)])
        for row in squares
    ]
    order = nearest(squares[costs.index(min(costs))], len(counts))
    size = 1
    while 2 * sum(counts[i] for i in order[:size]) <= sum(counts):
        size += 1
    held = float(sum(counts[i] for i in order[:size]))
    return [float(w) / held if i in order[:size] else 0.0 for i, w in enumerate(counts)]


def centred_clipping(rows: Rows, radius: float, iterations: int, start: Row) -> Row:
    """The start, moved by the mean of the clipped differences."""
    n, squares = len(rows), floats(distances(rows))
    from_start = [float(distance(row, start)) for row in rows]
    point = [0.0] * n + [1.0]
    for _ in range(iterations):
        away = from_mixture(squares, from_start, point)
        factors = [radius / max(math.sqrt(square), radius) for square in away]
        left = exact_sum([1.0 - factor for factor in factors]) / n
        point = [weight * left for weight in point]
        point = [*(w + factor / n for w, factor in zip(point, factors, strict=False)), point[-1]]
    return combination([*rows, start], point)


# ── rules of the direction of greatest variance ───────────────────────────────────────────────────


def dominant_eigenvector(gram: Sequence[Sequence[float | int]]) -> Row:
    """The direction of the largest eigenvalue, in integers."""
    n = len(gram)
    bits = min(22, (53 - (n - 1).bit_length()) // 2)
    lower = [[Fraction(gram[max(i, j)][min(i, j)]) for j in range(n)] for i in range(n)]
    shift = exponent(lower) - bits
    if all(isinstance(entry, int) for row in gram for entry in row):
        shift = max(0, shift)
    power = scaled(lower, shift)
    if not any(map(any, power)):
        return [2**22] + [0] * (n - 1)
    for _ in range(12):
        square = [
            [sum(power[i][k] * power[k][j] for k in range(n)) for j in range(n)] for i in range(n)
        ]
        if trace(power) ** 2 * (2**20 - 1) <= trace(square) * 2**20:
            break
        power = scaled(square, max(0, exponent(square) - bits))
    diagonal = [power[i][i] for i in range(n)]
    k = diagonal.index(max(diagonal))
    return [half_even(row[k] * 2**22, diagonal[k]) for row in power]


def exponent(matrix: Sequence[Sequence[Fraction | int]]) -> int:
    """The least ``e`` with all entries below ``2**e`` in magnitude; 0 for a zero matrix."""
    largest = max(abs(Fraction(entry)) for row in matrix for entry in row)
    if largest == 0:
        return 0
    e = largest.numerator.bit_length() - largest.denominator.bit_length() - 1
    while Fraction(2) ** e <= largest:
        e += 1
    return e


def scaled(matrix: Sequence[Sequence[Fraction | int]], shift: int) -> Rows:
    """``matrix / 2**shift``, rounded."""
    return [[half_even(entry / Fraction(2) ** shift, 1) for entry in row] for row in matrix]


def trace(matrix: Rows) -> int:
    """The sum of the diagonal."""
    return sum(matrix[i][i] for i in range(len(matrix)))


def centred_gram(squares: list[Floats], shares: Floats) -> list[Floats]:
    """Inner products of the differences from the weighted mean."""
    mixed = sweep(squares, shares)
    spread = exact_sum([share * m for share, m in zip(shares, mixed, strict=True)])
    return [
        [0.5 * ((mixed[i] + mixed[j]) - (square + spread)) for j, square in enumerate(row)]
        for i, row in enumerate(squares)
    ]


def caf(rows: Rows, f: int) -> Row:
    """The mean with the weights whose covariance has the least greatest eigenvalue."""
    n, squares = len(rows), floats(distances(rows))
    counts, chosen, least = [1.0] * n, [1.0 / n] * n, math.inf
    while exact_sum(counts) > n - 2 * f or least == math.inf:
        total = exact_sum(counts)
        shares = [count / total for count in counts]
        roots = [math.sqrt(share) for share in shares]
        gram = centred_gram(squares, shares)
        matrix = [[roots[i] * gram[i][j] * roots[j] for j in range(n)] for i in range(n)]
        vector = [float(entry) for entry in dominant_eigenvector(matrix)]
        stretched = sweep(matrix, vector)
        value = exact_sum([v * s for v, s in zip(vector, stretched, strict=True)]) / exact_sum(
            [v * v for v in vector]
        )
        if value < least:
            least, chosen = value, shares
        shadows = sweep(gram, [root * v for root, v in zip(roots, vector, strict=True)])
        lengths = [shadow * shadow for shadow in shadows]
        most = max(x for x, count in zip(lengths, counts, strict=True) if count > 0)
        counts = [
            count * max(1.0 - x / most, 0.0) if most and count > 0 else 0.0
            for x, count in zip(lengths, counts, strict=True)
        ]
    return combination(rows, chosen)


def dnc(rows: Rows, f: int, filter_: float, iterations: int, coordinates: int, seed: bytes) -> Row:
    """The mean of the rows that no iteration drops."""
    n, count = len(rows), math.ceil(filter_ * f)
    dropped: set[int] = set()
    for iteration in range(iterations if count else 0):
        columns = sample(seed, iteration, len(rows[0]), coordinates)
        squares = floats(distances([[row[column] for column in columns] for row in rows]))
        gram = centred_gram(squares, [1.0 / n] * n)
        vector = [float(entry) for entry in dominant_eigenvector(gram)]
        shadows = [abs(shadow) for shadow in sweep(gram, vector)]
        dropped |= set(sorted(range(n), key=lambda row: (-shadows[row], -row))[:count])
    return mean_of(rows, [row for row in range(n) if row not in dropped])


def sample(seed: bytes, iteration: int, d: int, count: int) -> list[int]:
    """The coordinates that an iteration looks at, ascending."""
    if count >= d:
        return list(range(d))
    stream = hashlib.shake_256(b"qres/dnc/coordinates/v1\0" + seed + number(iteration))
    octets = stream.digest(8 * 64 * count)
    drawn: list[int] = []
    for place in range(0, len(octets), 8):
        value = int.from_bytes(octets[place : place + 8], "little")
        if value < 2**64 // d * d and value % d not in drawn:
            drawn.append(value % d)
        if len(drawn) == count:
            return sorted(drawn)
    raise RuntimeError("the stream that was read is too short")


# ── wrappers ──────────────────────────────────────────────────────────────────────────────────────


def nnm(rows: Rows, f: int) -> Rows:
    """Each row replaced by the mean of its ``n - f`` nearest."""
    return [mean_of(rows, nearest(squares, len(rows) - f)) for squares in distances(rows)]


def buckets(n: int, size: int, seed: bytes) -> list[list[int]]:
    """A random permutation, cut into runs."""
    order, stream = list(range(n)), words(seed)
    for i in range(n - 1, 0, -1):
        drawn = next(stream)
        while drawn >= 2**64 // (i + 1) * (i + 1):
            drawn = next(stream)
        j = drawn % (i + 1)
        order[i], order[j] = order[j], order[i]
    return sorted(sorted(order[start : start + size]) for start in range(0, n, size))


def words(seed: bytes) -> Iterator[int]:
    """The stream of 64-bit numbers of a seed."""
    counter = 0
    while True:
        block = hashlib.sha256(seed + number(counter)).digest()
        yield from (int.from_bytes(block[i : i + 8], "little") for i in range(0, 32, 8))
        counter += 1


def number(value: int) -> bytes:
    """Eight bytes, little-endian."""
    return value.to_bytes(8, "little")


def bucketing(rows: Rows, size: int, seed: bytes) -> Rows:
    """The means of the buckets."""
    return [mean_of(rows, members) for members in buckets(len(rows), size, seed)]


def shorten(row: Row, square: int | Fraction) -> Row:
    """The row at no more than a squared length, truncated towards zero."""
    ratio = square / Fraction(sum(x * x for x in row))
    factor = math.isqrt((ratio.numerator << 60) // ratio.denominator)
    return [math.trunc(Fraction(factor * x, UNIT)) for x in row]


def clipping(rows: Rows, bound: float) -> Rows:
    """No row longer than the bound."""
    limit = Fraction(bound) ** 2
    return [shorten(row, limit) if norm > limit else row for row, norm in zip_norms(rows)]


def arc(rows: Rows, f: int) -> Rows:
    """The longest rows no longer than the next one."""
    n = len(rows)
    limit = sorted(norms(rows), reverse=True)[2 * f * (n - f) // n]
    return [shorten(row, limit) if norm > limit else row for row, norm in zip_norms(rows)]


def zip_norms(rows: Rows) -> Iterator[tuple[Row, int]]:
    """Each row with its squared length."""
    return zip(rows, norms(rows), strict=True)


# ── weights ───────────────────────────────────────────────────────────────────────────────────────


def capped(weights: Row, weight_limit: float) -> Row:
    """Weights of at most so many times the lower median one, times a common factor."""
    limit = Fraction(weight_limit).limit_denominator(1000)
    most = sorted(weights)[(len(weights) - 1) // 2] * limit.numerator
    return [min(weight * limit.denominator, most) for weight in weights]


def held(weights: Row, fewest: int) -> Row:
    """Weights lowered to the greatest integer cap that is one part in ``fewest`` of their sum."""
    low, high = 0, max(weights)
    while low < high:
        cap = (low + high + 1) // 2
        if fewest * cap <= sum(min(weight, cap) for weight in weights):
            low = cap
        else:
            high = cap - 1
    return [min(weight, max(1, low)) for weight in weights]


def capped_mean(rows: Rows, weights: Row, fewest: int) -> Row:
    """The mean with held weights."""
    counts = held(weights, fewest)
    while sum(counts) >= 2**32:
        counts = [count // 2 for count in counts]
    return mean(rows, counts)


# ── rounds: what plugins derive from the swarm ────────────────────────────────────────────────────


def sender(row: int) -> bytes:
    """The identity of a row's sender in the vectors."""
    return bytes([row + 1]) * 32


def packed(row: Row) -> bytes:
    """A row as little-endian int32."""
    return b"".join(x.to_bytes(4, "little", signed=True) for x in row)


def bucketing_round(
    rows: Rows, weights: Row, size: int, swarm: str, round_number: int, model: bytes
) -> Case:
    """The means that the rule behind the plugin gets, with their senders and weights."""
    digest = hashlib.sha256(b"qres/bucketing/v1\0")
    digest.update(number(len(swarm.encode())) + swarm.encode() + number(round_number) + model)
    digest.update(number(len(rows)) + number(len(rows[0])))
    for row, weight in enumerate(weights):
        digest.update(number(32) + sender(row) + number(weight))
    digest.update(b"".join(map(packed, rows)))
    seed = digest.digest()
    chosen = buckets(len(rows), size, seed)
    sums = [sum(weights[row] for row in members) for members in chosen]
    while max(sums) > UNIT:
        sums = [total // 2 for total in sums]
    return {
        "seed": seed.hex(),
        "vectors": bucketing(rows, size, seed),
        "senders": [members[0] for members in chosen],
        "weights": [max(1, total) for total in sums],
    }


def dnc_round(
    rows: Rows,
    f: int,
    filter_: float,
    iterations: int,
    coordinates: int,
    swarm: str,
    round_number: int,
    model: bytes,
) -> Row:
    """What the plugin returns."""
    digest = hashlib.sha256(b"qres/dnc/seed/v1\0" + swarm.encode() + b"\0")
    digest.update(number(round_number) + model)
    for i, row in enumerate(rows):
        content = hashlib.sha256(b"qres/vector/v1\0" + number(len(row)) + packed(row)).digest()
        digest.update(sender(i) + content)
    return dnc(rows, f, filter_, iterations, coordinates, digest.digest())


# ── the inputs ────────────────────────────────────────────────────────────────────────────────────


def noise(name: str, n: int, d: int, reach: int, offset: int = 0) -> Rows:
    """Rows of numbers from ``offset - reach`` to ``offset + reach``, the same for the same name."""
    stream = words(name.encode())
    return [[offset - reach + next(stream) % (2 * reach + 1) for _ in range(d)] for _ in range(n)]


def inputs() -> dict[str, Rows]:
    """Rows to merge; what each is for is in its name."""
    cluster = noise("cluster", 11, 5, 2**16)
    return {
        "single": [[5, -7]],
        "pair": [[1, -1, 4], [2, -2, 5]],
        "line_5": [[0], [1], [3], [4], [90]],
        "line_7": [[2], [3], [4], [8], [15], [18], [90]],
        "halves_4": [[1, -1, 0, 7], [2, -2, 1, 7], [4, -4, 2, 7], [6, -6, 4, 8]],
        "equal_6": [[TOP, BOTTOM, -3]] * 6,
        "copies_8": [
            *([[100, -100, 3]] * 3),
            [101, -99, 2],
            [98, -103, 4],
            *([[-40_000, 40_000, 9]] * 2),
            [100, -101, 3],
        ],
        "cross_8": [
            [sign * 500 if column == axis else 0 for column in range(4)]
            for axis in range(4)
            for sign in (1, -1)
        ],
        "extremes_9": [
            [TOP, BOTTOM, TOP, BOTTOM],
            [BOTTOM, TOP, TOP, BOTTOM],
            [-TOP, TOP, 0, BOTTOM],
            [TOP, TOP, -1, TOP],
            [BOTTOM, BOTTOM, 1, -TOP],
            [0, 0, 0, 0],
            [TOP, BOTTOM, TOP, BOTTOM],
            [1, -1, TOP - 1, BOTTOM + 1],
            [BOTTOM, TOP, -TOP, TOP],
        ],
        # Distances that differ by one and are one and the same in float64.
        "near_7": [[0, 0], [TOP, 1], [TOP, 0], [-TOP, 1], [-TOP, 0], [0, TOP], [1, BOTTOM]],
        # Honest rows near each other and far from zero, and their mirror image.
        "offset_10": [
            *noise("offset", 7, 4, 40, TOP - 50),
            *([[-x for x in row] for row in noise("offset", 3, 4, 40, TOP - 50)]),
        ],
        # Beside the first liar's, the other entries of the dominant eigenvector round to one value.
        "far_8": [*noise("far", 6, 3, 500), [2**30, -(2**30), 7], [-9000, 9000, 0]],
        # Eigenvalues of the Gram matrix that differ by a thousandth: the last squaring still tells.
        "close_2": [[2000, 0], [1, 2000]],
        "grid_11": noise("grid 11", 11, 2, 2),
        "grid_12": noise("grid 12", 12, 3, 1),
        "wide_grid_12": noise("mda 33", 12, 3, 2),
        "small_9": noise("small", 9, 4, 9),
        "cluster_11": [
            *cluster[:9],
            *([[x + 2**22 for x in cluster[0]]] * 2),
        ],
        "range_11": noise("range 11", 11, 5, TOP),
        "range_12": noise("range 12", 12, 6, TOP),
    }


def random_edges(name: str, n: int, share: int) -> list[tuple[int, int]]:
    """Pairs of ``n`` vertices; with a share of 0 one ring and one triangle."""
    if not share:
        ring = [(i, i + 1) for i in range(n - 4)] + [(0, n - 4)]
        return [*ring, (n - 3, n - 2), (n - 3, n - 1), (n - 2, n - 1)]
    stream = words(name.encode())
    return [(i, j) for i, j in combinations(range(n), 2) if next(stream) % 100 < share]


def neighbours(n: int, edges: list[tuple[int, int]]) -> Graph:
    """A graph from its edges."""
    graph: Graph = [set() for _ in range(n)]
    for i, j in edges:
        graph[i].add(j)
        graph[j].add(i)
    return graph


def cover_limits(n: int, edges: list[tuple[int, int]]) -> tuple[int, int]:
    """From one vertex too few to just enough."""
    graph = neighbours(n, edges)
    least = next(k for k in range(n) if vertex_cover(graph, set(range(n)), k, [0]) is not None)
    return max(0, least - 1), least + 1


# ── the cases ─────────────────────────────────────────────────────────────────────────────────────


def bounds(n: int, per_liar: int, others: int) -> list[int]:
    """Fault bounds for ``n`` rows where a rule needs ``per_liar * f + others``: 0, 1, the most."""
    most = (n - others) // per_liar
    return sorted({f for f in (0, 1, most) if 0 <= f <= most})


def some_weights(name: str, n: int) -> Row:
    """Uneven weights."""
    return [1 + word % 9 if word % 5 else 2**30 for word, _ in zip(words(name.encode()), range(n))]  # noqa: B905


def some_inputs() -> list[tuple[str, Rows]]:
    """Inputs for what doubles are made of: whole numbers of all sizes."""
    names = ("near_7", "small_9", "offset_10", "extremes_9")
    return [(name, inputs()[name]) for name in names]


def mixtures() -> Iterator[tuple[str, Rows, Floats]]:
    """Inputs with weights of their rows and, last, of a start vector."""
    for name, rows in some_inputs():
        yield name, rows, [0.0] * len(rows) + [1.0]
        yield name, rows, [*fractions([1] * len(rows)), 0.0]
        yield name, rows, fractions(list(range(1, len(rows) + 2)))
    # The mixture is the second row, and its distance from it is rounded to less than nothing.
    yield "line_7", inputs()["line_7"], [1 - 1 / 6, 0.0, 0.0, 1 / 6, 0.0, 0.0, 0.0, 0.0]


def fractions(counts: Row) -> Floats:
    """Weights in proportion to whole numbers."""
    return [count / sum(counts) for count in counts]


def plain(rule: Callable[[Rows, int], Row], per_liar: int, others: int) -> Iterator[Case]:
    """A rule of ``f`` alone on all inputs."""
    for name, rows in inputs().items():
        for f in bounds(len(rows), per_liar, others):
            yield {"input": name, "f": f, "expected": rule(rows, f)}


def cases_of_numbers() -> dict[str, Iterator[Case]]:
    """What the rules are made of."""
    totals = [-7, -6, -5, -3, -1, 0, 1, 3, 5, 6, 7, 10, 2**62, 2**62 - 1, -(2**62) + 1]
    weights: list[Floats] = [
        [1 / 3, 1 / 3, 1 / 3],
        [0.1] * 10,
        [1 / 7] * 7,
        [0.5, 0.25, 0.25, 0.0],
        [1 - 2**-31, 2**-31],
        [1 - 3 * 2**-31, 3 * 2**-31],
        [0.0, 1.0],
    ]
    graphs = [(f"graph {i}", n, share) for i, n, share in GRAPHS]
    return {
        "round_half_even": (
            {"divisor": k, "totals": totals, "expected": [half_even(x, k) for x in totals]}
            for k in (1, 2, 3, 4, 2**30)
        ),
        "exact_sum": ({"terms": terms, "expected": exact_sum(terms)} for terms in SUMS),
        "sweep": (
            {"matrix": matrix, "vector": vector, "expected": sweep(matrix, vector)}
            for matrix, vector in PRODUCTS
        ),
        "quantised": ({"weights": weight, "expected": quantised(weight)} for weight in weights),
        "squared_distances": (
            {
                "input": name,
                "expected": [[str(x) for x in row] for row in distances(inputs()[name])],
            }
            for name in ("pair", "line_5", "near_7", "extremes_9")
        ),
        "dominant_eigenvector": (
            {
                "input": name,
                "expected": dominant_eigenvector(
                    [[sum(map(int.__mul__, x, y)) for y in rows] for x in rows]
                ),
            }
            for name, rows in inputs().items()
        ),
        "eigenvector_of_doubles": (
            {"matrix": matrix, "expected": dominant_eigenvector(matrix)} for matrix in MATRICES
        ),
        "centred_gram": (
            {
                "input": name,
                "weights": shares,
                "expected": centred_gram(floats(distances(rows)), shares),
            }
            for name, rows in some_inputs()
            for shares in (fractions([1] * len(rows)), fractions(list(range(len(rows)))))
        ),
        "away": (
            {
                "input": name,
                "start": start,
                "weights": shares,
                "expected": from_mixture(
                    floats(distances(rows)), [float(distance(row, start)) for row in rows], shares
                ),
            }
            for name, rows, shares in mixtures()
            for start in [[x // 3 for x in rows[-1]]]
        ),
        "capped_weights": (
            {"weights": weights, "weight_limit": limit, "expected": capped(weights, limit)}
            for weights in ([3], [1, 2, 900], [5, 1, 4, 2**30], [2**30, 2**30, 7, 7, 7])
            for limit in (1.0, 1.1, 4 / 3, 3.14159, 2000.0004)
        ),
        "vertex_cover": (
            {
                "vertices": n,
                "edges": edges,
                "limit": limit,
                "steps": steps[0],
                "expected": cover and sorted(cover),
            }
            for name, n, share in graphs
            for edges in [random_edges(name, n, share)]
            for limit in range(*cover_limits(n, edges))
            for steps in [[0]]
            for cover in [vertex_cover(neighbours(n, edges), set(range(n)), limit, steps)]
        ),
        "buckets": (
            {"n": n, "size": size, "seed": seed.hex(), "expected": buckets(n, size, seed)}
            for n, size, seed in [(1, 1, b""), (5, 2, b"seed"), (12, 3, bytes(32)), (12, 5, b"\1")]
        ),
    }


def cases_by_coordinate() -> dict[str, Iterator[Case]]:
    """Rules that look at each coordinate alone."""
    weighted = [(name, rows, some_weights(name, len(rows))) for name, rows in inputs().items()]
    return {
        "mean": ({"input": i, "weights": w, "expected": mean(x, w)} for i, x, w in weighted),
        "median": ({"input": i, "expected": median(x)} for i, x, _ in weighted),
        "weighted_median": (
            {"input": i, "weights": w, "expected": weighted_median(x, w)}
            for i, x, uneven in weighted
            for w in ([1] * len(x), uneven)
        ),
        "capped_median": (
            {"input": i, "weights": w, "weight_limit": limit, "expected": result}
            for i, x, w in weighted
            for limit in (1.0, 1.1, 2.0)
            for result in [weighted_median(x, capped(w, limit))]
        ),
        "trimmed_mean": plain(trimmed_mean, 2, 1),
        "meamed": plain(meamed, 2, 1),
    }


def cases_by_choice() -> dict[str, Iterator[Case]]:
    """Rules that choose rows."""
    return {
        "krum": plain(lambda rows, f: multi_krum(rows, f, 1), 2, 3),
        "multi_krum": (
            {"input": name, "f": f, "m": m, "expected": multi_krum(rows, f, m)}
            for name, rows in inputs().items()
            for f in bounds(len(rows), 2, 3)[-1:]
            for m in (2, len(rows) - f)
        ),
        "bulyan": plain(bulyan, 4, 3),
        "mda": (
            {"input": i, "f": f, "steps": mda_steps(x, f), "expected": mda(x, f)}
            for i, x in inputs().items()
            for f in sorted({*bounds(len(x), 2, 1), max(0, (len(x) - 1) // 2 - 1)})
        ),
        "monna": (
            {"input": i, "f": f, "pivot": pivot, "expected": monna(x, f, pivot)}
            for i, x in inputs().items()
            for f in bounds(len(x), 2, 1)[-1:]
            for pivot in sorted({0, len(x) // 2})
        ),
    }


def cases_by_steps() -> dict[str, Iterator[Case]]:
    """Rules that move a point, or turn a direction."""

    def medians(weights: Row) -> list[dict[str, Any]]:
        return [
            {},
            {"iterations": 1},
            {"iterations": 3, "smoothing": 0.1, "start": "zero"},
            {"iterations": 8, "smoothing": 6553.6},
            {"iterations": 5, "weights": weights},
        ]

    return {
        "geometric_median": (
            {"input": i, **options, "expected": geometric_median(x, **options)}
            for i, x in inputs().items()
            for options in medians(some_weights(i, len(x)))
        ),
        "centred_clipping": (
            {"input": i, "radius": radius, "iterations": steps, "start": start, "expected": result}
            for i, x in inputs().items()
            for radius, steps in [(0.3, 1), (0.3, 5), (1000.25, 3), (1e5, 4), (3e9, 2)]
            for start in ([0] * len(x[0]), [*x[0][:-1], -20_001][: len(x[0])])
            for result in [centred_clipping(x, radius, steps, start)]
        ),
        "caf": plain(caf, 2, 1),
        "dnc": (
            {
                "input": i,
                "f": f,
                "filter": filter_,
                "iterations": iterations,
                "coordinates": coordinates,
                "seed": seed.hex(),
                "expected": dnc(x, f, filter_, iterations, coordinates, seed),
            }
            for i, x in inputs().items()
            for f in bounds(len(x), 2, 1)[-2:]
            for filter_, iterations, coordinates, seed in [
                (1.0, 1, 10_000, bytes(32)),
                (0.7, 2, 3, bytes(range(32))),
            ]
            if iterations * math.ceil(filter_ * f) < len(x)
        ),
    }


def cases_of_wrappers() -> dict[str, Iterator[Case]]:
    """What wrappers hand to the rule behind them, and the mean of a validated round."""
    wide = ["pair", "copies_8", "cross_8", "extremes_9", "offset_10", "small_9", "range_12"]
    chosen = {name: inputs()[name] for name in wide}
    model = hashlib.sha256(b"model").digest()
    return {
        "nnm": (
            {"input": i, "f": f, "expected": nnm(x, f)}
            for i, x in chosen.items()
            for f in bounds(len(x), 2, 1)[-1:]
        ),
        "nnm_trimmed_mean": plain(lambda rows, f: trimmed_mean(nnm(rows, f), f), 2, 1),
        "bucketing": (
            {"input": i, "size": k, "seed": i.encode().hex(), "expected": result}
            for i, x in chosen.items()
            for k in (2, 3)
            for result in [bucketing(x, k, i.encode())]
        ),
        "clipping": (
            {"input": i, "bound": bound, "expected": clipping(x, bound)}
            for i, x in chosen.items()
            for bound in (0.7, 5.0, 1e5 / 3, 2.0**31)
        ),
        "arc": (
            {"input": i, "f": f, "expected": arc(x, f)}
            for i, x in chosen.items()
            for f in bounds(len(x), 2, 1)[-1:]
        ),
        "capped_mean": (
            {"input": i, "weights": w, "fewest": k, "expected": capped_mean(x, w, k)}
            for i, x in inputs().items()
            for w in ([1] * len(x), some_weights(i, len(x)))
            for k in sorted({1, len(x) // 2 + 1, len(x)})
        ),
        "bucketing_round": (
            {"input": i, "weights": w, "size": 2, **ROUND, "expected": result}
            for i, x in chosen.items()
            for w in [[2**30] * len(x) if i == "pair" else some_weights(i, len(x))]
            for result in [bucketing_round(x, w, 2, ROUND["swarm"], ROUND["round"], model)]
        ),
        "dnc_round": (
            {"input": i, "f": 1, "coordinates": 2, **ROUND, "expected": result}
            for i, x in chosen.items()
            if len(x) > 2
            for result in [dnc_round(x, 1, 1.0, 1, 2, ROUND["swarm"], ROUND["round"], model)]
        ),
    }


SUMS: Final[list[Floats]] = [
    [0.1] * 10,
    [1e16, 1.0, -1e16],
    [2.0**53, 1.0],
    [2.0**53 + 2, 1.0],
    [2.0**53, 1.0, 2.0**-60],
    [1e308, 0.3, -1e308, 5e-324],
]
PRODUCTS: Final[list[tuple[list[Floats], Floats]]] = [
    ([[1 / (i + j + 1) for j in range(5)] for i in range(4)], [0.1, -0.7, 1 / 3, 1e8, 3.3]),
    ([[0.1, 1e16, -1e16], [1e16, 0.1, -1e16], [1 + 2**-30, -1.0, 0.0]], [1.0, 1.0, 1 + 2**-30]),
]
# Only the lower triangle is read; entries from 1e-300 to 1e300.
MATRICES: Final[list[list[Floats]]] = [
    [[4.0, 99.0], [-2.0, 1.0]],
    [[0.3, 0.0], [0.1, 0.2]],
    [[3e-300, 1.0, 1.0], [1e-300, 2e-300, 1.0], [-1e-300, 0.0, 2.5e-300]],
    [[1e300, 0.0], [9.99e299, 1e300]],
    [[0.0, 5.0], [0.0, 0.0]],
    [[1 / (i + j + 1) for j in range(4)] for i in range(4)],
]
# Name, vertices, and how many of a hundred pairs are joined.
GRAPHS: Final = [
    (0, 10, 0),
    (0, 11, 0),
    (13, 12, 15),
    (59, 12, 30),
    (36, 12, 50),
    (34, 16, 20),
    (52, 16, 25),
    (2, 16, 40),
    (58, 16, 50),
    (20, 16, 70),
    (38, 16, 30),
    (264, 12, 50),
    (2412, 16, 30),
]
ROUND: Final[dict[str, Any]] = {"swarm": "vectors", "round": 3}


def document() -> str:
    """The whole file: one input or case on a line."""
    rules = {
        **cases_of_numbers(),
        **cases_by_coordinate(),
        **cases_by_choice(),
        **cases_by_steps(),
        **cases_of_wrappers(),
    }
    head = {
        "version": VERSION,
        "specification": "arithmetic.md",
        "sender": "row i is of the sender whose identity is 32 bytes of value i + 1",
        "model_digest": hashlib.sha256(b"model").hexdigest(),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    lines += [' "inputs": {', *_joined(_named(inputs().items())), " },", ' "rules": {']
    listed = [
        "\n".join([f"  {json.dumps(rule)}: [", *_joined(map(_compact, cases)), "  ]"])
        for rule, cases in rules.items()
    ]
    return "\n".join(["{", *lines, ",\n".join(listed), " }", "}", ""])


def _named(items: Any) -> Iterator[str]:
    return (f"{json.dumps(key)}: {_compact(value)}" for key, value in items)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _joined(entries: Iterator[str]) -> list[str]:
    listed = list(entries)
    return [f"   {entry}," for entry in listed[:-1]] + [f"   {listed[-1]}"]


def main(arguments: list[str]) -> int:
    """Write the file, or compare it."""
    if arguments not in ([], ["--check"]):
        print("usage: arithmetic_vectors.py [--check]", file=sys.stderr)
        return 2
    text = document()
    if not arguments:
        TARGET.write_text(text, encoding="utf-8", newline="\n")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is not what this program writes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
