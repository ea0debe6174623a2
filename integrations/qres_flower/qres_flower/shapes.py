"""Arrays by name, as Flower has them, and the flat vector of numbers that a swarm agrees on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError
from qres_flower.border import app

Reals = NDArray[np.float64]

_NUMBERS: Final = "fiub"  # kinds of numpy: real, whole, natural, truth
_SHOWN: Final = 4
_WHERE: Final = "arrays"


def listed(names: Sequence[str]) -> str:
    """Some names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@attrs.frozen
class ArrayShapes:
    """The names, shapes and types of the arrays of a model, in their order.

    Whole numbers and truth values travel as real numbers, and are rounded on their way back.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]  # dtype of each, as numpy names it

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ArrayShapes:
        """Those of an ``ArrayRecord``.

        Raises ValueRefusedError: QRES-E503 for what is no array of real numbers, QRES-E502 for
        arrays without any number.
        """
        arrays = {name: opened(name, each) for name, each in record.items()}
        made = cls(
            tuple(arrays),
            tuple(each.shape for each in arrays.values()),
            tuple(each.dtype.str for each in arrays.values()),
        )
        if not made.size:
            raise ValueRefusedError.of("QRES-E502", _WHERE, "there is no number in them", "add one")
        return made

    @property
    def size(self) -> int:
        """Number of the numbers that travel."""
        return sum(math.prod(shape) for shape in self.shapes)

    def numbers(self, record: Mapping[str, Any]) -> Reals:
        """The numbers of arrays of these names and shapes, float64, shape ``(d,)``.

        Raises ValueRefusedError: QRES-E502 for other names or shapes, QRES-E503 for other kinds of
        numbers, QRES-E501 for NaN and infinities, by the name of the array.
        """
        missing = [name for name in self.names if name not in record]
        more = [name for name in record if name not in self.names]
        if missing or more:
            said = {"lack": missing, "add": more}
            told = " and ".join(f"{verb} {listed(names)}" for verb, names in said.items() if names)
            what = f"the arrays of the reply {told}"
            fix = "return the arrays that came, under their names"
            raise ValueRefusedError.of("QRES-E502", _WHERE, what, fix)
        parts: list[Reals] = []
        for name, shape, kind in zip(self.names, self.shapes, self.kinds, strict=True):
            array = opened(name, record[name])
            where = f"{_WHERE}[{name!r}]"
            if array.shape != shape:
                what = f"has shape {array.shape}, and {shape} was sent"
                raise ValueRefusedError.of("QRES-E502", where, what, "return the shape that came")
            if (array.dtype.kind == "f") != (np.dtype(kind).kind == "f"):
                what = f"holds {array.dtype}, and {np.dtype(kind)} was sent"
                raise ValueRefusedError.of("QRES-E503", where, what, "return the type that came")
            real = array.astype(np.float64).ravel()
            bad = int(real.size - np.count_nonzero(np.isfinite(real)))
            if bad:
                what = f"{bad} of {real.size} numbers are NaN or infinite"
                fix = "the local training diverged; lower its learning rate"
                raise ValueRefusedError.of("QRES-E501", where, what, fix)
            parts.append(real)
        return np.concatenate(parts)

    def record(self, real: Reals) -> Any:
        """An ``ArrayRecord`` of numbers, float64, shape ``(d,)``."""
        arrays, at = dict[str, Any](), 0
        for name, shape, kind in zip(self.names, self.shapes, self.kinds, strict=True):
            part = real[at : at + math.prod(shape)]
            at += part.size
            arrays[name] = app.Array(_typed(part, np.dtype(kind)).reshape(shape))
        return app.ArrayRecord(arrays)


def opened(name: str, array: Any) -> NDArray[Any]:
    """The numpy array in an ``Array`` of Flower, which is read without pickle.

    Raises ValueRefusedError: QRES-E503 for what is no array of real numbers of at most 64 bits.
    """
    where, fix = f"{_WHERE}[{name!r}]", "send arrays of real or whole numbers"
    try:
        found: Any = array.numpy()
    except Exception as error:
        what = f"cannot be read: {type(error).__name__}: {error}"
        raise ValueRefusedError.of("QRES-E503", where, what, fix) from error
    if found.dtype.kind not in _NUMBERS or found.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise ValueRefusedError.of("QRES-E503", where, f"holds {found.dtype}", fix)
    opened_array: NDArray[Any] = found
    return opened_array


def _typed(part: Reals, kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind == "f":
        return part.astype(kind)
    if kind.kind == "b":
        return part >= 0.5
    # The largest of 64 bits is no float64; the next float64 is beyond the type.
    most, whole = np.iinfo(kind), np.rint(part)
    low, high = whole <= float(most.min), whole >= float(most.max)
    made = np.where(low | high, 0.0, whole).astype(kind)
    made[low], made[high] = most.min, most.max
    return made
