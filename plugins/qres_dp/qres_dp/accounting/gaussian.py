"""The Gaussian mechanism: the exact privacy curve and its inverses.

A release of sensitivity 1 with Gaussian noise of standard deviation ``1 / mu`` is mu-GDP; T of them
compose to one with ``mu * sqrt(T)``, exactly (Dong, Roth, Su 2022, Corollary 3.3). Its curve is
that of Balle and Wang 2018, Theorem 8::

    delta(eps) = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu)

The two terms agree in nearly all digits where delta is small. Here they never meet: with
``a = eps/mu - mu/2``, ``b = a + mu``, the normal density ``phi`` and Mills' ratio
``M(t) = Phi(-t) / phi(t)``, ``exp(eps) phi(b) = phi(a)`` and so

    delta(eps) = phi(a) (M(a) - M(b)) = phi(a) * integral from a to b of (1 - t M(t)) dt

with a positive integrand. Every value returned is rounded up by a bound of its own rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

_ROOT_2: Final = math.sqrt(2.0)
_ROOT_2PI: Final = math.sqrt(2.0 * math.pi)
_FRACTION_FROM: Final = 3.0  # from here Laplace's continued fraction is used
_NARROW: Final = 0.1  # below this mu the integral is used, above it the difference
_ULP: Final = 2.0**-52
_CLOSE: Final = 1e-11  # a root is sought to this relative distance, always on its safe side
_TINIEST: Final = 1e-305  # what an underflow to zero may have hidden
_LEAST: Final = 1e-301  # below this, no Newton step: halve

# Gauss-Legendre on [-1, 1], 4 nodes: on an interval of 0.1 the integral is good to 1e-16.
_NODES: Final = (
    (0.3399810435848563, 0.6521451548625461),
    (0.8611363115940526, 0.3478548451374538),
)


def tail(x: float) -> float:
    """``Phi(-x)``: the mass of the normal distribution above ``x``, in full relative precision."""
    return 0.5 * math.erfc(x / _ROOT_2)


def _fraction(t: float) -> float:
    """``K = 1/(t + 2/(t + 3/(t + ...)))``, with which ``M(t) = 1 / (t + K)``."""
    # Its error falls as exp(-2 t sqrt(2 n)) with n terms: 1e-17 here.
    value = t
    for k in range(12 + int(400.0 / (t * t)), 1, -1):
        value = t + k / value
    return 1.0 / value


def _mills(t: float) -> float:
    """``Phi(-t) / phi(t)`` for ``t > -38``."""
    if t >= _FRACTION_FROM:
        return 1.0 / (t + _fraction(t))
    return tail(t) * _ROOT_2PI * math.exp(0.5 * t * t)


def _slope(t: float) -> float:
    """``1 - t M(t)``, positive, without cancellation for large ``t``."""
    if t >= _FRACTION_FROM:
        k = _fraction(t)
        return k / (t + k)
    return 1.0 - t * _mills(t)


def _curve(mu: float, epsilon: float) -> tuple[float, float]:
    """``delta`` rounded up, and ``exp(eps) Phi(-b)``, minus the derivative by ``eps``."""
    a = epsilon / mu - 0.5 * mu
    b = epsilon / mu + 0.5 * mu
    density = math.exp(-0.5 * a * a) / _ROOT_2PI
    second = density * _mills(b)
    if mu <= _NARROW:
        middle, half = 0.5 * (a + b), 0.5 * mu
        total = sum(w * (_slope(middle - half * x) + _slope(middle + half * x)) for x, w in _NODES)
        value = density * half * total
    elif a >= 0.0:
        value = density * (_mills(a) - _mills(b))
    else:
        value = tail(a) - second
    # `a` is a difference: its error is that of its terms, and `density` carries it a-fold. The
    # other steps are good to a few thousand ulp (two Mills' ratios differ by 1 part in t / mu).
    relative = _ULP * (8192.0 + 4.0 * (abs(b) + mu) * (abs(a) + 1.0))
    return value * (1.0 + relative) + _TINIEST, second


def delta(mu: float, epsilon: float) -> float:
    """Least delta for which mu-GDP is (epsilon, delta)-DP, rounded up.

    Args:
        mu: sensitivity over standard deviation, above 0.
        epsilon: at least 0.

    Returns:
        a number in (0, 1], at most 1e-11 above the true value (relatively) while ``epsilon < 1e3``.

    Complexity: constant. Source: Balle and Wang 2018, Theorem 8.
    """
    return min(1.0, _curve(mu, epsilon)[0])


def epsilon(mu: float, delta_: float) -> float:
    """Least epsilon for which mu-GDP is (epsilon, delta)-DP, rounded up.

    The curve at the returned epsilon is at most ``delta_``: this is checked, not derived.

    Args:
        mu: sensitivity over standard deviation, above 0.
        delta_: in (0, 1), at least 1e-300.

    Complexity: a few evaluations of :func:`delta`.
    """
    if delta(mu, 0.0) <= delta_:
        return 0.0
    # The loss is normal with mean mu^2/2 and deviation mu: its tail alone gives an upper end.
    high = 0.5 * mu * mu + mu * math.sqrt(2.0 * math.log(1.0 / delta_)) + mu
    return _root(lambda e: _curve(mu, e), delta_, high)


def _root(curve: Callable[[float], tuple[float, float]], delta_: float, high: float) -> float:
    """Newton on ``log delta`` in a bracket from 0; ``curve(high) <= delta_`` holds throughout."""
    target = math.log(delta_)
    low, point = 0.0, high
    for _ in range(200):
        value, fall = curve(point)
        error = math.log(value) - target
        step = error * value / fall if value > _LEAST and fall > 0.0 else -math.inf
        enough = value <= delta_  # and not the logarithms, which round
        if enough:
            high = point
        else:
            low = point
        if high - low <= _CLOSE * high or (enough and -step <= _CLOSE * high):
            break
        guess = point + step + 0.5 * _CLOSE * point  # a hair to the safe side, to end there
        point = guess if low < guess < high else 0.5 * (low + high)
    return high


def mu(epsilon_: float, delta_: float) -> float:
    """Greatest mu for which mu-GDP is (epsilon, delta)-DP, rounded down.

    The curve at the returned mu is at most ``delta_``: this is checked, not derived. 0.0 where no
    positive mu in double precision will do.

    Args:
        epsilon_: at least 0.
        delta_: in (0, 1), at least 1e-300.

    Complexity: a few evaluations of :func:`delta`.
    """
    target = math.log(delta_)
    high = 1.0
    while _curve(high, epsilon_)[0] <= delta_:
        high *= 2.0
        if high > 1e12:
            return high / 2.0
    low, point = 0.0, high
    for _ in range(1200):
        value, _ = _curve(point, epsilon_)
        error = math.log(value) - target
        a = epsilon_ / point - 0.5 * point
        rise = math.exp(-0.5 * a * a) / _ROOT_2PI  # d delta / d mu = phi(a)
        step = -error * value / rise if value > _LEAST and rise > 0.0 else math.inf
        enough = value <= delta_
        if enough:
            low = point
        else:
            high = point
        if high - low <= _CLOSE * high or (enough and step <= _CLOSE * low):
            break
        if high < 1e-290:
            return 0.0
        guess = point + step - 0.5 * _CLOSE * point
        point = guess if low < guess < high else 0.5 * (low + high)
    return low
