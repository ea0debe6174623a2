"""A clipping bound that follows a quantile of the nodes' norms, at a small price in privacy.

In a round with bound ``C`` every node votes: was its update clipped? The votes are summed with
noise, and the bound moves by

    C <- C * exp(-rate * (b - quantile))        b: the noisy share of nodes that fit

so it settles where that share is the quantile. A round clips, votes and is accounted for with the
bound from *before* its move. Norms never leave a node, and the bound is a function of noisy sums
alone: it may be public.

All is integer arithmetic, because every node has to hold the same bound to the bit. A vote is
``UNIT`` if the update was clipped, and 0 if it fits. So the vote of a zero update is 0 too: a node
that comes or goes moves the sum by ``UNIT``, and so does one whose update is replaced. The centred
votes of the paper, 1/2 or -1/2, have half of that only where a node that goes takes its vote along;
a zero update in its place still votes, and moves their sum by the whole distance.

Reference:
    G. Andrew, O. Thakkar, H. B. McMahan, S. Ramaswamy, Differentially Private Learning with
    Adaptive Clipping, NeurIPS 2021: algorithm 1, theorem 1.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

import attrs

from qres_core import CompatibilityError, ConfigError, ValueRefusedError
from qres_dp.ranges import ADAPTIVE_QUANTILE, ADAPTIVE_RATE

UNIT: Final = 1 << 16
"""What the vote of a node whose update was clipped adds to the sum."""
FINE: Final = 1 << 16
"""A bound is held in units of ``1 / FINE`` grid steps, or small moves would be rounded away."""
MAX_RADIUS: Final = (1 << 31) - 1
SPAN: Final = 8
"""The bound stays within ``clip / SPAN`` and ``clip * SPAN``."""

_WORK: Final = 1 << 96
"""Fixed point of the exponential; its error is below ``2**-88``."""
_UP: Final = 1 + 2**-40


@attrs.frozen
class PrivacySplit:
    """How a round's privacy is divided between the vector and the votes."""

    vector: float  # noise multiplier of the vector: standard deviation / bound
    votes: float  # noise multiplier of the votes: standard deviation / :data:`UNIT`

    @property
    def together(self) -> float:
        """The multiplier of one Gaussian that tells as much as both: ``1 / sqrt(sum z**-2)``."""
        return 1.0 / math.hypot(1.0 / self.vector, 1.0 / self.votes)


