"""An update in which every example counts for at most so much: the unit of privacy is a record.

The trainer says which step each example asks for; everything else is done here. Each step is
rounded to the grid, and what comes after that is integers: its squared length, the factor that
shortens it to the bound, the sum. So an update moves by at most the bound, exactly, when an example
is taken away, however the steps were computed.

One update is one sum. Several steps in a row would each be a sum of their own, and the second would
start from a model that the first had made of all examples.

Reference:
    M. Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1: gradients of
    single examples, clipped, summed, and divided by a public number. H. B. McMahan et al., Learning
    Differentially Private Recurrent Language Models, ICLR 2018, section 2.2, on fixed divisors.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import fixed
from qres_core.contract.errors import CompatibilityError, ValueRefusedError
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import TrainerAbilities, Wrapper, abilities_of
from qres_core.contract.types import Update, Vector

_FACTOR_BITS: Final = 30
_BLOCK: Final = 2**18  # numbers that are clipped at once: a few MiB
_FIX: Final = (
    "give it the methods records() and record_steps(vector, round_info); of QRES's own trainers "
    "NumpyTrainer and TorchTrainer have them"
)


def by_record(trainer: Trainer, clip: RecordClip | None, *, node: str = "trainer") -> Trainer:
    """The trainer as a plugin asks for it: one whose updates are sums of clipped steps.

    Args:
        trainer: the user's.
        clip: what is asked for; ``None`` for nothing, and the trainer is returned as it is.
        node: what to call it in a message.

    Raises:
        CompatibilityError: QRES-E318 for a trainer that is no :class:`RecordTrainer`, and for one
            with more examples than ``clip.most``.
        QresError: what ``records()`` refuses.
    """
    if clip is None:
        return trainer
    if isinstance(trainer, ByRecord):
        if trainer.clip == clip:
            return trainer
        trainer = trainer.inner
    records = abilities_of(trainer).records
    if records is None:
        what = (
            f"{type(trainer).__name__} does not say which step each example asks for, and the "
            "unit of privacy is a record"
        )
        raise CompatibilityError.of("QRES-E318", node, what, _FIX)
    _check_count(records.records(), clip, node)
    return ByRecord(trainer, clip)


def _check_count(count: int, clip: RecordClip, where: str) -> None:
    if count > clip.most:
        what = f"has {count} examples, and no node may have more than {clip.most}"
        fix = "raise that number on all nodes, or train on fewer examples here"
        raise CompatibilityError.of("QRES-E318", where, what, fix)


@attrs.define(eq=False)
class ByRecord(Wrapper):
    """A trainer whose updates are sums of single examples' clipped steps.

    ``fit`` and ``evaluate`` wait for each other, whatever threads call them.
    """

    clip: RecordClip  # what each example may add
    _turn: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it has a turn of its own: a lock cannot travel."""
        return type(self), (self.inner, self.clip)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """The sum of all examples' clipped steps, of weight 1.

        How many examples there are is a fact about the data, so it is not the weight. A sum outside
        the grid saturates, which brings two sums no farther apart.

        ``vector``: the round's model, int32, shape ``(d,)``. Returns int32, shape ``(d,)``, with an
        L2 norm of at most ``clip.most`` bounds. Raises ValueRefusedError: QRES-E502, QRES-E503 for
        steps of another shape or type, QRES-E506 for more of them than ``clip.most``. O(n d).
        """
        total: NDArray[np.int64] = np.zeros(vector.size, dtype=np.int64)
        bound, count = self.clip.steps(round_info.scale), 0
        with self._turn:
            for part in self.inner.record_steps(vector, round_info):
                rows = _checked(part, vector.size)
                count += len(rows)
                if count > self.clip.most:
                    what = f"steps of more than {self.clip.most} examples"
                    raise ValueRefusedError.of("QRES-E506", "trainer.record_steps", what)
                total += clipped_sum(rows, bound, scale=round_info.scale)
        held = np.clip(total, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
        return Update(held, weight=1)

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """The trainer's figures, in turn."""
        with self._turn:
            return super().evaluate(vector, round_info)

    def can(self, inner: TrainerAbilities) -> TrainerAbilities:
        """It offers no reference, which would be another kind of update."""
        return attrs.evolve(inner, reference=None, records=None, clip=self.clip)


def _checked(part: object, dimension: int) -> NDArray[np.floating[Any]]:
    kind = str(getattr(part, "dtype", type(part).__name__))
    if not isinstance(part, np.ndarray) or kind not in ("float32", "float64"):
        what = f"expected float32 or float64, got {kind}"
        raise ValueRefusedError.of("QRES-E503", "trainer.record_steps", what)
    rows = cast("NDArray[np.floating[Any]]", part)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        what = f"expected shape (examples, {dimension}), got {rows.shape}"
        raise ValueRefusedError.of("QRES-E502", "trainer.record_steps", what)
    return rows


def clipped_sum(
    rows: NDArray[np.floating[Any]], bound: int, *, scale: int = 0
) -> NDArray[np.int64]:
    """Round every row to the grid, clip it there, and add them up.

    A row with anything that is not finite counts as zeros: one example must not decide whether a
    node contributes at all. What a row adds depends on that row alone, to the bit.

    Args:
        rows: one step an example, float32 or float64, shape ``(k, d)``, in the model's units.
        bound: greatest L2 norm of what a row adds, in steps of the grid, 0..2**31 - 1.
        scale: exponent of the grid.

    Returns:
        int64, shape ``(d,)``.

    Complexity: O(k d).
    """
    width = int(rows.shape[1])
    total: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
    at_once = max(1, _BLOCK // max(1, width))
    for start in range(0, len(rows), at_once):
        steps = _clipped(_on_grid(rows[start : start + at_once], scale), bound)
        total += steps.sum(axis=0)
    return total


def _on_grid(rows: NDArray[np.floating[Any]], scale: int) -> NDArray[np.int64]:
    """Every number by itself: nothing here mixes two of them."""
    real = rows.astype(np.float64)
    finite = np.isfinite(real).all(axis=1)
    if not finite.all():
        real[~finite] = 0.0
    with np.errstate(over="ignore", under="ignore"):
        real *= math.ldexp(1.0, fixed.FRACTION_BITS - scale)  # a power of two: exact
    return np.clip(np.rint(real), -fixed.LIMIT, fixed.LIMIT).astype(np.int64)


def _clipped(rows: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """Rows in the ball, exactly: those outside times an integer over ``2**30``, towards zero."""
    high, low = rows >> 16, rows & 0xFFFF  # each square is below 2**32: sums of 2**31 fit 64 bits
    pairs = ((high, high), (high, low), (low, low))
    parts = [np.einsum("kd,kd->k", left, right).tolist() for left, right in pairs]
    squares = [(a << 32) + (b << 17) + c for a, b, c in zip(*parts, strict=True)]
    outside = [row for row, square in enumerate(squares) if square > bound * bound]
    if not outside:
        return rows
    factors = [_factor(squares[row], bound) for row in outside]
    # |x| < 2**31 and a factor below 2**30: the product fits 64 bits.
    product = rows[outside] * np.array(factors, dtype=np.int64)[:, None]
    product += (product >> 63) & ((1 << _FACTOR_BITS) - 1)  # a shift rounds down; -1 if negative
    rows[outside] = product >> _FACTOR_BITS
    return rows


def _factor(square: int, bound: int) -> int:
    """``floor(2**30 bound / sqrt(square))``, for a square above the bound's: below ``2**30``."""
    return math.isqrt((bound * bound << 2 * _FACTOR_BITS) // square)
