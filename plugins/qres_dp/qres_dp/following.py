"""The clipping bound of a swarm that follows a quantile: what a node knows of it, and keeps.

The rule is in :mod:`qres_dp.adaptive`. A node knows a round's bound if it merged the round before,
and sits out otherwise: it learns the bound from what the agreed contributions say, and contributes
in the round after. So that a whole swarm can start again, the bound is kept in a small file. It is
public, and a file that cannot be read is the same as none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import (
    Contribution,
    QresError,
    RoundInfo,
    ValueRefusedError,
    WireError,
    canonical,
    stores,
)
from qres_dp import grid
from qres_dp.adaptive import BALLOT_BYTES, MAX_RADIUS, UNIT, AdaptiveClip, ClippedIndicator
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import LEMMA, Mechanism, Relation

FILE: Final = "dp-bound"
_MAX_BYTES: Final = 256
_VOTES: Final = b"qres/dp/central/votes/v1\0"


def limits(mechanism: Mechanism, *, dimension: int, nodes: int) -> tuple[int, int]:
    """The least and the greatest bound the grid holds, in steps; the least may be above.

    Complexity: O(log(2**31)) checks.
    """

    def too_small(bound: int) -> bool:
        item = attrs.evolve(mechanism, bound=bound)
        small = bound < grid.least_bound(dimension)
        return small or item.share < grid.LEAST_SHARE**2

    def too_large(bound: int) -> bool:
        item = attrs.evolve(mechanism, bound=bound)
        found = grid.problems(item, dimension=1, nodes=nodes)
        return item.share >= grid.LEAST_SHARE**2 and any(found)

    lowest, above = 1, MAX_RADIUS
    while lowest < above:
        middle = (lowest + above) // 2
        lowest, above = (middle + 1, above) if too_small(middle) else (lowest, middle)
    below, highest = 0, MAX_RADIUS
    while below < highest:
        middle = (below + highest + 1) // 2
        below, highest = (below, middle - 1) if too_large(middle) else (middle, highest)
    return lowest, below


@attrs.define(eq=False)
class Following:
    """What one node knows of the bound."""

    quantile: float  # share of nodes whose update is to fit
    rate: float  # how fast the bound moves
    folder: Path | None  # where the bound is kept, or ``None``
    _known: tuple[int, int] | None = attrs.field(init=False, default=None)
    _next: tuple[int, int] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._known = self._read()

    def rule(self, mechanism: Mechanism, *, dimension: int, nodes: int) -> AdaptiveClip:
        """The rule within what the grid holds.

        Raises CompatibilityError: QRES-E313 where it holds no bound.
        """
        lowest, highest = limits(mechanism, dimension=dimension, nodes=nodes)
        return AdaptiveClip(self.quantile, self.rate, lowest, highest)

    def bound(self, rule: AdaptiveClip, start: int, round_info: RoundInfo) -> int:
        """The round's bound, before it is clipped and voted with.

        Raises ValueRefusedError: QRES-E507 for a node that did not merge the round before.
        """
        if round_info.step == 0:
            return rule.start(start)
        if self._known is None or self._known[0] != round_info.step:
            what = "the node missed rounds and does not know the clipping bound"
            fix = "none: it learns the bound when it merges this round"
            raise ValueRefusedError.of("QRES-E507", "plugins.dp", what, fix)
        return self._known[1]

    def learn(self, step: int, bound: int) -> None:
        """Note the bound that holds if the round closes."""
        self._next = step + 1, bound

    def forget(self) -> None:
        """A round begins or was aborted: what was noted does not hold."""
        self._next = None

    @property
    def radius(self) -> int | None:
        """The last bound known, in whole steps."""
        return None if self._known is None else AdaptiveClip.radius(self._known[1])

    def closed(self) -> None:
        """The round closed: what was noted holds.

        Raises RoundError: QRES-E602 when the disk does not take it.
        """
        self._known, self._next = self._next, None
        if self._known is not None:
            self._write(self._known)

    # ── the file ──────────────────────────────────────────────────────────────────────────────

    def _read(self) -> tuple[int, int] | None:
        if self.folder is None:
            return None
        try:
            with (self.folder / FILE).open("rb") as file:
                body = file.read(_MAX_BYTES)
            digest, octets = body[:32], body[32:]
            value: Any = canonical.loads(octets, max_bytes=_MAX_BYTES)
            step, bound = value
        except (OSError, QresError, TypeError, ValueError):
            return None
        sound = hashlib.sha256(octets).digest() == digest
        return (step, bound) if sound and type(step) is type(bound) is int else None

    def _write(self, known: tuple[int, int]) -> None:
        if self.folder is None:
            return
        octets = canonical.dumps(list(known))
        stores.replace_file(self.folder / FILE, hashlib.sha256(octets).digest() + octets)


def ballots(contributions: Sequence[Contribution], name: str, skip: int) -> list[ClippedIndicator]:
    """The ballots that can be read; a liar may have sent none.

    ``skip``: bytes of a companion before the ballot.
    """
    found: list[ClippedIndicator] = []
    for contribution in contributions:
        companion = contribution.companions.get(name)
        if companion is None or companion.modulus or len(companion.body) != skip + BALLOT_BYTES:
            continue
        with suppress(WireError):
            found.append(ClippedIndicator.from_bytes(companion.body[skip:]))
    return found


def noisy_votes(
    cast: Sequence[ClippedIndicator], multiplier: float, relation: Relation, key: bytes
) -> int:
    """The sum of the votes and discrete Gaussian noise.

    Args:
        cast: the ballots.
        multiplier: noise multiplier of the votes.
        relation: a vote that goes moves the sum by ``UNIT``, one that is replaced by twice that.
        key: the round's noise key; the votes' noise is from a key derived from it.
    """
    sensitivity = UNIT if relation is Relation.ADD_REMOVE else 2 * UNIT
    deviation = Fraction(multiplier) * sensitivity
    noise = discrete_gaussian(Fraction(int(deviation * deviation) + LEMMA + 1))
    drawn = int(noise.sample(1, hashlib.sha256(_VOTES + key).digest())[0])
    return sum(UNIT if vote.fits else -UNIT for vote in cast) + drawn
