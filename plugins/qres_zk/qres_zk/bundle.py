"""The proof bundle: what travels, byte by byte.

========  ==========================================================================
bytes     content
========  ==========================================================================
4         ``QZKP``
1, 1, 2   version 2, suite 1 (ristretto255, SHAKE256, BLAKE3), zeros
32        names statement and context
32 b      commitments to the rows
32        commitment to the values
64 log b  cross commitments, low and high for each round of folding
160       masks of rows, values, claim, square, cross term
16 * 128  masked sums
32        mask of the link
128       blinds' responses: rows, values, claim, squares
32 m      responses of the folded row
32 n      responses of the values and of the masks
========  ==========================================================================

Every field has one width, which follows from the verifier's own statement. Numbers are
little-endian and must be canonical. Nothing about the statement is in it.
"""

from __future__ import annotations

from typing import Final

import attrs

from qres_core.errors import WireError
from qres_zk.challenges import encode_masked
from qres_zk.group import (
    POINT_BYTES,
    SCALAR_BYTES,
    Points,
    Scalars,
    decode,
    integers,
    scalars,
    scalars_from_bytes,
    scalars_to_bytes,
)
from qres_zk.statement import HEADER_BYTES, MASKED_BYTES, MASKS, NormStatement

MAGIC: Final = b"QZKP"
VERSION: Final = 2
SUITE: Final = 1
_PREFIX: Final = MAGIC + bytes((VERSION, SUITE, 0, 0))
_WITHDRAWN: Final = MAGIC + bytes((1, SUITE, 0, 0))


@attrs.frozen(eq=False)
class ProofBundle:
    """A proof."""

    context: bytes  # 32 bytes that name statement and context
    encoded: bytes  # all points as they travel
    points: Points  # the same, decoded
    masked: tuple[int, ...]  # ``MASKS`` integers of ``mask_bits`` bits
    link: int  # mask of the link equation
    blinds: tuple[int, int, int, int]  # four responses
    row: Scalars  # responses of the folded row, shape ``(m, 4)``
    values: Scalars  # responses of the values, shape ``(n, 4)``

    def cut(self, start: int, count: int = 1) -> bytes:
        """Encodings of ``count`` points from the ``start``-th on."""
        return self.encoded[POINT_BYTES * start : POINT_BYTES * (start + count)]

    def to_bytes(self) -> bytes:
        """Encode."""
        few = scalars([self.link, *self.blinds])
        return b"".join(
            (
                _PREFIX,
                self.context,
                self.encoded,
                encode_masked(self.masked),
                scalars_to_bytes(few),
                scalars_to_bytes(self.row),
                scalars_to_bytes(self.values),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, statement: NormStatement) -> ProofBundle:
        """Decode, checking all that can be checked without the statement's truth.

        Args:
            data: anything.
            statement: the verifier's own.

        Raises:
            WireError: QRES-E401 too long, before anything is read; QRES-E402 not a bundle or too
                short; QRES-E406 another version or suite; QRES-E404 a number or a point that is
                not canonical.

        Complexity: O(b) decodings of points.
        """
        body = _body(data, statement)
        cursor = 32
        end = cursor + POINT_BYTES * statement.points
        encoded = body[cursor:end]
        masked = _masked(body[end : end + MASKED_BYTES * MASKS], statement)
        end += MASKED_BYTES * MASKS
        numbers = scalars_from_bytes(body[end:], "proof.scalars")
        points = decode(encoded, "proof.points")
        link, first, second, third, fourth = integers(numbers[:5])
        middle = 5 + statement.columns
        return cls(
            body[:32],
            encoded,
            points,
            masked,
            link,
            (first, second, third, fourth),
            numbers[5:middle],
            numbers[middle:],
        )


def commitments(data: bytes, statement: NormStatement) -> Points:
    """The row commitments of a bundle, without the rest of it; shape ``(b, 20)``.

    Raises WireError: as :meth:`ProofBundle.from_bytes`.
    """
    body = _body(data, statement)
    return decode(body[32 : 32 + POINT_BYTES * statement.rows], "proof.points")


def _body(data: bytes, statement: NormStatement) -> bytes:
    if len(data) > statement.bundle_bytes:
        what = f"{len(data)} bytes, expected {statement.bundle_bytes}"
        raise WireError.of("QRES-E401", "proof", what)
    if data[:4] != MAGIC or len(data) < len(_PREFIX):
        raise WireError.of("QRES-E402", "proof", "not a proof bundle")
    if data[: len(_PREFIX)] == _WITHDRAWN:
        what = "norm/v1 is withdrawn: its half-space says nothing where the layout has padding"
        raise WireError.of("QRES-E406", "proof.version", what, "update qres-zk at its sender")
    if data[: len(_PREFIX)] != _PREFIX:
        raise WireError.of("QRES-E406", "proof.version", "unknown version or suite")
    if len(data) != statement.bundle_bytes:
        what = f"{len(data)} bytes, expected {statement.bundle_bytes}"
        raise WireError.of("QRES-E402", "proof", what)
    return data[len(_PREFIX) :]


def _masked(data: bytes, statement: NormStatement) -> tuple[int, ...]:
    masked = tuple(
        int.from_bytes(data[start : start + MASKED_BYTES], "little")
        for start in range(0, len(data), MASKED_BYTES)
    )
    if max(masked) >> statement.mask_bits:
        what = f"a masked sum has more than {statement.mask_bits} bits"
        raise WireError.of("QRES-E404", "proof.masked", what)
    return masked


assert len(_PREFIX) + 32 == HEADER_BYTES  # noqa: S101 - two modules, one layout
assert SCALAR_BYTES == POINT_BYTES  # noqa: S101
