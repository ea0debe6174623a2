"""The ``[trainer]`` table: what is trained, in a simulation, in a box and by a node."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import attrs
import numpy as np

from qres_core.contract.errors import ConfigError, LabError, QresError
from qres_core.contract.options import real, whole
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import Wrapper, base_of
from qres_core.contract.types import Vector, check_vector
from qres_core.kernel.config import Config
from qres_core.training.momentum import with_momentum
from qres_core.training.tasks import Task, TaskConfig, make_task

Work: TypeAlias = tuple[Trainer, Vector]
"""A trainer and the swarm's first model, int32, shape ``(d,)``."""

UNNAMED: Final = "no [trainer]: trains the built-in digits"
METHODS: Final = ("fit", "evaluate")
HELD_OUT: Final[Mapping[str, str]] = {
    "own": "of its own share: they lack the classes that the share lacks",
    "pool": "of a common pool of all classes, which nodes rarely have",
    "lacking": "of a common pool that lacks three of the ten classes",
}
"""Where held-out examples come from, by the name of the option's value."""


def _help(text: str) -> dict[str, str]:
    return {"help": text}


def _no_options() -> dict[str, Any]:
    return {}


@attrs.frozen(kw_only=True)
class TrainerConfig:
    """The ``[trainer]`` table: either ``entry`` or a table ``task``."""

    GONE: ClassVar[Mapping[str, tuple[str, str]]] = {
        "keep_rest": ("is gone, as swarm.fragments is", "leave it out")
    }

    entry: str = attrs.field(
        default="",
        metadata=_help(
            "`module:factory` of a model. The factory gets `options` by name "
            "and returns the trainer and the swarm's first model. QRES looks for the "
            "module among the installed ones, then in `path`."
        ),
    )
    path: str = attrs.field(
        default="",
        metadata=_help(
            "Folder of the module, relative to that of the configuration file; empty "
            "for the same folder."
        ),
    )
    options: Mapping[str, Any] = attrs.field(
        factory=_no_options,
        metadata=_help(
            "Arguments of the factory. If it has parameters `index`, `nodes`, `seed` "
            "or `scale` that are not among these, it gets the node's number from 0, "
            "the number of nodes, the seed and `swarm.scale`."
        ),
    )
    task: TaskConfig | None = attrs.field(
        default=None,
        metadata=_help("A built-in task in place of `entry`; the table [trainer.task]."),
    )
    momentum: float = attrs.field(
        default=0.0,
        validator=real(0, below=1),
        metadata=_help(
            "Share that stays of a mean of the node's updates, which it sends in place of the "
            "last one. It helps robust rules; 0.9 is usual. 0 sends each update as it is."
        ),
    )
    seed: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(whole(0)),
        metadata=_help(
            "Seed of data and first model; must be the same on all nodes. Left out, "
            "`simulation.seed`."
        ),
    )
    index: int = attrs.field(
        default=0,
        validator=whole(0),
        metadata=_help(
            "Number of this node's share of the data, from 0. `qres simulate` and "
            "`qres swarm up` give each node its own."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.entry and self.task is not None:
            msg = "'entry' and 'task' are both set, and one model is trained; take one of them out"
            raise ValueError(msg)
        if self.options and not self.entry:
            msg = "'options' are for 'entry', which is not set"
            raise ValueError(msg)

    def around(self, trainer: Trainer) -> Trainer:
        """The trainer with what the table makes of its updates."""
        return with_momentum(trainer, self.momentum)

    @property
    def named(self) -> bool:
        """True if the table says what is trained."""
        return bool(self.entry) or self.task is not None

    @property
    def name(self) -> str:
        """Name of the work: the entry, or the name of the built-in task."""
        return self.entry or (self.task or TaskConfig()).name


def table_of(config: Config) -> TrainerConfig:
    """The ``[trainer]`` table; an empty one where the configuration has none."""
    found: TrainerConfig | None = config.sections.get("trainer")
    return TrainerConfig() if found is None else found


class _Seeded(Protocol):
    """The part of the ``[simulation]`` table that a trainer needs."""

    @property
    def seed(self) -> int: ...


def seed_of(config: Config) -> int:
    """``trainer.seed``, or else ``simulation.seed``, or else 0."""
    table = table_of(config)
    if table.seed is not None:
        return table.seed
    scenario: _Seeded | None = config.sections.get("simulation")
    return 0 if scenario is None else scenario.seed


def folder_of(config: Config) -> Path:
    """Folder in which the module of ``entry`` is looked for, after what is installed."""
    return (Path(config.source).resolve().parent / table_of(config).path).resolve()


def users_own(trainer: Trainer) -> Trainer:
    """The user's trainer, which has the data, inside of what is made of its updates."""
    while isinstance(trainer, Wrapper):
        trainer = trainer.inner
    return trainer


def make_work(config: Config) -> Work:
    """Work of a single node in the configuration: the one of ``trainer.index``.

    Raises ConfigError: QRES-E103 where it names nothing, QRES-E101 where ``entry`` cannot be loaded
    or raises, QRES-E104 where it returns something else, QRES-E105 for an ``index`` that the swarm
    does not have. Raises LabError: what the built-in task refuses.
    """
    table, swarm = table_of(config), config.swarm
    if table.index >= swarm.nodes:
        what = f"{table.index}, and swarm.nodes is {swarm.nodes}"
        raise ConfigError.of("QRES-E105", "trainer.index", what, "count from 0")
    if not table.named:
        fix = 'set entry = "module:factory", or add [trainer.task]'
        raise ConfigError.of("QRES-E103", "trainer", "no model or task is named", fix)
    return share(
        table,
        folder_of(config),
        index=table.index,
        nodes=swarm.nodes,
        seed=seed_of(config),
        scale=swarm.scale,
    )


def share(
    table: TrainerConfig,
    folder: Path,
    *,
    index: int,
    nodes: int,
    seed: int,
    scale: int,
) -> Work:
    """Work of one node.

    ``folder``: where the module of ``entry`` is looked for, after what is installed; ``index``:
    which node, from 0. Raises ConfigError: as :func:`make_work`. Raises LabError: QRES-E801 where
    the module has no such factory; what the built-in task refuses.
    """
    if table.entry:
        place = {"index": index, "nodes": nodes, "seed": seed, "scale": scale}
        trainer, first = _own(table, _load(table.entry, folder), place)
        return table.around(trainer), first
    task = make_task(table.task or TaskConfig(), nodes=nodes, seed=seed, scale=scale)
    return table.around(task.trainers[index]), task.initial


def swarm_task(config: Config, *, seed: int) -> Task:
    """Work of a whole swarm in the configuration, a trainer for every node.

    ``seed``: what ``trainer.seed`` is where it is left out. Raises ConfigError: as
    :func:`make_work`, and QRES-E105 where nodes begin with different models or would all have one
    index. Raises LabError: as :func:`share`.
    """
    table, swarm = table_of(config), config.swarm
    seed = seed if table.seed is None else table.seed
    if not table.entry:
        built_in = table.task or TaskConfig()
        made = make_task(built_in, nodes=swarm.nodes, seed=seed, scale=swarm.scale)
        trained = tuple(table.around(trainer) for trainer in made.trainers)
        return attrs.evolve(made, trainers=trained, notices=notices(config))
    check_shared(table)
    factory = _load(table.entry, folder_of(config))
    trainers: list[Trainer] = []
    first: Vector | None = None
    for index in range(swarm.nodes):
        place = {"index": index, "nodes": swarm.nodes, "seed": seed, "scale": swarm.scale}
        trainer, initial = _own(table, factory, place)
        trainer = table.around(trainer)
        first = initial if first is None else first
        check_first("node-0", first, f"node-{index}", initial)
        trainers.append(trainer)
        check_base("node-0", trainers[0], f"node-{index}", trainer)
    assert first is not None  # noqa: S101 - a swarm has a node
    said = notices(config)
    return Task(table.entry, first, tuple(trainers), scale=swarm.scale, notices=said)


def check_shared(table: TrainerConfig) -> None:
    """Refuse options that would make all nodes the same one. Raises ConfigError: QRES-E105."""
    if "index" in table.options:
        what = "it would be the same for every node"
        fix = "leave it out: each node's own is passed to a parameter of that name"
        raise ConfigError.of("QRES-E105", "trainer.options.index", what, fix)


def check_first(name: str, first: Vector, other: str, second: Vector) -> None:
    """Refuse nodes that do not begin with one model.

    ``first``: its first model, int32, shape ``(d,)``. Raises ConfigError: QRES-E105.
    """
    if not np.array_equal(first, second):
        what = f"{name} and {other} begin with different models"
        fix = "return the same first model for every node: seed its random generator"
        raise ConfigError.of("QRES-E105", "trainer.entry", what, fix)


def check_base(name: str, first: Trainer, other: str, second: Trainer) -> None:
    """Refuse nodes that train on top of different weights. Raises ConfigError: QRES-E105."""
    bases = base_of(first), base_of(second)
    if bases[0] != bases[1]:
        shown = [f"sha256:{base.hex()}" if base else "nothing" for base in bases]
        what = f"{name} and {other} train on top of different weights: {shown[0]} and {shown[1]}"
        fix = "load the same frozen weights on every node"
        raise ConfigError.of("QRES-E105", "trainer.entry", what, fix)


def notices(config: Config) -> tuple[str, ...]:
    """Notices for an operator on the work of a swarm of this configuration."""
    table = table_of(config)
    if not table.named:
        return (UNNAMED,)
    if table.entry and "index" not in _parameters(_load(table.entry, folder_of(config))):
        said = "has no parameter `index`: all nodes may be training on the same data"
        return (f"trainer.entry {said}",)
    task = table.task
    if task is not None and task.held_out:
        said = f"{task.held_out} examples a node, {HELD_OUT[task.held_out_from]}"
        return (f"trainer.task.held_out_from = {task.held_out_from!r}: {said}",)
    return ()


# ── a model of one's own ──────────────────────────────────────────────────────────────────────────


def _parameters(factory: Callable[..., object]) -> frozenset[str]:
    """Names of the parameters; none where Python cannot tell, as for some built-in functions."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(named.name for named in found if named.kind in by_name)


def _own(table: TrainerConfig, factory: Callable[..., object], place: Mapping[str, int]) -> Work:
    """Work that a factory makes for the node in a place. Raises as :func:`share`."""
    wanted = {name: place[name] for name in _parameters(factory) & place.keys()}
    try:
        made: Any = factory(**{**wanted, **table.options})
    except QresError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{table.entry} raised {type(error).__name__}: {error}"
        fix = "correct the function, or its arguments in trainer.options"
        raise ConfigError.of("QRES-E101", "trainer.entry", what, fix) from error
    fix = "return the trainer, with fit and evaluate, and the first model"
    try:
        trainer, initial = made
    except Exception as error:
        what = f"{table.entry} returned {type(made).__name__}, not a pair"
        raise ConfigError.of("QRES-E104", "trainer.entry", what, fix) from error
    if inspect.isclass(trainer):
        what = f"{table.entry} returned the class {trainer.__name__} as the trainer"
        raise ConfigError.of("QRES-E104", "trainer.entry", what, "return an instance of it")
    lacking = [name for name in METHODS if not callable(getattr(trainer, name, None))]
    if lacking:
        missing = " and no ".join(f"method {name}" for name in lacking)
        what = f"{table.entry} returned a {type(trainer).__name__}, which has no {missing}"
        raise ConfigError.of("QRES-E104", "trainer.entry", what, fix)
    first = check_vector(initial, "trainer.entry: first model")
    return trainer, first


def _load(entry: str, folder: Path) -> Callable[..., object]:
    where = "trainer.entry"
    module_name, colon, name = entry.partition(":")
    if not (colon and module_name and name):
        what = f"{entry!r} does not name a function of a module"
        raise ConfigError.of("QRES-E105", where, what, "write module:factory")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: nothing in it stands in for what is installed
    importlib.invalidate_caches()
    try:
        module: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        what = f"import of {module_name!r} failed: {type(error).__name__}: {error}"
        fix = "install it, put it beside the configuration file, or name its folder in trainer.path"
        raise ConfigError.of("QRES-E101", where, what, fix) from error
    factory: Callable[..., object] | None = getattr(module, name, None)
    if not callable(factory):
        known = [found for found in dir(module) if callable(getattr(module, found))]
        raise LabError.of(
            "QRES-E801", where, f"{module_name} has no {name!r}", did_you_mean(name, known)
        )
    return factory
