"""Print what compositions truly cost, for sixty settings: ``composition.json``.

Runs in an environment of its own, with ``dp-accounting``, ``mpmath`` and scipy, and imports nothing
of this project: ``make dp-oracle`` calls it. A setting has kinds ``[noise, rate, rounds]`` and a
delta. Where all but three of its sampled rounds are merged in closed form, epsilon is found from
the definition of delta

    delta(eps) = E over the outer rounds' outcomes of delta_inner(eps - their loss)

in 60 digits (30 where the inner round is sampled) with one outer round, and in doubles with two or
three, which must agree at two widths of the grid. Longer settings are bracketed by Google's
optimistic and pessimistic privacy-loss distributions; ``lower`` is then the optimistic one.
``google`` is what an accountant of theirs says, for all settings.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeAlias

import mpmath as mp
import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy.special import ndtr

Kind: TypeAlias = tuple[float, float, int]

mp.mp.dps = 60

GAUSSIAN: tuple[tuple[tuple[Kind, ...], float], ...] = (
    (((1.0, 1.0, 1),), 1e-5),
    (((0.3, 1.0, 1),), 1e-5),
    (((10.0, 1.0, 100),), 1e-5),
    (((8.37464, 1.0, 60),), 1e-5),
    (((50.0, 1.0, 1000),), 1e-9),
    (((500.0, 1.0, 10),), 1e-5),
    (((2.0, 1.0, 1),), 0.3),
    (((5.0, 1.0, 7),), 1e-30),
    (((1.0, 1.0, 10000),), 1e-6),
    (((100.0, 1.0, 1000000),), 1e-12),
    (((2.0, 1.0, 3), (5.0, 1.0, 40)), 1e-5),
    (((20.0, 1.0, 1), (0.5, 1.0, 1), (9.0, 1.0, 300)), 1e-6),
    (((4.0, 1.0, 60), (40.0, 1.0, 60)), 1e-7),
    (((1000.0, 1.0, 1), (1.5, 1.0, 2)), 1e-5),
)
ONCE: tuple[tuple[tuple[Kind, ...], float], ...] = (
    (((1.0, 0.01, 1),), 1e-5),
    (((0.6, 0.2, 1),), 1e-3),
    (((3.0, 0.5, 1),), 1e-6),
    (((1.0, 0.9, 1),), 1e-5),
    (((0.5, 0.001, 1),), 1e-6),
    (((2.0, 0.05, 1),), 1e-9),
    (((1.0, 0.01, 1), (1.0, 1.0, 1)), 1e-5),
    (((2.0, 0.3, 1), (3.0, 1.0, 5)), 1e-5),
    (((0.8, 0.1, 1), (10.0, 1.0, 60)), 1e-6),
    (((1.0, 0.5, 1), (20.0, 1.0, 3)), 1e-8),
    (((4.0, 0.02, 1), (6.0, 1.0, 2), (9.0, 1.0, 4)), 1e-5),
    (((1.0, 0.1, 1), (2.0, 0.3, 1)), 1e-5),
    (((0.7, 0.02, 2),), 1e-5),
    (((1.5, 0.6, 1), (3.0, 0.05, 1)), 1e-7),
)
FEW: tuple[tuple[tuple[Kind, ...], float], ...] = (
    (((1.0, 0.1, 1), (2.0, 0.3, 1), (4.0, 1.0, 8)), 1e-5),
    (((1.0, 0.02, 2), (3.0, 1.0, 10)), 1e-6),
    (((0.8, 0.2, 2), (2.0, 0.6, 1)), 1e-5),
    (((2.0, 0.1, 1), (3.0, 0.2, 1), (4.0, 0.4, 1)), 1e-5),
    (((1.2, 0.5, 3), (6.0, 1.0, 5)), 1e-4),
    (((3.0, 0.01, 2), (1.0, 0.3, 1), (8.0, 1.0, 30)), 1e-6),
    (((1.0, 0.7, 2), (2.0, 0.1, 2)), 1e-5),
    (((5.0, 0.5, 1), (2.5, 0.25, 2), (5.0, 1.0, 1)), 1e-5),
)
# With the step of Google's grids, for the pessimistic side.
MANY: tuple[tuple[tuple[Kind, ...], float, float], ...] = (
    (((1.0, 0.01, 1000),), 1e-5, 1e-4),
    (((0.7, 0.05, 300),), 1e-5, 1e-4),
    (((2.0, 0.1, 5000),), 1e-5, 1e-4),
    (((1.2, 0.001, 100000),), 1e-5, 1e-5),
    (((4.0, 0.2, 1000),), 1e-8, 1e-5),
    (((0.8, 0.02, 100),), 1e-7, 1e-4),
    (((3.0, 0.9, 50),), 1e-5, 1e-4),
    (((5.0, 0.01, 10000),), 1e-9, 1e-5),
    (((1.0, 0.01, 500), (0.8, 0.02, 100)), 1e-5, 1e-4),
    (((1.0, 0.01, 500), (0.8, 0.02, 100), (3.0, 0.5, 20)), 1e-5, 1e-4),
    (((1.0, 0.01, 1000), (2.0, 1.0, 3)), 1e-5, 1e-4),
    (((1.0, 0.0001, 10000), (5.0, 0.3, 50), (50.0, 1.0, 10)), 1e-5, 1e-4),
    (((4.0, 0.1, 60), (8.0, 0.5, 60)), 1e-5, 1e-4),
    (((2.0, 0.05, 200), (2.0, 0.1, 200), (2.0, 0.2, 200)), 1e-6, 1e-4),
    (((1.0, 0.02, 300), (1.1, 0.02, 300), (1.2, 0.02, 300), (1.3, 0.02, 300)), 1e-5, 1e-4),
    (((6.0, 0.9, 40), (1.0, 0.001, 5000)), 1e-5, 1e-4),
    (((3.0, 0.2, 100), (30.0, 1.0, 100), (0.9, 0.005, 400)), 1e-8, 1e-4),
    (((10.0, 0.5, 1000), (5.0, 0.25, 100), (2.5, 0.1, 50)), 1e-6, 1e-4),
    (((1.5, 0.05, 1), (1.5, 0.5, 30), (12.0, 1.0, 60)), 1e-5, 1e-4),
    (((0.6, 0.001, 1000), (0.9, 0.01, 50)), 1e-5, 1e-4),
    (((5.0, 0.3, 25), (7.0, 0.4, 25), (9.0, 0.6, 25), (4.0, 0.05, 500)), 1e-5, 1e-4),
    (((2.0, 0.01, 20000), (4.0, 0.8, 10)), 1e-6, 1e-4),
    (tuple((2.0 + 0.1 * i, 0.05 + 0.01 * i, 10) for i in range(12)), 1e-5, 1e-4),
    (tuple((2.0 + 0.01 * i, 0.1 + 0.005 * i, 1) for i in range(60)), 1e-5, 5e-4),
)
FINER = 10.0  # the optimistic side rounds every loss down: it needs a finer step to come near


class _Digits:
    """Functions in 60 digits."""

    log, exp, log1p, expm1 = mp.log, mp.exp, mp.log1p, mp.expm1
    number = staticmethod(mp.mpf)

    @staticmethod
    def tail(x: Any) -> Any:
        return mp.erfc(x / mp.sqrt(2)) / 2


class _Doubles:
    """The same on arrays."""

    log, exp, log1p, expm1 = np.log, np.exp, np.log1p, np.expm1
    number = float

    @staticmethod
    def tail(x: Any) -> Any:
        return ndtr(-x)


def loss(on: Any, x: Any, noise: Any, rate: Any) -> Any:
    return on.log1p(rate * on.expm1((2 * x - 1) / (2 * noise * noise)))


def inner_plain(on: Any, mu: Any) -> Callable[[Any], Any]:
    """Delta at any real epsilon of rounds without sampling; the same in both directions."""
    return lambda e: on.tail(e / mu - mu / 2) - on.exp(e) * on.tail(e / mu + mu / 2)


def inner_sampled(on: Any, noise: Any, rate: Any, remove: bool) -> Callable[[Any], Any]:  # noqa: FBT001 - a script
    """Delta at any real epsilon of one sampled round."""

    def place(e: Any) -> Any:
        """Where the loss is e, above its infimum."""
        return noise * noise * on.log1p(on.expm1(e) / rate) + on.number(0.5)

    def removed(e: Any) -> Any:
        x = place(e)
        base, shifted = on.tail(x / noise), on.tail((x - 1) / noise)
        return (1 - rate - on.exp(e)) * base + rate * shifted

    def added(e: Any) -> Any:
        x = place(-e)
        base, shifted = on.tail(-x / noise), on.tail((1 - x) / noise)
        return base - on.exp(e) * ((1 - rate) * base + rate * shifted)

    def either(e: Any) -> Any:
        floor = on.log1p(-rate)
        if on is _Digits:
            if remove:
                return removed(e) if e > floor else 1 - on.exp(e)
            return added(e) if -e > floor else on.number(0)
        with np.errstate(all="ignore"):
            if remove:
                return np.where(e > floor, removed(np.maximum(e, floor + 1e-15)), 1 - np.exp(e))
            return np.where(-e > floor, added(np.minimum(e, -floor - 1e-15)), 0.0)

    return either


def split(kinds: tuple[Kind, ...]) -> tuple[list[tuple[float, float]], Any]:
    """Sampled rounds one by one, and mu squared of the others."""
    rounds = [(noise, rate) for noise, rate, n in kinds if rate < 1.0 for _ in range(n)]
    squared = sum(n / mp.mpf(noise) ** 2 for noise, rate, n in kinds if rate == 1.0)
    return rounds, squared


def numbers_of(kinds: tuple[Kind, ...]) -> list[tuple[float, float]]:
    """Sampled rounds, first the one of the greatest rate: its delta is the smoothest."""
    return sorted(split(kinds)[0], key=lambda item: -item[1])


def inner_and_outer(
    on: Any,
    kinds: tuple[Kind, ...],
    remove: bool,  # noqa: FBT001 - a script
) -> tuple[Callable[[Any], Any], list[tuple[Any, Any]]]:
    squared = split(kinds)[1]
    numbers = [(on.number(noise), on.number(rate)) for noise, rate in numbers_of(kinds)]
    if squared:
        return inner_plain(on, on.number(mp.sqrt(squared))), numbers
    return inner_sampled(on, *numbers[0], remove), numbers[1:]


def trapezium(
    noise: Any, rate: Any, inner: Callable[[Any], Any], sign: int
) -> Callable[[Any], Any]:
    """One outer round around rounds without sampling: all is analytic, and the rule exact."""
    step, reach = mp.mpf(1) / 16, 20 * 16
    points = []
    for k in range(-reach, reach + 17 + int(16 / noise)):
        x = noise * k * step
        base = mp.npdf(k * step) * step
        moved = mp.npdf(k * step - 1 / noise) * step
        weight = (1 - rate) * base + rate * moved if sign > 0 else base
        points.append((weight, sign * loss(_Digits, x, noise, rate)))
    return lambda e: mp.fsum(w * inner(e - found) for w, found in points)


def pieces(
    noise: Any, rate: Any, inner: Callable[[Any], Any], sign: int, inner_rate: Any
) -> Callable[[Any], Any]:
    """One outer round around another sampled one, whose delta bends at its least loss.

    Tanh-sinh on both sides of that point, where it takes any singularity.
    """

    def delta(e: Any) -> Any:
        def value(x: Any) -> Any:
            base, moved = mp.npdf(x, 0, noise), mp.npdf(x, 1, noise)
            weight = (1 - rate) * base + rate * moved if sign > 0 else base
            return weight * inner(e - sign * loss(_Digits, x, noise, rate))

        # Where e - sign L(x) = sign log(1 - inner_rate).
        goal = sign * e - mp.log1p(-inner_rate)
        ratio = 1 + mp.expm1(goal) / rate
        ends = [-14 * noise, 14 * noise + 1]
        places = [ends[0], -4 * noise, 0, 1, 4 * noise + 1, ends[1]]
        if ratio > 0:
            kink = noise * noise * mp.log(ratio) + mp.mpf(0.5)
            near = [kink + noise * move for move in (-1, -0.3, -0.1, 0, 0.1, 0.3, 1)]
            places += [x for x in near if ends[0] < x < ends[1]]
        with mp.workdps(30):
            return mp.quad(value, sorted(set(places)))

    return delta


def deltas(
    kinds: tuple[Kind, ...],
    remove: bool,  # noqa: FBT001 - a script
    step: float = 0.05,
) -> Callable[[Any], Any]:
    """Delta as a function of epsilon: in many digits with at most one outer round."""
    exact = len(split(kinds)[0]) <= (2 if not split(kinds)[1] else 1)
    on: Any = _Digits if exact else _Doubles
    inner, outer = inner_and_outer(on, kinds, remove)
    if not outer:
        return inner
    sign = 1 if remove else -1
    if exact and split(kinds)[1]:
        return trapezium(*outer[0], inner, sign)
    if exact:
        return pieces(*outer[0], inner, sign, numbers_of(kinds)[0][1])
    weights, losses = np.ones(1), np.zeros(1)
    for noise, rate in outer:
        u = np.arange(-11.0, 11.0 + 1.0 / noise, step)
        base = np.exp(-u * u / 2) / math.sqrt(2 * math.pi) * step
        moved = np.exp(-((u - 1 / noise) ** 2) / 2) / math.sqrt(2 * math.pi) * step
        mine = (1 - rate) * base + rate * moved if remove else base
        weights = np.outer(weights, mine).ravel()
        losses = np.add.outer(losses, sign * loss(on, u * noise, noise, rate)).ravel()
        kept = weights > 1e-22  # of a mass of 1e-9 at the very least
        weights, losses = weights[kept], losses[kept]
    return lambda e: float(np.dot(weights, inner(e - losses)))


def root(curve: Callable[[Any], Any], delta: float, digits: int) -> Any:
    """Where a falling curve meets delta; 0 if it is below from the start."""
    if curve(mp.mpf(0) if digits > 17 else 0.0) <= delta:
        return 0.0
    number = mp.mpf if digits > 17 else float
    low, high = number(0), number(1)
    while curve(high) > delta:
        low, high = high, high * 2
    target = mp.log(delta) if digits > 17 else math.log(delta)
    log = mp.log if digits > 17 else math.log
    ends = [log(curve(low)) - target, log(max(curve(high), number(1e-300))) - target]
    for turn in range(200):
        if high - low <= high * number(10) ** -digits:
            break
        share = ends[0] / (ends[0] - ends[1])
        share = min(max(share, number("1e-4")), 1 - number("1e-4")) if turn % 3 else number(0.5)
        middle = low + (high - low) * share
        value = log(max(curve(middle), number(1e-300))) - target
        if value > 0:
            low, ends[0] = middle, value
        else:
            high, ends[1] = middle, value
    return high


def truth(kinds: tuple[Kind, ...], delta: float) -> float:
    rounds, squared = split(kinds)
    outer = len(rounds) - (0 if squared else 1)
    if outer <= 1:
        return float(max(root(deltas(kinds, way), delta, 18) for way in (True, False)))
    step = 0.05 if outer == 2 else 0.15
    fine, coarse = (
        max(root(deltas(kinds, way, width), delta, 13) for way in (True, False))
        for width in (step, step * 1.5)
    )
    assert abs(fine - coarse) <= 1e-8 * fine, (kinds, fine, coarse)
    return float(fine)


def google(kinds: tuple[Kind, ...], delta: float, step: float, *, up: bool) -> float:
    total = None
    for noise, rate, n in kinds:
        made = privacy_loss_distribution.from_gaussian_mechanism(
            noise,
            sampling_prob=rate,
            value_discretization_interval=step,
            pessimistic_estimate=up,
            use_connect_dots=up,  # the optimistic side has only the older method
        ).self_compose(n)
        total = made if total is None else total.compose(made)
    assert total is not None
    return float(total.get_epsilon_for_delta(delta))


def main() -> None:
    rows: list[dict[str, Any]] = []
    exact = itertools.chain(
        (("60 digits", *item) for item in (*GAUSSIAN, *ONCE)),
        (("brute force", *item) for item in FEW),
    )
    for how, kinds, delta in exact:
        found = truth(kinds, delta)
        tiny = delta < 1e-12 or found > 1e3  # their grids hold neither
        upper = None if tiny else google(kinds, delta, max(1e-5, found * 1e-5), up=True)
        rows.append({"how": how, "kinds": kinds, "delta": delta, "lower": found, "google": upper})
        sys.stderr.write(f"{rows[-1]}\n")
    for kinds, delta, step in MANY:
        lower = google(kinds, delta, step / FINER, up=False)
        upper = google(kinds, delta, step, up=True)
        rows.append(
            {"how": "bracket", "kinds": kinds, "delta": delta, "lower": lower, "google": upper}
        )
        sys.stderr.write(f"{rows[-1]}\n")
    source = f"dp-accounting {version('dp-accounting')}, mpmath {version('mpmath')}"
    json.dump({"source": source, "settings": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
