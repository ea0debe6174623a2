"""The contributions of a round: taken in, asked for where missing, handed on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import Contribution, NodeId, Updates
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.checking import Checks, CommitteeChecks
from qres_core.swarm.gathering import MAX_PER_SENDER, Gathering, Held
from qres_core.swarm.messages import (
    FETCH,
    FETCHED,
    CandidateSet,
    ContributionBody,
    Member,
    contribution_digest,
    decode_fetch,
    decode_fetched,
)
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.shard_messages import ContributionHeader
from qres_core.swarm.sharding import Sharding
from qres_core.swarm.timeouts import Answers, Times

_ELSEWHERE: Final = np.zeros(1, dtype=np.int32)
"""In the place of a vector whose shards are with their committees. The solver lets no plugin look
at it."""
_BESIDE: Final = 1024
"""Bytes of a message beside its payload and its authenticators, at most."""


class Collector:
    """The contributions made at the node's head."""

    def __init__(self, speaker: Speaker) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._outlet = speaker, speaker.outlet
        swarm = self._context.swarm
        self.gathering = Gathering()
        self.checks = (
            CommitteeChecks(speaker, self._add)
            if swarm.proof_checks == "committee"
            else Checks(speaker, self._add)
        )
        self._answers = Answers(swarm.vote_timeout / 2)
        self._looked: dict[NodeId, set[bytes]] = {}  # digests that were decoded in this round
        self._spoilt: set[bytes] = set()  # and those of them that are no contributions
        self._sharding: Sharding | None = None  # at the node's head, once it is asked for

    @property
    def sharding(self) -> Sharding | None:
        """What the node does for sharded rounds at its head; ``None`` where all merge all."""
        if self._context.swarm.aggregation == "sharded" and self._sharding is None:
            dimension = int(self._position.model.size)
            self._sharding = Sharding(self._speaker, self.gathering, dimension)
        return self._sharding

    # ── round and model ───────────────────────────────────────────────────────────────────────

    def open_round(self, named: Iterable[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self._answers = Answers(self._context.swarm.vote_timeout / 2)
        self._looked, self._spoilt = {}, set()
        wanted = set(named)
        self.checks.open_round(wanted)
        self.gathering.keep_only(wanted)
        if self.sharding is not None:
            self.sharding.open_round(wanted, now)

    def leave(self) -> None:
        """The node is about to go to another head."""
        self.checks.clear()  # first: what it still keeps belongs to the head that is left
        self.gathering, self._sharding = Gathering(), None
        self._looked, self._spoilt = {}, set()

    def restore(self, envelopes: Iterable[Envelope]) -> None:
        """Take back what the journal kept of the node's lock.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        for envelope in envelopes:
            self.gathering.add(self._held(envelope), named=True)

    # ── what is here ──────────────────────────────────────────────────────────────────────────

    def of_round(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        self.checks.check()
        held = self.gathering.of_round(self._position.number)
        return {sender: item.contribution for sender, item in held.items()}

    def complete(self, candidate: CandidateSet) -> bool:
        """Whether every member of a set is here."""
        return not self.gathering.missing(candidate)

    def available(self, candidate: CandidateSet) -> bool:
        """Whether what a set merges can be had from somebody honest, if this node lacks it."""
        return self.sharding is None or self.sharding.parts.available(candidate)

    def has(self, candidate: CandidateSet) -> bool:
        """Whether nothing is missing that a vote for a set needs."""
        return self.complete(candidate) and self.available(candidate)

    def proposable(self) -> set[NodeId]:
        """Whose contributions of the current round can be had by all that need them."""
        held = self.gathering.of_round(self._position.number)
        if self.sharding is None:
            return set(held)
        holders = self.sharding.parts.holders
        return {who for who, it in held.items() if holders.available(it.contribution.digest)}

    def check(self, now: float, times: Times, named: Collection[bytes]) -> None:
        """Check contributions that wait, where something is about to depend on them.

        ``named``: digests of those that sets in question name.
        """
        if self.checks:
            all_here = lambda: self._context.nobody_is_missing(self.here())  # noqa: E731
            self.checks.advance(now, times, named, all_here=all_here)

    def stack(self, members: Sequence[Member]) -> Updates:
        """The members' updates with their weights, as the set gives them."""
        return self.gathering.stack(members, self._context.swarm.weight_cap)

    def messages(self, members: Sequence[Member]) -> tuple[Envelope, ...]:
        """The messages that the members' contributions came in."""
        held = [self.gathering.get(member.digest) for member in members]
        return tuple(item.envelope for item in held if item is not None)

    # ── coming in ─────────────────────────────────────────────────────────────────────────────

    def take(
        self, envelope: Envelope, *, decided: CandidateSet | None, sets: Sequence[CandidateSet]
    ) -> None:
        """Take a contribution of this round, or of an earlier one if a set names it.

        Until its proof is checked it waits in :attr:`checks`. ``decided``: the set that a quorum is
        known to have decided on; ``sets``: those in question. Raises WireError: QRES-E401 to
        QRES-E404.
        """
        digest = contribution_digest(envelope)
        agreed = decided is not None and _names(decided, digest)
        named = agreed or any(_names(known, digest) for known in sets)
        if envelope.round < self._position.number and not named:
            return  # late; not even counted
        if self.gathering.get(digest) is not None or digest in self.checks:
            return
        if digest in self._spoilt:
            raise WireError.of("QRES-E404", "payload.contribution", "was no contribution before")
        if not named and not self._looks_at(envelope.sender, digest):
            self._outlet.refuse(envelope, Fault.EQUIVOCATION, Blame.SENDER)
            return
        if not agreed and not fits_quoted(envelope, self._context.swarm.max_message_bytes):
            what = "leaves no room for others to quote it"
            raise WireError.of("QRES-E401", "payload.contribution", what)
        try:
            held = self._held(envelope)
        except WireError:
            self._spoilt.add(digest)
            raise
        if agreed:  # what a quorum decided is merged whatever this node makes of a proof
            self._add(held, named=True)
        else:
            self.checks.take(held, named=named)

    def _looks_at(self, sender: NodeId, digest: bytes) -> bool:
        """Whether a contribution is decoded that no set names: a few of each sender and round.

        A packed vector may be a thousand times as large as its bytes. A liar could else keep the
        node busy with little.
        """
        seen = self._looked.setdefault(sender, set())
        if digest not in seen and len(seen) >= MAX_PER_SENDER:
            return False
        seen.add(digest)
        return True

    def _add(self, held: Held, *, named: bool) -> None:
        if not self.gathering.add(held, named=named):
            # One that a set names is kept for the set; its sender is to blame all the same.
            self._outlet.refuse(held.envelope, Fault.EQUIVOCATION, Blame.SENDER)

    def here(self) -> set[NodeId]:
        """Who contributed to the current round, checked or not."""
        return self.checks.senders() | self.gathering.senders(self._position.number)

    def _held(self, envelope: Envelope) -> Held:
        if self.sharding is not None:
            header = ContributionHeader.from_bytes(envelope.payload)
            body = ContributionBody(header.weight, _ELSEWHERE)
        else:
            body = ContributionBody.from_bytes(envelope.payload, int(self._position.model.size))
        contribution = Contribution(
            envelope.sender,
            contribution_digest(envelope),
            body.vector,
            min(body.weight, self._context.swarm.weight_cap),
            body.proofs,
            body.companions,
        )
        return Held(contribution, envelope)

    def quoted(
        self, envelope: Envelope, now: float, proven: Sequence[CandidateSet]
    ) -> Envelope | None:
        """The contribution that a ``fetched`` message quotes, ``None`` if it is refused.

        ``proven``: the sets that a quorum voted for. What one of them names is taken whatever
        became of its author. Of the rest the author must be one that may take part now: a quote is
        no way in for who was revoked. Raises WireError: QRES-E401 to QRES-E404.
        """
        quoted = decode_fetched(envelope.payload)
        blame = Blame.SENDER
        if quoted.head == self._context.head.digest:
            kernel = self._context.kernel
            verdict = kernel.quoted(quoted, now)
            named = any(_names(known, contribution_digest(quoted)) for known in proven)
            if quoted.round > self._position.number and not named:
                return None  # of a round to come: it is not kept, and comes again
            if verdict is ACCEPT and not named:
                verdict, _plugin = kernel.authenticate(quoted, quoted.sender, now)
                blame = Blame.NOBODY  # who helps out may not have heard what became of the author
            if verdict is ACCEPT:
                return quoted
            if verdict.blame is Blame.NOBODY:  # whoever helps out may see it otherwise
                blame = Blame.NOBODY
        self._outlet.refuse(envelope, Fault.UNPROVEN_CONTRIBUTION, blame)
        return None

    # ── asking and answering ──────────────────────────────────────────────────────────────────

    def fetch(self, candidate: CandidateSet, holder: NodeId, now: float) -> None:
        """Ask a node for what is missing of a set."""
        missing = [
            absent for absent in self.gathering.missing(candidate) if absent not in self.checks
        ]
        if missing and holder != self._context.node_id:
            asked = self._speaker.make(FETCH, canonical.dumps(missing), now)
            self._speaker.send(holder, asked)

    def answer(self, envelope: Envelope, now: float) -> None:
        """Send a peer the contributions it asks for, each again after a pause.

        Raises WireError: QRES-E401 to
        QRES-E404.
        """
        if envelope.head != self._context.head.digest:
            return
        asked_for = decode_fetch(envelope.payload, len(self._context.roster))
        waiting: Mapping[bytes, Held] = self.checks.lend(asked_for)
        for digest in asked_for:
            held = self.gathering.get(digest) or waiting.get(digest)
            if held is not None and self._answers.due((envelope.sender, digest), now):
                # Quoted, not sent on as it came: a replay check refuses what was delivered before.
                quoted = held.envelope.to_bytes()
                answer = self._speaker.make(FETCHED, quoted, now)
                self._speaker.send(envelope.sender, answer)


def fits_quoted(envelope: Envelope, max_message_bytes: int) -> bool:
    """Whether another message of the swarm can quote a contribution.

    A liar could else give one to some nodes that these can hand on to nobody: each set with it
    fails, and each answer of theirs is refused and held against them.
    """
    beside = _BESIDE + sum(map(len, envelope.auth.values()))
    return len(envelope.payload) + 2 * beside <= max_message_bytes


def _names(candidate: CandidateSet, digest: bytes) -> bool:
    return any(member.digest == digest for member in candidate.members)
