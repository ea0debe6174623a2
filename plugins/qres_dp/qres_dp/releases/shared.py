"""Mode distributed: every node adds a share of the noise, and only sums have enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import attrs

from qres_core import Needs, RoundInfo, Surroundings, Updates, Visibility
from qres_core.errors import Problem, ValueRefusedError
from qres_dp.fitting import watchers
from qres_dp.releases.local import LocalRelease


@attrs.define(eq=False)
class SharedRelease(LocalRelease):
    """As :class:`LocalRelease` with a share of the noise; it rests on what others see.

    Single updates must be hidden, since a share alone hides nothing, and weights must be equal,
    for an update counts in the sum as it was clipped.
    """

    needs: ClassVar[Needs] = Needs(equal_weights=True, at_most=Visibility.GROUP)
    is_seen: ClassVar[bool] = False

    def misfits(self, around: Surroundings) -> Iterator[Problem]:
        """See :meth:`Release.misfits`.

        Yields QRES-E314 too where a plugin may change what has a share of the noise.
        """
        yield from super().misfits(around)
        for name in around.changing:
            what = f"a node adds a share of the noise, and plugins.{name} may change what has it: "
            what += "a sum would not have all noise"
            fix = f'put [plugins.{name}] before [plugins.dp] in the file, or mode = "local"'
            yield Problem("QRES-E314", "plugins.dp.mode", what, fix)

    def revealed(self, updates: Updates, round_info: RoundInfo) -> Updates:
        """The updates, if every sum has as many nodes as the noise is counted on.

        Raises ValueRefusedError: QRES-E505 for one that has fewer.
        """
        honest, others = self.terms.honest, watchers(self.around(round_info).colluders)
        for members in updates.members:
            if len(members) < honest + others:
                what = (
                    f"a sum of {len(members)} nodes is too small: {honest} honest nodes and "
                    f"{others} that may know their share need {honest + others}"
                )
                raise ValueRefusedError.of("QRES-E505", "plugins.dp.honest", what)
        return updates
