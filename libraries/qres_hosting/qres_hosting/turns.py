"""Questions of a coordinator to its clients in a turn of a dialogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.wire import ENVELOPE_OVERHEAD
from qres_core.swarm.ledger.messages import MAX_SAID, said_bytes

MAX_TURNS: Final = 64
"""Of a round."""
_VERSION: Final = 1
_ROOM: Final = 2**16
"""Bytes beside frames and summaries."""
_MAX_DIMENSION: Final = 2**40


def _bad(field: str, what: str) -> WireError:
    return WireError.of("QRES-E404", f"turn.{field}", what)


def max_turn_bytes(nodes: int) -> int:
    """Bytes of an encoded turn in a round of so many members."""
    return nodes * (said_bytes(nodes) + MAX_SAID * ENVELOPE_OVERHEAD) + _ROOM


@attrs.frozen
class HostedTurn:
    """A turn.

    Attributes:
        told: the round, as it was announced.
        dimension: coordinates of its model.
        number: of the turn, from 0.
        frames: what clients said since the turn before, as they signed it.
        summaries: what clients must know of the set that is decided, by plugin; in one turn alone.

    Raises:
        WireError: QRES-E404 names the field.
    """

    told: bytes
    dimension: int
    number: int
    frames: tuple[bytes, ...] = ()
    summaries: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])

    def __attrs_post_init__(self) -> None:
        if type(self.told) is not bytes:
            raise _bad("told", "expected bytes")
        for field, most in (("dimension", _MAX_DIMENSION), ("number", MAX_TURNS - 1)):
            count = getattr(self, field)
            if type(count) is not int or not 0 <= count <= most:
                raise _bad(field, f"expected an integer in 0..{most}")
        if not all(type(frame) is bytes for frame in self.frames):
            raise _bad("frames", "expected bytes")
        if not all(type(k) is str and type(v) is bytes for k, v in self.summaries.items()):
            raise _bad("summaries", "expected bytes by plugin")

    def to_bytes(self) -> bytes:
        """Encode."""
        body = [self.told, self.dimension, self.number, list(self.frames), dict(self.summaries)]
        return canonical.dumps([_VERSION, *body])

    @classmethod
    def from_bytes(cls, octets: bytes, nodes: int) -> HostedTurn:
        """Decode. Raises WireError: QRES-E401 to QRES-E404, and QRES-E406 for another version."""
        most = (nodes + 1) * MAX_SAID + 16
        value = canonical.loads(octets, max_bytes=max_turn_bytes(nodes), max_items=most)
        if not canonical.is_list(value) or len(value) != 6:
            raise WireError.of("QRES-E402", "turn", "expected a list of 6 values")
        version, told, dimension, number, frames, summaries = value
        if type(version) is not int or version != _VERSION:
            raise WireError.of("QRES-E406", "turn.version", f"this end speaks {_VERSION}")
        if not canonical.is_list(frames) or not canonical.is_map(summaries):
            raise WireError.of("QRES-E402", "turn", "expected a list of frames, and a map")
        return cls(told, dimension, number, tuple(frames), summaries)
