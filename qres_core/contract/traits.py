"""What a plugin needs and what it hides: the facts the solver compares before anything starts.

A plugin states them as properties ``needs`` and ``hides`` of its attrs class, so that they may
depend on its options. A third one, ``notices``, is a tuple of sentences an operator should read,
for example that an option weakens the plugin.
"""

from __future__ import annotations

import attrs

from qres_core.contract.types import Visibility


@attrs.frozen
class Needs:
    """What must hold for the plugin's guarantee.

    Attributes:
        visibility: least visibility of contributions the plugin can work with.
        min_updates: fewest updates it accepts in a round, for example ``2 f + 3`` for Krum.
        tolerates: liars among the updates it withstands; ``None`` if that is not its business.
        families: hook families some other enabled plugin must fill, for example
            ``("authenticate",)``.
        equal_weights: true if unequal weights would void the guarantee.
    """

    visibility: Visibility = Visibility.SUM
    min_updates: int = 1
    tolerates: int | None = None
    families: tuple[str, ...] = ()
    equal_weights: bool = False


@attrs.frozen
class Hides:
    """What a ``privatize`` plugin takes away from everything after it.

    Attributes:
        leaves: what stays visible of contributions once it ran.
    """

    leaves: Visibility = Visibility.INDIVIDUAL


NO_NEEDS = Needs()
HIDES_NOTHING = Hides()
