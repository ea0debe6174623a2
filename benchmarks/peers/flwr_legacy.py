"""The functions behind flwr's older strategies."""

from __future__ import annotations

from typing import Any

from flwr.server.strategy.aggregate import (
    aggregate_bulyan,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)

from peers import Rows, Rules, bulyan_f

BULYAN_ENTRIES = 10**7


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on a list of one-layer models."""
    n, d = rows.shape
    b = bulyan_f(n, f)

    def results() -> list[tuple[list[Any], int]]:
        return [([row], 1) for row in rows]

    found: dict[str, Any] = {
        "krum": lambda: aggregate_krum(results(), f, 0),
        "multi_krum": lambda: aggregate_krum(results(), f, n - f),
        "median": lambda: aggregate_median(results()),
        "trimmed_mean": lambda: aggregate_trimmed_avg(results(), f / n),
    }
    if n * d <= BULYAN_ENTRIES and n <= 50:
        found["bulyan"] = lambda: aggregate_bulyan(results(), b, aggregate_krum, to_keep=0)
    return found
