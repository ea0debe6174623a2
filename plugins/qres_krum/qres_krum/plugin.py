"""The ``krum`` and ``bulyan`` plugins: their options, their needs and their one hook."""

from __future__ import annotations

import attrs
from qres_arithmetic import distances_of_products, mean_of

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_core.errors import CompatibilityError
from qres_krum.bulyan import bulyan, near_the_median
from qres_krum.krum import multi_krum
from qres_krum.selection import best_by_products


@attrs.frozen
class Krum:
    """Krum: pass on the update that is nearest to its neighbours; Multi-Krum: average the best.

    Each update is scored by the sum of its ``n - f - 2`` least squared distances to other updates.
    Krum returns the one with the least score, bit for bit as it was sent. With ``select = m > 1``
    the rule is Multi-Krum: the mean of the ``m`` least scores, rounded half to even on the grid.
    Scores are exact integers, and equal scores are ordered by sender, so all nodes choose the same.

    Weights have no part in it. The theory has none in the score, and in the average they would let
    one sender own the result by reporting many examples. A reputation plugin's ban still counts,
    because what a banned node sends never gets here.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 3`` updates.
        select: how many updates to average, 1 or more; 1 is Krum. The round needs ``f + select``
            updates, so that no liar has to be among them.

    Raises:
        OptionError: QRES-E105, an option is not an integer or is too small; the message names it.

    Complexity:
        one pass of pairwise distances, ``n**2 d / 2`` multiply-adds in float32 where an interval
        settles the choice and in exact integers where it does not. No copy of the whole input is
        made.

    Source:
        Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine
        Tolerant Gradient Descent", NeurIPS 2017: Krum in section 4, Multi-Krum among the
        experiments.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[0], [1], [3], [4], [90]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(5))
        >>> Krum(f=1).aggregate(Updates(rows, senders, np.ones(5, dtype=np.int64))).tolist()
        [1]
    """

    f: int = attrs.field(**options.liars("2 f + 3 updates"))
    select: int = attrs.field(
        default=1,
        validator=options.whole(1),
        metadata={
            "help": "Number of best-scored updates to average: 1 is Krum, more is Multi-Krum. "
            "Needs at least f + select updates."
        },
    )

    @property
    def claims(self) -> Claims:
        """Single updates, enough of them for the theorem, and no more than ``f`` liars.

        Unequal weights are no obstacle: they are not looked at.
        """
        needs = Needs(
            visibility=Visibility.GROUP,
            min_updates=self._fewest,
        )
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the best-scored update, or the mean of the ``select`` best.

        Raises QRES-E502 if ``d`` is ``2**32`` or more.
        """
        _refuse_hidden(updates, "krum")
        if updates.products is not None:
            chosen = best_by_products(updates.products, self.f, self.select)
            return mean_of(updates.vectors, chosen)
        return multi_krum(updates.vectors, self.f, self.select)

    @property
    def _fewest(self) -> int:
        """Updates for the score, and for the ``select`` best of them without the ``f`` worst."""
        return max(2 * self.f + 3, self.f + self.select)


@attrs.frozen
class Bulyan:
    """Bulyan: select by Krum again and again, then average near the median of every coordinate.

    Krum picks one update and takes it out, ``n - 2 f`` times. Of the updates picked, each
    coordinate of the result is the mean of the ``n - 4 f`` values nearest to their median, rounded
    half to even on the grid. Krum alone bounds a lie by its distance in all coordinates together,
    so a liar may put all of it into one; here that coordinate is cut off by the others' values.

    Scores and medians are exact: all nodes compute the same bits. Equal scores are ordered by the
    sum of distances to all updates left, then by sender. Weights have no part in it, for the
    reasons given at :class:`Krum`.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``4 f + 3`` updates.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.

    Complexity:
        one exact pass of pairwise distances, ``n**2 d / 2`` multiply-adds; ``O(n**2 log n)`` to
        select; a sort of every column of the selected updates. No copy of the whole input is made.

    Guarantee:
        the leeway of ``f`` liars in any one coordinate shrinks as ``O(1 / sqrt(d))`` against the
        spread of the honest updates. No ``kappa`` of (f, kappa)-robustness is proven for it.

    Source:
        El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
        Byzantium", ICML 2018, section 4.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[2], [3], [4], [8], [15], [18], [90]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(7))
        >>> Bulyan(f=1).aggregate(Updates(rows, senders, np.ones(7, dtype=np.int64))).tolist()
        [5]
    """

    f: int = attrs.field(**options.liars("4 f + 3 updates"))

    @property
    def claims(self) -> Claims:
        """Single updates, enough of them for the theorem, and no more than ``f`` liars.

        Unequal weights are no obstacle: they are not looked at.
        """
        needs = Needs(visibility=Visibility.GROUP, min_updates=4 * self.f + 3)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the mean near the median of the updates that iterated Krum selects.

        Raises QRES-E502 if ``d`` is ``2**32`` or more.
        """
        _refuse_hidden(updates, "bulyan")
        if updates.products is not None and self.f:
            return near_the_median(updates.vectors, distances_of_products(updates.products), self.f)
        return bulyan(updates.vectors, self.f)


def _refuse_hidden(updates: Updates, name: str) -> None:
    if updates.visibility is Visibility.SUM:
        raise CompatibilityError.of(
            "QRES-E303",
            "updates.visibility",
            f"{name} compares updates with each other, got only their sum",
            "let the plugin that hides them work in groups, or choose the rule mean",
        )
