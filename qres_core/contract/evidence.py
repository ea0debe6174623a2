"""Knowledge of nodes: facts about them, and the standing that is made of these."""

from __future__ import annotations

from typing import Any, Self

import attrs

from qres_core.contract import faults
from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.types import FULL_STANDING, NodeId, Updates


def _check_standing(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= FULL_STANDING:
        raise ValueRefusedError.of(
            "QRES-E506", "standing.weight", f"{value!r} is not in 0..{FULL_STANDING}"
        )


@attrs.frozen
class Standing:
    """Answer of ``reputation`` about a node.

    Attributes:
        weight: influence in units of 2**-32, 0..2**32.
        banned: if true, nothing of the node is accepted.
    """

    weight: int = attrs.field(default=FULL_STANDING, validator=_check_standing)
    banned: bool = False


@attrs.frozen
class Evidence:
    """A fact about a node, told to ``observe``.

    Only the kernel makes one. A plugin says what it found by a verdict or an :class:`Accusation`.

    Attributes:
        subject: the node the fact is about: the sender of a message, or its source.
        fact: a :class:`~qres_core.Fault` or :class:`~qres_core.Merit`, or what a plugin found,
            ``"<plugin>:<id>"``.
        source: plugin that found it, or ``"kernel"``.
        round: round number in which it was seen.

    Raises:
        ValueRefusedError: QRES-E513 for another fact.
    """

    subject: NodeId
    fact: str = attrs.field(converter=faults.checked)
    source: str
    round: int

    @property
    def against(self) -> bool:
        """True if it speaks against the subject."""
        return not isinstance(self.fact, faults.Merit)


@attrs.frozen
class Accusation:
    """Finding of a plugin about a node; becomes evidence against it.

    Only for what the node's own signed messages prove, so that nobody is slandered.

    Attributes:
        subject: who misbehaved.
        fact: an id of the plugin's own, for example ``"wrong-share"``. The kernel puts the name of
            the plugin before it.

    Raises:
        ValueRefusedError: QRES-E513 for a fact that is no such id.
    """

    subject: NodeId
    fact: str = attrs.field(converter=faults.own_id)


def _no_accusations() -> tuple[Accusation, ...]:
    return ()


@attrs.frozen(eq=False)
class Revelation:
    """Result that ``reveal`` may return in place of bare updates.

    Attributes:
        updates: what was revealed.
        against: what the revealing brought to light about nodes; the same on every node, because
            what it rests on is agreed.
    """

    updates: Updates
    against: tuple[Accusation, ...] = attrs.field(factory=_no_accusations)


class RevelationError(ValueRefusedError):
    """Error of ``reveal`` if there is nothing to merge, and somebody is to blame for that.

    Attributes:
        against: as for :class:`Revelation`; ``observe`` is told although the height makes no model.
    """

    against: tuple[Accusation, ...] = ()

    def blaming(self, against: tuple[Accusation, ...]) -> Self:
        """The same error with what came to light."""
        self.against = against
        return self
