"""When the steps of a round are taken at the latest.

From the beginning of the round (``D`` deadline, ``T`` vote timeout, which grows with aborts)::

    0 ......... D ......... D+T
    gather      propose     prevote nil
                at latest   at latest

A step of voting ends ``T`` after the votes of a quorum are there, for whatever. Without a quorum it
does not end: one that ran ahead alone would be out of step with the others for ever. From the
moment that the set is decided its dialogues have ``D`` to finish.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

import attrs

from qres_core.kernel.config import SwarmConfig

MAX_BACKOFF: Final = 8.0
"""How many times its first length the vote timeout grows to at most."""


def backoff(aborts: int) -> float:
    """How many times its first length the vote timeout has after so many aborts in a row."""
    return min(1.0 + 0.5 * aborts, MAX_BACKOFF)


class Answers:
    """How often peers are given the same thing.

    An answer may be lost, and whoever lacks it asks again, for as long as it lasts. So it is given
    again without end, but ever less often: a peer that always asks must cost little.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause  # seconds
        self._given: dict[Hashable, tuple[int, float]] = {}

    def due(self, what: Hashable, now: float) -> bool:
        """Whether it may be given now; it counts as given then."""
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
    def of(cls, swarm: SwarmConfig, begun: float, aborts: int) -> Times:
        """Of a round that begins now, after so many aborts in a row."""
        gathered = begun + swarm.deadline
        timeout = swarm.vote_timeout * backoff(aborts)
        return cls(begun + swarm.deadline / 2, gathered, gathered + timeout)

    def decide(self, now: float, deadline: float) -> None:
        """The set is decided."""
        self.result = now + deadline

    def upcoming(self) -> list[float]:
        """Those at which a node does something whatever it holds."""
        return [self.propose, self.vote, self.result]
