"""Draws correlated noise, exactly: ``n = C⁻¹ z`` in integers, with nothing lost to rounding.

With the coefficients ``c_k`` in units of ``2**-16`` and ``z`` a discrete Gaussian in units of
``2**-16`` grid steps, the noise of step t is

    n_t = round((z_t - c_1 n_(t-1) - … - c_(b-1) n_(t-b+1)) / 2**16)

What is released, ``r_t = x_t + n_t``, is *exactly* a function of ``y = 2**16 C x + z``:

    r_t = round((y_t - c_1 r_(t-1) - … - c_(b-1) r_(t-b+1)) / 2**16)

as putting in ``r = x + n`` shows, since ``x_t`` is an integer and comes out of the rounding. So
the rounding is post-processing, and the guarantee is that of the integer vector ``C x`` with
discrete Gaussian noise. (Rounding ``c_k n_(t-k)`` apart from ``z_t`` would not be: its residue
depends on the private ``x``.)
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import ValueRefusedError
from qres_dp.correlated.factor import ONE, Factor
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.randomness import KEY_BYTES

_BLOCK: Final = 1 << 12
_FINE_DEVIATION: Final = 8
"""Grid steps of the part of ``z`` that is not a multiple of a grid step. With a coarse part of at
least that much, their sum is a discrete Gaussian within a factor of ``1 ± 2**-900``."""
LEAST_VARIANCE: Final = 2 * _FINE_DEVIATION**2


def _subkey(key: bytes, part: bytes) -> bytes:
    if type(key) is not bytes or len(key) != KEY_BYTES:
        raise ValueRefusedError.of("QRES-E507", "key", f"expected {KEY_BYTES} bytes")
    return hmac.digest(key, b"qres/dp/correlated/v1\0" + part, "sha256")


class CorrelatedNoise:
    """The noise of one stream of rounds.

    Args:
        factor: the matrix.
        variance: of ``z``, in grid steps squared, exact; from
            :func:`~qres_dp.correlated.factor.variance_for`.
        dimension: coordinates of a vector.
        steps: rounds of the stream.

    Raises:
        ValueRefusedError: QRES-E313 where the variance is below 128 grid steps squared, or so large
            that noise might not fit int32.

    Memory: ``4 * (band - 1) * dimension`` bytes. Complexity of a draw: O(band * dimension).
    """

    def __init__(self, factor: Factor, variance: Fraction, dimension: int, steps: int) -> None:
        if variance < LEAST_VARIANCE:
            what = f"a deviation of {math.sqrt(variance):.1f} grid steps is too fine for the grid"
            fix = "a finer swarm.scale, or a larger clip"
            raise ValueRefusedError.of("QRES-E313", "plugins.dp.noise", what, fix)
        self._coarse = discrete_gaussian(variance - _FINE_DEVIATION**2)
        self._fine = discrete_gaussian(Fraction(_FINE_DEVIATION**2 * ONE**2))
        # |n| <= sum |C⁻¹| * (|z| + 1/2): no draw, however unlikely, wraps.
        spread = float(np.abs(factor.inverse(steps)).sum()) * (1 + 2**-20)
        largest = spread * (self._coarse.reach + self._fine.reach / ONE + 1)
        if largest >= 2**31:
            what = f"noise of deviation {math.sqrt(variance):.0f} grid steps may not fit int32"
            fix = "a coarser swarm.scale, or a smaller clip"
            raise ValueRefusedError.of("QRES-E313", "plugins.dp.noise", what, fix)
        self.steps = steps
        self.dimension = dimension
        self.taken = 0
        self._band = factor.band
        self._weights = np.asarray(factor.coefficients[1:], dtype=np.float64)
        self._past = np.zeros((factor.band - 1, dimension), dtype=np.int32)

    def draw(self, key: bytes) -> NDArray[np.int32]:
        """Noise for the next step; the stream stays where it is until :meth:`advance`.

        Args:
            key: 32 secret bytes, for this step of this stream alone. A key that is used for two
                different sums gives away their difference.

        Returns:
            int32, shape ``(dimension,)``, in grid steps; the same key and history give the same
            noise on every machine.

        Raises:
            ValueRefusedError: QRES-E509 past the last step.
        """
        if self.taken >= self.steps:
            what = f"the stream of correlated noise has {self.steps} steps, and all are used"
            raise ValueRefusedError.of("QRES-E509", "plugins.dp.rounds", what)
        coarse, fine = self.white_noise(key)
        # Row j of the past holds the newest step that is j modulo band - 1, or zeros.
        ages = [(self.taken - 1 - j) % (self._band - 1) for j in range(self._band - 1)]
        weights = self._weights[ages]
        noise = np.empty(self.dimension, dtype=np.int32)
        for start in range(0, self.dimension, _BLOCK):
            part = slice(start, start + _BLOCK)
            total = coarse[part].astype(np.int64) << 16
            total += fine[part]
            # Products are below 2**47 and their sum below 2**53: float64 adds them exactly.
            total -= (weights @ self._past[:, part].astype(np.float64)).astype(np.int64)
            noise[part] = (total + ONE // 2) >> 16
        noise.flags.writeable = False
        return noise

    def white_noise(self, key: bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """``z`` of a key in two parts: grid steps, and units of ``2**-16`` grid steps."""
        coarse = self._coarse.sample(self.dimension, _subkey(key, b"coarse"))
        return coarse, self._fine.sample(self.dimension, _subkey(key, b"fine"))

    def advance(self, noise: NDArray[np.int32]) -> None:
        """Take the step: the next draw builds on this noise, which :meth:`draw` returned."""
        if self._band > 1:
            self._past[self.taken % (self._band - 1)] = noise
        self.taken += 1

    def replay(self, keys: Iterable[bytes]) -> None:
        """Take the steps of these keys again, from the first one on: after a restart."""
        for key in keys:
            self.advance(self.draw(key))
