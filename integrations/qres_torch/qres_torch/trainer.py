"""A trainer of QRES from what people write for PyTorch: a module, a loader and an optimiser."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs

from qres_core import RoundInfo, Update, Vector, check_vector, fixed
from qres_core.training import LastStep
from qres_torch import draws, memory, places, records
from qres_torch.border import torch
from qres_torch.layout import Layout, Reals, Tensors, alone, refused
from qres_torch.loop import Loss, MakeOptimizer, MakeSchedule, Repeated, Scored, TorchLoop
from qres_torch.resident import ResidentLoader

Train: TypeAlias = Callable[[Any, Any, RoundInfo], Mapping[str, float] | None]
"""A training of one's own: of a module, by a loader, in a round. Returns figures for the log."""

_CALLED: Final = {
    "optimizer": "write optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
    "schedule": "write schedule=lambda optimizer, round_info: ... and make a scheduler in it",
    "loss": "give a function of outputs and targets, or a module such as torch.nn.MSELoss()",
    "train": "give a function: train(module, loader, round_info)",
}
"""What to give where something was given that nothing can call."""
_OWN, _HELD, _RECORDS = 0, 1, 2  # what is drawn for: training, held-out and single examples
FROZEN: Final = ("same", "any")
_LOOP: Final = (
    "optimizer",
    "schedule",
    "clip",
    "proximal",
    "global_momentum",
    "autocast",
    "keep_optimizer",
)


@attrs.define(eq=False)
class Bench:
    """Shared part of trainers of one module: whose turn it is, and a second module to judge with.

    A node judges models while it trains, so the numbers cannot all go through one module.
    """

    turn: threading.Lock = attrs.field(factory=threading.Lock)
    judging: threading.Lock = attrs.field(factory=threading.Lock)
    judge: Any = None
    frozen: dict[tuple[str, ...], bytes] = attrs.field(factory=dict[tuple[str, ...], bytes])


_THREADS: Final = "torch.get_num_threads"
_BENCHES: Final[WeakKeyDictionary[Any, Bench]] = WeakKeyDictionary()


