"""Shards that too few members are known to hold: asked of committees, and fetched for who asks.

A liar may say what it holds to some nodes alone. Those see enough holders and would not step in,
while the others see too few and would not vote. So whoever sees too few for twice the patience asks
the committee for the shard, and each member that lacks it fetches it and says so.

A member fetches nothing before the time at which it would ask itself. Else one question at the
beginning of each round would have whole committees download every shard. Reserves fetch for more
than ``f`` that ask, one of which is honest, or where they see too few holders themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from operator import is_
from typing import Final

from qres_core.contract.types import NodeId
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.ledger.messages import CandidateSet
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.tallies import Holders
from qres_core.swarm.storage.kept_contributions import Gathering

_QUARTER: Final = 4
ShardOf = tuple[bytes, int]
"""A contribution, by its digest, and which of its shards."""


def patience(context: NodeContext) -> float:
    """Seconds after which others step in for members of a committee that say nothing.

    It is a vote timeout, or a quarter of the deadline if that is less: what the others do then
    must be done by the deadline.
    """
    swarm = context.swarm
    return min(swarm.vote_timeout, swarm.deadline / _QUARTER) * context.waits.stretch


def pause(context: NodeContext) -> float:
    """Seconds after which a node says what it holds by then, or asks another one."""
    return patience(context) / _QUARTER


class MissedShards:
    """Shards of a round that a node misses, and those that others say they miss. At one head.

    Args:
        gathering: the contributions' headers.
        plan: the committees.
        holders: who says that it holds which shards.
    """

    def __init__(
        self, context: NodeContext, gathering: Gathering, plan: ShardPlan, holders: Holders
    ) -> None:
        self._context, self._gathering, self._plan = context, gathering, plan
        self._holders = holders
        # when to ask for what too few hold of a contribution, and how often that was done
        self._times: dict[bytes, tuple[float, int]] = {}
        self._unread: set[bytes] = set()  # what these ask who holds it, and do not fetch yet
        self._look_at = -math.inf  # when that is looked at again, if nothing new is to be missed
        self._looked_at: tuple[int, list[CandidateSet]] = 0, []  # contributions here, and the sets
        # shards of this node's committees that somebody misses, and who, by contribution
        self._wanted: dict[bytes, dict[int, set[NodeId]]] = {}
        self._fetched = -math.inf  # when these were looked at
        self.fetch_at = math.inf  # when they are to be looked at again, seconds
        self.wake = math.inf  # when there is something to ask or to fetch, seconds

    def open_round(self) -> None:
        """A round begins."""
        self._times, self._wanted, self._look_at = {}, {}, -math.inf
        self._looked_at = 0, []
        self._unread = set()
        self._fetched, self.fetch_at = -math.inf, math.inf

    def _ask_at(self, contribution: bytes, at: float, turn: int = 0) -> None:
        """Ask for what too few hold of a contribution from some time on, for so many a turn."""
        self._times[contribution] = at, turn
        if contribution in self._wanted:
            self.fetch_at = min(self.fetch_at, at)

    def ask_soon(self, contribution: bytes, now: float) -> None:
        """Ask soon for new words on a contribution, unless they come: the present are unreadable.

        The others found that too, and say it by name after a pause, unless they are many.
        """
        soon = now + 1.5 * pause(self._context)
        at, turn = self._times.get(contribution, (math.inf, 0))
        if soon < at:
            self._ask_at(contribution, soon, turn)
            self._unread.add(contribution)
            self._look_at = min(self._look_at, soon)

    def _hurry(self, contribution: bytes, at: float) -> None:
        """A set in question names it: ask for what too few hold of it earlier than else."""
        before, turn = self._times.get(contribution, (math.inf, 0))
        if not turn and at < before:
            self._ask_at(contribution, at)
            self._unread.discard(contribution)

    def look_again(self) -> None:
        """Others may be missed than before."""
        self._look_at = -math.inf

    def note(self, peer: NodeId, shard: ShardOf) -> None:
        """A member misses a shard of this node's committees."""
        digest, index = shard
        missing = self._wanted.setdefault(digest, {}).setdefault(index, set())
        if peer not in missing:
            missing.add(peer)
            at, turn = self._times.get(digest, (math.inf, 0))
            # A peer that asks for one after the other must not have all looked at each time.
            soon = self._fetched + pause(self._context) / _QUARTER
            self.fetch_at = min(self.fetch_at, max(soon, -math.inf if turn else at))

    def questions(
        self, sets: Iterable[CandidateSet], number: int, now: float
    ) -> dict[NodeId, list[ShardOf]]:
        """Questions for shards of the contributions to a round, and of sets in question, by member.

        First the committee, and twice as many each time.
        """
        self.wake, held = math.inf, self._gathering.firsts(number)
        count, before = self._looked_at
        asked = list(sets)
        same = len(before) == len(asked) and all(map(is_, before, asked))
        wait, own = patience(self._context), self._context.node_id
        for item in islice(held.values(), count, None) if len(held) > count else ():
            if item.contribution.digest not in self._times:
                self._ask_at(item.contribution.digest, now + 2 * wait)
                self._look_at = min(self._look_at, now + 2 * wait)
        self._looked_at = len(held), asked
        if now < self._look_at and same:
            self.wake = self._look_at
            return {}
        self._look_at = math.inf
        # A liar that whispers keeps others from voting for what an honest proposer counted in.
        for member in (member for candidate in asked for member in candidate.members):
            self._hurry(member.digest, now + wait / 2)
        questions: dict[NodeId, list[ShardOf]] = {}
        for digest, (at, turn) in list(self._times.items()):
            if self._holders.at_hand(digest):
                continue
            # A liar proposes what nobody made; to ask for that would cost n² questions. What was
            # made comes late, because a set names it.
            if self._gathering.get(digest) is None:
                soon = now + pause(self._context)
                self._look_at = min(self._look_at, max(at, soon))
                continue
            if now >= at:
                is_unread = digest in self._unread
                if is_unread:  # others may hold it, and have said so
                    self._unread.discard(digest)
                    self._ask_at(digest, now + 2 * pause(self._context), turn)
                else:
                    self._ask_at(digest, now + wait, turn + 1)
                for index in self._holders.short(digest):
                    told = self._holders.of(digest, index)
                    for who in self._plan.serving(index, turn + 1):
                        if who not in told and not (is_unread and who == own):
                            questions.setdefault(who, []).append((digest, index))
            self._look_at = min(self._look_at, self._times[digest][0])
        self.wake = self._look_at
        for shard in questions.pop(own, ()):
            self.note(own, shard)
        return questions

    def to_fetch(self, lacks: Callable[[ShardOf], bool], now: float) -> list[ShardOf]:
        """The shards to fetch because they are missed, ascending; none before :attr:`fetch_at`.

        ``lacks``: is one not here? Complexity: O(contributions, and the shards to fetch of these).
        """
        found: list[ShardOf] = []
        if now < self.fetch_at:
            return found
        self._fetched, self.fetch_at = now, math.inf
        for digest in sorted(self._wanted):
            at, turn = self._times.get(digest, (math.inf, 0))
            if not turn and now < at:
                self.fetch_at = min(self.fetch_at, at)
                continue
            lacking = {i: who for i, who in self._wanted[digest].items() if lacks((digest, i))}
            self._wanted[digest] = lacking
            found += [(digest, i) for i in sorted(lacking) if self._is_asked(i, lacking[i])]
        return found

    def _is_asked(self, index: int, who: Collection[NodeId]) -> bool:
        """True if this node is to fetch a shard that some miss."""
        own = self._context.node_id
        is_first = own in self._plan.serving(index, 1)
        return is_first or own in who or len(who) > self._context.byzantine
