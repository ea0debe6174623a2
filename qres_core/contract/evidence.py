"""What is known of nodes: facts about them, and the standing that is made of these."""

from __future__ import annotations

from typing import Any

import attrs

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.types import FULL_STANDING, NodeId, Updates


def _check_standing(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= FULL_STANDING:
        raise ValueRefusedError.of(
            "QRES-E506", "standing.weight", f"{value!r} is not in 0..{FULL_STANDING}"
        )


@attrs.frozen
class Standing:
    """What ``reputation`` says of a node.

    Attributes:
        weight: influence in units of 2**-16, 0..65536.
        banned: if true, nothing of the node is accepted.
    """

    weight: int = attrs.field(default=FULL_STANDING, validator=_check_standing)
    banned: bool = False


@attrs.frozen
class Evidence:
    """A fact about a node, told to ``observe``.

    Attributes:
        subject: the node the fact is about: the sender of a message, or its source.
        fact: stable and countable, for example ``"bad proof"``, ``"equivocation"``,
            ``"contributed"``.
        source: plugin that found it, or ``"kernel"``.
        against: true if it speaks against the subject.
        round: round number in which it was seen.
    """

    subject: NodeId
    fact: str
    source: str
    against: bool
    round: int


def _no_evidence() -> tuple[Evidence, ...]:
    return ()


@attrs.frozen(eq=False)
class Revelation:
    """What ``reveal`` may return in place of bare updates.

    Attributes:
        updates: what was revealed.
        against: evidence against nodes that the revealing brought to light; the same on every
            node, because what it rests on is agreed.
    """

    updates: Updates
    against: tuple[Evidence, ...] = attrs.field(factory=_no_evidence)
