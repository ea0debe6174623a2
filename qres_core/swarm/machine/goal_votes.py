"""The end of a swarm that runs until a model is good enough (``swarm.until``)."""

from __future__ import annotations

from collections.abc import Sequence

from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.goal import Goal
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.messages import (
    ENOUGH,
    STOP,
    decode_enough,
    decode_stop,
    encode_enough,
    encode_stop,
    goal_digest,
)
from qres_core.swarm.ledger.roster import MAX_MEMBERS


class Until:
    """Nodes that found a model good enough, and those that know that as many as decide did."""

    def __init__(self, speaker: Speaker) -> None:
        self._context = context = speaker.context
        self._speaker, self._outlet = speaker, speaker.outlet
        self._goal = goal_digest(str(Goal.parse(context.swarm.until)))
        self._good: int | None = None  # the model that this node found good enough
        self._enough: dict[NodeId, Envelope] = {}
        self._stopping: set[NodeId] = set()

    @property
    def reached(self) -> bool:
        """True if so many nodes as decide a vote found a model good enough."""
        return len(self._enough.keys() & set(self._context.roster)) >= self._context.threshold

    def open_round(self, now: float) -> None:
        """Say it again in a new round: a node that was started again has forgotten it."""
        self._stopping = set()
        self.say(now)

    def found(self, step: int, now: float) -> None:
        """This node finds the model of a step good enough: tell the others."""
        if self._good in (None, step):
            self._good = step
            self.say(now)

    def say(self, now: float) -> None:
        """Tell the others what this node found, and what is proven."""
        if self._good is not None:
            said = self._speaker.broadcast(ENOUGH, encode_enough(self._good, self._goal), now)
            self._enough[self._context.node_id] = said
        self._say_stop(now)

    def _say_stop(self, now: float) -> None:
        """Prove to the others that it is over.

        A liar may have said enough to some and not to the rest, who could make no model any more.
        """
        if not self.reached:
            return
        context = self._context
        self._stopping.add(context.node_id)
        others = [peer for peer in context.roster if peer not in self._stopping]
        if others:
            # A word that is no longer taken, of a revoked member, would have the whole refused.
            said = self._enough.values()
            authentic = context.kernel.authentic
            quoted = [word for word in said if authentic(word, now)][: context.threshold]
            envelope = self._speaker.make(STOP, encode_stop(quoted), now)
            for peer in others:
                self._speaker.send(peer, envelope)

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message of kind ``enough`` or ``stop``.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        first = not self.reached
        if envelope.kind == ENOUGH:
            if not self._is_for_goal(envelope):
                self._outlet.refuse(envelope, Fault.OTHER_GOAL, Blame.SENDER)
                return
            self._enough[envelope.sender] = envelope
        else:
            here = envelope.head == self._context.head.digest  # else it may know other members
            quoted = decode_stop(
                envelope.payload, len(self._context.roster) if here else MAX_MEMBERS
            )
            proven = self._proven(quoted, now)
            if len(proven) < self._context.threshold:
                old = any(map(self._context.kernel.is_of_old_key, quoted))
                blame = Blame.SENDER if here and not old else Blame.NOBODY
                self._outlet.refuse(envelope, Fault.UNPROVEN_STOP, blame)
                return
            self._stopping.add(envelope.sender)
            for said in proven:
                self._enough.setdefault(said.sender, said)
        if first:
            self._say_stop(now)

    def _is_for_goal(self, said: Envelope) -> bool:
        return decode_enough(said.payload)[1] == self._goal

    def _proven(self, quoted: Sequence[Envelope], now: float) -> list[Envelope]:
        """Of the quoted messages those that count, as many as decide a vote at most."""
        proven: dict[NodeId, Envelope] = {}
        for said in quoted:
            if len(proven) == self._context.threshold:
                break
            if (
                said.kind == ENOUGH
                and said.sender not in proven
                and self._is_for_goal(said)
                and self._context.kernel.authentic(said, now)
            ):
                proven[said.sender] = said
        return list(proven.values())
