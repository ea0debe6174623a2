"""The functions behind flwr's strategies on messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.common import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from peers import Rows, Rules, bulyan_f


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on one reply with one array for each row; strategies call these functions."""
    n = len(rows)
    b = bulyan_f(n, f)
    replies = [
        RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(row)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        for row in rows
    ]

    def layers() -> Any:
        return np.stack([reply.array_records["arrays"]["w"].numpy() for reply in replies])

    def bulyan() -> Any:
        chosen = select_multikrum(replies, b, n - 2 * b)
        models = [item.array_records["arrays"].to_numpy_ndarrays() for item in chosen]
        middle = [np.median(np.stack([model[0] for model in models]), axis=0)]
        return aggregate_n_closest_weights(middle, models, n - 4 * b)

    return {
        "krum": lambda: select_multikrum(replies, f, 1),
        "multi_krum": lambda: aggregate_arrayrecords(
            select_multikrum(replies, f, n - f), "num-examples"
        ),
        "median": lambda: np.median(layers(), axis=0),
        "trimmed_mean": lambda: trim_mean(layers(), f / n),
        "bulyan": bulyan,
    }
