"""The privacy loss of one round of the Poisson-sampled Gaussian mechanism, on a grid.

Under the add-or-remove relation the two dominating pairs are ``P = (1-q) N(0, z^2) + q N(1, z^2)``
against ``Q = N(0, z^2)``, and the pair turned round (Zhu, Dong, Wang 2022). The privacy loss
``log(P/Q)(x) = log(1 - q + q exp((2x - 1) / (2 z^2)))`` grows with x. It is put on a grid of step h
by connecting the dots (Doroshenko et al. 2022): the mass of a cell is split over the cell's two
ends so that both its P and its Q mass are kept, which can only raise delta, for every epsilon and
after any composition. Loss above the last grid point counts as infinite.
"""

from __future__ import annotations

import functools
import math
from typing import Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_dp.accounting import gaussian

Array: TypeAlias = NDArray[np.float64]

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


def _cells(edges: Array) -> Array:
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
class RoundLoss:
    """Masses of one round's loss on a grid."""

    first: int  # index of the first mass; its loss is ``first * step``
    step: float  # distance between grid points
    masses: Array  # float64, shape (n,)
    lost: float  # mass counted as infinite loss

    def losses(self) -> Array:
        """The grid points, float64, shape ``(n,)``."""
        return np.arange(self.first, self.first + self.masses.size, dtype=np.float64) * self.step

    def tilted(self, tilt: float) -> tuple[Array, float]:
        """The masses times ``exp(tilt l - K)``, which sum to 1, and ``K``: the cumulant."""
        exponent = tilt * self.losses()
        top = float(exponent.max())
        weighted = self.masses * np.exp(exponent - top)
        total = float(weighted.sum())
        return weighted / total, top + math.log(total)

    def cumulant(self, tilt: float) -> float:
        """``K(tilt)``."""
        return self.tilted(tilt)[1]

    def coarse_cumulants(self, tilts: Array) -> Array:
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
class LossShape:
    """What one round is, and how finely it is drawn."""

    noise: float
    rate: float  # 1 for a round without sampling
    reach: float  # how far the grid goes into the tails, in deviations
    step: float

    def loss(self, x: float) -> float:
        """The loss at ``x``, in units of the sensitivity."""
        exponent = (2.0 * x - 1.0) / (2.0 * self.noise * self.noise)
        if self.rate == 1.0:
            return exponent
        if exponent > 30.0:
            return exponent + math.log(self.rate + (1.0 - self.rate) * math.exp(-exponent))
        return math.log1p(self.rate * math.expm1(exponent))

    def ends(self) -> tuple[float, float]:
        """The least and the greatest loss on the grid."""
        far = self.reach * self.noise
        return self.loss(-far), self.loss(far + 1.0)


@functools.lru_cache(maxsize=72)
def one_round(shape: LossShape, *, remove: bool) -> RoundLoss:
    """The masses of one round; ``remove``: P is the mixture, else Q is.

    Complexity: linear in the number of cells.
    """
    z, q, h = shape.noise, shape.rate, shape.step
    least, greatest = shape.ends()
    low, high = math.floor(least / h), math.ceil(greatest / h)
    loss = np.arange(low, high + 1) * h
    if q == 1.0:
        exponent = loss
    else:
        with np.errstate(divide="ignore"):
            exponent = np.log1p(np.maximum(np.expm1(loss) / q, -1.0))
    x: Array = np.asarray(z * z * exponent + 0.5, dtype=np.float64)
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
    return RoundLoss(low if remove else -high, h, masses, lost)
