"""Strict Ed25519: what RFC 8032 leaves open is decided here, whatever the library does.

Nodes must agree on every verdict, and a signature must speak for one key and one message. So the
one encoding of each value counts, and points of small order, for which a signature of one message
fits others too, are nobody's key. These checks come before the library is asked.

Sources: RFC 8032 sections 5.1.3 and 5.1.7; Chalkias, Garillot, Nikolaenko, "Taming the many
EdDSAs", SSR 2020, which lists how libraries differ.
"""

from __future__ import annotations

from typing import Final

import attrs
from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

P: Final = 2**255 - 19
"""The field's prime."""
L: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the base point."""

_Y_MASK: Final = 2**255 - 1
_Y_OF_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
SMALL_ORDER_Y: Final = frozenset({0, 1, P - 1, _Y_OF_ORDER_8, P - _Y_OF_ORDER_8})
"""The ``y`` of the 8 points whose order divides 8: of order 4, 1, 2, 8 and 8. The two points with
one ``y`` are each other's negatives, so ``y`` alone tells them."""


@attrs.frozen(eq=False)
class SigningKey:
    """A private key with its public key."""

    public: bytes  # 32 bytes, the encoded point ``A``
    # 32 bytes, the private key of RFC 8032 section 5.1.5; secret, and not in the repr
    seed: bytes = attrs.field(repr=False)
    _secret: bytes = attrs.field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The pair of a private key of 32 bytes. Raises ValueError: the seed has another length."""
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(public, seed, secret)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes; deterministic (RFC 8032 section 5.1.6)."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def point_fault(encoding: bytes) -> str:
    """Reason to refuse 32 bytes as a point before any curve arithmetic; empty for none.

    ``encoding``: 32 bytes: ``y`` in 255 bits, little-endian, and the sign of ``x`` on top. Returns
    ``"not canonical"`` for ``y >= 2**255 - 19``, ``"of small order"`` for the 8 points of the
    torsion subgroup in every encoding they have, else an empty string.
    """
    y = int.from_bytes(encoding, "little") & _Y_MASK
    if y >= P:
        return "not canonical"
    return "of small order" if y in SMALL_ORDER_Y else ""


def key_fault(public: bytes) -> str:
    """Reason why 32 bytes are no public key; empty if they are one.

    Beyond :func:`point_fault` the point must lie on the curve and in the subgroup of the base
    point, where all honestly made keys lie.

    Args:
        public: any bytes.

    Complexity: one scalar multiplication; done once for each key, not for each message.
    """
    if len(public) != KEY_BYTES:
        return f"{len(public)} bytes long, not {KEY_BYTES}"
    if fault := point_fault(public):
        return fault
    return "" if crypto_core_ed25519_is_valid_point(public) else "not a point of the prime subgroup"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True if the holder of a key signed a message.

    RFC 8032 section 5.1.7 with the equation that has no cofactor, ``[S]B = R + [k]A``, the stricter
    of the two it allows. Refused beforehand: another length than 64 bytes, ``S >= L`` (step 1; it
    would give each message a second signature), and an ``R`` that :func:`point_fault` refuses.

    Args:
        public: 32 bytes that :func:`key_fault` has nothing against.
        message: any bytes.
        signature: any bytes.

    Complexity: one double scalar multiplication; the checks before it cost about a microsecond.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    if int.from_bytes(signature[KEY_BYTES:], "little") >= L or point_fault(signature[:KEY_BYTES]):
        return False
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True
