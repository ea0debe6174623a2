"""A node's secret side of a session: five steps, each at most once.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
CCS 2017, section 4 with the consistency check of section 6; on the graph of Bell et al., CCS 2020.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId
from qres_core.errors import ValueRefusedError
from qres_secagg.board import SessionMessages
from qres_secagg.complaints import complain, opened
from qres_secagg.dealing import Dealer, Dealing
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.inputs import input_digest
from qres_secagg.keys import KeyPair, pair_key, random_scalar, seal_key, self_key
from qres_secagg.masks import Residues, Signed, apply, apply_residues
from qres_secagg.messages import (
    Ack,
    Advert,
    Complaint,
    Deal,
    Kind,
    Skip,
    Unmask,
    ack_tag,
    body_hash,
    encode_ack,
    encode_advert,
    encode_complaint,
    encode_shares,
    encode_skip,
    encode_statement,
    encode_unmask,
    shares_hash,
)
from qres_secagg.session import Session
from qres_secagg.shamir import encode
from qres_secagg.sharing import Secret, key_tag, seal

NO_RESIDUES: Final[Mapping[str, Residues]] = {}


class History(Protocol):
    """Memory of a node over restarts. It is on the disk when a call returns."""

    def begin(self, sid: bytes) -> bool:
        """Note that the node takes part in a session; false where it did before."""
        ...


@attrs.define
class VolatileHistory:
    """A :class:`History` that ends with the process: for simulations and tests."""

    _sids: set[bytes] = attrs.field(factory=set[bytes])

    def begin(self, sid: bytes) -> bool:
        """See :meth:`History.begin`."""
        new = sid not in self._sids
        self._sids.add(sid)
        return new


class Phase(enum.IntEnum):
    """Phase of a client."""

    NEW = 0
    ADVERTISED = 1
    SHARED = 2
    LISTED = 3
    MASKED = 4
    STATED = 5
    DONE = 6


@attrs.frozen
class Masked:
    """A masked input, uniform to everybody."""

    vector: NDArray[Any]  # in the ring, uint32 or uint64, little-endian, shape ``(dimension,)``
    residues: Mapping[str, Residues]  # masked residues by name
    digest: bytes  # hash of both, see :func:`qres_secagg.inputs.input_digest`


class Client:
    """One node in one session.

    What it does not do, whatever it is told: open both secrets of a node, or a second time;
    state two survivor sets; open shares for a set that no quorum stated, or in which any survivor
    has too few others near it for its input to stay hidden; or take part twice under one session
    id. Which sets may follow one another is the dialogue's business.

    Its own messages go to ``board`` as well. Secrets are dropped when they are no longer needed;
    Python cannot overwrite them.

    Attributes:
        session: the session.
        me: this node.
        board: the public side, shared with an :class:`~qres_secagg.aggregator.Aggregator`.
        phase: how far it is.
        skipped: leaders under whose lists it states no set, from the first.
    """

    def __init__(
        self,
        session: Session,
        me: NodeId,
        board: SessionMessages,
        history: History,
        *,
        threads: int = 1,
    ) -> None:
        self.session, self.me, self.board = session, me, board
        self.phase = Phase.NEW
        self._history, self._threads = history, threads
        self._rank = session.rank.get(me, -1)  # a coordinator has none, and takes no step
        self._channel: KeyPair | None = None
        self._mask: KeyPair | None = None
        self._seed = b""
        self._own: list[bytes] = []
        self._channel_secrets: dict[bytes, bytes] = {}
        # shares of dealers, by rank and hash of the message; ``None`` where they do not fit
        self._dealt: dict[tuple[int, bytes], tuple[bytes, bytes] | None] = {}
        self._judged: set[int] = set()  # dealers this node has said something about
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self.skipped, self._turn = 0, 0
        self._digest = b""

    def _step(self, *allowed: Phase) -> None:
        if self.phase not in allowed:
            raise SecaggError(Reason.OUT_OF_ORDER, f"after {self.phase.name.lower()}")

    def _post(self, kind: Kind, body: bytes) -> bytes:
        self.board.receive(self.me, kind, body)
        return body

    def advertise(self) -> bytes:
        """Make the keys of this session.

        Returns body of a :attr:`Kind.ADVERTISE` message for everybody. Raises SecaggError:
        ``SID_REUSE``, the node took part in this session before.
        """
        self._step(Phase.NEW)
        if not self._history.begin(self.session.sid):
            raise SecaggError(Reason.SID_REUSE, self.session.sid.hex())
        self._channel, self._mask = KeyPair(), KeyPair()
        self.phase = Phase.ADVERTISED
        advert = Advert(self._channel.public, self._mask.public)
        body = encode_advert(self.session.sid, advert)
        self._own.append(body_hash(Kind.ADVERTISE, body))
        return self._post(Kind.ADVERTISE, body)

    @property
    def can_share(self) -> bool:
        """True if all holders advertised. Waiting longer is of no use; sharing earlier may be."""
        holders = self.board.topology.holders[self._rank]
        return all(rank in self.board.adverts for rank in holders)

    def _channel_secret(self, public: bytes) -> bytes:
        found = self._channel_secrets.get(public)
        if found is None:
            assert self._channel is not None  # noqa: S101 - made with the advert
            found = self._channel_secrets[public] = self._channel.exchange(public)
        return found

    def share(self) -> bytes:
        """Deal the two secrets to the holders that advertised.

        Returns:
            body of a :attr:`Kind.SHARE` message for everybody.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few of them; repeat when more have.

        Complexity: O(k) multiplications in the group and O(k t) products of 256 bits.
        """
        self._step(Phase.ADVERTISED)
        assert self._channel is not None  # noqa: S101 - made with the advert
        assert self._mask is not None  # noqa: S101 - made with the advert
        sid, threshold = self.session.sid, self.session.parameters.t
        keys = self._holders_keys()
        if len(keys) + 1 < threshold:
            what = f"{len(keys) + 1} holders, {threshold} open a secret"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        seed = random_scalar()
        secrets = {Secret.SEED: seed, Secret.MASK_KEY: self._mask.secret}
        dealer = Dealer(sid, self._rank, threshold, secrets)
        own = dealer.deal(self._rank)
        deals: dict[int, Deal] = {}
        for rank, (public, secret) in keys.items():
            dealt = dealer.deal(rank)
            key = seal_key(
                secret,
                sid,
                (self.me, self._channel.public),
                (self.session.roster[rank], public),
            )
            sealed = seal(key, sid, dealt.seed, dealt.mask)
            deals[rank] = Deal(*dealt.promises, key_tag(public), sealed)
        advert = Advert(self._channel.public, self._mask.public)
        shares = dealer.message(advert, self._channel, own, deals)
        self._held[self._rank] = own.seed, own.mask
        self._seed, self.phase = encode(seed), Phase.SHARED
        self._own.append(shares_hash(sid, shares))
        return self._post(Kind.SHARE, encode_shares(sid, shares))

    def _holders_keys(self) -> dict[int, tuple[bytes, bytes]]:
        """Of the holders that advertised one thing, the channel key and what it gives with ours."""
        found: dict[int, tuple[bytes, bytes]] = {}
        for rank in self.board.topology.holders[self._rank]:
            adverts = self.board.adverts.get(rank, {})
            if len(adverts) == 1:
                (advert,) = adverts.values()
                try:
                    found[rank] = advert.channel, self._channel_secret(advert.channel)
                except SecaggError as error:
                    self.board.blame(rank, error.reason)
        return found

    @property
    def can_ack(self) -> bool:
        """True if all dealers whose shares it holds have dealt them: waiting longer is useless."""
        return all(self.board.shares.get(rank) for rank in self.board.topology.holders[self._rank])

    @property
    def has_judged(self) -> bool:
        """True if it has said of all of them whether their shares fit."""
        return len(self._judged) == len(self.board.topology.holders[self._rank])

    def acknowledge(self) -> list[tuple[Kind, bytes]]:
        """Say whose shares fit, and complain about those that do not.

        May be repeated when more have dealt; what was said once is not said again.

        Returns:
            kind and body of messages for everybody: :attr:`Kind.ACK`, :attr:`Kind.COMPLAINT`.

        Complexity: O(t) for each dealer, and a multiplication in the group and a signature.
        """
        self._step(Phase.SHARED)
        tags: dict[int, bytes] = {}
        out: list[tuple[Kind, bytes]] = []
        for rank in self.board.topology.holders[self._rank]:
            adverts, dealt = self.board.adverts.get(rank), self.board.shares.get(rank)
            if not adverts or not dealt or rank in self._judged:
                continue
            advert_hash, shares_hash_ = next(iter(adverts)), next(iter(dealt))
            if dealt[shares_hash_].deal(self._rank) is None:
                continue
            self._judged.add(rank)
            if self._shares_of(rank, advert_hash, shares_hash_) is not None:
                tags[rank] = ack_tag(advert_hash, shares_hash_)
            elif (complaint := self._complaint(rank, advert_hash, shares_hash_)) is not None:
                body = encode_complaint(self.session.sid, complaint)
                out.append((Kind.COMPLAINT, self._post(Kind.COMPLAINT, body)))
        if tags:
            body = encode_ack(self.session.sid, Ack.of(tags))
            out.append((Kind.ACK, self._post(Kind.ACK, body)))
        return out

    def _shares_of(self, rank: int, advert: bytes, dealt: bytes) -> tuple[bytes, bytes] | None:
        """The shares of a dealer for this node, of its messages of these hashes, if they fit."""
        assert self._channel is not None  # noqa: S101 - made with the advert
        key = rank, advert + dealt
        if key not in self._dealt:
            dealing = self._dealing(rank, advert, dealt)
            try:
                secret = self._channel_secret(dealing.advert.channel)
            except SecaggError:  # a key that is none: nobody could show what was sealed under it
                self._dealt[key] = None
            else:
                public = self._channel.public
                self._dealt[key] = opened(self.session, dealing, self._rank, public, secret)
        return self._dealt[key]

    def _dealing(self, rank: int, advert: bytes, dealt: bytes) -> Dealing:
        board = self.board
        return Dealing(
            self.session.sid, rank, board.adverts[rank][advert], board.shares[rank][dealt]
        )

    def _complaint(self, rank: int, advert: bytes, dealt: bytes) -> Complaint | None:
        """About shares that do not fit; none where it would not show who lied."""
        assert self._channel is not None  # noqa: S101 - made with the advert
        dealing = self._dealing(rank, advert, dealt)
        found = dealing.shares.deal(self._rank)
        if found is None or found.key != key_tag(self._channel.public):
            return None
        if not dealing.owns_channel:  # what the keys have in common may be another's secret
            self.board.blame(rank, Reason.BAD_KEY)
            return None
        try:
            hashes = dealt, advert, self._own[0]
            return complain(self.session, self._rank, self._channel, dealing, hashes)
        except SecaggError:
            return None

    def skip(self, leaders: int) -> bytes:
        """State no set under a list of the first ``leaders``. Only before a list was taken.

        If a quorum says so, no set of their lists is stated by a quorum, and the next leader's list
        may count: two quorums have an honest node in common. The node may yet mask under such a
        list, if no quorum says so.

        Returns:
            body of a :attr:`Kind.SKIP` message for everybody.
        """
        self._step(Phase.ADVERTISED, Phase.SHARED)
        if self.board.listing is not None:
            raise SecaggError(Reason.OUT_OF_ORDER, "there is a list")
        self.skipped = max(self.skipped, leaders)
        return self._post(Kind.SKIP, encode_skip(self.session.sid, Skip(self.skipped)))

    def leave(self) -> None:
        """Leave a list that does not count: its leader was skipped.

        A node that has not masked is where it was before, and may take another list. It masks once:
        where it has, it takes no further part, and forgets all secrets.
        """
        self._step(Phase.LISTED, Phase.MASKED)
        if self.phase is Phase.LISTED:
            self._held = {self._rank: self._held[self._rank]}
            self.phase = Phase.SHARED
            return
        self.phase = Phase.DONE
        self._held.clear()
        self._forget()

    def _forget(self) -> None:
        """Forget what is of use for masking and for lists only."""
        self._seed, self._mask, self._channel = b"", None, None
        self._channel_secrets.clear()
        self._dealt.clear()

    def adopt(self, body: bytes, turn: int = 0) -> None:
        """Take the leader's list and the shares sealed for this node.

        Of a listed dealer whose shares for this node do not fit it holds none; enough others found
        theirs to fit. ``body``: a :attr:`Kind.LIST` message of the round's leader; ``turn``:
        leaders before it. Raises SecaggError: as :meth:`SessionMessages.adopt`; ``NOT_LISTED``, the
        list is without this node or names other messages than it sent: it sits the session out.
        """
        self._step(Phase.SHARED)
        self._turn = turn
        self.board.adopt(body)
        members = self.board.listed().members
        if members.get(self._rank) != tuple(self._own):
            raise SecaggError(Reason.NOT_LISTED, "this node, as it advertised and shared")
        for rank in self.board.topology.holders[self._rank]:
            if rank in members and self.board.dealt(rank).deal(self._rank) is not None:
                shares = self._shares_of(rank, *members[rank])
                if shares is not None:
                    self._held[rank] = shares
        self.phase = Phase.LISTED

    def _checked(self, vector: NDArray[Any]) -> NDArray[Any]:
        """The input in the ring, a copy. Refuses what is outside the bound, clips nothing."""
        parameters = self.session.parameters
        whole = np.dtype(np.int32) if parameters.ring_bits == 32 else np.dtype(np.int64)
        if vector.dtype not in (np.dtype(np.int32), whole):
            raise ValueRefusedError.of("QRES-E503", "update", f"{vector.dtype}, not {whole}")
        if vector.shape != (parameters.dimension,):
            what = f"shape {vector.shape}, not ({parameters.dimension},)"
            raise ValueRefusedError.of("QRES-E502", "update", what)
        low, high = int(vector.min()), int(vector.max())
        limit = parameters.bound + parameters.noise
        if max(-low, high) > limit:
            raise ValueRefusedError.of(
                "QRES-E507",
                "update",
                f"coordinates from {low} to {high}, the session takes up to {limit}",
                "clip updates before they are masked, or raise the bound",
            )
        signed = vector.astype(whole.newbyteorder("<"), order="C", copy=True)
        return signed.view(parameters.dtype)

    def _keys(self) -> list[Signed]:
        assert self._mask is not None  # noqa: S101 - made with the advert
        sid, me = self.session.sid, (self.me, self._mask.public)
        keys: list[Signed] = [(self_key(self._seed, sid, self.me), 1)]
        for rank in self.board.partners(self._rank):
            public = self.board.advert(rank).mask
            other = (self.session.roster[rank], public)
            key = pair_key(self._mask.exchange(public), sid, me, other)
            keys.append((key, 1 if self._rank < rank else -1))
        return keys

    def _among_enough(self) -> bool:
        """True if enough listed nodes are near this one for its input to be opened in a sum."""
        board, parameters = self.board, self.session.parameters
        whole = len(board.topology.groups) == 1
        near = 1 + len(board.partners(self._rank))
        return near >= (parameters.t if whole else parameters.min_survivors)

    def mask(self, vector: NDArray[Any], residues: Mapping[str, Residues] = NO_RESIDUES) -> Masked:
        """Mask the update.

        Args:
            vector: int32 (or int64 in the ring of 64 bits), shape ``(dimension,)``, within
                ``bound``, and beyond it by at most the headroom ``noise``, which all noise
                together is to stay in.
            residues: what is summed beside it, modulo numbers of its own; names and moduli are
                the same on all nodes.

        Returns:
            what to send. The seed is dropped: a second call is refused.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few listed nodes to hide among.
            ValueRefusedError: QRES-E502, QRES-E503, QRES-E507 (outside the bound).

        Complexity: O(k d). Leaves the interpreter's lock for most of it.
        """
        self._step(Phase.LISTED)
        if not self._among_enough():
            raise SecaggError(Reason.BELOW_THRESHOLD, "too few listed nodes near this one")
        masked = self._checked(vector)
        keys, prg = self._keys(), self.session.parameters.prg
        apply(masked, keys, prg=prg, threads=self._threads)
        hidden = {
            name: apply_residues(value, keys, name, prg=prg) for name, value in residues.items()
        }
        masked.flags.writeable = False
        self._forget()
        self._digest = input_digest(masked, hidden)
        self.phase = Phase.MASKED
        return Masked(masked, hidden, self._digest)

    @property
    def given(self) -> bytes:
        """The hash of the input that it masked, 32 bytes; empty before."""
        return self._digest

    def gave(self, digest: bytes) -> None:
        """In a process before this one it masked the input of this hash; it masks no other one."""
        self._step(Phase.LISTED)
        self._forget()
        self._digest, self.phase = digest, Phase.MASKED

    def goes_by(self, digest: bytes, name: bytes) -> None:
        """The masked input of a digest goes by another name: by that of its shards."""
        if digest == self._digest:
            self._digest = name

    def state(self, inputs: Mapping[NodeId, bytes]) -> bytes:
        """State the survivor set the swarm agreed on, once.

        A listed node whose own input is late, or was never made, states it too: it holds shares.
        Returns body of a :attr:`Kind.STATEMENT` message for everybody. Raises SecaggError:
        ``OWN_INPUT``, another input than this node sent; or as :meth:`SessionMessages.decide`,
        which refuses a set in which any survivor would not stay hidden.
        """
        self.expect_statable(inputs)
        survivors = self.board.decide(inputs).survivors
        self.phase = Phase.STATED
        self._forget()
        return self._post(Kind.STATEMENT, encode_statement(self.session.sid, survivors.statement))

    def expect_statable(self, inputs: Mapping[NodeId, bytes]) -> None:
        """Raises SecaggError: as :meth:`state` would, and changes nothing."""
        self._step(Phase.LISTED, Phase.MASKED)
        if not self.can_state:
            raise SecaggError(Reason.OUT_OF_ORDER, "this node skipped the leader of the list")
        sent = self._digest if self.phase is Phase.MASKED else None
        if inputs.get(self.me, sent) != sent:
            raise SecaggError(Reason.OWN_INPUT, "not the masked input this node sent")
        self.board.survivors(inputs)

    @property
    def can_state(self) -> bool:
        """True if it has a list, of a leader that it did not skip, and has stated no set yet."""
        return self.phase in (Phase.LISTED, Phase.MASKED) and self._turn >= self.skipped

    @property
    def can_unmask(self) -> bool:
        """True if a quorum stated the survivor set that this node stated."""
        return self.phase is Phase.STATED and self.board.statements >= self.board.quorum

    def unmask(self) -> bytes:
        """Open one share of every listed node: of its seed if it survived, else of its mask key.

        Returns body of a :attr:`Kind.UNMASK` message for everybody. The shares are dropped. Raises
        SecaggError: ``NO_QUORUM``; repeat when more statements have come.
        """
        self._step(Phase.STATED)
        if not self.can_unmask:
            what = f"{self.board.statements} of {self.board.quorum} statements"
            raise SecaggError(Reason.NO_QUORUM, what)
        opening = self.board.decided()
        opened: dict[int, bytes] = {}
        for rank, (seed_share, mask_share) in self._held.items():
            kind = opening.wanted(rank)
            if kind is not None:
                opened[rank] = seed_share if kind is Secret.SEED else mask_share
        self._held.clear()
        self.phase = Phase.DONE
        body = encode_unmask(self.session.sid, Unmask(opening.survivors.statement, opened))
        return self._post(Kind.UNMASK, body)
