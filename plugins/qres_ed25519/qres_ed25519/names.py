"""The names one public key goes by elsewhere: libp2p's PeerId and a DID."""

from __future__ import annotations

from typing import Final

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Base58 as Bitcoin and libp2p use it: without 0, O, I and l."""

_PROTOBUF: Final = b"\x08\x01\x12\x20"
"""``PublicKey { Type = Ed25519, Data = 32 bytes }`` up to the data."""
_IDENTITY: Final = b"\x00\x24"
"""The multihash head "not hashed, 36 bytes": keys of at most 42 bytes stand for themselves."""


def base58(octets: bytes) -> str:
    r"""Base58btc of some bytes; leading zero bytes become leading ``1``.

    Example:
        >>> base58(b"\0\0hello")
        '11Cn8eVZg'
    """
    number = int.from_bytes(octets, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(ALPHABET[digit])
    zeros = len(octets) - len(octets.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def peer_id(public: bytes) -> str:
    """The libp2p PeerId of an Ed25519 public key of 32 bytes.

    Source: libp2p specification "Peer Ids and Keys", revision 2.

    Example:
        >>> peer_id(bytes(32))
        '12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw'
    """
    return base58(_IDENTITY + _PROTOBUF + public)


def did(public: bytes) -> str:
    """The alias ``did:qres:`` and the key's 64 hex digits."""
    return f"did:qres:{public.hex()}"
