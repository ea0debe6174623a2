"""A node's opinion of updates, by its own held-out examples, before it proposes or votes."""

from __future__ import annotations

from collections.abc import Sequence

from qres_core.contract.errors import QresError
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.trainer import Validator
from qres_core.contract.types import Vector
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.swarm.collecting import Collector
from qres_core.swarm.gathering import screened
from qres_core.swarm.messages import CandidateSet, Member, Proposal
from qres_core.swarm.place import Position, Seat


class Judge:
    """A node's own opinion of contributions and sets; it has none without held-out examples.

    Each opinion of a round is formed once.
    """

    def __init__(
        self,
        seat: Seat,
        position: Position,
        collector: Collector,
        validator: Validator | None,
    ) -> None:
        self._seat = seat
        self._position = position
        self._collector = collector
        self._validator = validator
        self._screening: Screening | None = None
        self._endorsed: bool | None = None
        self._merged: tuple[bytes, Vector] | None = None

    def open_round(self) -> None:
        """Forget the opinions of the round before."""
        self._screening = self._endorsed = self._merged = None

    def held_out(self) -> HeldOut | None:
        """The examples, with the model of the current round; ``None`` for a node without any."""
        if self._validator is None:
            return None
        return HeldOut.of(self._validator, self._position.model, self._position.info)

    def screened(self, members: Sequence[Member]) -> list[Member] | None:
        """The members a proposer proposes: without those its own held-out examples speak against.

        Screened once a round: a proposer that waits for more does not judge them all again. Fewer
        than a quorum are not judged. ``None`` where a plugin refused to judge: then this node has
        nothing to propose in the round.
        """
        few = len(members) < self._seat.swarm.quorum
        examples = self.held_out() if self._seat.kernel.has("screen") and not few else None
        if examples is None:
            return list(members)
        if self._screening is None:
            try:
                updates = self._collector.stack(members)
                screening = self._seat.kernel.screen(updates, examples, self._position.info)
            except QresError as error:
                self._seat.kernel.rejections[f"screen: {error.code}"] += 1
                return None
            for one in screening.against:
                self._seat.kernel.observe(one)
            self._screening = screening
        return screened(members, self._screening)

    def endorses(self, proposal: Proposal, digest: bytes) -> bool:
        """Whether this node's plugins would have it vote for the set.

        A set with a proven lock was endorsed by a quorum; asking again could only stall the swarm.
        """
        if proposal.lock_round or not self._seat.kernel.has("endorse"):
            return True
        examples = self.held_out()
        if examples is None:
            return True
        if self._endorsed is None:
            self._endorsed = self._try(proposal.candidate, digest, examples)
        return self._endorsed

    def _try(self, candidate: CandidateSet, digest: bytes, examples: HeldOut) -> bool:
        kernel, info = self._seat.kernel, self._position.info
        try:
            updates = self._collector.stack(candidate.members)
            merged = kernel.aggregate(updates, info, examples)
        except QresError as error:
            kernel.rejections[f"proposal not merged: {error.code}"] += 1
            return False
        self._merged = digest, merged
        verdict, plugin = kernel.endorse(updates, merged, examples, info)
        if verdict is ACCEPT:
            return True
        kernel.refuse(verdict.reason, Blame.NOBODY, None, plugin, info.number)
        return False

    @property
    def refused(self) -> bool:
        """Whether the round's proposal was judged and not endorsed."""
        return self._endorsed is False

    def merged(self, digest: bytes) -> Vector | None:
        """What the set of that digest merges to, if it was merged to judge it.

        With the round the set was made in: one of an earlier round, a lock, is not judged.
        """
        if self._merged is not None and self._merged[0] == digest:
            return self._merged[1]
        return None
