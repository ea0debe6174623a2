"""What the round machine wants done, and what it reports. It does nothing itself."""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from qres_core.contract.errors import RoundError
from qres_core.contract.rounds import Outcome, RoundInfo
from qres_core.contract.types import NodeId, Vector
from qres_core.swarm.model_file import SwarmModel

NOTHING_NEW: Final = "nothing new"
"""Why a node sits a round out whose trainer has nothing to train on."""


@attrs.frozen
class Broadcast:
    """Send the frame to every other node."""

    frame: bytes


@attrs.frozen
class SendTo:
    """Send the frame to one node."""

    to: NodeId
    frame: bytes


@attrs.frozen(eq=False)
class Train:
    """Train from the model; give the result to :meth:`RoundMachine.trained`."""

    round_info: RoundInfo
    model: Vector


@attrs.frozen(eq=False)
class RoundEnded:
    """A round ended; ``model`` is the model after it, changed or not.

    Attributes:
        outcome: status, members, reason.
        model: int32, shape ``(d,)``.
        merged: what the aggregation gave, ``None`` when aborted or caught up from a snapshot.
        saturated: coordinates of the new model held at the grid's limit.
    """

    outcome: Outcome
    model: Vector
    merged: Vector | None = None
    saturated: int = 0


@attrs.frozen
class Vanished:
    """Most of what this node's training changed is below half a step of the grid.

    Attributes:
        round: number of the round.
        text: one sentence.
        fix: what mends it.
    """

    round: int
    text: str
    fix: str


@attrs.frozen
class Agreed:
    """A quorum of nodes holds the same model after the round as this node."""

    round: int
    model_digest: bytes


@attrs.frozen(eq=False)
class Vouched:
    """More than f nodes hold the same model as this node: one of them at least is honest.

    Attributes:
        model: the model, with the messages of those nodes.
    """

    model: SwarmModel


@attrs.frozen
class Refused:
    """A message was refused.

    Attributes:
        round: of the message.
        sender: who claims to have sent it, if that is known.
        reason: a :class:`~qres_core.Fault`, or ``"<plugin>:<id>"``.
        detail: for the log alone, for example the field that cannot be decoded.
    """

    round: int
    sender: NodeId | None
    reason: str
    detail: str = ""


@attrs.frozen
class SatOut:
    """This node contributes nothing to the round."""

    round: int
    reason: str


@attrs.frozen
class Diverged:
    """The node must stop: a quorum holds another model.

    Attributes:
        error: says so.
        models: digests of the model that the quorum does not hold, and of those made from it.
    """

    error: RoundError
    models: frozenset[bytes]


Effect: TypeAlias = (
    Broadcast | SendTo | Train | RoundEnded | Agreed | Vouched | Refused | SatOut | Diverged
)
