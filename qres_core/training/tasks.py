"""Tasks: a model, a trainer for every node and a common measure of success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import fixed, options, partition
from qres_core.contract.by_record import by_record
from qres_core.contract.errors import LabError, Problem
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.trainer import Trainer
from qres_core.contract.training import fitted
from qres_core.contract.types import Update, Vector
from qres_core.training.data import (
    DataSplit,
    Labels,
    Purpose,
    breast_cancer,
    digits,
    stream,
    synthetic,
)
from qres_core.training.models import MLP, Model, Softmax
from qres_core.training.numpy_trainer import NumpyTrainer, QuadraticTrainer, ValidatingTrainer

Choice = TypeVar("Choice")

_HELD_SHARE: Final = 5
_LACKING: Final = 3
"""Of ten classes, those of which 'lacking' held-out examples have none."""
_SPREAD: Final = 0.1
"""Standard deviation of the quadratic nodes' optima around the common one."""


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.frozen(kw_only=True)
class TaskConfig:
    """Task to learn, and the way in which each node trains.

    Raises:
        OptionError: QRES-E105; for the names (``name``, ``model``, ``partition``) see
            :func:`make_task`.
    """

    name: str = attrs.field(
        default="digits",
        metadata=_help(
            "Task: 'digits' (handwritten digits), 'breast_cancer' (two classes), 'synthetic' "
            "(eight overlapping classes) or 'quadratic' (cheap, no data)."
        ),
    )
    model: str = attrs.field(
        default="softmax", metadata=_help("Model of labelled data: 'softmax' or 'mlp'.")
    )
    hidden: int = attrs.field(
        default=64, validator=options.whole(1), metadata=_help("Hidden units of the 'mlp' model.")
    )
    partition: str = attrs.field(
        default="iid",
        metadata=_help(
            "Distribution of the examples to nodes: 'iid', 'dirichlet' or 'similarity' "
            "(uneven classes)."
        ),
    )
    alpha: float = attrs.field(
        default=0.5,
        validator=options.real(above=0),
        metadata=_help("Concentration of the 'dirichlet' partition; smaller is more uneven."),
    )
    local_epochs: int = attrs.field(
        default=5,
        validator=options.whole(1),
        metadata=_help(
            "Passes over a node's examples in a round; steps for 'quadratic'. Must be 1 if a "
            "plugin has single examples clipped."
        ),
    )
    batch_size: int = attrs.field(
        default=16,
        validator=options.whole(1),
        metadata=_help(
            "Examples in a step of SGD. A plugin may have single examples clipped; then the "
            "gradient of each is divided by this number."
        ),
    )
    learning_rate: float = attrs.field(
        default=0.5, validator=options.real(above=0), metadata=_help("Step size of SGD.")
    )
    proximal: float = attrs.field(
        default=0.0,
        validator=options.real(0),
        metadata=_help("FedProx's mu: pull towards the round's model; 0 is FedAvg."),
    )
    global_momentum: float = attrs.field(
        default=0.0,
        validator=options.real(0, below=1),
        metadata=_help(
            "FedCM: share of the swarm's last step in each local step of the digits; the "
            "gradient has the rest. It helps where nodes differ. 0 is FedAvg."
        ),
    )
    gamma: float = attrs.field(
        default=1.0,
        validator=options.real(0, 1),
        metadata=_help(
            "Share of the examples that the 'similarity' partition deals at random; "
            "the others are sorted by class. 0 gives each node about one class."
        ),
    )
    held_out: int = attrs.field(
        default=0,
        validator=options.whole(0),
        metadata=_help(
            "Examples that each node holds out to judge updates, for plugins that "
            "validate. No node trains on them. 0 is none."
        ),
    )
    held_out_from: str = attrs.field(
        default="pool",
        validator=options.one_of("own", "pool", "lacking"),
        metadata=_help(
            "Source of held-out examples. 'own': the node's share, with the classes that it "
            "has. 'pool': a fifth of all examples, kept for that. 'lacking': this pool without "
            "three of ten classes, and at least one."
        ),
    )
    same_held_out: bool = attrs.field(
        default=False,
        metadata=_help("All nodes hold out the same examples, like public ones."),
    )
    dimension: int = attrs.field(
        default=10_000,
        validator=options.whole(1),
        metadata=_help("Coordinates of the 'quadratic' task."),
    )


def _first_figures(task: Task) -> Callable[..., Mapping[str, float]]:
    return task.trainers[0].evaluate


