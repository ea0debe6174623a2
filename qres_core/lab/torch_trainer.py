"""A trainer for any ``torch.nn.Module``. Torch is imported on first use, never before."""

from __future__ import annotations

import copy
import hashlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import fixed
from qres_core.contract.errors import LabError
from qres_core.contract.last_step import LastStep
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Update, Vector, check_vector
from qres_core.lab.data import Purpose, stream
from qres_core.lab.numpy_trainer import check_grid, check_single_step

_SEED_BYTES: Final = 32  # of what decides a round's random choices


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise LabError.of(
            "QRES-E802",
            "trainer",
            f"torch cannot be imported: {error}",
            "pip install torch",
        ) from error


def _seed_of(drawn: bytes, *tensors: Any) -> int:
    """What the random choices for an example are made by: a digest of it, below ``2**63``."""
    digest = hashlib.sha256(drawn)
    for tensor in tensors:
        digest.update(tensor.cpu().reshape(-1).view(_torch().uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8]) >> 1


def _real_parameters(module: Any) -> NDArray[np.float64]:
    utils = _torch().nn.utils
    flat = utils.parameters_to_vector(module.parameters()).detach().cpu().double().numpy()
    return np.array(flat, dtype=np.float64)


def module_vector(module: Any, *, scale: int = 0) -> Vector:
    """The parameters of a module as a vector on the grid: the model to start a swarm from.

    ``module``: a ``torch.nn.Module``; parameters in the order of ``module.parameters()``. Returns
    int32, shape ``(d,)``. Raises LabError: QRES-E802 without torch. Raises ValueRefusedError:
    QRES-E501 for parameters that are not finite, QRES-E504 for the scale.
    """
    return fixed.encode(_real_parameters(module), scale=scale).vector


