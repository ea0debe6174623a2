"""Training for the next height, begun before the outcome of this one is decided.

A node that merged the decided set knows what the next model will be, unless the others found
something else. It trains from it while they vote. If the swarm goes on otherwise, what came of it
is thrown away, and the node trains anew.
"""

from __future__ import annotations

import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Update

TrainingResult = Update | str
"""An update, or why the node contributes nothing."""


@attrs.define(eq=False)
class TrainingAhead:
    """The one training, at most, that is ahead of its round."""

    _round: RoundInfo | None = attrs.field(default=None, init=False)
    _result: TrainingResult | None = attrs.field(default=None, init=False)

    def begin(self, info: RoundInfo) -> None:
        """A training for this round was asked for; what was ahead before is thrown away."""
        self._round, self._result = info, None

    def take(self, result: TrainingResult, round_number: int, head: bytes) -> None:
        """Keep what came of it."""
        ahead = self._round
        if ahead is not None and (ahead.number, ahead.head) == (round_number, head):
            self._result = result

    def claim(self, info: RoundInfo) -> tuple[bool, TrainingResult | None]:
        """Whether it was for the round that opens now, and what came of it so far.

        Nothing is ahead afterwards.
        """
        fits, result = self._round == info, self._result
        self._round = self._result = None
        return fits, result if fits else None
