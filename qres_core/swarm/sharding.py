"""Sharded rounds at one head: what ``swarm.aggregation = "sharded"`` adds to a node.

A sender broadcasts the header of its contribution, which is its weight and the Merkle root of its
vector's shards, and gives each shard to its committee alone
(:mod:`qres_core.swarm.shard_gathering`). The choice is about headers. A node votes for a set if
``f + 1`` of each committee say that they hold every member's shard. Once a set is decided the
committees merge it, and each node pulls the merged shards (:mod:`qres_core.swarm.shard_merging`).
The model is bit for bit that of a round in which every node merges whole vectors, and the outcome
is about its digest, as always. ``docs/explanation/sharded-rounds.md`` has the argument.
"""

from __future__ import annotations

from collections.abc import Collection

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.gathering import Gathering
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.shard_gathering import ShardGathering
from qres_core.swarm.shard_merging import ShardMerging
from qres_core.swarm.shard_messages import (
    ASK,
    HELD,
    PART,
    PULL,
    RESULT,
    SHARD_MERGED,
)
from qres_core.swarm.shards import ShardPlan

OF_A_COMING_ROUND = frozenset({PART, HELD})
"""What a node that is further says of its own round. The rest is about the decided set."""


class Sharding:
    """One node's side of sharded rounds at one head.

    Args:
        gathering: the contributions' headers.
        dimension: coordinates of the model.
        away: members that had fallen silent at the head before.
    """

    def __init__(
        self,
        speaker: Speaker,
        gathering: Gathering,
        dimension: int,
        away: Collection[NodeId] = (),
    ) -> None:
        context = speaker.context
        run = context.kernel.shard_run(dimension)
        plan = ShardPlan.at(context.head, dimension, context.swarm.shard_committee, run)
        self.parts = ShardGathering(speaker, gathering, plan, away)
        self.merging = ShardMerging(speaker, gathering, self.parts, plan)

    def take(self, envelope: Envelope, now: float) -> bool:
        """Take a message of a sharded round; whether it is one.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        kind = envelope.kind
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

    def open_round(self, named: Collection[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self.parts.open_round(named, now)

    def due(self) -> float:
        """When something is to be done whatever comes, seconds."""
        return min(self.parts.due(), self.merging.due())
