"""Large frames under way in a simulated swarm, and how an attacker reads one."""

from __future__ import annotations

from qres_core.contract.wire import Envelope


class CarriedFrame(bytes):
    """A large frame under way: what it says, in place of its bytes.

    The bytes would be a second copy of the vector. As ``bytes`` it is empty.

    Attributes:
        envelope: what it says.
        size: how many bytes it has.
    """

    envelope: Envelope
    size: int


def opened(frame: bytes, max_bytes: int) -> Envelope:
    """Message in a frame that may be carried. Raises WireError, as ``Envelope.from_bytes``."""
    if isinstance(frame, CarriedFrame):
        return frame.envelope
    return Envelope.from_bytes(frame, max_bytes=max_bytes)


def size(frame: bytes) -> int:
    """Bytes of a frame that may be a carried one."""
    return frame.size if isinstance(frame, CarriedFrame) else len(frame)
