"""Statements of who holds which shards: short, because all speak of the same contributions.

To name each contribution would take ``20 n²`` bytes a node and round. So a node speaks of the first
contribution of each sender by one bit, and one digest says of :data:`HELD_BLOCK` members in a row
which contributions it means. Whoever knows the same ones can read it.

A member that signs two contributions may give them to different nodes. Then they cannot read each
other's words about its row, and neither can who was given none. Who finds that more than ``f``
others mean something else in a row, or for a pause ones that are not here, says by name what it
holds there, and a little later asks for what nobody else said by name. Who is asked says it by
name to the one that asks: else any liar could have it say that to all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from itertools import islice
from typing import Final

import attrs

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import (
    HELD,
    HELD_BLOCK,
    HeldBlock,
    block_digest,
    decode_held,
    encode_held,
    held_name,
)
from qres_core.swarm.shards.missed import pause
from qres_core.swarm.shards.tallies import Holders
from qres_core.swarm.storage.kept_contributions import Gathering

_MEANT: Final = 4
"""Choices of contributions that are remembered, for each member: more are found anew."""


@attrs.define(eq=False)
class _Meant:
    """The contributions of members of a block."""

    digest: bytes  # :func:`block_digest` of them
    bits: Mapping[int, int]  # what stands for them at this node's :class:`Holders`, by place
    # of what was said of them before: members by bits, and what these stand for
    read: dict[int, int] = attrs.field(factory=dict[int, int])

    def of(self, members: int) -> int:
        """Sum of the contributions of some members."""
        found = self.read.get(members)
        if found is None:
            if len(self.read) >= HELD_BLOCK:  # most say the same
                self.read.clear()
            found = sum(bit for place, bit in self.bits.items() if members >> place & 1)
            self.read[members] = found
        return found


@attrs.define(eq=False)
class Statements:
    """Statements of what a node holds, and of what it reads of the others'. At one head."""

    _context: NodeContext
    _gathering: Gathering  # the contributions' headers
    _plan: ShardPlan  # the committees
    _most: int  # contributions that one statement may name
    holders: Holders  # is told what is read
    # by block: what could not be read yet, by member
    _unread: dict[int, dict[NodeId, HeldBlock]] = attrs.field(
        factory=dict[int, dict[NodeId, HeldBlock]], init=False
    )
    # by block: since when that is of more than f members, seconds
    _since: dict[int, float] = attrs.field(factory=dict[int, float], init=False)
    # by round and block: the members whose contributions are here, by bits
    _came: dict[tuple[int, int], int] = attrs.field(factory=dict[tuple[int, int], int], init=False)
    _fresh: set[int] = attrs.field(factory=set[int], init=False)  # blocks of which some came
    # the contributions that some members of a block made, once they are all here
    _meant: dict[tuple[int, int], _Meant] = attrs.field(
        factory=dict[tuple[int, int], "_Meant"], init=False
    )
    # by block, who mean other ones
    _others: dict[int, set[NodeId]] = attrs.field(factory=dict[int, set[NodeId]], init=False)
    _disputed: set[int] = attrs.field(factory=set[int], init=False)  # blocks that are said by name
    _here: set[bytes] = attrs.field(factory=set[bytes], init=False)  # names of contributions
    _seen: int = attrs.field(default=0, init=False)  # contributions that these are of
    # what members said last of contributions that are not here, by name
    _early: dict[NodeId, dict[bytes, int]] = attrs.field(
        factory=dict[NodeId, dict[bytes, int]], init=False
    )

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins: what a bit means is other from now on.

        ``named``: contributions that may still be merged, by digest.
        """
        self._unread, self._meant, self._others, self._since = {}, {}, {}, {}
        self._came, self._fresh, self._disputed = {}, set(), set()
        self._here, self._seen, names = set(), 0, {held_name(digest) for digest in named}
        for member, early in list(self._early.items()):
            self._wait(member, {name: mask for name, mask in early.items() if name in names})

    # ── saying ────────────────────────────────────────────────────────────────────────────────

    def made(self, masks: Mapping[bytes, int], number: int) -> bytes:
        """Statement of a node that holds so much of contributions, by digest, in a round."""
        rows: dict[int, dict[int, bytes]] = {}
        named = dict(masks)
        roster = self._context.head.roster
        for sender, held in self._gathering.of_round(number).items():
            block, place = divmod(roster.rank(sender), HELD_BLOCK)
            digest = held.contribution.digest
            if digest in masks and block not in self._disputed:
                rows.setdefault(block, {})[place] = digest
                del named[digest]
        blocks = [self._block(block, row, masks) for block, row in sorted(rows.items())]
        return encode_held({held_name(digest): mask for digest, mask in named.items()}, blocks)

    def _block(
        self, number: int, row: Mapping[int, bytes], masks: Mapping[bytes, int]
    ) -> HeldBlock:
        places = sorted(row)
        digest = block_digest(row[place] for place in places)
        seats = tuple(
            sum(1 << place for place in places if masks[row[place]] >> seat & 1)
            for seat in range(len(self._plan.seats(self._context.node_id)))
        )
        return HeldBlock(number, digest, sum(1 << place for place in places), seats)

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, number: int) -> None:
        """Note what a member says that it holds.

        ``number``: this node's round. Raises WireError: QRES-E401 to QRES-E404.
        """
        sender = envelope.sender
        seats, members = len(self._plan.seats(sender)), len(self._context.roster)
        limits = seats, self._most, members
        read = partial(decode_held, envelope.payload, *limits)
        what = HELD, envelope.payload_digest, *limits
        named, blocks = self._context.kernel.found(what, read)
        self._take_named(sender, named)
        if envelope.round != number:
            return  # the bits are about contributions of another round
        for block in blocks:
            self._unread.setdefault(block.number, {})[sender] = block
            self._read(sender, block, number)

    def _take_named(self, sender: NodeId, named: Mapping[bytes, int]) -> None:
        """Note what is said of contributions that are here, and for later a little of the rest.

        Liars could make up names without end. An honest member names few that are not here, and
        repeats what it says.
        """
        self._look_here()
        known = {name: mask for name, mask in named.items() if name in self._here}
        self.holders.take(sender, known)
        early = self._early.get(sender, {})
        early |= {name: mask for name, mask in named.items() if name not in self._here}
        most = len(self._context.roster)
        self._wait(sender, dict(islice(early.items(), max(0, len(early) - most), None)))

    def _wait(self, sender: NodeId, early: dict[bytes, int]) -> None:
        if early:
            self._early[sender] = early
        else:
            self._early.pop(sender, None)

    def _look_here(self) -> None:
        """See which contributions came, and what was said of them before."""
        fresh = self._gathering.after(self._seen)
        if not fresh:  # most often
            return
        self._seen += len(fresh)
        roster = self._context.head.roster
        for envelope in (held.envelope for held in map(self._gathering.get, fresh) if held):
            if envelope.sender in roster:
                block, place = divmod(roster.rank(envelope.sender), HELD_BLOCK)
                key = envelope.round, block
                self._came[key] = self._came.get(key, 0) | 1 << place
                self._fresh.add(block)
        came = {held_name(digest) for digest in fresh}
        self._here |= came
        for sender, early in list(self._early.items()) if came else ():
            self.holders.take(sender, {name: early.pop(name) for name in came & early.keys()})
            self._wait(sender, early)

    def read_again(self, number: int, now: float) -> Collection[bytes]:
        """Read what could not be read, if more contributions are here.

        Returns contributions of blocks in which more than ``f`` others turned out to mean other
        ones, or for a pause ones that are not here: what they hold of these is unknown here.
        """
        self._look_here()
        for at in self._fresh:
            for sender, block in list(self._unread.get(at, {}).items()):
                self._read(sender, block, number)
        self._fresh.clear()
        if not self._unread:  # most often
            self._since.clear()
            return ()
        few = self._context.byzantine
        many = {block for block, unread in self._unread.items() if len(unread) > few}
        self._since = {block: self._since.get(block, now) for block in many - self._disputed}
        fresh = {block for block in self._since if len(self._others.get(block, ())) > few}
        fresh |= {block for block, at in self._since.items() if now >= at + pause(self._context)}
        self._disputed |= fresh
        self._since = {block: at for block, at in self._since.items() if block not in fresh}
        roster = self._context.roster
        here = self._gathering.firsts(number)
        return [
            here[sender].contribution.digest
            for block in fresh
            for sender in roster[block * HELD_BLOCK : (block + 1) * HELD_BLOCK]
            if sender in here
        ]

    def due(self) -> float:
        """Time at which :meth:`read_again` has something to tell, seconds."""
        return min(self._since.values(), default=math.inf) + pause(self._context)

    def _read(self, sender: NodeId, block: HeldBlock, number: int) -> None:
        """Read a block, if all the contributions that it speaks of are here."""
        meant = self._contributions(block, number)
        if meant is None:
            return
        if meant.digest != block.digest:
            self._others.setdefault(block.number, set()).add(sender)
            return
        unread = self._unread[block.number]
        del unread[sender]
        if not unread:
            del self._unread[block.number]
        self._others.get(block.number, set()).discard(sender)
        self.holders.note(sender, map(meant.of, block.seats))

    def _contributions(self, block: HeldBlock, number: int) -> _Meant | None:
        """The first ones of the members that a block speaks of; ``None``: not all are here."""
        key = block.number, block.members
        if key not in self._meant:
            if block.members & ~self._came.get((number, block.number), 0):  # most often, if so
                return None
            if len(self._meant) >= _MEANT * len(self._context.roster):
                self._meant.clear()  # which members a block is about, its sender chooses
            here, first = self._gathering.firsts(number), block.number * HELD_BLOCK
            row = self._context.roster[first : first + HELD_BLOCK]
            digests = {
                place: here[who].contribution.digest
                for place, who in enumerate(row)
                if who in here and block.members >> place & 1
            }
            if len(digests) < block.members.bit_count():
                return None
            bits = self.holders.bits(map(held_name, digests.values()))
            meant = dict(zip(digests, bits, strict=True))
            self._meant[key] = _Meant(block_digest(digests.values()), meant)
        return self._meant[key]
