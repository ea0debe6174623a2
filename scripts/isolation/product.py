"""The recorder, and all else that knows names of the product.

It takes down what honest clients do, not what they ought to do: the keys of the masks that they put
on, in the order in which they put them on, and the shares that they let out. If a client used a key
twice, or opened a share of the wrong secret, the checker would count it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import attrs
import numpy as np
from nacl import bindings
from qres_secagg import Secagg
from qres_secagg.attempts import Attempts
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client
from qres_secagg.failure import SecaggError
from qres_secagg.inputs import Inputs, listed
from qres_secagg.messages import (
    DECODERS,
    decode_complaint,
    decode_listing,
    decode_shares,
    decode_unmask,
    encode_listing,
)
from qres_secagg.messages import (
    Kind as Step,
)
from qres_secagg.session import Session
from qres_secagg.survivors import Survivors

from isolation.transcript import Kind, Row, Transcript
from qres_core import Contribution, NodeId, RoundInfo

KINDS = (Kind.SEED, Kind.MASK_KEY)
"""In the order in which a client holds the two shares of a dealer."""


@contextmanager
def computed_once() -> Iterator[None]:
    """All nodes are in this process and read the same messages: each key is checked once."""
    names = (
        "crypto_core_ed25519_is_valid_point",
        "crypto_scalarmult_ed25519_noclamp",
        "crypto_scalarmult_ed25519_base_noclamp",
        "crypto_sign_open",
    )
    with ExitStack() as stack:
        for name in names:
            kept = functools.lru_cache(1 << 16)(getattr(bindings, name))
            stack.enter_context(mock.patch.object(bindings, name, kept))
        decoders = {kind: functools.lru_cache(1 << 12)(read) for kind, read in DECODERS.items()}
        stack.enter_context(mock.patch.dict(DECODERS, decoders))
        yield


@attrs.define
class Recorder:
    """What all nodes of this process do in secure aggregation, session by session."""

    transcript: Transcript = attrs.field(factory=Transcript)
    sessions: dict[bytes, Session] = attrs.field(factory=dict[bytes, Session])
    vectors: dict[tuple[bytes, NodeId], tuple[Any, Any]] = attrs.field(factory=dict)  # in and out
    # of each node that opened shares, for which survivor set
    stated: dict[tuple[bytes, NodeId], bytes] = attrs.field(factory=dict)
    _keys: dict[int, list[tuple[bytes, int]]] = attrs.field(factory=dict)

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        """Take down everything that is done inside."""
        with ExitStack() as stack:
            for name in ("share", "acknowledge", "_keys", "mask", "unmask"):
                wrapped = getattr(self, f"_on_{name.strip('_')}")(getattr(Client, name))
                stack.enter_context(mock.patch.object(Client, name, wrapped))
            yield self

    def _name(self, client: Client, rank: int | None = None) -> tuple[bytes, NodeId]:
        session = client.session
        self.sessions[session.sid] = session
        self.transcript.thresholds[session.sid] = session.parameters.t
        return session.sid, client.me if rank is None else session.roster[rank]

    def _on_share(self, inner: Callable[[Client], bytes]) -> Callable[[Client], bytes]:
        def share(client: Client) -> bytes:
            body = inner(client)
            sid, dealer = self._name(client)
            for holder in decode_shares(body)[1].holders:
                for kind in KINDS:
                    held = self.transcript.held[sid, dealer, kind]
                    held |= {client.session.roster[holder], dealer}
            return body

        return share

    def _on_acknowledge(self, inner: Callable[[Client], Any]) -> Callable[[Client], Any]:
        def acknowledge(client: Client) -> Any:
            said = inner(client)
            sid, me = self._name(client)
            for step, body in said:
                if step != Step.COMPLAINT:
                    continue
                # It lays open the point from which the keys of both seals come: the one of the
                # dealer's shares for this node, and the one of this node's for the dealer.
                dealer = client.session.roster[decode_complaint(body)[1].dealer]
                for kind in KINDS:
                    self.transcript.opened[sid, dealer, kind].add(me)
                    self.transcript.opened[sid, me, kind].add(dealer)
            return said

        return acknowledge

    def _on_keys(self, inner: Callable[[Client], Any]) -> Callable[[Client], Any]:
        def keys(client: Client) -> Any:
            found = self._keys[id(client)] = inner(client)
            return found

        return keys

    def _on_mask(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def masking(client: Client, vector: Any, *args: Any, **options: Any) -> Any:
            made = inner(client, vector, *args, **options)
            (own, _), *pairs = self._keys.pop(id(client))
            sid, node = self._name(client)
            roster = client.session.roster
            partners = [roster[rank] for rank in client.board.partners(client.session.rank[node])]
            named = zip(partners, pairs, strict=True)
            masks = tuple((partner, key, sign) for partner, (key, sign) in named)
            same = hashlib.sha256(np.ascontiguousarray(vector).data).digest()
            self.transcript.rows.append(Row(sid, node, (node, same), own, masks))
            self.vectors[sid, node] = vector, made.vector
            return made

        return masking

    def _on_unmask(self, inner: Callable[[Client], bytes]) -> Callable[[Client], bytes]:
        def unmask(client: Client) -> bytes:
            held = dict(client._held)  # noqa: SLF001 - they are dropped with the message
            body = inner(client)
            sid, me = self._name(client)
            said = decode_unmask(body)[1]
            self.stated[sid, me] = said.statement
            for rank, share in said.shares.items():
                for kind, mine in zip(KINDS, held[rank], strict=False):
                    if share == mine:
                        self.transcript.opened[sid, client.session.roster[rank], kind].add(me)
            return body

        return unmask


# ── an adversary's means ──────────────────────────────────────────────────────────────────────


@contextmanager
def leading(
    corrupt: Callable[[], Collection[NodeId]],
    leave_out: Callable[[SessionMessages, list[int]], list[int]],
) -> Iterator[None]:
    """Corrupt leaders leave nodes out of their lists, as far as others take the list.

    ``leave_out``: from the ranks that it found complete, those to leave out, in that order.
    """
    inner = SessionMessages.compose

    def compose(board: SessionMessages) -> bytes:
        body = inner(board)
        if board.me not in corrupt():
            return body
        sid, listing = decode_listing(body)
        for rank in leave_out(board, list(listing.members)):
            members = {other: item for other, item in listing.members.items() if other != rank}
            changed = attrs.evolve(listing, members=members)
            if not board._problem(changed):  # noqa: SLF001 - what everybody checks
                listing = changed
        return encode_listing(sid, listing)

    with mock.patch.object(SessionMessages, "compose", compose):
        yield


def another_list(body: bytes, rank: int) -> bytes:
    """A list without one more node, to tell others than were told the list."""
    sid, listing = decode_listing(body)
    members = {other: item for other, item in listing.members.items() if other != rank}
    return encode_listing(sid, attrs.evolve(listing, members=members))


def fits(board: SessionMessages, contributions: Sequence[Contribution]) -> bool:
    """Whether honest nodes state the survivor set of these, as far as everybody can tell."""
    inputs = Inputs.of(listed(board, contributions), board.session.parameters).digests()
    members = board.listed().members
    try:
        Survivors.agreed(board.session, board.topology, members, bytes(32), inputs)
    except SecaggError:
        return False
    return True


def revealable(
    plugin: Secagg, contributions: tuple[Contribution, ...], info: RoundInfo
) -> tuple[NodeId, ...]:
    """Those of the senders whose contributions an honest node would have revealed together."""
    return tuple(plugin.revealable(contributions, info))


__all__ = [
    "KINDS",
    "Attempts",
    "Recorder",
    "SessionMessages",
    "Step",
    "another_list",
    "fits",
    "leading",
    "revealable",
]
