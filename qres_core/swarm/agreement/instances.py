"""An instance of consensus at a node: the engine, and the signed messages behind its digests.

A height has two, :class:`~qres_core.swarm.agreement.choice.Choice` and
:class:`~qres_core.swarm.agreement.outcome.OutcomeVote`. What is the same in both is here: votes in
and out, quorums that somebody quotes, times, locks that are shown, and what the journal must know
first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import ClassVar

from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import (
    Action,
    Decide,
    Enter,
    Lock,
    Propose,
    Refuse,
    Show,
    Step,
    Value,
    Vote,
    Wait,
)
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import backoff
from qres_core.swarm.ledger.misbehaviour import MisbehaviourPool
from qres_core.swarm.ledger.proving import conflict
from qres_core.swarm.storage.journal import Journal

_Key = tuple[int, Step]


class Instance(ABC):
    """One of the two. Kinds of its messages begin with ``prefix``."""

    prefix: ClassVar[str]

    def __init__(
        self,
        speaker: Speaker,
        journal: Journal,
        pool: MisbehaviourPool,
        proposer: Callable[[int], NodeId],
        *,
        claims: bool = False,
    ) -> None:
        self._context, self._speaker, self._outlet = speaker.context, speaker, speaker.outlet
        self._journal, self._pool = journal, pool
        roster = self._context.head.roster
        self._head = self._context.head.digest
        # Nobody's name is no voter's: the engine of a node that only follows says nothing.
        me = self._context.node_id if self._context.votes else b""
        self.engine: Consensus[NodeId] = Consensus(
            me, roster.members, roster.byzantine, proposer, claims=claims
        )
        self._kinds = {
            self.prefix + "prevote": Step.PREVOTE,
            self.prefix + "precommit": Step.PRECOMMIT,
        }
        self._heard: dict[_Key, dict[NodeId, tuple[Value | None, Envelope]]] = {}
        self._proofs: dict[tuple[int, Step, Value], tuple[Envelope, ...]] = {}
        self._liars: set[NodeId] = set()  # who quoted a quorum that is none
        self._times: dict[tuple[int, Step], float] = {}
        self._to_do: deque[Action] = deque()
        self._doing = False

    # ── what differs ──────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def _read(self, payload: bytes) -> Value | None:
        """Read the value of a vote. Raises WireError."""

    def _counted(self, payload: bytes) -> None:
        """The vote of another node counts. Those that do not leave nothing behind."""
        del payload

    @abstractmethod
    def _write(self, value: Value | None) -> bytes:
        """The payload of a vote."""

    def _noted(self, value: Value | None) -> bytes | None:
        """Note on a vote for the journal."""
        return value

    @abstractmethod
    def _proposal(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> bytes | None:
        """A locked value as the payload of a proposal; ``None`` if the value is not here."""

    @abstractmethod
    def _record_lock(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> None:
        """Put the lock into the journal."""

    @abstractmethod
    def _entered(self, number: int, now: float) -> None:
        """The engine is in a round."""

    @abstractmethod
    def _asked(self, action: Propose, now: float) -> None:
        """This node is the proposer of the round."""

    @abstractmethod
    def _decided(self, action: Decide, now: float) -> None:
        """A quorum decided."""

    # ── votes and quorums ─────────────────────────────────────────────────────────────────────

    def take_vote(self, envelope: Envelope, now: float) -> bool:
        """Take a vote; whether the message is one.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        step = self._kinds.get(envelope.kind)
        if step is None:
            return False
        value, sender, key = self._read(envelope.payload), envelope.sender, (envelope.round, step)
        if key[0] < 1 or not self.engine.vote(step, key[0], sender, value):
            self._equivocated(envelope, self._heard.get(key, {}).get(sender))
        elif sender in self.engine.tally(*key).votes:
            self._heard.setdefault(key, {}).setdefault(sender, (value, envelope))
            self._counted(envelope.payload)
        self._do(self.engine.advance(), now)
        return True

    def _equivocated(self, envelope: Envelope, earlier: tuple[object, Envelope] | None) -> None:
        self._outlet.refuse(envelope, Fault.EQUIVOCATION, Blame.SENDER)
        if earlier is not None:
            self.report(earlier[1], envelope)

    def report(self, first: Envelope, second: Envelope) -> None:
        """Keep two messages that prove equivocation, for a proposal."""
        found = conflict(first, second, len(self._context.roster))
        if found is not None:
            self._pool.add(found)

    def quoted(
        self,
        step: Step,
        number: int,
        value: Value,
        votes: Iterable[Envelope],
        by: NodeId,
        now: float,
    ) -> bool:
        """True if votes that a node quotes are those of a quorum for a value.

        The authentic ones of members count, and the rest does not. Who quoted none before is not
        asked again at this height: a check costs a signature for each vote.
        """
        if self.engine.tally(number, step).has_quorum(value):
            return True
        if by in self._liars:
            return False
        head, kind = self._context.head, self.prefix + step.name.lower()
        good: dict[NodeId, Envelope] = {}
        for vote in votes:
            if len(good) == self.engine.threshold:
                break
            if (
                vote.kind == kind
                and vote.head == self._head
                and vote.round == number
                and vote.sender in head.roster
                and vote.sender not in head.bans
                and vote.sender not in good
                and self._read(vote.payload) == value
                and self._context.kernel.authentic(vote, now)
            ):
                good[vote.sender] = vote
        if len(good) < self.engine.threshold:
            self._liars.add(by)
            return False
        self._proofs[number, step, value] = tuple(good[sender] for sender in sorted(good))
        self.engine.prove(step, number, value)
        return True

    def _is_of_quorum(
        self, step: Step, shown: Lock, votes: tuple[Envelope, ...], envelope: Envelope, now: float
    ) -> bool:
        """True if a message quotes a quorum's votes; it is refused if it does not."""
        number, value = shown.round, shown.value
        if number > 0 and self.quoted(step, number, value, votes, envelope.sender, now):
            return True
        decided = step is Step.PRECOMMIT
        fault = Fault.UNPROVEN_CERTIFICATE if decided else Fault.UNPROVEN_LOCK
        self._outlet.refuse(envelope, fault, self._blame_for(votes))
        return False

    def see(self, peer: NodeId, number: int, now: float) -> None:
        """Another node is in a round: this one goes there if more than ``f`` are further."""
        self.engine.see(peer, number)
        if number > self.engine.round > 0:
            self._do(self.engine.advance(), now)

    def _blame_for(self, votes: Iterable[Envelope]) -> Blame:
        """Parties to blame for votes that prove nothing.

        A key may have been replaced after an honest node kept a vote that it signed.
        """
        old = any(map(self._context.kernel.is_of_old_key, votes))
        return Blame.NOBODY if old else Blame.SENDER

    def quorum(self, step: Step, number: int, value: Value) -> tuple[Envelope, ...]:
        """The messages of a quorum that voted for a value, and no more, ascending by sender."""
        proof = self._proofs.get((number, step, value))
        if proof is not None:
            return proof
        heard = sorted(self._heard.get((number, step), {}).items())
        votes = tuple(vote for _sender, (choice, vote) in heard if choice == value)
        return votes[: self.engine.threshold]

    # ── what the engine wants ─────────────────────────────────────────────────────────────────

    def _do(self, actions: Iterable[Action], now: float) -> None:
        """Do what the engine wants, in its order; what comes of it comes after."""
        self._to_do.extend(actions)
        if self._doing:
            return
        self._doing = True
        try:
            while self._to_do:
                self._act(self._to_do.popleft(), now)
        finally:
            self._doing = False

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Enter(number):
                self._forget()
                self._entered(number, now)
            case Propose():
                self._asked(action, now)
            case Vote(step, number, value):
                self._vote(step, number, value, now)
            case Wait(step, number):
                self._times[number, step] = now + self.timeout
            case Refuse(_number, lock) | Show(_number, lock):
                self._show(lock, now)
            case Decide():
                self._times.clear()
                self._decided(action, now)

    def _vote(self, step: Step, number: int, value: Value | None, now: float) -> None:
        kind = self.prefix + step.name.lower()
        lock = self.engine.lock
        if step is Step.PRECOMMIT and lock is not None and lock.value == value:
            self._record_lock(lock, self.quorum(Step.PREVOTE, lock.round, lock.value))
        self._speaker.bind(number, kind, self._noted(value))
        slot = f"{kind} 1" if number == 1 and self.engine.claims else kind
        said = self._speaker.say(kind, self._write(value), now, round_number=number, slot=slot)
        self._heard.setdefault((number, step), {})[self._context.node_id] = value, said

    def _show(self, lock: Lock, now: float) -> None:
        """Tell all of a lock: a proposer that does not know it would be refused for ever."""
        payload = self._proposal(lock, self.quorum(Step.PREVOTE, lock.round, lock.value))
        if payload is not None and self.engine.votes:
            kind = self.prefix + "lock"
            self._speaker.say(kind, payload, now, round_number=self.engine.round)

    def _forget(self) -> None:
        """Forget votes that cannot matter; those behind a lock do, however long ago they were."""
        locks = self.engine.lock, self.engine.valid
        kept = self.engine.kept | {(lock.round, Step.PREVOTE) for lock in locks if lock is not None}
        self._heard = {key: votes for key, votes in self._heard.items() if key in kept}
        self._proofs = {key: votes for key, votes in self._proofs.items() if key[:2] in kept}
        for key in [key for key in self._times if key[0] < self.engine.round]:
            del self._times[key]

    # ── time ──────────────────────────────────────────────────────────────────────────────────

    @property
    def timeout(self) -> float:
        """Time that a step of voting may take now, seconds."""
        context = self._context
        return context.swarm.vote_timeout * context.waits.stretch * backoff(self.attempts)

    @property
    @abstractmethod
    def attempts(self) -> int:
        """Rounds of the instance that came to nothing."""

    def expect(self, at: float) -> None:
        """The proposal of the engine's round is to be here, and judged, by then; seconds."""
        key = self.engine.round, Step.PROPOSE
        self._times[key] = max(at, self._times.get(key, at))

    def expect_by(self, at: float) -> None:
        """The proposal is to be here earlier than was thought when the round began; seconds."""
        key = self.engine.round, Step.PROPOSE
        if key in self._times:
            self._times[key] = min(at, self._times[key])

    def tick(self, now: float) -> None:
        """The clock is at ``now`` seconds."""
        for key in sorted(key for key, at in self._times.items() if now >= at):
            self._times.pop(key, None)
            number, step = key
            self._do(self.engine.expire(step, number), now)

    def due(self) -> float:
        """Time at which the clock next matters, seconds."""
        return min(self._times.values(), default=math.inf)
