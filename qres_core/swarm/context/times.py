"""Latest times of the steps of a round.

From the beginning of the round (``D`` deadline, ``T`` vote timeout, which grows with aborts)::

    0 ......... D ......... D+T
    gather      propose     prevote nil
                at latest   at latest

A step of voting ends ``T`` after the votes of a quorum are there, for whatever. Without a quorum it
does not end: one that ran ahead alone would be out of step with the others for ever. From the
moment that the set is decided its dialogues have ``D`` to finish.

A real node stretches both by what it measured, within ``swarm.deadline_stretch``. How long it waits
is its own affair: it decides when the node gives up, and never what it accepts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

import attrs

from qres_core.kernel.config import SwarmConfig

VOTING_STEPS: Final = 2
"""Steps of voting from a proposal to the decision, each with a time-out of its own."""
USUAL: Final = 2.0
"""How many times as long as the last ones contributions may be on their way."""
MAX_BACKOFF: Final = 8.0
"""How many times its first length the vote timeout grows to at most."""


def backoff(aborts: int) -> float:
    """Factor of the vote timeout after so many aborts in a row."""
    return min(1.0 + 0.5 * aborts, MAX_BACKOFF)


@attrs.define(eq=False)
class HeightPace:
    """Factor of a node's configured waits, from the time that its last rounds took."""

    most: float  # ``swarm.deadline_stretch``
    adapts: bool = False  # whether it follows what is measured; simulated nodes have no real lines
    stretch: float = attrs.field(default=1.0, init=False)
    # seconds that a quorum's contributions took in the last round that had them; longer if those of
    # now take longer; 0 before the first
    came: float = attrs.field(default=0.0, init=False)

    def patience(self, vote_timeout: float, so_far: float = 0.0) -> float:
        """Seconds that what is on its way is asked of nobody else.

        A liar that announces what it never gives delays a node by no more. Where contributions are
        quick, they are asked for at once: the others would be further by then. ``so_far``: seconds
        that those of this round take already, where a quorum of them is not here.
        """
        came = max(self.came, so_far) if self.adapts else self.came
        return USUAL * came if came > vote_timeout / 4 else 0.0

    def lacked(self) -> None:
        """A round came to nothing, and not all that it needed was here: wait longer."""
        if self.adapts:
            self.stretch = min(self.most, 2 * self.stretch)

    def late(self, deadline: float) -> None:
        """A round came to nothing though what it needed is here by now: it may have come too late.

        Twice as long as it took is allowed next time. How long the votes took does not count here:
        a liar's proposal keeps them waiting. ``deadline``: as configured, seconds.
        """
        if self.adapts:
            self.stretch = max(self.stretch, min(self.most, 2 * self.came / deadline))

    def took(self, share: float) -> None:
        """A set was decided.

        ``share``: of the time that was configured, what a quorum's contributions or the votes took,
        the more.
        Twice as long is allowed next time. Who stays away must not make it long for good, so it
        falls quickly otherwise.
        """
        if self.adapts:
            self.stretch = min(self.most, max(1.0, 2 * share, self.stretch / 4))


@attrs.define(eq=False)
class Stopwatch:
    """Times of a round, and the things that it waits for; seconds on the node's clock."""

    begun: float  # when it began
    quorum: int  # contributions that a set needs: one that comes late on purpose is not waited for
    came: float = attrs.field(init=False)  # when the last of a quorum's contributions came
    proposed: float = math.inf  # when a proposal was here
    _held: int = 0

    def __attrs_post_init__(self) -> None:
        self.came = self.begun

    def look(self, now: float, held: int, *, proposed: bool) -> None:
        """So many contributions are here, and a proposal, or none."""
        if self._held < min(held, self.quorum):
            self._held, self.came = held, now
        if proposed:
            self.proposed = min(self.proposed, now)

    def tell(self, now: float, pace: HeightPace) -> None:
        """Note how long a quorum's contributions take, at least where some are missing.

        ``now``: no later than the round's end; who waits longer is behind, and not on a slow line.
        """
        if self._held >= self.quorum:
            pace.came = self.came - self.begun
        else:
            pace.came = max(pace.came, now - self.begun)

    def share(self, now: float, swarm: SwarmConfig) -> float:
        """Of the time that is configured, what it took until the set is decided, now."""
        voting = max(0.0, now - self.proposed) / swarm.vote_timeout
        return max((self.came - self.begun) / swarm.deadline, voting / VOTING_STEPS)


T = TypeVar("T")


def next_asked(sources: Sequence[T], count: int) -> Sequence[T]:
    """Members to ask next, where ``count`` attempts failed: one, then two others, then four.

    Any of ``f`` liars says that it has what it does not give. One after the other they would take
    ``f`` pauses, and so they take ``log2 f``. Once all were asked, all are asked.
    """
    first = 2 ** min(count, 32) - 1
    return sources[first : 2 * first + 1] if first < len(sources) else sources


class Answers:
    """Counts of the same answer to peers.

    An answer may be lost, and whoever lacks it asks again, for as long as it lasts. So it is given
    again without end, but ever less often: a peer that always asks must cost little.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause  # seconds
        self._given: dict[Hashable, tuple[int, float]] = {}

    def due(self, what: Hashable, now: float) -> bool:
        """True if it may be given now; it counts as given then."""
        count, at = self._given.get(what, (0, -math.inf))
        if now < at + self._pause * backoff(count):
            return False
        self._given[what] = count + 1, now
        return True


@attrs.define(eq=False)
class Times:
    """The times of one round, in seconds on the node's clock."""

    attest: float  # a checker of proofs waits for no more of them before it begins
    propose: float  # the proposer proposes what it has
    vote: float  # a node prevotes nil
    result: float = math.inf  # a node says that the dialogues of the decided set did not finish

    @classmethod
    def of(cls, swarm: SwarmConfig, begun: float, aborts: int, stretch: float = 1.0) -> Times:
        """Of a round that begins now, after so many aborts in a row."""
        deadline = swarm.deadline * stretch
        gathered = begun + deadline
        timeout = swarm.vote_timeout * stretch * backoff(aborts)
        return cls(begun + deadline / 2, gathered, gathered + timeout)

    @classmethod
    def most(cls, swarm: SwarmConfig, aborts: int, stretch: float) -> float:
        """Seconds after which a round of others is over that began at about this time."""
        times = cls.of(swarm, 0.0, aborts, stretch)
        return 2 * times.vote - times.propose

    def decide(self, now: float, deadline: float) -> None:
        """The set is decided."""
        self.result = now + deadline

    def upcoming(self) -> list[float]:
        """Those at which a node does something whatever it holds."""
        return [self.propose, self.vote, self.result]
