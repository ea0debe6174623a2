"""The shards of a decided set: merged by committees, settled by equal digests, and pulled.

The members that serve a shard first merge it and say the digest of what they find. If too few say
the same in time, or at once if two say different things, the rest of the committee merges it too.
Whatever ``f + 1`` of a committee say alike is right, because one of them is honest. Each node then
pulls each merged shard from one of those that said so.

A liar may say what it found to some nodes alone, so that the rest of the committee hears enough and
somebody else does not. So who hears too little pulls the shard from the silent members of the
committee, and whoever is asked for a shard that it could merge and did not then merges it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from qres_core.contract.errors import QresError
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId, Updates, Vector
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.gathering import Gathering
from qres_core.swarm.merkle import leaf_hash
from qres_core.swarm.messages import Member
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.results import CANNOT_MERGE, Void
from qres_core.swarm.shard_gathering import QUARTER, ShardGathering, patience
from qres_core.swarm.shard_messages import (
    PULL,
    RESULT,
    SHARD_MERGED,
    MergedShard,
    ShardResult,
    decode_pull,
    decode_shard_results,
    encode_pull,
    encode_shard_results,
)
from qres_core.swarm.shard_tallies import ShardTally
from qres_core.swarm.shards import ShardPlan, joined
from qres_core.swarm.timeouts import Answers


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
        self._speaker, self._context, self._plan = speaker, speaker.context, plan
        self._gathering, self._parts = gathering, parts
        self._me = self._context.node_id
        self._tally = ShardTally(plan)
        self._chosen = b""  # digest of the decided set, once it is known
        self._since = math.inf  # when it was, seconds
        self._mine: dict[int, ShardResult] = {}  # what this node found
        self._tried: set[int] = set()  # shards that this node merged, or could not
        self._doubted: set[int] = set()  # shards of its committees that others hear too little of
        self._octets: dict[int, bytes | memoryview] = {}  # merged shards that are here
        self._pulled: dict[int, tuple[int, float]] = {}  # how often one was asked for, and when
        self._blamed: set[tuple[NodeId, int]] = set()
        self._heard = False  # whether results came since who said wrong ones was looked for
        self._answers = Answers(self._pause)
        self._missed = math.inf  # when to ask the silent members for what is not settled
        self._wake = math.inf

    @property
    def _timeout(self) -> float:
        return patience(self._context)

    @property
    def _pause(self) -> float:
        return self._timeout / QUARTER

    def due(self) -> float:
        """When :meth:`merge` has a reason to be called again, seconds."""
        return self._wake

    def is_busy(self, now: float) -> bool:
        """Whether the set is being merged, and that does not take longer than it may."""
        return bool(self._chosen) and now < self._since + 2 * self._timeout

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take_results(self, envelope: Envelope) -> None:
        """Note what shards merge to for a member. Raises WireError: QRES-E401 to QRES-E404."""
        chosen, results = decode_shard_results(envelope.payload, len(self._plan))
        self._tally.take(envelope.sender, chosen, results)
        self._heard = True

    def take_result(self, envelope: Envelope) -> None:
        """Keep a merged shard that is settled. Raises WireError: QRES-E401 to QRES-E404."""
        plan = self._plan
        most = max(plan.octets(index) for index in range(len(plan)))
        made = MergedShard.from_bytes(envelope.payload, len(plan), most)
        settled = self._tally.settled(self._chosen, made.index)
        if made.chosen != self._chosen or settled is None or made.index in self._octets:
            return
        if leaf_hash(made.octets) != settled or len(made.octets) != plan.octets(made.index):
            self._speaker.outlet.refuse(envelope, Fault.WRONG_SHARD, Blame.SENDER)
        else:
            self._octets[made.index] = made.octets

    def answer(self, envelope: Envelope, now: float) -> None:
        """Give a member merged shards it asks for; merge those that it hears too little of.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        chosen, indices = decode_pull(envelope.payload, len(self._plan))
        if chosen != self._chosen:
            return
        seats = self._plan.seats(self._me)
        self._doubted.update(index for index in indices if index in seats)
        for index in indices:
            octets = self._octets.get(index)
            if octets is None or (index in seats and index not in self._tried):
                continue
            if self._answers.due((envelope.sender, index), now):
                payload = MergedShard(chosen, index, octets).to_bytes()
                self._speaker.send(envelope.sender, self._speaker.make(RESULT, payload, now))

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
        if not self._chosen:
            self._chosen, self._since = chosen, now
            self._missed = now + (self._timeout + 2 * self._pause)
        self.work(members, info, now)
        shards = range(len(self._plan))
        settled = {index: self._tally.settled(chosen, index) for index in shards}
        self._blame(settled, info.number)
        if None in settled.values():
            late = self._since + self._timeout
            self._wake = min(self._wake, late if now < late else now + self._pause)
            self._miss([index for index, it in settled.items() if it is None], now)
        digests = {index: it for index, it in settled.items() if type(it) is bytes}
        for index, digest in digests.items():
            if self._mine.get(index, digest) != digest:  # its software differs
                self._octets.pop(index, None)
                del self._mine[index]
        self._pull(digests, now)
        if None in settled.values():
            return None
        refused = [result for result in settled.values() if type(result) is str]
        if refused:  # in the order of the shards, which is the same for all
            return Void(refused[0])
        if len(self._octets) < len(self._plan):
            return None
        self._wake = math.inf
        return joined([self._octets[index] for index in range(len(self._plan))])

    def work(self, members: Sequence[Member], info: RoundInfo, now: float) -> None:
        """Merge the shards that are this node's to merge, and say what was found.

        Also once this node has all: others may hear too little. Arguments as for :meth:`merge`.
        """
        self._wake = math.inf
        if not self._chosen:
            return
        before, wanted = len(self._mine), list[tuple[bytes, int]]()
        for index in self._plan.seats(self._me):
            if index in self._tried or not self._is_asked(index, now):
                continue
            missing = self._parts.missing(members, index)
            wanted += missing
            if not missing:
                self._find(members, index, info)
        self._wake = min(self._wake, self._parts.ask(wanted, now))
        if len(self._mine) > before:
            self._tally.take(self._me, self._chosen, self._mine)
            payload = encode_shard_results(self._chosen, self._mine)
            self._speaker.say(SHARD_MERGED, payload, now)

    def _is_asked(self, index: int, now: float) -> bool:
        """Whether this node is to merge a shard of its committees now."""
        if index in self._doubted:
            return True
        if self._tally.settled(self._chosen, index) is not None:
            return False
        late = now >= self._since + self._timeout
        first = self._me in self._plan.serving(index)
        return first or late or self._tally.disputed(self._chosen, index)

    def _find(self, members: Sequence[Member], index: int, info: RoundInfo) -> None:
        self._tried.add(index)
        rows = self._parts.rows(members, index)
        weights = self._gathering.weights(members, self._context.swarm.weight_cap)
        updates = Updates(rows, tuple(member.sender for member in members), weights)
        here = attrs.evolve(info, dimension=rows.shape[1])
        try:
            merged = self._context.kernel.aggregate(updates, here)
        except QresError as error:
            if error.code != CANNOT_MERGE:  # which says nothing of the set
                self._mine[index] = error.code
            return
        octets = np.ascontiguousarray(merged, dtype="<i4").tobytes()
        self._mine[index], self._octets[index] = leaf_hash(octets), octets

    def _blame(self, settled: Mapping[int, ShardResult | None], number: int) -> None:
        """Blame who said otherwise than what is settled, once for each shard."""
        if not self._heard:
            return
        self._heard, kernel = False, self._context.kernel
        for index, result in settled.items():
            against = [] if result is None else self._tally.against(self._chosen, index, result)
            for member in against:
                if member != self._me and (member, index) not in self._blamed:
                    self._blamed.add((member, index))
                    kernel.refuse(Fault.WRONG_SHARD, Blame.SENDER, member, KERNEL, number)

    def _miss(self, unsettled: Sequence[int], now: float) -> None:
        """Ask the members of committees that said nothing for shards that are not settled."""
        if now >= self._missed:
            self._missed = now + self._timeout
            questions: dict[NodeId, list[int]] = {}
            for index in unsettled:
                for member in self._tally.silent(self._chosen, index):
                    if member != self._me:
                        questions.setdefault(member, []).append(index)
            self._question(questions, now)
        self._wake = min(self._wake, self._missed)

    def _pull(self, digests: dict[int, bytes], now: float) -> None:
        """Ask for settled shards that are not here, each one node after the other."""
        questions: dict[NodeId, list[int]] = {}
        turn = self._context.roster.index(self._me)
        for index, digest in digests.items():
            if index in self._octets:
                continue
            count, at = self._pulled.get(index, (0, -math.inf))
            if now >= at + self._pause:
                at = now
                self._pulled[index] = count + 1, now
                saying = self._tally.saying(self._chosen, index, digest)
                others = [member for member in saying if member != self._me]
                if others:
                    questions.setdefault(others[(turn + count) % len(others)], []).append(index)
            self._wake = min(self._wake, at + self._pause)
        self._question(questions, now)

    def _question(self, questions: Mapping[NodeId, Sequence[int]], now: float) -> None:
        for node, indices in questions.items():
            payload = encode_pull(self._chosen, indices)
            self._speaker.send(node, self._speaker.make(PULL, payload, now))
