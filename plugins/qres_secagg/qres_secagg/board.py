"""The public side of a session: what its messages say, checked, and the leader's list.

It holds no secret. Every node keeps one, whether it takes part or only sums. Messages may come in
any order and more than once; none raises. What they prove against their senders collects in
:meth:`SessionMessages.drain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId
from qres_core.errors import WireError
from qres_secagg.checks import Acks, Complaints
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.graph import Topology, topology
from qres_secagg.keys import plausible
from qres_secagg.messages import (
    DECODERS,
    MAX_VARIANTS,
    Ack,
    Advert,
    Complaint,
    Kind,
    Listing,
    Shares,
    Skip,
    Unmask,
    body_hash,
    decode_listing,
    encode_listing,
    shares_hash,
)
from qres_secagg.opening import OpenedShares
from qres_secagg.session import Session
from qres_secagg.survivors import Survivors

M = TypeVar("M", Advert, Shares)


@attrs.define
class SessionMessages:
    """Messages of one session."""

    session: Session  # the session
    # this node, if it takes part: it knows its own keys when it sees them elsewhere
    me: NodeId | None = None
    topology: Topology = attrs.field(init=False)  # the graphs
    # by rank and hash
    adverts: dict[int, dict[bytes, Advert]] = attrs.field(
        init=False, factory=dict[int, dict[bytes, Advert]]
    )
    # by rank and hash
    shares: dict[int, dict[bytes, Shares]] = attrs.field(
        init=False, factory=dict[int, dict[bytes, Shares]]
    )
    acks: Acks = attrs.field(init=False)  # who found whose shares to fit
    complaints: Complaints = attrs.field(init=False)  # and whose not to
    # how many leaders a quorum has skipped: whose turn it is to list
    turn: int = attrs.field(init=False, default=0)
    listing: Listing | None = attrs.field(init=False, default=None)  # the adopted list, or ``None``
    # the survivor set and the shares opened for it, or ``None``
    opening: OpenedShares | None = attrs.field(init=False, default=None)
    # listed nodes that stated this node's survivor set
    statements: int = attrs.field(init=False, default=0)
    list_hash: bytes = attrs.field(init=False, default=b"")  # names the adopted list
    _skips: dict[int, int] = attrs.field(init=False, factory=dict[int, int])
    _statements: dict[int, bytes] = attrs.field(init=False, factory=dict[int, bytes])
    _unmasks: dict[int, Unmask] = attrs.field(init=False, factory=dict[int, Unmask])
    _faults: list[PeerFault] = attrs.field(init=False, factory=list[PeerFault])

    def __attrs_post_init__(self) -> None:
        self.topology = topology(self.session)
        self.acks = Acks(len(self.session.roster))
        self.complaints = Complaints(self.session)

    # -- faults ---------------------------------------------------------------------------------

    def blame(self, rank: int, reason: Reason) -> None:
        """Note a fault."""
        self._faults.append(PeerFault(self.session.roster[rank], reason))

    def drain(self) -> tuple[PeerFault, ...]:
        """The faults found since the last call, each once."""
        found = tuple(dict.fromkeys(self._faults))
        self._faults.clear()
        return found

    # -- messages -------------------------------------------------------------------------------

    def receive(self, sender: NodeId, kind: Kind, body: bytes) -> None:
        """Take an authenticated message. Never raises for what a peer sent.

        Args:
            sender: who signed it.
            kind: which; a list goes to :meth:`adopt`, as only the round's leader may send it.
            body: not yet trusted.
        """
        rank = self.session.rank.get(sender)
        if rank is None:
            self._faults.append(PeerFault(sender, Reason.STRANGER))
            return
        try:
            sid, value = DECODERS[kind](body)
        except WireError:
            self.blame(rank, Reason.MALFORMED)
            return
        if sid != self.session.sid:
            self.blame(rank, Reason.OTHER_SESSION)
        elif isinstance(value, Advert):
            self._on_advert(rank, body, value)
        elif isinstance(value, Shares):
            self._on_shares(rank, value)
        elif isinstance(value, Unmask):
            self._on_unmask(rank, value)
        elif isinstance(value, bytes):
            self._on_statement(rank, value)
        elif isinstance(value, Ack):
            self._on_ack(rank, value)
        elif isinstance(value, Complaint):
            self._on_complaint(rank, value)
        elif isinstance(value, Skip):
            self._on_skip(rank, value)
        else:
            self.blame(rank, Reason.BAD_LIST)

    def _keep(self, rank: int, digest: bytes, value: M, variants: dict[bytes, M]) -> None:
        """Keep a message of a sender if it is new; two different ones are a fault."""
        if digest in variants:
            return
        if variants:
            self.blame(rank, Reason.EQUIVOCATION)
        if len(variants) < MAX_VARIANTS:
            variants[digest] = value
            self._judge_complaints(rank)

    def _on_advert(self, rank: int, body: bytes, advert: Advert) -> None:
        if not plausible(advert.channel) or not plausible(advert.mask):
            self.blame(rank, Reason.BAD_KEY)
            return
        if advert.channel == advert.mask:
            self.blame(rank, Reason.DUPLICATE_KEY)
            return
        mine = self.session.rank.get(self.me) if self.me is not None else None
        if mine is not None and mine != rank:
            own = {key for sent in self.adverts.get(mine, {}).values() for key in sent.keys}
            if not own.isdisjoint((advert.channel, advert.mask)):
                self.blame(rank, Reason.COPIED_KEY)
                return
        digest = body_hash(Kind.ADVERTISE, body)
        self._keep(rank, digest, advert, self.adverts.setdefault(rank, {}))

    def _on_shares(self, rank: int, shares: Shares) -> None:
        holders = self.topology.holders[rank]
        enough = len(shares.holders) + 1 >= self.session.parameters.t
        # Mostly to all of them; comparing is quicker than a set.
        if not enough or not (shares.holders == holders or set(shares.holders) <= set(holders)):
            self.blame(rank, Reason.BAD_HOLDERS)
            return
        if shares.threshold != self.session.parameters.t:
            self.blame(rank, Reason.BAD_SHARES)
            return
        digest = shares_hash(self.session.sid, shares)
        self._keep(rank, digest, shares, self.shares.setdefault(rank, {}))

    def _on_ack(self, rank: int, ack: Ack) -> None:
        holders = self.topology.holders[rank]  # who holds shares of it: the graph is symmetric
        if ack.dealers != holders and not set(ack.dealers) <= set(holders):
            self.blame(rank, Reason.BAD_HOLDERS)
            return
        self.acks.take(rank, ack)

    def _on_complaint(self, rank: int, complaint: Complaint) -> None:
        if complaint.dealer not in self.topology.holders[rank]:
            self.blame(rank, Reason.BAD_HOLDERS)
        elif self.complaints.take(rank, complaint):
            self._judge_complaints(rank)

    def _judge_complaints(self, rank: int) -> None:
        for subject, reason in self.complaints.judge(rank, self.adverts, self.shares):
            self.blame(subject, reason)

    def _on_statement(self, rank: int, statement: bytes) -> None:
        known = self._statements.get(rank)
        if known is not None:
            if known != statement:
                self.blame(rank, Reason.EQUIVOCATION)
            return
        self._statements[rank] = statement
        if self.opening is not None and rank in self.listed().members:
            self.statements += statement == self.opening.survivors.statement

    def _on_skip(self, rank: int, skip: Skip) -> None:
        self._skips[rank] = max(skip.leaders, self._skips.get(rank, 0))
        if len(self._skips) >= self.quorum:
            self.turn = sorted(self._skips.values(), reverse=True)[self.quorum - 1]

    def hopeless(self, turn: int) -> bool:
        """True if so many skipped the leader of a turn that no set of its list may be stated.

        That is where the others are no quorum without the corrupt among them. Never are skips of
        the corrupt alone enough.
        """
        skipped = sum(leaders > turn for leaders in self._skips.values())
        corrupt = self.session.parameters.corrupt
        return skipped > max(corrupt, len(self.session.roster) - self.quorum - corrupt)

    def _on_unmask(self, rank: int, unmask: Unmask) -> None:
        if not unmask.shares.keys() <= {rank, *self.topology.holders[rank]}:
            self.blame(rank, Reason.FOREIGN_SHARE)
            return
        known = self._unmasks.get(rank)
        if known is not None:
            if known != unmask:
                self.blame(rank, Reason.EQUIVOCATION)
            return
        self._unmasks[rank] = unmask
        if self.opening is not None:
            self.opening.take(rank, unmask)

    # -- the list -------------------------------------------------------------------------------

    def _near(self, members: Mapping[int, tuple[bytes, bytes]]) -> NDArray[np.int64]:
        """Numbers of a list's nodes that hold shares of each node, beside itself. O(n k)."""
        listed = np.zeros(len(self.session.roster), np.int64)
        listed[np.fromiter(members, np.intp, len(members))] = 1
        near: NDArray[np.int64] = listed[self.topology.around].sum(axis=1)
        return near

    def _unchecked(self, members: Mapping[int, tuple[bytes, bytes]]) -> list[int]:
        """Of listed dealers, those that too few listed holders found to deal rightly. O(n k).

        As many must have done so as the session demands. And if somebody may be corrupt, all listed
        holders but so many: of an honest dealer every honest one did. So whoever deals to few is
        not listed.
        """
        parameters = self.session.parameters
        needed = np.full(len(self.session.roster), parameters.acks)
        if parameters.corrupt:
            needed = np.maximum(needed, 1 + self._near(members) - parameters.corrupt)
        short = self.acks.count(members) < needed
        return [rank for rank in members if short[rank]]

    def _leave_out(self, members: Mapping[int, tuple[bytes, bytes]]) -> list[int]:
        """Node to leave out first so that :meth:`_unchecked` finds nobody. O(n k).

        Where a holder lacks shares of a dealer, one of the two lies or fails, and the leader cannot
        tell which. But an honest node that is there has no more such pairs as a holder, nor as a
        dealer, than there are liars and nodes that fail. As long as a dealer has too many, whoever
        has the most of them goes: a silent holder rather than all its dealers.
        """
        unchecked = self._unchecked(members)
        if not (unchecked and self.session.parameters.corrupt):
            return unchecked
        near, nodes = self._near(members), len(self.session.roster)
        dealers, holders = self.acks.right(members)
        lacks = near - np.bincount(dealers, minlength=nodes)  # by dealer
        silent = near - np.bincount(holders, minlength=nodes)  # by holder
        if max(lacks[rank] for rank in members) <= self.session.parameters.corrupt:
            return unchecked
        return [max(members, key=lambda rank: max(lacks[rank], silent[rank]))]

    def _problem(self, listing: Listing) -> str:
        """Fault of a list whose messages are all at hand; empty if none."""
        members = listing.members
        least = max(self.session.parameters.min_survivors, self.quorum)
        if len(members) < least:  # fewer could never state what opens the sum
            return f"{len(members)} nodes, fewer than {least}"
        keys: set[bytes] = set()
        for rank, (advert_hash, _) in members.items():
            keys.update(self.adverts[rank][advert_hash].keys)
        return "" if len(keys) == 2 * len(members) else "one key twice"

    def _doubled(self, members: Mapping[int, tuple[bytes, bytes]]) -> list[int]:
        """Those with a key of one before them. As they came: who copies is mostly heard later."""
        keys: set[bytes] = set()
        found: list[int] = []
        for rank, (advert_hash, _) in members.items():
            own = self.adverts[rank][advert_hash].keys
            if not keys.isdisjoint(own):
                found.append(rank)
            keys.update(own)
        return found

    @property
    def complete(self) -> bool:
        """True if all that were heard of shared, and all shares were judged. O(n k)."""
        if not self.adverts.keys() <= self.shares.keys() <= self.acks.holders:
            return False
        single = {
            rank: (next(iter(self.adverts[rank])), next(iter(found)))
            for rank, found in self.shares.items()
            if found and self.adverts.get(rank)
        }
        counts = self.acks.count(single)
        return all(
            rank in self.complaints.convicted
            or counts[rank] == 1 + len(self.shares[rank][digest].holders)
            for rank, (_, digest) in single.items()
        )

    def compose(self) -> bytes:
        """As the leader: the list of whom this node found complete.

        That is who advertised and shared one thing, and whose shares so many of the listed found to
        fit that every node takes the list. Returns body of a :attr:`Kind.LIST` message for
        everybody, this node included. Raises SecaggError: ``BELOW_THRESHOLD``, too few nodes are
        complete.
        """
        chosen = {
            rank: (next(iter(adverts)), next(iter(self.shares[rank])))
            for rank, adverts in self.adverts.items()
            if len(adverts) == len(self.shares.get(rank, {})) == 1
            and rank not in self.complaints.convicted
        }
        # Only then keys that two say are theirs: who copied one can deal nothing that fits.
        while leave := self._leave_out(chosen) or self._doubled(chosen):
            for rank in leave:
                del chosen[rank]
        listing = Listing(dict(sorted(chosen.items())))
        if problem := self._problem(listing):
            raise SecaggError(Reason.BELOW_THRESHOLD, f"the list would have {problem}")
        return encode_listing(self.session.sid, listing)

    def lacking(self, listing: Listing) -> tuple[NodeId, ...]:
        """Listed nodes of which this node has not the messages the list names."""
        return tuple(
            self.session.roster[rank]
            for rank, (advert_hash, shares_hash) in listing.members.items()
            if rank < len(self.session.roster)
            and (
                advert_hash not in self.adverts.get(rank, {})
                or shares_hash not in self.shares.get(rank, {})
            )
        )

    def adopt(self, body: bytes) -> None:
        """Take the leader's list as U2. Which sender is the leader, the caller knows.

        ``body``: a :attr:`Kind.LIST` message. Raises SecaggError: ``MALFORMED``, ``OTHER_SESSION``,
        ``BAD_LIST`` or ``EQUIVOCATION`` (another list was adopted before), the leader's fault;
        ``LACKING``, messages or acks, blaming nobody: repeat when more have come.
        """
        try:
            sid, listing = decode_listing(body)
        except WireError as error:
            raise SecaggError(Reason.MALFORMED, str(error)) from error
        if sid != self.session.sid:
            raise SecaggError(Reason.OTHER_SESSION, "the list")
        digest = body_hash(Kind.LIST, body)
        if self.listing is not None:
            if digest != self.list_hash:
                raise SecaggError(Reason.EQUIVOCATION, "a second list")
            return
        if any(rank >= len(self.session.roster) for rank in listing.members):
            raise SecaggError(Reason.BAD_LIST, "a rank outside the roster")
        if lacking := self.lacking(listing):
            raise SecaggError(Reason.LACKING, f"of {len(lacking)} nodes")
        if problem := self._problem(listing):
            raise SecaggError(Reason.BAD_LIST, problem)
        if unchecked := self._unchecked(listing.members):
            raise SecaggError(Reason.LACKING, f"acks of {len(unchecked)} dealers")
        self.listing, self.list_hash = listing, digest

    def forget_list(self) -> None:
        """Be without a list again: another leader's turn has come. Not once a set was taken."""
        if self.opening is not None:
            raise SecaggError(Reason.OUT_OF_ORDER, "a survivor set was taken")
        self.topology = topology(self.session)
        self.listing, self.list_hash = None, b""

    def listed(self) -> Listing:
        """The adopted list; ``SecaggError`` (``OUT_OF_ORDER``) before there is one."""
        if self.listing is None:
            raise SecaggError(Reason.OUT_OF_ORDER, "no list was adopted")
        return self.listing

    def advert(self, rank: int) -> Advert:
        """The advert of a listed node."""
        return self.adverts[rank][self.listed().members[rank][0]]

    def dealt(self, rank: int) -> Shares:
        """Dealing of a listed node."""
        return self.shares[rank][self.listed().members[rank][1]]

    def partners(self, rank: int) -> tuple[int, ...]:
        """The listed nodes a node masks against."""
        members = self.listed().members
        return tuple(other for other in self.topology.peers[rank] if other in members)

    # -- survivors ------------------------------------------------------------------------------

    def survivors(self, inputs: Mapping[NodeId, bytes]) -> Survivors:
        """The survivor set that :meth:`decide` would take; raises as that does."""
        members = self.listed().members
        found = Survivors.agreed(self.session, self.topology, members, self.list_hash, inputs)
        if self.opening is not None and self.opening.survivors != found:
            raise SecaggError(Reason.OUT_OF_ORDER, "a second survivor set")
        return found

    def decide(self, inputs: Mapping[NodeId, bytes]) -> OpenedShares:
        """Take the survivor set U3 the swarm agreed on.

        ``inputs``: the hash of the masked input of every survivor, 32 bytes. Returns the opened
        shares for it, those among them that came before. Raises SecaggError: as
        :meth:`Survivors.agreed`; ``OUT_OF_ORDER``, no list yet, or another set was taken before.
        """
        found = self.survivors(inputs)
        if self.opening is not None:
            return self.opening
        members = self.listed().members
        self.statements = sum(self._statements.get(rank) == found.statement for rank in members)
        self.opening = OpenedShares(
            self.session,
            self.topology,
            {rank: self.advert(rank) for rank in members},
            {rank: self.dealt(rank) for rank in members},
            found,
            self.blame,
        )
        for rank, unmask in self._unmasks.items():
            self.opening.take(rank, unmask)
        return self.opening

    def decided(self) -> OpenedShares:
        """Result of :meth:`decide`; ``SecaggError`` (``OUT_OF_ORDER``) before it did."""
        if self.opening is None:
            raise SecaggError(Reason.OUT_OF_ORDER, "no survivor set was taken")
        return self.opening

    @property
    def quorum(self) -> int:
        """Number that must."""
        return self.session.parameters.quorum(len(self.session.roster))
