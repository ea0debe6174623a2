"""The training of a round: an ordinary loop of torch, for those who bring none of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, TypeGuard

import attrs

from qres_core import RoundInfo
from qres_torch.border import torch

MakeOptimizer: TypeAlias = Callable[[Any], Any]
MakeSchedule: TypeAlias = Callable[[Any, RoundInfo], Any]
Loss: TypeAlias = Callable[[Any, Any], Any]


def is_map(batch: object) -> TypeGuard[Mapping[str, Any]]:
    """True if it is a mapping."""
    return isinstance(batch, Mapping)


def is_row(batch: object) -> TypeGuard[Sequence[Any]]:
    """True if it is a list or a tuple."""
    return isinstance(batch, (list, tuple))


def moved(batch: Any, device: Any) -> Any:
    """A batch on a device: a tensor, or tensors in lists, tuples and mappings."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if is_map(batch):
        return {key: moved(each, device) for key, each in batch.items()}
    return [moved(each, device) for each in batch] if is_row(batch) else batch


def length_of(batch: Any) -> int:
    """Examples in a batch: the first axis of its first tensor."""
    inner: Any = batch
    while not isinstance(inner, torch.Tensor):
        inner = next(iter(inner.values())) if is_map(inner) else inner[0]
    return int(inner.shape[0]) if inner.dim() else 1


def device_of(module: Any) -> Any:
    """The device of a module, by its first parameter."""
    return next(module.parameters()).device


@attrs.define(eq=False)
class Repeated:
    """A loader's batches again and again, as many in a pass as somebody asks for.

    A pass goes on where the one before it stopped, so that all batches have their turn.
    """

    source: Any  # what can be iterated again and again
    length: int  # batches in a pass
    _left: Iterator[Any] = attrs.field(factory=lambda: iter(()), init=False)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.length):
            batch = next(self._left, None)
            if batch is None:
                self._left = iter(self.source)
                batch = next(self._left, None)
            if batch is None:
                return
            yield batch

    def __getattr__(self, name: str) -> Any:
        """Look up other attributes that a training of the user's own may ask a loader for."""
        return getattr(self.source, name)


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
    """Loop by which a module is trained, and measured."""

    optimizer: MakeOptimizer
    schedule: MakeSchedule | None
    loss: Loss | None
    epochs: int
    clip: float | None
    proximal: float
    carried: float  # share of the swarm's last step in each step
    autocast: Any

    def train(
        self,
        module: Any,
        loader: Any,
        round_info: RoundInfo,
        optimizer: Any,
        way: Mapping[Any, Any] | None = None,
    ) -> dict[str, float]:
        """Train; returns the mean loss over the last pass, without the proximal term.

        ``way``: the swarm's last step, by the parameter that it is of.
        """
        parameters = [each for each in module.parameters() if each.requires_grad]
        anchors = [each.detach().clone() for each in parameters] if self.proximal else []
        schedule = None if self.schedule is None else self.schedule(optimizer, round_info)
        kind = device_of(module).type
        steps = self.epochs * len(loader) if way is not None else 1
        module.train()
        measured = Scored()
        for _ in range(self.epochs):
            measured = Scored()
            for batch, length in self._batches(module, loader):
                optimizer.zero_grad()
                loss = self.outcome(module, kind, batch)[0]
                loss.backward()
                for parameter, anchor in zip(parameters, anchors, strict=False):
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - anchor, alpha=self.proximal)
                if self.clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, self.clip)
                with self._partly(way or {}, steps):
                    optimizer.step()
                if schedule is not None:
                    schedule.step()
                total = measured.loss + float(loss.detach()) * length
                measured = Scored(measured.examples + length, total)
        optimizer.zero_grad()
        return measured.figures()

    @contextmanager
    def _partly(self, way: Mapping[Any, Any], steps: int) -> Generator[None]:
        """Have a step go partly the swarm's way (FedCM, arXiv 2106.10874), whatever makes it."""
        before = [each.detach().clone() for each in way]
        yield
        with torch.no_grad():
            for parameter, start in zip(way, before, strict=True):
                parameter.lerp_(start, self.carried)
                parameter.add_(way[parameter], alpha=self.carried / steps)

    def measure(self, module: Any, loader: Any) -> Scored:
        """Loss and, where it is cross-entropy of classes, accuracy."""
        kind = device_of(module).type
        module.eval()
        measured = Scored()
        with torch.no_grad():
            for batch, length in self._batches(module, loader):
                loss, outputs, classes = self.outcome(module, kind, batch)
                total, right = measured.loss + float(loss) * length, None
                if outputs is not None:
                    found = int((outputs.argmax(dim=1) == classes).sum())
                    right = (measured.right or 0) + found
                measured = Scored(measured.examples + length, total, right)
        return measured

    def _batches(self, module: Any, loader: Any) -> Iterator[tuple[Any, int]]:
        device = device_of(module)
        for batch in loader:
            yield moved(batch, device), length_of(batch)

    def outcome(self, call: Callable[..., Any], kind: str, batch: Any) -> tuple[Any, Any, Any]:
        """The mean loss of a batch; of a classifier by cross-entropy outputs and classes too.

        ``call``: the module; ``kind``: of its device.
        """
        lower = (
            nullcontext() if self.autocast is None else torch.autocast(kind, dtype=self.autocast)
        )
        with lower:
            if is_map(batch):
                outputs = call(**batch)
                return (
                    outputs.loss if self.loss is None else self.loss(outputs, batch),
                    None,
                    None,
                )
            parts: Sequence[Any] = batch
            *inputs, targets = parts
            outputs = call(*inputs)
            if self.loss is not None:
                return self.loss(outputs, targets), None, None
            loss = torch.nn.functional.cross_entropy(outputs, targets)
        classes = targets.dim() == 1 and not targets.is_floating_point()
        return loss, outputs if classes else None, targets
