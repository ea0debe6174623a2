"""Exact and fast arithmetic on stacked updates."""

from __future__ import annotations

from qres_arithmetic.backend import (
    accelerated,
    compiled,
    numpy_only,
    run_columns,
    threads,
    using_threads,
)
from qres_arithmetic.ball import clipped, squared_norm
from qres_arithmetic.columns import Blocks
from qres_arithmetic.combination import WEIGHT_UNIT, combine, mean_of, quantised
from qres_arithmetic.distances import (
    Distances,
    distances_of_products,
    distances_with_norms,
    squared_distances,
    squared_norms,
)
from qres_arithmetic.integers import Integers
from qres_arithmetic.intervals import INTERVAL_LIMIT, exact_rows, interval_distances
from qres_arithmetic.mixture import Mixture
from qres_arithmetic.nearest import nearest_mean
from qres_arithmetic.order import order_mean
from qres_arithmetic.rounding import round_half_even
from qres_arithmetic.rows import (
    DIMENSION_LIMIT,
    Rows,
    check_finite,
    check_rows,
    drop_non_finite,
    is_packed,
    packed,
    refuse_non_finite,
)
from qres_arithmetic.shortening import longer_than, shortened, squared_lengths
from qres_arithmetic.spectral import dominant_eigenvector
from qres_arithmetic.sweep import sweep

__all__ = [
    "DIMENSION_LIMIT",
    "INTERVAL_LIMIT",
    "WEIGHT_UNIT",
    "Blocks",
    "Distances",
    "Integers",
    "Mixture",
    "Rows",
    "accelerated",
    "check_finite",
    "check_rows",
    "clipped",
    "combine",
    "compiled",
    "distances_of_products",
    "distances_with_norms",
    "dominant_eigenvector",
    "drop_non_finite",
    "exact_rows",
    "interval_distances",
    "is_packed",
    "longer_than",
    "mean_of",
    "nearest_mean",
    "numpy_only",
    "order_mean",
    "packed",
    "quantised",
    "refuse_non_finite",
    "round_half_even",
    "run_columns",
    "shortened",
    "squared_distances",
    "squared_lengths",
    "squared_norm",
    "squared_norms",
    "sweep",
    "threads",
    "using_threads",
]