def split(noise_multiplier: float, nodes: int) -> PrivacySplit:
    """Divide a round's noise multiplier between vector and votes.

    The votes get ``sigma_b = nodes / 20`` on the count of nodes, the choice of the paper's section
    3. In a small swarm that would leave nothing for the vector, so it is at least twice
    ``noise_multiplier``: the vector's multiplier then is 1.155 times what it would be without
    votes. ``noise_multiplier``: what the round has to amount to, finite and above 0; ``nodes``:
    nodes whose noise is in the sum, at least 1. Returns a split whose
    :attr:`PrivacySplit.together` is at least ``noise_multiplier``. Raises CompatibilityError:
    QRES-E314 for numbers out of these ranges.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0.0 and nodes >= 1):
        what = f"noise multiplier {noise_multiplier} for {nodes} nodes"
        raise CompatibilityError.of("QRES-E314", "plugins.dp", what)
    votes = max(nodes / 20.0, 2.0 * noise_multiplier)
    ratio = noise_multiplier / votes
    return PrivacySplit(noise_multiplier / math.sqrt(1.0 - ratio * ratio) * _UP, votes)


def _exponential(power: Fraction) -> int:
    """``exp(power) * _WORK`` for ``|power| <= 1``, by its series in integers."""
    x = math.floor(power * _WORK)
    total = term = _WORK
    n = 0
    while term:
        n += 1
        term = abs(term) * abs(x) // (_WORK * n) * (-1 if x < 0 and n % 2 else 1)
        total += term
    return total


def _within(lowest: float, highest: float) -> Any:
    def check(_instance: object, attribute: Any, value: Any) -> None:
        if not lowest <= value <= highest:  # NaN is not
            where = f"plugins.dp.{attribute.name}"
            raise ConfigError.of("QRES-E105", where, f"{value} is not in {lowest:g}..{highest:g}")

    return check


@attrs.frozen
class AdaptiveClip:
    """The rule the bound moves by; it holds no state.

    Raises:
        ConfigError: QRES-E105 for a quantile or rate out of range.
        CompatibilityError: QRES-E313 where ``lowest`` is above ``highest``.
    """

    # share of nodes whose update is to fit, 0.1..0.9
    quantile: float = attrs.field(default=0.5, validator=_within(*ADAPTIVE_QUANTILE))
    # how fast the bound moves: by at most the factor ``exp(rate)`` a round, 0.001..1
    rate: float = attrs.field(default=0.2, validator=_within(*ADAPTIVE_RATE))
    lowest: int = 1  # least bound in grid steps, 1 or more: below it the grid is too coarse
    # greatest bound in grid steps: above it sum and noise do not fit the ring
    highest: int = MAX_RADIUS

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest <= MAX_RADIUS:
            what = (
                f"no bound is both fine enough for the grid ({self.lowest} steps or more) and "
                f"small enough for the ring ({self.highest} steps or less)"
            )
            raise CompatibilityError.of("QRES-E313", "plugins.dp.clip", what, "change swarm.scale")

    @staticmethod
    def radius(bound: int) -> int:
        """The integer radius that vectors are clipped to, in grid steps; noise is for it too."""
        return bound // FINE

    @staticmethod
    def vote(norm_squared: int, bound: int) -> int:
        """A node's vote: 0 if its update fits, as the zero update does, and else ``UNIT``.

        ``norm_squared``: of the update *before* it is clipped, in grid steps squared, exact.
        """
        radius = AdaptiveClip.radius(bound)
        return 0 if norm_squared <= radius * radius else UNIT

    def move(self, bound: int, sums: Sequence[tuple[int, int]]) -> int:
        """The bound for the next round.

        Args:
            bound: the round's bound.
            sums: of each group of voters the sum of votes and noise, and how many votes are in it,
                at least 1. A share outside 0..1 counts as 0 or 1. The median of the shares counts,
                so that liars in fewer than half of the groups do not choose it.

        Returns:
            the next bound, within ``lowest`` and ``highest``; the same bits on every machine.

        Raises:
            ValueRefusedError: QRES-E505 without a voter.
        """
        if not sums or min(voters for _, voters in sums) < 1:
            raise ValueRefusedError.of("QRES-E505", "votes", "nobody voted")
        shares = [1 - Fraction(votes, voters * UNIT) for votes, voters in sums]
        within = [min(max(share, Fraction(0)), Fraction(1)) for share in shares]
        share = statistics.median(within)
        factor = _exponential(Fraction(self.rate) * (Fraction(self.quantile) - share))
        moved = bound * factor // _WORK
        return min(max(moved, self.lowest * FINE), self.highest * FINE)

    @staticmethod
    def agreed(bounds: Iterable[int], liars: int) -> int:
        """The round's bound, from what the agreed contributions say it is.

        Honest nodes that are not sure of the bound sit the round out, so those in the set all say
        the same, and they are more than ``liars``.

        Args:
            bounds: one from each contribution of the agreed set.
            liars: how many of them may be false, the swarm's ``byzantine``.

        Raises:
            ValueRefusedError: QRES-E505 if not exactly one bound is named by more than ``liars``.

        Complexity: O(n).
        """
        named = [bound for bound, count in Counter(bounds).items() if count > liars]
        if len(named) != 1:
            what = f"{len(named)} clipping bounds are named by more than {liars} contributions"
            raise ValueRefusedError.of("QRES-E505", "companions.dp", what)
        return named[0]
