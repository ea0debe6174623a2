"""Forgeries: what a cheat would send if the transcript forgot an item, or the padding were free.

The attack tests play them, and `scripts/zk_vectors.py` writes them down for other verifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.exact import inner
from qres_zk.group import ORDER, add
from qres_zk.squares import four_squares
from qres_zk.statement import Context, NormStatement
from qres_zk.transcript import Transcript
from zk_field_prover import K2, Run, minus, point, prove, square_root, times
from zk_lattice import small_solution

from qres_core.errors import WireError


@contextmanager
def forgetting(item: str | None) -> Iterator[list[str]]:
    """A transcript that drops one item; lists the labels it was given."""
    absorb = Transcript.absorb
    seen: list[str] = []

    def forgetful(self: Transcript, label: str, data: bytes) -> None:
        seen.append(label)
        if label != item:
            absorb(self, label, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcript, "absorb", forgetful)
        yield seen


def accepted(statement: NormStatement, context: Context, data: bytes) -> bool:
    """Whether the package takes these bytes for a proof."""
    try:
        norm.verify(statement, context, ProofBundle.from_bytes(data, statement))
    except WireError:
        return False
    return True


# ── what cheats commit to ─────────────────────────────────────────────────────────────────────


def no_squares(q: list[int], s: int, slack: int) -> list[int]:
    """The true projections, and zeros in place of squares that do not exist."""
    assert slack < 0
    return [*q, s, 0, 0, 0, 0]


def wrapped(q: list[int], s: int, slack: int) -> list[int]:
    """A square that is negative over the integers and fits modulo the order."""
    for second in range(100):
        root = square_root(slack - second * second)
        if root is not None:
            return [*q, s, root, second, 0, 0]
    raise AssertionError


def shrunk(statement: NormStatement) -> Callable[[list[int], int, int], list[int]]:
    """Projections of another, shorter vector."""

    def values(q: list[int], s: int, slack: int) -> list[int]:
        assert slack < 0
        short, total = [number // 100 for number in q], s // 100
        rest = statement.budget - sum((2 * number - total) ** 2 for number in short)
        return [*short, total, *four_squares(rest)]

    return values


# ── cheats, by the item that must stop them ───────────────────────────────────────────────────


def late_values(run: Run) -> None:
    """Responses first, then the commitment they open."""
    run.solve_square(run.quadratic_target())
    run.relink()
    opened = point(run.zv, run.bases, run.zr[1])
    run.cv = times(minus(opened, run.dv), pow(run.c, -1, ORDER))


def late_value_masks(run: Run) -> None:
    run.solve_square(run.quadratic_target())
    run.relink()
    run.dv = minus(point(run.zv, run.bases, run.zr[1]), times(run.cv, run.c))


def late_low(run: Run) -> None:
    index = len(run.crosses) - 2
    error = -run.product * run.claim_error * pow(run.cross_factor(index), -1, ORDER)
    run.crosses[index] = add(run.crosses[index], run.com(error, 0))


def late_high(run: Run) -> None:
    index = len(run.crosses) - 1
    error = -run.product * run.claim_error * pow(run.cross_factor(index), -1, ORDER)
    run.crosses[index] = add(run.crosses[index], run.com(error, 0))


def late_row_masks(run: Run) -> None:
    error = run.c * run.product * run.claim_error
    run.zu[0] = (run.zu[0] + error * pow(run.weight_row[0], -1, ORDER)) % ORDER
    run.du = minus(point(run.zu, run.bases, run.zr[0]), times(run.folded_rows(), run.c))


def late_claim_mask(run: Run) -> None:
    opened = run.com(run.claimed(), run.zr[2])
    run.e = minus(opened, times(run.folded_crosses(), run.c))


def late_square(run: Run) -> None:
    opened = run.com(run.quadratic(run.zv) - run.c**2 * run.constant, run.zr[3])
    run.w0 = minus(opened, times(run.w1, run.c))


def late_cross(run: Run) -> None:
    opened = run.com(run.quadratic(run.zv) - run.c**2 * run.constant, run.zr[3])
    run.w1 = times(minus(opened, run.w0), pow(run.c, -1, ORDER))


def late_link(run: Run) -> None:
    run.masked = [0] * K2  # as absorbed: the true ones do not fit
    run.t3 = run.link_of(run.zv)


def late_rows(run: Run) -> None:
    """Move a huge value from one row to another, weighted by the known challenges."""
    first, second = run.row_factors()[:2]
    huge = point([2**40], run.bases, 0)
    run.v_points[0] = add(run.v_points[0], huge)
    run.v_points[1] = minus(run.v_points[1], times(huge, first * pow(second, -1, ORDER)))


def late_masked(statement: NormStatement) -> Callable[[list[int], list[int]], list[int]]:
    """Small masked sums that satisfy the link equation of values that are not small.

    Most of what is wanted is spread over all sums alike, the rest is a lattice's business.
    """

    def masked(true: list[int], link: list[int]) -> list[int]:
        half = 1 << (statement.mask_bits - 1)
        wanted = sum(a * b for a, b in zip(link, true, strict=True)) - half * sum(link)
        wanted = (wanted + ORDER // 2) % ORDER - ORDER // 2
        each = wanted // sum(link)
        few = small_solution(link[:10], wanted - each * sum(link))
        return [half + each + item for item in few] + [half + each] * (K2 - 10)

    return masked


LATE: dict[str, tuple[str, Callable[[Run], None]]] = {
    "values": ("no squares", late_values),
    "low": ("shrunk", late_low),
    "high": ("shrunk", late_high),
    "mask rows": ("shrunk", late_row_masks),
    "mask values": ("no squares", late_value_masks),
    "mask claim": ("shrunk", late_claim_mask),
    "mask square": ("no squares", late_square),
    "mask cross": ("no squares", late_cross),
    "mask link": ("wrapped", late_link),
}


def fitting_direction(run: Run, direction: np.ndarray) -> np.ndarray:
    """Change 30 entries of the direction so that the false claim fits the given proof."""
    columns, xs = run.statement.columns, run.xs
    rows, folds = run.statement.rows, len(xs)
    factors = []
    for row in range(rows):
        factor = 1
        for bit, x in enumerate(xs):
            factor = factor * (1 if (row >> (folds - 1 - bit)) & 1 else x) % ORDER
        factors.append(factor)
    coefficients = [
        run.combination.direction * factors[i // columns] * run.zu[i % columns] % ORDER
        for i in range(30)
    ]
    # The cross commitments are to the old direction; their sum's error is what must be made up.
    wanted = run.c * run.product * run.claim_error
    changes = small_solution(coefficients, wanted)
    fitted = direction.astype(np.int64)
    fitted[:30] += changes
    assert np.abs(fitted).max() < 2**15
    return fitted.astype(np.int16)


# ── padding ───────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Padded:
    """Vectors that lie about a half-space by what they put into the padding."""

    statement: NormStatement
    vectors: tuple[np.ndarray, ...]  # int64, shape ``(d,)`` each
    paddings: tuple[np.ndarray, ...]  # int64, shape ``(b m - d,)`` each; together zero for a pair

    def claimed(self, at: int) -> int:
        """What norm/v1 took for ``<direction, u>``."""
        return self.true(at) - 2**15 * int(self.paddings[at].sum())

    def true(self, at: int) -> int:
        """The true ``<direction, u>``."""
        assert self.statement.direction is not None
        return inner(self.statement.direction, self.vectors[at])

    def forged(self, at: int, context: Context) -> Run:
        """The proof that norm/v1 accepted."""
        committed = [*self.vectors[at].tolist(), *self.paddings[at].tolist()]
        return prove(self.statement, context, committed, product=self.claimed(at), padding_shift=0)


def padded_pair(dimension: int, bound: int = 2**20) -> Padded:
    """Two vectors that are long against and along the direction, with opposite padding.

    The first misses the threshold, +0.02 of the bound along the direction, by far; the second one
    does not, and is there for the sum: there the paddings cancel.
    """
    direction = np.where(np.arange(dimension) < 10, 32767, 0).astype(np.int16)
    length = float(np.sqrt(np.square(direction.astype(float)).sum()))
    plain = NormStatement(dimension, bound)
    count = plain.rows * plain.columns - dimension
    padding = np.full(count, int(0.7 * bound / count**0.5))
    statement = attrs.evolve(plain, direction=direction, threshold=int(0.02 * bound * length))
    gained = 2**15 * int(padding.sum()) / length / bound
    against, along = 0.025 - gained, gained + 0.025
    vectors = tuple(
        np.rint(part * bound * direction / length).astype(np.int64) for part in (against, along)
    )
    return Padded(statement, vectors, (-padding, padding))
