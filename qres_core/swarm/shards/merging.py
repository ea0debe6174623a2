"""The decided set, merged by committees, shard by shard.

A rule that merges each coordinate by itself needs nothing but its shards. A rule that looks at
whole vectors by their inner products alone takes two phases: committees compute the products of
their shards exactly, every node adds them up, and then the committees merge. Each wrapper that
does so takes one phase more, see :mod:`qres_core.kernel.by_products`.

Where a plugin hides single updates, committees open the sums of their shards. The sums are few, and
for everybody to see: every node takes all of them, and goes on as in every other round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
from numpy.typing import NDArray

from qres_core.contract.errors import WireError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Updates
from qres_core.contract.wire import Envelope
from qres_core.kernel.by_products import Products
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.messages import Member
from qres_core.swarm.ledger.results import UNFINISHED, Void
from qres_core.swarm.shards.committees import ShardPlan, pack_shard
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    RESULT,
    SHARD_MERGED,
    MergedShard,
    decode_pull,
    decode_shard_results,
)
from qres_core.swarm.shards.phase import ShardPhase
from qres_core.swarm.shards.products import encode_products, products_bytes, summed_products
from qres_core.swarm.shards.sums import encode_sums, joined_sums, sums_bytes
from qres_core.swarm.shards.tallies import ShardTally
from qres_core.swarm.storage.kept_contributions import Gathering

MERGES: Final = frozenset({"aggregate", "wrap_aggregate", "reveal_shard"})
"""The hooks that committees ask what a shard merges to."""
_PRODUCTS: Final = b"qres/shard-products/v1\0"


def products_name(place: int, chosen: bytes) -> bytes:
    """Name of a set's inner products in messages.

    ``place``: how many plugins of the chain took products before; ``chosen``: the set's digest, 32
    bytes.
    """
    return hashlib.sha256(_PRODUCTS + bytes([place]) + chosen).digest()


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
        # whether committees open sums, of which every node then has all rows
        self._opens = speaker.context.kernel.opens_shards
        count = 1 if self._opens else len(speaker.context.kernel.by_products) + 1
        self._parts, self._tally = parts, ShardTally(plan, count)
        # Inner products for each hook that takes some, and then what it all merges to.
        self._phases = [ShardPhase(speaker, parts, plan, self._tally) for _ in range(count)]
        self._sums: list[NDArray[Any]] = []  # the inner products of whole vectors
        self._found: NDArray[Any] | None = None  # what was found of all shards
        self._most = max(plan.most_bytes, products_bytes(len(self._context.roster)))
        if self._opens:
            widest = max(plan.width(index) for index in range(len(plan)))
            self._most = sums_bytes(len(self._context.roster), widest)

    @property
    def deadlines(self) -> float:
        """Factor of ``swarm.deadline`` that merging may take: half of one for each phase.

        Whoever lies low in a phase costs the patience twice, and that is half a deadline at most.
        """
        return max(1.0, len(self._phases) / 2)

    def due(self) -> float:
        """Time of the next reason to call :meth:`merge`, seconds."""
        return min(phase.wake for phase in self._phases)

    def is_busy(self, now: float) -> bool:
        """True if the set is being merged, and that does not take longer than it may."""
        return self._found is None and any(phase.is_busy(now) for phase in self._phases)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take_results(self, envelope: Envelope) -> None:
        """Note what a member found of shards. Raises WireError: QRES-E401 to QRES-E404."""
        name, results = decode_shard_results(envelope.payload, len(self._plan))
        self._tally.take(envelope.sender, name, results)
        for phase in self._phases:
            phase.heard = True

    def take_result(self, envelope: Envelope) -> None:
        """Keep a result that is settled. Raises WireError: QRES-E401 to QRES-E404."""
        limits = len(self._plan), self._most
        read = partial(MergedShard.from_bytes, envelope.payload, *limits)
        what = RESULT, envelope.payload_digest, *limits
        made = self._context.kernel.found(what, read)
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
    ) -> NDArray[Any] | Void | None:
        """Merge the shards of the decided set, or say why not; ``None`` for not known yet.

        Args:
            chosen: digest of the set.
            members: its members, ascending.
            info: the round that their contributions were made in.
            now: this node's clock, seconds.

        Returns:
            int32, shape ``(d,)``, the same bits as if this node had merged whole vectors. Where
            single updates are hidden the exact sums that committees opened: int64, shape
            ``(rows, d)``.
        """
        known = len(self._sums)
        self._work(known, members, info, now)
        for place in range(known, len(self._phases)):
            is_last = place == len(self._phases) - 1
            name = chosen if is_last else products_name(place, chosen)
            compute = partial(self._computed, place, members, info)
            found = self._phases[place].run(name, members, compute, now)
            if found is None or isinstance(found, Void):
                return found
            if is_last:
                return self._all(found)
            self._sums.append(summed_products([made.octets for made in found]))
        raise AssertionError  # pragma: no cover - the last phase returns

    def _all(self, results: Sequence[MergedShard]) -> NDArray[Any] | Void:
        """Findings of all shards, as one."""
        found = [result.octets for result in results]
        if self._found is None and self._opens:
            widths = [self._plan.width(index) for index in range(len(self._plan))]
            self._found = joined_sums(found, widths, len(self._context.roster))
        elif self._found is None:
            with suppress(WireError):  # more than f liars settled on what is no shard
                what = RESULT, self._plan.dimension, *(result.leaf for result in results)
                self._found = self._context.kernel.found(what, partial(self._plan.joined, found))
        return Void(UNFINISHED) if self._found is None else self._found

    def work(self, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        """Go on computing what others hear too little of. Arguments as for :meth:`merge`."""
        self._work(len(self._phases), members, info, now)

    def _work(self, count: int, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        for place, phase in enumerate(self._phases[:count]):
            phase.work(members, partial(self._computed, place, members, info), now)

    def _computed(
        self, place: int, members: Sequence[Member], info: RoundInfo, index: int
    ) -> MergedShard:
        """Compute a phase of a shard. Raises QresError: what a wrapper or the rule refused."""
        name, sums = self._phases[place].name, self._sums[:place]
        what = SHARD_MERGED, name, index, *(hashlib.sha256(it.tobytes()).digest() for it in sums)
        find = partial(self._merged, place, members, info, index)
        kernel = self._context.kernel
        return kernel.found(what, lambda: MergedShard(name, index, find()), by=MERGES)

    def _merged(self, place: int, members: Sequence[Member], info: RoundInfo, index: int) -> bytes:
        weights = self._gathering.weights(members, self._context.swarm.weight_cap)
        senders = tuple(member.sender for member in members)
        updates = Updates(self._parts.rows(members, index), senders, weights)
        if self._opens:
            made, (start, _stop) = self._gathering.contributions(members), self._plan.bounds(index)
            return encode_sums(self._context.kernel.reveal_shard(updates, made, start, info))
        start, _stop = self._plan.bounds(index)
        return shard_result(self._context.kernel, updates, info, self._sums[:place], start)


def shard_result(
    kernel: Kernel, updates: Updates, info: RoundInfo, sums: Products, start: int
) -> bytes:
    """Result of a shard at committees, once they know some inner products of whole vectors.

    Args:
        kernel: the plugins.
        updates: the shard's coordinates of the updates as they came.
        info: the round.
        sums: for as many of ``kernel.by_products`` as are known, the inner products of what it is
            given.
        start: the shard's first coordinate.

    Returns:
        the encoded products of what the next hook is given; or, if all are known, what the shard
        merges to, packed.

    Raises QresError: what a wrapper or the rule refused.
    """
    here = attrs.evolve(info, dimension=updates.dimension)
    if len(sums) < len(kernel.by_products):
        return encode_products(kernel.compared(updates, here, sums).vectors)
    return pack_shard(kernel.aggregate_shard(updates, here, sums), start)