@attrs.frozen(eq=False, kw_only=True)
class TorchTrainer:
    """Mini-batch SGD on one node's examples, with FedProx's proximal term and FedCM's momentum.

    The step is that of :mod:`qres_core.lab.numpy_trainer`. The module is copied, so that trainers
    made from one module share nothing. Only parameters travel: buffers (running statistics) start
    as they are in ``module`` and stay with the node.

    A fit draws from torch's generator, seeded for it and put back afterwards, so dropout and the
    order of examples depend on ``seed``, ``node`` and the round alone. Bit-equal results further
    need the same torch, device and number of threads.

    Raises:
        LabError: QRES-E802 without torch.
    """

    module: Any  # maps a batch of ``x`` to outputs, for classification logits ``(n, classes)``
    x: Any  # this node's examples, first axis ``n``; anything ``torch.as_tensor`` takes
    y: Any  # their targets, first axis ``n``
    test_x: Any  # held-out examples
    test_y: Any  # their targets
    # maps outputs and targets to a mean loss; ``None`` is cross-entropy, and then ``evaluate``
    # gives the accuracy too
    loss: Callable[[Any, Any], Any] | None = None
    # passes over the examples in a round
    local_epochs: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    # examples in a step; the last batch of a pass may be smaller
    batch_size: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    learning_rate: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))  # step size
    # FedProx's ``mu``, 0 or more
    proximal: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    # FedCM's ``1 - alpha``: share of the swarm's last step in each step; from 0, below 1
    global_momentum: float = attrs.field(
        default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)]
    )
    seed: int = 0  # with ``node`` and the round's number decides every random choice
    node: int = 0  # index of the node
    scale: int = 0  # power-of-two exponent of the grid
    last: LastStep = attrs.field(factory=LastStep, repr=False)  # that of the swarm

    def __attrs_post_init__(self) -> None:
        _torch()
        object.__setattr__(self, "module", copy.deepcopy(self.module))

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Train from the round's model.

        ``vector``: the round's model, int32, shape ``(d,)``. Returns the encoded difference,
        weighted by the number of examples; ``metrics["loss"]`` is the mean loss over the last pass,
        without the proximal term. Raises ValueRefusedError: QRES-E501 when training diverged,
        QRES-E502 or QRES-E503 for another vector, QRES-E504 for another scale.
        """
        torch = _torch()
        check_grid(vector, round_info, dimension=self._dimension(), scale=self.scale)
        self._load(vector)
        # What was loaded, not the vector: float32 parameters may round it, and that is no training.
        start = _real_parameters(self.module)
        seed = int(stream(self.seed, Purpose.SHUFFLE, self.node, round_info.number).integers(2**63))
        way = self.last.until(vector, round_info) if self.global_momentum else None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loss = self._descend(way)
        encoded = fixed.encode(_real_parameters(self.module) - start, scale=self.scale)
        return Update.of(encoded, weight=len(self.y), metrics={"loss": loss})

    def _descend(self, way: NDArray[np.float64] | None) -> float:
        torch = _torch()
        parameters = [each for each in self.module.parameters() if each.requires_grad]
        anchors = [each.detach().clone() for each in parameters]
        x, y = self._tensors(self.x, self.y)
        pull = self.learning_rate * self.proximal
        rate = (
            self.learning_rate if way is None else (1 - self.global_momentum) * self.learning_rate
        )
        carried = [None] * len(parameters) if way is None else self._carried(way, len(y))
        self.module.train()
        total = 0.0
        for _ in range(self.local_epochs):
            total = 0.0
            for batch in torch.randperm(len(y)).to(y.device).split(self.batch_size):
                self.module.zero_grad()
                loss = self._loss(self.module(x[batch]), y[batch])
                loss.backward()
                total += float(loss.detach()) * len(batch)
                with torch.no_grad():
                    for parameter, anchor, along in zip(parameters, anchors, carried, strict=True):
                        if parameter.grad is not None:
                            parameter.sub_(parameter.grad, alpha=rate)
                        if along is not None:
                            parameter.add_(along)
                        if pull:
                            parameter.add_(anchor, alpha=pull).div_(1.0 + pull)
        return total / len(y)

    def _carried(self, way: NDArray[np.float64], examples: int) -> list[Any]:
        """The part of the swarm's last step that belongs to a local step, by parameter."""
        steps = self.local_epochs * math.ceil(examples / self.batch_size)
        flat = self._flat(self.global_momentum / steps * way)
        sizes = [int(each.numel()) for each in self.module.parameters()]
        return [
            part.view_as(each)
            for part, each in zip(flat.split(sizes), self.module.parameters(), strict=True)
            if each.requires_grad
        ]

    def records(self) -> int:
        """How many examples there are.

        Raises LabError: QRES-E105 for options that make several steps of a round, or pull at the
        model, and for a module in which examples depend on each other by batch normalisation.
        """
        check_single_step(
            local_epochs=self.local_epochs,
            proximal=self.proximal,
            global_momentum=self.global_momentum,
        )
        batched = _torch().nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch has no other name
        for name, part in self.module.named_modules():
            if isinstance(part, batched):
                what = f"{name} is a {type(part).__name__}: an example's step depends on the others"
                fix = "use GroupNorm or LayerNorm, which look at one example"
                raise LabError.of("QRES-E105", "trainer", what, fix)
        return len(self.y)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[NDArray[np.float64]]:
        """The gradient step of each example, divided by ``batch_size``, a public number.

        Every example is computed alone, by a module as it was before the first one, and its dropout
        is drawn by a digest of the example. In a batch the last bits of a step follow the shape of
        the batch and the place in it, and both change for all others when an example is taken away.

        ``loss`` is given one example and its target, as a batch of one. Yields float64, shape
        ``(k, d)``; frozen parameters do not move. Raises ValueRefusedError: QRES-E502 or QRES-E503
        for another vector, QRES-E504 for another scale.
        """
        torch = _torch()
        check_grid(vector, round_info, dimension=self._dimension(), scale=self.scale)
        self._load(vector)
        self.module.train()
        named = dict(self.module.named_parameters())
        moving = {name: each.detach() for name, each in named.items() if each.requires_grad}
        still = {name: each.detach() for name, each in named.items() if name not in moving}
        buffers = dict(self.module.named_buffers())
        shared = {id(each): each for each in (*named.values(), *buffers.values())}

        def loss_of(weights: Any, module: Any, example: Any, target: Any) -> Any:
            # A forward pass may write to buffers: to copies, that the next example does not see.
            kept = {name: each.detach().clone() for name, each in buffers.items()}
            made = torch.func.functional_call(module, {**weights, **still, **kept}, (example,))
            return self._loss(made, target)

        gradient = torch.func.grad(loss_of)
        x, y = self._tensors(self.x, self.y)
        drawn = stream(self.seed, Purpose.SHUFFLE, self.node, round_info.number).bytes(_SEED_BYTES)

        def step_of(place: int) -> Any:
            # Copies begin at an aligned address, wherever the example lies among the others.
            example, target = x[place : place + 1].clone(), y[place : place + 1].clone()
            torch.manual_seed(_seed_of(drawn, example, target))
            # It may keep something in attributes too, such as the state of a recurrent layer.
            alone = copy.deepcopy(self.module, dict(shared))
            made = gradient(moving, alone, example, target)
            parts = [made.get(name, each.new_zeros(each.shape)) for name, each in named.items()]
            return torch.cat([part.detach().flatten() for part in parts])

        for first in range(0, len(y), self.batch_size):
            places = range(first, min(first + self.batch_size, len(y)))
            with torch.random.fork_rng():
                made = torch.stack([step_of(place) for place in places])
            # float64 from here on: numpy has no bfloat16.
            yield made.cpu().double().mul_(-self.learning_rate / self.batch_size).numpy()

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Mean loss and, where the loss is cross-entropy, accuracy (0..1) on held-out examples.

        ``vector``: a model, int32, shape ``(d,)``. Raises ValueRefusedError: QRES-E502 or QRES-E503
        for another vector.
        """
        torch = _torch()
        check_vector(vector, "vector", dimension=self._dimension())
        self._load(vector)
        x, y = self._tensors(self.test_x, self.test_y)
        self.module.eval()
        with torch.no_grad():
            outputs = self.module(x)
            figures = {"loss": float(self._loss(outputs, y))}
        if self.loss is None:
            figures["accuracy"] = float((outputs.argmax(dim=1) == y).double().mean())
        return figures

    def _loss(self, outputs: Any, targets: Any) -> Any:
        measure = self.loss or _torch().nn.functional.cross_entropy
        return measure(outputs, targets)

    def _dimension(self) -> int:
        return sum(int(each.numel()) for each in self.module.parameters())

    def _load(self, vector: Vector) -> None:
        torch = _torch()
        flat = self._flat(fixed.decode(vector, scale=self.scale))
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(flat, self.module.parameters())

    def _flat(self, real: NDArray[np.float64]) -> Any:
        """Real numbers in the module's precision, on its device."""
        like = next(self.module.parameters())
        return _torch().as_tensor(real, dtype=like.dtype, device=like.device)

    def _tensors(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The arrays on the module's device, real numbers in its precision."""
        torch = _torch()
        like = next(self.module.parameters())

        def convert(values: Any) -> Any:
            tensor = torch.as_tensor(values, device=like.device)
            return tensor.to(like.dtype) if tensor.is_floating_point() else tensor

        return convert(x), convert(y)
