"""Keys of one session: pairs of the prime-order group of Ed25519, and what is derived from them.

Every derived key is bound to the session id, to both nodes and to both public keys, so that a key
of one session or pair is of no use in another. Two pairs are needed: the *mask* key of a node that
drops out is opened, and the shares sealed under its *channel* key must stay closed.

The group has prime order and its points can be added, so a secret key is a number that can be
shared out, a dealer can prove that it shared out the key it advertised, and a holder can prove what
it has in common with a dealer: X25519 allows none of them. libsodium multiplies in constant time
and refuses points outside the group.

Sources: RFC 8032 (edwards25519), RFC 5869 (HKDF).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from nacl import bindings
from nacl.exceptions import BadSignatureError
from nacl.exceptions import RuntimeError as SodiumError

from qres_core import NodeId
from qres_secagg.draws import below
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.session import joined
from qres_secagg.shamir import ORDER, decode, encode

KEY_BYTES: Final = 32
_P: Final = 2**255 - 19
# y-coordinates of the points of order 1, 2, 4 and 8.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def plausible(key: bytes) -> bool:
    """True if 32 bytes may be a public key: a canonical encoding, and no point of small order.

    Whether it is a point of the group at all is known to who uses the key; see :func:`in_group`,
    which costs fifty times as much.
    """
    if len(key) != KEY_BYTES:
        return False
    y = int.from_bytes(key, "little") & (1 << 255) - 1
    return y < _P and y not in _SMALL_ORDER


def in_group(key: bytes) -> bool:
    """True if 32 bytes are a point of the prime-order group, and not its identity. 50 us."""
    return len(key) == KEY_BYTES and bindings.crypto_core_ed25519_is_valid_point(key)


def signed(signature: bytes, message: bytes, public: bytes) -> bool:
    """True if the owner of a key of the group made an Ed25519 signature. 0.1 ms."""
    if not in_group(public):
        return False
    try:
        bindings.crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


def multiply(scalar: int, point: bytes) -> bytes:
    """A multiple of a point of the group; 32 bytes. 0.1 ms, in constant time.

    Raises SecaggError: ``BAD_KEY``, not a point of the group, or the product is its identity.
    """
    try:
        return bindings.crypto_scalarmult_ed25519_noclamp(encode(scalar), point)
    except (SodiumError, TypeError, ValueError) as error:
        raise SecaggError(Reason.BAD_KEY, point.hex()) from error


def generated(scalar: int) -> bytes:
    """A multiple of the generator, by a number from 1 below the order; 32 bytes. 20 us."""
    return bindings.crypto_scalarmult_ed25519_base_noclamp(encode(scalar))


def random_scalar() -> int:
    """A number from 1 below the order of the group, uniform."""
    return 1 + below(ORDER - 1)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, one block: 32 bytes."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


class KeyPair:
    """A Diffie-Hellman pair of a session.

    Args:
        secret: a number from 1 below the order of the group; a random one if not given.

    Attributes:
        secret: the number, to be shared out.
        public: 32 bytes.
    """

    def __init__(self, secret: int | None = None) -> None:
        self.secret = random_scalar() if secret is None else secret
        self.public = generated(self.secret)

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()})"

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature (RFC 8032, section 5.1.6) with a random nonce; 64 bytes."""
        nonce = random_scalar()
        point = generated(nonce)
        digest = hashlib.sha512(point + self.public + message).digest()
        return point + encode((nonce + decode(digest) * self.secret) % ORDER)

    def exchange(self, public: bytes) -> bytes:
        """The secret in common with the owner of ``public``, 32 bytes.

        Raises SecaggError: ``BAD_KEY``, not a point of the group.
        """
        return multiply(self.secret, public)


def pair_key(
    secret: bytes, sid: bytes, left: tuple[NodeId, bytes], right: tuple[NodeId, bytes]
) -> bytes:
    """The mask key of two nodes, the same for both.

    ``secret``: what they have in common. Returns 32 bytes.
    """
    (low, low_key), (high, high_key) = sorted((left, right))
    return hkdf(secret, sid, joined(b"pair", low, high, low_key, high_key))


def seal_key(
    secret: bytes, sid: bytes, dealer: tuple[NodeId, bytes], holder: tuple[NodeId, bytes]
) -> bytes:
    """The key under which ``dealer`` seals its shares for ``holder``; another one for the way back.

    ``secret``: what they have in common. Returns 32 bytes.
    """
    return hkdf(secret, sid, joined(b"seal", dealer[0], holder[0], dealer[1], holder[1]))


def self_key(seed: bytes, sid: bytes, node: NodeId) -> bytes:
    """The key of a node's own mask, from its 32-byte seed."""
    return hkdf(seed, sid, joined(b"self", node))


def stream_key(key: bytes, label: bytes) -> bytes:
    """The key of one more keystream of a pair or a node, separated by ``label``."""
    return hkdf(key, b"qres-secagg/1 stream", label)
