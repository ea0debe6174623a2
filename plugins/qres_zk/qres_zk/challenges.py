"""The order of a proof: what is said, and the challenge that answers it.

Prover and verifier both go through :class:`Challenges`, method by method, so that they cannot
differ in what they absorb or when.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_zk.group import ORDER, Scalars
from qres_zk.statement import (
    DIRECTION_BITS,
    DIRECTION_SHIFT,
    MASKED_BYTES,
    MASKS,
    PROTOCOL,
    Context,
    NormStatement,
)
from qres_zk.transcript import Transcript


@attrs.frozen(eq=False)
class Combination:
    """Challenges that turn many equations into one each."""

    gammas: list[int]  # ``k + 1`` weights, of the projections and of the sum
    direction: int  # weight of the half-space's product; 0 without one
    link: list[int]  # ``MASKS`` weights of the masked values
    square: int  # weight of the half-space's squares; 0 without one

    def claim(self, values: list[int]) -> int:
        """Return what ``<A, U>`` must be for these committed values, modulo the order."""
        k = len(self.gammas) - 1
        total = sum(weight * value for weight, value in zip(self.gammas, values, strict=False))
        if self.direction:
            total += self.direction * (values[k + 5] + DIRECTION_SHIFT * values[k])
        return total % ORDER


class Challenges:
    """The transcript of one proof.

    Args:
        statement: from one's own configuration.
        context: where and when.

    Attributes:
        context: 32 bytes that name statement and context; they stand in the bundle.
    """

    def __init__(self, statement: NormStatement, context: Context) -> None:
        transcript = Transcript()
        transcript.absorb("protocol", PROTOCOL)
        transcript.absorb("parameters", statement.parameters())
        transcript.absorb("reference", statement.reference())
        transcript.absorb("swarm", context.swarm.encode())
        transcript.absorb("node", context.node)
        transcript.absorb("round", context.round.to_bytes(8, "little"))
        transcript.absorb("model", context.model)
        transcript.absorb("roster", context.roster)
        self.context = transcript.challenge("context", 32)
        self._transcript = transcript
        self._statement = statement

    def projection(self, rows: bytes) -> bytes:
        """Row commitments are said; the seed of ``R`` answers."""
        self._transcript.absorb("rows", rows)
        return self._transcript.challenge("projection", 32)

    def smallness(self, values: bytes) -> NDArray[np.int64]:
        """The commitment to the values is said; ``R2`` answers: 0 or 1, shape ``(MASKS, n)``.

        Bit ``i % 8`` (the lowest first) of byte ``i // 8`` of a row is the entry of value ``i``.
        """
        self._transcript.absorb("values", values)
        count = self._statement.values
        width = (count + 7) // 8
        raw = self._transcript.challenge("smallness", MASKS * width)
        octets = np.frombuffer(raw, dtype=np.uint8).reshape(MASKS, width)
        return np.unpackbits(octets, axis=1, bitorder="little")[:, :count].astype(np.int64)

    def combination(self, masked: tuple[int, ...]) -> Combination:
        """The masked sums are said; the weights answer."""
        self._transcript.absorb("masked", encode_masked(masked))
        statement = self._statement
        halfspace = statement.direction is not None
        gammas = self._transcript.integers("combination", statement.k + 1, statement.gamma_bits)
        direction, square = 0, 0
        if halfspace:
            (direction,) = self._transcript.integers("direction", 1, DIRECTION_BITS)
            square = self._transcript.scalar("square")
        link = self._transcript.integers("link", MASKS, 128)
        return Combination(gammas, direction, link, square)

    def fold(self, low: bytes, high: bytes) -> int:
        """Two cross commitments are said; ``x`` answers."""
        self._transcript.absorb("low", low)
        self._transcript.absorb("high", high)
        return self._transcript.scalar("fold")

    def response(self, sigma: bytes, link: int) -> int:
        """The last commitments and the linking scalar are said; ``c`` answers."""
        labels = ("mask rows", "mask values", "mask claim", "mask square", "mask cross")
        for index, label in enumerate(labels):
            self._transcript.absorb(label, sigma[32 * index : 32 * index + 32])
        self._transcript.absorb("mask link", link.to_bytes(32, "little"))
        return self._transcript.scalar("response")


def encode_masked(masked: tuple[int, ...]) -> bytes:
    """The masked sums, 16 bytes little-endian each."""
    return b"".join(number.to_bytes(MASKED_BYTES, "little") for number in masked)


def link_weights(smallness: NDArray[np.int64], link: list[int]) -> Scalars:
    """Return ``R2^T eta`` followed by ``eta``: the link equation's weights of all values.

    Exact: the weights are split into words of 16 bits; the sums are below ``2**135``.
    """
    words = np.frombuffer(b"".join(message.to_bytes(16, "little") for message in link), dtype="<u2")
    words = words.reshape(MASKS, 8).astype(np.int64)
    # In floats, for which there are fast routines; below 2**23, so exact.
    counted = smallness.T.astype(np.float64) @ words.astype(np.float64)
    sums = np.concatenate([counted.astype(np.int64), words])
    weights = np.zeros((len(sums), 4), dtype=np.uint64)
    carry = np.zeros(len(sums), dtype=np.int64)
    for place in range(8):
        carry += sums[:, place]
        digit = (carry & 0xFFFF).astype(np.uint64)
        weights[:, place // 4] |= digit << np.uint64(16 * (place % 4))
        carry >>= 16
    weights[:, 2] = carry
    return weights


def fold_factors(challenges: list[int]) -> tuple[list[int], list[int]]:
    """Return the factors that folding gives to the rows of ``U`` and to those of ``A``."""
    of_values, of_weights = [1], [1]
    for x in challenges:  # the first challenge goes with the highest bit of the row's number
        of_values = [new for old in of_values for new in (old, old * x % ORDER)]
        of_weights = [new for old in of_weights for new in (old * x % ORDER, old)]
    return of_values, of_weights


def cross_factors(challenges: list[int]) -> tuple[list[int], int]:
    """Return the factors of all cross commitments in their order, and that of the claim itself."""
    factors: list[int] = []
    product = 1
    for x in reversed(challenges):
        factors = [product, product * x * x % ORDER, *factors]
        product = product * x % ORDER
    return factors, product
