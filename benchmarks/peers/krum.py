"""The package ``krum`` on torch tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from krum.primitives.aggregators.brute import Brute
from krum.primitives.aggregators.bulyan import Bulyan
from krum.primitives.aggregators.geometric_median import GeometricMedian
from krum.primitives.aggregators.krum import Krum
from krum.primitives.aggregators.median import Median
from krum.primitives.aggregators.multikrum import MultiKrum
from krum.primitives.aggregators.trimmed_mean import TrimmedMean

from peers import Rows, Rules, bulyan_f

MOST_SUBSETS = 500
BULYAN_ENTRIES = 10**7


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on a tensor that shares the rows' memory."""
    torch.set_num_threads(1)
    n, d = rows.shape
    vectors = torch.from_numpy(rows)
    b = bulyan_f(n, f)
    found: dict[str, Any] = {
        "krum": lambda: Krum.aggregate(vectors, n=n, f=f),
        "multi_krum": lambda: MultiKrum.aggregate(vectors, n=n, f=f, m=n - f - 2),
        "median": lambda: Median.aggregate(vectors, n=n, f=f),
        "trimmed_mean": lambda: TrimmedMean.aggregate(vectors, n=n, f=f),
        "geometric_median": lambda: GeometricMedian.aggregate(vectors, n=n, f=f, max_iter=3),
    }
    if n * d <= BULYAN_ENTRIES and n <= 100:
        found["bulyan"] = lambda: Bulyan.aggregate(vectors, n=n, f=b, m=1)
    if math.comb(n, f) <= MOST_SUBSETS:
        found["mda"] = lambda: Brute.aggregate(vectors, n=n, f=f)
    return found
