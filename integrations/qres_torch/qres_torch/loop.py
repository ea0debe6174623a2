"""The training of a round: an ordinary loop of torch, for those who bring none of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeGuard

import attrs

from qres_core import RoundInfo
from qres_torch.border import torch

MakeOptimizer: TypeAlias = Callable[[Any], Any]
MakeSchedule: TypeAlias = Callable[[Any, RoundInfo], Any]
Loss: TypeAlias = Callable[[Any, Any], Any]


def _is_map(batch: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(batch, Mapping)


def is_row(batch: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list or a tuple."""
    return isinstance(batch, (list, tuple))


def moved(batch: Any, device: Any) -> Any:
    """A batch on a device: a tensor, or tensors in lists, tuples and mappings."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if _is_map(batch):
        return {key: moved(each, device) for key, each in batch.items()}
    return [moved(each, device) for each in batch] if is_row(batch) else batch


def length_of(batch: Any) -> int:
    """Examples in a batch: the first axis of its first tensor."""
    inner: Any = batch
    while not isinstance(inner, torch.Tensor):
        inner = next(iter(inner.values())) if _is_map(inner) else inner[0]
    return int(inner.shape[0]) if inner.dim() else 1


@attrs.frozen
class Scored:
    """Sums over examples."""

    examples: int = 0
    loss: float = 0.0  # sum
    right: int | None = None  # how many were classified rightly; ``None`` where that is not known

    def figures(self) -> dict[str, float]:
        """Means; none without examples."""
        if not self.examples:
            return {}
        found = {"loss": self.loss / self.examples}
        if self.right is not None:
            found["accuracy"] = self.right / self.examples
        return found


@attrs.frozen(kw_only=True)
class TorchLoop:
    """How a module is trained, and measured."""

    optimizer: MakeOptimizer
    schedule: MakeSchedule | None
    loss: Loss | None
    epochs: int
    clip: float | None
    proximal: float
    autocast: Any

    def train(
        self, module: Any, loader: Any, round_info: RoundInfo, optimizer: Any
    ) -> dict[str, float]:
        """Train; returns the mean loss over the last pass, without the proximal term."""
        parameters = [each for each in module.parameters() if each.requires_grad]
        anchors = [each.detach().clone() for each in parameters] if self.proximal else []
        schedule = None if self.schedule is None else self.schedule(optimizer, round_info)
        module.train()
        measured = Scored()
        for _ in range(self.epochs):
            measured = Scored()
            for batch, length in self._batches(module, loader):
                optimizer.zero_grad()
                loss = self._outcome(module, batch)[0]
                loss.backward()
                for parameter, anchor in zip(parameters, anchors, strict=False):
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - anchor, alpha=self.proximal)
                if self.clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, self.clip)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                total = measured.loss + float(loss.detach()) * length
                measured = Scored(measured.examples + length, total)
        optimizer.zero_grad()
        return measured.figures()

    def measure(self, module: Any, loader: Any) -> Scored:
        """Loss and, where it is cross-entropy of classes, accuracy."""
        module.eval()
        measured = Scored()
        with torch.no_grad():
            for batch, length in self._batches(module, loader):
                loss, right = self._outcome(module, batch)
                total = measured.loss + float(loss) * length
                all_right = None if right is None else (measured.right or 0) + right
                measured = Scored(measured.examples + length, total, all_right)
        return measured

    def _batches(self, module: Any, loader: Any) -> Iterator[tuple[Any, int]]:
        device = next(module.parameters()).device
        for batch in loader:
            yield moved(batch, device), length_of(batch)

    def _outcome(self, module: Any, batch: Any) -> tuple[Any, int | None]:
        """The mean loss of a batch, and how many examples were classified rightly."""
        kind = next(module.parameters()).device.type
        lower = (
            nullcontext() if self.autocast is None else torch.autocast(kind, dtype=self.autocast)
        )
        with lower:
            if _is_map(batch):
                outputs = module(**batch)
                return (outputs.loss if self.loss is None else self.loss(outputs, batch)), None
            parts: Sequence[Any] = batch
            *inputs, targets = parts
            outputs = module(*inputs)
            if self.loss is not None:
                return self.loss(outputs, targets), None
            loss = torch.nn.functional.cross_entropy(outputs, targets)
        classes = targets.dim() == 1 and not targets.is_floating_point()
        right = int((outputs.detach().argmax(dim=1) == targets).sum()) if classes else None
        return loss, right
