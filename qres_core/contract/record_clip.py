"""Bound on one example's move of an update, as a plugin states it and a trainer is held to it."""

from __future__ import annotations

from typing import Final

import attrs

from qres_core.contract import options

_FRACTION_BITS: Final = 16
LARGEST: Final = 2**31 - 1
"""Greatest bound in steps of the grid: no vector on it has a longer coordinate."""
MOST_RECORDS: Final = 2**30
"""Most examples of a node: their clipped steps then add up in 64 bits."""


@attrs.frozen
class RecordClip:
    """The bound on what one example of a node adds to its update.

    An update is then a sum over the node's examples, each clipped to ``bound``. With an example, or
    with nothing in its place, it is at most ``bound`` apart in L2, exactly so on the grid.

    Attributes:
        bound: greatest L2 norm of what one example adds, in the model's own units.
        most: most examples of a node: a public number, so that the longest update is
            ``most * bound``.

    Raises:
        OptionError: QRES-E105.
    """

    bound: float = attrs.field(validator=options.real(above=0.0))
    most: int = attrs.field(validator=options.whole(1, MOST_RECORDS))

    def steps(self, scale: int) -> int:
        """The bound in whole steps of the grid, rounded down.

        ``scale``: exponent of the grid; a step is ``2**(scale - 16)``.
        """
        from fractions import Fraction  # noqa: PLC0415 - takes time to import

        exact = Fraction(self.bound) * Fraction(2) ** (_FRACTION_BITS - scale)
        return min(int(exact), LARGEST)
