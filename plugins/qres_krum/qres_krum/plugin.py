"""The ``krum`` plugin: its options, its needs and its one hook."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from qres_core import (
    CompatibilityError,
    Needs,
    Updates,
    ValueRefusedError,
    Vector,
    Visibility,
    hookimpl,
)
from qres_krum.average import mean_of_rows
from qres_krum.scores import best, krum_scores


def _at_least(minimum: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        # bool is an int to Python: `f = true` must not mean one liar.
        if type(value) is not int or value < minimum:
            msg = f"{attribute.name} must be an integer of at least {minimum}, got {value!r}"
            raise ValueError(msg)

    return check


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
        ValueError: an option is not an integer or is too small; the message names it.

    Complexity:
        ``n**2 d / 2`` multiply-adds, three times as many for coordinates above about ``2**20``
        (16.0 on the unscaled grid). No float copy of the whole input is made.

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

    f: int = attrs.field(
        validator=_at_least(0),
        metadata={
            "help": "How many updates of a round may be anything (Byzantine senders). "
            "Needs at least 2 f + 3 updates."
        },
    )
    select: int = attrs.field(
        default=1,
        validator=_at_least(1),
        metadata={
            "help": "How many of the best-scored updates to average: 1 is Krum, more is "
            "Multi-Krum. Needs at least f + select updates."
        },
    )

    @property
    def needs(self) -> Needs:
        """Single updates, enough of them for the theorem, and no more than ``f`` liars.

        Unequal weights are no obstacle: they are not looked at.
        """
        return Needs(
            visibility=Visibility.INDIVIDUAL,
            min_updates=max(self._fewest_for_score, self._fewest_for_select),
            tolerates=self.f,
            equal_weights=False,
        )

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the best-scored update, or the mean of the ``select`` best.

        Args:
            updates: int32 of shape ``(n, d)``, any values; senders ascending. Not changed.

        Returns:
            int32 of shape ``(d,)``, new memory; the same bits on every machine.

        Raises:
            ValueRefusedError: QRES-E505 if ``n < 2 f + 3`` or ``n < f + select``, QRES-E502 if
                ``d`` is ``2**32`` or more. There is no weaker rule to fall back to.
            CompatibilityError: QRES-E303 if the rows are not single updates.
        """
        self._check(updates)
        chosen = best(krum_scores(updates.vectors, self.f), self.select)
        return mean_of_rows(updates.vectors, chosen)

    @property
    def _fewest_for_score(self) -> int:
        return 2 * self.f + 3

    @property
    def _fewest_for_select(self) -> int:
        return self.f + self.select

    def _check(self, updates: Updates) -> None:
        n = len(updates)
        if updates.visibility is not Visibility.INDIVIDUAL:
            raise CompatibilityError.of(
                "QRES-E303",
                "updates.visibility",
                f"krum compares single updates, got {updates.visibility.name.lower()}",
                "remove the plugin that hides them, or choose another rule",
            )
        if n < self._fewest_for_score:
            raise ValueRefusedError.of(
                "QRES-E505",
                "updates",
                f"n = {n} updates, krum with f = {self.f} needs "
                f"n >= 2 f + 3 = {self._fewest_for_score}",
                f"raise swarm.quorum to {self.needs.min_updates} or lower plugins.krum.f",
            )
        if n < self._fewest_for_select:
            raise ValueRefusedError.of(
                "QRES-E505",
                "plugins.krum.select",
                f"select = {self.select} is more than n - f = {n} - {self.f} = {n - self.f}",
                f"raise swarm.quorum to {self.needs.min_updates} or lower plugins.krum.select",
            )
