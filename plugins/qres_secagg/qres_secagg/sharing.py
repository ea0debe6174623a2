"""Shares on their way to their holders: sealed, and committed to.

A dealer broadcasts one message with a commitment to every share and the sealed shares. As the
message is signed, and the list of a session names its hash, whoever opens a share that is not the
one dealt to it is found out by everybody. A commitment is a hash of the share and of its blind, see
:mod:`qres_secagg.dealing`; both are uniform over 252 bits to whoever has fewer shares than the
threshold, so there is nothing to guess.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qres_secagg.shamir import SCALAR_BYTES

COMMITMENT_BYTES: Final = 32
SEALED_BYTES: Final = 2 * SCALAR_BYTES + 16
KEY_TAG_BYTES: Final = 16
_DEALER: Final = struct.Struct("<BH")
_HOLDER: Final = struct.Struct("<H")
_NONCE: Final = bytes(12)  # every key seals one message


class Secret(enum.IntEnum):
    """Secret of a node that a share is of; of each node's two exactly one is opened."""

    SEED = 0
    """Of its own mask: opened when its input is in the sum."""
    MASK_KEY = 1
    """Of its masks against others: opened when its input is not in the sum."""


def commitment(
    sid: bytes, kind: Secret, dealer: int, holder: int, share: bytes, blind: bytes
) -> bytes:
    """Binds a dealer, by rank, to the share of a holder and the share's blind; 32 bytes."""
    where = _DEALER.pack(kind, dealer) + _HOLDER.pack(holder)
    return hashlib.sha256(b"qres-secagg/1 share" + sid + where + share + blind).digest()


def seed_commitment(sid: bytes, dealer: int, seed: bytes, blind: bytes) -> bytes:
    """Binds a dealer, by rank, to its seed and the blind of it; 32 bytes."""
    where = _DEALER.pack(Secret.SEED, dealer) + _HOLDER.pack(dealer)
    return hashlib.sha256(b"qres-secagg/1 secret" + sid + where + seed + blind).digest()


def key_tag(channel: bytes) -> bytes:
    """By which a dealer says under which key of a holder it sealed; 16 bytes.

    Two keys with one tag cost 2**64 multiplications in the group, and would let their owner say
    that an honest dealer lied.
    """
    return hashlib.sha256(b"qres-secagg/1 channel" + channel).digest()[:KEY_TAG_BYTES]


def seal(key: bytes, sid: bytes, seed_share: bytes, mask_share: bytes) -> bytes:
    """Both shares under a key used only for this, 80 bytes."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, seed_share + mask_share, sid)


def unseal(key: bytes, sid: bytes, sealed: bytes) -> tuple[bytes, bytes] | None:
    """The two shares, or ``None`` where the seal does not open."""
    try:
        opened = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, sid)
    except InvalidTag:
        return None
    return opened[:SCALAR_BYTES], opened[SCALAR_BYTES:]
