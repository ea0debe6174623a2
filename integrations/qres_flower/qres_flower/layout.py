"""Changes of named arrays by training, and the arrays that a change leads to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from qres_core import canonical
from qres_flower.border import app
from qres_flower.shapes import ArrayShapes, Reals, opened

_BYTES: Final = b"qres/flower-arrays/v1\0"
_MODEL: Final = b"qres/flower-model/v3\0"


def difference(shapes: ArrayShapes, after: Mapping[str, Any], before: Mapping[str, Any]) -> Reals:
    """Difference that training made, by name of the array, in any order; float64, shape ``(d,)``.

    Raises ValueRefusedError: as :meth:`ArrayShapes.numbers`, by the name of the array.
    """
    return shapes.numbers(after) - shapes.numbers(before)


def moved(shapes: ArrayShapes, before: Mapping[str, Any], change: Reals) -> Any:
    """The ArrayRecord that ``change`` leads to, each array of its own shape and type.

    A number that nothing changed stays as it is: a whole number of 64 bits need not fit a float.
    """
    made = dict(shapes.record(shapes.numbers(before) + change))
    at = 0
    for name, shape in zip(shapes.names, shapes.shapes, strict=True):
        still = change[at : at + math.prod(shape)].reshape(shape) == 0
        at += still.size
        if still.all():
            made[name] = before[name]
        elif still.any():
            old, new = opened(name, before[name]), opened(name, made[name])
            made[name] = app.Array(np.where(still, old, new))
    return app.ArrayRecord(made)


def typed(shapes: ArrayShapes, record: Mapping[str, Any], merged: Mapping[str, Any]) -> Any:
    """The same numbers with the model's types, which a strategy may have widened.

    A record of other names or shapes is left alone. ``merged``: what the strategy was given; of its
    whole numbers those come back that the strategy did not change, even if they fit no float.
    """
    found = {name: opened(name, array) for name, array in record.items()}
    expected = dict(zip(shapes.names, shapes.shapes, strict=True))
    if {name: array.shape for name, array in found.items()} != expected:
        return record
    made = dict(
        shapes.record(
            np.concatenate([found[name].astype(np.float64).ravel() for name in shapes.names])
        )
    )
    for name, array in found.items():
        given = opened(name, merged[name])
        if given.dtype.kind != "f":
            still = array.astype(np.float64) == given.astype(np.float64)
            made[name] = app.Array(np.where(still, given, opened(name, made[name])))
    return app.ArrayRecord(made)


def bytes_name(record: Mapping[str, Any]) -> bytes:
    """SHA-256 of an ArrayRecord as it is, with names, types and shapes in their order; 32 bytes."""
    listed = [
        [name, array.dtype, list(array.shape), array.stype, hashlib.sha256(array.data).digest()]
        for name, array in record.items()
    ]
    return hashlib.sha256(_BYTES + canonical.dumps(listed)).digest()


def model_name(record: Mapping[str, Any]) -> bytes:
    """SHA-256 of the numbers of an ArrayRecord, 32 bytes; one that no other layout changes.

    The same numbers are the same model, whatever names, shapes, order and types they come with, and
    however many arrays hold them: of one model a client gives no two sums. They are sorted, so that
    this takes O(d log d). Raises ValueRefusedError: QRES-E503.
    """
    arrays = [opened(name, each).astype("<f8").ravel() for name, each in record.items()]
    # A zero has one sign here.
    numbers = np.sort(np.concatenate([np.empty(0, "<f8"), *arrays])) + 0.0
    return hashlib.sha256(_MODEL + numbers.tobytes()).digest()
