"""Is the noise of many releases distributed as the plan prints it? From the releases alone.

The known updates are zeros. What is counted is how often the noise has each residue modulo 2, 4,
..., 1024, and how often it is farther out than some deviations. By Chernoff's bound (Hoeffding
1963, theorem 1) a correct plugin exceeds the limit of a count with a probability of at most
``2 exp(-limit)``, whatever the count; so all counts of an audit together give a false alarm with
a probability below :data:`ALPHA`. No asymptotics.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import Update
from qres_dp_audit import reference
from qres_dp_audit.course import Course, same_randomness
from qres_dp_audit.draw import AuditSetting, Claim, printed
from qres_dp_audit.finding import Finding

ALPHA: Final = 1e-9
"""Chance of a false alarm in an audit, at most."""
SIZE: Final = 2**20
NARROW: Final = 56
"""Releases of a narrow table: beyond five deviations are then 33 numbers of noise on average."""
WIDE: Final = 8
MODULUS: Final = 1024
TAILS: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0)
LIMIT: Final = math.log(2 * 2 * (2 * MODULUS + 3 * len(TAILS)) / ALPHA)
"""Two sides of each count, in two settings."""


def surprise(count: int, size: int, rate: float) -> float:
    """Minus the logarithm of Chernoff's bound on a binomial's tail beyond a count."""
    found, total = count / size, 0.0
    for part, expected in ((found, rate), (1.0 - found, 1.0 - rate)):
        if part > 0.0:
            total += part * math.log(part / expected) if expected > 0.0 else math.inf
    return size * total


def rates(variance: Fraction) -> tuple[NDArray[np.float64], dict[float, float]]:
    """The probabilities of the residues modulo 1024, and of the tail beyond each deviation."""
    chances, reach = reference.chances(variance)
    places = np.arange(-reach, reach + 1)
    tails = {far: float(chances[places > far * math.sqrt(variance)].sum()) for far in TAILS}
    residues = np.bincount(places % MODULUS, chances, MODULUS).astype(np.float64)
    return residues, tails


def _noise(package: ModuleType, claim: Claim, releases: int) -> Iterator[NDArray[np.int32]]:
    """Noise that leaves for updates of zeros."""
    course = Course(package, claim, Path())
    player, nothing = course.players[0], np.zeros(claim.setting.dimension, dtype=np.int32)
    course.start(player)
    for number in range(1, releases + 1):
        course.number = number
        info = course.info(player)
        player.plugin.round_opened(info, player.known)
        yield player.plugin.privatize(Update(nothing), info).vector


def worst(variance: Fraction, rows: Iterable[NDArray[np.int32]]) -> float:
    """The largest surprise of all counts. ``rows``: noise, int32, shape ``(d,)`` each."""
    residues, tails = rates(variance)
    counted, far, size = np.zeros(MODULUS, dtype=np.int64), Counter[float](), 0
    for row in rows:
        size += row.size
        counted += np.bincount(row & (MODULUS - 1), minlength=MODULUS)
        for beyond in TAILS:
            at = beyond * math.sqrt(variance)
            far[beyond] += int(np.count_nonzero(row > at))
            far[-beyond] += int(np.count_nonzero(row < -at))
    scores = [surprise(far[t], size, tails[abs(t)]) for t in far]
    scores += [surprise(far[t] + far[-t], size, 2 * tails[t]) for t in TAILS]
    while residues.size > 1:
        scores += [surprise(int(n), size, p) for n, p in zip(counted, residues, strict=True)]
        counted, residues = (part.reshape(2, -1).sum(axis=0) for part in (counted, residues))
    return max(scores)


def drawn(seed: int, *, narrow: bool) -> AuditSetting:
    """A setting whose noise comes of one narrow table, or of several."""
    chance = random.Random(f"noise {narrow} {seed}")  # noqa: S311 - it is drawn again from its seed
    deviation = 2.0 ** (chance.uniform(5, 9.9) if narrow else chance.uniform(10.5, 16))
    bound = 2 * math.isqrt(SIZE) + 3
    table = {"mode": "local", "clip": bound / 2.0**16, "delta": 1e-6}
    table |= {"noise_multiplier": deviation / (2 * bound), "epsilon": 1e6}
    kind = "narrow noise" if narrow else "wide noise"
    return AuditSetting(kind, seed, table, 3, 0, 0.0, 3, 0, SIZE, durable=False, shared=False)


def examine(package: ModuleType, seed: int) -> Iterator[Finding]:
    """Noise of one table, and of several."""
    for narrow in (True, False):
        setting = drawn(seed, narrow=narrow)
        with same_randomness(f"noise {narrow} {seed}"):
            claim = printed(package, setting)
            found = worst(claim.share, _noise(package, claim, NARROW if narrow else WIDE))
        yield Finding("noise", setting.kind, seed, found, LIMIT)
