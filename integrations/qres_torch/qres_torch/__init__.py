"""PyTorch for QRES: a module, a loader and an optimiser, trained by a swarm."""

from __future__ import annotations

from qres_torch.trainer import TorchTrainer

__all__ = ["TorchTrainer"]
