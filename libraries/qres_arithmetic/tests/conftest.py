"""The two implementations, and rows on which they have to agree."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qres_arithmetic import accelerated, numpy_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Context = AbstractContextManager[None]

kernels_only = pytest.mark.skipif(not accelerated(), reason="numba is not installed")


@pytest.fixture(
    params=[pytest.param(nullcontext, id="kernels", marks=kernels_only), numpy_only],
    scope="session",
)
def implementation(request: pytest.FixtureRequest) -> Callable[[], Context]:
    """Make a context manager in which one of the implementations is in use."""
    made: Callable[[], Context] = request.param
    return made


@pytest.fixture(scope="session")
def layouts() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return the same rows in several memory layouts, one of them read-only."""

    def arrange(rows: np.ndarray) -> dict[str, np.ndarray]:
        n, d = rows.shape
        wide = np.zeros((2 * n, 3 * d), dtype=rows.dtype)
        wide[::2, ::3] = rows
        sealed = rows.copy()
        sealed.flags.writeable = False
        odd = np.frombuffer(b"\0" + rows.tobytes(), dtype=np.uint8)[1:]
        return {
            "C": np.ascontiguousarray(rows),
            "read-only": sealed,
            "Fortran": np.asfortranarray(rows),
            "strided": wide[::2, ::3],
            "backwards": np.ascontiguousarray(rows[::-1, ::-1])[::-1, ::-1],
            "unaligned": odd.view(rows.dtype).reshape(rows.shape),
        }

    return arrange


@pytest.fixture(scope="session")
def pairs() -> Callable[[Sequence[Sequence[int]]], list[list[int]]]:
    """Return squared distances by the definition, in Python integers."""

    def compute(rows: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]

    return compute
