"""What rounds of several kinds add up to, as an upper bound.

Rounds without sampling are Gaussian mechanisms whatever their noise, and compose exactly to one
with ``1/z**2 = sum 1/z_i**2`` (:mod:`.gaussian`). Where rounds are sampled, the least of three
bounds holds: the joint privacy-loss distribution of all kinds (:mod:`.pld`), Renyi DP
(:mod:`.rdp`), and the account without sampling, which no sampling makes worse.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from qres_dp.accounting import gaussian, pld, rdp
from qres_dp.accounting.limits import LEAST_DELTA, NOISE, Kind, check_noise, check_rate

_UP: Final = 1.0 + 1e-12
_CONVOLVED: Final = 32  # kinds of sampled rounds that are convolved; more are grouped
_SUMMED: Final = 256  # likewise, for Renyi DP
_FINEST: Final = 2.0**-12  # a group's noise and rates differ by a factor of 1 + this, or by more


def spent(kinds: Mapping[Kind, int], delta: float) -> float:
    """The epsilon of so many rounds of each kind, never below the true value.

    More than 32 kinds of sampled rounds are grouped for the convolution: each counts as one with at
    most its noise and at least its rate, which costs no less. Renyi DP takes up to 256 as they
    are.

    Args:
        kinds: how many rounds of each kind; kinds with none are left out.
        delta: of the guarantee, in ``[1e-100, 1)``.

    Returns:
        an upper bound; 0 for no rounds.

    Raises:
        CompatibilityError: QRES-E314 for a kind that is not accounted for.

    Complexity: linear in the kinds, and microseconds without sampling; with it, some ten
    milliseconds for each of at most 33 convolved kinds. Results are remembered.
    """
    return _spent(tuple(sorted(_checked(kinds).items())), delta)


@functools.lru_cache(maxsize=4096)
def _spent(items: tuple[tuple[Kind, int], ...], delta: float) -> float:
    kinds = dict(items)
    if not kinds:
        return 0.0
    plain = gaussian.epsilon(together(kinds), delta)
    if all(rate == 1.0 for _, rate in kinds):
        return plain
    renyi = rdp.epsilon(joined(kinds, _SUMMED), delta)
    return min(plain, renyi, pld.epsilon(joined(kinds, _CONVOLVED), delta))


def delta_of(kinds: Mapping[Kind, int], epsilon: float) -> float:
    """Delta of so many rounds of each kind at an epsilon, never below the true value; at most 1.

    Deltas below 1e-100 are reported as 1e-100. Arguments, errors and complexity as :func:`spent`.
    """
    kinds = _checked(kinds)
    if not kinds:
        return LEAST_DELTA
    best = gaussian.delta(together(kinds), epsilon)
    if any(rate < 1.0 for _, rate in kinds):
        best = min(best, rdp.delta(joined(kinds, _SUMMED), epsilon))
        least = max(LEAST_DELTA, best * 1e-6)
        best = min(best, pld.delta(joined(kinds, _CONVOLVED), epsilon, least))
    return max(LEAST_DELTA, best)


def _checked(kinds: Mapping[Kind, int]) -> Mapping[Kind, int]:
    """The kinds of which there are rounds. Raises CompatibilityError: QRES-E314."""
    for noise, rate in kinds:
        # Without sampling there is no such thing as too much noise.
        check_noise(min(noise, NOISE[1]) if rate == 1.0 else noise)
        check_rate(rate)
    return {kind: n for kind, n in kinds.items() if n}


def together(kinds: Mapping[Kind, int]) -> float:
    """The mu of all rounds without their sampling, rounded up; 0 for none. O(kinds)."""
    return math.sqrt(math.fsum(n / (noise * noise) for (noise, _), n in kinds.items())) * _UP


def joined(kinds: Mapping[Kind, int], most: int) -> Mapping[Kind, int]:
    """Few kinds that cost no less: one of all rounds without sampling, and groups of the others.

    ``kinds``: at least 1 round of each; ``most``: groups that may be left. Complexity: linear in
    the kinds.
    """
    few = dict(_grouped({kind: n for kind, n in kinds.items() if kind[1] < 1.0}, most))
    plain = {kind: n for kind, n in kinds.items() if kind[1] == 1.0}
    if plain:
        few[1.0 / together(plain), 1.0] = 1
    return few


def _grouped(kinds: Mapping[Kind, int], most: int) -> Mapping[Kind, int]:
    found, width = kinds, _FINEST
    while len(found) > most:
        groups: dict[tuple[int, int], list[tuple[Kind, int]]] = {}
        for (noise, rate), n in kinds.items():
            place = math.floor(math.log(noise) / width), math.floor(math.log(rate) / width)
            groups.setdefault(place, []).append(((noise, rate), n))
        total: Counter[Kind] = Counter()
        for members in groups.values():
            least = min(noise for (noise, _), _ in members)
            greatest = max(rate for (_, rate), _ in members)
            total[least, greatest] += sum(n for _, n in members)
        found, width = total, width * 1.25
    return found