@attrs.define(eq=False, slots=False, kw_only=True)
class TorchTrainer:
    """Trains a ``torch.nn.Module`` on one node's examples.

    Several trainers may share one module, as the nodes of a simulation do: each writes the round's
    model into it first. What does not travel is then the same for all of them, apart from buffers.
    Training and measuring use a copy with the same tensors, so that what a module keeps in
    attributes goes on to no other node or round.

    Torch's, numpy's and Python's generators are seeded for each round and put back after it, so an
    update depends on ``seed``, ``index``, the round, the examples and, where the node keeps any,
    its buffers and its optimiser's state. Equal bits further need the same torch, device and number
    of threads.

    Attributes:
        module: what is trained. A parameter that ``select`` names by no pattern is frozen.
        train_loader: the node's batches: a ``DataLoader``, or what can be iterated again and again.
            A batch is ``(inputs..., targets)``, or a mapping of keyword arguments to a module whose
            output has a ``loss``, as Hugging Face's do.
        optimizer: makes the optimiser of a round from the parameters that train.
        loss: maps outputs and targets to a mean loss. Left out, it is cross-entropy, and
            ``evaluate`` gives the accuracy. Of a batch that is a mapping the targets are the whole
            batch, and the loss that is left out is ``outputs.loss``.
        train: a training of one's own in place of the loop: ``train(module, loader, round_info)``.
        held_out: batches that the node never trains on. With them the trainer has ``validate`` and
            ``reference``, which rules that judge updates ask for.
        test: batches that ``evaluate`` measures on; left out, ``held_out``.
        select: the parameters that travel: ``"trainable"``, ``"all"``, or patterns of names, such
            as ``"head.*"``.
        frozen: parameters that do not travel: ``"same"``, all nodes must hold the same ones, or
            ``"any"``.
        buffers: of the module, such as running means: ``"local"`` keeps each node's own,
            ``"average"`` merges them as parameters are, ``"refuse"`` takes no module with any.
        epochs: passes over the examples in a round.
        schedule: makes a learning rate scheduler from the optimiser and the round; it steps after
            each batch.
        clip: longest gradient, in L2; longer ones are shortened.
        proximal: FedProx's ``mu``, 0 or more: ``mu (w - w_round)`` is added to the gradient.
        global_momentum: FedCM's share of the swarm's last step in each step, from 0, below 1; the
            optimiser's own has the rest.
        autocast: a type of torch such as ``torch.bfloat16``, for mixed precision.
        keep_optimizer: whether the optimiser's state stays with the node from round to round.
        resident: whether examples are moved to the module's device once, and not in each pass.
            What a data set does to an example at random it then does once.
        per_example: where a plugin hides single examples, the step of each is minus this times its
            gradient: a learning rate over a public number of examples.
        pooled: whether ``held_out`` comes from a pool that stands for the whole task.
        seed: decides all that is drawn, with ``index`` and the round.
        index: number of the node.

    Raises:
        OptionError: QRES-E105.
    """

    module: Any = attrs.field(kw_only=False)
    train_loader: Any = attrs.field(kw_only=False)
    optimizer: MakeOptimizer | None = None
    loss: Loss | None = None
    train: Train | None = None
    held_out: Any = None
    test: Any = None
    select: str | Sequence[str] = "trainable"
    frozen: str = "same"
    buffers: str = "refuse"
    epochs: int = 1
    schedule: MakeSchedule | None = None
    clip: float | None = None
    proximal: float = 0.0
    global_momentum: float = 0.0
    autocast: Any = None
    keep_optimizer: bool = False
    resident: bool = False
    per_example: float | None = None
    pooled: bool = False
    seed: int = 0
    index: int = 0
    layout: Layout = attrs.field(init=False, repr=False)
    validate: Callable[[Vector, RoundInfo], float] = attrs.field(init=False, repr=False)
    reference: Callable[[Vector, RoundInfo], Vector] = attrs.field(init=False, repr=False)
    _loop: TorchLoop = attrs.field(init=False, repr=False)
    _memory: memory.NodeMemory = attrs.field(init=False, repr=False)
    _bench: Bench = attrs.field(init=False, repr=False)
    _last: LastStep = attrs.field(factory=LastStep, init=False, repr=False)
    _last_judged: LastStep = attrs.field(factory=LastStep, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._check()
        try:
            alone(self.module)
        except Exception as error:
            what, fix = f"cannot be copied: {error}", "keep only tensors in it that are leaves"
            raise refused("module", what, fix) from error
        if self.resident:
            for name in ("train_loader", "held_out", "test"):
                held = ResidentLoader.of(getattr(self, name), self.module, self.seed, name)
                setattr(self, name, held)
        for name in ("train_loader", "held_out", "test"):
            loader = getattr(self, name)
            if hasattr(loader, "__next__"):
                what = "can be gone through once, and each round goes through it again"
                raise refused(name, what, "give a DataLoader, or a list of batches")
        self.layout = Layout.of(self.module, self.select, self.buffers)
        self._loop = TorchLoop(
            optimizer=self.optimizer or _no_optimizer,
            schedule=self.schedule,
            loss=self.loss,
            epochs=self.epochs,
            clip=self.clip,
            proximal=self.proximal,
            carried=self.global_momentum,
            autocast=self.autocast,
        )
        self._memory = memory.NodeMemory(memory.Kept(self.layout.kept(self.module)))
        self._share()

    def _share(self) -> None:
        """Share with the other trainers of the module; judge if there are examples to judge by."""
        self._bench = _BENCHES.setdefault(self.module, Bench())
        if self.held_out is not None:
            if self._bench.judge is None:
                self._bench.judge = copy.deepcopy(self.module)
            # On the instance: without held-out examples there is no such method, and QRES looks.
            self.validate, self.reference = self._validate, self._reference

    def __getstate__(self) -> dict[str, Any]:
        """All but what trainers of one module share in this process; and its number of threads."""
        mine = {"_bench", "validate", "reference"}
        state = {name: value for name, value in vars(self).items() if name not in mine}
        return {**state, _THREADS: torch.get_num_threads()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Train with as many threads as where it comes from: last bits depend on it."""
        threads = state.pop(_THREADS)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        vars(self).update(state)
        self._share()

    def _check(self) -> None:
        self._check_given()
        if self.train is None and self.optimizer is None:
            fix = "give it, for example lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            raise refused("optimizer", "is not given", fix)
        if self.train is not None:
            own = {field.name: field.default for field in attrs.fields(type(self))}
            given = [name for name in _LOOP if getattr(self, name) != own[name]]
            if given or self.epochs != 1:
                name = (*given, "epochs")[0]
                what = "is for QRES's own loop, and a function to train with is given"
                raise refused(name, what, "leave one of them out")
        if self.frozen not in FROZEN:
            what, fix = f"is {self.frozen!r}", f"write one of {', '.join(FROZEN)}"
            raise refused("frozen", what, fix)
        if type(self.epochs) is not int or self.epochs < 1:
            raise refused("epochs", f"is {self.epochs!r}", "write a whole number from 1")
        if self.clip is not None and not self.clip > 0:
            raise refused("clip", f"is {self.clip!r}", "write a number above 0")
        if self.per_example is not None and not self.per_example > 0:
            raise refused("per_example", f"is {self.per_example!r}", "write a number above 0")
        if not self.proximal >= 0:
            raise refused("proximal", f"is {self.proximal!r}", "write a number from 0")
        if not 0 <= self.global_momentum < 1:
            what = f"is {self.global_momentum!r}"
            raise refused("global_momentum", what, "write a number from 0, below 1")
        if self.global_momentum and not hasattr(self.train_loader, "__len__"):
            what = "needs the number of steps, and the batches do not tell it"
            raise refused("global_momentum", what, "give batches with a length")

    def _check_given(self) -> None:
        """Refuse what is of another kind. Raises OptionError: QRES-E105."""
        if not isinstance(self.module, torch.nn.Module):
            what = f"is no torch.nn.Module but {_said(self.module)}"
            raise refused("module", what, "give the module itself, for example Net()")
        for name in ("optimizer", "schedule", "loss", "train"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                what = f"is {_said(given)}, and each round makes another"
                if name in {"loss", "train"}:
                    what = f"is {_said(given)}, which cannot be called"
                raise refused(name, what, _CALLED[name])

    def vector(self, scale: int = 0) -> Vector:
        """The module's numbers as they are now: the model to start a swarm from.

        ``scale``: exponent of the grid. Returns int32, shape ``(d,)``, in the order of
        ``layout.travelling``. Raises ValueRefusedError: QRES-E501 for numbers that are not finite.
        """
        return fixed.encode(self.layout.numbers(self.module), scale=scale).vector

    def load(self, vector: Vector, scale: int = 0) -> Any:
        """Write a model into the module, with this node's buffers, and return the module.

        ``vector``: int32, shape ``(d,)``; ``scale``: exponent of its grid. Raises
        ValueRefusedError: QRES-E502 or QRES-E503 for another vector.
        """
        self._load(self.module, vector, scale, self._memory.after.buffers)
        return self.module

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train from the round's model.

        Returns the encoded difference, weighted by the number of examples that a pass steps over;
        ``None`` without any.
        Raises ValueRefusedError: QRES-E501 when training diverged, QRES-E502 or QRES-E503 for
        another vector.
        """
        examples = places.count(self.train_loader)
        if not examples:
            return None
        with self._bench.turn:
            kept = self._memory.begin(round_info.number)
            way = self._way(self._last, vector, round_info)
            changed, figures, after = self._trained(
                self.module, self.train_loader, vector, round_info, kept, _OWN, way
            )
            # What diverged is refused here, and not kept: it would spoil every later round.
            encoded = fixed.encode(changed, scale=round_info.scale)
            self._memory.after = after
        return Update.of(encoded, weight=examples, metrics=figures)

    def change(self, vector: Vector, round_info: RoundInfo) -> Reals:
        """Change that a round of training would make, before rounding, float64, shape ``(d,)``.

        The node keeps nothing of it.
        """
        with self._bench.turn:
            kept = self._memory.after
            return self._trained(self.module, self.train_loader, vector, round_info, kept, _OWN)[0]

    def held_out_change(self, vector: Vector, round_info: RoundInfo) -> Reals:
        """Change that a round of training on ``held_out`` would make, as :meth:`change` says it.

        It takes as many steps as one on ``train_loader``.
        """
        with self._bench.judging:
            return self._judged(vector, round_info, None)

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """Mean loss and, of a classifier by cross-entropy, accuracy (0..1) on ``test``.

        Nothing where there are no such examples.
        """
        loader = self.held_out if self.test is None else self.test
        if loader is None:
            return {}
        with self._bench.turn:
            self._load(self.module, vector, round_info.scale, self._memory.after.buffers)
            return self._measured(self.module, loader).figures()

    def base_digest(self) -> bytes:
        """SHA-256 of the parameters that do not travel; empty without any, or if any will do.

        It is computed when it is first asked for: they must not change after that.
        """
        key = self.layout.travelling
        known = self._bench.frozen
        if self.frozen == "same" and key not in known:
            known[key] = self.layout.frozen(self.module)
        return known[key] if self.frozen == "same" else b""

    def records(self) -> int:
        """Number of examples that the loader's sampler gives.

        Raises OptionError: QRES-E105 without ``per_example``, and for a module or a loader whose
        examples cannot be taken one by one, or of which the sampler does not say which they are.
        """
        if self.per_example is None or self.train is not None:
            what = "is not given, and the unit of privacy is a record"
            fix = "give it: a learning rate over a public number of examples; leave train out"
            raise refused("per_example", what, fix)
        records.check_alone(self.module, self.layout)
        return len(places.places(self.train_loader))

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[Reals]:
        """The step of each example that :meth:`records` counts: minus ``per_example`` gradients.

        No optimiser, schedule, clipping, momentum or proximal term of ``fit`` is used. Yields
        float64, shape ``(1, d)``. Raises ValueRefusedError: QRES-E502 or QRES-E503 for another
        vector.
        """
        self.records()
        seed = draws.seed_of(self.seed, self.index, round_info.number, _RECORDS)
        with self._bench.turn:
            self._load(self.module, vector, round_info.scale, self._memory.after.buffers)
            rate = self.per_example or 0.0
            yield from records.steps(
                self.module, self.layout, self._loop, self.train_loader, rate, seed
            )

    def remember(self) -> bytes:
        """Return the node's memory from round to round; empty where there is none."""
        if not self.layout.local and not self.keep_optimizer and not self.global_momentum:
            return b""
        return memory.encode(self._memory, self._last)

    def recall(self, kept: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ValueRefusedError: QRES-E506."""
        if kept or self.remember():
            self._memory = memory.decode(kept, self._memory, self._last)

    def _validate(self, vector: Vector, round_info: RoundInfo) -> float:
        """Mean loss on ``held_out``; not in turn with a training."""
        bench = self._bench
        with bench.judging:
            self._load(bench.judge, vector, round_info.scale, self._memory.after.buffers)
            measured = self._measured(bench.judge, self.held_out)
        return measured.loss / max(1, measured.examples)

    def _reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The update that training on ``held_out`` would make, of an optimiser without a past."""
        with self._bench.judging:
            way = self._way(self._last_judged, vector, round_info)
            changed = self._judged(vector, round_info, way)
        return fixed.encode(changed, scale=round_info.scale).vector

    def _judged(self, vector: Vector, round_info: RoundInfo, way: Reals | None) -> Reals:
        """Change by training on ``held_out``, in as many steps as on ``train_loader``.

        With fewer, what it is compared with would be longer for no other reason. Where the batches
        to train on tell no length, a pass over ``held_out`` counts as one over them.
        """
        kept = memory.Kept(self._memory.after.buffers)
        batches = _as_many(self.held_out, self.train_loader)
        judge = self._bench.judge
        return self._trained(judge, batches, vector, round_info, kept, _HELD, way)[0]

    def _way(self, last: LastStep, vector: Vector, round_info: RoundInfo) -> Reals | None:
        """Last change by the swarm, of which each step takes a share."""
        return last.until(vector, round_info) if self.global_momentum else None

    def _measured(self, module: Any, loader: Any) -> Scored:
        draws.seed_loader(loader, self.seed)  # the same order, and nothing drawn of the process's
        return self._loop.measure(alone(module), loader)

    def _load(self, module: Any, vector: Vector, scale: int, buffers: Tensors) -> None:
        check_vector(vector, "vector", dimension=self.layout.size)
        self.layout.load(module, fixed.decode(vector, scale=scale))
        self.layout.put(module, buffers)

    def _trained(
        self,
        module: Any,
        loader: Any,
        vector: Vector,
        round_info: RoundInfo,
        kept: memory.Kept,
        stream: int,
        way: Reals | None = None,
    ) -> tuple[Reals, dict[str, float], memory.Kept]:
        """Change by training, float64, shape ``(d,)``, its figures, and the state to keep after."""
        self._load(module, vector, round_info.scale, kept.buffers)
        # What was loaded, not the vector: the module's precision may round it, and that is no
        # training.
        module = alone(module)
        start = self.layout.numbers(module)
        moments: memory.Moments = {}
        seed = draws.seed_of(self.seed, self.index, round_info.number, stream)
        with draws.drawn_by(seed, module, loader):
            if self.train is not None:
                figures = dict(self.train(module, loader, round_info) or {})
                module.zero_grad()
            else:
                parameters = [each for each in module.parameters() if each.requires_grad]
                optimizer = self._loop.optimizer(parameters)
                memory.load_moments(optimizer, kept.moments)
                along = None if way is None else self.layout.parts(module, way)
                figures = self._loop.train(module, loader, round_info, optimizer, along)
                moments = memory.moments_of(optimizer) if self.keep_optimizer else {}
        after = memory.Kept(self.layout.kept(module), moments)
        return self.layout.numbers(module) - start, figures, after


def _as_many(held_out: Any, train_loader: Any) -> Any:
    """Held-out batches, as many in a pass as there are to train on."""
    try:
        return Repeated(held_out, len(train_loader))
    except TypeError:
        return held_out


def _said(given: object) -> str:
    """Description of a given value, for a message."""
    kind = given if isinstance(given, type) else type(given)
    return f"{'the class' if given is kind else 'of the class'} {kind.__name__}"


def _no_optimizer(_parameters: Any) -> Any:  # pragma: no cover - there is a function to train with
    raise AssertionError
