"""Mode local: what leaves a node has all the noise it needs."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import RoundInfo, Update, Vector, fixed
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mechanism
from qres_dp.randomness import fresh_key
from qres_dp.releases.base import Release


@attrs.define(eq=False)
class LocalRelease(Release):
    """Noise that each node adds by itself, under a fresh key that nobody keeps."""

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        mechanism, terms, book = self.fitted(round_info), self.terms, self.book
        book.after(terms.charge(mechanism, round_info, self.by), terms.budget)  # before the work
        # With unit record the trainer clipped each one; all of them are no longer than this.
        clipped = clip(update.vector, mechanism.length).vector
        noisy = noised(clipped, mechanism)
        book.charge(terms.charge(mechanism, round_info, self.by, noisy), terms.budget)
        return attrs.evolve(update, vector=noisy, weight=1)


def noised(row: NDArray[np.signedinteger[Any]], mechanism: Mechanism) -> Vector:
    """Vector that is to leave, with noise that is drawn at once, under a fresh key.

    ``row``: int32 or int64, shape ``(d,)``. Returns int32, shape ``(d,)``.
    """
    distribution = discrete_gaussian(mechanism.share)
    noise = distribution.sample(row.size, fresh_key())
    if distribution.reach + mechanism.longest <= fixed.LIMIT:
        noise += row.astype(np.int32, copy=False)
        return noise
    # The grid was checked to leave room for `grid.HEADROOM` deviations; beyond them, saturate.
    held: Vector = np.clip(noise.astype(np.int64) + row, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
    return held
