"""Server optimisers for QRES: momentum and adaptive steps along what any rule merges."""

from __future__ import annotations

from qres_server_optimiser.plugin import FedAdam, FedAvgM, FedYogi
from qres_server_optimiser.steps import adam_moment, adaptive_step, momentum_step, yogi_moment

__all__ = [
    "FedAdam",
    "FedAvgM",
    "FedYogi",
    "adam_moment",
    "adaptive_step",
    "momentum_step",
    "yogi_moment",
]
