"""The shards of contributions: given to committees, held, asked for.

A sender gives each shard to the ``f + 1`` members that serve it first. Each says what it holds. If
too few say so in time (:func:`patience`), the sender gives the shard to the rest of the committee.

A liar may say what it holds to some nodes alone. Those see enough holders and would not step in,
while the others see too few and would not vote. So whoever sees too few for twice the patience asks
the whole committee for the shard, and each member that lacks it fetches it and says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.context import NodeContext
from qres_core.swarm.gathering import MAX_PER_SENDER, Gathering
from qres_core.swarm.merkle import leaf_hash, proves_leaf
from qres_core.swarm.messages import CandidateSet, ContributionBody, Member
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.shard_messages import (
    ASK,
    HELD,
    PART,
    ContributionHeader,
    ShardPart,
    decode_ask,
    decode_held,
    encode_ask,
    encode_held,
    held_name,
)
from qres_core.swarm.shard_tallies import Holders
from qres_core.swarm.shards import CutVector, ShardPlan
from qres_core.swarm.timeouts import Answers

_QUARTER: Final = 4


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


class ShardGathering:
    """The shards that a node holds at one head, and what it knows of the others'.

    Args:
        gathering: the contributions' headers.
        plan: the committees.
    """

    def __init__(self, speaker: Speaker, gathering: Gathering, plan: ShardPlan) -> None:
        self._speaker, self._context, self._plan = speaker, speaker.context, plan
        self._gathering = gathering
        self._me = self._context.node_id
        self._bits = {index: 1 << place for place, index in enumerate(plan.seats(self._me))}
        serving = (bit for index, bit in self._bits.items() if self._me in plan.serving(index))
        self._serving = sum(serving)  # the mask of the shards that this node serves first
        # Of this round, and of sets of the one before.
        self._most = 2 * MAX_PER_SENDER * len(self._context.roster)
        self._largest = max(plan.octets(index) for index in range(len(plan)))
        self.holders = Holders(plan, self._most)
        self._own: tuple[bytes, CutVector] | None = None  # with the contribution's digest
        self._parts: dict[bytes, dict[int, ShardPart]] = {}
        self._masks: dict[bytes, int] = {}  # what is held of a contribution
        # What came before the contribution it is of; one of each sender and shard.
        self._waiting: dict[tuple[NodeId, int], tuple[ShardPart, Envelope]] = {}
        self._changed = math.inf  # when something came that this node has not said it holds
        self._said_all = False  # whether it said that it holds all it serves first
        self._resends = math.inf  # when this node looks who lacks shards of its contribution
        self._asked: dict[tuple[bytes, int], tuple[int, float]] = {}  # how often, and when
        self._missed: dict[bytes, float] = {}  # when to ask for what too few hold of each
        self._wanted: set[tuple[bytes, int]] = set()  # of its committees; somebody asked for it
        self._wake = math.inf
        self._answers = Answers(pause(self._context))

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def cut(self, payload: bytes) -> tuple[bytes, CutVector | None]:
        """The header of an encoded contribution, and its shards; a liar's own may be neither."""
        try:
            body = ContributionBody.from_bytes(payload, self._plan.dimension)
        except WireError:
            return payload, None
        shards = self._plan.cut(body.vector)
        return ContributionHeader(body.weight, shards.root).to_bytes(), shards

    def contribute(self, digest: bytes, shards: CutVector, now: float) -> None:
        """Give the shards of this node's contribution to those that serve first."""
        self._own = digest, shards
        for index in self._bits:
            self._keep(self._part_of_own(index), now)
        for index in range(len(self._plan)):
            self._give(self._part_of_own(index), self._plan.serving(index), now)
        self._resends = now + patience(self._context)

    def _part_of_own(self, index: int) -> ShardPart:
        assert self._own is not None  # noqa: S101 - asked only where there is one
        digest, shards = self._own
        return ShardPart(digest, index, shards.shards[index], shards.path(index))

    def _give(self, part: ShardPart, members: Iterable[NodeId], now: float) -> None:
        payload = part.to_bytes()
        for member in members:
            if member != self._me:
                self._speaker.send(member, self._speaker.make(PART, payload, now))

    def _resend(self, now: float) -> None:
        """Give the shards of the own contribution that too few hold to their whole committees."""
        self._resends = now + patience(self._context) / 2
        if self._own is None:
            return
        for index in self.holders.short(self._own[0]):
            holders = self.holders.of(self._own[0], index)
            lacking = (who for who in self._plan.committees[index] if who not in holders)
            self._give(self._part_of_own(index), lacking, now)

    # ── holding ───────────────────────────────────────────────────────────────────────────────

    def take_part(self, envelope: Envelope, now: float) -> None:
        """Take a shard of a contribution. Raises WireError: QRES-E401 to QRES-E404."""
        part = ShardPart.from_bytes(envelope.payload, len(self._plan), self._largest)
        if len(part.octets) != self._plan.octets(part.index):
            what = f"expected {self._plan.octets(part.index)} bytes"
            raise WireError.of("QRES-E404", "payload.part.octets", what)
        if part.index not in self._bits:
            return
        if self._gathering.get(part.contribution) is not None:
            self._accept(part, envelope, now)
        elif envelope.round >= self._speaker.position.number:
            self._waiting[envelope.sender, part.index] = part, envelope

    def _accept(self, part: ShardPart, envelope: Envelope, now: float) -> None:
        """Keep a shard, if it is the one that its sender's signed header names."""
        held = self._gathering.get(part.contribution)
        if held is None or part.index in self._parts.get(part.contribution, ()):
            return
        root = ContributionHeader.from_bytes(held.envelope.payload).root
        leaf = leaf_hash(part.octets)
        if proves_leaf(root, leaf, part.index, len(self._plan), part.path):
            self._keep(part, now)
        else:
            fault = Fault.UNPROVEN_CONTRIBUTION
            self._speaker.outlet.refuse(envelope, fault, Blame.SENDER)

    def _keep(self, part: ShardPart, now: float) -> None:
        digest = part.contribution
        self._parts.setdefault(digest, {})[part.index] = part
        self._masks[digest] = self._masks.get(digest, 0) | self._bits[part.index]
        self._changed = min(self._changed, now)

    def take_held(self, envelope: Envelope) -> None:
        """Note what a member says that it holds. Raises WireError: QRES-E401 to QRES-E404."""
        seats = len(self._plan.seats(envelope.sender))
        self.holders.take(envelope.sender, decode_held(envelope.payload, seats, self._most))

    def advance(self, now: float, sets: Iterable[CandidateSet], *, decided: bool) -> None:
        """Say what is held and, until a set is ``decided``, see to it that enough hold each shard.

        ``sets``: those in question.
        """
        for key, (part, envelope) in list(self._waiting.items()):
            if self._gathering.get(part.contribution) is not None:
                del self._waiting[key]
                self._accept(part, envelope, now)
        first = self._changed < math.inf and not self._said_all and self._is_full
        if first or now >= self._changed + pause(self._context):
            self._said_all |= first  # what comes later is said together, or each shard costs n
            self._say(now)
        self._wake = math.inf
        if decided:
            self._resends = math.inf
            return
        if now >= self._resends:
            self._resend(now)
        self._miss(sets, now)
        lacked = [key for key in self._wanted if key[1] not in self._parts.get(key[0], ())]
        self._wanted = set(lacked)
        self._wake = min(self._wake, self.ask(sorted(lacked), now))

    def _miss(self, sets: Iterable[CandidateSet], now: float) -> None:
        """Ask whole committees for the shards that too few of them say to this node they hold."""
        held = self._gathering.of_round(self._speaker.position.number)
        for item in held.values():
            self._missed.setdefault(item.contribution.digest, now + 2 * patience(self._context))
        for member in (member for candidate in sets for member in candidate.members):
            self._missed.setdefault(member.digest, now + patience(self._context) / 2)
        questions: dict[NodeId, list[tuple[bytes, int]]] = {}
        for digest, at in self._missed.items():
            # A liar proposes what nobody made; to ask for that would cost n² questions.
            if self._gathering.get(digest) is None or self.holders.available(digest):
                continue
            if now >= at:
                self._missed[digest] = now + patience(self._context)
                for index in self.holders.short(digest):
                    told = self.holders.of(digest, index)
                    for who in self._plan.committees[index]:
                        if who not in told:
                            questions.setdefault(who, []).append((digest, index))
            self._wake = min(self._wake, self._missed[digest])
        self._wanted.update(questions.pop(self._me, ()))
        self._question(questions, now)

    @property
    def _is_full(self) -> bool:
        """Whether nothing is still to come of what this node serves."""
        held = self._gathering.of_round(self._speaker.position.number)
        return self._context.nobody_is_missing(held) and all(
            self._masks.get(item.contribution.digest, 0) & self._serving == self._serving
            for item in held.values()
        )

    def _say(self, now: float) -> None:
        held = {held_name(digest): mask for digest, mask in self._masks.items()}
        self._changed = math.inf
        self.holders.take(self._me, held)
        self._speaker.say(HELD, encode_held(held), now)

    def due(self) -> float:
        """When :meth:`advance` has a reason to be called, seconds."""
        return min(self._changed + pause(self._context), self._resends, self._wake)

    def open_round(self, named: Collection[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self._parts = {key: it for key, it in self._parts.items() if key in named}
        self._masks = {key: it for key, it in self._masks.items() if key in named}
        self._waiting, self._asked = {}, {}
        self._missed, self._wanted, self._said_all = {}, set(), False
        self.holders.keep_only(named)
        self._resends = math.inf
        self._changed = now if self._masks else math.inf  # what was said is not repeated any more

    # ── using and asking ──────────────────────────────────────────────────────────────────────

    def available(self, candidate: CandidateSet) -> bool:
        """Whether all shards of all members of a set can be had from somebody honest."""
        return all(self.holders.available(member.digest) for member in candidate.members)

    def missing(self, members: Sequence[Member], index: int) -> list[tuple[bytes, int]]:
        """The members' parts of a shard that are not here."""
        return [
            (member.digest, index)
            for member in members
            if index not in self._parts.get(member.digest, ())
        ]

    def rows(self, members: Sequence[Member], index: int) -> NDArray[np.int32]:
        """The members' parts of a shard, which must be here: int32, a row for each."""
        parts = [self._parts[member.digest][index].octets for member in members]
        return np.stack([np.frombuffer(part, dtype="<i4") for part in parts]).astype(np.int32)

    def ask(self, wanted: Iterable[tuple[bytes, int]], now: float) -> float:
        """Ask for parts of shards, each of one node after the other; when to ask again."""
        again = math.inf
        questions: dict[NodeId, list[tuple[bytes, int]]] = {}
        for digest, index in wanted:
            count, at = self._asked.get((digest, index), (0, -math.inf))
            if now >= at + pause(self._context):
                self._asked[digest, index] = count + 1, now
                sources = self._sources(digest, index)
                if sources:
                    questions.setdefault(sources[count % len(sources)], []).append((digest, index))
                at = now
            again = min(again, at + pause(self._context))
        self._question(questions, now)
        return again

    def _question(self, questions: dict[NodeId, list[tuple[bytes, int]]], now: float) -> None:
        for node, pairs in questions.items():
            for start in range(0, len(pairs), self._most):
                payload = encode_ask(pairs[start : start + self._most])
                self._speaker.send(node, self._speaker.make(ASK, payload, now))

    def _sources(self, digest: bytes, index: int) -> list[NodeId]:
        """Who may have a part of a shard: those that say so, its sender, and the committee."""
        held = self._gathering.get(digest)
        sender = [] if held is None else [held.envelope.sender]
        found = [*self.holders.of(digest, index), *sender, *self._plan.committees[index]]
        return [node for node in dict.fromkeys(found) if node != self._me]

    def answer(self, envelope: Envelope, now: float) -> None:
        """Give a member the shards of its committees that it asks for; fetch what is missing here.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        peer = envelope.sender
        seats = self._plan.seats(peer)
        for digest, index in decode_ask(envelope.payload, len(self._plan), self._most):
            part = self._parts.get(digest, {}).get(index)
            if part is None and self._own is not None and self._own[0] == digest:
                part = self._part_of_own(index)
            if part is None and index in self._bits and self._gathering.get(digest) is not None:
                self._wanted.add((digest, index))
            if part is None or index not in seats:
                continue
            if self._answers.due((peer, digest, index), now):
                payload = part.to_bytes()
                self._speaker.send(peer, self._speaker.make(PART, payload, now))
