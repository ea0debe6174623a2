"""Shares on their way to their holders: sealed, and committed to.

A dealer broadcasts one message with a commitment to every share and the sealed shares. As the
message is signed, and the list of a session names its hash, whoever opens a share that is not the
one dealt to it is found out by everybody. A commitment is a plain hash: shares are points of a
polynomial with a random secret, so fewer than the threshold of them leave every other one uniform
over 256 bits, and there is nothing to guess.

The secrets are committed to as well, the mask key by its public key and the seed by a hash, so that
shares which do not belong together are the dealer's proven fault, and every subset of them that
gives a secret gives the same one.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qres_secagg.shamir import SHARE_BYTES

COMMITMENT_BYTES: Final = 32
SEALED_BYTES: Final = 2 * SHARE_BYTES + 16
_DEALER: Final = struct.Struct("<BH")
_HOLDER: Final = struct.Struct("<H")
_NONCE: Final = bytes(12)  # every key seals one message


class Secret(enum.IntEnum):
    """Which of a node's two secrets a share is of; of each node exactly one is opened."""

    SEED = 0
    """Of its own mask: opened when its input is in the sum."""
    MASK_KEY = 1
    """Of its masks against others: opened when its input is not in the sum."""


def encode(share: int) -> bytes:
    """33 bytes, little-endian."""
    return share.to_bytes(SHARE_BYTES, "little")


def commitment(sid: bytes, kind: Secret, dealer: int, holder: int, share: bytes) -> bytes:
    """Binds a dealer, by rank, to the share of a holder; 32 bytes."""
    return committed(commitment_head(sid, kind, dealer), commitment_holder(holder), share)


def commitment_head(sid: bytes, kind: Secret, dealer: int) -> bytes:
    """The first part of :func:`commitment`, the same for all shares of a secret."""
    return b"qres-secagg/1 share" + sid + _DEALER.pack(kind, dealer)


def commitment_holder(holder: int) -> bytes:
    """The second part, the same for all shares of a holder."""
    return _HOLDER.pack(holder)


def committed(head: bytes, holder: bytes, share: bytes) -> bytes:
    """:func:`commitment` from its parts, for who checks many."""
    return hashlib.sha256(head + holder + share).digest()


def seed_commitment(sid: bytes, dealer: int, seed: bytes) -> bytes:
    """Binds a dealer, by rank, to its seed; 32 bytes."""
    where = _DEALER.pack(Secret.SEED, dealer) + _HOLDER.pack(dealer)
    return hashlib.sha256(b"qres-secagg/1 secret" + sid + where + seed).digest()


def seal(key: bytes, sid: bytes, seed_share: bytes, mask_share: bytes) -> bytes:
    """Both shares under a key used only for this, 82 bytes."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, seed_share + mask_share, sid)


def unseal(key: bytes, sid: bytes, sealed: bytes) -> tuple[bytes, bytes] | None:
    """The two shares, or ``None`` where the seal does not open."""
    try:
        opened = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, sid)
    except InvalidTag:
        return None
    return opened[:SHARE_BYTES], opened[SHARE_BYTES:]
