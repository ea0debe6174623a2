"""Mode local: what leaves a node has all the noise it needs."""

from __future__ import annotations

import attrs
import numpy as np

from qres_core import RoundInfo, Update, Vector, fixed
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mechanism
from qres_dp.randomness import coin, fresh_key
from qres_dp.releases.base import Release


def counted(vector: Vector, rate: float) -> Vector:
    """The vector with the probability of the sampling rate, else zeros; which one is a secret."""
    return vector if rate == 1.0 or coin(rate) else np.zeros_like(vector)


@attrs.define(eq=False)
class LocalRelease(Release):
    """Noise that each node adds by itself, under a fresh key that nobody keeps."""

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        mechanism, terms, book = self.fitted(round_info), self.terms, self.book
        book.after(terms.charge(mechanism, round_info, self.by), terms.budget)  # before the work
        # With unit record the trainer clipped each one; all of them are no longer than this.
        clipped = clip(counted(update.vector, terms.sampling_rate), mechanism.length).vector
        noised = _noised(clipped, mechanism)
        book.charge(terms.charge(mechanism, round_info, self.by, noised), terms.budget)
        return attrs.evolve(update, vector=noised, weight=1)


def _noised(clipped: Vector, mechanism: Mechanism) -> Vector:
    distribution = discrete_gaussian(mechanism.share)
    noise = distribution.sample(clipped.size, fresh_key())
    if distribution.reach + mechanism.length <= fixed.LIMIT:
        noise += clipped
        return noise
    # The grid was checked to leave room for `grid.HEADROOM` deviations; beyond them, saturate.
    held: Vector = np.clip(noise.astype(np.int64) + clipped, -fixed.LIMIT, fixed.LIMIT).astype(
        np.int32
    )
    return held
