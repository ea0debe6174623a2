"""When the steps of a round are taken at the latest.

From the opening of the round (``D`` deadline, ``T`` vote timeout, which grows with aborts)::

    0 ......... D ......... D+T ........ D+2T ....... D+3T
    gather      propose     prevote nil  precommit    abort
                at latest   at latest    nil at latest

The last one counts from when a quorum of nodes is known to be in the round or past it: one that ran
ahead alone would be out of step with the others for ever.
"""

from __future__ import annotations

from typing import Final

import attrs

from qres_core.kernel.config import SwarmConfig

MAX_BACKOFF: Final = 8.0
"""How many times its first length the vote timeout grows to at most."""


@attrs.define(eq=False)
class Times:
    """The times of one round, in seconds on the node's clock."""

    attest: float  # a checker of proofs waits for no more of them before it begins
    propose: float  # the proposer proposes what it has
    prevote: float  # a node prevotes nil
    precommit: float  # a node precommits nil
    end: float  # the round is aborted
    timeout: float  # how long a step of voting may take
    joined: bool = False  # whether a quorum is known to be there

    @classmethod
    def of(cls, swarm: SwarmConfig, opened: float, aborts: int) -> Times:
        """Of a round that opens now, after so many aborts in a row."""
        timeout = swarm.vote_timeout * min(1.0 + 0.5 * aborts, MAX_BACKOFF)
        gathered = opened + swarm.deadline
        return cls(
            opened + swarm.deadline / 2,
            gathered,
            gathered + timeout,
            gathered + 2 * timeout,
            gathered + 3 * timeout,
            timeout,
        )

    def join(self, now: float, deadline: float) -> None:
        """A quorum is there: count the end from now."""
        self.joined = True
        self.end = max(self.end, now + deadline + 3 * self.timeout)

    def decide(self, now: float, deadline: float) -> None:
        """The set is decided: dialogues have until then to finish."""
        self.end = max(self.end, now + deadline)

    def upcoming(self) -> list[float]:
        """Those at which a node does something whatever it holds."""
        return [self.propose, self.prevote, self.precommit, self.end]
