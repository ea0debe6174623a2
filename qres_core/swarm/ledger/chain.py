"""The swarm's history: a chain of heights, each decided by certificate.

A :class:`Head` is what all nodes must agree on between two heights: model, members, bans, settings.
Every signed message names the digest of the head it belongs to. A height decides a set of
contributions and then what becomes of it. A :class:`Link` is that decision with the votes of a
quorum. Whoever knows the members of its head can check it, and then knows the next head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import QresError
from qres_core.contract.rounds import OwnContributions
from qres_core.contract.types import DIGEST_BYTES, NODE_ID_BYTES, NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.fields import Fields
from qres_core.swarm.ledger.messages import (
    OUTCOME_PRECOMMIT,
    CandidateSet,
    decode_conclusion,
    set_limit,
    vote_frames,
)
from qres_core.swarm.ledger.results import Conclusion, Merged, Result, Void
from qres_core.swarm.ledger.roster import MAX_MEMBERS, Roster, RosterChange
from qres_core.swarm.ledger.unmerged_sets import EMPTY, Record

SILENT: Final = 8
"""Decided sets in a row without a member after which the member does not propose."""
MAX_LINKS: Final = 64
"""Links that one message holds."""
PAST_HEADS: Final = 64
"""Past heads whose link is kept, to help nodes that lag."""
_U63: Final = 2**63 - 1
_BEGINNING: Final = b"qres/beginning/v1\0"
Authentic = Callable[[Envelope, tuple[NodeId, ...]], bool]
"""Whether a quoted message was made by its sender, who was among these members."""


_FIELDS: Final = Fields("payload.")
_bad, _list, _octets, _number = _FIELDS.bad, _FIELDS.listed, _FIELDS.octets, _FIELDS.number


def beginning(settings: bytes, model: bytes) -> bytes:
    """Digest of all that the heads of a swarm have in common besides its name; 32 bytes.

    ``settings``: digest of the shared settings; ``model``: digest of the first model. Members that
    begin again from another model, in a swarm of the same name, could else be shown the votes with
    which they went on from the model before.
    """
    return hashlib.sha256(_BEGINNING + settings + model).digest()


@attrs.frozen(slots=False)
class Head:
    """Head of the swarm's history; the same on every node that is there."""

    swarm: str  # the swarm's name
    height: int  # decided heights before this one
    step: int  # those of them that made a model
    model: bytes  # digest of the model, 32 bytes
    roster: Roster  # the members, with f and the quorum
    settings: bytes  # :func:`beginning` of the shared settings and the first model, 32 bytes
    previous: bytes  # digest of the head before, 32 bytes; zeros for the first
    bans: tuple[NodeId, ...] = ()  # members that the swarm banned, ascending
    # for each member in order: decided sets in a row without it, up to SILENT
    missed: bytes = b""
    record: Record = EMPTY  # the sets that were decided for the model and made no new one
    waiting: tuple[NodeId, ...] = ()  # members that are banned with the next model, ascending

    @classmethod
    def first(cls, swarm: str, model: bytes, roster: Roster, settings: bytes) -> Head:
        """The head that a swarm begins with.

        ``model``: digest of the first model; ``settings``: digest of the shared settings.
        """
        nobody, common = bytes(len(roster)), beginning(settings, model)
        return cls(swarm, 0, 0, model, roster, common, bytes(DIGEST_BYTES), (), nobody)

    @cached_property
    def digest(self) -> bytes:
        """Digest that messages name; 32 bytes. O(n), once."""
        return hashlib.sha256(b"qres/head/v3\0" + canonical.dumps(self.raw())).digest()

    @cached_property
    def proposers(self) -> tuple[NodeId, ...]:
        """The members that propose in turn.

        Banned members do not, and neither do those that were in none of the last sets. The same
        on every node: an own view of who is silent would set nodes apart.
        """
        members = self.roster.members
        free = [member for member in members if member not in self.bans]
        heard = [
            member
            for member, missed in zip(members, self.missed, strict=True)
            if missed < SILENT and member not in self.bans
        ]
        few = self.roster.byzantine
        return tuple(heard if len(heard) > few else free if len(free) > few else members)

    def proposer(self, number: int, *, coordinator: bool = False) -> NodeId:
        """Member that may propose in a round; with a ``coordinator`` the first that is not banned.

        A coordinator may have nothing to train on, so it stays although no set has it.
        """
        if coordinator:
            members = self.roster.members
            return next((member for member in members if member not in self.bans), members[0])
        return self.proposers[number % len(self.proposers)]

    def after(self, chosen: CandidateSet, result: Result) -> Head:
        """The head that a height leads to.

        A change of members and bans hold whatever becomes of the contributions, unless the set says
        that they wait for its model. If it makes none, the bans wait for the next one: what proves
        them is too old by then to be carried again. Raises QresError: QRES-E607 for a change that
        is impossible.
        """
        made = isinstance(result, Merged)
        holds = made or not chosen.waits
        change = chosen.change if holds else None
        roster = self.roster if change is None else self.changed(change)
        there = {member.sender for member in chosen.members}
        missed = {
            member: 0 if member in there else min(count + 1, SILENT)
            for member, count in zip(self.roster.members, self.missed, strict=True)
        }
        accused = {item.subject for item in chosen.evidence}
        banned = {*self.bans, *(accused if holds else ()), *(self.waiting if made else ())}
        waiting = {*self.waiting, *accused} - banned
        if change is not None:
            names = {member: change.renamed(member) for member in self.roster.members}
            missed = {name: missed[m] for m, name in names.items() if name is not None}
            banned = {name for m, name in names.items() if name is not None and m in banned}
            waiting = {name for m, name in names.items() if name is not None and m in waiting}
        record = EMPTY
        if isinstance(result, Void):
            record = self.record.after(self.roster.members, there, result, change)
        return Head(
            self.swarm,
            self.height + 1,
            self.step + made,
            result.model if isinstance(result, Merged) else self.model,
            roster,
            self.settings,
            self.digest,
            tuple(member for member in roster.members if member in banned),
            bytes(missed.get(member, 0) for member in roster.members),
            record,
            tuple(member for member in roster.members if member in waiting),
        )

    def changed(self, change: RosterChange) -> Roster:
        """The roster that a change leads to.

        Raises RosterError: QRES-E607 for an impossible one, or one too many for one model.
        """
        self.record.must_take(change)
        return self.roster.after(change)

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return [
            self.swarm,
            self.height,
            self.step,
            self.model,
            self.roster.raw(),
            self.settings,
            self.previous,
            b"".join(self.bans),
            self.missed,
            self.record.raw(),
            b"".join(self.waiting),
        ]

    @classmethod
    def from_raw(cls, value: object) -> Head:
        """From plain data. Raises WireError: QRES-E404."""
        swarm, height, step, model, roster, settings, previous, bans, missed, record, waiting = (
            _list(value, 11, "head")
        )
        if type(swarm) is not str:
            raise _bad("head.swarm", "expected a name")
        members = Roster.from_raw(roster)
        banned = _of_them(bans, members, "head.bans")
        _octets(missed, len(members), "head.missed")
        if max(missed) > SILENT:
            raise _bad("head.missed", f"expected numbers in 0..{SILENT}")
        return cls(
            swarm,
            _number(height, 0, _U63, "head.height"),
            _number(step, 0, _U63, "head.step"),
            _octets(model, DIGEST_BYTES, "head.model"),
            members,
            _octets(settings, DIGEST_BYTES, "head.settings"),
            _octets(previous, DIGEST_BYTES, "head.previous"),
            banned,
            missed,
            Record.from_raw(record, members.members),
            _of_them(waiting, members, "head.waiting"),
        )


