"""What validated_mean promises of the merged vector, held against cases made to break it.

Each case has honest updates, a reference and liars that know both. It goes the way of a round:
fit, shares, standings as a set carries them, and the rule's own merge. The oracle is exact:
integers and fractions. ``scripts/mean_bound.py`` plays many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_lab.testing import make_round_info, make_updates
from qres_validation import ValidatedMean
from qres_validation.capped_mean import capped_mean, halvings, longest
from qres_validation.mixing import mixing_weights

from qres_core.errors import ValueRefusedError
from qres_core.training import HeldOut

LIMIT = 2**31 - 1
Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


def grid(values: Floats) -> Ints:
    return np.clip(np.rint(values), -LIMIT, LIMIT).astype(np.int32)


@attrs.frozen(eq=False)
class Case:
    honest: Ints
    lies: Ints
    reference: Ints
    quorum: int
    shorter: int = 0  # how often the proposer halves its step

    @property
    def f(self) -> int:
        return len(self.lies)

    @property
    def rows(self) -> Ints:
        return np.vstack([self.honest, self.lies])


def _honest(rng: np.random.Generator, n: int, d: int) -> Floats:
    scale = 2.0 ** rng.uniform(0, 31)
    kind = rng.integers(4)
    if kind == 0:  # alike
        return scale * (rng.standard_normal(d) + 0.1 * rng.standard_normal((n, d)))
    if kind == 1:  # each of its own kind
        return scale * np.eye(n, max(n, d))[:, :d] + 0.01 * scale * rng.standard_normal((n, d))
    if kind == 2:  # at the end of the grid
        return LIMIT * rng.choice([-1.0, 1.0], (n, d))
    return scale * rng.standard_normal((n, d))


def _reference(rng: np.random.Generator, honest: Floats) -> Floats:
    centre = honest.mean(axis=0)
    size = float(np.abs(honest).max())
    return [
        centre,
        centre + size * 10.0 ** rng.uniform(-6, 0) * rng.standard_normal(centre.size),
        honest[0],
        size * rng.standard_normal(centre.size),
        np.zeros(centre.size),
    ][int(rng.integers(5))]


def _cancel(rng: np.random.Generator, honest: Floats, u: Floats, f: int) -> Floats:
    """Rows of any length that cancel each other at exact weights alone."""
    way = rng.choice([-1.0, 1.0], u.size)
    size = LIMIT * 2.0 ** -rng.uniform(0, 12)
    share = rng.uniform(0, 0.9)
    signs = [1.0 if k % 2 == 0 else -(1.0 - share * (1 + 0.37 * k) % 0.9) for k in range(f)]
    near = honest.mean(axis=0) if rng.random() < 0.5 else u
    return near + size * np.array(signs)[:, None] * way


def _just_short(rng: np.random.Generator, honest: Floats, u: Floats, f: int) -> Floats:
    """The same, as long as a row may be."""
    rows = _cancel(rng, honest, u, f)
    usual = float(np.median(np.linalg.norm(honest, axis=1)))
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    return rows / lengths * usual * rng.uniform(1, 10)


def _mirror(rng: np.random.Generator, honest: Floats, u: Floats, f: int) -> Floats:
    """The mean with all of them is just the reference."""
    n = len(honest)
    rows = np.tile((u - (1 - f / n) * honest.mean(axis=0)) / (f / n), (f, 1))
    return rows * rng.uniform(0.5, 1.5, (f, 1))


def _anything(rng: np.random.Generator, _honest: Floats, u: Floats, f: int) -> Floats:
    return rng.uniform(-LIMIT, LIMIT, (f, u.size)) * 2.0 ** -rng.uniform(0, 31, (f, 1))


def _nothing(_rng: np.random.Generator, _honest: Floats, u: Floats, f: int) -> Floats:
    return np.zeros((f, u.size))


def _copies(rng: np.random.Generator, honest: Floats, _u: Floats, f: int) -> Floats:
    return honest[rng.integers(0, len(honest), f)] * rng.choice([1.0, -1.0, 9.0], (f, 1))


LIES: tuple[Callable[[np.random.Generator, Floats, Floats, int], Floats], ...] = (
    _cancel,
    _just_short,
    _mirror,
    _anything,
    _nothing,
    _copies,
)


def case(rng: np.random.Generator) -> Case:
    """One case of a random size, kind and attack."""
    f = int(rng.integers(1, 4))
    honest_count = int(rng.integers(2 * f + 1, 10))
    d = int(rng.integers(1, 25))
    honest = np.asarray(grid(_honest(rng, honest_count, d)), dtype=np.float64)
    reference = np.asarray(grid(_reference(rng, honest)), dtype=np.float64)
    lies = LIES[int(rng.integers(len(LIES)))](rng, honest, reference, f)
    quorum = int(rng.integers(min(2 * f + 1, honest_count), honest_count + 1))
    shorter = int(rng.integers(9)) if rng.random() < 0.2 else 0
    return Case(grid(honest), grid(lies), grid(reference), quorum, shorter)


def merged(case: Case) -> tuple[Ints, int]:
    """What all nodes merge by the set of an honest proposer, and how often it is halved.

    Raises ValueRefusedError: QRES-E514 where the proposer would propose nothing.
    """
    n, d = case.rows.shape
    info = attrs.evolve(make_round_info(d, nodes=n, byzantine=case.f), quorum=case.quorum)
    updates = make_updates(case.rows)
    rule = ValidatedMean(f=case.f)
    rule._step.halvings = case.shorter
    model = np.zeros(d, dtype=np.int32)
    judge = HeldOut(model, lambda _model: 1.0, lambda: case.reference)
    screening = rule.screen(updates, judge, info)
    standings = np.array([screening.of(sender) for sender in updates.senders], dtype=np.int64)
    kept = np.flatnonzero(standings)
    assert len(kept) >= case.quorum
    # As a set's standings become weights: `h` of docs/reference/arithmetic.md is 2.
    agreed = attrs.evolve(updates.take(kept), weights=np.maximum(1, standings[kept] >> 2))
    found = rule.aggregate(agreed, info)
    assert screening.check is not None
    screening.check(found)
    return found, halvings(agreed.weights)


def merged_as_before(case: Case) -> tuple[Ints, int]:
    """The control: no row is left out for its length, and shares are the float weights cut off."""
    fewest = max(case.quorum, len(case.honest))
    most = np.full(len(case.rows), 1.0 / fewest)
    wanted = mixing_weights(case.rows, case.reference, most) * fewest * 65536 + 1e-6
    standings = np.minimum(np.floor(wanted).astype(np.int64), 65536)
    kept = np.flatnonzero(standings)
    return capped_mean(case.rows[kept], standings[kept], min(len(kept), fewest)), 0


def squared(vector: list[Fraction] | list[int]) -> Fraction:
    return sum((Fraction(value) ** 2 for value in vector), Fraction(0))


def excess(case: Case, result: tuple[Ints, int], chosen: list[int]) -> float:
    """``(|F - u| - |h - u|) / sqrt(d)``, ``h`` the mean of the chosen honest rows.

    A vector that was halved is doubled again, and then in larger steps of the grid.
    """
    found, halved = result
    u = [int(value) for value in case.reference]
    near = float(squared([(int(a) << halved) - b for a, b in zip(found, u, strict=True)])) ** 0.5
    sums = [sum(int(case.honest[row][k]) for row in chosen) for k in range(len(u))]
    far = squared([Fraction(s, len(chosen)) - b for s, b in zip(sums, u, strict=True)])
    return (near - float(far) ** 0.5) / len(u) ** 0.5 / 2.0**halved


def holds(case: Case, result: tuple[Ints, int], chosen: list[int]) -> bool:
    """Whether ``|F - u| <= |h - u| + sqrt(d)``, exactly."""
    found, halved = result
    u = [int(value) for value in case.reference]
    near = squared([(int(a) << halved) - b for a, b in zip(found, u, strict=True)])
    sums = [sum(int(case.honest[row][k]) for row in chosen) for k in range(len(u))]
    far = squared([Fraction(s, len(chosen)) - b for s, b in zip(sums, u, strict=True)])
    steps = len(u) << 2 * halved
    more = near - far - steps
    return more <= 0 or more**2 <= 4 * far * steps


def means(case: Case, rng: np.random.Generator) -> list[list[int]]:
    """Honest means that the promise is about: of all honest rows of usual length, and of some.

    Empty where too few honest rows are of usual length: then nothing is promised.
    """
    squares, most = longest(case.rows, case.f, case.quorum)
    usual = [row for row in range(len(case.honest)) if squares[row] <= most]
    fewest = max(case.quorum, len(case.rows) - case.f)
    if len(usual) < fewest:
        return []
    some = sorted(rng.choice(usual, fewest, replace=False).tolist())
    return [usual, some]


def play(cases: int, seed: int) -> tuple[Counter[str], float]:
    """Play cases; counts, and the greatest excess in steps of the grid for each coordinate."""
    rng = np.random.default_rng(seed)
    counts, worst = Counter[str](), -np.inf
    for _case in range(cases):
        made = case(rng)
        chosen = means(made, rng)
        before = merged_as_before(made)
        counts["broken as before"] += not all(holds(made, before, rows) for rows in chosen)
        try:
            found = merged(made)
        except ValueRefusedError as error:
            if error.code != "QRES-E514":
                raise
            counts["refused"] += 1
            continue
        if not chosen:
            counts["nothing promised"] += 1
        for rows in chosen:
            counts["means"] += 1
            counts["broken"] += not holds(made, found, rows)
            worst = max(worst, excess(made, found, rows))
    return counts, worst
