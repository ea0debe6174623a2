"""Known faults, put into the plugin for as long as a ``with`` block lasts.

Each replaces one function of the package wherever a module of the package refers to it. They are
here to show that the audit finds them; nothing outside the audit imports this module. Not for
threads: while a fault is in, it is in for the whole process.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Vector
from qres_dp import clip as clipping
from qres_dp import discrete_gaussian as noise
from qres_dp.clip import Clipped
from qres_dp.discrete_gaussian import DiscreteGaussian

Z: Final = 0.5
"""The noise multiplier of the audit, which one of the faults forgets."""
_LAYERS: Final = 4

_clip = clipping.clip
_discrete_gaussian = noise.discrete_gaussian


@contextmanager
def _replaced(original: Callable[..., Any], other: Callable[..., Any]) -> Generator[None]:
    """Every name in the package that stands for ``original`` stands for ``other``."""
    places = [
        (module, name)
        for key, module in sorted(sys.modules.items())
        if key.startswith("qres_dp.") and not key.startswith("qres_dp.audit")
        for name, value in list(vars(module).items())
        if value is original
    ]
    try:
        for module, name in places:
            setattr(module, name, other)
        yield
    finally:
        for module, name in places:
            setattr(module, name, original)


# ── noise ─────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class _Altered:
    """A distribution whose samples are passed through a function."""

    inner: DiscreteGaussian
    change: Callable[[NDArray[np.int32]], NDArray[np.int32]]
    key: bytes | None = None

    @property
    def reach(self) -> int:
        return self.inner.reach

    @property
    def variance(self) -> Fraction:
        return self.inner.variance

    def sample(self, size: int, key: bytes) -> NDArray[np.int32]:
        return self.change(self.inner.sample(size, key if self.key is None else self.key))


def _same(values: NDArray[np.int32]) -> NDArray[np.int32]:
    return values


def _without_tail(values: NDArray[np.int32]) -> NDArray[np.int32]:
    values[-max(1, values.size // 16) :] = 0
    return values


def _scaled(factor: Fraction) -> Callable[[Fraction], DiscreteGaussian]:
    return lambda variance: _discrete_gaussian(variance * factor)


def _reused(variance: Fraction) -> _Altered:
    return _Altered(_discrete_gaussian(variance), _same, bytes(32))


def _tail(variance: Fraction) -> _Altered:
    return _Altered(_discrete_gaussian(variance), _without_tail)


def _zeros(variance: Fraction) -> _Altered:
    return _Altered(_discrete_gaussian(variance), np.zeros_like)


# ── clipping ──────────────────────────────────────────────────────────────────────────────────


def _not_at_all(vector: Vector, bound: int) -> Clipped:
    del bound
    return Clipped(vector, was_outside=False)


def _by_layer(vector: Vector, bound: int) -> Clipped:
    parts = [_clip(np.ascontiguousarray(part), bound) for part in np.array_split(vector, _LAYERS)]
    return Clipped(np.concatenate([part.vector for part in parts]), was_outside=True)


def _by_coordinate(vector: Vector, bound: int) -> Clipped:
    return Clipped(np.clip(vector, -bound, bound).astype(np.int32), was_outside=True)


def _in_floats(vector: Vector, bound: int) -> Clipped:
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    scaled = np.rint(vector * min(1.0, bound / max(norm, 1e-9)))
    return Clipped(scaled.astype(np.int32), was_outside=True)


def _norm_wraps(vector: Vector, bound: int) -> Clipped:
    wide = vector.astype(np.int64)
    square = int(np.sum(wide * wide))
    if square <= bound * bound:
        return Clipped(vector, was_outside=False)
    return Clipped((vector * (bound / math.sqrt(square))).astype(np.int32), was_outside=True)


# ── by name ───────────────────────────────────────────────────────────────────────────────────

Replacement = tuple[Callable[..., Any], Callable[..., Any]]

FAULTS: Final[Mapping[str, tuple[Replacement, ...]]] = {
    "half the noise": ((_discrete_gaussian, _scaled(Fraction(1, 4))),),
    "0.9 of the noise": ((_discrete_gaussian, _scaled(Fraction(81, 100))),),
    "no clipping": ((_clip, _not_at_all),),
    "clipping by layer": ((_clip, _by_layer),),
    "clipping by coordinate": ((_clip, _by_coordinate),),
    "clipping in floats": ((_clip, _in_floats),),
    "noise used again": ((_discrete_gaussian, _reused),),
    "tail without noise": ((_discrete_gaussian, _tail),),
    "norm that wraps": ((_clip, _norm_wraps),),
    "forgotten z": ((_discrete_gaussian, _scaled(Fraction(1 / Z) ** 2)),),
}
"""The faults, by name: what each replaces, and by what."""


@contextmanager
def fault(name: str) -> Generator[None]:
    """The plugin with a fault. Raises KeyError: there is none of that name."""
    with ExitStack() as stack:
        for original, other in FAULTS[name]:
            stack.enter_context(_replaced(original, other))
        yield


@contextmanager
def silent() -> Generator[None]:
    """The plugin without noise, whatever other fault is in."""
    current = sys.modules["qres_dp.releases.local"].discrete_gaussian
    with _replaced(current, _zeros):
        yield
