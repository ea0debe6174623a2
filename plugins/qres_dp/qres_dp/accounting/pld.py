"""Privacy-loss distribution of the Poisson-sampled Gaussian mechanism, composed by tilted FFT.

One round. Under the add-or-remove relation the two dominating pairs are ``P = (1-q) N(0, z^2) + q
N(1, z^2)`` against ``Q = N(0, z^2)``, and the pair turned round (Zhu, Dong, Wang 2022). The privacy
loss ``log(P/Q)(x) = log(1 - q + q exp((2x - 1) / (2 z^2)))`` grows with x. It is put on a grid of
step h by connecting the dots (Doroshenko et al. 2022): the mass of a cell is split over the cell's
two ends so that both its P and its Q mass are kept, which can only raise delta, for every epsilon
and after any composition.

T rounds. The masses ``p`` are first tilted, ``p_t(l) = p(l) exp(t l - K(t))`` with the cumulant
``K(t) = log sum p(l) exp(t l)``; t is chosen so that T tilted losses sum to about the epsilon that
is sought. The FFT composes the tilted masses, and ``exp(T K(t) - t l)`` takes the tilt off again.
Without the tilt the rounding of the FFT, about 1e-15 of the whole mass, hides every delta below
1e-12; with it the rounding is 1e-15 of the delta itself.

Upper bounds. Loss above the last grid point counts as infinite; what leaves the window at the top
is bounded by Chernoff and added; what leaves it at the bottom comes back at the top, where it
counts as more loss; a bound of the rounding error of the FFT (Higham 2002, section 24.1, with room)
is added to each mass.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_dp.accounting import gaussian

_Array = NDArray[np.float64]
_Spectrum = NDArray[np.complex128]

_STEPS_PER_DEVIATION: Final = 100  # of one round: raises epsilon by less than 1e-4 of itself
_LARGEST_STEP: Final = 2e-4
_SMALLEST_STEP: Final = 1e-8  # the split over the ends of a cell keeps half the digits
_CELLS: Final = 1 << 19  # of one round
_WINDOW: Final = 1 << 20  # of the composition
_LARGEST_LOSS: Final = 300.0  # of one round: far inside the range of doubles
_ULP: Final = 2.0**-52
_OUTSIDE: Final = 45.0  # minus the logarithm of the tilted mass outside the window
_COARSE: Final = 1024

# Gauss-Legendre on [-1, 1], 5 nodes: on a cell at most 0.05 deviations wide, within 10
# deviations of the middle, good to 1e-15 of its mass.
_NODES: Final = (
    (0.0, 0.5688888888888889),
    (0.5384693101056831, 0.4786286704993665),
    (-0.5384693101056831, 0.4786286704993665),
    (0.9061798459386640, 0.2369268850561891),
    (-0.9061798459386640, 0.2369268850561891),
)


def _cells(edges: _Array) -> _Array:
    """Mass of the standard normal in each cell between the edges, in full relative precision."""
    left, right = edges[:-1], edges[1:]
    width = right - left
    wide = ~(width <= 0.05)  # the first cell may begin at minus infinity
    middle = np.where(wide, 0.0, 0.5 * (left + right))
    half = np.where(wide, 0.0, 0.5 * width)
    density = np.zeros_like(middle)
    for x, weight in _NODES:
        density += weight * np.exp(-0.5 * (middle + x * half) ** 2)
    mass = half * density / math.sqrt(2.0 * math.pi)
    for i in np.flatnonzero(wide):
        low, high = float(left[i]), float(right[i])
        flip = low > 0.0
        mass[i] = gaussian.tail(low) - gaussian.tail(high)
        if not flip:
            mass[i] = gaussian.tail(-high) - gaussian.tail(-low)
    return mass


@attrs.frozen(eq=False)
class _RoundLoss:
    """Masses of one round's loss on a grid."""

    first: int  # index of the first mass; its loss is ``first * step``
    step: float  # distance between grid points
    masses: _Array  # float64, shape (n,)
    lost: float  # mass counted as infinite loss

    def losses(self) -> _Array:
        return np.arange(self.first, self.first + self.masses.size, dtype=np.float64) * self.step

    def cumulant(self, tilt: float) -> float:
        """``K(tilt)``."""
        exponent = tilt * self.losses()
        top = float(exponent.max())
        return top + math.log(float(np.dot(self.masses, np.exp(exponent - top))))

    def coarse_cumulants(self, tilts: _Array) -> _Array:
        """``K`` at many tilts, roughly: to choose a tilt by, not to bound with."""
        # Groups of cells, each about 2 % of its distance to loss 0 wide.
        steps = np.geomspace(1.0, self.masses.size, _COARSE // 2)
        places = -self.first + np.concatenate([-steps, steps]).round().astype(np.int64)
        starts = np.unique(np.clip(places, 0, self.masses.size - 1))
        starts[0] = 0
        mass = np.maximum(np.add.reduceat(self.masses, starts), 1e-320)
        loss = np.add.reduceat(self.masses * self.losses(), starts) / mass
        exponent = np.outer(tilts, loss) + np.log(mass)
        top = exponent.max(axis=1)
        return np.asarray(top + np.log(np.exp(exponent - top[:, None]).sum(axis=1)))


@attrs.frozen
class _LossShape:
    """What one round is, and how finely it is drawn."""

    noise: float
    rate: float
    reach: float  # how far the grid goes into the tails, in deviations
    step: float

    def loss(self, x: float) -> float:
        """The loss at ``x``, in units of the sensitivity."""
        exponent = (2.0 * x - 1.0) / (2.0 * self.noise * self.noise)
        if exponent > 30.0:
            return exponent + math.log(self.rate + (1.0 - self.rate) * math.exp(-exponent))
        return math.log1p(self.rate * math.expm1(exponent))

    def ends(self) -> tuple[float, float]:
        """The least and the greatest loss on the grid."""
        far = self.reach * self.noise
        return self.loss(-far), self.loss(far + 1.0)


@functools.lru_cache(maxsize=4)
def _one_round(shape: _LossShape, *, remove: bool) -> _RoundLoss:
    """The masses of one round; ``remove``: P is the mixture, else Q is.

    Complexity: linear in the number of cells.
    """
    z, q, h = shape.noise, shape.rate, shape.step
    least, greatest = shape.ends()
    low, high = math.floor(least / h), math.ceil(greatest / h)
    loss = np.arange(low, high + 1) * h
    argument = np.expm1(loss) / q
    with np.errstate(divide="ignore"):
        x = np.where(argument > -1.0, z * z * np.log1p(np.maximum(argument, -1.0)) + 0.5, -np.inf)
    base, shifted = _cells(x / z), _cells((x - 1.0) / z)
    mixture = (1.0 - q) * base + q * shifted
    first, last = float(x[0]), float(x[-1])
    if remove:
        p, other, ends = mixture, base, loss
        below = (1.0 - q) * gaussian.tail(-first / z) + q * gaussian.tail((1.0 - first) / z)
        lost = (1.0 - q) * gaussian.tail(last / z) + q * gaussian.tail((last - 1.0) / z)
    else:
        p, other, ends = base[::-1], mixture[::-1], -loss[::-1]
        below, lost = gaussian.tail(last / z), gaussian.tail(-first / z)
    lower, upper = ends[:-1], ends[1:]
    to_upper = np.clip((p - other * np.exp(lower)) / -np.expm1(lower - upper), 0.0, p)
    masses = np.zeros(ends.size)
    masses[1:] += to_upper
    masses[:-1] += p - to_upper
    masses[0] += below  # with more loss than it has
    return _RoundLoss(low if remove else -high, h, masses, lost)


@attrs.frozen(eq=False)
class _Sum:
    """Upper bounds of the masses of the composed loss above each of its grid points."""

    losses: _Array  # float64, shape (n,), ascending
    masses: _Array  # float64, shape (n,)
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


def _edge(round_loss: _RoundLoss, rounds: int, tilt: float, base: float, sign: float) -> float:
    """Beyond which loss, seen in the direction ``sign``, tilted mass of at most e^-45 lies."""
    probes = np.geomspace(1e-4, 1e5, 180) * sign
    guide = (rounds * (round_loss.coarse_cumulants(tilt + probes) - base) + _OUTSIDE) / np.abs(
        probes
    )
    probe = float(probes[int(np.argmin(guide))])
    edge = (rounds * (round_loss.cumulant(tilt + probe) - base) + _OUTSIDE) / abs(probe)
    return sign * (edge + 1e-9 * abs(edge))


def _wound(masses: _Array, first: int, n: int) -> _Array:
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


def _compose(round_loss: _RoundLoss, rounds: int, tilt: float) -> _Sum | None:
    """The composition, or ``None`` where it does not fit the largest window."""
    step, base = round_loss.step, round_loss.cumulant(tilt)
    bottom = math.floor(_edge(round_loss, rounds, tilt, base, -1.0) / step)
    top = math.ceil(_edge(round_loss, rounds, tilt, base, 1.0) / step)
    n = 1 << max(8, (top - bottom + 1).bit_length())
    if n > _WINDOW:
        return None
    tilted = round_loss.masses * np.exp(tilt * round_loss.losses() - base)
    spectrum = np.fft.rfft(_wound(tilted, round_loss.first, n))
    composed = np.fft.irfft(_power(spectrum, rounds), n)
    # Rounding: of the transform (all of it could sit in one coefficient), of the power, of the
    # inverse.
    transform = 4.0 * _ULP * math.log2(n)
    size = np.abs(spectrum)
    of_one = transform * math.sqrt(n * float(np.dot(tilted, tilted)))
    with np.errstate(under="ignore"):
        powers = np.exp((rounds - 1) * np.log(size + of_one))
    error = 2.0 * rounds * float(np.dot(powers, of_one + 8.0 * _ULP * size)) / n
    error += transform * math.sqrt(float(np.dot(composed, composed)))
    losses = np.arange(bottom, bottom + n, dtype=np.float64) * step
    bound = np.maximum(np.roll(composed, -(bottom % n)), 0.0) + error
    exponent = rounds * base - tilt * losses
    rest = rounds * round_loss.lost + math.exp(
        min(0.0, rounds * base - tilt * top * step - _OUTSIDE)
    )
    masses = bound * np.exp(np.minimum(exponent, 700.0))
    # Each mass of one round is good to 32 ulp, and its loss to 1e-14.
    return _Sum(losses, masses, rest, 1e-10 + 1e-14 * rounds, 1e-14 * rounds)


def _sums(
    noise: float, rounds: int, rate: float, delta_: float, epsilon_: float | None
) -> list[_Sum] | None:
    """Both directions of the relation, tilted for ``epsilon_`` if given, else for ``delta_``."""
    reach = math.sqrt(2.0 * math.log(max(10.0, rounds * 1e7 / delta_)))
    deviation = min(rate * math.sqrt(math.expm1(min(noise**-2.0, 50.0))), 1.0 / noise)
    step = min(_LARGEST_STEP, deviation / _STEPS_PER_DEVIATION)
    least, greatest = _LossShape(noise, rate, reach, step).ends()
    if greatest > _LARGEST_LOSS:
        return None
    step = max(step, _SMALLEST_STEP, (greatest - least) / _CELLS)
    tilts = np.geomspace(1e-4, 1e5, 180)
    found: list[_Sum] = []
    for remove in (True, False):
        finer = step
        while True:
            one_round = _one_round(_LossShape(noise, rate, reach, finer), remove=remove)
            cumulants = rounds * one_round.coarse_cumulants(tilts)
            if epsilon_ is None:
                goal = (cumulants - math.log(delta_)) / tilts
            else:
                goal = cumulants - tilts * epsilon_
            composed = _compose(one_round, rounds, float(tilts[int(np.argmin(goal))]))
            if composed is not None:
                found.append(composed)
                break
            finer *= 4.0
            if finer > greatest - least:
                return None
    return found


def epsilon(noise: float, rounds: int, delta_: float, rate: float) -> float:
    """Epsilon after ``rounds`` rounds, rounded up; infinity where the grid cannot hold it.

    Args:
        noise: standard deviation over sensitivity, of one round.
        rounds: how many.
        delta_: in (0, 1).
        rate: probability of each member to take part, in (0, 1).

    Complexity: FFTs of at most 2^20 points; some ten milliseconds for common parameters.
    """
    sums = _sums(noise, rounds, rate, delta_, None)
    return math.inf if sums is None else max(item.epsilon(delta_) for item in sums)


def delta(noise: float, rounds: int, epsilon_: float, rate: float, least: float) -> float:
    """Delta after ``rounds`` rounds, rounded up; 1 where the grid cannot hold it.

    Args:
        noise: as in :func:`epsilon`.
        rounds: as in :func:`epsilon`.
        epsilon_: at least 0.
        rate: as in :func:`epsilon`.
        least: the delta below which the answer need not be tight.
    """
    sums = _sums(noise, rounds, rate, least, epsilon_)
    return 1.0 if sums is None else max(item.delta(epsilon_) for item in sums)
