"""PeerIds of the keys that speak for nodes; and this node's key, which stays where it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NoReturn

import attrs
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.keys import KeyPair, KeyType, PrivateKey, PublicKey
from libp2p.peer.id import ID

from qres_core import NODE_ID_BYTES, NodeId
from qres_core.transport import LinkKeys

_HEAD: Final = b"\x00\x24\x08\x01\x12\x20"
"""Multihash "identity, 36 bytes" over ``PublicKey { Type = Ed25519, Data = 32 bytes }``."""


def peer_id(public: bytes) -> ID:
    """The PeerId of an Ed25519 public key of 32 bytes.

    Source: libp2p specification "Peer Ids and Keys", revision 2.
    """
    return ID(_HEAD + public)


def names_a_key(octets: bytes) -> bool:
    """True if bytes are the PeerId of an Ed25519 key."""
    return len(octets) == len(_HEAD) + NODE_ID_BYTES and octets.startswith(_HEAD)


class SignerKey(PrivateKey):
    """A private key that somebody else keeps: it signs, and cannot be read."""

    def __init__(self, keys: LinkKeys) -> None:
        self._keys = keys

    def sign(self, data: bytes) -> bytes:
        """The signature of a statement, 64 bytes."""
        return self._keys.sign(data)

    def get_public_key(self) -> PublicKey:
        """The public half."""
        return Ed25519PublicKey.from_bytes(self._keys.public)

    def get_type(self) -> KeyType:
        """Ed25519."""
        return KeyType.Ed25519

    def to_bytes(self) -> NoReturn:
        """Refused."""
        msg = "the private key of the node is not here"
        raise TypeError(msg)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def key_pair(keys: LinkKeys) -> KeyPair:
    """The pair that libp2p's host is made with."""
    private = SignerKey(keys)
    return KeyPair(private, private.get_public_key())


@attrs.define(eq=False)
class Members:
    """Members that may connect: those of now, by node and by PeerId.

    The tables are replaced as a whole, so any thread may read them.
    """

    own: ID  # this node's PeerId
    nodes: Mapping[ID, NodeId]  # node by PeerId, this node's own left out
    peers: Mapping[NodeId, ID]  # PeerId by node, this node's own left out

    @classmethod
    def of(cls, node_id: NodeId, roster: Iterable[NodeId], keys: LinkKeys) -> Members:
        """From the roster and the keys that speak for its nodes now."""
        made = cls(peer_id(keys.public), {}, {})
        made.follow(node_id, roster, keys)
        return made

    def follow(self, node_id: NodeId, roster: Iterable[NodeId], keys: LinkKeys) -> None:
        """The members are these from now on."""
        peers = {node: peer_id(keys.key_of(node)) for node in roster if node != node_id}
        self.peers, self.nodes = peers, {peer: node for node, peer in peers.items()}

    def knows(self, author: bytes) -> bool:
        """True if a PeerId, as bytes, is of a member or this node's own."""
        peer = ID(author)
        return peer == self.own or peer in self.nodes
