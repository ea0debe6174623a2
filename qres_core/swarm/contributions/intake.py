"""The contributions of a round: taken in, asked for where missing, handed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from qres_core.contract import canonical
from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import Contribution, NodeId
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import Answers, Times
from qres_core.swarm.contributions.aggregation import aggregation
from qres_core.swarm.contributions.lone_round import held_of
from qres_core.swarm.contributions.verification import Checks, CommitteeChecks
from qres_core.swarm.ledger.messages import (
    FETCH,
    FETCHED,
    CandidateSet,
    Member,
    contribution_digest,
    decode_fetch,
    decode_fetched,
)
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER, Gathering, Held
from qres_core.swarm.storage.shelf import Allowance, Shelf, ShelvedMessage

_BESIDE: Final = 1024
"""Bytes of a message beside its payload and its authenticators, at most."""


class Collector:
    """The contributions made at the node's head."""

    def __init__(self, speaker: Speaker, shelf: Shelf | None = None) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._shelf = Shelf(None, 0) if shelf is None else shelf
        self._speaker, self._outlet = speaker, speaker.outlet
        swarm = self._context.swarm
        self.gathering = Gathering()
        self.checks = (
            CommitteeChecks(speaker, self._add)
            if swarm.proof_checks == "committee"
            else Checks(speaker, self._add)
        )
        self._answers = Answers(swarm.vote_timeout / 2)
        self._allowance = Allowance(swarm.memory // 2, swarm.vote_timeout / 2)
        # when the round began, and when nothing is waited for any more that is on its way, seconds
        self._begun, self._patient_until = math.inf, -math.inf
        # of whom a contribution was asked last, and when
        self._asked: dict[bytes, tuple[NodeId, float]] = {}
        self._looked: dict[NodeId, set[bytes]] = {}  # digests that were decoded in this round
        self._spoilt: set[bytes] = set()  # and those of them that are no contributions
        self.aggregation = aggregation(speaker, self.gathering)  # how they are merged

    # ── round and model ───────────────────────────────────────────────────────────────────────

    def open_round(self, named: Iterable[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self._answers = Answers(self._context.swarm.vote_timeout / 2)
        self._looked, self._spoilt = {}, set()
        wanted = set(named)
        self.checks.open_round(wanted)
        self.gathering.keep_only(wanted)
        self.aggregation.open_round(wanted, now)

    def begin(self, now: float, times: Times) -> None:
        """The round begins: nobody else is asked, for a while, for what is on its way."""
        self._begun, self._patient_until = now, times.vote

    def leave(self) -> None:
        """The node is about to go to another head."""
        self.checks.clear()  # first: what it still keeps belongs to the head that is left
        self._looked, self._spoilt, self._asked = {}, set(), {}

    def enter(self) -> None:
        """The node is at another head."""
        self.gathering = Gathering()
        self.aggregation = aggregation(self._speaker, self.gathering, self.aggregation.away)

    def restore(self, envelopes: Iterable[Envelope]) -> None:
        """Take back what the journal kept of the node's lock, one after the other.

        Raises WireError: QRES-E401 to QRES-E404. Raises RoundError: QRES-E602 where the disk does
        not take it: the node voted for it, and must not begin without it.
        """
        for kept in envelopes:
            envelope = kept.taken_in() if isinstance(kept, ShelvedMessage) else kept
            self.gathering.add(
                self._laid(self._held(envelope, contribution_digest(envelope))), named=True
            )

    # ── what is here ──────────────────────────────────────────────────────────────────────────

    def of_round(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        self.checks.check()
        held = self.gathering.of_round(self._position.number)
        return {sender: item.contribution for sender, item in held.items()}

    def complete(self, candidate: CandidateSet) -> bool:
        """True if every member of a set is here."""
        return not self.gathering.missing(candidate)

    def has(self, candidate: CandidateSet) -> bool:
        """True if nothing is missing that a vote for a set needs."""
        return self.complete(candidate) and self.aggregation.available(candidate)

    def proposable(self) -> set[NodeId]:
        """Members whose contributions of the current round can be had by all that need them."""
        held = self.gathering.firsts(self._position.number)
        return self.aggregation.proposable(held, self._context.quorum)

    def check(self, now: float, times: Times, named: Callable[[], Collection[bytes]]) -> None:
        """Check contributions that wait, where something is about to depend on them.

        ``named``: tells the digests of those that sets in question name.
        """
        number = self._position.number
        all_here = lambda: self._context.nobody_is_missing(self.here(), number)  # noqa: E731
        self.checks.advance(now, times, named(), all_here=all_here)

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
        if not named and envelope.sender not in self._context.drawn(envelope.round):
            return  # it was not to train
        if self.gathering.get(digest) is not None or digest in self.checks.waiting:
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
            held = self._held(envelope, digest)
        except WireError:
            self._spoilt.add(digest)
            raise
        if agreed:  # what a quorum decided is merged whatever this node makes of a proof
            self._add(held, named=True)
        else:
            self.checks.take(held, named=named)

    def _looks_at(self, sender: NodeId, digest: bytes) -> bool:
        """True if a contribution is decoded that no set names: a few of each sender and round.

        A packed vector may be a thousand times as large as its bytes. A liar could else keep the
        node busy with little.
        """
        seen = self._looked.setdefault(sender, set())
        if digest not in seen and len(seen) >= MAX_PER_SENDER:
            return False
        seen.add(digest)
        return True

    def _laid(self, held: Held) -> Held:
        if self._shelf.folder is None:
            return held
        return self._shelf.lay(held, self.gathering.octets)

    def _add(self, held: Held, *, named: bool) -> None:
        try:
            held = self._laid(held)
        except RoundError as error:  # as if it had not come: it is asked for if a set names it
            detail = str(error.problems[0])
            self._outlet.refuse(held.envelope, Fault.NO_ROOM, Blame.NOBODY, detail=detail)
            return
        if not self.gathering.add(held, named=named):
            # One that a set names is kept for the set; its sender is to blame all the same.
            self._outlet.refuse(held.envelope, Fault.EQUIVOCATION, Blame.SENDER)

    def here(self) -> set[NodeId]:
        """Senders of contributions to the current round, checked or not."""
        return self.checks.senders() | self.gathering.senders(self._position.number)

    def _held(self, envelope: Envelope, digest: bytes) -> Held:
        body, vector, root = self.aggregation.read(envelope)
        return held_of(self._context.kernel, envelope, body, vector, root, digest)

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
            if verdict is ACCEPT and (named or kernel.takes_part(quoted, now)):
                return quoted
            # Whoever helps out may see it otherwise.
            if verdict.blame is Blame.NOBODY or kernel.is_of_old_key(quoted):
                blame = Blame.NOBODY
        self._outlet.refuse(envelope, Fault.UNPROVEN_CONTRIBUTION, blame)
        return None

    # ── asking and answering ──────────────────────────────────────────────────────────────────

    def fetch(self, candidate: CandidateSet, holder: NodeId, now: float) -> None:
        """Ask a node for what is missing of a set, and is not on its way here.

        Each answer is a whole contribution. On a slow line a second one delays the first.
        """
        coming = self._coming(candidate, now)
        missing = [
            absent
            for absent in self.gathering.missing(candidate)
            if absent not in self.checks.waiting and absent not in coming
        ]
        if missing and holder != self._context.node_id:
            self._asked.update(dict.fromkeys(missing, (holder, now)))
            asked = self._speaker.make(FETCH, canonical.dumps(missing), now)
            self._speaker.send(holder, asked)

    def _coming(self, candidate: CandidateSet, now: float) -> set[bytes]:
        """Parts of a set that their author, or somebody who was asked, seems to be sending.

        They announced something large; what, is not known before it is here. A liar may announce
        what never comes, so this holds for a while only.
        """
        swarm, arriving = self._context.swarm, self._context.arriving()
        lacks = len(self.proposable()) < self._context.quorum
        so_far = max(0.0, now - self._begun) if lacks else 0.0
        patience = self._context.waits.patience(swarm.vote_timeout, so_far)
        coming = set[bytes]()
        for member in candidate.members if patience else ():
            holder, asked = self._asked.get(member.digest, (b"", -math.inf))
            # It was asked just now, or it announced something since.
            is_asked = now < asked + (patience if holder in arriving else swarm.vote_timeout / 2)
            until = min(self._begun + patience, self._patient_until)
            if is_asked or (member.sender in arriving and now < until):
                coming.add(member.digest)
        return coming

    def answer(self, envelope: Envelope, now: float) -> None:
        """Send a peer the contributions it asks for, each again after a pause.

        With a budget of memory it may be some of them: the peer asks again, this node or another.
        Raises WireError: QRES-E401 to QRES-E404.
        """
        if envelope.head != self._context.head.digest:
            return
        asked_for = decode_fetch(envelope.payload, len(self._context.roster))
        waiting: Mapping[bytes, Held] = self.checks.lend(asked_for)
        for digest in asked_for:
            if not self._allowance.grants(envelope.sender, now):
                return
            held = self.gathering.get(digest) or waiting.get(digest)
            if held is not None and self._answers.due((envelope.sender, digest), now):
                # Quoted, not sent on as it came: a replay check refuses what was delivered before.
                quoted = held.envelope.to_bytes()
                answer = self._speaker.make(FETCHED, quoted, now)
                self._speaker.send(envelope.sender, answer)
                self._allowance.gave(envelope.sender, len(quoted))


def fits_quoted(envelope: Envelope, max_message_bytes: int) -> bool:
    """True if another message of the swarm can quote a contribution.

    A liar could else give one to some nodes that these can hand on to nobody: each set with it
    fails, and each answer of theirs is refused and held against them.
    """
    beside = _BESIDE + sum(map(len, envelope.auth.values()))
    return len(envelope.payload) + 2 * beside <= max_message_bytes


def _names(candidate: CandidateSet, digest: bytes) -> bool:
    return any(member.digest == digest for member in candidate.members)
