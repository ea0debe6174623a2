"""byzfl on numpy arrays."""

from __future__ import annotations

import math
from typing import Any

import byzfl

from peers import Rows, Rules

MOST_SUBSETS = 100_000


def rules(rows: Any, n: int, f: int) -> Rules:
    """The rules on an array or a tensor."""
    mixed = byzfl.NNM(f=f)
    trimmed = byzfl.TrMean(f=f)
    found: dict[str, Any] = {
        "krum": lambda: byzfl.Krum(f=f)(rows),
        "multi_krum": lambda: byzfl.MultiKrum(f=f)(rows),
        "median": lambda: byzfl.Median()(rows),
        "trimmed_mean": lambda: trimmed(rows),
        "geometric_median": lambda: byzfl.GeometricMedian(nu=0.1, T=3)(rows),
        "centred_clipping": lambda: byzfl.CenteredClipping(L=1, tau=100.0)(rows),
        "centred_clipping_3": lambda: byzfl.CenteredClipping(L=3, tau=100.0)(rows),
        "caf": lambda: byzfl.CAF(f=f)(rows),
        "nnm_trimmed_mean": lambda: trimmed(mixed(rows)),
        "meamed": lambda: byzfl.Meamed(f=f)(rows),
    }
    if n * (n - f) * rows.shape[1] * 4 > 9 << 30:
        del found["nnm_trimmed_mean"]  # it would build an array of that many bytes
    if math.comb(n, f) <= MOST_SUBSETS:
        found["mda"] = lambda: byzfl.MDA(f=f)(rows)
    return found


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on a numpy array."""
    return rules(rows, len(rows), f)
