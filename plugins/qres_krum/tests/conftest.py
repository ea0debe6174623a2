"""Builders and the slow oracle that the tests of this plugin share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from qres_core import Updates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _stack(rows: Sequence[Sequence[int]], weights: Sequence[int] | None = None) -> Updates:
    n = len(rows)
    return Updates(
        vectors=np.array(rows, dtype=np.int32),
        senders=tuple(i.to_bytes(32, "big") for i in range(n)),
        weights=np.array(weights if weights is not None else [1] * n, dtype=np.int64),
    )


def _paper_scores(rows: Sequence[Sequence[int]], f: int) -> list[int]:
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


@pytest.fixture(scope="session")
def stack() -> Callable[..., Updates]:
    """Rows of Python integers (and weights) to Updates, senders in the order of the rows."""
    return _stack


@pytest.fixture(scope="session")
def paper_scores() -> Callable[[Sequence[Sequence[int]], int], list[int]]:
    """The oracle: scores by the definition."""
    return _paper_scores
