"""A round as its plugins see it: what it starts from and how it ended."""

from __future__ import annotations

import enum
from typing import Final

import attrs

from qres_core.contract.types import NodeId, Vector

MAX_VOID_SETS: Final = 64
"""Sets that are kept on record for one model; see ``RoundInfo.void_sets``."""


@attrs.frozen
class VoidSet:
    """A set that was decided for a model, at a height that made no new model of it.

    What a plugin opened of it is known, although nothing came of it.

    Attributes:
        roster: identities of the members of that height, ascending.
        names: the identity that each of them goes by at the present height, in the order of
            ``roster``. It differs for who rotated its key since. Who is no member any more keeps
            the last one.
        senders: whose contributions were decided; identities of ``roster``, ascending.
        mismatches: as ``RoundInfo.mismatches`` was at that height.
    """

    roster: tuple[NodeId, ...]
    names: tuple[NodeId, ...]
    senders: tuple[NodeId, ...]
    mismatches: int = 0


@attrs.frozen
class RoundInfo:
    """One round, the same on every node that takes part in it.

    Attributes:
        swarm: the swarm's name.
        number: round number, from 1; increases with every attempt. A node that waited for the
            others may open a number again, at another head.
        model_digest: :func:`~qres_core.model_digest` of the model the round starts from.
        dimension: ``d``, the coordinates of the model and of an update.
        scale: power-of-two exponent of the grid: a coordinate ``v`` means ``v * 2**(scale - 16)``.
        roster: identities of the nodes that are members in this round, ascending.
        quorum: fewest contributions a round may close with.
        byzantine: the fault bound ``f``.
        step: how many rounds closed before this one.
        height: how many heights were decided before this one, with a new model or without. The
            roster, ``quorum`` and ``byzantine`` belong to a height: they may differ from those of
            the round before where the height does.
        head: digest of the head that messages of this round belong to, 32 bytes; empty where
            nothing is agreed on, as in the ``vectorised`` engine.
        void_sets: the distinct sets that were decided for this model at heights that made no new
            one, in the order of the heights. Of those that come after
            :data:`~qres_core.dialogues.MAX_VOID_SETS` none is kept.
        mismatches: how many of those heights were void because a sum was not what its members
            committed to (QRES-E508), at most 16.
        ahead: whether the round is only thought of: may a set carry a change or a ban, if it makes
            no model? ``revealable`` then names nobody if what it would name could not be merged.
    """

    swarm: str
    number: int
    model_digest: bytes
    dimension: int
    scale: int
    roster: tuple[NodeId, ...]
    quorum: int
    byzantine: int = 0
    step: int = 0
    height: int = 0
    head: bytes = b""
    void_sets: tuple[VoidSet, ...] = ()
    mismatches: int = 0
    ahead: bool = False


@attrs.frozen
class OwnContributions:
    """Knowledge of a node about its own contributions before a round, apart from its plugins.

    A plugin that keeps a record of what left compares the record with it: one that was set back to
    an older copy, or begun anew, knows of less.

    Attributes:
        journal: names the journal that counts, 16 bytes; empty where none is kept. A new journal
            has another name and counts from 0.
        rounds: in how many rounds a contribution of this node left, by the journal.
        last_round: the number of the last of these rounds; 0 for none.
        height: the last height that decided a set with a contribution of this node, by the chain;
            -1 where none is known.
        decided_round: the number of the round that this contribution was made in, which may be one
            of several of its height; 0 where it is not known.
        decided_head: digest of the head of that height, 32 bytes; empty where it is not known. A
            training that began anew has the same heights and rounds, and other heads.
        silent_since: from this height on no set with a contribution of this node was decided, by
            the chain. Of earlier heights it tells of ``height`` alone.
    """

    journal: bytes = b""
    rounds: int = 0
    last_round: int = 0
    height: int = -1
    decided_round: int = 0
    decided_head: bytes = b""
    silent_since: int = 0


class RoundStatus(enum.Enum):
    """End of a round."""

    CLOSED = "closed"
    VOID = "void"
    ABORTED = "aborted"


@attrs.frozen(eq=False)
class Outcome:
    """Message of ``round_closed``: the end of a round.

    Attributes:
        round_info: the round.
        status: ``CLOSED`` with a new model. ``VOID`` where a set was decided, and then that there
            is no new model: the height is over, and the model stays. ``ABORTED`` where no set was
            decided, and the height goes on.
        model_digest: digest of the model after the round.
        members: senders whose contributions were agreed, ascending; empty when aborted, and where
            this node took the outcome from others.
        reason: why there is no new model, else empty.
        code: id of the error that the members agreed on when it is void, for example
            ``QRES-E508``; else empty.
        merged: whether the new model is what this node merged itself; false where it took the model
            from others.
        change: what the round added to the model, int32, read-only, of the length of the whole
            model; the same on every node. ``None`` where there is no new model, and where this node
            went over more than a step at once.
    """

    round_info: RoundInfo
    status: RoundStatus
    model_digest: bytes
    members: tuple[NodeId, ...] = ()
    reason: str = ""
    code: str = ""
    merged: bool = True
    change: Vector | None = None
