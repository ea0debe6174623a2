"""Whitelists: public keys in hex or as libp2p PeerIds."""

from __future__ import annotations

import re
from typing import Final

_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes: a protobuf with key type 1 (Ed25519) and 32 bytes of key."""
_PEER_ID_LENGTH: Final = 52


def parse_member(text: str) -> bytes:
    """The public key that a line of a whitelist names.

    Args:
        text: 64 hexadecimal digits, or a libp2p PeerId of an Ed25519 key (``12D3Koo…``, base58).

    Returns:
        32 bytes.

    Raises:
        ValueError: neither of the two.

    Source:
        libp2p specifications, "Peer Ids and Keys".

    Example:
        >>> parse_member("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN").hex()[:16]
        '3b6a27bcceb6a42d'
    """
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if len(text) == _PEER_ID_LENGTH and all(letter in _DIGIT for letter in text):
        number = 0
        for letter in text:
            number = number * 58 + _DIGIT[letter]
        # The leading zero byte is the leading "1". 51 further letters fit 38 bytes, and what begins
        # with the prefix has none of them to spare, so that there is one spelling.
        if text[0] == "1":
            octets = number.to_bytes(38, "big")
            if octets.startswith(_PEER_ID_PREFIX):
                return octets[len(_PEER_ID_PREFIX) :]
    msg = f"{text!r} is neither 64 hex digits nor an Ed25519 PeerId (12D3Koo…)"
    raise ValueError(msg)


def peer_id(public_key: bytes) -> str:
    """The libp2p PeerId of an Ed25519 public key.

    ``public_key``: 32 bytes. Returns 52 letters of base58, ``12D3Koo…``.
    """
    number = int.from_bytes(_PEER_ID_PREFIX + public_key, "big")
    letters: list[str] = []
    while number:
        number, value = divmod(number, 58)
        letters.append(_ALPHABET[value])
    return "1" + "".join(reversed(letters))


def parse_members(text: str) -> frozenset[bytes]:
    """The public keys of a whitelist file.

    ``text``: a member on each line; ``#`` starts a comment; empty lines count for nothing, and a
    member listed twice is one member. Returns the keys, 32 bytes each. Raises ValueError: names the
    line.
    """
    members: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        try:
            members.add(parse_member(entry))
        except ValueError as error:
            msg = f"line {number}: {error}"
            raise ValueError(msg) from error
    return frozenset(members)
