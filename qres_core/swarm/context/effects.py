"""Requests and reports of the round machine. It does nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeAlias

import attrs

from qres_core.contract.errors import RoundError
from qres_core.contract.rounds import Outcome, RoundInfo
from qres_core.contract.types import NodeId, Vector
from qres_core.swarm.storage.model_file import SwarmModel

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
    """Train from the model; give the result to :meth:`RoundMachine.trained`.

    The newest one counts: it may be for a round to come, and the swarm may go on otherwise.
    """

    round_info: RoundInfo
    model: Vector


def _not_yet() -> Future[object]:
    return Future()


@attrs.frozen(eq=False)
class AskTrainer:
    """:meth:`run` it in any thread, and give it to :meth:`RoundMachine.answered` then.

    The newest one counts: nobody waits for the answer to an earlier one any more.
    """

    call: Callable[[], object]  # a method of the trainer that judges, with its arguments
    answer: Future[object] = attrs.field(factory=_not_yet, init=False)

    def run(self) -> None:
        """Have the trainer answer, or fail; nothing, if nobody waits for it any more."""
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            found = self.call()
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is looked at
            self.answer.set_exception(error)
            del self  # the error holds this frame: what was asked would wait for the collector
        else:
            self.answer.set_result(found)


@attrs.frozen(eq=False)
class RoundEnded:
    """A round ended; ``model`` is the model after it, changed or not."""

    outcome: Outcome  # status, members, reason
    model: Vector  # int32, shape ``(d,)``
    # what the aggregation gave, ``None`` where this node did not merge it or there is no new model
    merged: Vector | None = None
    saturated: int = 0  # coordinates of the new model held at the grid's limit
    # what this node itself found in place of a model: the plugin and hook, and what was wrong
    found: str = ""

    @property
    def reason(self) -> str:
        """Reason for no new model: what was agreed, and what this node found; else empty."""
        return ": ".join(filter(None, (self.outcome.reason, self.found)))


@attrs.frozen
class Vanished:
    """Most of what this node's training changed is below half a step of the grid."""

    round: int  # number of the round
    text: str  # one sentence
    fix: str  # what mends it


@attrs.frozen
class Agreed:
    """A quorum of nodes decided the model that this node has after the round."""

    round: int
    model_digest: bytes


@attrs.frozen(eq=False)
class Vouched:
    """A quorum of nodes decided this node's model."""

    model: SwarmModel  # the model, with the votes of those nodes


@attrs.frozen
class Refused:
    """A message was refused."""

    round: int  # of the message
    sender: NodeId | None  # who claims to have sent it, if that is known
    reason: str  # a :class:`~qres_core.Fault`, or ``"<plugin>:<id>"``
    detail: str = ""  # for the log alone, for example the field that cannot be decoded


@attrs.frozen
class SatOut:
    """This node contributes nothing to the round."""

    round: int
    reason: str


@attrs.frozen
class Diverged:
    """The node must stop: a quorum decided otherwise than it."""

    error: RoundError  # says so
    # digests of the model that the quorum does not hold, and of those made from it
    models: frozenset[bytes]


@attrs.frozen
class Removed:
    """The members decided that this node is none any more. It has stopped."""

    height: int  # from which on


Effect: TypeAlias = (
    Broadcast
    | SendTo
    | Train
    | AskTrainer
    | RoundEnded
    | Agreed
    | Vouched
    | Refused
    | SatOut
    | Diverged
    | Removed
)
