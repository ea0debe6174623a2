"""A tiny classifier, examples for it, and rounds to train it in."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from qres_torch import TorchTrainer
from torch.utils.data import DataLoader, TensorDataset

from qres_core import RoundInfo, Vector, vector_digest

STEP = 2.0**-16
FEATURES, CLASSES = 6, 4


def a_round(vector: Vector, *, number: int = 1, scale: int = 0) -> RoundInfo:
    return RoundInfo("lab", number, vector_digest(vector), vector.size, scale, (), 1)


def blobs(n: int, seed: int = 0) -> TensorDataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    centres = np.random.default_rng(99).normal(0, 2, (CLASSES, FEATURES))
    x = centres[y] + rng.normal(size=(n, FEATURES))
    return TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


def loader(n: int = 40, seed: int = 0, **options: Any) -> DataLoader:
    return DataLoader(blobs(n, seed), **({"batch_size": 8, "shuffle": True} | options))


def net(*, dropout: float = 0.0, norm: bool = False) -> Any:
    torch.manual_seed(7)
    middle = [torch.nn.BatchNorm1d(8)] if norm else []
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 8),
        *middle,
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(8, CLASSES),
    )


@attrs.frozen
class Output:
    loss: Any


class KnowsItsLoss(torch.nn.Module):
    """:func:`net`, called as Hugging Face's models are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Any, labels: Any) -> Output:
        return Output(torch.nn.functional.cross_entropy(self.inner(x), labels))


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=0.01)


def trainer(module: Any = None, batches: Any = None, **options: Any) -> TorchTrainer:
    options = {"optimizer": sgd, "held_out": loader(30, 1)} | options
    return TorchTrainer(
        net() if module is None else module, loader() if batches is None else batches, **options
    )
