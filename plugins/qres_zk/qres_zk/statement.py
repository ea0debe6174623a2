"""Statement of a proof, and the numbers that follow from it.

Both sides make a :class:`NormStatement` from their own configuration. Nothing of it is ever read
from a proof.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import squared_norm

from qres_core import NodeId, RoundInfo, Vector
from qres_core.errors import CompatibilityError
from qres_zk.exact import inner
from qres_zk.group import ORDER, POINT_BYTES, SCALAR_BYTES
from qres_zk.slack import PROJECTIONS, budget

PROTOCOL: Final = b"qres-zk/norm/v2/ristretto255/shake256/blake3"
MASKS: Final = 128
"""Rows of the second projection: each value that is too large survives one with at most 1/2."""
MASKED_BYTES: Final = 16
HEADER_BYTES: Final = 40
HIDING_BITS: Final = 71
"""Masks are so many bits longer than what they hide."""
MAX_MASK_BITS: Final = 118
MAX_BOUND: Final = 2**31 - 1
MAX_DIRECTION: Final = 2**15 - 1
DIRECTION_SHIFT: Final = 2**15
DIRECTION_BITS: Final = 110
MAX_DIMENSION: Final = 2**48 - 1
MAX_OFFSET_BITS: Final = 240
"""A threshold so far off would be compared modulo the order."""
_SIGMA_POINTS: Final = 5
_SIGMA_SCALARS: Final = 5


def rows_of(dimension: int) -> int:
    """Return the number of rows: the greatest power of two ``b`` with ``2 b**2 <= d``, at least 1.

    Example:
        >>> [rows_of(d) for d in (1, 1000, 10**6)]
        [1, 16, 512]
    """
    rows = 1
    while 8 * rows * rows <= dimension:
        rows *= 2
    return rows


def columns_of(dimension: int) -> int:
    """Return the length of a row, ``ceil(d / b)``.

    Example:
        >>> [columns_of(d) for d in (1, 1000, 10**6)]
        [1, 63, 1954]
    """
    return -(-dimension // rows_of(dimension))


def _digest(domain: bytes, vector: NDArray[np.int32] | NDArray[np.int16] | None) -> bytes:
    if vector is None:
        return bytes(32)
    octets = np.ascontiguousarray(vector, dtype="<i4").tobytes()
    return hashlib.sha256(domain + len(vector).to_bytes(8, "little") + octets).digest()


@attrs.frozen(eq=False, slots=False)
class NormStatement:
    """``|u - center| <= sigma * bound``, and ``<direction, u> >= threshold`` if there is one.

    Raises:
        ValueError: a value out of range; a programming error, options are checked by the plugin.
        CompatibilityError: QRES-E313, the bound is too large for the group at this dimension.
    """

    dimension: int  # ``d``
    bound: int  # ``B``, what honest vectors keep to, in steps of the grid, 1..2**31 - 1
    k: int = 256  # random projections, 256, 512 or 1024
    scale: int = 0  # power-of-two exponent of the grid
    center: Vector | None = None  # int32, shape ``(d,)``; ``None`` for zero
    # int16, shape ``(d,)``, each in ``-32767..32767``; ``None`` for no half-space
    direction: NDArray[np.int16] | None = None
    threshold: int = 0  # ``t``, an integer

    def __attrs_post_init__(self) -> None:
        small = 1 <= self.dimension <= MAX_DIMENSION and 1 <= self.bound <= MAX_BOUND
        if not small or self.k not in PROJECTIONS:
            msg = f"no statement with d = {self.dimension}, k = {self.k}, B = {self.bound}"
            raise ValueError(msg)
        for vector in (self.center, self.direction):
            if vector is not None and vector.shape != (self.dimension,):
                msg = f"expected shape ({self.dimension},), got {vector.shape}"
                raise ValueError(msg)
        if self.direction is not None and int(self.direction.min()) < -MAX_DIRECTION:
            msg = f"the direction must be within +-{MAX_DIRECTION}"
            raise ValueError(msg)
        if abs(self.offset) >> MAX_OFFSET_BITS:
            msg = f"the threshold has more than {MAX_OFFSET_BITS} bits"
            raise ValueError(msg)
        if self.mask_bits > MAX_MASK_BITS:
            what = (
                f"masks of {self.mask_bits} bits do not fit the group: a bound of {self.bound} "
                f"steps at dimension {self.dimension} with {self.k} projections"
            )
            fix = "a lower bound, or a coarser grid (a greater swarm.scale)"
            raise CompatibilityError.of("QRES-E313", "plugins.zk.bound", what, fix)

    # ── layout ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def rows(self) -> int:
        """``b``, a power of two."""
        return rows_of(self.dimension)

    @cached_property
    def columns(self) -> int:
        """``m = ceil(d / b)``."""
        return columns_of(self.dimension)

    @property
    def folds(self) -> int:
        """``log2 b``."""
        return self.rows.bit_length() - 1

    @property
    def values(self) -> int:
        """Number of integers committed beside it: ``q, s, e``; with a direction ``h, f``."""
        return self.k + 5 + (5 if self.direction is not None else 0)

    @property
    def generators(self) -> int:
        """Number of vector generators that are needed."""
        return max(self.columns, self.values + MASKS)

    @property
    def points(self) -> int:
        """Points in a bundle."""
        return self.rows + 1 + 2 * self.folds + _SIGMA_POINTS

    @property
    def scalars(self) -> int:
        """Scalars in a bundle."""
        return _SIGMA_SCALARS + self.columns + self.values + MASKS

    @property
    def bundle_bytes(self) -> int:
        """Exact length of a bundle."""
        sizes = POINT_BYTES * self.points + SCALAR_BYTES * self.scalars
        return HEADER_BYTES + MASKED_BYTES * MASKS + sizes

    # ── numbers ───────────────────────────────────────────────────────────────────────────────

    @cached_property
    def budget(self) -> int:
        """Most that the squares of the projections may sum up to."""
        return budget(self.bound, self.k)

    @property
    def gamma_bits(self) -> int:
        """Bits of the weights of the random combination, so that sums stay below ``2**128``."""
        return 127 - (self.k.bit_length() - 1)

    @cached_property
    def offset(self) -> int:
        """Least value of ``<direction, u - center>``."""
        if self.direction is None or self.center is None:
            return self.threshold
        return self.threshold - inner(self.direction, self.center)

    @cached_property
    def reach(self) -> int:
        """Greatest ``|<direction, u - center>|`` of an honest vector."""
        if self.direction is None:
            return 0
        return (math.isqrt(squared_norm(self.direction)) + 1) * self.bound

    @property
    def mask_bits(self) -> int:
        """Bits of the masks of the second projection."""
        return self.hidden_bits + HIDING_BITS

    @cached_property
    def hidden_bits(self) -> int:
        """Bits of the greatest sum of values of an honest vector, which masks hide."""
        largest = (self.k + 1) * (math.isqrt(self.dimension) + 1) * self.bound
        largest += 4 * (math.isqrt(self.budget) + 1)
        if self.direction is not None:
            largest += self.reach + 4 * (math.isqrt(max(0, self.reach - self.offset)) + 1)
        return largest.bit_length()

    # ── encodings ─────────────────────────────────────────────────────────────────────────────

    def parameters(self) -> bytes:
        """All numbers, in fixed width, little-endian: absorbed first of all."""
        return b"".join(
            (
                self.dimension.to_bytes(8, "little"),
                self.rows.to_bytes(4, "little"),
                self.columns.to_bytes(4, "little"),
                self.k.to_bytes(2, "little"),
                MASKS.to_bytes(2, "little"),
                self.gamma_bits.to_bytes(1, "little"),
                self.mask_bits.to_bytes(1, "little"),
                self.scale.to_bytes(1, "little", signed=True),
                self.bound.to_bytes(8, "little"),
                self.budget.to_bytes(32, "little"),
                ORDER.to_bytes(32, "little"),
            )
        )

    def reference(self) -> bytes:
        """Center, direction and threshold: absorbed second."""
        flags = (self.center is not None) + 2 * (self.direction is not None)
        return b"".join(
            (
                flags.to_bytes(1, "little"),
                _digest(b"qres-zk/center/v1\0", self.center),
                _digest(b"qres-zk/direction/v1\0", self.direction),
                self.threshold.to_bytes(32, "little", signed=True),
            )
        )

    def laid_out(self, vector: NDArray[np.integer]) -> NDArray[np.int64]:
        """A vector as ``b`` rows of ``m`` columns, zeros at the end; int64."""
        table = np.zeros(self.rows * self.columns, dtype=np.int64)
        table[: self.dimension] = vector
        return table.reshape(self.rows, self.columns)


@attrs.frozen
class Context:
    """Context that a proof holds in. A proof made for another context is refused."""

    swarm: str  # the swarm's name
    node: NodeId  # the prover's identity, 32 bytes
    round: int  # round number
    model: bytes  # digest of the head, or of the model where there is none; 32 bytes
    roster: bytes  # root of the roster, 32 bytes

    @classmethod
    def of(cls, node: NodeId, round_info: RoundInfo) -> Context:
        """The context of a node's contribution to a round."""
        root = hashlib.sha256(b"qres-zk/roster/v1\0" + len(round_info.roster).to_bytes(4, "little"))
        for member in round_info.roster:
            root.update(member)
        place = round_info.head or round_info.model_digest
        return cls(round_info.swarm, node, round_info.number, place, root.digest())
