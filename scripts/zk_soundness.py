"""Print every term of the soundness and of the zero knowledge of norm/v2, and what grinding costs.

    python scripts/zk_soundness.py            the tables of docs/reference/norm-v2.md
    python scripts/zk_soundness.py --grind    also the processor time of a cheater's try, measured

All terms but the slack's are computed here from the package's own numbers; `zk_slack.py` checks the
slack's by interval arithmetic, which takes longer. Bits are rounded down: nothing is stated better
than it is.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
from blake3 import blake3
from qres_zk.group import ORDER, Points, add, encode, generator, hash_to_group
from qres_zk.slack import BETA, PROJECTIONS, SECURITY, TAU, factor
from qres_zk.statement import (
    DIRECTION_BITS,
    DIRECTION_SHIFT,
    HIDING_BITS,
    MASKS,
    MAX_DIMENSION,
    MAX_MASK_BITS,
    MAX_OFFSET_BITS,
    NormStatement,
)

LINK_BITS: Final = 128
BATCH_BITS: Final = 127  # randomisers of 128 bits whose lowest is 1
WIDE_BITS: Final = 512  # of a scalar challenge, before it is reduced
DRAWN_BITS: Final = 384  # of a random scalar, before it is reduced
LARGEST: Final = 10**6
"""The dimension that the tables are for; only folding and the sums' ranges depend on it."""
TRIES: Final = 4096


def bits(error: Fraction) -> float:
    """``-log2`` of an error, rounded down to a tenth."""
    numerator, denominator = error.numerator, error.denominator
    exact = math.log2(denominator) - math.log2(numerator)
    return math.floor(exact * 10 + 1e-9) / 10


def soundness(k: int, security: int, *, direction: bool) -> Iterator[tuple[str, str, Fraction]]:
    """Challenge, what goes wrong, and with which probability a try of a cheater has it."""
    statement = NormStatement(LARGEST, 2**19, k=k)
    shown = Fraction(1, 2**statement.gamma_bits)
    if direction:
        shown = max(shown, Fraction(1, 2**DIRECTION_BITS))
    bias = Fraction(ORDER, 2**WIDE_BITS)
    yield (
        "projection",
        "a vector longer than the bound has small projections",
        Fraction(1, 2**security),
    )
    yield "projection", "a coordinate of 2^(M+1) or more has small projections", Fraction(1, 2**k)
    yield "smallness", "a value of 2^M or more has small masked sums", Fraction(1, 2**MASKS)
    yield "combination", "values that are not those of the vector", shown
    if direction:
        yield "square", "one of the two square relations is false", Fraction(1, ORDER) + bias
    yield "link", "masked sums that are not those of the values", Fraction(1, 2**LINK_BITS)
    folds = statement.folds
    yield (
        f"fold, {folds} of them",
        "a false claim becomes true",
        folds * (Fraction(2, ORDER) + bias),
    )
    yield "response", "a false commitment is opened", Fraction(2, ORDER) + bias
    yield "(the verifier's)", "equations that do not hold cancel", Fraction(1, 2**BATCH_BITS)


def soundness_table() -> list[str]:
    """The table with a column for each security, for k = 256 without and with a direction."""
    heads = [(256, security, direction) for direction in (False, True) for security in SECURITY]
    columns = [list(soundness(k, s, direction=g)) for k, s, g in heads]
    names = [(name, why) for name, why, _error in columns[-1]]
    lines = [
        "| challenge | what goes wrong | "
        + " | ".join(f"{s}{', direction' if g else ''}" for _k, s, g in heads)
        + " |",
        "|---|---|" + "---:|" * len(heads),
    ]
    for name, why in names:
        found = [{(n, w): e for n, w, e in column}.get((name, why)) for column in columns]
        cells = ["" if error is None else f"{bits(error):.1f}" for error in found]
        lines.append(f"| {name} | {why} | " + " | ".join(cells) + " |")
    totals = [f"{bits(sum((e for _n, _w, e in column), Fraction(0))):.1f}" for column in columns]
    lines.append("| **all of them** | | " + " | ".join(f"**{total}**" for total in totals) + " |")
    return lines