@attrs.frozen(eq=False)
class Task:
    """A task, ready to run."""

    name: str  # the task's name
    initial: Vector  # the first round's model, int32 on the grid, shape ``(d,)``
    trainers: tuple[Trainer, ...]  # one for each node
    # figures of a model on data no node trains on, as a trainer's ``evaluate``; by default the
    # first trainer's
    evaluate: Callable[..., Mapping[str, float]] = attrs.field(
        default=attrs.Factory(_first_figures, takes_self=True)
    )
    scale: int = 0  # power-of-two exponent of the grid
    notices: tuple[str, ...] = ()  # what whoever runs it should know


def trained(
    trainer: Trainer, model: Vector, round_info: RoundInfo, *, node: str = ""
) -> tuple[Update, bool]:
    """Train a model; returns the update, and true if there was anything new to train on.

    Where it had not, the update is all zeros: what an attacker with such a trainer begins with.
    Raises as :func:`qres_core.contract.training.fitted`.
    """
    return or_nothing(fitted(trainer, model, round_info, node=node), round_info.dimension)


def or_nothing(update: Update | None, dimension: int) -> tuple[Update, bool]:
    """As :func:`trained`, of what ``fit`` returned."""
    if update is None:
        return Update(np.zeros(dimension, dtype=np.int32)), False
    return update, True


def make_task(
    config: TaskConfig, *, nodes: int, seed: int, scale: int = 0, where: str = "trainer.task"
) -> Task:
    """Make a task for a number of nodes; equal arguments make equal tasks.

    Args:
        config: the task and its options.
        nodes: number of nodes, 1 or more; for the digits at most 1347.
        seed: decides data, partition, first model and the order of training, 0 or more.
        scale: power-of-two exponent of the grid, -32..32.
        where: key path of the task's table, for messages.

    Returns:
        the task.

    Raises:
        LabError: QRES-E801 for an unknown name, QRES-E802 without scikit-learn, QRES-E105 for a
            number of nodes or a seed that cannot work.
        ValueRefusedError: QRES-E504 for the scale.
    """
    fixed.check_scale(scale)
    if nodes < 1:
        raise LabError.of("QRES-E105", "nodes", f"must be at least 1, got {nodes}")
    if seed < 0:
        raise LabError.of("QRES-E105", "seed", f"must be at least 0, got {seed}")
    try:
        return _pick("task.name", config.name, _TASKS)(config, nodes, seed, scale)
    except LabError as error:
        raise LabError([_moved(problem, where) for problem in error.problems]) from error


def by_records(task: Task, clip: RecordClip | None) -> Task:
    """The task with trainers that clip single examples, where a plugin asks for it.

    Raises CompatibilityError: QRES-E318. See :func:`qres_core.contract.by_record.by_record`.
    """
    if clip is None:
        return task
    made = (by_record(each, clip, node=f"node-{i}") for i, each in enumerate(task.trainers))
    return attrs.evolve(task, trainers=tuple(made))


def _moved(problem: Problem, where: str) -> Problem:
    """A problem of ``task``, said of the table that the task is of."""
    first, dot, rest = problem.where.partition(".")
    return attrs.evolve(problem, where=f"{where}{dot}{rest}") if first == "task" else problem


def _pick(where: str, name: str, known: Mapping[str, Choice]) -> Choice:
    if name not in known:
        kind = where.rpartition(".")[2]
        what = f"there is no {'task' if kind == 'name' else kind} {name!r}"
        raise LabError.of("QRES-E801", where, what, did_you_mean(name, known))
    return known[name]


