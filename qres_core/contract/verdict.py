"""Verdicts: how a defence says yes or no, and whom it blames.

A verdict is never a truth value. ``all([])``, a forgotten ``return`` and an un-awaited coroutine
would each read as "accept" if it were.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NoReturn

import attrs

from qres_core.contract.faults import Fault, own_id

UNSTATED: Final = ""
"""The reason of a verdict that gives none; a rejection without one is counted as ``no-reason``."""


class Decision(enum.Enum):
    """Decision of a verdict."""

    ACCEPT = "accept"
    REJECT = "reject"


class Blame(enum.Enum):
    """Party that is to blame for a rejection, and so the one whose reputation may suffer.

    ``LINK`` is the source of the message: its author, where the transport proves who sent a frame
    first, else the neighbour that delivered it. A forged signature blames the link: the claimed
    sender did nothing. ``SENDER`` only where the sender provably made the bad message.
    """

    NOBODY = "nobody"
    LINK = "link"
    SENDER = "sender"


def _check_reason(verdict: Verdict, _attribute: object, value: Any) -> None:
    if verdict.decision is Decision.REJECT and value != UNSTATED and not isinstance(value, Fault):
        own_id(value)


@attrs.frozen
class Verdict:
    """The answer of ``authenticate``, ``replay_check`` and ``verify``.

    Use :data:`ACCEPT` and :func:`reject`.

    Raises:
        TypeError: when used as a truth value.
        ValueRefusedError: QRES-E513 for a rejection whose reason is no id.
    """

    decision: Decision
    reason: str = attrs.field(default=UNSTATED, validator=_check_reason)
    blame: Blame = Blame.NOBODY

    @property
    def accepted(self) -> bool:
        """True only for an acceptance."""
        return self.decision is Decision.ACCEPT

    def __bool__(self) -> NoReturn:
        msg = "a Verdict has no truth value; use verdict.accepted"
        raise TypeError(msg)


ACCEPT: Final = Verdict(Decision.ACCEPT)
"""The one acceptance."""


def reject(reason: str, *, blame: Blame = Blame.NOBODY) -> Verdict:
    """A rejection.

    Args:
        reason: an id of the plugin's own, for example ``"bad-signature"``: lower-case words with
            hyphens between them. Rejections are counted by it with the plugin's name before it, so
            it holds no addresses, numbers or other details. ``replay_check`` may also say
            :attr:`Fault.REPLAYED <qres_core.Fault.REPLAYED>`.
        blame: whom evidence is held against.

    Raises:
        ValueRefusedError: QRES-E513 for a reason that is no id.

    Example:
        >>> reject("bad-signature", blame=Blame.LINK).accepted
        False
    """
    if not isinstance(reason, Fault):
        reason = own_id(reason)
    return Verdict(Decision.REJECT, reason, blame)
