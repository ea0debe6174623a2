"""Memory of a node from round to round: buffers that do not travel, its optimiser's state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from qres_core.errors import ValueRefusedError
from qres_core.training import LastStep
from qres_torch.border import BadFileError, files, torch
from qres_torch.layout import Tensors, refused

_FORM: Final = "qres-torch/memory/v2"
_MODELS: Final = ("last/before", "last/model")
_NONE: Final = torch.empty(0, dtype=torch.uint8)
Moments = Mapping[str, Mapping[str, Any]]
"""The ``state`` of an optimiser: by number of a parameter, tensors and numbers by name."""


@attrs.frozen(eq=False)
class Kept:
    """State to keep after a round."""

    buffers: Tensors
    moments: Moments = attrs.field(factory=dict[str, Mapping[str, Any]])


@attrs.define(eq=False)
class NodeMemory:
    """State that was kept after the last round, and before it.

    A round may be trained in again: training begins ahead, or a simulation goes on after a break.
    It then begins from what there was before, as if it had not been trained in.
    """

    after: Kept
    before: Kept = attrs.field(init=False)
    number: int = 0  # of the last round

    def __attrs_post_init__(self) -> None:
        self.before = self.after

    def begin(self, number: int) -> Kept:
        """State that a round begins with."""
        if number != self.number:
            self.before, self.number = self.after, number
        return self.before


def moments_of(optimizer: Any) -> Moments:
    """The state of an optimiser. Raises OptionError: QRES-E105 for what is no tensor or number."""
    found: dict[str, dict[str, Any]] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        found[str(number)] = {}
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                found[str(number)][name] = value.detach().clone()
            elif value is None or isinstance(value, (int, float)):
                found[str(number)][name] = value
            else:
                what = f"{type(optimizer).__name__} keeps a {type(value).__name__} as {name!r}"
                raise refused("keep_optimizer", what, "keep_optimizer=False")
    return found


def load_moments(optimizer: Any, moments: Moments) -> None:
    """Give an optimiser that was just made the state of another of its kind."""
    if moments:
        state = {
            int(number): {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in entries.items()
            }
            for number, entries in moments.items()
        }
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def encode(memory: NodeMemory, last: LastStep) -> bytes:
    """A memory as a safetensors file, with what the swarm did last."""
    tensors: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for when, kept in (("before", memory.before), ("after", memory.after)):
        for name, each in kept.buffers.items():
            tensors[f"{when}/buffer/{name}"] = each.cpu().contiguous().clone()
        for number, entries in kept.moments.items():
            for name, value in entries.items():
                path = f"{when}/moment/{number}/{name}"
                if isinstance(value, torch.Tensor):
                    tensors[path] = value.cpu().contiguous().clone()
                else:
                    plain[path] = value
    *models, step, voids = last.raw()
    for name, each in zip(_MODELS, models, strict=True):
        tensors[name] = torch.frombuffer(bytearray(each), dtype=torch.uint8) if each else _NONE
    told = {"form": _FORM, "number": memory.number, "plain": plain, "last": [step, voids]}
    facts = json.dumps(told, sort_keys=True)
    octets: bytes = files.save(tensors, metadata={"qres": facts})
    return octets


def decode(octets: bytes, like: NodeMemory, last: LastStep) -> NodeMemory:
    """The memory in a file of :func:`encode`; ``like`` has the same buffers, ``last`` is set.

    Raises ValueRefusedError: QRES-E506 for anything else.
    """
    try:
        facts = _facts(octets)
        values: dict[str, Any] = {**facts["plain"], **files.load(octets)}
        made = NodeMemory(_kept(values, "after", like.after.buffers), facts["number"])
        made.before = _kept(values, "before", like.after.buffers)
        models = [values[name].numpy().tobytes() for name in _MODELS]
        last.set_raw([*models, *facts["last"]])
    except (BadFileError, ValueError, LookupError, TypeError) as error:
        what = f"is not what a trainer of this module kept: {error}"
        fix = "begin without it"
        raise ValueRefusedError.of("QRES-E506", "TorchTrainer.recall", what, fix) from error
    return made


def _facts(octets: bytes) -> dict[str, Any]:
    size = int.from_bytes(octets[:8], "little")
    header: Any = json.loads(octets[8 : 8 + size])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["qres"])
    if facts["form"] != _FORM or type(facts["number"]) is not int or facts["number"] < 0:
        raise ValueError("another form")
    return facts


def _kept(values: Mapping[str, Any], when: str, like: Tensors) -> Kept:
    buffers: dict[str, Any] = {}
    for name, each in like.items():
        found = values[f"{when}/buffer/{name}"]
        if found.shape != each.shape or found.dtype != each.dtype:
            raise ValueError(f"{name} has another shape or type")
        buffers[name] = found.to(each.device)
    moments: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        time, kind, *rest = path.split("/", 3)
        if time == when and kind == "moment":
            number, name = rest
            moments.setdefault(str(int(number)), {})[name] = value
    return Kept(buffers, moments)
