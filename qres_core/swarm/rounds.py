"""The round as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It owns the current model and runs round after round: open, gather
contributions, agree on a set, close with a new model or abort with nothing changed. It does no I/O
and reads no clock; :mod:`qres_core.swarm.node` drives it over a transport and
:mod:`qres_core.lab.simulator` on a virtual clock.

Time in a round, from its opening (``D`` deadline, ``T`` vote timeout, which grows with aborts)::

    0 ......... D ......... D+T ........ D+2T ....... D+3T
    gather      propose     prevote nil  precommit    abort
                at latest   at latest    nil at latest

Each step is taken at once when its condition holds; the times are the latest. The last one counts
from when a quorum of nodes is known to be in the round or past it: one that ran ahead alone would
be out of step with the others for ever. What a node has said in a round that does not end, it says
again every ``T/2``, and asks again for what it lacks: messages get lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.dialogue import Accusation, Dialogue, DialogueMessage, Send
from qres_core.contract.errors import QresError, RoundError, WireError
from qres_core.contract.fixed import add_saturating
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.trainer import Validator
from qres_core.contract.types import (
    FULL_STANDING,
    Contribution,
    Evidence,
    NodeId,
    Outcome,
    RoundInfo,
    RoundStatus,
    Update,
    Vector,
    check_vector,
    model_digest,
)
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel, Rejection
from qres_core.swarm.agreement import (
    NO_QUORUM,
    Ballot,
    Lock,
    is_quorum,
    may_prevote,
    vote_threshold,
)
from qres_core.swarm.effects import (
    Agreed,
    Broadcast,
    Diverged,
    Effect,
    Refused,
    RoundEnded,
    SatOut,
    SendTo,
    Train,
)
from qres_core.swarm.gathering import Gathering, Held, screened
from qres_core.swarm.journal import SEQUENCE_BLOCK, Journal
from qres_core.swarm.messages import (
    CERTIFICATE,
    CONTRIBUTION,
    DIALOGUE,
    DIGEST,
    FETCH,
    FETCHED,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    SNAPSHOT,
    SYNC,
    CandidateSet,
    Certificate,
    ContributionBody,
    Handover,
    LockRecord,
    Member,
    Proposal,
    Snapshot,
    contribution_digest,
    decode_digest,
    decode_fetch,
    decode_fetched,
    decode_vote,
    encode_vote,
)

MAX_ANSWERS: Final = 4
"""Times in a round a peer is sent the same contribution."""
MAX_EARLY: Final = 8
"""Messages of a sender that are kept because they are of a round this node has not reached."""
PAST_MODELS: Final = 64
"""Past models for which the certificate is kept, to help nodes that lag."""
OWN_VIEW: Final = frozenset({"set names a banned node", "unknown dialogue"})
"""Refusals that rest on what this node alone knows. Another honest node may see it otherwise, so
nobody is to blame."""
MAX_BACKOFF: Final = 8.0
PATIENCE: Final = 1.0
"""Seconds between ticks when every time of the round has passed."""


@attrs.define(eq=False)
class _Round:
    """What is known of the current round."""

    info: RoundInfo
    opened: float
    propose_at: float
    prevote_at: float
    precommit_at: float
    end_at: float
    step: float
    prevotes: Ballot
    precommits: Ballot
    joined: bool = False
    said: list[tuple[str, bytes]] = attrs.field(factory=list[tuple[str, bytes]])
    repeat_at: float = float("inf")
    repeats: int = 0
    dialogues: Mapping[str, Dialogue] = attrs.field(factory=dict[str, Dialogue])
    answered: Counter[tuple[NodeId, bytes]] = attrs.field(factory=Counter[tuple[NodeId, bytes]])
    update: Update | None = None
    contributed: bool = False
    proposed: bool = False
    screened: Screening | None = None  # what this proposer thinks of the contributions
    proposal: Proposal | None = None
    proposal_digest: bytes = b""
    hopeless: bool = False  # the proposer is banned here: its proposal will not be taken
    merged: tuple[bytes, Vector] | None = None  # of the set of that digest, made to judge it
    endorsed: bool | None = None  # this node's own opinion of the proposal
    prevoted: bool = False
    precommitted: bool = False
    decided: Certificate | None = None


class RoundMachine:
    """One node's rounds.

    Args:
        node_id: this node's identity, 32 bytes, in the roster.
        roster: identities of all nodes.
        kernel: the node's plugins, set up.
        swarm: the swarm's promises.
        model: initial model, int32, shape ``(d,)``; superseded by the journal's.
        journal: durable memory.
        validator: judges models by held-out examples, for plugins that validate; they are refused
            without one.
    """

    def __init__(
        self,
        node_id: NodeId,
        roster: Sequence[NodeId],
        kernel: Kernel,
        swarm: SwarmConfig,
        model: Vector,
        journal: Journal,
        validator: Validator | None = None,
    ) -> None:
        self.node_id = node_id
        self.roster = tuple(sorted(roster))
        self.kernel = kernel
        self.swarm = swarm
        self.threshold = vote_threshold(swarm.nodes, swarm.byzantine)
        # The honest part of a quorum, more than f: so many vouch even when all liars fall silent.
        self._vouched = self.threshold - swarm.byzantine
        self._journal = journal
        self._judge_by = validator
        resume = journal.resume()
        self.model = check_vector(model if resume is None else resume.model, "model")
        kernel.fit(int(self.model.size))
        self.step = 0 if resume is None else resume.step
        self.model_round = 0 if resume is None else resume.model_round
        self._first_round = 1 if resume is None else max(resume.last_round, resume.model_round) + 1
        self.model_digest = model_digest(self.model, self.step)
        self._sequence: int = journal.reserve_sequence()
        self._sequence_end: int = self._sequence + SEQUENCE_BLOCK
        self._lock: Lock | None = None  # what this node precommitted to
        self._valid: Lock | None = None  # what it may propose again
        self._gathering = Gathering()
        if resume is not None and resume.lock is not None:
            self._restore_lock(resume.lock)
        self._aborts = 0
        self._pending: Certificate | None = None  # decided elsewhere, contributions not all here
        self._early: dict[NodeId, list[tuple[Envelope, NodeId]]] = {}
        self._highest: dict[NodeId, int] = {}
        self._helped: dict[NodeId, tuple[float, bytes]] = {}
        self._asked: dict[NodeId, float] = {}
        self._ahead: dict[NodeId, float] = {}  # peers with a model unknown here, and since when
        self._looked = float("-inf")
        self._now = 0.0
        self._past: dict[bytes, tuple[int, bytes]] = {}
        self._past_gatherings: dict[bytes, Gathering] = {}
        self._vouchers: dict[bytes, dict[NodeId, tuple[bytes, Envelope]]] = {}
        self._children: dict[bytes, bytes] = {}
        self._parent: bytes = b""
        self._agreed: set[bytes] = set()
        self._stopped = False
        self._out: list[Effect] = []
        self._round: _Round
        if resume is not None and resume.handover is not None:
            self._restore_past(resume.handover)

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._now = now
        self._open(self._first_round, now)
        self._advance(now)
        return self._flush()

    def receive(self, frame: bytes, link: NodeId, now: float) -> list[Effect]:
        """Take a frame from a neighbour. Never raises for what it holds."""
        if self._stopped:
            return []
        self._now = now
        result = self.kernel.inbound(frame, link, now)
        if isinstance(result, Rejection):
            self._out.append(Refused(self.number, result.subject, result.reason))
        elif result.sender != self.node_id:
            self._dispatch(result, link, now)
            self._advance(now)
        return self._flush()

    def tick(self, now: float) -> list[Effect]:
        """The clock is at ``now`` seconds."""
        if self._stopped:
            return []
        self._now = now
        for name, dialogue in self._round.dialogues.items():
            self._send_all(name, dialogue.tick(now), now)
        self._ask_if_behind(now)
        self._advance(now)
        self._repeat(now)
        return self._flush()

    def trained(self, update: Update, round_number: int, now: float) -> list[Effect]:
        """The result of :class:`Train`; ignored if the round is over."""
        if not self._stopped and round_number == self.number:
            self._round.update = update
            self._advance(now)
        return self._flush()

    def sit_out(self, round_number: int, reason: str, now: float) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._stopped and round_number == self.number and not self._round.contributed:
            self._sit_out(reason)
            self._advance(now)
        return self._flush()

    def publish_raw(self, payload: bytes, round_number: int, now: float) -> list[Effect]:
        """Send a contribution made outside the machine, unchecked: how the lab plays a liar."""
        if not self._stopped and round_number == self.number:
            self._round.contributed = True
            self._publish(payload, now)
            self._advance(now)
        return self._flush()

    def stop(self) -> None:
        """Take no further part."""
        self._stopped = True

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self._round.info.number

    @property
    def next_tick(self) -> float:
        """When the clock next matters, in seconds; never, for a node that stopped."""
        if self._stopped:
            return float("inf")
        current = self._round
        times = [current.propose_at, current.prevote_at, current.precommit_at, current.end_at]
        times.append(current.repeat_at)
        if self._ahead:
            since = max(min(self._ahead.values()), self._looked)
            times.append(since + self.swarm.vote_timeout / 2)
        if current.dialogues:
            times.append(self._now + self.swarm.vote_timeout / 4)
        return min((time for time in times if time > self._now), default=self._now + PATIENCE)

    @property
    def contributions(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        held = self._gathering.of_round(self.number)
        return {sender: one.contribution for sender, one in held.items()}

    def _flush(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        if self._sequence == self._sequence_end:
            self._sequence = self._journal.reserve_sequence()
            self._sequence_end = self._sequence + SEQUENCE_BLOCK
        self._sequence += 1
        return self._sequence - 1

    # ── sending ───────────────────────────────────────────────────────────────────────────────

    def _envelope(
        self, kind: str, payload: bytes, now: float, *, round_number: int, model: bytes
    ) -> Envelope:
        sequence = self.take_sequence()
        envelope = Envelope(
            self.swarm.name,
            kind,
            round_number,
            model,
            self.node_id,
            sequence,
            int(now * 1000),
            payload,
        )
        return self.kernel.sign(envelope)

    def _make(self, kind: str, payload: bytes, now: float) -> Envelope:
        return self._envelope(kind, payload, now, round_number=self.number, model=self.model_digest)

    def _broadcast(self, kind: str, payload: bytes, now: float) -> Envelope:
        envelope = self._make(kind, payload, now)
        self._out.append(Broadcast(envelope.to_bytes()))
        return envelope

    def _send(self, to: NodeId, envelope: Envelope) -> None:
        self._out.append(SendTo(to, envelope.to_bytes()))

    def _send_all(self, plugin: str, sends: Sequence[Send | Accusation], now: float) -> None:
        for send in sends:
            if isinstance(send, Accusation):
                self._accuse(plugin, send)
                continue
            envelope = self._make(f"{DIALOGUE}{plugin}/{send.step}", send.body, now)
            if send.to is None:
                self._out.append(Broadcast(envelope.to_bytes()))
            elif send.to != self.node_id:
                self._send(send.to, envelope)

    def _accuse(self, plugin: str, accusation: Accusation) -> None:
        if accusation.subject not in self.roster or accusation.subject == self.node_id:
            return
        subject, fact = accusation.subject, accusation.fact
        self.kernel.refuse(fact, Blame.SENDER, subject, plugin, self.number)
        self._out.append(Refused(self.number, subject, fact))

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self, number: int, now: float) -> None:
        info = RoundInfo(
            self.swarm.name,
            number,
            self.model_digest,
            int(self.model.size),
            self.swarm.scale,
            self.roster,
            self.swarm.quorum,
            self.swarm.byzantine,
            self.step,
        )
        step = self.swarm.vote_timeout * min(1.0 + 0.5 * self._aborts, MAX_BACKOFF)
        gathered = now + self.swarm.deadline
        self._round = _Round(
            info,
            now,
            gathered,
            gathered + step,
            gathered + 2 * step,
            gathered + 3 * step,
            step,
            Ballot(self.threshold),
            Ballot(self.threshold),
            hopeless=self.kernel.standing(self.proposer(number)).banned,
        )
        named = [one for one in (self._lock, self._valid, self._pending) if one is not None]
        self._gathering.keep_only(m.digest for one in named for m in one.candidate.members)
        try:
            self._round.dialogues = self.kernel.round_opened(info)
            for name, dialogue in self._round.dialogues.items():
                self._send_all(name, dialogue.start(), now)
        except QresError as error:
            self._sit_out(f"round_opened: {error.problems[0]}")
        else:
            self._out.append(Train(info, self.model))
        early, self._early = self._early, {}
        for messages in early.values():
            for envelope, link in messages:
                self._dispatch(envelope, link, now)

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        if self.swarm.topology == "coordinator":
            return self.roster[0]
        return self.roster[number % len(self.roster)]

    @property
    def _is_proposer(self) -> bool:
        return self.proposer(self.number) == self.node_id

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, envelope: Envelope, link: NodeId, now: float) -> None:
        sender, kind = envelope.sender, envelope.kind
        if envelope.round > self._highest.get(sender, 0):
            self._highest[sender] = envelope.round
        try:
            if kind == FETCH:
                self._on_fetch(envelope, now)
            elif kind == SYNC:
                self._help(envelope, now)
            elif kind == DIGEST and self._knows(envelope.model_digest):
                self._on_digest(envelope)
            elif kind == SNAPSHOT:
                self._on_snapshot(envelope, now)
            elif envelope.model_digest != self.model_digest:
                self._on_other_model(envelope, link, now)
            elif kind == CERTIFICATE:
                self._on_certificate(envelope, now)
            elif kind == FETCHED:
                self._on_fetched(envelope)
            elif kind == CONTRIBUTION and envelope.round <= self.number:
                self._on_contribution(envelope)
            elif envelope.round > self.number:
                self._keep_early(envelope, link)
            elif envelope.round == self.number:
                self._on_round_message(envelope, now)
        except WireError as error:
            self._refuse(envelope, f"malformed {error.problems[0].where}", Blame.SENDER)

    def _on_round_message(self, envelope: Envelope, now: float) -> None:
        kind = envelope.kind
        if kind == PROPOSAL:
            self._on_proposal(envelope, now)
        elif kind == PREVOTE:
            self._on_vote(self._round.prevotes, envelope)
        elif kind == PRECOMMIT:
            self._on_vote(self._round.precommits, envelope)
        elif kind.startswith(DIALOGUE):
            self._on_dialogue(envelope, now)
        else:
            self._refuse(envelope, "unknown kind", Blame.SENDER)

    def _refuse(
        self, envelope: Envelope, reason: str, blame: Blame, source: str = "kernel"
    ) -> None:
        if reason in OWN_VIEW:
            blame = Blame.NOBODY
        self.kernel.refuse(reason, blame, envelope.sender, source, envelope.round)
        self._out.append(Refused(envelope.round, envelope.sender, reason))

    def _keep_early(self, envelope: Envelope, link: NodeId) -> None:
        kept = self._early.setdefault(envelope.sender, [])
        # Bounded: a sender far ahead cannot make this node hold more than a few updates of it.
        if len(kept) < MAX_EARLY and len(envelope.payload) <= 8 * self.model.size + 2**20:
            kept.append((envelope, link))

    def _on_other_model(self, envelope: Envelope, link: NodeId, now: float) -> None:
        past = self._past.get(envelope.model_digest)
        if past is not None:
            if envelope.round > past[0]:  # it went on without what was decided
                self._help(envelope, now)
            return
        self._ahead.setdefault(envelope.sender, now)
        if envelope.round >= self.number:
            self._keep_early(envelope, link)

    def _on_contribution(self, envelope: Envelope) -> None:
        digest = contribution_digest(envelope)
        decided = self._pending is not None and self._names(self._pending.candidate, digest)
        proposal = self._round.proposal
        named = decided or (proposal is not None and self._names(proposal.candidate, digest))
        if envelope.round < self.number and not named:
            return  # late; not even counted
        if self._gathering.get(digest) is not None:
            return
        held = self._held(envelope)
        if not decided:
            # What a quorum decided is merged whatever this node makes of a proof.
            info = attrs.evolve(self._round.info, number=envelope.round)
            verdict, source = self.kernel.verify(held.contribution, info)
            if verdict is not ACCEPT:
                self._refuse(envelope, verdict.reason, verdict.blame, source)
                return
        if not self._gathering.add(held, named=named):
            # One that a set names is kept for the set; its sender is to blame all the same.
            self._refuse(envelope, "equivocation", Blame.SENDER)

    def _held(self, envelope: Envelope) -> Held:
        body = ContributionBody.from_bytes(envelope.payload, int(self.model.size))
        weight = min(body.weight, self.swarm.weight_cap)
        digest = contribution_digest(envelope)
        contribution = Contribution(
            envelope.sender, digest, body.vector, weight, body.proofs, body.companions
        )
        return Held(contribution, envelope)

    @staticmethod
    def _names(candidate: CandidateSet, digest: bytes) -> bool:
        return any(member.digest == digest for member in candidate.members)

    def _on_fetched(self, envelope: Envelope) -> None:
        quoted = decode_fetched(envelope.payload)
        ours = quoted.model_digest == self.model_digest and self.kernel.authentic(quoted, self._now)
        if not ours:
            self._refuse(envelope, "unproven contribution", Blame.SENDER)
            return
        self._on_contribution(quoted)

    def _on_dialogue(self, envelope: Envelope, now: float) -> None:
        _prefix, _, rest = envelope.kind.partition("/")
        plugin, _, step = rest.rpartition("/")
        dialogue = self._round.dialogues.get(plugin)
        if dialogue is None or not step.isascii() or not step.isdigit() or len(step) > 2:
            self._refuse(envelope, "unknown dialogue", Blame.SENDER)
            return
        message = DialogueMessage(envelope.sender, int(step), envelope.payload)
        try:
            sends = dialogue.receive(message)
        except Exception as error:  # noqa: BLE001 - a dialogue must not fall over a peer's message
            self._refuse(envelope, f"{plugin}: {type(error).__name__}", Blame.NOBODY, plugin)
        else:
            self._send_all(plugin, sends, now)

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def _contribute(self, now: float) -> None:
        current = self._round
        if current.contributed or current.update is None:
            return
        if not all(dialogue.ready for dialogue in current.dialogues.values()):
            if now >= current.propose_at:
                self._sit_out("a dialogue was not ready by the deadline")
            return
        if current.update.vector.size != current.info.dimension:
            self._sit_out("the trainer returned another dimension")
            return
        try:
            update = self.kernel.privatize(current.update, current.info)
            proofs = self.kernel.prove(update, current.info)
        except QresError as error:
            self._sit_out(str(error.problems[0]))
            return
        current.contributed = True
        # A restarted node must not contribute to the round again, and otherwise.
        self._journal.record_vote(self.number, CONTRIBUTION, None)
        weight = min(update.weight, self.swarm.weight_cap)
        body = ContributionBody(weight, update.vector, proofs, update.companions)
        self._publish(body.to_bytes(), now)

    def _publish(self, payload: bytes, now: float) -> None:
        envelope = self._broadcast(CONTRIBUTION, payload, now)
        try:
            self._on_contribution(envelope)
        except WireError:  # only a liar's own; the others refuse it too
            return

    def _sit_out(self, reason: str) -> None:
        self._round.contributed = True
        self._out.append(SatOut(self.number, reason))

    # ── agreeing ──────────────────────────────────────────────────────────────────────────────

    def _advance(self, now: float) -> None:
        """Take every step whose condition holds."""
        while True:
            before = self.number
            self._join(now)
            self._contribute(now)
            self._propose(now)
            self._prevote(now)
            self._precommit(now)
            self._decide(now)
            self._finish(now)
            if self._stopped:
                return
            if self.number == before:
                self._overtaken(now)
            if self.number == before:
                return

    def _propose(self, now: float) -> None:
        current = self._round
        if current.proposed or current.proposal is not None or not self._is_proposer:
            return
        held = self._gathering.of_round(self.number)
        if self._valid is not None:
            lock = self._valid
            if not self._complete(lock.candidate):
                return
            proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        elif now >= current.propose_at or self._nobody_is_missing(held):
            members: list[Member] = []
            for sender, one in held.items():
                standing = self.kernel.standing(sender)
                if not standing.banned and standing.weight > 0:
                    members.append(Member(sender, one.contribution.digest, standing.weight))
            members = self._screened(members)
            if len(members) < self.swarm.quorum:
                return
            proposal = Proposal(CandidateSet(self.number, tuple(members)))
        else:
            return
        current.proposed = True
        envelope = self._say(PROPOSAL, proposal.to_bytes(), now)
        self._on_proposal(envelope, now)

    def _nobody_is_missing(self, held: Mapping[NodeId, Held]) -> bool:
        """Whether waiting longer can bring nothing: what banned nodes send is never proposed."""
        return len(held) >= self.swarm.quorum and all(
            one in held or self.kernel.standing(one).banned for one in self.roster
        )

    def _on_proposal(self, envelope: Envelope, now: float) -> None:
        current = self._round
        if envelope.sender != self.proposer(self.number):
            self._refuse(envelope, "not the proposer", Blame.SENDER)
            return
        proposal = Proposal.from_bytes(envelope.payload, len(self.roster))
        if current.proposal is not None:
            if proposal.candidate != current.proposal.candidate:
                self._refuse(envelope, "equivocation", Blame.SENDER)
            return
        digest = proposal.candidate.digest(self.swarm.name, self.model_digest)
        reason = self._unacceptable(proposal, digest)
        if reason:
            self._refuse(envelope, reason, Blame.SENDER)
            return
        current.proposal, current.proposal_digest = proposal, digest
        current.repeat_at = min(current.repeat_at, now + current.step / 2)
        self._fetch(proposal.candidate, envelope.sender, now)

    def _unacceptable(self, proposal: Proposal, digest: bytes) -> str:
        candidate = proposal.candidate
        if len(candidate.members) < self.swarm.quorum:
            return "set below quorum"
        roster = set(self.roster)
        if any(member.sender not in roster for member in candidate.members):
            return "set names a stranger"
        if proposal.lock_round == 0:
            if candidate.origin != self.number:
                return "set of another round"
            return self._standings_off(candidate)
        if not candidate.origin <= proposal.lock_round < self.number:
            return "set of another round"
        proven = is_quorum(
            proposal.prevotes,
            self.threshold,
            kind=PREVOTE,
            round_number=proposal.lock_round,
            model=self.model_digest,
        ) and all(self._votes_for(vote, digest) for vote in proposal.prevotes)
        return "" if proven else "unproven lock"

    def _standings_off(self, candidate: CandidateSet) -> str:
        tolerance = int(self.swarm.standing_tolerance * FULL_STANDING)
        exact = not self.kernel.has("reputation")
        # A proposer that screens may let an update count less, as it may leave it out altogether.
        lower = FULL_STANDING if self.kernel.has("screen") else 0
        for member in candidate.members:
            own = self.kernel.standing(member.sender)
            if own.banned:
                return "set names a banned node"
            bent = member.standing - own.weight
            least = -max(lower, 0 if exact else tolerance)
            if not least <= bent <= (0 if exact else tolerance):
                return "set bends a standing"
        return ""

    def _votes_for(self, vote: Envelope, digest: bytes) -> bool:
        try:
            return decode_vote(vote.payload) == digest and self.kernel.authentic(vote, self._now)
        except WireError:
            return False

    def _fetch(self, candidate: CandidateSet, holder: NodeId, now: float) -> None:
        missing = self._gathering.missing(candidate)
        if missing and holder != self.node_id:
            self._send(holder, self._make(FETCH, canonical.dumps(missing), now))

    def _on_fetch(self, envelope: Envelope, now: float) -> None:
        gathering = (
            self._gathering
            if envelope.model_digest == self.model_digest
            else self._past_gatherings.get(envelope.model_digest)
        )
        if gathering is None:
            return
        answered = self._round.answered
        for digest in decode_fetch(envelope.payload, len(self.roster)):
            held = gathering.get(digest)
            # Each a few times a round: answers may be lost, and must not multiply without end.
            asked = answered[envelope.sender, digest]
            if held is not None and asked < MAX_ANSWERS:
                answered[envelope.sender, digest] = asked + 1
                # Quoted, not sent on as it came: a replay check refuses what was delivered before.
                quoted = held.envelope.to_bytes()
                model = envelope.model_digest
                answer = self._envelope(FETCHED, quoted, now, round_number=self.number, model=model)
                self._send(envelope.sender, answer)

    def _complete(self, candidate: CandidateSet) -> bool:
        return not self._gathering.missing(candidate)

    def _prevote(self, now: float) -> None:
        current = self._round
        if current.prevoted:
            return
        proposal = current.proposal
        if proposal is not None and self._complete(proposal.candidate):
            allowed = may_prevote(
                self._lock, current.proposal_digest, proposal.lock_round
            ) and self._endorses(proposal)
            self._vote(PREVOTE, current.proposal_digest if allowed else None, now)
        elif now >= current.prevote_at or current.hopeless:
            self._vote(PREVOTE, None, now)

    def _screened(self, members: list[Member]) -> list[Member]:
        """The members a proposer proposes: without those its own held-out examples speak against.

        Screened once a round: a proposer that waits for more does not judge them all again.
        """
        if self._judge_by is None or not self.kernel.has("screen"):
            return members
        current = self._round
        if len(members) < self.swarm.quorum:
            return members
        if current.screened is None:
            try:
                updates = self._gathering.stack(members, self.swarm.weight_cap)
                screening = self.kernel.screen(updates, self._held_out(), current.info)
            except QresError as error:
                self.kernel.rejections[f"screen: {error.code}"] += 1
                current.proposed = True  # no proposal of this node this round
                return []
            for one in screening.against:
                self.kernel.observe(one)
            current.screened = screening
        return screened(members, current.screened)

    def _held_out(self) -> HeldOut:
        held_out = HeldOut.of(self._judge_by, self.model, self._round.info)
        assert held_out is not None  # noqa: S101 - asked where there is a judge
        return held_out

    def _endorses(self, proposal: Proposal) -> bool:
        """Whether this node's plugins would have it vote for the set.

        A set with a proven lock was endorsed by a quorum; asking again could only stall the swarm.
        """
        if self._judge_by is None or not self.kernel.has("endorse") or proposal.lock_round:
            return True
        current = self._round
        if current.endorsed is None:
            current.endorsed = self._judge(proposal.candidate, current.proposal_digest)
        return current.endorsed

    def _judge(self, candidate: CandidateSet, digest: bytes) -> bool:
        info = self._round.info
        try:
            updates = self._gathering.stack(candidate.members, self.swarm.weight_cap)
            merged = self.kernel.aggregate(updates, info, self._held_out())
        except QresError as error:
            self.kernel.rejections[f"proposal not merged: {error.code}"] += 1
            return False
        self._round.merged = digest, merged
        verdict, source = self.kernel.endorse(updates, merged, self._held_out(), info)
        if verdict is ACCEPT:
            return True
        self.kernel.refuse(verdict.reason, Blame.NOBODY, None, source, self.number)
        return False

    def _precommit(self, now: float) -> None:
        current = self._round
        winner = current.prevotes.winner()
        proposal = current.proposal
        if (
            proposal is not None
            and winner == current.proposal_digest
            and self._complete(proposal.candidate)
        ):
            if self._valid is None or self._valid.round < self.number:
                self._valid = Lock(
                    proposal.candidate,
                    current.proposal_digest,
                    self.number,
                    current.prevotes.messages(current.proposal_digest),
                )
            if not current.precommitted and current.prevoted:
                self._lock = self._valid
                self._record_lock(self._lock)
                self._vote(PRECOMMIT, current.proposal_digest, now)
        elif not current.precommitted and (winner is None or now >= current.precommit_at):
            self._vote(PRECOMMIT, None, now)

    def _vote(self, kind: str, choice: bytes | None, now: float) -> None:
        current = self._round
        if kind == PREVOTE:
            current.prevoted, ballot = True, current.prevotes
        else:
            current.precommitted, ballot = True, current.precommits
        self._journal.record_vote(self.number, kind, choice)
        ballot.add(choice, self._say(kind, encode_vote(choice), now))

    def _on_vote(self, ballot: Ballot, envelope: Envelope) -> None:
        if not ballot.add(decode_vote(envelope.payload), envelope):
            self._refuse(envelope, "equivocation", Blame.SENDER)

    def _record_lock(self, lock: Lock) -> None:
        held = [self._gathering.get(member.digest) for member in lock.candidate.members]
        contributions = tuple(one.envelope for one in held if one is not None)
        proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        self._journal.record_lock(LockRecord(proposal, contributions).to_bytes())

    def _restore_lock(self, encoded: bytes) -> None:
        try:
            record = LockRecord.from_bytes(encoded, len(self.roster))
            for envelope in record.contributions:
                self._gathering.add(self._held(envelope), named=True)
        except WireError as error:
            what = "the recorded lock cannot be read"
            raise RoundError.of("QRES-E602", "journal.lock", what) from error
        proposal = record.proposal
        digest = proposal.candidate.digest(self.swarm.name, self.model_digest)
        self._lock = Lock(proposal.candidate, digest, proposal.lock_round, proposal.prevotes)
        self._valid = self._lock

    def _restore_past(self, encoded: bytes) -> None:
        past = Gathering()
        try:
            record = Handover.from_bytes(encoded, len(self.roster))
            for envelope in record.contributions:
                past.add(self._held(envelope), named=True)
        except WireError as error:
            what = "the record of what made the model cannot be read"
            raise RoundError.of("QRES-E602", "journal.handover", what) from error
        self._remember(record.parent, record.certificate)
        self._past_gatherings = {record.parent: past}
        self._parent = record.parent
        self._children[record.parent] = self.model_digest

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    def _on_certificate(self, envelope: Envelope, now: float) -> None:
        if self._round.decided is not None:
            return
        if self._pending is not None:  # this one may hold what the first to tell did not give
            self._fetch(self._pending.candidate, envelope.sender, now)
            return
        certificate = Certificate.from_bytes(envelope.payload, len(self.roster))
        digest = certificate.candidate.digest(self.swarm.name, self.model_digest)
        proven = is_quorum(
            certificate.precommits,
            self.threshold,
            kind=PRECOMMIT,
            round_number=certificate.round,
            model=self.model_digest,
        ) and all(self._votes_for(vote, digest) for vote in certificate.precommits)
        if not proven:
            self._refuse(envelope, "unproven certificate", Blame.SENDER)
            return
        self._pending = certificate
        self._fetch(certificate.candidate, envelope.sender, now)

    def _decide(self, now: float) -> None:
        current = self._round
        if current.decided is not None:
            return
        certificate = self._pending
        winner = current.precommits.winner()
        if certificate is None and current.proposal is not None:
            if winner != current.proposal_digest:
                return
            certificate = Certificate(
                current.proposal.candidate,
                self.number,
                current.precommits.messages(current.proposal_digest),
            )
        if certificate is None or not self._complete(certificate.candidate):
            return
        current.decided = certificate
        current.end_at = max(current.end_at, now + self.swarm.deadline)
        if self._is_proposer and self._pending is None:
            self._broadcast(CERTIFICATE, certificate.to_bytes(), now)
        candidate = certificate.candidate
        members = tuple(member.sender for member in candidate.members)
        made = self._gathering.contributions(candidate.members)
        info = attrs.evolve(current.info, number=candidate.origin)
        for name, dialogue in current.dialogues.items():
            try:
                sends = dialogue.decided(members, made, info)
            except Exception as error:  # noqa: BLE001 - nor over what peers contributed
                what = f"{name}: {type(error).__name__}"
                self.kernel.refuse(what, Blame.NOBODY, None, name, self.number)
            else:
                self._send_all(name, sends, now)

    def _finish(self, now: float) -> None:
        current = self._round
        certificate = current.decided
        if certificate is not None:
            if all(dialogue.finished for dialogue in current.dialogues.values()):
                self._close(certificate, now)
            elif now >= current.end_at:
                self._free()
                self._abort("a dialogue did not finish", now, code="QRES-E604")
            return
        winner = current.precommits.winner()
        everybody = len(current.precommits) == len(self.roster)
        over = current.joined and now >= current.end_at
        if winner is None or (everybody and winner is NO_QUORUM) or over:
            self._abort(self._why(), now)

    def _join(self, now: float) -> None:
        """Count the end of the round from when a quorum of nodes is there."""
        current = self._round
        there = sum(1 for number in self._highest.values() if number >= self.number)
        if not current.joined and there + 1 >= self.threshold:
            current.joined = True
            current.end_at = max(current.end_at, now + self.swarm.deadline + 3 * current.step)

    def _say(self, kind: str, payload: bytes, now: float) -> Envelope:
        current = self._round
        current.said.append((kind, payload))
        current.repeat_at = now + current.step / 2
        return self._broadcast(kind, payload, now)

    def _repeat(self, now: float) -> None:
        """Say it again to whoever was not there or did not hear; ask others for what is missing."""
        current = self._round
        if now < current.repeat_at:
            return
        current.repeat_at = now + current.step / 2
        current.repeats += 1
        for kind, payload in current.said:
            self._broadcast(kind, payload, now)
        holder = self.roster[(self.number + current.repeats) % len(self.roster)]
        for source in (self._pending, current.proposal):
            if source is not None:
                self._fetch(source.candidate, holder, now)

    def _why(self) -> str:
        held = len(self._gathering.of_round(self.number))
        if held < self.swarm.quorum:
            return f"{held} contributions, quorum {self.swarm.quorum}"
        if self._round.proposal is None:
            return "no proposal"
        if self._round.endorsed is False:
            return "not endorsed here"
        return "no agreement"

    def _close(self, certificate: Certificate, now: float) -> None:
        current = self._round
        members = certificate.candidate.members
        info = attrs.evolve(current.info, number=certificate.candidate.origin)
        digest = certificate.candidate.digest(self.swarm.name, self.model_digest)
        try:
            updates = self._gathering.stack(members, self.swarm.weight_cap)
            if current.merged is not None and current.merged[0] == digest:
                merged = current.merged[1]  # with the same round_info: a lock was not judged
            else:
                made = self._gathering.contributions(members)
                revealed = self.kernel.reveal(updates, made, info)
                held_out = None if self._judge_by is None else self._held_out()
                merged = self.kernel.aggregate(revealed, info, held_out)
        except QresError as error:
            self._free()
            self._abort(f"aggregation refused: {error}", now, code=error.code)
            return
        total = add_saturating(self.model, merged)
        parent, child = self.model_digest, model_digest(total.vector, self.step + 1)
        held = [self._gathering.get(member.digest) for member in members]
        contributions = tuple(one.envelope for one in held if one is not None)
        handover = Handover(parent, certificate, contributions).to_bytes()
        self._journal.record_model(certificate.round, self.step + 1, total.vector, handover)
        self._remember(parent, certificate)
        self._replace_model(total.vector, child, self.step + 1, certificate.round)
        self._children[parent] = child
        senders = tuple(member.sender for member in members)
        for sender in senders:
            fact = Evidence(sender, "contributed", "kernel", against=False, round=self.number)
            self.kernel.observe(fact)
        outcome = Outcome(current.info, RoundStatus.CLOSED, child, senders)
        self.kernel.round_closed(outcome)
        self._out.append(RoundEnded(outcome, self.model, merged, total.saturated))
        self._aborts = 0
        number = max(self.number, certificate.round) + 1
        self._vouch(now)
        if not self._stopped:
            self._open(number, now)

    def _vouch(self, now: float) -> None:
        """Tell the others which model this node holds, so that one that lags can be convinced."""
        payload = canonical.dumps(self.model_digest)
        voucher = self._envelope(
            DIGEST, payload, now, round_number=self.model_round, model=self._parent
        )
        self._out.append(Broadcast(voucher.to_bytes()))
        self._on_digest(voucher)

    def _replace_model(self, model: Vector, digest: bytes, step: int, model_round: int) -> None:
        self._past_gatherings = {self.model_digest: self._gathering}
        self._gathering = Gathering()
        self._parent = self.model_digest
        self.model, self.model_digest = model, digest
        self.step, self.model_round = step, model_round
        self._lock = self._valid = self._pending = None
        self._ahead = {}

    def _remember(self, parent: bytes, certificate: Certificate) -> None:
        self._past[parent] = (certificate.round, certificate.to_bytes())
        while len(self._past) > PAST_MODELS:
            oldest = next(iter(self._past))
            del self._past[oldest]
            self._vouchers.pop(oldest, None)
            self._children.pop(oldest, None)

    def _free(self) -> None:
        self._lock = self._valid = self._pending = None
        self._journal.record_lock(None)

    def _abort(self, reason: str, now: float, *, number: int | None = None, code: str = "") -> None:
        outcome = Outcome(
            self._round.info, RoundStatus.ABORTED, self.model_digest, reason=reason, code=code
        )
        self.kernel.round_closed(outcome)
        self._out.append(RoundEnded(outcome, self.model))
        self._aborts += 1
        if self._parent:
            self._vouch(now)  # again: what is lost is why rounds abort
        self._open(self.number + 1 if number is None else number, now)

    def _overtaken(self, now: float) -> None:
        """Jump to a round that more than ``f`` nodes have reached, so one of them is honest."""
        if self._round.decided is not None:
            return
        ahead = sorted(self._highest.values(), reverse=True)
        f = self.swarm.byzantine
        if len(ahead) > f and ahead[f] > self.number:
            self._abort("overtaken by the swarm", now, number=ahead[f])

    # ── agreeing on the model, and catching up ────────────────────────────────────────────────

    def _knows(self, model: bytes) -> bool:
        return model in (self.model_digest, self._parent) or model in self._children

    def _on_digest(self, envelope: Envelope) -> None:
        parent = envelope.model_digest
        digest = decode_digest(envelope.payload)
        vouchers = self._vouchers.setdefault(parent, {})
        earlier = vouchers.setdefault(envelope.sender, (digest, envelope))
        if earlier[0] != digest:
            self._refuse(envelope, "equivocation", Blame.SENDER)
            return
        child = self._children.get(parent)
        if child is None:
            return
        agreeing = sum(1 for seen, _message in vouchers.values() if seen == child)
        if agreeing >= self.threshold and parent not in self._agreed:
            self._agreed.add(parent)
            self._agreed &= set(self._children)
            self._out.append(Agreed(envelope.round, child))
        for other in {seen for seen, _message in vouchers.values()} - {child}:
            against = sum(1 for seen, _message in vouchers.values() if seen == other)
            if against >= self.threshold:
                what = f"{against} nodes hold {other.hex()[:16]}, this node {child.hex()[:16]}"
                fix = "compare software and plugin versions, then restart from a snapshot"
                error = RoundError.of("QRES-E601", f"round {envelope.round}", what, fix)
                self._out.append(Diverged(error))
                self._stopped = True

    def _proving_vouchers(self, parent: bytes) -> tuple[Envelope, ...]:
        by_digest: dict[bytes, list[Envelope]] = {}
        for _sender, (digest, message) in sorted(self._vouchers.get(parent, {}).items()):
            by_digest.setdefault(digest, []).append(message)
        for messages in by_digest.values():
            if len(messages) >= self._vouched:
                return tuple(messages)
        return ()

    def _ask_if_behind(self, now: float) -> None:
        """Others have a model this node does not: ask one of them, if it lasts."""
        patience = self.swarm.vote_timeout / 2
        if self._round.decided is not None or now < self._looked + patience:
            return
        peers = {voucher.sender for voucher in self._proving_vouchers(self.model_digest)}
        peers.update(peer for peer, since in self._ahead.items() if now >= since + patience)
        peers.discard(self.node_id)
        if not peers:
            return
        self._looked = now
        # Each in turn: the first to speak of an unknown model may be a liar.
        never = float("-inf")
        peer = min(peers, key=lambda one: (self._asked.get(one, never), one))
        if now >= self._asked.get(peer, never) + self.swarm.vote_timeout:
            self._asked[peer] = now
            self._send(peer, self._make(SYNC, b"", now))

    def _help(self, envelope: Envelope, now: float) -> None:
        """Give a node that lags the certificate it missed, or a snapshot."""
        peer, parent = envelope.sender, envelope.model_digest
        helped, certified = self._helped.get(peer, (float("-inf"), b""))
        if parent == self.model_digest or now - helped < self.swarm.vote_timeout:
            return
        vouchers = self._proving_vouchers(self._parent)
        certify = parent in self._past and parent in self._past_gatherings
        if vouchers and (not certify or certified == parent):
            # Also where the certificate was no help: a dialogue of that round is over.
            self._helped[peer] = (now, b"")
            parent, kind = self._parent, SNAPSHOT
            payload = Snapshot(self.step, self.model, vouchers).to_bytes()
        elif certify:
            self._helped[peer] = (now, parent)
            kind, payload = CERTIFICATE, self._past[parent][1]
        else:
            return
        self._send(
            peer,
            self._envelope(kind, payload, now, round_number=self.number, model=parent),
        )

    def _on_snapshot(self, envelope: Envelope, now: float) -> None:
        snapshot = Snapshot.from_bytes(envelope.payload, len(self.roster), int(self.model.size))
        vouchers = snapshot.vouchers
        digest = model_digest(snapshot.vector, snapshot.step)
        senders = {voucher.sender for voucher in vouchers}
        proven = (
            len(senders) == len(vouchers) >= self._vouched
            and len({voucher.model_digest for voucher in vouchers}) == 1
            and all(voucher.kind == DIGEST for voucher in vouchers)
            and all(decode_digest(voucher.payload) == digest for voucher in vouchers)
            and all(self.kernel.authentic(voucher, self._now) for voucher in vouchers)
        )
        if not proven:
            self._refuse(envelope, "unproven snapshot", Blame.SENDER)
            return
        if snapshot.step <= self.step:
            return  # not newer than what this node has
        # The highest that an honest voucher can have said: liars may say anything.
        rounds = sorted((voucher.round for voucher in vouchers), reverse=True)
        made_in = rounds[self.swarm.byzantine]
        self._journal.record_model(made_in, snapshot.step, snapshot.vector, None)
        self._replace_model(snapshot.vector, digest, snapshot.step, made_in)
        self._parent = vouchers[0].model_digest
        self._vouchers[self._parent] = {voucher.sender: (digest, voucher) for voucher in vouchers}
        outcome = Outcome(
            self._round.info, RoundStatus.CLOSED, digest, reason="caught up from a snapshot"
        )
        self.kernel.round_closed(outcome)
        self._out.append(RoundEnded(outcome, self.model))
        self._aborts = 0
        number = max(made_in, self.number) + 1
        self._vouch(now)
        self._open(number, now)
