"""Keys of one session: X25519 pairs made for it, and what is derived from them.

Every derived key is bound to the session id, to both nodes and to both public keys, so that a key
of one session or pair is of no use in another. Two pairs are needed: the *mask* key of a node that
drops out is opened, and the shares sealed under its *channel* key must stay closed.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF).
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from qres_core import NodeId
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.session import joined

KEY_BYTES: Final = 32
_P: Final = 2**255 - 19
# The u-coordinates of the points of order 1, 2, 4 and 8 of the curve and its twist, canonical.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
    }
)


def valid_public(key: bytes) -> bool:
    """Whether 32 bytes are a public key this protocol takes.

    Encodings of ``u >= p`` are refused, the top bit among them: X25519 itself reads several of them
    as one point, so that two keys that differ as bytes could be the same key. So are points of
    small order, with which every secret is zero.
    """
    if len(key) != KEY_BYTES:
        return False
    u = int.from_bytes(key, "little")
    return u < _P and u not in _SMALL_ORDER


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, one block: 32 bytes."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


class X25519Pair:
    """An X25519 pair.

    Attributes:
        public: 32 bytes.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = (
            X25519PrivateKey.generate()
            if secret is None
            else X25519PrivateKey.from_private_bytes(secret)
        )
        self.public = self._secret.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"X25519Pair({self.public.hex()})"

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes, to be shared out."""
        return self._secret.private_bytes_raw()

    def exchange(self, public: bytes) -> bytes:
        """The secret in common with the owner of ``public``, 32 bytes.

        Raises SecaggError: ``BAD_KEY``, where :func:`valid_public` says no.
        """
        if not valid_public(public):
            raise SecaggError(Reason.BAD_KEY, public.hex())
        try:
            return self._secret.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:  # pragma: no cover - the list above is complete
            raise SecaggError(Reason.BAD_KEY, public.hex()) from error


def pair_key(
    secret: bytes, sid: bytes, left: tuple[NodeId, bytes], right: tuple[NodeId, bytes]
) -> bytes:
    """The mask key of two nodes, the same for both.

    ``secret``: their X25519 secret. Returns 32 bytes.
    """
    (low, low_key), (high, high_key) = sorted((left, right))
    return hkdf(secret, sid, joined(b"pair", low, high, low_key, high_key))


def seal_key(
    secret: bytes, sid: bytes, dealer: tuple[NodeId, bytes], holder: tuple[NodeId, bytes]
) -> bytes:
    """The key under which ``dealer`` seals its shares for ``holder``; another one for the way back.

    ``secret``: their X25519 secret. Returns 32 bytes.
    """
    return hkdf(secret, sid, joined(b"seal", dealer[0], holder[0], dealer[1], holder[1]))


def self_key(seed: bytes, sid: bytes, node: NodeId) -> bytes:
    """The key of a node's own mask, from its 32-byte seed."""
    return hkdf(seed, sid, joined(b"self", node))


def stream_key(key: bytes, label: bytes) -> bytes:
    """The key of one more keystream of a pair or a node, separated by ``label``."""
    return hkdf(key, b"qres-secagg/1 stream", label)