def labelled(
    load: Callable[[int], DataSplit], config: TaskConfig, nodes: int, seed: int, scale: int
) -> Task:
    """Make a task of labelled examples; arguments and errors as for :func:`make_task`.

    ``load``: the data, by seed; ``config``: its ``name`` is only what the task is called.
    """
    kind = _pick("task.model", config.model, _MODELS)
    deal = _pick("task.partition", config.partition, _PARTITIONS)
    split = load(seed)
    classes = 1 + int(split.train_y.max())
    model = kind(config, split.train_x.shape[1], classes)
    own = config.held_out_from == "own"
    if own and config.same_held_out:
        what = "nodes that hold out examples of their own hold out different ones"
        fix = 'same_held_out = false, or held_out_from = "pool"'
        raise LabError.of("QRES-E105", "task.same_held_out", what, fix)
    pool = len(split.train_y) // _HELD_SHARE if config.held_out and not own else 0
    drawable = np.arange(pool, dtype=np.int64)
    if config.held_out_from == "lacking":
        drawable = drawable[split.train_y[:pool] < classes - max(1, classes * _LACKING // 10)]
    if not own:
        _enough(config.held_out, len(drawable), "the pool to draw from")
    parts = deal(config, split.train_y[pool:], nodes, stream(seed, Purpose.PARTITION))

    def held(node: int, part: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Examples that a node trains on, and those that it holds out."""
        drawer = 0 if config.same_held_out else node
        rng = stream(seed, Purpose.HELD_OUT, drawer)
        if not own:
            return pool + part, drawable[rng.permutation(len(drawable))[: config.held_out]]
        _enough(config.held_out, len(part) - 1, f"of its own, node {node}")
        order = rng.permutation(len(part))
        return part[np.sort(order[config.held_out :])], part[order[: config.held_out]]

    def trainer(node: int, part: NDArray[np.int64]) -> NumpyTrainer:
        trained_on, drawn = held(node, part)
        options: dict[str, Any] = {
            "model": model,
            "x": split.train_x[trained_on],
            "y": split.train_y[trained_on],
            "test_x": split.test_x,
            "test_y": split.test_y,
            "local_epochs": config.local_epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "proximal": config.proximal,
            "global_momentum": config.global_momentum,
            "seed": seed,
            "node": node,
            "scale": scale,
            "fitted": split.fitted,
        }
        if not config.held_out:
            return NumpyTrainer(**options)
        return ValidatingTrainer(
            **options,
            held_x=split.train_x[drawn],
            held_y=split.train_y[drawn],
            pooled=config.held_out_from == "pool",
        )

    trainers = tuple(trainer(node, part) for node, part in enumerate(parts))
    initial = fixed.encode(model.initial(stream(seed, Purpose.INITIAL)), scale=scale).vector
    # Every node holds out the same examples, so any trainer's figures are the task's.
    return Task(config.name, initial, trainers, scale=scale)


def _enough(wanted: int, there: int, whose: str) -> None:
    """Refuse to hold out more examples than there are."""
    if wanted > there:
        what = f"{wanted} examples, and {whose} has {there}"
        raise LabError.of("QRES-E105", "task.held_out", what, f"held_out <= {there}")


def _quadratic(config: TaskConfig, nodes: int, seed: int, scale: int) -> Task:
    if config.held_out:
        what = "the quadratic task has no examples to hold out"
        raise LabError.of("QRES-E105", "task.held_out", what, 'name = "digits", or held_out = 0')
    if config.global_momentum:
        what = f"is {config.global_momentum:g}, and the quadratic task has none"
        fix = 'name = "digits", or global_momentum = 0'
        raise LabError.of("QRES-E105", "task.global_momentum", what, fix)
    centre = stream(seed, Purpose.OPTIMUM).normal(0.0, 1.0, config.dimension)

    def trainer(optimum: np.ndarray[Any, np.dtype[np.float64]]) -> QuadraticTrainer:
        return QuadraticTrainer(
            optimum=fixed.encode(optimum, scale=scale).vector,
            local_epochs=config.local_epochs,
            learning_rate=config.learning_rate,
            proximal=config.proximal,
            scale=scale,
        )

    trainers = tuple(
        trainer(
            centre + stream(seed, Purpose.OPTIMUM, node + 1).normal(0.0, _SPREAD, config.dimension)
        )
        for node in range(nodes)
    )
    initial = fixed.encode(np.zeros(config.dimension), scale=scale).vector
    return Task(config.name, initial, trainers, trainer(centre).evaluate, scale)


def _softmax(_config: TaskConfig, features: int, classes: int) -> Model:
    return Softmax(features, classes)


def _mlp(config: TaskConfig, features: int, classes: int) -> Model:
    return MLP(features, config.hidden, classes)


def _iid(
    _config: TaskConfig, labels: Labels, parts: int, rng: np.random.Generator
) -> partition.Parts:
    return partition.iid(labels, parts, rng)


def _dirichlet(
    config: TaskConfig, labels: Labels, parts: int, rng: np.random.Generator
) -> partition.Parts:
    return partition.dirichlet(labels, parts, config.alpha, rng)


def _similarity(
    config: TaskConfig, labels: Labels, parts: int, rng: np.random.Generator
) -> partition.Parts:
    return partition.similarity(labels, parts, config.gamma, rng)


_TASKS: Final[Mapping[str, Callable[[TaskConfig, int, int, int], Task]]] = {
    "digits": partial(labelled, digits),
    "breast_cancer": partial(labelled, breast_cancer),
    "synthetic": partial(labelled, synthetic),
    "quadratic": _quadratic,
}
_MODELS: Final = {"softmax": _softmax, "mlp": _mlp}
_PARTITIONS: Final = {"iid": _iid, "dirichlet": _dirichlet, "similarity": _similarity}
