"""Verdicts: how a defence says yes or no, and whom it blames.

A verdict is never a truth value. ``all([])``, a forgotten ``return`` and an un-awaited coroutine
would each read as "accept" if it were.
"""

from __future__ import annotations

import enum
from typing import Final, NoReturn

import attrs


class Decision(enum.Enum):
    """What a verdict decides."""

    ACCEPT = "accept"
    REJECT = "reject"


class Blame(enum.Enum):
    """Who is to blame for a rejection, and so whose reputation may suffer.

    ``LINK`` is the source of the message: its author, where the transport proves who sent a frame
    first, else the neighbour that delivered it. A forged signature blames the link: the claimed
    sender did nothing. ``SENDER`` only where the sender provably made the bad message.
    """

    NOBODY = "nobody"
    LINK = "link"
    SENDER = "sender"


@attrs.frozen
class Verdict:
    """The answer of ``authenticate``, ``replay_check`` and ``verify``.

    Use :data:`ACCEPT` and :func:`reject`.

    Raises:
        TypeError: when used as a truth value.
    """

    decision: Decision
    reason: str = ""
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
        reason: short, stable and countable, for example ``"bad signature"``. Rejections are
            counted by it, so it holds no addresses, numbers or other details.
        blame: whom evidence is held against.

    Example:
        >>> reject("bad signature", blame=Blame.LINK).accepted
        False
    """
    return Verdict(Decision.REJECT, reason, blame)
