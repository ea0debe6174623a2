"""Ways in which contributions of a height are given to others and merged: ``swarm.aggregation``.

Where every node merges whole updates (:class:`Whole`) a contribution is its vector, and nothing
else is to be done. In a sharded round (:class:`Sharded`) a sender broadcasts the header of its
contribution, which is its weight and the Merkle root of its vector's shards, and gives each shard
to its committee alone (:mod:`qres_core.swarm.shards.gathering`). The choice is about headers. A
node votes for a set if ``f + 1`` of each committee say that they hold every member's shard. Once a
set is decided the committees merge it, and each node pulls the merged shards
(:mod:`qres_core.swarm.shards.merging`). The model is bit for bit that of a round in which every
node merges whole vectors, and the outcome is about its digest, as always.
``docs/explanation/sharded-rounds.md`` has the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import numpy as np

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId, Vector
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.shards.committees import CutVector, ShardPlan
from qres_core.swarm.shards.gathering import ShardGathering, kept_rounds
from qres_core.swarm.shards.merging import ShardMerging
from qres_core.swarm.shards.messages import (
    ASK,
    HELD,
    PART,
    PULL,
    RESULT,
    SHARD_MERGED,
    ContributionHeader,
)
from qres_core.swarm.storage.kept_contributions import Gathering, Held

OF_A_COMING_ROUND: Final = frozenset({PART, HELD})
"""What a node that is further says of its own round. The rest is about the decided set."""
_ELSEWHERE: Final = np.zeros(1, dtype=np.int32)
"""In the place of a vector whose shards are with their committees. The solver lets no plugin look
at it."""

Merge: TypeAlias = Callable[[], Vector]
Body: TypeAlias = ContributionBody | ContributionHeader


class Whole:
    """Every node merges whole updates, and can do so again for as long as it keeps them.

    Args:
        dimension: coordinates of an update.
    """

    away: Collection[NodeId] = ()
    merges_once = False
    deadlines = 1.0

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    # ── contributions ─────────────────────────────────────────────────────────────────────────

    def read(self, envelope: Envelope) -> tuple[Body, Vector, bytes]:
        """Contents of a contribution. Raises WireError: QRES-E401 to QRES-E404."""
        body = ContributionBody.from_bytes(envelope.payload, self._dimension)
        return body, body.vector, b""

    def encoded(self, made: ContributionBody | bytes) -> bytes:
        """The payload of an own contribution, which may be encoded already."""
        return made if isinstance(made, bytes) else made.to_bytes()

    def contributed(self, envelope: Envelope, now: float) -> None:
        """The contribution that was encoded last is out, and taken here."""

    def available(self, candidate: CandidateSet) -> bool:
        """True if what a set merges can be had from somebody honest, if this node lacks it."""
        del candidate
        return True

    def proposable(self, held: Mapping[NodeId, Held], quorum: int) -> set[NodeId]:
        """Those of whose contributions that are here all that is needed can be had by all."""
        del quorum
        return set(held)

    # ── messages and time ─────────────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, now: float, *, waits: bool) -> bool:
        """Take a message of a sharded round; whether it is one. There is none."""
        del envelope, now, waits
        return False

    def kept(self, chosen: Callable[[int], bool]) -> set[bytes]:
        """Contributions of earlier rounds that must not be forgotten although no set names them."""
        del chosen
        return set()

    def open_round(self, named: Collection[bytes], now: float) -> None:
        """A round begins at the same head."""

    def advance(
        self, now: float, sets: Callable[[], Iterable[CandidateSet]], *, decided: bool
    ) -> None:
        """Do what is due."""

    def due(self) -> float:
        """Moment at which something is to be done whatever comes, seconds: never."""
        return math.inf

    # ── merging ───────────────────────────────────────────────────────────────────────────────

    def merge_of(
        self,
        merger: Merger,
        members: tuple[Member, ...],
        chosen: bytes,
        info: RoundInfo,
        now: float,
    ) -> Merge | Void | None:
        """A call that gives what the decided set merges to."""
        del chosen, now
        return partial(merger.merge, members, info)

    def work(self, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        """Go on with what others need of this node: nothing."""

    def is_busy(self, now: float) -> bool:
        """True if the set is being merged by others for this node, and that not for too long."""
        del now
        return False


class Sharded:
    """One node's side of sharded rounds at one head.

    Args:
        gathering: the contributions' headers.
        dimension: coordinates of the model.
        away: members that had fallen silent at the head before.
    """

    merges_once = True

    def __init__(
        self,
        speaker: Speaker,
        gathering: Gathering,
        dimension: int,
        away: Collection[NodeId] = (),
    ) -> None:
        self._context, self._gathering = speaker.context, gathering
        run = self._context.kernel.shard_run(dimension)
        plan = ShardPlan.at(self._context.head, dimension, self._context.swarm.shard_committee, run)
        self.parts = ShardGathering(speaker, gathering, plan, away)
        self.merging = ShardMerging(speaker, gathering, self.parts, plan)
        self._shards: CutVector | None = None  # of the contribution that was encoded last

    @property
    def away(self) -> Collection[NodeId]:
        """Members that held shards and have fallen silent."""
        return self.parts.holders.away

    @property
    def deadlines(self) -> float:
        """Number of times that ``swarm.deadline`` merging may take."""
        return self.merging.deadlines

    # ── contributions ─────────────────────────────────────────────────────────────────────────

    def read(self, envelope: Envelope) -> tuple[Body, Vector, bytes]:
        """Contents of a contribution's header; the vector is there of this node's own alone.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        body, own = ContributionHeader.from_bytes(envelope.payload), None
        if envelope.sender == self._context.node_id:
            own = self.parts.own_vector(body.root)
        return body, _ELSEWHERE if own is None else own, body.root

    def encoded(self, made: ContributionBody | bytes) -> bytes:
        """The header of an own contribution, as a payload."""
        payload, self._shards = self.parts.cut(made)
        return payload

    def contributed(self, envelope: Envelope, now: float) -> None:
        """The contribution that was encoded last is out, and taken here: its shards follow."""
        if self._shards is not None:
            self.parts.contribute(contribution_digest(envelope), self._shards, now)

    def available(self, candidate: CandidateSet) -> bool:
        """True if what a set merges can be had from somebody honest, if this node lacks it."""
        return self.parts.available(candidate)

    def proposable(self, held: Mapping[NodeId, Held], quorum: int) -> set[NodeId]:
        """Those of whose contributions that are here all that is needed can be had by all.

        A proposer leaves out what only members that have fallen silent hold, if a quorum of others
        is left: such a set could not be merged.
        """
        holders = self.parts.holders
        digests = {who: it.contribution.digest for who, it in held.items()}
        said = {who for who, digest in digests.items() if holders.available(digest)}
        here = {who for who in said if holders.at_hand(digests[who])} if holders.away else said
        return here if len(here) >= quorum else said

    # ── messages and time ─────────────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, now: float, *, waits: bool) -> bool:
        """Take a message of a sharded round; whether it is one.

        ``waits``: whether it is of a coming round, which this node may get to: then what its sender
        says of that round is not taken yet. Raises WireError: QRES-E401 to QRES-E404.
        """
        kind = envelope.kind
        if waits and kind in OF_A_COMING_ROUND:
            return False
        if kind == PART:
            self.parts.take_part(envelope, now)
        elif kind == HELD:
            self.parts.take_held(envelope, now)
        elif kind == ASK:
            self.parts.answer(envelope, now)
        elif kind == SHARD_MERGED:
            self.merging.take_results(envelope)
        elif kind == PULL:
            self.merging.answer(envelope, now)
        elif kind == RESULT:
            self.merging.take_result(envelope)
        else:
            return False
        return True

    def kept(self, chosen: Callable[[int], bool]) -> set[bytes]:
        """Contributions of earlier rounds that must not be forgotten although no set names them.

        Others may have locked one since this node said that it holds shards of it. ``chosen``:
        whether a set of a round may still be decided.
        """
        return self._gathering.made_in(kept_rounds(self._context.byzantine), chosen=chosen)

    def open_round(self, named: Collection[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self.parts.open_round(named, now)

    def advance(
        self, now: float, sets: Callable[[], Iterable[CandidateSet]], *, decided: bool
    ) -> None:
        """Say what is held and, until a set is ``decided``, see to it that enough hold each shard.

        ``sets``: gives those in question.
        """
        self.parts.advance(now, sets(), decided=decided)

    def due(self) -> float:
        """Time at which something is to be done whatever comes, seconds."""
        return min(self.parts.due(), self.merging.due())

    # ── merging ───────────────────────────────────────────────────────────────────────────────

    def merge_of(
        self,
        merger: Merger,
        members: tuple[Member, ...],
        chosen: bytes,
        info: RoundInfo,
        now: float,
    ) -> Merge | Void | None:
        """A call that gives what the decided set merges to.

        Or why it does not, if a committee found that; ``None`` while committees are at work.

        Args:
            merger: the data path of the round.
            members: of the set, ascending.
            chosen: digest of the set.
            info: the round that its contributions were made in.
            now: this node's clock, seconds.
        """
        found = self.merging.merge(chosen, members, info, now)
        if found is None or isinstance(found, Void):
            return found
        return partial(merger.merge_shards, members, found, info)

    def work(self, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        """Go on computing what others hear too little of. Arguments as for :meth:`merge_of`."""
        self.merging.work(members, info, now)

    def is_busy(self, now: float) -> bool:
        """True if the set is being merged by others for this node, and that not for too long."""
        return self.merging.is_busy(now)


Aggregation: TypeAlias = Whole | Sharded


def aggregation(
    speaker: Speaker, gathering: Gathering, away: Collection[NodeId] = ()
) -> Aggregation:
    """Choose how the contributions of the node's head are merged, as its settings say.

    ``gathering``: keeps the contributions; ``away``: members that had fallen silent at the head
    before.
    """
    context = speaker.context
    dimension = int(speaker.position.model.size)
    if context.swarm.aggregation == "sharded":
        return Sharded(speaker, gathering, dimension, away)
    return Whole(dimension)