def _of_them(joined: object, members: Roster, field: str) -> tuple[NodeId, ...]:
    """Some of the members, from their joined identities. Raises WireError: QRES-E404."""
    if type(joined) is not bytes:
        raise _bad(field, "expected identities, joined")
    starts = range(0, min(len(joined), MAX_MEMBERS * NODE_ID_BYTES), NODE_ID_BYTES)
    some = tuple(joined[start : start + NODE_ID_BYTES] for start in starts)
    if any(a >= b for a, b in pairwise(some)) or any(who not in members for who in some):
        raise _bad(field, "expected distinct members, ascending")
    return some


@attrs.frozen(slots=False, eq=False)
class Link:
    """A decided height with the votes that decided it."""

    head: Head  # the height's head
    chosen: CandidateSet  # the set
    result: Result  # what became of it
    round: int  # the attempt at the outcome that the votes are of, from 1
    precommits: tuple[Envelope, ...]  # ascending by sender

    @cached_property
    def decision(self) -> Conclusion:
        """Digest that the votes are about."""
        return Conclusion(self.chosen.digest(self.head.digest), self.result)

    @property
    def changes_members(self) -> bool:
        """True if the next head has another roster."""
        change, waits = self.chosen.change, self.chosen.waits
        return change is not None and not (waits and isinstance(self.result, Void))

    @cached_property
    def next(self) -> Head:
        """The head that it leads to. Raises QresError: QRES-E607 for an impossible change."""
        return self.head.after(self.chosen, self.result)

    def holds(self, authentic: Authentic) -> bool:
        """True if a quorum of the head's members decided it; at most n calls of ``authentic``."""
        return self.proven(authentic) is not None

    def proven(self, authentic: Authentic) -> Link | None:
        """The link with the votes of a quorum and no more; ``None`` if there are too few.

        Votes that nobody is proven to have made are left out, and so are signatures on a change:
        what a node exports or hands on would else be refused for what a liar hung on it, or be too
        large. At most n calls of ``authentic``.
        """
        try:
            votes = self._votes(authentic)
            self.head.after(self.chosen, self.result)  # refuses a change that is impossible
        except QresError:
            return None
        if len(votes) < self.head.roster.threshold:
            return None
        sound, chosen = tuple(votes[sender] for sender in sorted(votes)), self.chosen.bare()
        if sound == self.precommits and chosen is self.chosen:
            return self
        return attrs.evolve(self, chosen=chosen, precommits=sound)

    def _votes(self, authentic: Authentic) -> dict[NodeId, Envelope]:
        head, wanted, votes = self.head, self.decision, dict[NodeId, Envelope]()
        for vote in self.precommits:
            if (
                vote.swarm == head.swarm
                and vote.kind == OUTCOME_PRECOMMIT
                and vote.head == head.digest
                and vote.round == self.round
                and vote.sender in head.roster
                and vote.sender not in head.bans
                and vote.sender not in votes
                and decode_conclusion(vote.payload) == wanted
                and authentic(vote, head.roster.members)
            ):
                votes[vote.sender] = vote
                if len(votes) >= head.roster.threshold:
                    break
        return votes

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        frames = [vote.to_bytes() for vote in self.precommits]
        return [self.head.raw(), self.chosen.raw(), self.decision.raw(), self.round, frames]

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps(self.raw())

    @classmethod
    def from_raw(cls, value: object) -> Link:
        """From plain data. Raises WireError: QRES-E401 to QRES-E406."""
        head, chosen, decision, number, frames = _list(value, 5, "link")
        known = Head.from_raw(head)
        nodes = len(known.roster)
        candidate = CandidateSet.from_raw(chosen, nodes)
        decided = Conclusion.from_raw(decision)
        if candidate.digest(known.digest) != decided.chosen:
            raise _bad("link.decision", "expected a decision on its set")
        votes = vote_frames(frames, nodes, "link.precommits")
        return cls(known, candidate, decided.result, _number(number, 1, _U63, "link.round"), votes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Link:
        """Decode what this node wrote. Raises WireError."""
        return cls.from_raw(canonical.loads(data, max_bytes=len(data)))


def last_contributed(head: Head, links: Sequence[Link], node_id: NodeId) -> int:
    """The last height that decided a set with a contribution of a node; -1 where none is known.

    A link names the members of its set, and a head says how many sets in a row a member was not
    in. That counts from the height at which the node became a member. ``links``: those that
    changed the members, and the last, ascending. O(links n).
    """
    first = links[0].head if links else head
    found, since = -1, first.height if first.roster.epoch else 0
    for link in reversed(links):
        if any(member.sender == node_id for member in link.chosen.members):
            found = link.head.height
            break
    for link in links:
        if node_id not in link.head.roster:
            since = link.head.height + 1
    if node_id in head.roster:
        missed = head.missed[head.roster.members.index(node_id)]
        decided = head.height - 1 - missed
        if missed < SILENT and decided >= since:
            found = max(found, decided)
    return found


def link_contributed(links: Iterable[Link], node_id: NodeId, height: int) -> Link | None:
    """The link of a height whose set has a contribution of a node; ``None`` where there is none."""
    for link in links:
        members = link.chosen.members if link.head.height == height else ()
        if any(member.sender == node_id for member in members):
            return link
    return None


def silent_since(head: Head, node_id: NodeId) -> int:
    """The height from which on no decided set has a contribution of a node.

    Of more than :data:`SILENT` heights a head does not tell. The head's own height for who is no
    member.
    """
    members = head.roster.members
    return head.height - (head.missed[members.index(node_id)] if node_id in head.roster else 0)


class NodeHistory:
    """The heights that a node has behind it: what it shows others of them, and asks of them itself.

    Args:
        links: those that changed the members, and the last one, ascending.
    """

    def __init__(self, links: Sequence[Link] = ()) -> None:
        # of all heights that changed the members, and the last; ascending
        self.links: tuple[Link, ...] = ()
        self.last: Link | None = None  # the one that led to the node's head; not at the first
        self.recent: dict[bytes, Link] = {}  # by the digest of the link's head
        # the votes that decided the node's model, ascending by sender; none for the first
        self.vouchers: tuple[Envelope, ...] = ()
        self.model_round = 0  # of the contributions that made the node's model, 0 for the first
        for link in links:
            self._add(link)
        if links and isinstance(links[-1].result, Merged):
            self._vouch(links[-1])

    def go_on(self, links: Sequence[Link], *, has_model: bool) -> None:
        """The node went this way. ``has_model``: whether it has a new model at the end."""
        for link in links:
            self._add(link)
        if has_model:
            self._vouch(links[-1])

    def _add(self, link: Link) -> None:
        kept = [item for item in self.links if item.changes_members]
        self.links, self.last = (*kept, link), link
        self.recent[link.head.digest] = link
        while len(self.recent) > PAST_HEADS:
            del self.recent[next(iter(self.recent))]

    def _vouch(self, link: Link) -> None:
        fresh = isinstance(link.result, Merged)
        self.vouchers = link.precommits if fresh else ()
        self.model_round = link.chosen.origin

    def contributed(
        self, head: Head, node_id: NodeId, kept: tuple[bytes, int, int]
    ) -> OwnContributions:
        """All that is known of a node's contributions so far. O(links n).

        ``head``: where the node is; ``kept``: what its journal knows of them, as
        :meth:`~qres_core.swarm.storage.journal.Journal.contributions` gives it.
        """
        journal, rounds, last = kept
        height = last_contributed(head, self.links, node_id)
        link = link_contributed(self.links, node_id, height)
        return OwnContributions(
            journal,
            rounds,
            last,
            height,
            decided_round=0 if link is None else link.chosen.origin,
            decided_head=b"" if link is None else link.head.digest,
            silent_since=silent_since(head, node_id),
        )


def encode_links(links: Iterable[Link]) -> bytes:
    """The payload of a ``links`` message."""
    return canonical.dumps([link.raw() for link in links])


def decode_links(payload: bytes) -> tuple[Link, ...]:
    """The links of a message, at least one; not checked. Raises WireError."""
    limit = min(MAX_LINKS * set_limit(MAX_MEMBERS), 2**28)
    most = len(payload) // 16 + 512  # most of the values in a link have 32 bytes
    value = canonical.loads(payload, max_bytes=limit, max_items=most)
    if not canonical.is_list(value) or not 1 <= len(value) <= MAX_LINKS:
        raise _bad("links", f"expected a list of 1..{MAX_LINKS} links")
    return tuple(Link.from_raw(item) for item in value)


def follow(roster: Roster, links: Iterable[Link], authentic: Authentic) -> tuple[Link, ...]:
    """Some links, proven, if each holds by the members that are known when it comes.

    The first is of heads with this roster. A link that changes the members makes the next one
    known. Heights in between, that changed nothing about the members, may be left out: who votes
    at a head has checked it. Returns nothing where a link does not hold.
    """
    found: list[Link] = []
    for link in links:
        known = link.head.roster.digest == roster.digest
        proven = link.proven(authentic) if known else None
        if proven is None:
            return ()
        found.append(proven)
        roster = proven.next.roster
    return tuple(found)
