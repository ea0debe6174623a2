"""Privacy-loss distributions of the Poisson-sampled Gaussian mechanism, composed by tilted FFT.

Rounds may be of several kinds, each with its own noise and sampling rate. All kinds are put on one
grid (:mod:`.round_loss`), so that their sum is on it too.

The masses ``p`` of each kind are first tilted, ``p_t(l) = p(l) exp(t l - K(t))`` with the cumulant
``K(t) = log sum p(l) exp(t l)``; one t for all kinds is chosen so that the tilted losses of all
rounds sum to about the epsilon that is sought. The FFT composes the tilted masses: the spectra of
the kinds, each to the power of its rounds, are multiplied. Then ``exp(T K(t) - t l)``, with the sum
of all rounds' cumulants for ``T K(t)``, takes the tilt off again. Without the tilt the rounding of
the FFT, about 1e-15 of the whole mass, hides every delta below 1e-12; with it the rounding is 1e-15
of the delta itself.

Upper bounds. Loss above the last grid point counts as infinite; what leaves the window at the top
is bounded by Chernoff and added; what leaves it at the bottom comes back at the top, where it
counts as more loss; a bound of the rounding error of the FFT (Higham 2002, section 24.1, with room)
is added to each mass. Both directions of the relation are composed, each with itself: a member is
there in all rounds or in none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_dp.accounting.limits import Kind
from qres_dp.accounting.round_loss import Array, LossShape, RoundLoss, one_round

_Spectrum = NDArray[np.complex128]

_STEPS_PER_DEVIATION: Final = 100  # of one round: raises epsilon by less than 1e-4 of itself
_STEPS_IN_COMMON: Final = 50  # of the mean round of several kinds
_LARGEST_STEP: Final = 2e-4
_SMALLEST_STEP: Final = 1e-8  # the split over the ends of a cell keeps half the digits
_CELLS: Final = 1 << 19  # of one round
_WINDOW: Final = 1 << 20  # of the composition
_LARGEST_LOSS: Final = 300.0  # of one round: far inside the range of doubles
_ULP: Final = 2.0**-52
_OUTSIDE: Final = 45.0  # minus the logarithm of the tilted mass outside the window


@attrs.frozen(eq=False)
class _Sum:
    """Upper bounds of the masses of the composed loss above each of its grid points."""

    losses: Array  # float64, shape (n,), ascending
    masses: Array  # float64, shape (n,)
    rest: float  # mass counted as infinite loss
    relative: float  # bound of the relative error of what is computed from the masses
    shift: float  # bound of the error of the losses

    def _above(self, start: int, epsilon_: float) -> float:
        part = self.masses[start:] * -np.expm1(epsilon_ - self.losses[start:])
        return float(part.sum()) * (1.0 + self.relative) + self.rest

    def delta(self, epsilon_: float) -> float:
        epsilon_ -= self.shift
        if epsilon_ < self.losses[0]:
            return 1.0
        return min(1.0, self._above(int(np.searchsorted(self.losses, epsilon_)), epsilon_))

    def epsilon(self, delta_: float) -> float:
        """Least epsilon in the window; infinity if there is none."""
        low, high = -1, self.losses.size - 1
        if self._above(high, float(self.losses[high])) > delta_:
            return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            if self._above(middle, float(self.losses[middle])) > delta_:
                low = middle
            else:
                high = middle
        found = float(self.losses[high])
        if low >= 0:
            # Between two grid points delta is linear in exp(epsilon).
            bottom = float(self.losses[low])
            above, below = self._above(low, bottom), self._above(high, found)
            share = min(1.0, max(0.0, (above - delta_) / (above - below)))
            guess = bottom + math.log1p(share * math.expm1(found - bottom)) + 1e-9 * self._step()
            if guess < found and self._above(high, guess) <= delta_:
                found = guess
        return max(0.0, found + self.shift)

    def _step(self) -> float:
        return float(self.losses[1] - self.losses[0])


@attrs.frozen(eq=False)
class _Series:
    """Rounds of several kinds, on one grid and in one direction of the relation."""

    parts: tuple[tuple[RoundLoss, int], ...]  # the loss of a round, and how many such rounds
    step: float  # distance between grid points

    @property
    def rounds(self) -> int:
        return sum(times for _, times in self.parts)

    @property
    def lost(self) -> float:
        return sum(times * loss.lost for loss, times in self.parts)

    def cumulant(self, tilt: float) -> float:
        """``K(tilt)`` of all rounds together."""
        return sum(times * loss.cumulant(tilt) for loss, times in self.parts)

    def coarse_cumulants(self, tilts: Array) -> Array:
        """As :meth:`cumulant` at many tilts, roughly: to choose a tilt by, not to bound with."""
        total = np.zeros_like(tilts)
        for loss, times in self.parts:
            total += times * loss.coarse_cumulants(tilts)
        return total

    def edge(self, tilt: float, base: float, sign: float) -> float:
        """Beyond which loss, seen in the direction ``sign``, tilted mass of at most e^-45 lies."""
        probes = np.geomspace(1e-4, 1e5, 180) * sign
        guide = (self.coarse_cumulants(tilt + probes) - base + _OUTSIDE) / np.abs(probes)
        probe = float(probes[int(np.argmin(guide))])
        edge = (self.cumulant(tilt + probe) - base + _OUTSIDE) / abs(probe)
        return sign * (edge + 1e-9 * abs(edge))


def _wound(masses: Array, first: int, n: int) -> Array:
    """The masses wound round a circle of ``n`` places, the first at place ``first``."""
    circle = np.zeros(n)
    place, done = first % n, 0
    while done < masses.size:
        part = min(n - place, masses.size - done)
        circle[place : place + part] += masses[done : done + part]
        place, done = 0, done + part
    return circle


def _power(spectrum: _Spectrum, exponent: int) -> _Spectrum:
    """``spectrum ** exponent`` by squaring: ten times quicker than the power of complex numbers.

    Each factor brings its own rounding and that of its product: at most 4 ulp for each of
    ``exponent`` factors.
    """
    power: _Spectrum | None = None
    with np.errstate(under="ignore"):
        while True:
            if exponent & 1:
                power = spectrum if power is None else power * spectrum
            exponent >>= 1
            if exponent == 0:
                return spectrum if power is None else power
            spectrum = spectrum * spectrum


def _compose(series: _Series, tilt: float) -> _Sum | None:
    """The composition, or ``None`` where it does not fit the largest window."""
    tilted = [loss.tilted(tilt) for loss, _ in series.parts]
    base = sum(
        times * cumulant for (_, times), (_, cumulant) in zip(series.parts, tilted, strict=True)
    )
    step = series.step
    bottom = math.floor(series.edge(tilt, base, -1.0) / step)
    top = math.ceil(series.edge(tilt, base, 1.0) / step)
    n = 1 << max(8, (top - bottom + 1).bit_length())
    if n > _WINDOW:
        return None
    # Rounding: of the transform (all of it could sit in one coefficient), of the powers and their
    # product, of the inverse. A product of factors, each wrong by at most its `off`, is wrong by
    # at most the sum over the factors of `off` times the others, each with its own `off` added.
    transform = 4.0 * _ULP * math.log2(n)
    product: _Spectrum = np.ones(n // 2 + 1, dtype=np.complex128)
    logarithms = offs = np.zeros(n // 2 + 1)
    for (loss, times), (masses, _) in zip(series.parts, tilted, strict=True):
        spectrum = np.fft.rfft(_wound(masses, loss.first, n))
        power = _power(spectrum, times)
        with np.errstate(under="ignore"):
            product = product * power
        size = np.abs(spectrum)
        off = transform * math.sqrt(n * float(np.dot(masses, masses)))
        logarithms = logarithms + times * np.log(size + off)
        offs = offs + times * (off + 8.0 * _ULP * size) / (size + off)
    composed = np.fft.irfft(product, n)
    with np.errstate(under="ignore"):
        error = 2.0 * float(np.dot(np.exp(logarithms), offs)) / n
    error += transform * math.sqrt(float(np.dot(composed, composed)))
    losses = np.arange(bottom, bottom + n, dtype=np.float64) * step
    bound = np.maximum(np.roll(composed, -(bottom % n)), 0.0) + error
    exponent = base - tilt * losses
    rest = series.lost + math.exp(min(0.0, base - tilt * top * step - _OUTSIDE))
    above = bound * np.exp(np.minimum(exponent, 700.0))
    # Each mass of one round is good to 32 ulp, and its loss to 1e-14.
    rounds = series.rounds
    return _Sum(losses, above, rest, 1e-10 + 1e-14 * rounds, 1e-14 * rounds)


def _sums(kinds: Mapping[Kind, int], delta_: float, epsilon_: float | None) -> list[_Sum] | None:
    """Both directions of the relation, tilted for ``epsilon_`` if given, else for ``delta_``."""
    rounds = sum(kinds.values())
    # Reach and step move in leaps, so that the next round finds the grids of the last one.
    reach = math.ceil(4.0 * math.sqrt(2.0 * math.log(max(10.0, rounds * 1e7 / delta_)))) / 4.0
    variance = math.fsum(n * _deviation(*kind) ** 2 for kind, n in kinds.items())
    # The deviation of a round, as the mean square of all rounds: a round of less adds less error.
    finest = _STEPS_PER_DEVIATION if len(kinds) == 1 else _STEPS_IN_COMMON
    step = min(_LARGEST_STEP, math.sqrt(variance / rounds) / finest)
    ends = [LossShape(*kind, reach, step).ends() for kind in kinds]
    if max(greatest for _, greatest in ends) > _LARGEST_LOSS:
        return None
    widest = max(greatest - least for least, greatest in ends)
    step = max(step, _SMALLEST_STEP, widest / _CELLS * 1.2)
    step = 2.0 ** (math.floor(4.0 * math.log2(step)) / 4.0)
    tilts = np.geomspace(1e-4, 1e5, 180)
    found: list[_Sum] = []
    for remove in (True, False):
        finer = step
        while True:
            series = _Series(
                tuple(
                    (one_round(LossShape(*kind, reach, finer), remove=remove), times)
                    for kind, times in kinds.items()
                ),
                finer,
            )
            cumulants = series.coarse_cumulants(tilts)
            if epsilon_ is None:
                goal = (cumulants - math.log(delta_)) / tilts
            else:
                goal = cumulants - tilts * epsilon_
            composed = _compose(series, float(tilts[int(np.argmin(goal))]))
            if composed is not None:
                found.append(composed)
                break
            finer *= 4.0
            if finer > widest:
                return None
    return found


def _deviation(noise: float, rate: float) -> float:
    """Of the loss of one round, roughly."""
    return min(rate * math.sqrt(math.expm1(min(noise**-2.0, 50.0))), 1.0 / noise)


def epsilon(kinds: Mapping[Kind, int], delta_: float) -> float:
    """Epsilon after so many rounds of each kind, rounded up; infinity where no grid holds them.

    Args:
        kinds: noise multiplier and sampling rate in (0, 1], and how many rounds, at least 1.
        delta_: in (0, 1).

    Complexity: for each kind, FFTs of at most 2^20 points; some ten milliseconds for common
    parameters.
    """
    sums = _sums(kinds, delta_, None)
    return math.inf if sums is None else max(item.epsilon(delta_) for item in sums)


def delta(kinds: Mapping[Kind, int], epsilon_: float, least: float) -> float:
    """Delta after so many rounds of each kind, rounded up; 1 where no grid holds them.

    Args:
        kinds: as in :func:`epsilon`.
        epsilon_: at least 0.
        least: the delta below which the answer need not be tight.
    """
    sums = _sums(kinds, least, epsilon_)
    return 1.0 if sums is None else max(item.delta(epsilon_) for item in sums)
