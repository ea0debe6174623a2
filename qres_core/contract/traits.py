"""What a plugin needs and what it hides: the facts the solver compares before anything starts.

A plugin states them as properties ``needs`` and ``hides`` of its attrs class, so that they may
depend on its options. A third one, ``notices``, is a tuple of sentences an operator should read,
for example that an option weakens the plugin.

More are plain values. Where a plugin does not say, the careful one is assumed.

================  =========  =======================================================================
name              default    meaning
================  =========  =======================================================================
``averages``      ``False``  the rule is a weighted mean of its rows
``weighs``        ``True``   the reputation scales weights, beside banning
``bounds``        ``""``     the proof bounds the length of every update; by how much, a short text
``alters``        ``True``   the wrapper changes what the rule gets, or what it returns
``merges``        ``1``      the wrapper makes one row of so many
``reveals``       ``True``   ``reveal`` changes updates that no plugin hides
``accompanies``   ``False``  ``privatize`` puts a companion beside the update
``transferable``  ``False``  ``verify`` judges by the contribution, the round and the configuration
================  =========  =======================================================================

Two are methods, for what only numbers of the whole configuration tell. Both must be pure, quick,
and ask for nothing but their arguments and the plugin's options; they run before ``setup``.

- ``check(around: Surroundings) -> Iterable[Problem]``: every reason why the plugin would fail, or
  break its promise, in these surroundings. A problem names the option, the other side with its
  value, and what to do.
- ``passes(extent: Extent, around: Surroundings) -> Extent``: of a ``privatize`` plugin, how large
  an update is after it, if it was as large as ``extent`` before.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from qres_core.contract.errors import ValueRefusedError
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
        at_most: most visibility of contributions that the guarantee allows: ``SUM`` or ``GROUP``
            if single updates must be hidden.
        averaging: true if the guarantee holds only for a rule that averages, and averages all the
            updates as the plugin left them.
    """

    visibility: Visibility = Visibility.SUM
    min_updates: int = 1
    tolerates: int | None = None
    families: tuple[str, ...] = ()
    equal_weights: bool = False
    at_most: Visibility = Visibility.INDIVIDUAL
    averaging: bool = False


def _check_size(_instance: object, attribute: Any, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        what = f"{value!r} is no number of nodes"
        fix = "1 or more, or None where there is no such number"
        raise ValueRefusedError.of("QRES-E506", f"hides.{attribute.name}", what, fix)


@attrs.frozen
class Hides:
    """What a ``privatize`` plugin takes away from everything after it.

    Attributes:
        leaves: what stays visible of contributions once it ran.
        group_size: with ``GROUP``, how many nodes a group has at least; rules see one row a group.
            ``None`` where no number of groups is sure: all nodes may be one.
        smallest: with ``GROUP``, the fewest updates of a group whose sum is still revealed;
            ``None`` if that is ``group_size``.

    Raises:
        ValueRefusedError: QRES-E506 for a size below 1.
    """

    leaves: Visibility = Visibility.INDIVIDUAL
    group_size: int | None = attrs.field(default=1, validator=_check_size)
    smallest: int | None = attrs.field(default=None, validator=_check_size)


@attrs.frozen(kw_only=True)
class Extent:
    """How large an update can be at a place in the chain of ``privatize`` plugins.

    Attributes:
        length: greatest L2 norm, noise left aside, in the model's own units; infinite where
            nothing bounds it.
        clipped_by: the plugin that bounds it; empty for none.
        accepted: greatest L2 norm of what a liar can send and get accepted, in the same units.
        noise: standard deviation of the noise in every coordinate, in the model's own units.
        noised_by: the plugin that adds it; empty for none.
    """

    length: float = math.inf
    clipped_by: str = ""
    accepted: float = math.inf
    noise: float = 0.0
    noised_by: str = ""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a plugin is told of the configuration it is part of.

    Attributes:
        nodes: number of nodes.
        byzantine: liars among them that the swarm promises to withstand.
        quorum: fewest contributions of a round.
        scale: exponent of the grid; a step is ``2**(scale - 16)``.
        weight_cap: largest weight that counts.
        deadline: seconds until a set is proposed.
        max_message_bytes: largest message that is sent or taken.
        roster: identities of the nodes, hexadecimal; empty where they are not known yet.
        dimension: coordinates of the model; 0 where it is not known yet.
        hooks: hooks that the other plugins implement.
        visibility: what is visible of contributions in the end.
        hidden_by: the plugin that hides the rest; empty for none.
        members: fewest updates that a revealed row holds: 1 where nothing is hidden.
        extent: how large an update is when it gets to the plugin.
        before: names of the ``privatize`` plugins before this one, in file order.
        after: names of those after it, without the one that hides.
        companions: of ``before``, those that put something beside the update.
        altered_by: names of the wrappers before this plugin that change what it sees as a wrapper.
    """

    nodes: int
    byzantine: int
    quorum: int
    scale: int = 0
    weight_cap: int = 1
    deadline: float = 30.0
    max_message_bytes: int = 64 * 2**20
    roster: tuple[str, ...] = ()
    dimension: int = 0
    hooks: frozenset[str] = frozenset()
    visibility: Visibility = Visibility.INDIVIDUAL
    hidden_by: str = ""
    members: int = 1
    extent: Extent = Extent()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    altered_by: tuple[str, ...] = ()


NO_NEEDS = Needs()
HIDES_NOTHING = Hides()
