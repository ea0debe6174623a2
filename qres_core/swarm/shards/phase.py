"""Phases of committees on the shards of a set: settled by equal digests, and pulled.

The members that serve a shard first compute it and say the digest of what they find. If too few say
the same in time, or at once if two say different things, the rest of the committee computes it too,
and then its reserves, twice as many with each pause.
Whatever ``f + 1`` of a committee say alike is right, because one of them is honest. Each node then
pulls each result from one of those that said so.

A liar may say what it found to some nodes alone, so that the rest of the committee hears enough and
somebody else does not. So who hears too little pulls the result from the silent members of the
committee, and whoever is asked for one that it could compute and did not then computes it: not
before the time at which an honest node would ask, and a reserve only for more than ``f`` that ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from qres_core.contract.errors import QresError
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import Answers, next_asked
from qres_core.swarm.ledger.messages import Member
from qres_core.swarm.ledger.results import CANNOT_MERGE, MAY_BE_OWN, NOT_STORED, RAISED, Void
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    PULL,
    RESULT,
    SHARD_MERGED,
    MergedShard,
    ShardResult,
    encode_pull,
    encode_shard_results,
)
from qres_core.swarm.shards.missed import patience, pause
from qres_core.swarm.shards.tallies import ShardTally


class ShardPhase:
    """One function of each shard, computed by its committee.

    Args:
        parts: the shards of contributions that are here.
        plan: the committees.
        tally: what members said, of all phases.
    """

    def __init__(
        self, speaker: Speaker, parts: ShardGathering, plan: ShardPlan, tally: ShardTally
    ) -> None:
        self._speaker, self._context = speaker, speaker.context
        self._parts, self._plan, self._tally = parts, plan, tally
        self._me = self._context.node_id
        self.name = b""  # what messages call it, 32 bytes, once the set is known
        self._since = math.inf  # when it was, seconds
        self._mine: dict[int, ShardResult] = {}  # what this node found
        self._tried: set[int] = set()  # shards that this node computed, or could not
        # by shard of its committees, who hears too little of it
        self._doubted: dict[int, set[NodeId]] = {}
        self._results: dict[int, MergedShard] = {}  # those that are here
        self._pulled: dict[int, tuple[int, float]] = {}  # how often one was asked for, and when
        self._blamed: set[tuple[NodeId, int]] = set()
        self.heard = False  # whether results came since who said wrong ones was looked for
        self._answers = Answers(pause(self._context))
        self._missed = math.inf  # when to ask the silent members for what is not settled
        self.wake = math.inf  # when :meth:`run` has a reason to be called again, seconds

    def is_busy(self, now: float) -> bool:
        """True if it is being computed, and that does not take longer than it may."""
        return bool(self.name) and now < self._since + 2 * patience(self._context)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take_result(self, made: MergedShard, envelope: Envelope) -> None:
        """Keep a result that is settled."""
        settled = self._tally.settled(self.name, made.index)
        if settled is None or settled in MAY_BE_OWN or made.index in self._results:
            return
        if made.leaf != settled:
            self._speaker.outlet.refuse(envelope, Fault.WRONG_SHARD, Blame.SENDER)
        else:
            self._results[made.index] = made

    def answer(self, peer: NodeId, indices: Sequence[int], now: float) -> None:
        """Give a member the results that it asks for; compute those that it hears too little of."""
        seats = self._plan.seats(self._me)
        for index in indices:
            if index in seats:
                self._doubted.setdefault(index, set()).add(peer)
        for index in indices:
            result = self._results.get(index)
            if result is None or (index in seats and index not in self._tried):
                continue
            if self._answers.due((peer, index), now):
                self._speaker.send(peer, self._speaker.make(RESULT, result.to_bytes(), now))

    # ── computing ─────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        name: bytes,
        members: Sequence[Member],
        compute: Callable[[int], MergedShard],
        now: float,
    ) -> list[MergedShard] | Void | None:
        """The results of all shards, in their order.

        Args:
            name: what messages call this phase of the decided set, 32 bytes.
            members: of that set, ascending.
            compute: the result for a shard, all of whose parts are here; may raise QresError.
            now: this node's clock, seconds.

        Returns:
            the results; or why there are none, if a committee found that; ``None`` for not yet.
        """
        if not self.name:
            self.name, self._since = name, now
            self._missed = now + (patience(self._context) + 2 * pause(self._context))
        self.work(members, compute, now)
        shards = range(len(self._plan))
        settled = {index: self._tally.settled(name, index) for index in shards}
        self._blame(settled)
        is_settled = None not in settled.values()
        if not is_settled:
            late = self._since + patience(self._context)
            self.wake = min(self.wake, late if now < late else now + pause(self._context))
            self._miss([index for index, it in settled.items() if it is None], now)
        digests = {index: it for index, it in settled.items() if type(it) is bytes}
        for index, digest in digests.items():
            if self._mine.get(index, digest) != digest:  # its software differs
                self._results.pop(index, None)
                del self._mine[index]
        self._pull(digests, now)
        refused = [result for result in settled.values() if type(result) is str]
        if is_settled and refused:  # in the order of the shards, which is the same for all
            return Void(refused[0])
        if not is_settled or len(self._results) < len(self._plan):
            return None
        self.wake = math.inf
        return [self._results[index] for index in shards]

    def work(
        self, members: Sequence[Member], compute: Callable[[int], MergedShard], now: float
    ) -> None:
        """Compute the shards that are this node's to compute, and say what was found.

        Also once this node has all: others may hear too little. Arguments as for :meth:`run`.
        """
        self.wake = math.inf
        if not self.name:
            return
        if not self._turn(now) and self._doubted:
            self.wake = self._since + patience(self._context)
        before, wanted = len(self._mine), list[tuple[bytes, int]]()
        for index in self._plan.seats(self._me):
            if index in self._tried or not self._is_asked(index, now):
                continue
            missing = self._parts.missing(members, index)
            wanted += missing
            if not missing:
                self._find(index, compute)
        self.wake = min(self.wake, self._parts.ask(wanted, now))
        if len(self._mine) > before:
            self._tally.take(self._me, self.name, self._mine)
            payload = encode_shard_results(self.name, self._mine)
            slot = f"{SHARD_MERGED} {self.name.hex()}"
            self._speaker.say(SHARD_MERGED, payload, now, slot=slot)

    def _is_asked(self, index: int, now: float) -> bool:
        """True if this node is to compute a shard of its committees now."""
        turn, few = self._turn(now), self._context.byzantine
        if self._me in self._plan.serving(index, 1):
            few = 0
        if turn and len(self._doubted.get(index, ())) > few:
            return True
        if self._tally.settled(self.name, index) is not None:
            return False
        turn = max(turn, int(self._tally.disputed(self.name, index)))
        return self._me in self._plan.serving(index, turn)

    def _turn(self, now: float) -> int:
        """Number of members to compute the unsettled rest, as :meth:`ShardPlan.serving`."""
        late = self._since + patience(self._context)  # exactly when :attr:`wake` says
        return 0 if now < late else 1 + int((now - late) / pause(self._context))

    def _find(self, index: int, compute: Callable[[int], MergedShard]) -> None:
        self._tried.add(index)
        try:
            made = compute(index)
        except MemoryError:
            return
        except QresError as error:
            if not is_own_trouble(error):
                self._mine[index] = error.code
        else:
            self._mine[index], self._results[index] = made.leaf, made

    def _blame(self, settled: Mapping[int, ShardResult | None]) -> None:
        """Blame who said otherwise than what is settled, once for each shard.

        That a hook raised, or a dialogue did not finish, may be true of one node alone. So who says
        it made up no result, and where liars settle it with such a node, the others said what they
        found.
        """
        if not self.heard:
            return
        self.heard, kernel = False, self._context.kernel
        number = self._speaker.position.number
        for index, result in settled.items():
            if result is None or result in MAY_BE_OWN:
                continue
            against = self._tally.against(self.name, index, result)
            for member in against:
                said = self._tally.said(self.name, index, member)
                if member == self._me or said in MAY_BE_OWN:
                    continue
                if (member, index) not in self._blamed:
                    self._blamed.add((member, index))
                    kernel.refuse(Fault.WRONG_SHARD, Blame.SENDER, member, KERNEL, number)

    def _miss(self, unsettled: Sequence[int], now: float) -> None:
        """Ask the members of committees that said nothing for results that are not settled."""
        if now >= self._missed:
            self._missed = now + patience(self._context)
            questions: dict[NodeId, list[int]] = {}
            for index in unsettled:
                serving = self._plan.serving(index, self._turn(now))
                for member in self._tally.silent(self.name, index):
                    if member != self._me and member in serving:
                        questions.setdefault(member, []).append(index)
            self._question(questions, now)
        self.wake = min(self.wake, self._missed)

    def _pull(self, digests: dict[int, bytes], now: float) -> None:
        """Ask for settled results that are not here, each of more nodes every time."""
        questions: dict[NodeId, list[int]] = {}
        turn = self._context.roster.index(self._me)
        for index, digest in digests.items():
            if index in self._results:
                continue
            count, at = self._pulled.get(index, (0, -math.inf))
            if now >= at + pause(self._context):
                at = now
                self._pulled[index] = count + 1, now
                saying = self._tally.saying(self.name, index, digest)
                others = [member for member in saying if member != self._me]
                first = turn % max(1, len(others))
                for other in next_asked(others[first:] + others[:first], count):
                    questions.setdefault(other, []).append(index)
            self.wake = min(self.wake, at + pause(self._context))
        self._question(questions, now)

    def _question(self, questions: Mapping[NodeId, Sequence[int]], now: float) -> None:
        for node, indices in questions.items():
            payload = encode_pull(self.name, indices)
            self._speaker.send(node, self._speaker.make(PULL, payload, now))


def is_own_trouble(error: QresError) -> bool:
    """True if an error says nothing of the set: this node alone cannot merge it.

    Its plugin says so, or lost its store, or ran out of memory, or found no file.
    """
    own = error.code == RAISED and isinstance(error.__cause__, MemoryError | OSError)
    return own or error.code in (CANNOT_MERGE, NOT_STORED)