def range_table() -> list[str]:
    """What must stay below the order so that relations modulo it are relations of integers."""
    m, k, places = MAX_MASK_BITS, max(PROJECTIONS), 2 * MAX_DIMENSION
    largest, offset = 2**m, 2**MAX_OFFSET_BITS
    coordinates = places * 2 * largest
    rows = {
        "projections, `q_t = <R_t, u'>`": coordinates + largest,
        "half-space, `h + 2^15 s = <g + 2^15, u'>`": (
            2 * DIRECTION_SHIFT * coordinates + largest + DIRECTION_SHIFT * largest
        ),
        "squares, `N + sum e^2 = P`": (9 * k + 4) * largest**2 + 2**m,
        "half-space's squares, `sum f^2 = h - t'`": 4 * largest**2 + largest + offset,
    }
    lines = ["| relation | greatest size, bits | order, bits |", "|---|---:|---:|"]
    order = f"{math.log2(ORDER):.1f}"
    for name, size in rows.items():
        if size >= ORDER:
            raise AssertionError(name)
        lines.append(f"| {name} | {math.ceil(10 * math.log2(size)) / 10:.1f} | {order} |")
    return lines


# ── zero knowledge ────────────────────────────────────────────────────────────────────────────


def normal_tail(k: int, limit: float) -> float:
    """``Pr[chi-square with k degrees > k limit]`` for even ``k``: a sum of Poisson terms."""
    half = k * limit / 2
    return math.fsum(
        math.exp(-half + n * math.log(half) - math.lgamma(n + 1)) for n in range(k // 2)
    )


def normal_lower(k: int, limit: float) -> float:
    """``Pr[chi-square with k degrees <= k limit]`` for even ``k``, below the mean."""
    half, n = k * limit / 2, k // 2
    term = math.exp(-half + n * math.log(half) - math.lgamma(n + 1))
    total = 0.0
    while term > total * 1e-17:
        total += term
        n += 1
        term *= half / n
    return total


def equal_tail(k: int, limit: Fraction, entries: int) -> float:
    """The same, exactly, for a vector of a few equal entries: ``sum p**2 > k limit``."""
    chances: dict[int, float] = {}
    for minus in range(entries + 1):
        square = (entries - 2 * minus) ** 2
        chances[square] = chances.get(square, 0.0) + math.comb(entries, minus) / 2**entries
    summed = np.array([1.0])
    for _ in range(k):
        grown = np.zeros(len(summed) + entries * entries)
        for square, chance in chances.items():
            grown[square : square + len(summed)] += chance * summed
        summed = grown
    above = math.floor(limit * k * entries) + 1
    return float(summed[above:].sum())


def bound_of_tail(k: int) -> float:
    """Achlioptas's bound, for every vector: ``(tau exp(1 - tau)) ** (k / 2)``."""
    tau = float(TAU[k])
    return float((tau * math.exp(1 - tau)) ** (k / 2))


def distance_table() -> list[str]:
    """How often an honest vector at the bound is projected too far: the distance of a proof."""
    few = (2, 3, 4, 6)
    lines = [
        "| `k` | normal entries | " + " | ".join(f"{n} equal" for n in few) + " | every vector |",
        "|---|---:|" + "---:|" * len(few) + "---:|",
    ]
    for k in PROJECTIONS:
        cells = [normal_tail(k, float(TAU[k]))]
        cells += [equal_tail(k, TAU[k], n) for n in few] if k == 256 else []
        texts = [f"{cell:.1e}" for cell in cells] + [""] * (1 + len(few) - len(cells))
        lines.append(f"| {k} | " + " | ".join(texts) + f" | {bound_of_tail(k):.1e} |")
    return lines


def other_distances() -> list[str]:
    """The other terms of the distance, as bits."""
    statement = NormStatement(LARGEST, 2**19)
    drawn = statement.rows + 2 * statement.folds + statement.columns + statement.values + MASKS + 6
    uniform = bits(drawn * Fraction(ORDER, 2**DRAWN_BITS))
    rejected = bits(MASKS * Fraction(2, 2**HIDING_BITS))
    return [
        "| what | bits |",
        "|---|---:|",
        f"| {drawn} random scalars, reduced from {DRAWN_BITS} bits | {uniform:.1f} |",
        "| masked sums after rejection | exact |",
        f"| (a proof's masked sums are rejected and drawn again) | {rejected:.1f} |",
    ]


# ── grinding ──────────────────────────────────────────────────────────────────────────────────


class Grinder:
    """A cheater's cheapest tries: another blind in the last row, with few entries in that row.

    What was absorbed before that row is hashed once. A try adds ``H`` to a point, encodes it,
    hashes it, expands the bits of the few columns that matter and adds them up.
    """

    def __init__(self, dimension: int, entries: int, k: int = 256) -> None:
        statement = NormStatement(dimension, 2**16, k=k)
        self._row, self._k, self._entries = statement.rows - 1, k, entries
        self._before = hashlib.shake_256(bytes(1000 + 32 * self._row))  # items 1 to 9 but for 32
        size = 32
        self._after = b"".join(
            (
                (9).to_bytes(4, "little"),
                (14).to_bytes(4, "little"),
                b"challengeprojection",
                size.to_bytes(4, "little"),
            )
        )
        self._steps = _multiples(TRIES)

    def tries(self, start: Points) -> int:
        """Play ``TRIES`` tries; returns how many would have passed at twice the bound."""
        encoded = encode(add(self._steps, start))
        raw = bytearray()
        row, length = self._row.to_bytes(4, "little"), self._entries * self._k // 8
        for at in range(0, len(encoded), 32):
            state = self._before.copy()
            state.update(encoded[at : at + 32] + self._after)
            raw += blake3(state.digest(32) + row).digest(length=length)
        octets = np.frombuffer(bytes(raw), np.uint8).reshape(TRIES, self._entries, -1)
        chosen = np.unpackbits(octets, axis=2).sum(axis=1, dtype=np.int32)
        squares = np.square(2 * chosen - self._entries).sum(axis=1)
        return int((squares <= self._entries * self._k * float(TAU[self._k]) / 4).sum())


def _multiples(count: int) -> Points:
    """``0 H .. (count - 1) H``, by doubling."""
    found = add(generator(), hash_to_group(b"value"))
    step = generator()
    while len(found) < count:
        found = np.concatenate([found, add(found, step)])
        step = add(step, step)
    return found[:count]


def grinding() -> list[str]:
    """Processor time of a try, and of as many as a false statement takes on the average."""
    lines = []
    for dimension, entries in ((10**3, 32), (10**6, 32)):
        grinder, start = Grinder(dimension, entries), hash_to_group(b"vector")
        grinder.tries(start)
        spent = min(_seconds(grinder, start) for _ in range(3)) / TRIES
        days = 2.0**40 * spent / 86400
        lines.append(
            f"d = {dimension}, {entries} entries: {spent * 1e6:.1f} µs a try; 2^40 tries: "
            f"{days:.0f} days of one core"
        )
    return lines


def _seconds(grinder: Grinder, start: Points) -> float:
    before = time.process_time()
    grinder.tries(start)
    return time.process_time() - before


def slack_table() -> list[str]:
    """Sigma, and how often a normal vector of that length passes a try."""
    lines = [
        "| `k` | τ | " + " | ".join(f"slack at {s} bits (normal vectors)" for s in SECURITY) + " |",
        "|---|---:|" + "---:|" * len(SECURITY),
    ]
    for k in PROJECTIONS:
        cells = [
            f"{factor(k, s):.2f} (2^{math.log2(normal_lower(k, float(BETA[k, s]))):.1f})"
            for s in SECURITY
        ]
        lines.append(f"| {k} | {float(TAU[k]):.3f} | " + " | ".join(cells) + " |")
    return lines


def page() -> list[list[str]]:
    """Every table of the specification that this computes."""
    return [soundness_table(), range_table(), slack_table(), distance_table(), other_distances()]


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--grind", action="store_true", help="measure a cheater's try")
    chosen = parser.parse_args()
    for table in page():
        sys.stdout.write("\n".join(table) + "\n\n")
    if chosen.grind:
        sys.stdout.write("\n".join(grinding()) + "\n")


if __name__ == "__main__":
    main()
