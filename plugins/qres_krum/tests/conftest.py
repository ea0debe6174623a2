"""Builders and the slow oracles that the tests of this plugin share."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qres_arithmetic import accelerated, numpy_only

from qres_core import Updates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    Rows = Sequence[Sequence[int]]


def _stack(rows: Rows, weights: Sequence[int] | None = None) -> Updates:
    n = len(rows)
    return Updates(
        vectors=np.array(rows, dtype=np.int32),
        senders=tuple(i.to_bytes(32, "big") for i in range(n)),
        weights=np.array(weights if weights is not None else [1] * n, dtype=np.int64),
    )


def _paper_scores(rows: Rows, f: int) -> list[int]:
    """Score by the paper's definition, in Python integers, one pair at a time."""
    n = len(rows)
    scores: list[int] = []
    for i in range(n):
        to_others = [
            sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))
            for j in range(n)
            if j != i
        ]
        scores.append(sum(sorted(to_others)[: n - f - 2]))
    return scores


def _paper_selection(rows: Rows, f: int) -> list[int]:
    """Select as Bulyan does: every score from scratch, for every pick."""
    squared = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    left, picked = list(range(len(rows))), list[int]()
    while len(picked) < len(rows) - 2 * f:
        neighbours = max(1, len(left) - f - 2)
        score = {i: sum(sorted(squared[i][j] for j in left if j != i)[:neighbours]) for i in left}
        pick = min(left, key=lambda i: (score[i], sum(squared[i][j] for j in left), i))
        left.remove(pick)
        picked.append(pick)
    return picked


def _paper_bulyan(rows: Rows, f: int) -> list[int]:
    """Average what is nearest to the median in every column, in fractions."""
    picked = _paper_selection(rows, f)
    count = len(picked) - 2 * f
    result: list[int] = []
    for column in zip(*(rows[i] for i in picked), strict=True):
        ordered = sorted(column)
        middle = Fraction(ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2], 2)
        nearest = sorted(ordered, key=lambda value: (abs(value - middle), value))[:count]
        result.append(round(Fraction(sum(nearest), count)))
    return result


@pytest.fixture(scope="session")
def stack() -> Callable[..., Updates]:
    """Rows of Python integers (and weights) to Updates, senders in the order of the rows."""
    return _stack


@pytest.fixture(scope="session")
def paper_scores() -> Callable[[Rows, int], list[int]]:
    """The oracle: scores by the definition."""
    return _paper_scores


@pytest.fixture(scope="session")
def paper_selection() -> Callable[[Rows, int], list[int]]:
    """The oracle: Bulyan's picks in order, by the definition."""
    return _paper_selection


@pytest.fixture(scope="session")
def paper_bulyan() -> Callable[[Rows, int], list[int]]:
    """The oracle: Bulyan by the definition."""
    return _paper_bulyan


@pytest.fixture(scope="session")
def backends() -> list[Callable[[], AbstractContextManager[None]]]:
    """What to run everything under: numpy alone, and the compiled kernels where they are."""
    return [numpy_only, nullcontext] if accelerated() else [numpy_only]
