"""What a node has promised about the sets it voted for, and must keep over rounds and restarts."""

from __future__ import annotations

from qres_core.contract.errors import RoundError, WireError
from qres_core.swarm.agreement import Lock, VoteSet
from qres_core.swarm.collecting import Collector
from qres_core.swarm.journal import Journal, JournalEntry
from qres_core.swarm.messages import CandidateSet, Certificate, Proposal
from qres_core.swarm.place import NodeContext, Position


class Promises:
    """The sets that bind a node while it holds one model.

    Attributes:
        lock: what it precommitted to: it prevotes for no other without proof that a later quorum
            did.
        valid: the latest set that a quorum prevoted for; what it proposes again.
        pending: a set decided elsewhere, whose contributions are not all here.
    """

    def __init__(
        self, seat: NodeContext, position: Position, collector: Collector, journal: Journal
    ) -> None:
        self._seat = seat
        self._position = position
        self._collector = collector
        self._journal = journal
        self.lock: Lock | None = None
        self.valid: Lock | None = None
        self.pending: Certificate | None = None

    def named(self) -> list[bytes]:
        """Digests of the contributions in these sets: they must not be forgotten."""
        sets = [one.candidate for one in (self.lock, self.valid, self.pending) if one is not None]
        return [member.digest for candidate in sets for member in candidate.members]

    def saw_quorum(self, candidate: CandidateSet, digest: bytes, prevotes: VoteSet) -> None:
        """A quorum prevoted for the set of that digest in the current round."""
        number = self._position.number
        if self.valid is None or self.valid.round < number:
            self.valid = Lock(candidate, digest, number, prevotes.messages(digest))

    def must_merge(self, certificate: Certificate) -> None:
        """A quorum decided on a set elsewhere, as is proven."""
        self.pending = certificate

    def keep(self) -> None:
        """Lock on the valid set, and put it in the journal with its contributions."""
        lock = self.lock = self.valid
        if lock is None:
            return
        messages = self._collector.messages(lock.candidate.members)
        proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        self._journal.record_lock(JournalEntry(proposal.to_bytes(), messages))

    def restore(self, record: JournalEntry) -> None:
        """Take back the lock that the journal kept.

        Raises:
            RoundError: QRES-E602 for a record that cannot be read.
        """
        try:
            proposal = Proposal.from_bytes(record.head, len(self._seat.roster))
            self._collector.restore(record.messages)
        except WireError as error:
            what = "the recorded lock cannot be read"
            raise RoundError.of("QRES-E602", "journal.lock", what) from error
        digest = self.digest(proposal.candidate)
        self.lock = Lock(proposal.candidate, digest, proposal.lock_round, proposal.prevotes)
        self.valid = self.lock

    def digest(self, candidate: CandidateSet) -> bytes:
        """Names a set of contributions to the node's model; 32 bytes."""
        return candidate.digest(self._seat.swarm.name, self._position.model_digest)

    def void(self) -> None:
        """The node has another model: what it promised for the last one is over."""
        self.lock = self.valid = self.pending = None

    def free(self) -> None:
        """The set cannot be merged: let go of it, in the journal too."""
        self.void()
        self._journal.record_lock(None)
