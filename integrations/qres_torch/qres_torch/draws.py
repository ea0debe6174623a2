"""Random choices: made again from a seed, the index of the node and the number of the round."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from qres_torch.border import torch

_TURN: Final = threading.RLock()  # the generators belong to the process


def seed_of(*numbers: int) -> int:
    """A seed below ``2**63`` that follows from whole numbers, none of them negative."""
    drawn: int = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(drawn) >> 1


@contextmanager
def drawn_by(seed: int, module: Any, loader: object) -> Generator[None]:
    """Seed the generators of torch, numpy and Python for a block, and put them back after it.

    Dropout, the order of examples and what a data set does at random then depend on the seed alone.
    Nothing else that is drawn by this takes place meanwhile in another thread.
    """
    cards = {each.device for each in module.parameters() if each.device.type == "cuda"}
    with _TURN, torch.random.fork_rng(devices=sorted(cards, key=str)):
        # In turn, or it would be what another training is drawing from.
        python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - data sets use it
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
            seed_loader(loader, seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002 - as above


def bare(loader: Any) -> Any:
    """Object that the user gave, without QRES's layers around it."""
    while not isinstance(loader, torch.utils.data.DataLoader) and hasattr(loader, "source"):
        loader = loader.source
    return loader


def seed_loader(loader: Any, seed: int) -> None:
    """Give a ``DataLoader`` generators of its own, seeded.

    Without one it draws from the generator of the process, even where it shuffles nothing, and
    would disturb a training in another thread.
    """
    loader = bare(loader)
    batches: object = getattr(loader, "batch_sampler", None)
    owners: list[Any] = [
        loader,
        getattr(loader, "sampler", None),
        getattr(batches, "sampler", None),
    ]
    for owner in owners:
        if hasattr(owner, "generator"):
            if owner.generator is None:
                owner.generator = torch.Generator()
            owner.generator.manual_seed(seed)
