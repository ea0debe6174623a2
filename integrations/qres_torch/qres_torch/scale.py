"""Grid that fits the first updates of a trainer."""

from __future__ import annotations

import math
from typing import Final

import attrs
import numpy as np

from qres_core import RoundInfo, Vector, fixed
from qres_torch.layout import Reals
from qres_torch.trainer import TorchTrainer

_KEPT_BITS: Final = 4  # of a middling change
_GROWTH_BITS: Final = 2  # weights may grow to four times the size


@attrs.frozen
class GridProposal:
    """Figures of a node's first training, and the grid for it."""

    scale: int  # the grid: a middling change is 16 of its steps or more, if the weights leave room
    middling: float  # median size of what training changed
    weight: float  # size of the largest number of the model
    sizes: tuple[float, ...] = attrs.field(repr=False)  # of the changes, ascending
    # how long the changes are, in lengths of what training on `held_out` changes; None without any
    reach: float | None = None

    def lost(self, scale: int) -> float:
        """Share of the changes that round to nothing on a grid, 0..1."""
        half = math.ldexp(0.5, scale - fixed.FRACTION_BITS)
        below = int(np.searchsorted(self.sizes, half, side="right"))
        return below / len(self.sizes) if self.sizes else 0.0

    def holds(self, scale: int) -> bool:
        """True if a grid has room for the weights, should they grow to four times the size."""
        return scale >= _least(self.weight)


def propose_scale(trainer: TorchTrainer) -> GridProposal:
    """Train once from the module as it is, and propose ``swarm.scale``.

    The trainer is as before then, and so is its module. All nodes need the same scale: ask the one
    with the smallest steps, or several. Raises ValueRefusedError: QRES-E501 when training diverges.
    """
    start, kept = trainer.layout.numbers(trainer.module), trainer.layout.kept(trainer.module)
    weight = float(np.abs(start).max())
    least = _least(weight)
    vector = fixed.encode(start, scale=least).vector
    info = RoundInfo("scale", 1, b"", vector.size, least, (), 1)
    try:
        change = trainer.change(vector, info)
        reach = _reach(trainer, change, vector, info)
    finally:
        trainer.layout.load(trainer.module, start)
        trainer.layout.put(trainer.module, kept)
    sizes = np.sort(np.abs(change[change != 0.0]))
    if not sizes.size:
        return GridProposal(0, 0.0, weight, (), reach)
    if not np.isfinite(sizes[-1]):
        fixed.encode(change)  # refuses it by name
    middling = float(np.median(sizes))
    wanted = math.frexp(middling)[1] - 1 - _KEPT_BITS + fixed.FRACTION_BITS
    scale = min(max(wanted, _least(max(weight, float(sizes[-1])))), fixed.MAX_SCALE)
    return GridProposal(scale, middling, weight, tuple(sizes.tolist()), reach)


def _reach(trainer: TorchTrainer, change: Reals, vector: Vector, info: RoundInfo) -> float | None:
    """Length of a change, in lengths of what training on the held-out examples changes."""
    if trainer.held_out is None:
        return None
    asked = float(np.linalg.norm(trainer.held_out_change(vector, info)))
    return float(np.linalg.norm(change)) / asked if asked else None


def _least(weight: float) -> int:
    """The finest grid that holds a number of this size and four times it."""
    if weight == 0.0:
        return -fixed.MAX_SCALE
    bits = math.frexp(weight)[1] + _GROWTH_BITS - 31 + fixed.FRACTION_BITS
    return min(max(bits, -fixed.MAX_SCALE), fixed.MAX_SCALE)
