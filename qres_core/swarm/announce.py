"""The small frame that stands for a large one: what it is called, and whom to ask for it.

::

    00 [size, hashes of the chunks]    for everybody: whoever has it may be asked
    01 [size, hashes of the chunks]    for the receiver alone: only the sender is asked

in deterministic CBOR after the first byte, hashes joined. A message of the swarm begins with the
head of a map, so the first byte tells the two apart and small messages travel as they are.
"""

from __future__ import annotations

from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import QresError, WireError
from qres_core.contract.transport import CHUNK, BlobRef
from qres_core.contract.types import DIGEST_BYTES

_HEADS: Final = (b"\x00", b"\x01")
_ROOM: Final = 32
"""More than everything but the hashes takes."""


@attrs.frozen
class Announce:
    """A large frame, by name.

    Attributes:
        ref: the blob that is the frame.
        private: it was sent to one node, so nobody else is told its name.
    """

    ref: BlobRef
    private: bool

    def to_bytes(self) -> bytes:
        """Encode."""
        return _HEADS[self.private] + canonical.dumps([self.ref.size, b"".join(self.ref.chunks)])

    @classmethod
    def from_bytes(cls, frame: bytes, *, max_bytes: int) -> Announce:
        """Decode the announcement of a frame of at most ``max_bytes``.

        Raises:
            WireError: QRES-E401 too large, or of too large a frame, QRES-E402 and QRES-E403
                malformed, QRES-E404 a field is invalid. Nothing else, whatever the bytes.
        """
        if not announces(frame):
            raise WireError.of("QRES-E402", "announce", "no announcement")
        value = canonical.loads(frame[1:], max_bytes=announce_bytes(max_bytes) - 1)
        if not canonical.is_list(value) or len(value) != 2:
            raise WireError.of("QRES-E404", "announce", "expected a size and hashes")
        size, hashes = value
        if type(size) is not int or type(hashes) is not bytes or len(hashes) % DIGEST_BYTES:
            raise WireError.of("QRES-E404", "announce", "expected a size and hashes of 32 bytes")
        if size > max_bytes:
            raise WireError.of("QRES-E401", "announce", f"{size} bytes, limit {max_bytes}")
        starts = range(0, len(hashes), DIGEST_BYTES)
        try:
            ref = BlobRef(size, tuple(hashes[start : start + DIGEST_BYTES] for start in starts))
        except QresError as error:
            raise WireError.of("QRES-E404", "announce", str(error.problems[0].what)) from error
        return cls(ref, private=frame[:1] == _HEADS[1])


def announces(frame: bytes) -> bool:
    """Whether a frame is meant as an announcement, and so cannot be a message."""
    return frame[:1] in _HEADS


def announce_bytes(size: int) -> int:
    """No announcement of a frame of ``size`` bytes is larger."""
    return _ROOM + DIGEST_BYTES * -(-size // CHUNK)
