"""Record of one node."""

from __future__ import annotations

from typing import Final

import attrs

from qres_reputation.rules import Belief

FREE: Final = 0
FOR_EVER: Final = -1


@attrs.frozen
class Conduct:
    """One node's score and sentence."""

    belief: Belief  # the score and the evidence behind it
    # :data:`FREE`, :data:`FOR_EVER`, or the first round it may take part in again
    until: int = FREE
    streak: int = 0  # rounds in a row, of those it took part in, in which it was an outlier

    @property
    def banned(self) -> bool:
        """True if a sentence runs."""
        return self.until != FREE

    def sentenced(self, number: int, rounds: int) -> Conduct:
        """Banned from round ``number`` on and for ``rounds`` rounds after it; 0 for ever."""
        return attrs.evolve(self, until=number + 1 + rounds if rounds else FOR_EVER)

    def served(self, number: int) -> bool:
        """True if the sentence is over in round ``number``."""
        return FREE < self.until <= number
