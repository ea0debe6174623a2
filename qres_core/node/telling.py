"""Lines of a node's log about its rounds and neighbours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import attrs
import structlog

from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.training import TrainerFailure
from qres_core.contract.transport import PeerChange, TransportEvent
from qres_core.contract.types import NodeId
from qres_core.node.logs import Throttle
from qres_core.swarm.context.effects import (
    NOTHING_NEW,
    Agreed,
    Refused,
    Removed,
    RoundEnded,
    SatOut,
    Vanished,
)
from qres_core.swarm.runtime.node import Event


@attrs.define(eq=False)
class Teller:
    """Writes events to the log; those that others can cause at will are throttled."""

    log: structlog.stdlib.BoundLogger
    _told: bool = attrs.field(default=False, init=False)
    _throttle: Throttle = attrs.field(factory=lambda: Throttle(time.monotonic), init=False)
    _coming: Throttle = attrs.field(factory=lambda: Throttle(time.monotonic), init=False)

    def event(self, event: Event, step: int | None) -> None:
        """Something happened in a round.

        ``step``: number of the node's model, if there is a node.
        """
        match event:
            case RoundEnded(outcome):
                closed = outcome.status is RoundStatus.CLOSED
                say = self.log.info if closed else self.log.warning
                say(
                    f"round {outcome.status.value}",
                    round=outcome.round_info.number,
                    height=outcome.round_info.height,
                    step=_step_after(outcome, step),
                    members=len(outcome.members),
                    model_digest=outcome.model_digest.hex(),
                    **({"reason": outcome.reason} if outcome.reason else {}),
                    **({"code": outcome.code} if outcome.code else {}),
                    **({"found": event.found} if event.found else {}),
                    **({"saturated": event.saturated} if event.saturated else {}),
                )
            case Agreed(number, digest):
                self.log.debug("model agreed", round=number, model_digest=digest.hex())
            case Refused(number, sender, reason, detail):
                # Not said by the sender for sure: an impostor uses its name.
                self.throttled(
                    f"refused {reason}",
                    "message refused",
                    round=number,
                    claimed_sender=None if sender is None else sender.hex(),
                    reason=reason,
                    **({"detail": detail} if detail else {}),
                )
            case Removed(height):
                self.log.warning(
                    "no member any more",
                    what="the members removed this node; it stops, and its data stay",
                    height=height,
                )
            case Vanished():
                if not self._told:
                    self._told = True
                    self.log.warning("updates vanish", round=event.round, what=event.text)
            case TrainerFailure():
                self.failed(event)
            case SatOut(number, reason) if reason == NOTHING_NEW:
                self.log.info("nothing new to train on", round=number)
            case SatOut(number, reason):
                self.throttled(f"sat out {reason}", "sat out", round=number, reason=reason)

    def failed(self, failure: TrainerFailure) -> None:
        """The trainer failed; the traceback goes with it."""
        self.throttled(
            f"trainer {failure.method} {failure.error}",
            "trainer failed",
            **failure.to_json(),
            traceback=failure.traceback,
        )

    def neighbour(self, event: TransportEvent) -> None:
        """A neighbour came, went or was not let in; what did not come up is for :meth:`links`."""
        if event.change is PeerChange.FAILED:
            return
        peer = None if event.peer is None else event.peer.hex()
        kind = f"peer {event.change}"
        why = {} if event.reason is None else {"reason": str(event.reason)}
        if event.change in {PeerChange.UP, PeerChange.DOWN}:
            held_back = self._coming.admit(str(peer))
            if held_back is not None:
                more = {"not_logged": held_back} if held_back else {}
                self.log.info(kind, peer=peer, detail=event.detail, **why, **more)
        else:
            self.throttled(kind, kind, peer=peer, detail=event.detail, **why)

    def links(self, peer: NodeId | None, reasons: Mapping[str, int], detail: str) -> None:
        """Log the links of a neighbour that ended since the last time, with reasons and counts."""
        name = None if peer is None else peer.hex()
        self.log.info("links ended", peer=name, reasons=reasons, detail=detail)

    def throttled(self, kind: str, event: str, **fields: Any) -> None:
        """Warn, but not of too many events of a kind; say how many were held back."""
        held_back = self._throttle.admit(kind)
        if held_back is not None:
            more = {"not_logged": held_back} if held_back else {}
            self.log.warning(event, **fields, **more)


def _step_after(outcome: Outcome, step: int | None) -> int | None:
    """Number of the model after a round.

    ``step``: that of the node's model. It may be further: several rounds can end at once.
    """
    if not outcome.members:  # it caught up, or there is no other model
        return step
    return outcome.round_info.step + (outcome.status is RoundStatus.CLOSED)
