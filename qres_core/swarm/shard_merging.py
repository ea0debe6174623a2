"""The decided set, merged by committees, shard by shard.

A rule that merges each coordinate by itself needs nothing but its shards. A rule that looks at
whole vectors by their inner products alone takes two phases: committees compute the products of
their shards exactly, every node adds them up, and then the committees merge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Updates, Vector
from qres_core.contract.wire import Envelope
from qres_core.swarm.gathering import Gathering
from qres_core.swarm.messages import Member
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.products import (
    encode_products,
    inner_products,
    products_bytes,
    summed_products,
)
from qres_core.swarm.results import Void
from qres_core.swarm.shard_gathering import ShardGathering
from qres_core.swarm.shard_messages import MergedShard, decode_pull, decode_shard_results
from qres_core.swarm.shard_phase import ShardPhase
from qres_core.swarm.shard_tallies import ShardTally
from qres_core.swarm.shards import ShardPlan, joined

_PRODUCTS: Final = b"qres/shard-products/v1\0"


class ShardMerging:
    """A node's part in merging the set that a height decided.

    Args:
        gathering: the contributions' headers.
        parts: the shards of contributions that are here.
        plan: the committees.
    """

    def __init__(
        self, speaker: Speaker, gathering: Gathering, parts: ShardGathering, plan: ShardPlan
    ) -> None:
        self._context, self._gathering, self._plan = speaker.context, gathering, plan
        self._parts, self._tally = parts, ShardTally(plan)
        self._products = ShardPhase(speaker, parts, plan, self._tally)
        self._shards = ShardPhase(speaker, parts, plan, self._tally)
        self._phases = (self._products, self._shards)
        self._sums: NDArray[Any] | None = None  # the inner products of whole vectors
        largest = max(plan.octets(index) for index in range(len(plan)))
        self._most = max(largest, products_bytes(len(self._context.roster)))

    def due(self) -> float:
        """When :meth:`merge` has a reason to be called again, seconds."""
        return min(phase.wake for phase in self._phases)

    def is_busy(self, now: float) -> bool:
        """Whether the set is being merged, and that does not take longer than it may."""
        return any(phase.is_busy(now) for phase in self._phases)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take_results(self, envelope: Envelope) -> None:
        """Note what a member found of shards. Raises WireError: QRES-E401 to QRES-E404."""
        name, results = decode_shard_results(envelope.payload, len(self._plan))
        self._tally.take(envelope.sender, name, results)
        for phase in self._phases:
            phase.heard = True

    def take_result(self, envelope: Envelope) -> None:
        """Keep a result that is settled. Raises WireError: QRES-E401 to QRES-E404."""
        made = MergedShard.from_bytes(envelope.payload, len(self._plan), self._most)
        for phase in self._phases:
            if phase.name == made.chosen:
                phase.take_result(made, envelope)

    def answer(self, envelope: Envelope, now: float) -> None:
        """Give a member the results it asks for; compute those that it hears too little of.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        name, indices = decode_pull(envelope.payload, len(self._plan))
        for phase in self._phases:
            if phase.name == name:
                phase.answer(envelope.sender, indices, now)

    # ── merging ───────────────────────────────────────────────────────────────────────────────

    def merge(
        self, chosen: bytes, members: Sequence[Member], info: RoundInfo, now: float
    ) -> Vector | Void | None:
        """What the decided set merges to, or why it does not; ``None`` for not known yet.

        Args:
            chosen: digest of the set.
            members: its members, ascending.
            info: the round that their contributions were made in.
            now: this node's clock, seconds.

        Returns:
            int32, shape ``(d,)``, the same bits as if this node had merged whole vectors.
        """
        if self._context.kernel.by_products and self._sums is None:
            name = hashlib.sha256(_PRODUCTS + chosen).digest()
            multiply = partial(self._multiplied, members)
            products = self._products.run(name, members, multiply, now)
            if products is None or isinstance(products, Void):
                return products
            self._sums = summed_products(products, len(members))
        elif self._sums is not None:
            self._products.work(members, partial(self._multiplied, members), now)
        found = self._shards.run(chosen, members, partial(self._merged, members, info), now)
        return joined(found) if isinstance(found, list) else found

    def work(self, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        """Go on computing what others hear too little of. Arguments as for :meth:`merge`."""
        self._products.work(members, partial(self._multiplied, members), now)
        self._shards.work(members, partial(self._merged, members, info), now)

    def _multiplied(self, members: Sequence[Member], index: int) -> bytes:
        return encode_products(inner_products(self._parts.rows(members, index)))

    def _merged(self, members: Sequence[Member], info: RoundInfo, index: int) -> bytes:
        """What a shard merges to. Raises QresError: what the rule refused."""
        rows = self._parts.rows(members, index)
        weights = self._gathering.weights(members, self._context.swarm.weight_cap)
        senders = tuple(member.sender for member in members)
        updates = Updates(rows, senders, weights, products=self._sums)
        here = attrs.evolve(info, dimension=rows.shape[1])
        merged = self._context.kernel.aggregate(updates, here)
        return np.ascontiguousarray(merged, dtype="<i4").tobytes()
