"""Test of the promise of a trainer that privacy of single examples rests on."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np

from qres_core.contract import fixed
from qres_core.contract.by_record import by_record
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import RecordTrainer
from qres_core.contract.types import Vector
from qres_lab.testing.builders import make_round_info

_BESIDE: Final = 2 ** (fixed.FRACTION_BITS - 2)
"""How far the second model is from the first in a coordinate, in steps of the grid."""


def check_records(
    make: Callable[[Sequence[int]], RecordTrainer],
    count: int,
    clip: RecordClip,
    model: Vector,
    *,
    scale: int = 0,
) -> float:
    """Take each example away once, and look whether anything but its own step changes.

    Nothing else changes where :class:`~qres_core.training.RecordTrainer` is kept, to the bit. It is
    looked at from the model given and from one beside it. A pass is no proof: what is found depends
    on the examples. Put one among them that is a thousand times as large as the others.

    Args:
        make: makes the trainer of a node that has the examples at these places, ascending, from the
            data as they are collected: whatever prepares them is done in it.
        count: examples that there are; places are 0 to ``count - 1``. At least 2; a few dozen do.
        clip: what an example may add at most, as the plugin asks for it.
        model: int32, shape ``(d,)``.
        scale: of the model's grid.

    Returns:
        how far an example moved what is sent, in clips: above 0, at most 1.

    Raises:
        AssertionError: the trainer does not keep the promise; the message names the example that
            moved what is sent the most. Or nothing could be seen: there are fewer than 2 examples,
            or none moves anything.
        QresError: what a start would refuse, as QRES-E318.

    Complexity: ``4 * (count + 2)`` passes over the examples.

    Example:
        >>> class Trainer:
        ...     def __init__(self, x):
        ...         self.x = x
        ...     def records(self):
        ...         return len(self.x)
        ...     def record_steps(self, vector, round_info):
        ...         yield 0.1 * self.x
        >>> data = np.arange(12.0).reshape(4, 3)
        >>> model = np.zeros(3, dtype=np.int32)
        >>> check_records(lambda at: Trainer(data[at]), 4, RecordClip(0.5, 4), model) <= 1
        True
        >>> def averaged(at):
        ...     return Trainer(data[at] / len(at))
        >>> check_records(averaged, 4, RecordClip(0.5, 4), model)
        Traceback (most recent call last):
        ...
        AssertionError: without example 3, 3 other examples have other steps; what is sent moves \
by 0.52 clips
    """
    if count < 2:
        raise AssertionError("give at least 2 examples")
    draws = random.Random(0)  # noqa: S311 - no secret
    beside = model + np.array([draws.randint(-_BESIDE, _BESIDE) for _ in model], dtype=np.int32)
    info = make_round_info(model.size, scale=scale)
    farthest = max(_moved(make, range(count), clip, start, info) for start in (model, beside))
    if not farthest:
        raise AssertionError("no example moves what is sent: give another model, or a larger clip")
    return farthest


def _moved(
    make: Callable[[Sequence[int]], RecordTrainer],
    places: Sequence[int],
    clip: RecordClip,
    model: Vector,
    info: RoundInfo,
) -> float:
    bound, farthest = clip.steps(info.scale), 0.0
    steps, sent = _of(make, places, clip, model, info)
    if _of(make, places, clip, model, info)[0] != steps:
        raise AssertionError("a second trainer of the same examples takes other steps")
    told: dict[str, float] = {}
    for place in places:
        others = [at for at in places if at != place]
        fewer, less = _of(make, others, clip, model, info)
        apart = (sent.astype(np.int64) - less).astype(object)
        moved = math.sqrt(int(apart @ apart)) / bound if bound else 0.0
        if changed := (fewer - steps).total():
            what = f"without example {place}, {changed} other examples have other steps; "
            told[f"{what}what is sent moves by {moved:.3g} clips"] = moved
        farthest = max(farthest, moved)
    if told:
        raise AssertionError(max(told, key=told.__getitem__))
    return farthest


def _of(
    make: Callable[[Sequence[int]], RecordTrainer],
    places: Sequence[int],
    clip: RecordClip,
    model: Vector,
    info: RoundInfo,
) -> tuple[Counter[bytes], Vector]:
    """The steps of a node that has these examples, each by its digest, and what it sends."""
    trainer = make(list(places))
    sent: Vector = cast("Any", by_record(cast("Any", trainer), clip)).fit(model, info).vector
    found: Counter[bytes] = Counter()
    for part in trainer.record_steps(model, info):
        found.update(hashlib.sha256(row.tobytes()).digest() for row in np.asarray(part))
    if found.total() != len(places):
        what = f"{len(places)} examples have {found.total()} steps"
        raise AssertionError(what)
    return found, sent
