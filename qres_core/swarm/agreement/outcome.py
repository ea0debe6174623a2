"""The second instance of a height: what becomes of the decided set.

Each node says first, by its prevote of the first attempt, what it found itself: the model that the
set merges to, or why there is none. Where these differ, members propose in turn. A node accepts
what it found itself, and what more than f nodes found: one of them is honest. A model it accepts
only once it holds it, so that every model that is decided can be had from honest nodes.

Among 2 f + 1 honest nodes, f + 1 found the model or f + 1 found none, because what the set merges
to and whether a rule refuses it is the same everywhere. So there is always something that all
accept. Where nodes that found none have different reasons, ``UNFINISHED`` stands for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.agreement.instances import Instance
from qres_core.swarm.consensus.votes import Decide, Lock, Propose, Step, Value
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.messages import (
    OUTCOME,
    OUTCOME_LOCK,
    OUTCOME_PREVOTE,
    OUTCOME_PROPOSAL,
    OutcomeProposal,
    decode_conclusion,
    encode_conclusion,
)
from qres_core.swarm.ledger.misbehaviour import MisbehaviourPool
from qres_core.swarm.ledger.results import UNFINISHED, Conclusion, Merged, Result, Void
from qres_core.swarm.storage.journal import Journal


class OutcomeVote(Instance):
    """The agreement on the outcome. It begins when this node knows the decided set.

    Args:
        holds: whether the model of a digest is here.
    """

    prefix: ClassVar[str] = OUTCOME

    def __init__(
        self,
        speaker: Speaker,
        journal: Journal,
        pool: MisbehaviourPool,
        holds: Callable[[bytes], bool],
    ) -> None:
        super().__init__(speaker, journal, pool, self._proposer, claims=True)
        self._holds = holds
        self._offset = 0  # of the round that decided the set: attempts go on with the next member
        self._known: dict[Value, Conclusion] = {}
        self._proposals: dict[int, Envelope] = {}
        self._asked_for: Propose | None = None
        self.chosen = b""  # digest of the decided set, once it is known
        self.own: Conclusion | None = None  # what this node found
        self.decision: Conclusion | None = None
        self.round = 0  # the attempt that decided
        self._restored: tuple[tuple[int, str, bytes], ...] = ()
        self._wrote: dict[int, Conclusion | None] = {}  # proposals of before this node stopped

    def _proposer(self, number: int) -> NodeId:
        return self._context.head.proposer(self._offset + number)

    @property
    def attempts(self) -> int:
        """Attempts that came to nothing here."""
        return max(0, self.engine.round - 1)

    # ── beginning ─────────────────────────────────────────────────────────────────────────────

    def restore(
        self, attempt: int, ballots: tuple[tuple[int, str, bytes], ...], lock: bytes | None
    ) -> None:
        """Take back what the journal kept. Raises WireError: for a record that cannot be read."""
        locked: Lock | None = None
        if lock is not None:
            proposal = OutcomeProposal.from_bytes(lock, len(self._context.roster))
            locked = Lock(self._know(proposal.decision), proposal.lock_round)
            self._proofs[locked.round, Step.PREVOTE, locked.value] = proposal.prevotes
        own: list[tuple[int, Step, Value | None]] = []
        for number, kind, payload in ballots:
            if kind in self._kinds:
                self._counted(payload)
                own.append((number, self._kinds[kind], self._read(payload)))
            if (number, kind) == (1, OUTCOME_PREVOTE):
                self.own = decode_conclusion(payload)
            if kind == OUTCOME_PROPOSAL:
                self._wrote[number] = decode_conclusion(payload)
        self._restored = ballots
        self.engine.restore(locked, locked, own)
        self._resume_at = attempt

    _resume_at: int = 0

    def begin(self, chosen: bytes, origin: int, now: float) -> None:
        """The set is decided.

        ``origin``: the round that its contributions are of, which is the same for all.
        """
        self.chosen, self._offset = chosen, origin
        for number, kind, payload in self._restored:  # what it voted before it stopped
            if kind in self._kinds:
                slot = f"{kind} 1" if number == 1 else kind
                said = self._speaker.say(kind, payload, now, round_number=number, slot=slot)
                key = number, self._kinds[kind]
                mine = self._read(payload), said
                self._heard.setdefault(key, {})[self._context.node_id] = mine
        self._do(self.engine.start(max(1, self._resume_at)), now)
        if self.own is not None:
            self._do(self.engine.claim(self.own.digest), now)
        self.look(now)

    def found(self, result: Result, now: float) -> None:
        """Note this node's finding; the first counts."""
        if self.own is not None:
            return
        self.own = Conclusion(self.chosen, result)
        self._do(self.engine.claim(self._know(self.own)), now)
        self.look(now)

    @property
    def common(self) -> Merged | None:
        """A model that more than ``f`` nodes found, if it is here.

        One of them is honest, so a node may claim it that cannot merge itself.
        """
        for decision in self._claims():
            result = decision.result
            if isinstance(result, Merged) and self._accepts(decision):
                return result
        return None

    def _know(self, decision: Conclusion) -> Value:
        self._known.setdefault(decision.digest, decision)
        return decision.digest

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message of this instance. Raises WireError: QRES-E401 to QRES-E404."""
        if self.decision is not None:
            return
        if envelope.kind == OUTCOME_PROPOSAL:
            self._take_proposal(envelope, now)
        elif envelope.kind == OUTCOME_LOCK:
            self._take_lock(envelope, now)
        else:
            self.take_vote(envelope, now)
        self.look(now)

    def _take_proposal(self, envelope: Envelope, now: float) -> None:
        proposal = OutcomeProposal.from_bytes(envelope.payload, len(self._context.roster))
        number = envelope.round
        # It is repeated; who may propose is not known yet, or a liar speaks of attempts to come.
        if not self.chosen or number < 2 or not self.engine.is_near(number):
            return
        if envelope.sender != self._proposer(number):
            self._outlet.refuse(envelope, Fault.NOT_THE_PROPOSER, Blame.SENDER)
            return
        value, earlier = proposal.decision.digest, self._proposals.get(number)
        if earlier is not None:
            first = OutcomeProposal.from_bytes(earlier.payload, len(self._context.roster))
            if first.decision != proposal.decision:
                self._equivocated(envelope, (value, earlier))
            return
        lock_round = proposal.lock_round
        if lock_round and not self.quoted(
            Step.PREVOTE, lock_round, value, proposal.prevotes, envelope.sender, now
        ):
            self._outlet.refuse(envelope, Fault.UNPROVEN_LOCK, self._blame_for(proposal.prevotes))
            return
        self._proposals[number] = envelope
        self._know(proposal.decision)
        self._do(self.engine.propose(number, value, lock_round), now)

    def _take_lock(self, envelope: Envelope, now: float) -> None:
        told = OutcomeProposal.from_bytes(envelope.payload, len(self._context.roster))
        shown = Lock(told.decision.digest, told.lock_round)
        if self._is_of_quorum(Step.PREVOTE, shown, told.prevotes, envelope, now):
            self._know(told.decision)

    # ── judging ───────────────────────────────────────────────────────────────────────────────

    def look(self, now: float) -> None:
        """Tell the engine which decisions are known, and which are acceptable by now."""
        if not self.chosen or self.decision is not None:
            return
        for value, decision in list(self._known.items()):
            accepted = True if self._accepts(decision) else None
            self._do(self.engine.judge(value, accepted=accepted), now)
        self._propose_if_asked(now)

    def _claims(self) -> Counter[Conclusion]:
        """Findings, with the number of nodes that claim each in first prevotes."""
        counts = self.engine.tally(1, Step.PREVOTE).counts()
        known = {self._known[value]: n for value, n in counts.items() if value in self._known}
        return Counter(known)

    def _accepts(self, decision: Conclusion) -> bool:
        if decision == self.own:
            return True
        result = decision.result
        held = not isinstance(result, Merged) or self._holds(result.model)
        return decision.chosen == self.chosen and held and self._is_common(decision)

    def _is_common(self, decision: Conclusion) -> bool:
        """True if more than f nodes found it, or for :data:`UNFINISHED` found no model."""
        claims, few = self._claims(), self._context.byzantine
        none = sum(n for item, n in claims.items() if isinstance(item.result, Void))
        return claims[decision] > few or (decision.result == Void(UNFINISHED) and none > few)

    @property
    def wanted(self) -> bytes | None:
        """Digest of a model that this node needs: decided, or found by more than ``f`` others."""
        if self.decision is not None:
            result = self.decision.result
            return result.model if isinstance(result, Merged) else None
        for decision, count in self._claims().items():
            result = decision.result
            mine = decision.chosen == self.chosen and count > self._context.byzantine
            if mine and isinstance(result, Merged) and not self._holds(result.model):
                return result.model
        return None

    # ── proposing ─────────────────────────────────────────────────────────────────────────────

    def _asked(self, action: Propose, now: float) -> None:
        self._asked_for = action
        self._propose_if_asked(now)

    def _propose_if_asked(self, now: float) -> None:
        asked = self._asked_for
        if asked is None or asked.round != self.engine.round:
            return
        valid, wrote = self.engine.valid, self._wrote.get(asked.round)
        if wrote is not None:  # before this node stopped; another would be equivocation
            proposal = OutcomeProposal(wrote)
        elif valid is not None and valid.value in self._known:
            prevotes = self.quorum(Step.PREVOTE, valid.round, valid.value)
            proposal = OutcomeProposal(self._known[valid.value], valid.round, prevotes)
        else:
            decision = self._best()
            if decision is None:
                return
            proposal = OutcomeProposal(decision)
        self._asked_for = None
        payload = proposal.to_bytes()
        noted = encode_conclusion(proposal.decision)
        self._speaker.bind(asked.round, OUTCOME_PROPOSAL, noted)
        self._speaker.say(OUTCOME_PROPOSAL, payload, now, round_number=asked.round)
        value = self._know(proposal.decision)
        self._do(self.engine.propose(asked.round, value, proposal.lock_round), now)

    def _best(self) -> Conclusion | None:
        """Value to propose: one that others accept too, and of these the most frequent finding."""
        claims = self._claims()
        fallback = Conclusion(self.chosen, Void(UNFINISHED))
        known = {*self._known.values(), fallback}
        accepted = [decision for decision in known if self._accepts(decision)]
        if not accepted:
            return None
        return max(
            accepted,
            key=lambda item: (
                self._is_common(item), claims[item], item == self.own, item.digest,
            ),
        )  # fmt: skip

    # ── the engine's wishes ───────────────────────────────────────────────────────────────────

    def _read(self, payload: bytes) -> Value | None:
        decision = decode_conclusion(payload)
        return None if decision is None else decision.digest

    def _counted(self, payload: bytes) -> None:
        decision = decode_conclusion(payload)
        if decision is not None:
            self._know(decision)

    def _write(self, value: Value | None) -> bytes:
        return encode_conclusion(None if value is None else self._known[value])

    def _noted(self, value: Value | None) -> bytes | None:
        return self._write(value)

    def _proposal(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> bytes | None:
        decision = self._known.get(lock.value)
        if decision is None:
            return None
        return OutcomeProposal(decision, lock.round, prevotes).to_bytes()

    def _record_lock(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> None:
        proposal = OutcomeProposal(self._known[lock.value], lock.round, prevotes)
        self._journal.record_outcome_lock(proposal.to_bytes())

    def _entered(self, number: int, now: float) -> None:
        self._asked_for = None
        for old in [old for old in self._proposals if not self.engine.is_near(old)]:
            del self._proposals[old]
        kept = self.engine.values
        for value in [value for value in self._known if value not in kept]:
            del self._known[value]
            self.engine.forget(value)
        self._speaker.unsay(OUTCOME_PROPOSAL)
        if number > 1:
            self.expect(now + self.timeout)

    def _decided(self, action: Decide, now: float) -> None:
        del now
        self.decision, self.round = self._known[action.value], action.round
