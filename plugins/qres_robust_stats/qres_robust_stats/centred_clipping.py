"""Centred clipping: the mean of the updates, each pulled to within a radius of the last one."""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows

from qres_core import (
    Claims,
    Needs,
    NodeInfo,
    Outcome,
    Reads,
    RoundInfo,
    RoundStatus,
    Updates,
    Vector,
    Visibility,
    hookimpl,
    options,
)
from qres_core.errors import ValueRefusedError
from qres_robust_stats.clip_history import ClipHistory, MemoryHistory, open_history
from qres_robust_stats.coefficients import check_start, geometry
from qres_robust_stats.little import clipped_little, is_little
from qres_robust_stats.preconditions import check_visible

PROVEN: Final = 10
"""The theorem wants more than this many updates for each liar."""


def centred_clipping(
    vectors: Rows,
    *,
    radius: float,
    iterations: int = 1,
    start: Rows | None = None,
    products: NDArray[Any] | None = None,
) -> Rows:
    """Return the start vector moved by the mean of the clipped differences from it.

    Each iteration is ``v + mean(min(1, radius / |x[i] - v|) * (x[i] - v))``. Nobody moves the
    result by more than ``iterations * radius / n``, whatever it sends, nor do all together by more
    than ``iterations * radius``. For int32 rounding comes on top: weights are rounded to
    ``2**-30``, which for rows at the end of the grid is some steps in each coordinate.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, at least one row; not changed.
        radius: above 0, in the unit of the vectors.
        iterations: 1 or more.
        start: shape ``(d,)``, dtype of ``vectors``; the zero vector if left out.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone;
            without ``start``.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. For int32 all steps are specified float64
        operations on exactly computed distances and the last is an exact sum: the same bits
        everywhere.

    Raises:
        ValueRefusedError: QRES-E501 to QRES-E503, QRES-E505 for the vectors and ``start``.
        OptionError: QRES-E105, ``radius`` or ``iterations`` is not as stated.

    Complexity:
        one iteration is one read for the distances and one for the sum. More of them take the
        pairwise distances on int32, and on floats those or a read each, whichever is less.

    Source:
        Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
        2021, section 4: ``tau`` is the radius, ``L`` the iterations.

    Example:
        >>> centred_clipping(np.array([[2], [4], [900]], dtype=np.int32), radius=6).tolist()
        [4]
    """
    rows = check_rows(vectors)
    options.whole(1).check("iterations", iterations)
    options.real(above=0).check("radius", radius)
    check_start(rows, start)
    if products is None and is_little(rows):
        little = clipped_little(rows, start, radius, iterations)
        if little is not None:
            return little
    n = len(rows)
    place = geometry(rows, start, iterations, products)
    point = np.zeros(n + 1)
    point[-1] = 1.0
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            # At most 1, and exactly 1 within the radius.
            factors = radius / np.maximum(np.sqrt(place.distances(point)), radius)
            # What they leave over, exactly 0 if nothing is clipped.
            point *= math.fsum((1.0 - factors).tolist()) / n
            point[:-1] += factors / n
        return place.mixture(point)


