"""The public side of a session: what its messages say, checked. Holds no secret.

Every node keeps one, whether it takes part or only sums. Messages may come in any order and more
than once; none raises. What they prove against their senders collects in :meth:`Board.drain`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from qres_core import NodeId, WireError
from qres_secagg.failure import Fault, Reason, SecaggError
from qres_secagg.graph import Topology, topology
from qres_secagg.keys import KeyPair, valid_public
from qres_secagg.messages import (
    DECODERS,
    Advert,
    Kind,
    Listing,
    Shares,
    Unmask,
    body_hash,
    decode_listing,
    encode_listing,
)
from qres_secagg.session import DOMAIN, Session, joined
from qres_secagg.shamir import combine
from qres_secagg.sharing import Secret, commitment, seed_commitment

MAX_VARIANTS: Final = 2
"""Different messages of one kind and sender that are kept: two prove equivocation."""
MAX_SUBSETS: Final = 16
"""Sets of holders that are tried where shares of a dealer do not belong together."""


@attrs.frozen
class Survivors:
    """The survivor set U3, as agreed.

    Attributes:
        digests: hash of the masked input by rank.
        open: indices of the groups with at least ``min_survivors`` of them.
        statement: digest of session, list and survivors: what nodes state.
    """

    digests: dict[int, bytes]
    open: frozenset[int]
    statement: bytes


@attrs.define
class Board:
    """Messages of one session.

    Attributes:
        session: the session.
        me: this node, if it takes part: it knows its own keys when it sees them elsewhere.
        topology: the graphs; those of the list's level once it is adopted.
        adverts: by rank and hash.
        shares: by rank and hash.
        listing: the adopted list, or ``None``.
        survivors: the survivor set, or ``None``.
    """

    session: Session
    me: NodeId | None = None
    topology: Topology = attrs.field(init=False)
    adverts: dict[int, dict[bytes, Advert]] = attrs.field(
        init=False, factory=dict[int, dict[bytes, Advert]]
    )
    shares: dict[int, dict[bytes, Shares]] = attrs.field(
        init=False, factory=dict[int, dict[bytes, Shares]]
    )
    listing: Listing | None = attrs.field(init=False, default=None)
    survivors: Survivors | None = attrs.field(init=False, default=None)
    _list_hash: bytes = attrs.field(init=False, default=b"")
    _statements: dict[int, bytes] = attrs.field(init=False, factory=dict[int, bytes])
    _unmasks: dict[int, Unmask] = attrs.field(init=False, factory=dict[int, Unmask])
    _opened: dict[int, dict[int, int]] = attrs.field(init=False, factory=dict[int, dict[int, int]])
    _secrets: dict[int, bytes] = attrs.field(init=False, factory=dict[int, bytes])
    _faults: list[Fault] = attrs.field(init=False, factory=list[Fault])

    def __attrs_post_init__(self) -> None:
        self.topology = topology(self.session)

    # -- faults ---------------------------------------------------------------------------------

    def blame(self, rank: int, reason: Reason) -> None:
        """Note a fault."""
        self._faults.append(Fault(self.session.roster[rank], reason))

    def drain(self) -> tuple[Fault, ...]:
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
            self._faults.append(Fault(sender, Reason.STRANGER))
            return
        try:
            sid, value = DECODERS[kind](body)
        except WireError:
            self.blame(rank, Reason.MALFORMED)
            return
        if sid != self.session.sid:
            self.blame(rank, Reason.OTHER_SESSION)
        elif isinstance(value, Advert):
            self._on_advert(rank, body_hash(kind, body), value)
        elif isinstance(value, Shares):
            self._on_shares(rank, body_hash(kind, body), value)
        elif isinstance(value, Unmask):
            self._on_unmask(rank, value)
        elif isinstance(value, bytes):
            if self._statements.setdefault(rank, value) != value:
                self.blame(rank, Reason.EQUIVOCATION)
        else:
            self.blame(rank, Reason.BAD_LIST)

    def _keep(
        self, rank: int, variants: dict[bytes, Advert] | dict[bytes, Shares], digest: bytes
    ) -> bool:
        """Whether a message of a sender is new and kept; two different ones are a fault."""
        if digest in variants:
            return False
        if variants:
            self.blame(rank, Reason.EQUIVOCATION)
        return len(variants) < MAX_VARIANTS

    def _on_advert(self, rank: int, digest: bytes, advert: Advert) -> None:
        if not valid_public(advert.channel) or not valid_public(advert.mask):
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
        variants = self.adverts.setdefault(rank, {})
        if self._keep(rank, variants, digest):
            variants[digest] = advert

    def _on_shares(self, rank: int, digest: bytes, shares: Shares) -> None:
        holders = self.topology.holders[rank]
        enough = len(shares.holders) + 1 >= self.session.parameters.t
        if not enough or not set(shares.holders).issubset(holders):
            self.blame(rank, Reason.BAD_HOLDERS)
            return
        variants = self.shares.setdefault(rank, {})
        if self._keep(rank, variants, digest):
            variants[digest] = shares

    def _on_unmask(self, rank: int, unmask: Unmask) -> None:
        if not set(unmask.shares) <= {rank, *self.topology.holders[rank]}:
            self.blame(rank, Reason.FOREIGN_SHARE)
            return
        known = self._unmasks.get(rank)
        if known is not None:
            if known != unmask:
                self.blame(rank, Reason.EQUIVOCATION)
            return
        self._unmasks[rank] = unmask
        if self.survivors is not None:
            self._open_shares(rank, unmask)

    # -- the list -------------------------------------------------------------------------------

    def _problem(self, listing: Listing) -> str:
        """What is wrong with a list whose messages are all at hand; empty if nothing."""
        members = set(listing.members)
        least = max(self.session.parameters.min_survivors, self.quorum)
        if len(members) < least:  # fewer could never state what opens the sum
            return f"{len(members)} nodes, fewer than {least}"
        keys: set[bytes] = set()
        for rank, (advert_hash, shares_hash) in listing.members.items():
            keys.update(self.adverts[rank][advert_hash].keys)
            held = members.intersection(self.shares[rank][shares_hash].holders)
            if len(held) + 1 < self.session.parameters.t:
                return f"node {rank} has {len(held) + 1} holders in it"
        return "" if len(keys) == 2 * len(members) else "one key twice"

    def compose(self, level: int = 0) -> bytes:
        """As the leader: the list of whom this node found complete.

        Args:
            level: how often groups are to be halved.

        Returns:
            body of a :attr:`Kind.LIST` message for everybody, this node included.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few nodes are complete.
        """
        chosen: dict[int, tuple[bytes, bytes]] = {}
        keys: set[bytes] = set()
        for rank, adverts in sorted(self.adverts.items()):
            shares = self.shares.get(rank, {})
            if len(adverts) == 1 and len(shares) == 1:
                ((advert_hash, advert),) = adverts.items()
                own = advert.keys
                if keys.isdisjoint(own):
                    keys.update(own)
                    chosen[rank] = (advert_hash, next(iter(shares)))
        threshold = self.session.parameters.t
        while True:
            short = [
                rank
                for rank, (_, shares_hash) in chosen.items()
                if sum(j in chosen for j in self.shares[rank][shares_hash].holders) + 1 < threshold
            ]
            if not short:
                break
            for rank in short:
                del chosen[rank]
        listing = Listing(level, chosen)
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

    def adopt(self, body: bytes, levels: Collection[int] = (0,)) -> None:
        """Take the leader's list as U2. Which sender is the leader, the caller knows.

        Args:
            body: a :attr:`Kind.LIST` message.
            levels: those the leader may choose.

        Raises:
            SecaggError: ``MALFORMED``, ``OTHER_SESSION``, ``BAD_LIST`` or ``EQUIVOCATION`` (another
                list was adopted before), the leader's fault; ``LACKING``, blaming nobody: repeat
                when more messages have come.
        """
        try:
            sid, listing = decode_listing(body)
        except WireError as error:
            raise SecaggError(Reason.MALFORMED, str(error)) from error
        if sid != self.session.sid:
            raise SecaggError(Reason.OTHER_SESSION, "the list")
        digest = body_hash(Kind.LIST, body)
        if self.listing is not None:
            if digest != self._list_hash:
                raise SecaggError(Reason.EQUIVOCATION, "a second list")
            return
        if listing.level not in levels:
            raise SecaggError(Reason.BAD_LIST, f"level {listing.level}")
        if any(rank >= len(self.session.roster) for rank in listing.members):
            raise SecaggError(Reason.BAD_LIST, "a rank outside the roster")
        if lacking := self.lacking(listing):
            raise SecaggError(Reason.LACKING, f"of {len(lacking)} nodes")
        if problem := self._problem(listing):
            raise SecaggError(Reason.BAD_LIST, problem)
        if listing.level:
            self.topology = topology(self.session, listing.level)
        self.listing, self._list_hash = listing, digest

    def listed(self) -> Listing:
        """The adopted list; ``SecaggError`` (``OUT_OF_ORDER``) before there is one."""
        if self.listing is None:
            raise SecaggError(Reason.OUT_OF_ORDER, "no list was adopted")
        return self.listing

    def advert(self, rank: int) -> Advert:
        """The advert of a listed node."""
        return self.adverts[rank][self.listed().members[rank][0]]

    def dealt(self, rank: int) -> Shares:
        """What a listed node dealt."""
        return self.shares[rank][self.listed().members[rank][1]]

    def partners(self, rank: int) -> tuple[int, ...]:
        """The listed nodes a node masks against."""
        members = self.listed().members
        return tuple(other for other in self.topology.peers[rank] if other in members)

    # -- survivors ------------------------------------------------------------------------------

    def decide(self, inputs: Mapping[NodeId, bytes]) -> Survivors:
        """Take the survivor set U3 the swarm agreed on.

        Args:
            inputs: the hash of the masked input of every survivor, 32 bytes.

        Returns:
            the set; groups with fewer survivors than ``min_survivors`` stay closed for ever.

        Raises:
            SecaggError: ``NOT_LISTED``, a survivor is not in the list; ``BELOW_THRESHOLD``, no
                group has enough; ``OUT_OF_ORDER``, no list yet, or another set was taken before.
        """
        members = self.listed().members
        outside = [node for node in inputs if self.session.rank.get(node, -1) not in members]
        if outside:
            raise SecaggError(Reason.NOT_LISTED, f"{len(outside)} survivors", outside)
        digests = {self.session.rank[node]: inputs[node] for node in sorted(inputs)}
        least = self.session.parameters.min_survivors
        groups = enumerate(self.topology.groups)
        large = frozenset(
            index for index, group in groups if sum(rank in digests for rank in group) >= least
        )
        if not large:
            what = f"{len(digests)} survivors, no group with {least}"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        records = b"".join(struct.pack("<I", rank) + digests[rank] for rank in digests)
        parts = joined(DOMAIN, b"survivors", self.session.sid, self._list_hash, records)
        found = Survivors(digests, large, hashlib.sha256(parts).digest())
        if self.survivors is not None:
            if self.survivors != found:
                raise SecaggError(Reason.OUT_OF_ORDER, "a second survivor set")
            return found
        self.survivors = found
        for rank, unmask in self._unmasks.items():
            self._open_shares(rank, unmask)
        return found

    def decided(self) -> Survivors:
        """The survivor set; ``SecaggError`` (``OUT_OF_ORDER``) before there is one."""
        if self.survivors is None:
            raise SecaggError(Reason.OUT_OF_ORDER, "no survivor set was taken")
        return self.survivors

    @property
    def statements(self) -> int:
        """Listed nodes that stated this node's survivor set."""
        statement = self.decided().statement
        return sum(self._statements.get(rank) == statement for rank in self.listed().members)

    @property
    def quorum(self) -> int:
        """How many must."""
        return self.session.parameters.quorum(len(self.session.roster))

    # -- opened shares --------------------------------------------------------------------------

    def wanted(self, rank: int) -> Secret | None:
        """Which of its two secrets a listed node has opened; none where its group is closed."""
        survivors = self.decided()
        if self.topology.group_of[rank] not in survivors.open:
            return None
        return Secret.SEED if rank in survivors.digests else Secret.MASK_KEY

    def to_open(self) -> tuple[int, ...]:
        """The listed nodes of which a secret is opened."""
        return tuple(rank for rank in self.listed().members if self.wanted(rank) is not None)

    def _open_shares(self, holder: int, unmask: Unmask) -> None:
        if unmask.statement != self.decided().statement:
            return
        sid, members = self.session.sid, self.listed().members
        for dealer, share in unmask.shares.items():
            kind = self.wanted(dealer) if dealer in members else None
            promised = b"" if kind is None else self.dealt(dealer).promised(dealer, holder, kind)
            if kind is None or not promised:
                self.blame(holder, Reason.FOREIGN_SHARE)
            elif promised != commitment(sid, kind, dealer, holder, share):
                self.blame(holder, Reason.WRONG_SHARE)
            else:
                self._opened.setdefault(dealer, {})[holder + 1] = int.from_bytes(share, "little")

    @property
    def missing(self) -> int:
        """Nodes whose secret cannot be opened yet; 0 when the sum can be."""
        threshold = self.session.parameters.t
        return sum(len(self._opened.get(rank, {})) < threshold for rank in self.to_open())

    def secret(self, rank: int) -> bytes:
        """The opened secret of a listed node, checked against what its dealer committed to.

        Returns:
            32 bytes, of the kind :meth:`wanted` says; the same on every node that gets one.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few shares; ``BAD_DEALER``, no set of shares that
                was tried gives the secret: each is the one committed to, so the dealer lied.
        """
        if rank in self._secrets:
            return self._secrets[rank]
        threshold, shares = self.session.parameters.t, self._opened.get(rank, {})
        if len(shares) < threshold:
            what = f"{len(shares)} shares of node {rank}, {threshold} are needed"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        places = sorted(shares)
        for first in range(min(MAX_SUBSETS, len(places))):
            chosen = (places[first:] + places[:first])[:threshold]
            secret = combine({place: shares[place] for place in chosen})
            if secret is not None and self._is_secret(rank, secret):
                self._secrets[rank] = secret
                return secret
            self.blame(rank, Reason.BAD_DEALER)
        node = self.session.roster[rank]
        raise SecaggError(Reason.BAD_DEALER, f"node {rank}", [node])

    def _is_secret(self, rank: int, secret: bytes) -> bool:
        if self.wanted(rank) is Secret.SEED:
            return seed_commitment(self.session.sid, rank, secret) == self.dealt(rank).seed
        return KeyPair(secret).public == self.advert(rank).mask
