"""The stacked updates that every rule takes: one row per sender."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError

Rows: TypeAlias = NDArray[np.int32] | NDArray[np.float32] | NDArray[np.float64]
"""Shape ``(n, d)``, in ascending order of sender. int32 is exact, floats are not."""

DIMENSION_LIMIT: Final = 2**32
"""Rows are shorter than this; the exact sums rest on it."""

_Number = TypeVar("_Number", bound=np.generic)

_DTYPES: Final = frozenset({np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.float64)})
_SCAN: Final = 65_552


def check_rows(vectors: object, *, fewest: int = 1, where: str = "vectors") -> Rows:
    """Return ``vectors`` as rows, or refuse them.

    Whether float rows are finite is not looked at here, because that takes a pass over the data:
    see :func:`check_finite`.

    Args:
        vectors: a numpy array of shape ``(n, d)``; any strides, writable or not.
        fewest: how many rows there have to be.
        where: what to call the argument in a refusal.

    Returns:
        the same memory.

    Raises:
        ValueRefusedError: QRES-E502 if it is no two-dimensional array, has no column, or
            ``2**32`` or more; QRES-E503 for a dtype that is not int32, float32 or float64 in the
            machine's byte order; QRES-E505 for fewer than ``fewest`` rows.

    Complexity: ``O(1)``.

    Example:
        >>> check_rows(np.array([[1, 2], [3, 4]], dtype=np.int32)).shape
        (2, 2)
    """
    kind = type(vectors).__name__
    # A mask would silently be dropped.
    if not isinstance(vectors, np.ndarray) or isinstance(vectors, np.ma.MaskedArray):
        raise ValueRefusedError.of(
            "QRES-E502",
            where,
            f"expected a numpy array of shape (n, d), got {kind}",
            "stack the vectors with numpy.stack",
        )
    array = np.asarray(cast("NDArray[Any]", vectors))
    if array.dtype not in _DTYPES:
        raise ValueRefusedError.of(
            "QRES-E503",
            where,
            f"expected int32, float32 or float64, got {array.dtype}",
            "encode with qres_core.fixed.encode",
        )
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueRefusedError.of(
            "QRES-E502", where, f"expected shape (n, d) with d >= 1, got {array.shape}"
        )
    n, d = array.shape
    if d >= DIMENSION_LIMIT:
        raise ValueRefusedError.of("QRES-E502", where, f"{d} coordinates, rows need d < 2**32")
    if n < fewest:
        raise ValueRefusedError.of(
            "QRES-E505", where, f"{n} rows, at least {fewest} needed", "raise swarm.quorum"
        )
    return array


def check_finite(rows: Rows, *, where: str = "vectors") -> None:
    """Refuse rows that hold a NaN or an infinity; int32 rows never do.

    Raises:
        ValueRefusedError: QRES-E501, naming the rows by index.

    Complexity: ``O(n d)``, in blocks of columns.
    """
    if rows.dtype != np.int32:
        refuse_non_finite(rows, range(len(rows)), where=where)


def drop_non_finite(vectors: Rows, *, where: str = "vectors") -> tuple[Rows, tuple[int, ...]]:
    """Return rows without those that hold a NaN or an infinity, and which those are.

    Every rule refuses such rows. Whoever calls a rule directly on floats may rather do without
    them; what is left must be enough for the rule and its ``f``.

    Args:
        vectors: as for :func:`check_rows`; not changed.
        where: what to call the argument in a refusal.

    Returns:
        the rows that are finite, in their order: the same memory if all are, else a copy. And the
        indices of the others, ascending; int32 rows have none.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503 as :func:`check_rows`; QRES-E501 if no row is
            finite.

    Complexity: ``O(n d)``; one row at a time is looked at.

    Example:
        >>> rows, dropped = drop_non_finite(np.array([[1.0], [np.nan], [3.0]]))
        >>> rows.tolist(), dropped
        ([[1.0], [3.0]], (1,))
    """
    rows = check_rows(vectors, where=where)
    if rows.dtype == np.int32:
        return rows, ()
    dropped = tuple(i for i in range(len(rows)) if not _finite(rows[i]))
    if not dropped:
        return rows, ()
    if len(dropped) == len(rows):
        raise ValueRefusedError.of("QRES-E501", where, "NaN or infinity in every row")
    kept: Rows = np.delete(rows, dropped, axis=0)
    return kept, dropped


def refuse_non_finite(rows: Rows, suspects: Sequence[int], *, where: str = "vectors") -> None:
    """Refuse if one of some rows holds a NaN or an infinity, and name all that do.

    Args:
        rows: shape ``(n, d)``.
        suspects: the indices of the rows to look at.
        where: what to call the rows in the refusal.

    Raises:
        ValueRefusedError: QRES-E501, naming the rows by index.

    Example:
        >>> refuse_non_finite(np.array([[1.0], [np.nan]]), [0])
    """
    bad = [int(i) for i in suspects if not _finite(rows[i])]
    if bad:
        named = ", ".join(str(i) for i in bad[:10]) + (", ..." if len(bad) > 10 else "")
        raise ValueRefusedError.of(
            "QRES-E501",
            where,
            f"NaN or infinity in row{'s' if len(bad) > 1 else ''} {named}",
            "leave these senders out",
        )


def packed(rows: NDArray[_Number]) -> NDArray[_Number]:
    """Return rows as the kernels take them: C order, aligned, read-only.

    One memory layout means one compiled version of a kernel.

    Args:
        rows: shape ``(n, d)``; a copy is made only of other layouts, so pass blocks of columns of
            these (see :func:`is_packed`).

    Returns:
        a read-only view or copy.
    """
    view = np.require(rows, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def is_packed(rows: Rows) -> bool:
    """True if :func:`packed` copies nothing."""
    return rows.flags.c_contiguous and rows.flags.aligned


def _finite(row: NDArray[Any]) -> bool:
    return all(np.isfinite(row[s : s + _SCAN]).all() for s in range(0, len(row), _SCAN))
