"""The matrix behind correlated noise, and what it costs: exact, in integers.

Let ``x_1, …, x_T`` be the sums of clipped updates of the rounds. A lower triangular matrix ``C``
with ones on its diagonal turns them into ``C x``, to which independent Gaussian noise ``z`` of
standard deviation ``sigma`` is added. All that is released is computed from ``C x + z``: in round t
``x_t + n_t`` with ``n = C⁻¹ z``. So the privacy of the whole stream is that of one Gaussian release
of ``C x``, whose sensitivity is a property of ``C``, of the clipping bound, and of the rounds in
which somebody may take part (:class:`Participation`). It holds for updates that depend on earlier
releases, because ``C`` is lower triangular (Denisov et al. 2022, theorem 2.1).

``C`` is the banded square root: Toeplitz, with the coefficients of ``(1 - s)**(-1/2)`` cut off
after ``band`` of them and rounded down to multiples of ``2**-16``. Rounding changes the noise's
shape by a hair, and the sensitivity is exact, because it is that of the rounded integers.

Reference:
    H. Fichtenberger, M. Henzinger, J. Upadhyay, Constant matters: fine-grained error bound on
    differentially private continual observation, ICML 2023 (the square root).
    N. Kalinin, C. Lampert, Banded square root matrix factorization for differentially private
    model training, NeurIPS 2024: theorem 2 (sensitivity under repeated participation).
    S. Denisov, H. B. McMahan, K. Rush, A. Smith, A. Guha Thakurta, Improved differential privacy
    for SGD via optimal private linear operators on adaptive streams, NeurIPS 2022.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import attrs
import numpy as np

from qres_core.errors import ConfigError

ONE: Final = 1 << 16
"""The coefficient 1."""
LONGEST_BAND: Final = 64
LONGEST_STREAM: Final = 1 << 20


def _check_band(instance: object, attribute: Any, value: Any) -> None:
    del instance, attribute
    if type(value) is not int or not 1 <= value <= LONGEST_BAND:
        what = f"{value!r} is not an integer in 1..{LONGEST_BAND}"
        raise ConfigError.of("QRES-E105", "plugins.dp.band", what)


def _check_count(instance: object, attribute: Any, value: Any) -> None:
    del instance
    if type(value) is not int or not 1 <= value <= LONGEST_STREAM:
        what = f"{value!r} is not an integer in 1..{LONGEST_STREAM}"
        raise ConfigError.of("QRES-E105", f"plugins.dp.{attribute.name}", what)


@attrs.frozen
class Participation:
    """In which rounds of a stream whoever is protected may take part.

    Raises:
        ConfigError: QRES-E105 for numbers out of 1..2**20.
    """

    # at most so many rounds of the stream
    times: int = attrs.field(default=1, validator=_check_count)
    # at least so many rounds from one of them to the next; 1 is every round
    separation: int = attrs.field(default=1, validator=_check_count)


@attrs.frozen
class Factor:
    """A banded lower triangular Toeplitz matrix with coefficients in units of ``2**-16``.

    Raises:
        ConfigError: QRES-E105 for a band out of 1..64.
    """

    # coefficients that are not zero, the diagonal's among them; 1 is independent noise
    band: int = attrs.field(default=16, validator=_check_band)

    @property
    def coefficients(self) -> tuple[int, ...]:
        """``band`` integers, from ``2**16`` down, never negative; the first is the diagonal's."""
        return _root(self.band)

    def squared_sensitivity(self, steps: int, participation: Participation, grain: int = 0) -> int:
        """Move of ``C x`` by one participant, squared, for a clipping bound of 1.

        The coefficients are not negative and do not rise, and then the worst case is to take part
        as early and as often as allowed, with the same update: the norm of the sum of those
        columns.

        Args:
            steps: rounds of the stream, at least 1.
            participation: what is allowed.
            grain: how much farther each row moves that holds something, because it is rounded; in
                units of ``2**-16``, at most one.

        Returns:
            an integer in units of ``2**-32``, exact.

        Raises:
            ConfigError: QRES-E105 for ``steps`` out of 1..2**20.

        Complexity: O(steps + times * band).
        """
        if type(steps) is not int or not 1 <= steps <= LONGEST_STREAM:
            what = f"{steps!r} is not an integer in 1..{LONGEST_STREAM}"
            raise ConfigError.of("QRES-E105", "plugins.dp.rounds", what)
        column = np.asarray(self.coefficients, dtype=np.int64)
        total = np.zeros(steps, dtype=np.int64)  # at most 2**16 * band
        starts = range(0, steps, participation.separation)
        for start in starts[: participation.times]:
            end = min(start + self.band, steps)
            total[start:end] += column[: end - start]
        total[total > 0] += grain
        # A term is below 2**44, and there are at most 2**20 of them, of which numpy adds exactly
        # up to 2**63; Python's integers take it from there.
        return sum(int(part @ part) for part in np.array_split(total, 1 + steps // 2**16))

    def inverse(self, steps: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """First column of ``C⁻¹``, float64, shape ``(steps,)``; O(steps * band). For planning."""
        column = np.asarray(self.coefficients, dtype=np.float64) / ONE
        result = np.zeros(steps)
        result[0] = 1.0
        for t in range(1, steps):
            reach = min(t, self.band - 1)
            result[t] = -float(column[1 : reach + 1] @ result[t - reach : t][::-1])
        return result

    def prefix_error(self, steps: int) -> float:
        """Root mean square of the noise in prefix sums, over all prefixes, for ``sigma = 1``.

        Independent noise of deviation 1 has ``sqrt((steps + 1) / 2)``. To compare at equal privacy,
        multiply each by its sensitivity.
        """
        weights = np.cumsum(self.inverse(steps)) ** 2
        return math.sqrt(float(np.mean(np.cumsum(weights))))


@functools.cache
def _root(band: int) -> tuple[int, ...]:
    """``binomial(2 k, k) / 4**k`` in units of ``2**-16``, rounded down."""
    return tuple(math.comb(2 * k, k) * ONE >> (2 * k) for k in range(band))
