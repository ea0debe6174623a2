"""Signs of life of the other end of a connection, and how long to go without.

Whatever comes is one, so a connection in use is never asked. One that is quiet is sent yamux's own
ping, 12 bytes; the end that asks first spares the other its ping. How long an answer may take
follows from how long earlier ones took.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from enum import Enum, auto
from typing import Final

import attrs
from libp2p.peer.id import ID

MISSES: Final = 2
"""Pings in a row after which a connection is given up."""
PATIENCE_SECONDS: Final = 120.0
"""Longest that an answer is waited for, however long the last ones took."""
SLOWEST: Final = 8.0
"""Most that a limit is stretched for a peer that kept none of the last ones."""
_OUTSTANDING: Final = 8
_CHANCE: Final = random.SystemRandom()


class PulseStep(Enum):
    """Action for a connection now."""

    NOTHING = auto()
    ASK = auto()
    GIVE_UP = auto()


@attrs.define(eq=False)
class Pulse:
    """Of one connection; all times are of trio's clock, in seconds."""

    heard: float  # when anything last came
    round_trip: float = 0.0  # smoothed; 0 before the first answer
    spread: float = 0.0  # how much round trips differ from it, smoothed
    missed: int = 0  # pings in a row that nothing came after
    _asked: float = math.inf  # when the last ping was sent that nothing came after
    _asking: bool = False  # whether one is on its way out
    _quiet: float = 1.0  # how long to bear silence, in units of the pause; drawn for each
    _sent: dict[int, float] = attrs.field(factory=dict[int, float])

    def sent(self, number: int, now: float) -> None:
        """A ping has left."""
        self._asked, self._asking = now, False
        self._sent[number] = now
        while len(self._sent) > _OUTSTANDING:
            del self._sent[next(iter(self._sent))]

    def answered(self, number: int, now: float) -> None:
        """The echo of a ping came; what was not asked for tells nothing."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return
        taken = now - sent
        if not self.round_trip:
            self.round_trip, self.spread = taken, taken / 2
        else:  # as TCP does, RFC 6298
            self.spread += (abs(taken - self.round_trip) - self.spread) / 4
            self.round_trip += (taken - self.round_trip) / 8

    def patience(self, least: float) -> float:
        """Seconds that an answer may take, ``least`` or more."""
        return max(least, min(PATIENCE_SECONDS, self.round_trip + 4 * self.spread))

    def forgive(self, seconds: float) -> None:
        """This node did nothing for so long: what came meanwhile is not read yet."""
        self._asked += seconds

    def step(self, now: float, pause: float, least: float) -> PulseStep:
        """Choose an action, as often as one likes.

        ``pause``: seconds of silence after which to ask, three quarters to five quarters of it:
        of two ends the one that draws less asks. ``least``: seconds that any answer may take.
        """
        if self._asking:  # the write has a limit of its own
            return PulseStep.NOTHING
        if self.heard >= self._asked:
            self._asked, self.missed = math.inf, 0
        if self._asked == math.inf:
            if now - self.heard < pause * self._quiet:
                return PulseStep.NOTHING
        elif now - self._asked < self.patience(least):
            return PulseStep.NOTHING
        else:
            self.missed += 1
            if self.missed >= MISSES:
                return PulseStep.GIVE_UP
        self._asking, self._quiet = True, _CHANCE.uniform(0.75, 1.25)
        return PulseStep.ASK


@attrs.define(eq=False)
class Stretch:
    """Factor of a limit for each peer: it doubles when one is not kept."""

    _by: Counter[ID] = attrs.field(factory=Counter[ID])  # how often it doubled; of members alone

    def of(self, peer: ID) -> float:
        """From 1 to :data:`SLOWEST`."""
        return float(min(SLOWEST, 2 ** self._by[peer]))

    def late(self, peer: ID) -> None:
        """A peer did not keep a limit; it may only have been slow, or this node was."""
        self._by[peer] = min(self._by[peer] + 1, round(math.log2(SLOWEST)))

    def in_time(self, peer: ID) -> None:
        """A peer kept a limit that was given to it while it had time."""
        if self._by[peer]:
            self._by[peer] -= 1
