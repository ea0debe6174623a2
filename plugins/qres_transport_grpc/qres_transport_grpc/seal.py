"""A session of two nodes: keys that no hub has, and messages that count once.

Both ends agree on keys with X25519 (RFC 7748) and HKDF-SHA-256 (RFC 5869) over both greetings,
which are signed. A message is sealed with AES-256-GCM under the key of its direction and a number
that never comes again. So a hub can neither read, change nor invent a message, nor deliver it twice
or to another session.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qres_transport_grpc.wire import BadMessageError, Greeting

GREETS: Final = b"\0"
SEALED: Final = b"\1"
NAME_BYTES: Final = 8
_HEAD: Final = 1 + NAME_BYTES + 8
OVERHEAD_BYTES: Final = _HEAD + 16
WINDOW: Final = 8192
"""Numbers behind the newest that may still come: small messages overtake large ones."""


class OnceWindow:
    """Accepts each number once, and none that lies far behind the newest."""

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._newest = -1
        self._seen = 0  # bit i: the newest minus i came

    def fresh(self, number: int) -> bool:
        """True if the number has not come, and is not too old to know."""
        behind = self._newest - number
        return behind < 0 or (behind < self._size and not self._seen >> behind & 1)

    def take(self, number: int) -> None:
        """The number came."""
        ahead = number - self._newest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, self._size) | 1) & ((1 << self._size) - 1)
            self._newest = number
        else:
            self._seen |= 1 << -ahead


class StartKey:
    """The key of one start of a node; it knows which number its sessions have come to.

    Were a session forgotten and made again, its keys would be the same. So no session begins at a
    number that another one has used, and one that was forgotten must seal nothing more
    (:meth:`Acquaintance.holds`). A clock would do for that only if it never stood still, and it
    would tell hubs when the machine was started.
    """

    def __init__(self) -> None:
        self.private = X25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.newest = 0


class SealedSession:
    """Seals to one start of one node, and opens what it sealed.

    Args:
        key: this node's, of this start.
        mine: what this node said of itself; the signature and what it quotes do not count.
        theirs: what the other said.

    Raises:
        BadMessageError: the other's key is none.
    """

    def __init__(self, key: StartKey, mine: Greeting, theirs: Greeting) -> None:
        try:
            secret = key.private.exchange(X25519PublicKey.from_public_bytes(theirs.key))
        except ValueError as error:
            what = "no usable X25519 key"
            raise BadMessageError(what) from error
        self.theirs = theirs
        both = sorted(
            [mine.node + mine.session + mine.key, theirs.node + theirs.session + theirs.key]
        )
        digest = Hash(SHA256())
        digest.update(mine.swarm.encode() + b"\0" + both[0] + both[1])
        derive = HKDF(SHA256(), 64 + NAME_BYTES, digest.finalize(), b"qres/hub/session/v1")
        keys = derive.derive(secret)
        low, high = AESGCM(keys[:32]), AESGCM(keys[32:64])
        first = both[0].startswith(mine.node)
        self._out, self._in = (low, high) if first else (high, low)
        self.name = keys[64:]
        self._key = key
        self._number = key.newest
        self._window = OnceWindow()

    def seal(self, data: bytes) -> bytes:
        """The message that only the other end can open."""
        self._number += 1
        self._key.newest = max(self._key.newest, self._number)
        number = self._number.to_bytes(8, "big")
        head = SEALED + self.name + number
        return head + self._out.encrypt(bytes(4) + number, data, head)

    def open(self, message: bytes) -> bytes | None:
        """Open what the other end sealed, or give nothing for a message that came before.

        Raises BadMessageError: it did not seal this.
        """
        head = message[:_HEAD]
        number = int.from_bytes(head[-8:], "big")
        if len(message) < OVERHEAD_BYTES:
            what = "too short"
            raise BadMessageError(what)
        if not self._window.fresh(number):
            return None
        try:
            data = self._in.decrypt(bytes(4) + head[-8:], message[_HEAD:], head)
        except InvalidTag as error:
            what = "not sealed by the other end"
            raise BadMessageError(what) from error
        self._window.take(number)
        return data
