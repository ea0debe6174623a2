"""The step of every single example, for plugins that hide single examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from qres_torch import draws
from qres_torch.border import torch
from qres_torch.layout import Layout, Reals, alone, refused
from qres_torch.loop import TorchLoop, device_of, is_map, is_row, moved
from qres_torch.places import places


def check_alone(module: Any, layout: Layout) -> None:
    """Refuse a module in which examples depend on each other. Raises OptionError: QRES-E105."""
    batched = torch.nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch has no other name
    for name, part in module.named_modules():
        if isinstance(part, batched):
            what = f"{name} is a {type(part).__name__}: an example's step depends on the others"
            raise refused("per_example", what, "use GroupNorm or LayerNorm")
    buffers = [name for name in layout.travelling if name in dict(module.named_buffers())]
    if buffers:
        what = f"buffers travel, and no example has a step for them: {buffers[0]}"
        raise refused("per_example", what, 'buffers="local"')


def steps(
    module: Any, layout: Layout, loop: TorchLoop, loader: Any, rate: float, seed: int
) -> Iterator[Reals]:
    """``-rate`` times the gradient of each example alone, float64, shape ``(1, d)`` each.

    Every example is computed alone, by a module as it was before the first one. What is drawn for
    it follows from ``seed`` and a digest of it: in a batch the last bits of a step follow the shape
    of the batch and the place in it, and both change for others when an example is taken away.
    """
    module.train()
    named = dict(module.named_parameters())
    moving = {name: named[name].detach() for name in layout.travelling if named[name].requires_grad}
    still = {name: each.detach() for name, each in named.items() if name not in moving}
    buffers = dict(module.named_buffers())
    device = device_of(module)

    def loss_of(weights: Any, copied: Any, batch: Any) -> Any:
        # A forward pass may write to buffers: to copies, that the next example does not see.
        kept = {name: each.detach().clone() for name, each in buffers.items()}
        values = {**weights, **still, **kept}

        def call(*inputs: Any, **given: Any) -> Any:
            return torch.func.functional_call(copied, values, inputs, given)

        return loop.outcome(call, device.type, batch)[0]

    gradient = torch.func.grad(loss_of)
    for place in places(loader):
        with draws.drawn_by(seed, module, None):
            batch = moved(loader.collate_fn([loader.dataset[place]]), device)
        with draws.drawn_by(draws.seed_of(seed, _digest(batch)), module, None):
            # It may keep something in attributes, such as the state of a recurrent layer.
            made = gradient(moving, alone(module), batch)
        row = [made.get(name, torch.zeros_like(named[name])) for name in layout.travelling]
        flat = torch.cat([each.detach().double().flatten() for each in row])
        yield (-rate * flat).cpu().numpy()[None]


def _digest(batch: Any) -> int:
    """A number that follows from the tensors of a batch."""
    digest = hashlib.sha256()
    waiting: list[Any] = [batch]
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            octets = each.cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(octets.numpy().tobytes())
        elif is_row(each):
            waiting.extend(each)
        elif is_map(each):
            waiting.extend(each.values())
        else:
            digest.update(repr(each).encode())
    return int.from_bytes(digest.digest()[:8], "big")
