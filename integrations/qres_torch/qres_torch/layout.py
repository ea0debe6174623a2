"""Tensors of a module that travel, by name and in order, and the fate of its buffers."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.errors import OptionError
from qres_torch.border import torch

Reals = NDArray[np.float64]
Tensors = Mapping[str, Any]

BUFFERS: Final = ("refuse", "local", "average")
_SHOWN: Final = 4


def refused(option: str, what: str, fix: str) -> OptionError:
    """The error that refuses an option of the trainer: QRES-E105."""
    return OptionError.of("QRES-E105", f"TorchTrainer.{option}", what, fix)


def listed(names: Sequence[str]) -> str:
    """Some names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@attrs.frozen(eq=False)
class Layout:
    """The tensors that travel, one after the other, and those that stay."""

    travelling: tuple[str, ...]  # names of parameters and averaged buffers, as in ``state_dict``
    local: tuple[str, ...]  # names of the other buffers, those that are not saved too
    shapes: tuple[tuple[int, ...], ...]  # of the tensors that travel
    positive: frozenset[str]  # of those, buffers that are no less than 0

    @classmethod
    def of(cls, module: Any, select: str | Sequence[str], buffers: str) -> Layout:
        """The layout of a module; a parameter that ``select`` leaves out is frozen.

        Raises OptionError: QRES-E105.
        """
        if buffers not in BUFFERS:
            raise refused("buffers", f"is {buffers!r}", f"write one of {', '.join(BUFFERS)}")
        chosen = _selected(module, select)
        saved = set(module.state_dict(keep_vars=True))
        own = {name: each for name, each in module.named_buffers() if name in saved}
        if own and buffers == "refuse":
            what = f"the module has buffers, which no optimiser trains: {listed(list(own))}"
            fix = (
                'write buffers="local" to keep each node\'s own, or buffers="average" to merge them'
            )
            raise refused("buffers", what, fix)
        averaged = [
            name for name, each in own.items() if buffers == "average" and each.is_floating_point()
        ]
        travelling = {**chosen, **{name: own[name] for name in averaged}}
        for name, each in travelling.items():
            if not each.is_floating_point():
                what = f"{name} holds {each.dtype}, and what travels is real numbers"
                raise refused("select", what, "leave it out")
        return cls(
            travelling=tuple(travelling),
            local=tuple(name for name, _each in module.named_buffers() if name not in averaged),
            shapes=tuple(tuple(each.shape) for each in travelling.values()),
            positive=frozenset(name for name in averaged if name.endswith("running_var")),
        )

    @property
    def size(self) -> int:
        """Number of the numbers that travel."""
        return sum(math.prod(shape) for shape in self.shapes)

    def tensors(self, module: Any) -> list[Any]:
        """Tensors that travel, of a module of this layout."""
        named = dict(module.named_parameters()) | dict(module.named_buffers())
        return [named[name] for name in self.travelling]

    def numbers(self, module: Any) -> Reals:
        """Numbers that travel, float64, shape ``(d,)``."""
        with torch.no_grad():
            return np.concatenate(
                [each.detach().double().cpu().numpy().ravel() for each in self.tensors(module)]
            )

    def parts(self, module: Any, real: Reals) -> dict[Any, Any]:
        """The part of ``real``, float64, shape ``(d,)``, of each parameter that trains."""
        at, found = 0, dict[Any, Any]()
        for tensor in self.tensors(module):
            part = torch.from_numpy(real[at : at + tensor.numel()]).view(tensor.shape)
            at += tensor.numel()
            if tensor.requires_grad:
                found[tensor] = part.to(tensor.device, tensor.dtype)
        return found

    def load(self, module: Any, real: Reals) -> None:
        """Write ``real``, float64, shape ``(d,)``, into a module, rounded to its precision."""
        at = 0
        with torch.no_grad():
            for name, tensor in zip(self.travelling, self.tensors(module), strict=True):
                part = real[at : at + tensor.numel()]
                part = np.maximum(part, 0.0) if name in self.positive else part
                tensor.copy_(torch.from_numpy(part).view(tensor.shape))
                at += tensor.numel()

    def kept(self, module: Any) -> Tensors:
        """Copies of the buffers that stay."""
        named = dict(module.named_buffers())
        return {name: named[name].detach().clone() for name in self.local}

    def frozen(self, module: Any) -> bytes:
        """SHA-256 of the parameters that do not travel; empty without any."""
        still = sorted(set(dict(module.named_parameters())) - set(self.travelling))
        if not still:
            return b""
        named = dict(module.named_parameters())
        digest = hashlib.sha256()
        for name in still:
            each = named[name].detach()
            digest.update(f"{name} {each.dtype} {tuple(each.shape)}\n".encode())
            digest.update(each.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.digest()

    def put(self, module: Any, kept: Tensors) -> None:
        """Write the buffers that stay into a module."""
        named = dict(module.named_buffers())
        with torch.no_grad():
            for name, each in kept.items():
                named[name].copy_(each)


def alone(module: Any) -> Any:
    """The module with its own tensors, and with attributes that whoever uses it may change.

    A module may keep something in attributes, such as the state of a recurrent layer: it is for no
    other node, round or example.
    """
    shared = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _selected(module: Any, select: str | Sequence[str]) -> dict[str, Any]:
    named: dict[str, Any] = dict(module.named_parameters())
    if select == "all":
        chosen = named
    elif select == "trainable":
        chosen = {name: each for name, each in named.items() if each.requires_grad}
    else:
        patterns: Iterable[str] = (select,) if isinstance(select, str) else tuple(select)
        chosen = dict[str, Any]()
        for pattern in patterns:
            found = {name: each for name, each in named.items() if fnmatchcase(name, pattern)}
            if not found:
                what = f"no parameter is called {pattern!r}"
                fix = (
                    f'write "all", "trainable" or a pattern of names such as {listed(list(named))}'
                )
                raise refused("select", what, fix)
            chosen |= found
        chosen = {name: each for name, each in named.items() if name in chosen}
        for name, each in named.items():
            each.requires_grad_(name in chosen)
    if not chosen:
        raise refused("select", "no parameter of the module travels", "leave some of them unfrozen")
    return chosen
