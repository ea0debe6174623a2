"""Votes on the clip as they travel: a residue that is summed, and the bound it was cast for.

A node's vote has the node's share of discrete Gaussian noise and leaves as one residue beside its
update, so that secure aggregation opens sums of votes only. Beside it, in the open, the node names
the bound that it clipped and voted with.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final

import attrs

from qres_core import Companion, CompatibilityError, Contribution, Updates, ValueRefusedError
from qres_dp.adaptive import FINE, MAX_RADIUS, UNIT, PrivacySplit
from qres_dp.discrete_gaussian import LARGEST_DEVIATION, discrete_gaussian
from qres_dp.grid import HEADROOM, LEAST_SHARE
from qres_dp.modes import LEMMA
from qres_dp.randomness import fresh_key

NAME: Final = "dp"
BOUND: Final = "dp-bound"
"""Names of the two companions."""
MODULUS: Final = 2**48
_BOUND_BYTES: Final = 8
_CONTENT: Final = b"qres/dp/voted/v1\0"


@attrs.frozen
class VoteNoise:
    """The noise of a sum of votes."""

    multiplier: float  # deviation over :data:`UNIT`, which is how far a node moves the sum
    honest: int  # how many nodes' shares it is counted on

    @classmethod
    def of(cls, parts: PrivacySplit, honest: int) -> VoteNoise:
        """The noise that a round's split leaves for the votes."""
        return cls(parts.votes, honest)

    @property
    def share(self) -> Fraction:
        """Variance of a node's share, exact: see :data:`qres_dp.modes.LEMMA`."""
        deviation = Fraction(self.multiplier) * UNIT
        return Fraction(math.ceil((deviation * deviation + LEMMA) / self.honest))

    def check(self, nodes: int) -> None:
        """Refuse what cannot be drawn or summed. ``nodes``: most votes in a sum.

        Raises CompatibilityError: QRES-E313 with the numbers.
        """
        share = self.share
        where = "plugins.dp.adaptive_quantile"
        if not LEAST_SHARE**2 <= share <= LARGEST_DEVIATION**2:
            what = (
                f"a node's share of the votes' noise has a deviation of {math.sqrt(share):.3g}, "
                f"and {LEAST_SHARE} to {LARGEST_DEVIATION} can be drawn"
            )
            fix = "adaptive_quantile = 0, or another noise_multiplier or number of honest nodes"
            raise CompatibilityError.of("QRES-E313", where, what, fix)
        needed = nodes * UNIT + HEADROOM * (math.isqrt(math.ceil(nodes * share)) + 1)
        if needed >= MODULUS // 2:
            what = (
                f"{nodes} votes and {HEADROOM} deviations of their noise are {needed}, and sums "
                f"below {MODULUS // 2} fit"
            )
            fix = "adaptive_quantile = 0, or a smaller noise_multiplier"
            raise CompatibilityError.of("QRES-E313", where, what, fix)

    def ballot(self, vote: int, bound: int) -> dict[str, Companion]:
        """A vote with fresh noise, as it leaves, and the bound that it was cast for."""
        noisy = vote + int(discrete_gaussian(self.share).sample(1, fresh_key())[0])
        named = Companion(bound.to_bytes(_BOUND_BYTES, "little"))
        return {NAME: Companion.of((noisy % MODULUS,), MODULUS), BOUND: named}


def digest_of(vector_digest: bytes, ballot: dict[str, Companion]) -> bytes:
    """Names what leaves, 32 bytes: the update with its noise, and the vote with its own."""
    hashed = hashlib.sha256(_CONTENT + vector_digest)
    hashed.update(ballot[BOUND].body + ballot[NAME].body)
    return hashed.digest()


def named_bounds(contributions: Iterable[Contribution]) -> Iterator[int]:
    """The bounds that contributions name; a liar may name none, or nonsense."""
    for contribution in contributions:
        companion = contribution.companions.get(BOUND)
        if companion is None or companion.modulus or len(companion.body) != _BOUND_BYTES:
            continue
        bound = int.from_bytes(companion.body, "little")
        if FINE <= bound <= MAX_RADIUS * FINE:
            yield bound


def sums_of(updates: Updates) -> list[tuple[int, int]]:
    """Of each sum that was opened: votes with noise, and how many votes are in it.

    A liar's residue may be anything, and so may the sum it is in: no sum is refused for its value.
    Raises ValueRefusedError: QRES-E505 where there are no sums of votes.
    """
    companions = updates.companions.get(NAME, ())
    if len(companions) != len(updates) or len(updates.members) != len(updates):
        raise ValueRefusedError.of("QRES-E505", "companions.dp", "no sums of votes came with them")
    sums: list[tuple[int, int]] = []
    for companion, members in zip(companions, updates.members, strict=True):
        if companion.modulus != MODULUS or len(companion.body) != companion.width:
            what = "what came beside a sum is no sum of votes"
            raise ValueRefusedError.of("QRES-E505", "companions.dp", what)
        (residue,) = companion.residues()
        signed = residue if residue < MODULUS // 2 else residue - MODULUS
        sums.append((signed, len(members)))
    return sums
