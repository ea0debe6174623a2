"""Mode central: all nodes clip every update again, and add the same noise to the sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    Needs,
    RoundInfo,
    Update,
    Updates,
    Vector,
    Visibility,
)
from qres_dp import central
from qres_dp.clip import Clipped, clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.ledger.record import Charge
from qres_dp.modes import Mechanism
from qres_dp.randomness import fresh_key
from qres_dp.releases.base import Release
from qres_dp.releases.local import counted

_NOTICE: Final = (
    "mode central protects against those who see only models; members of the swarm see single "
    "updates and can compute the noise"
)


@attrs.frozen(eq=False)
class MergeBasis:
    """What a round's updates are merged by."""

    mechanism: Mechanism  # clipping and noise
    bound: int = 0  # the clipping bound where it moves, in units of ``1 / FINE`` steps; else 0


@attrs.frozen(eq=False)
class RevealedRows:
    """What is left for the merge."""

    updates: Updates  # clipped again
    key: bytes  # of the noise
    mechanism: Mechanism  # that was charged for


@attrs.define(eq=False)
class CentralRelease(Release):
    """A seed beside every update, and noise from all seeds together.

    Single updates must be visible, to be clipped again; the rule must average with equal weights,
    since the noise is for a sum.
    """

    _revealed: RevealedRows | None = attrs.field(init=False, default=None)

    needs: ClassVar[Needs] = Needs(
        visibility=Visibility.INDIVIDUAL, equal_weights=True, averaging=True
    )
    in_sum: ClassVar[bool] = True
    notices: ClassVar[tuple[str, ...]] = (_NOTICE,)

    # ── what differs where the clip moves or noise is correlated ──────────────────────────────

    def own(self, round_info: RoundInfo) -> MergeBasis:
        """What this node contributes by."""
        return MergeBasis(self.fitted(round_info))

    def agreed(self, contributions: Sequence[Contribution], round_info: RoundInfo) -> MergeBasis:
        """What the contributions say they were made by."""
        del contributions
        return self.own(round_info)

    def chosen(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The update, or zeros in a round that it is not to count in."""
        del round_info
        return counted(vector, self.terms.sampling_rate)

    def said(self, own: MergeBasis, clipped: Clipped, round_info: RoundInfo) -> bytes:
        """What the node says beside its update, after its seed."""
        del own, clipped, round_info
        return b""

    def hear(self, contributions: Sequence[Contribution], round_info: RoundInfo) -> None:
        """Take what the contributions say of earlier rounds."""

    def learn(
        self,
        agreed: MergeBasis,
        contributions: Sequence[Contribution],
        key: bytes,
        round_info: RoundInfo,
    ) -> None:
        """Note what holds once the round closes."""

    def charge(self, mechanism: Mechanism, round_info: RoundInfo) -> Charge:
        """Of the one release that the round can end with, the same before and after the vote."""
        return self.terms.charge(mechanism, round_info, central.release_name(round_info))

    def noise(self, revealed: RevealedRows) -> NDArray[np.int32]:
        """The noise of the sum, int32, shape ``(d,)``."""
        distribution = discrete_gaussian(revealed.mechanism.share)
        return distribution.sample(revealed.updates.dimension, revealed.key)

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        """See :meth:`Release.out`. The noise comes later; the ledger is charged for it now.

        The others may make the sum without this node.
        """
        own = self.own(round_info)
        vector = self.chosen(update.vector, round_info)
        clipped = clip(vector, own.mechanism.bound)
        body = fresh_key() + self.said(own, clipped, round_info)
        self.book.charge(self.charge(own.mechanism, round_info), self.terms.budget)
        companions = {**update.companions, central.NAME: Companion(body)}
        return attrs.evolve(update, vector=clipped.vector, weight=1, companions=companions)

    def revealed(
        self,
        updates: Updates,
        contributions: Sequence[Contribution],
        round_info: RoundInfo,
    ) -> Updates:
        """Every row clipped again, and the ledger charged for their sum.

        A node whose update is not in the sum merges it all the same, and keeps count. Raises as
        :meth:`Release.revealed`.
        """
        senders = tuple(contribution.sender for contribution in contributions)
        if updates.visibility is not Visibility.INDIVIDUAL or updates.senders != senders:
            what = "expected the single updates of the agreed members"
            raise CompatibilityError.of("QRES-E303", "plugins.dp", what)
        self.hear(contributions, round_info)
        agreed = self.agreed(contributions, round_info)
        clipped = central.clip_rows(updates, agreed.mechanism.bound)
        self.book.charge(self.charge(agreed.mechanism, round_info), self.terms.budget)
        key = central.noise_key(contributions, round_info)
        self._revealed = RevealedRows(clipped, key, agreed.mechanism)
        self.learn(agreed, contributions, key, round_info)
        return clipped

    def merge(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        """The mean of the noised sum, int32, shape ``(d,)``.

        Raises:
            CompatibilityError: QRES-E314 if a plugin before this one changed the updates, or one
                after it returned anything but their mean.

        Complexity: O(n d).
        """
        revealed = self._revealed
        if revealed is None or not _same(revealed.updates, updates):
            what = "the updates to merge are not those that were clipped and charged for"
            fix = "put [plugins.dp] before every plugin that filters or mixes updates"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, fix)
        noised = central.add_noise(revealed.updates, self.noise(revealed))
        merged = proceed(noised.updates)
        if not np.array_equal(merged, noised.mean):
            what = "a plugin after this one dropped or changed updates: the noise is for their mean"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, "remove that plugin")
        return merged

    def closed(self) -> None:
        self._revealed = None

    def forget(self) -> None:
        self._revealed = None

    def close(self) -> None:
        super().close()
        self._revealed = None


def _same(left: Updates, right: Updates) -> bool:
    if left is right:
        return True
    return (
        left.senders == right.senders
        and np.array_equal(left.weights, right.weights)
        and np.array_equal(left.vectors, right.vectors)
    )
