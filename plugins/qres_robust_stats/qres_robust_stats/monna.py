"""MoNNA: the mean of the vectors nearest one that is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, mean_of

from qres_core import (
    Claims,
    Needs,
    Reads,
    Surroundings,
    Updates,
    Vector,
    Visibility,
    hookimpl,
    options,
)
from qres_core.errors import CompatibilityError, Problem, ValueRefusedError
from qres_robust_stats.coefficients import squared_distances_to
from qres_robust_stats.preconditions import check_enough, check_visible
from qres_robust_stats.whole import whole_distances


def monna(vectors: Rows, f: int, pivot: int, *, products: NDArray[Any] | None = None) -> Rows:
    """Average the ``n - f`` vectors nearest one of them.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, ``n >= 2 f + 1``; not changed.
        f: vectors that may be anything; the pivot is none of them.
        pivot: the row that is trusted. It is among the averaged, and of equally near rows the first
            are.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. The mean of int32 rows is rounded half to
        even.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 1``; QRES-E501 to QRES-E503 for values, shape or
            dtype.
        OptionError: QRES-E105, ``f`` is not an integer of at least 0, or ``pivot`` not the index
            of a row.

    Complexity: two reads of the rows.

    Source:
        Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with
        Linear Gradient Overhead", ICML 2023: nearest neighbour averaging.

    Example:
        >>> monna(np.array([[0], [90], [2], [4]], dtype=np.int32), 1, 2).tolist()
        [2]
    """
    options.whole(0).check("f", f)
    rows = check_rows(vectors)
    n = len(rows)
    check_enough("monna", n, f, 2 * f + 1, "2 f + 1")
    options.whole(0, n - 1).check("pivot", pivot)
    squares: NDArray[Any]
    if products is None:
        squares = squared_distances_to(rows, rows[pivot])
    else:
        squares = whole_distances(rows, products)[pivot]
    # The pivot is at distance 0 from itself, but rows equal to it may come before it.
    squares[pivot] = -1
    nearest = np.argsort(squares, kind="stable")[: n - f]
    return mean_of(rows, sorted(nearest.tolist()))


@attrs.frozen
class Monna:
    """MoNNA: the mean of the ``n - f`` updates nearest that of one trusted node.

    Robustness: if the pivot is honest, ``|result - mean(S)|`` is at most ``2 f / (n - f)`` times
    the greatest distance of the pivot's update from one of ``S``, for every set ``S`` of ``n - f``
    updates with the pivot, thus also for the honest ones. If it lies, it moves the result anywhere
    a set of ``n - f`` updates around its own reaches, and with ``f`` helpers beyond. A round
    without its contribution is refused, so the swarm also stands still with that node. Weights have
    no part in it.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates.
        pivot: the trusted node's identity in hexadecimal.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity: two reads of the input.

    Source:
        Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with
        Linear Gradient Overhead", ICML 2023. There every node is its own pivot; models that must
        agree to the bit need one for all.

    Example:
        >>> rows = np.array([[0], [2], [4], [90]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(4))
        >>> updates = Updates(rows, senders, np.ones(4, dtype=np.int64))
        >>> Monna(f=1, pivot="01" * 32).aggregate(updates).tolist()
        [2]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates", also=", except the pivot"))
    pivot: str = attrs.field(
        validator=options.text("[0-9a-fA-F]{64}", "a node's identity, 64 hexadecimal digits"),
        metadata={"help": "Identity of the trusted node, 64 hexadecimal digits."},
    )

    @property
    def claims(self) -> Claims:
        """Single updates, of which a majority is honest; and the pivot must be believed."""
        notice = (
            f"monna's guarantee rests on node {self.pivot[:16].lower()} alone: if it lies, "
            "it decides the result, and rounds without its contribution are refused"
        )
        return Claims(
            tolerates=self.f,
            needs=Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1),
            notices=(notice,),
            reads=Reads.PRODUCTS,
        )

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that the pivot is a node of the swarm, where these are known.

        Yields QRES-E304: without the pivot's update every round is refused.
        """
        if around.roster and self.pivot.lower() not in around.roster:
            what = f"the pivot {self.pivot[:16].lower()} is not one of the {around.nodes} nodes"
            what += " of swarm.roster, and every round needs its update"
            yield Problem("QRES-E304", "plugins.monna.pivot", what, "name a node of swarm.roster")

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the mean of the updates nearest the pivot's.

        Raises QRES-E507 if the pivot contributed nothing.
        """
        if updates.visibility is not Visibility.INDIVIDUAL:
            what = f"monna needs the pivot's own update, got {updates.visibility.name.lower()}"
            raise CompatibilityError.of("QRES-E303", "updates.visibility", what)
        check_visible("monna", updates)
        trusted = bytes.fromhex(self.pivot)
        if trusted not in updates.senders:
            raise ValueRefusedError.of(
                "QRES-E507",
                "plugins.monna.pivot",
                f"node {self.pivot[:16].lower()} has no update among the {len(updates)}",
                "wait until it takes part, or name another pivot on every node",
            )
        pivot = updates.senders.index(trusted)
        merged: NDArray[Any] = monna(updates.vectors, self.f, pivot, products=updates.products)
        return merged
