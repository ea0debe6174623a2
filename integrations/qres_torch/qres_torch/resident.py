"""Examples on the module's device: moved once, and not in each pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from qres_torch import draws
from qres_torch.border import torch
from qres_torch.layout import refused
from qres_torch.loop import device_of, is_map, is_row, moved


@attrs.define(eq=False)
class ResidentLoader:
    """The batches of a loader, in the loader's own order."""

    source: Any  # a ``DataLoader``, or a list of batches
    module: Any
    seed: int  # of what the data set does at random
    _where: Any = attrs.field(default=None, init=False)
    _held: Any = attrs.field(default=None, init=False)

    @classmethod
    def of(cls, loader: Any, module: Any, seed: int, name: str) -> Any:
        """Such a loader, or ``None`` of ``None``. Raises OptionError: QRES-E105."""
        if loader is None:
            return None
        sampled = getattr(loader, "batch_sampler", None) is not None
        if not is_row(loader) and not (sampled and hasattr(loader.dataset, "__getitem__")):
            what = f"{name} has no examples by number, and they are to be moved once"
            fix = "give a DataLoader of a data set with a length, or a list of batches"
            raise refused("resident", what, fix)
        return cls(loader, module, seed)

    @property
    def dataset(self) -> Any:
        """The loader's data set."""
        return self.source.dataset

    @property
    def collate_fn(self) -> Any:
        """The loader's."""
        return self.source.collate_fn

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        device = device_of(self.module)
        if self._where != device:
            with draws.drawn_by(self.seed, self.module, None):
                self._held, self._where = moved(self._whole(), device), device
        if is_row(self.source):
            yield from self._held
            return
        # A DataLoader draws a number when a pass begins: the order is then the same.
        torch.empty((), dtype=torch.int64).random_(generator=self.source.generator)
        for numbers in self.source.batch_sampler:
            yield _taken(self._held, torch.as_tensor(list(numbers), device=device))

    def _whole(self) -> Any:
        """All examples as a single batch."""
        if is_row(self.source):
            return self.source
        return self.source.collate_fn([self.dataset[at] for at in range(len(self.dataset))])


def _taken(batch: Any, numbers: Any) -> Any:
    """The examples of these numbers. Raises OptionError: QRES-E105 for what is no tensor."""
    if isinstance(batch, torch.Tensor):
        return batch[numbers]
    if is_map(batch):
        return {key: _taken(each, numbers) for key, each in batch.items()}
    if is_row(batch):
        return [_taken(each, numbers) for each in batch]
    what = f"the examples hold a {type(batch).__name__}, which no device holds"
    raise refused("resident", what, "leave resident out")
