"""Refusals of arrays that do not fit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError

LIMIT: Final = 2**40
"""Values are less than this, either way: sums of ``2**22`` of them stay within int64."""


def checked_values(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the values as int64, shape ``(b, m)``.

    Raises ValueRefusedError: QRES-E502 if the shape is another, QRES-E503 if the dtype is none of
    int32 and int64 or a value is out of range.
    """
    if values.ndim != 2:
        what = f"expected shape (b, m), got {values.shape}"
        raise ValueRefusedError.of("QRES-E502", "values", what)
    if values.dtype == np.int32:
        return values.astype(np.int64)
    if values.dtype != np.int64:
        what = f"expected int32 or int64, got {values.dtype}"
        raise ValueRefusedError.of("QRES-E503", "values", what)
    if values.size and not -LIMIT < int(values.min()) <= int(values.max()) < LIMIT:
        raise ValueRefusedError.of("QRES-E503", "values", "a value is 2**40 or more")
    return values


def check_length(name: str, found: int, expected: int) -> None:
    """Refuse a sequence of the wrong length. Raises ValueRefusedError: QRES-E502."""
    if found != expected:
        raise ValueRefusedError.of("QRES-E502", name, f"expected {expected}, got {found}")
