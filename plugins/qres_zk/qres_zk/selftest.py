"""Run every kernel once on both engines: what is compiled, and whether it is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from qres_core.errors import ConfigError
from qres_zk import group, scalar

_SEED: Final = bytes(32)


def compare_engines() -> float:
    """Run every kernel on small inputs on the engine in use, and in plain Python.

    The first time after an installation, numba compiles for some ten seconds and keeps the result
    in its cache (beside the package, or where ``NUMBA_CACHE_DIR`` points to). Without numba there
    is nothing to compile. Returns the processor seconds that the engine in use took. Raises
    ConfigError: QRES-E105, the two engines disagree: what numba compiles here is wrong, and must be
    switched off.
    """
    taken = 0.0
    for name, run in _CHECKS.items():
        start = time.process_time()
        found = run()
        taken += time.process_time() - start
        with group.reference_only():
            expected = run()
        if found != expected:
            what = f"the compiled {name} differ from those in Python: numba compiles them wrongly"
            raise ConfigError.of("QRES-E105", "QRES_NUMBA", what, "set QRES_NUMBA=0")
    return taken


def _points() -> object:
    points = group.hash_to_group(b"selftest", 0, 5)
    data = group.encode(points)
    sums = group.add(group.decode(data), group.negate(points))
    eight = np.concatenate([points, points[:3]])
    return data, group.is_identity(sums).tolist(), group.encode(group.total([eight, eight]))


def _multiples() -> object:
    points = group.hash_to_group(b"selftest", 0, 3)
    scalars = group.scalars([1, -1, 2**200 + 7])
    values = np.array([[2**31 - 1, -(2**31), 300], [0, 1, -1]], np.int32)
    found = (
        group.msm(scalars, points),
        group.Fixed(points).msm(scalars),
        group.Rows(points).commit(values, group.scalars([5, -5])),
    )
    return [group.encode(item) for item in found]


def _scalars() -> object:
    values = np.array([[2**31 - 1, -(2**31), 300], [0, 1, -1]], np.int32)
    gammas = [2**118 + 3**n for n in range(9)]
    weights = scalar.weights(_SEED, (2, 3), gammas)
    folding = scalar.Folding(values, weights)
    found: list[object] = [scalar.project(values, _SEED, 8), folding.cross()]
    folding.fold(-3)
    left, right = folding.result()
    combined = scalar.combine_rows([3, -4], values)
    folded = scalar.folded_weights(_SEED, (2, 3), gammas, [2, -2])
    vectors = (left, right, combined, folded, scalar.multiply_add(left, -7, right))
    return found, scalar.dot(left, right), [vector.tolist() for vector in vectors]


_CHECKS: Final[dict[str, Callable[[], object]]] = {
    "points": _points,
    "multiples": _multiples,
    "scalars": _scalars,
}
