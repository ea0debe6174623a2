"""Central noise in a swarm that has no centre.

Every node merges the same updates and has to get the same model, so the noise is drawn from a key
that all of them can compute: a hash of a secret seed from every member of the agreed set. Whoever
lacks one seed of an honest member cannot tell the noise from any other.

The noise is added to the sum by adding to every row its quotient by the number of rows, and one
more to the first rows for what remains. Whoever looks at rows inside the chain sees the distances
between them unchanged, and their mean is that of the noised sum to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Contribution, RoundInfo, Updates, ValueRefusedError, Vector, canonical
from qres_dp.clip import clip

SEED_BYTES: Final = 32
NAME: Final = "dp"
"""The name under which seeds travel."""
_KEY: Final = b"qres/dp/central/key/v1\0"
_RELEASE: Final = b"qres/dp/central/release/v1\0"


def noise_key(contributions: Sequence[Contribution], round_info: RoundInfo) -> bytes:
    """The key of a round's noise, from the seeds of the agreed members.

    What a member sent in place of a seed, if anything, is hashed as it is: one honest member's seed
    is enough. ``contributions``: of the agreed members, ascending. Returns 32 bytes, the same on
    every node.
    """
    seeds: list[object] = []
    for contribution in contributions:
        companion = contribution.companions.get(NAME)
        body = companion.body if companion is not None else b""
        seeds.append([contribution.sender, contribution.digest, hashlib.sha256(body).digest()])
    place = _place(round_info)
    return hashlib.sha256(_KEY + canonical.dumps([place, seeds])).digest()


def release_name(round_info: RoundInfo) -> bytes:
    """Names the one release that a round can end with, the same before and after the vote."""
    place = _place(round_info)
    return hashlib.sha256(_RELEASE + canonical.dumps(place)).digest()


def _place(round_info: RoundInfo) -> list[object]:
    """The swarm, the round, and the head that it belongs to; the model where there is no head."""
    return [round_info.swarm, round_info.number, round_info.head or round_info.model_digest]


def clip_rows(updates: Updates, bound: int) -> Updates:
    """The updates with every row inside the ball, a liar's too.

    Complexity: O(n d); no copy where all are inside.
    """
    clipped: NDArray[np.int32] | None = None
    for row in range(len(updates)):
        item = clip(updates.vectors[row], bound)
        if item.was_outside:
            if clipped is None:
                clipped = updates.vectors.copy()
            clipped[row] = item.vector
    return updates if clipped is None else attrs.evolve(updates, vectors=clipped)


@attrs.frozen(eq=False)
class Noised:
    """Rows whose mean is that of a noised sum."""

    updates: Updates  # the rows, each moved by the same noise but for one step
    mean: Vector  # the mean of the rows, rounded half to even, int32, shape ``(d,)``


def add_noise(updates: Updates, noise: NDArray[np.int32]) -> Noised:
    """Add noise to the sum of the rows.

    Args:
        updates: rows of equal weight, each inside the ball.
        noise: int32, shape ``(d,)``.

    Raises:
        ValueRefusedError: QRES-E506 for unequal weights: the noise is for a sum in which every
            node counts once.

    Complexity: O(n d).
    """
    weights = updates.weights
    if weights.min() != weights.max():
        what = "the weights differ, and the noise is for nodes that count equally"
        raise ValueRefusedError.of("QRES-E506", "updates.weights", what, "swarm.weight_cap = 1")
    rows = len(updates)
    quotient, rest = np.divmod(noise, np.int32(rows))
    moved = updates.vectors + quotient
    for row in range(min(rows, int(rest.max()))):
        moved[row] += rest > row
    total = updates.vectors.sum(axis=0, dtype=np.int64) + noise
    mean, left = np.divmod(total, np.int64(rows))
    mean += (2 * left > rows) | ((2 * left == rows) & (mean & 1 == 1))
    return Noised(attrs.evolve(updates, vectors=moved), mean.astype(np.int32))