@attrs.define(eq=False)
class CentredClipping:
    """Centred clipping: the mean of the updates, each pulled to within ``radius`` of the last one.

    With ``history``, a round starts from what this rule returned in the round that made the current
    model, as the method wants it; without, from zero. The history is tied to the model: every node
    that holds a model starts from the same vector, and the first round of a swarm from zero. It is
    what this rule returned (in the last call, where a wrapper calls it more than once), before
    anything that wraps it changed the result. It is stored in the node's folder before it is
    returned. A node that has the model but not the vector, because it caught up from a snapshot or
    lost its folder, refuses its rounds by name and follows the others: another start than that of
    its peers would be another model.

    Robustness: one round moves the model by no more than ``iterations * radius``, one sender by no
    more than an ``n``-th of that, but for what rounding of the weights to ``2**-30`` adds. There is
    no finite ``kappa``: how near the honest mean it gets rests on the radius and on the start.
    Proven ``(delta, c)``-robust for a share of liars of at most a tenth, given a start near the
    honest mean and a radius tuned to their variance. Weights have no part in it.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates.
        radius: above 0, in model units.
        iterations: 1 or more; the same on every node.
        history: start from the last round's result rather than from zero.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity:
        see :func:`centred_clipping`; with history a vector is written and synced in a round.

    Source:
        Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
        2021, section 4 and theorem III.

    Example:
        >>> from qres_lab.testing import make_round_info
        >>> rows = np.array([[2], [4], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(3))
        >>> updates = Updates(rows, senders, np.ones(3, dtype=np.int64))
        >>> rule = CentredClipping(f=1, radius=6 / 2**16)
        >>> rule.aggregate(updates, make_round_info(1)).tolist()
        [4]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates"))
    radius: float = attrs.field(
        validator=options.real(above=0, unit="model units"),
        metadata={
            "help": "Distance from the start beyond which updates are clipped, in model units. "
            "It should be somewhat more than honest updates differ."
        },
    )
    iterations: int = attrs.field(
        default=1,
        validator=options.whole(1),
        metadata={"help": "Iterations of clipping and averaging; must be the same on every node."},
    )
    history: bool = attrs.field(
        default=True,
        validator=options.flag(),
        metadata={"help": "Start each round from the last one's result rather than from zero."},
    )
    _kept: ClipHistory = attrs.field(init=False, factory=MemoryHistory, repr=False)

    @property
    def claims(self) -> Claims:
        """Single updates, of which a majority is honest."""
        notice = (
            f"centred_clipping bounds what {self.f} liars can do in a round, by the radius; that "
            "the result is near the honest mean is proven only for a well-chosen radius and more "
            f"than {PROVEN} f = {PROVEN * self.f} updates"
        )
        return Claims(
            tolerates=self.f,
            needs=Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1),
            notices=(notice,) if self.f else (),
            reads=Reads.WHOLE if self.history else Reads.PRODUCTS,
        )

    def kappa_bound(self, n: int) -> float:  # noqa: ARG002 - there is none for any n
        """No ``kappa`` of (f, kappa)-robustness."""
        return math.inf

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the history, or begin with an empty one where nothing may be kept.

        Raises QRES-E602 if the file is damaged, of another node, or open elsewhere.
        """
        if self.history:
            self._kept = open_history(node_info)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the start vector moved by the mean of the clipped differences.

        Raises QRES-E507 if the history of the round's model is not known, and QRES-E602 if the disk
        does not take the history.
        """
        check_visible("centred_clipping", updates)
        start = self._start(round_info) if self.history else None
        merged: NDArray[Any] = centred_clipping(
            updates.vectors,
            radius=math.ldexp(self.radius, 16 - round_info.scale),
            iterations=self.iterations,
            start=start,
            products=updates.products,
        )
        if self.history:
            self._kept.returned(round_info.model_digest, merged)
        return merged

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Note which model came of what the rule returned. Raises QRES-E602."""
        # A model that others made is not made of what this node returned, if it returned anything.
        if self.history and outcome.status is RoundStatus.CLOSED and outcome.merged:
            self._kept.became(outcome.round_info.model_digest, outcome.model_digest)

    @hookimpl
    def teardown(self) -> None:
        self._kept.close()

    def remember(self) -> bytes:
        """Return the start of the next round, for a simulation's checkpoint."""
        return self._kept.raw() if isinstance(self._kept, MemoryHistory) else b""

    def recall_agreed(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Refuses other bytes."""
        self._kept = MemoryHistory.of_raw(memory)

    def _start(self, round_info: RoundInfo) -> Vector | None:
        if round_info.step == 0:
            return None
        start = self._kept.made(round_info.model_digest)
        if start is None:
            raise ValueRefusedError.of(
                "QRES-E507",
                "plugins.centred_clipping.history",
                f"the update that made model {round_info.model_digest.hex()[:16]} is not known "
                f"here (step {round_info.step}): this node caught up from a snapshot or lost its "
                "folder, and another start than its peers' gives another model",
                "restore the node's folder, or set history = false on every node",
            )
        if start.size != round_info.dimension:
            what = f"the history has {start.size} coordinates, the round {round_info.dimension}"
            raise ValueRefusedError.of("QRES-E502", "plugins.centred_clipping.history", what)
        return start
