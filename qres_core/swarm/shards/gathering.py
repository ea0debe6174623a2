"""The shards of contributions: given to committees, held, asked for.

A sender gives each shard to the ``f + 1`` members that serve it first. Each says what it holds. If
too few say so in time (:func:`patience`), the sender gives the shard to the rest of the committee,
and then to reserves, to twice as many each time.

Who sees too few holders asks for the shard (:mod:`qres_core.swarm.shards.missed`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId, Vector
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import Answers, next_asked
from qres_core.swarm.ledger.merkle import proves_leaf
from qres_core.swarm.ledger.messages import CandidateSet, ContributionBody, Member
from qres_core.swarm.shards.availability import Statements
from qres_core.swarm.shards.checks import ShardChecks
from qres_core.swarm.shards.committees import CutVector, ShardPlan
from qres_core.swarm.shards.messages import (
    ASK,
    ASKS_WHO,
    HELD,
    PART,
    ContributionHeader,
    ShardPart,
    decode_ask,
    encode_ask,
    encode_held,
    held_name,
)
from qres_core.swarm.shards.missed import MissedShards, ShardOf, patience, pause
from qres_core.swarm.shards.tallies import Holders
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER, Gathering

_SILENT: Final = 4
"""Repetitions of what it holds that a member may owe before others hold its shards too."""


def kept_rounds(byzantine: int) -> int:
    """Rounds of which shards are kept because a set of theirs may be locked somewhere.

    Liars propose in ``f`` rounds in a row at most, and only such a round leaves a set behind where
    messages come in time. One of the honest node before them may be locked, and one is to spare.
    """
    return byzantine + 2


class ShardGathering:
    """The shards that a node holds at one head, and what it knows of the others'.

    Args:
        gathering: the contributions' headers.
        plan: the committees.
        away: members that had fallen silent at the head before.
    """

    def __init__(
        self,
        speaker: Speaker,
        gathering: Gathering,
        plan: ShardPlan,
        away: Collection[NodeId] = (),
    ) -> None:
        self._speaker, self._context, self._plan = speaker, speaker.context, plan
        self._gathering = gathering
        self.me = self._context.node_id
        self._bits = {index: 1 << place for place, index in enumerate(plan.seats(self.me))}
        serving = (bit for index, bit in self._bits.items() if self.me in plan.serving(index))
        self._serving = sum(serving)  # the mask of the shards that this node serves first
        # Of this round, and of those whose sets may be locked.
        rounds = 1 + kept_rounds(self._context.byzantine)
        self._most = rounds * MAX_PER_SENDER * len(self._context.roster)
        self._largest = plan.most_bytes
        self.holders = Holders(plan, away)
        self._statements = Statements(self._context, gathering, plan, self._most, self.holders)
        self._cut: tuple[bytes, Vector] | None = None  # root and vector of what it made last
        # its shards, as they are sent, by the contribution's digest
        self._own: dict[bytes, tuple[ShardPart, ...]] = {}
        self._made = b""  # the digest of the one to this round
        self._parts: dict[bytes, dict[int, ShardPart]] = {}
        self._masks: dict[bytes, int] = {}  # what is held of a contribution
        # What came before the contribution it is of; one of each sender and shard.
        self._waiting: dict[tuple[NodeId, int], tuple[ShardPart, Envelope]] = {}
        self._changed = math.inf  # when something came that this node has not said it holds
        self._said_all = False  # whether it said that it holds all it serves first
        self._resends = math.inf  # when this node looks who lacks shards of its contribution
        self._asked: dict[tuple[bytes, int], tuple[int, float]] = {}  # how often, and when
        self._missed = MissedShards(self._context, gathering, plan, self.holders)
        self._checks = ShardChecks(speaker, plan)
        self._turn = 0  # how often this node gave shards to more members
        self._wake = math.inf
        self._answers = Answers(pause(self._context))

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def cut(self, made: ContributionBody | bytes) -> tuple[bytes, CutVector | None]:
        """The header of a contribution, and its shards; a liar's own bytes may be neither."""
        if isinstance(made, bytes):
            try:
                body = ContributionBody.from_bytes(made, self._plan.dimension)
            except WireError:
                return made, None
        else:
            body = made
        shards = self._plan.cut(body.vector)
        self._cut = shards.root, body.vector
        header = ContributionHeader(body.weight, shards.root, body.proofs, body.companions)
        return header.to_bytes(), shards

    def own_vector(self, root: bytes) -> Vector | None:
        """The vector that this node cut into the shards of this root; ``None`` for another."""
        cut = self._cut
        return cut[1] if cut is not None and cut[0] == root else None

    def contribute(self, digest: bytes, shards: CutVector, now: float) -> None:
        """Give the shards of this node's contribution to those that serve first."""
        made = (ShardPart(digest, *it, shards.path(it[0])) for it in enumerate(shards.shards))
        sent = (part.to_bytes() for part in made)
        parts = tuple(self._read(octets, hashlib.sha256(octets).digest()) for octets in sent)
        self._made, self._turn, self._own[digest] = digest, 0, parts
        for index in self._bits:
            self._keep(parts[index], now)
        for part in parts:
            self._give(part, self._plan.serving(part.index), now)
        self._resends = now + patience(self._context)

    def _give(self, part: ShardPart, members: Iterable[NodeId], now: float) -> None:
        payload = part.to_bytes()
        for member in members:
            if member != self.me:
                self._speaker.send(member, self._speaker.make(PART, payload, now))

    def _resend(self, now: float) -> None:
        """Give the shards of the own contribution that too few hold to more members."""
        self._resends = now + patience(self._context) / 2
        self._turn += 1
        for index in self.holders.short(self._made) if self._made else ():
            holders = self.holders.of(self._made, index)
            serving = self._plan.serving(index, self._turn)
            lacking = (who for who in serving if who not in holders)
            self._give(self._own[self._made][index], lacking, now)

    # ── holding ───────────────────────────────────────────────────────────────────────────────

    def take_part(self, envelope: Envelope, now: float) -> None:
        """Take a shard of a contribution. Raises WireError: QRES-E401 to QRES-E404."""
        part = self._read(envelope.payload, envelope.payload_digest)
        if part.index not in self._bits:
            return
        if self._gathering.get(part.contribution) is not None:
            self._accept(part, envelope, now)
        elif envelope.round >= self._speaker.position.number:
            self._waiting[envelope.sender, part.index] = part, envelope

    def _read(self, payload: bytes, digest: bytes) -> ShardPart:
        """The shard in a payload of this digest. Raises WireError: QRES-E401 to QRES-E404."""
        limits = len(self._plan), self._largest
        read = partial(ShardPart.from_bytes, payload, *limits)
        return self._context.kernel.found((PART, digest, *limits), read)

    def _accept(self, part: ShardPart, envelope: Envelope, now: float) -> None:
        """Keep a shard, if its sender's signed header names it and proves about it."""
        held = self._gathering.get(part.contribution)
        if held is None or part.index in self._parts.get(part.contribution, ()):
            return
        outlet, root = self._speaker.outlet, held.contribution.root
        if not proves_leaf(root, part.leaf, part.index, len(self._plan), part.path):
            outlet.refuse(envelope, Fault.UNPROVEN_CONTRIBUTION, Blame.SENDER)
            return
        verdict, plugin = self._checks.judge(part, held, envelope, now)
        if verdict is ACCEPT:
            self._keep(part, now)
        else:  # who passes one on has checked it
            outlet.refuse(envelope, verdict.reason, verdict.blame, plugin)

    def _keep(self, part: ShardPart, now: float) -> None:
        digest = part.contribution
        self._parts.setdefault(digest, {})[part.index] = part
        self._masks[digest] = self._masks.get(digest, 0) | self._bits[part.index]
        self._changed = min(self._changed, now)

    def take_held(self, envelope: Envelope, now: float) -> None:
        """Note what a member says that it holds. Raises WireError: QRES-E401 to QRES-E404."""
        self._statements.take(envelope, self._speaker.position.number)
        self.holders.hear(envelope.sender, now)

    def advance(self, now: float, sets: Iterable[CandidateSet], *, decided: bool) -> None:
        """Say what is held and, until a set is ``decided``, see to it that enough hold each shard.

        ``sets``: those in question.
        """
        for key, (part, envelope) in list(self._waiting.items()):
            if self._gathering.get(part.contribution) is not None:
                del self._waiting[key]
                self._accept(part, envelope, now)
        for part, envelope in self._checks.take_again(now):
            self._accept(part, envelope, now)
        for digest in self._statements.read_again(self._speaker.position.number, now):
            self._changed = min(self._changed, now)
            self._missed.ask_soon(digest, now)
        first = self._changed < math.inf and not self._said_all and self._is_full
        if first or now >= self._changed + pause(self._context):
            self._said_all |= first  # what comes later is said together, or each shard costs n
            self._say(now)
        self._wake = math.inf
        if decided:
            self._resends = math.inf
            return
        # On slow lines what a member repeats comes late, and more copies would make them slower.
        silent = _SILENT * self._speaker.pause * self._context.waits.stretch
        if self.holders.look(now, silent):
            self._missed.look_again()
        if now >= self._resends:
            self._resend(now)
        number = self._speaker.position.number
        self._question(self._missed.questions(sets, number, now), now, ASKS_WHO)
        again = self.ask(self._missed.to_fetch(self._lacks, now), now)
        self._missed.fetch_at = min(self._missed.fetch_at, again)
        self._wake = min(self._missed.wake, self._missed.fetch_at)

    def _lacks(self, shard: ShardOf) -> bool:
        is_here = shard[1] in self._parts.get(shard[0], ())
        return not is_here and not self._checks.refuses(shard)

    @property
    def _is_full(self) -> bool:
        """True if nothing is still to come of what this node serves."""
        number = self._speaker.position.number
        held = self._gathering.firsts(number)
        return self._context.nobody_is_missing(held, number) and all(
            self._masks.get(item.contribution.digest, 0) & self._serving == self._serving
            for item in held.values()
        )

    def _say(self, now: float) -> None:
        self._changed = math.inf
        held = {held_name(digest): mask for digest, mask in self._masks.items()}
        self.holders.take(self.me, held)
        made = self._statements.made(self._masks, self._speaker.position.number)
        self._speaker.say(HELD, made, now)

    def due(self) -> float:
        """Time of the next reason to call :meth:`advance`, seconds."""
        again = min(self._wake, self._checks.due(), self._statements.due())
        return min(self._changed + pause(self._context), self._resends, again)

    def open_round(self, named: Collection[bytes], now: float) -> None:
        """A round begins at the same head: forget all but the contributions named by digest."""
        self._parts = {key: it for key, it in self._parts.items() if key in named}
        self._masks = {key: it for key, it in self._masks.items() if key in named}
        self._own = {key: it for key, it in self._own.items() if key in named}
        self._made = b""
        self._waiting, self._asked = {}, {}
        self._missed.open_round()
        self._said_all = False
        self._checks.open_round(named)
        self.holders.open_round(named)
        self._statements.open_round(named)
        self._resends = math.inf
        self._changed = now if self._masks else math.inf  # what was said is not repeated any more

    # ── using and asking ──────────────────────────────────────────────────────────────────────

    def available(self, candidate: CandidateSet) -> bool:
        """True if all shards of all members of a set can be had from somebody honest."""
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
        rows = np.empty((len(members), self._plan.width(index)), dtype=np.int32)
        for row, member in zip(rows, members, strict=True):
            row[:] = self._plan.unpack(index, self._parts[member.digest][index].octets)
        return rows

    def ask(self, wanted: Iterable[tuple[bytes, int]], now: float) -> float:
        """Ask for parts of shards, each of more nodes every time; when to ask again."""
        again = math.inf
        questions: dict[NodeId, list[tuple[bytes, int]]] = {}
        for digest, index in wanted:
            count, at = self._asked.get((digest, index), (0, -math.inf))
            if now >= at + pause(self._context):
                self._asked[digest, index] = count + 1, now
                for source in next_asked(self._sources(digest, index), count):
                    questions.setdefault(source, []).append((digest, index))
                at = now
            again = min(again, at + pause(self._context))
        self._question(questions, now)
        return again

    def _question(
        self, questions: Mapping[NodeId, Sequence[ShardOf]], now: float, *first: ShardOf
    ) -> None:
        step = self._most - len(first)
        for node, pairs in questions.items():
            for start in range(0, len(pairs), step):
                payload = encode_ask([*first, *pairs[start : start + step]])
                self._speaker.send(node, self._speaker.make(ASK, payload, now))

    def _sources(self, digest: bytes, index: int) -> list[NodeId]:
        """Sources of a part of a shard: those that say so, its sender, and the committee."""
        held = self._gathering.get(digest)
        sender = [] if held is None else [held.envelope.sender]
        found = [*self.holders.of(digest, index), *sender, *self._plan.committees[index]]
        others = [node for node in dict.fromkeys(found) if node != self.me]
        return sorted(others, key=self.holders.away.__contains__)  # those last

    def answer(self, envelope: Envelope, now: float) -> None:
        """Give a member the shards of its committees that it asks for; fetch what is missing here.

        Who asks for holders is told so by name, once in a pause, and is given no shard: what it
        lacks it asks for besides, of one after the other. Raises WireError: QRES-E401 to QRES-E404.
        """
        peer, held = envelope.sender, dict[bytes, int]()
        seats = self._plan.seats(peer)
        asked = decode_ask(envelope.payload, len(self._plan), self._most)
        asks_who = asked[0] == ASKS_WHO
        for digest, index in asked:
            part = self._parts.get(digest, {}).get(index)
            if part is None and digest in self._own:
                part = self._own[digest][index]
            if part is None and index in self._bits and self._gathering.get(digest) is not None:
                self._missed.note(peer, (digest, index))
            if part is None:
                continue
            if asks_who:
                name = held_name(digest)
                if index in self._bits and name not in held and self._answers.due(name + peer, now):
                    held[name] = self._masks[digest]
            elif index in seats and self._answers.due((peer, digest, index), now):
                payload = part.to_bytes()
                self._speaker.send(peer, self._speaker.make(PART, payload, now))
        if held:
            self._tell(peer, held, now)

    def _tell(self, peer: NodeId, held: Mapping[bytes, int], now: float) -> None:
        """Tell one member by name what is held of contributions."""
        self._speaker.send(peer, self._speaker.make(HELD, encode_held(held), now))
