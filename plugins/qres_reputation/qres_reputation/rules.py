"""Changes of a score by one piece of evidence: three rules, in integers.

A score is an integer in units of 10**-6, from 0 to :data:`UNIT`. Nothing here is a float, so nodes
that saw the same evidence in the same order hold the same bits, on every machine.
"""

from __future__ import annotations

from typing import Final, Protocol

import attrs

UNIT: Final = 1_000_000
"""The score 1.0."""


def units(share: float) -> int:
    """A share from the configuration, in units of 10**-6, rounded to the nearest."""
    return round(share * UNIT)


@attrs.frozen
class Belief:
    """Knowledge of a rule about a node."""

    score: int  # 0..:data:`UNIT`
    good: int = 0  # accumulated positive evidence, in units of 10**-6; used by the beta rule
    bad: int = 0  # accumulated negative evidence, likewise


class ScoringRule(Protocol):
    """A way to keep score."""

    def fresh(self) -> Belief:
        """Belief about a node nobody has seen."""
        ...

    def at(self, score: int) -> Belief:
        """A belief of about that score and never below it, with as little evidence as gives it."""
        ...

    def reward(self, belief: Belief) -> Belief:
        """After one good act."""
        ...

    def punish(self, belief: Belief) -> Belief:
        """After one bad act."""
        ...

    def fade(self, belief: Belief) -> Belief:
        """One round later: nearer to the fresh belief."""
        ...


def _towards(value: int, goal: int, decay: int) -> int:
    """``value`` moved by the share ``decay`` of its way to ``goal``.

    Rounded up to a whole unit, so that the goal is reached and never crossed.
    """
    way = goal - value
    step = -(-abs(way) * decay // UNIT)
    return value + step if way > 0 else value - step


@attrs.frozen
class Additive:
    """``R + gain`` for good acts, ``R - loss`` for bad ones, held within 0..1."""

    start: int  # score of a fresh node, in units of 10**-6
    gain: int  # added for a good act, likewise
    loss: int  # taken for a bad act, likewise
    decay: int  # share of the way to ``start`` that fades in a round, likewise

    def fresh(self) -> Belief:
        """The start score."""
        return Belief(self.start)

    def at(self, score: int) -> Belief:
        """Exactly that score."""
        return Belief(score)

    def reward(self, belief: Belief) -> Belief:
        """One step up."""
        return Belief(min(UNIT, belief.score + self.gain))

    def punish(self, belief: Belief) -> Belief:
        """One step down."""
        return Belief(max(0, belief.score - self.loss))

    def fade(self, belief: Belief) -> Belief:
        """Towards the start score, from either side."""
        return Belief(_towards(belief.score, self.start, self.decay))


@attrs.frozen
class Ema:
    """Exponential moving average ``R' = (1 - gamma) R + gamma e``, ``e`` 1 or 0, rounded down."""

    start: int  # score of a fresh node, in units of 10**-6
    gamma: int  # weight of the newest evidence, likewise
    decay: int  # share of the way to ``start`` that fades in a round, likewise

    def fresh(self) -> Belief:
        """The start score."""
        return Belief(self.start)

    def at(self, score: int) -> Belief:
        """Exactly that score."""
        return Belief(score)

    def reward(self, belief: Belief) -> Belief:
        """A share of the way to 1."""
        return Belief((belief.score * (UNIT - self.gamma) + self.gamma * UNIT) // UNIT)

    def punish(self, belief: Belief) -> Belief:
        """The same share of the way to 0."""
        return Belief(belief.score * (UNIT - self.gamma) // UNIT)

    def fade(self, belief: Belief) -> Belief:
        """Towards the start score, from either side."""
        return Belief(_towards(belief.score, self.start, self.decay))


@attrs.frozen
class Beta:
    """The mean of a beta distribution over what was seen, with forgetting.

    After A. Josang and R. Ismail, "The Beta Reputation System", Bled Electronic Commerce
    Conference 2002: with ``r`` good and ``s`` bad acts the reputation is
    ``(r + 1) / (r + s + 2)`` (section 2.3), here ``(r + 2 a) / (r + s + 2)`` with the start score
    ``a`` as base rate, which is the same for ``a = 1/2``. Each new act first multiplies ``r`` and
    ``s`` by the forgetting factor (section 2.6).
    """

    start: int  # the base rate ``a``, in units of 10**-6
    forgetting: int  # the factor, likewise; 10**6 never forgets
    decay: int  # share of ``r`` and of ``s`` that fades in a round, likewise

    def _believe(self, good: int, bad: int) -> Belief:
        score = (good + 2 * self.start) * UNIT // (good + bad + 2 * UNIT)
        return Belief(score, good, bad)

    def fresh(self) -> Belief:
        """The base rate."""
        return self._believe(0, 0)

    def at(self, score: int) -> Belief:
        """From evidence of one kind; scores of 0 and 1 become the nearest the rule can hold."""
        score = min(max(score, 1), UNIT - 1)
        if score <= self.start:
            return self._believe(0, 2 * self.start * UNIT // score - 2 * UNIT)
        return self._believe(-(-2 * UNIT * (score - self.start) // (UNIT - score)), 0)

    def reward(self, belief: Belief) -> Belief:
        """One more good act."""
        good, bad = (part * self.forgetting // UNIT for part in (belief.good, belief.bad))
        return self._believe(good + UNIT, bad)

    def punish(self, belief: Belief) -> Belief:
        """One more bad act."""
        good, bad = (part * self.forgetting // UNIT for part in (belief.good, belief.bad))
        return self._believe(good, bad + UNIT)

    def fade(self, belief: Belief) -> Belief:
        """Less evidence of either kind."""
        good, bad = (_towards(part, 0, self.decay) for part in (belief.good, belief.bad))
        return self._believe(good, bad)
