"""The geometric median, by the smoothed Weiszfeld algorithm."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows

from qres_core import (
    Claims,
    Needs,
    Reads,
    RoundInfo,
    Updates,
    Vector,
    Visibility,
    hookimpl,
    options,
)
from qres_core.errors import ValueRefusedError
from qres_robust_stats.coefficients import Geometry, Pairwise, geometry, sound
from qres_robust_stats.little import is_little, weiszfeld_exact_little, weiszfeld_little
from qres_robust_stats.preconditions import check_visible
from qres_robust_stats.weights import (
    as_limit,
    capped,
    check_weights,
    fewest_weighted,
    refuse_heavy,
)

Start = Literal["medoid", "zero"]

ITERATIONS: Final = 32
SMOOTHING: Final = 2.0**-16


def geometric_median(
    vectors: Rows,
    *,
    iterations: int = ITERATIONS,
    smoothing: float = SMOOTHING,
    weights: NDArray[np.int64] | None = None,
    start: Start = "medoid",
    products: NDArray[Any] | None = None,
) -> Rows:
    """Return nearly the point with the least sum of distances to the vectors.

    Each iteration moves to the mean of the vectors weighted by
    ``weights[i] / max(smoothing, |x[i] - z|)``. The number of iterations is fixed, so that all
    nodes take the same steps.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, at least one row; not changed.
        iterations: 1 or more.
        smoothing: the least distance that counts, above 0, in the unit of the vectors. The sum of
            distances misses the least by at most about that much a vector, once converged.
        weights: int64, shape ``(n,)``, each 1..1000 * 2**30, as they shall count: nothing is capped
            here. Only their proportions matter.
        start: where to begin. ``"medoid"``: at the mean of the rows nearest the row with the least
            sum of distances, as few as together hold more than half of all weight. Fewer than half
            cannot pull it away, so that few iterations do. ``"zero"``: at the zero vector, as other
            libraries do; each iteration then only shrinks what far vectors add, by about ``n``.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. For int32 all steps are specified float64
        operations on exactly computed distances and the last is an exact sum: the same bits
        everywhere.

    Raises:
        ValueRefusedError: QRES-E501 to QRES-E503, QRES-E505 for the vectors, QRES-E506 for weights.
        OptionError: QRES-E105, an argument is not as stated.

    Complexity:
        the pairwise distances, ``O(n**2)`` an iteration, one weighted sum. From ``"zero"`` on
        floats, if that is less: one read of the rows for each iteration.

    Source:
        Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions
        on Signal Processing 70, 2022, algorithm 1 (smoothed Weiszfeld) and its analysis.

    Example:
        >>> geometric_median(np.array([[0, 0], [0, 4], [900, 2]], dtype=np.int32)).tolist()
        [1, 2]
    """
    rows = check_rows(vectors)
    options.whole(1).check("iterations", iterations)
    options.real(above=0).check("smoothing", smoothing)
    n = len(rows)
    counts = np.ones(n, dtype=np.int64) if weights is None else check_weights(weights, n)
    shares = counts.astype(np.float64)
    few = products is None and is_little(rows)
    if few and start == "zero" and rows.dtype != np.int32:
        little = weiszfeld_little(rows, shares, smoothing, iterations)
        if little is not None:
            return little
    place, point = _start(rows, counts, iterations, start, products)
    if few and isinstance(place, Pairwise) and rows.dtype == np.int32:
        whole = weiszfeld_exact_little(rows, place.squares, shares, point, smoothing, iterations)
        if whole is not None:
            return whole
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            pulls = shares / np.maximum(np.sqrt(place.distances(point)), smoothing)
            total = math.fsum(pulls.tolist())
            if total == 0:
                raise ValueRefusedError.of(
                    "QRES-E501", "vectors", "every distance overflows float64", "scale the vectors"
                )
            point[:-1] = pulls / total
            point[-1] = 0.0
        return place.mixture(point)


@attrs.frozen
class GeometricMedian:
    """Geometric median: nearly the point with the least sum of distances to the updates.

    By default every update counts once. With ``weighted = true`` an update counts by its weight
    (the claimed examples, capped by ``swarm.weight_cap``, times the sender's standing), but never
    more than ``weight_limit`` times the lower median weight. The round then needs so many updates
    that no claims whatever give ``f`` senders half of all weight.

    Robustness: unweighted and for the exact geometric median ``(f, kappa)``-robust with
    ``kappa = 4 (1 + f / (n - 2 f))**2`` for ``n > 2 f``. It leaves the honest updates by no more
    than ``2 (n - f) / (n - 2 f)`` times the greatest distance of one from their mean.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates; with
            weights ``2 ceil(f (weight_limit + 1) - 1)`` if that is more.
        iterations: how many steps of Weiszfeld's algorithm, 1 or more; the same on every node.
        smoothing: the least distance that counts, above 0, in model units.
        weighted: count updates by weight.
        weight_limit: what one update may count, in lower median weights, 1 or more, to three
            decimals. Means nothing without ``weighted``.

    Raises:
        OptionError: QRES-E105, an option is of another type or too small; the message names it.

    Complexity:
        see :func:`geometric_median`.

    Source:
        Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions
        on Signal Processing 70, 2022. Robustness: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot,
        Stephan, "Fixing by Mixing", AISTATS 2023; Chen, Su, Xu, "Distributed Statistical Machine
        Learning in Adversarial Settings", 2017, lemma 1.

    Example:
        >>> from qres_lab.testing import make_round_info
        >>> rows = np.array([[0, 0], [0, 4], [900, 2]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(3))
        >>> updates = Updates(rows, senders, np.ones(3, dtype=np.int64))
        >>> GeometricMedian(f=1).aggregate(updates, make_round_info(2)).tolist()
        [1, 2]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates, more with weights"))
    iterations: int = attrs.field(
        default=ITERATIONS,
        validator=options.whole(1),
        metadata={"help": "Steps of Weiszfeld's algorithm; must be the same on every node."},
    )
    smoothing: float = attrs.field(
        default=SMOOTHING,
        validator=options.real(above=0, unit="model units"),
        metadata={"help": "The least distance that counts, in model units; above 0."},
    )
    weighted: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata={"help": "Count updates by their capped weights instead of once each."},
    )
    weight_limit: float = attrs.field(
        default=2.0,
        validator=options.real(1),
        metadata={
            "help": "With weighted: no update counts more than this many times the lower median "
            "weight. 1 or more."
        },
    )

    @property
    def claims(self) -> Claims:
        """Single updates, enough of them that ``f`` liars have less than half of all weight."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=self._fewest)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    def kappa_bound(self, n: int) -> float:
        """The ``kappa`` of (f, kappa)-robustness with ``n`` updates that count once each."""
        if self.weighted and self.weight_limit > 1:
            return math.inf
        return 4 * (1 + self.f / (n - 2 * self.f)) ** 2

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the geometric median."""
        check_visible("geometric_median", updates)
        counted: NDArray[np.int64] | None = None
        if self.weighted:
            counted = capped(updates.weights, as_limit(self.weight_limit))
            refuse_heavy(counted, self.f)
        merged: NDArray[Any] = geometric_median(
            updates.vectors,
            iterations=self.iterations,
            smoothing=math.ldexp(self.smoothing, 16 - round_info.scale),
            weights=counted,
            products=updates.products,
        )
        return merged

    @property
    def _fewest(self) -> int:
        if self.weighted:
            return fewest_weighted(self.f, as_limit(self.weight_limit))
        return 2 * self.f + 1


def _start(
    rows: Rows,
    counts: NDArray[np.int64],
    iterations: int,
    start: Start,
    products: NDArray[Any] | None,
) -> tuple[Geometry, NDArray[np.float64]]:
    """Measure to use, and the weights of the point to begin at."""
    point = np.zeros(len(rows) + 1)
    if start == "zero":
        point[-1] = 1.0
        return geometry(rows, None, iterations, products), point
    options.one_of("medoid", "zero").check("start", start)
    pairs = Pairwise(rows, products=products)
    nearest = _majority(pairs.squares, counts)
    shares = counts[nearest].astype(np.float64)
    point[nearest] = shares / float(counts[nearest].sum())
    return sound(pairs), point


def _majority(squares: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """The rows nearest the medoid that hold more than half of all weight."""
    away = np.sqrt(squares) * counts
    medoid = int(np.argmin([math.fsum(row) for row in away.tolist()]))
    order = np.argsort(squares[medoid], kind="stable")
    held = np.cumsum(counts[order])
    return order[: int(np.argmax(2 * held > held[-1])) + 1]
