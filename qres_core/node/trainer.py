"""The ``[trainer]`` table: what a node trains."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from qres_core.contract.errors import ConfigError, LabError, QresError
from qres_core.contract.options import whole
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.trainer import Reference, Trainer, Validator
from qres_core.contract.types import Update, Vector, check_vector
from qres_core.kernel.config import Config
from qres_core.lab.tasks import TaskConfig, make_task

Work: TypeAlias = tuple[Trainer, Vector]
"""A trainer and the swarm's first model, int32, shape ``(d,)``."""


def _help(text: str) -> dict[str, str]:
    return {"help": text}


def _no_options() -> dict[str, Any]:
    return {}


@attrs.frozen(kw_only=True)
class TrainerConfig:
    """The ``[trainer]`` table: either ``entry`` or a table ``task``."""

    entry: str = attrs.field(
        default="",
        metadata=_help(
            "`module:factory` of your own model. The factory gets `options` by name and returns "
            "the trainer and the swarm's first model. The module is looked for among what is "
            "installed, then in `path`."
        ),
    )
    path: str = attrs.field(
        default="",
        metadata=_help("Folder of the module, seen from the configuration file's; empty for that."),
    )
    options: Mapping[str, Any] = attrs.field(
        factory=_no_options,
        metadata=_help(
            "What the factory is called with. Where it has parameters `index` and `nodes` that are "
            "not among these, it gets the key `index` and the number of nodes."
        ),
    )
    task: TaskConfig | None = attrs.field(
        default=None,
        metadata=_help("A built-in task in place of `entry`; keys as in `[simulation.task]`."),
    )
    seed: int = attrs.field(
        default=0,
        validator=whole(0),
        metadata=_help("Decides data and first model of the built-in task; the same on all nodes."),
    )
    index: int = attrs.field(
        default=0,
        validator=whole(0),
        metadata=_help("Which share of the data is this node's, from 0."),
    )

    def __attrs_post_init__(self) -> None:
        if self.entry and self.task is not None:
            msg = "'entry' and 'task' are both set; a node trains one model"
            raise ValueError(msg)
        if self.options and not self.entry:
            msg = "'options' are for 'entry', which is not set"
            raise ValueError(msg)


def make_work(config: Config) -> Work:
    """What the configuration has this node train.

    Raises:
        ConfigError: QRES-E103 where it names nothing, QRES-E101 where ``entry`` cannot be loaded or
            raises, QRES-E104 where it returns something else, QRES-E105 for an ``index`` that the
            swarm does not have.
        LabError: what the built-in task refuses.
    """
    table: TrainerConfig = config.sections["trainer"]
    if table.index >= config.swarm.nodes:
        what = f"{table.index}, and swarm.nodes is {config.swarm.nodes}"
        raise ConfigError.of("QRES-E105", "trainer.index", what, "count from 0")
    if table.entry:
        return from_entry(table, folder_of(config), config.swarm.nodes)
    if table.task is None:
        fix = 'set entry = "module:factory", or add [trainer.task]'
        raise ConfigError.of("QRES-E103", "trainer", "nothing to train is named", fix)
    task = make_task(
        table.task,
        nodes=config.swarm.nodes,
        seed=table.seed,
        scale=config.swarm.scale,
        where="trainer.task",
    )
    return task.trainers[table.index], task.initial


def folder_of(config: Config) -> Path:
    """Where the module of ``entry`` is looked for, after what is installed."""
    table: TrainerConfig = config.sections["trainer"]
    return (Path(config.source).resolve().parent / table.path).resolve()


def takes(entry: str, folder: Path, name: str) -> bool:
    """Whether a factory has a parameter of that name. Raises as :func:`make_work`."""
    return name in _parameters(_load(entry, folder))


def _parameters(factory: Callable[..., object]) -> frozenset[str]:
    """Names of the parameters; none where Python cannot tell, as for some built-in functions."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(one.name for one in found if one.kind in by_name)


def from_entry(table: TrainerConfig, folder: Path, nodes: int) -> Work:
    """What the factory of ``entry`` makes.

    Args:
        table: with ``entry``, ``options`` and ``index``.
        folder: where its module is looked for, after what is installed.
        nodes: number of nodes.

    Raises:
        ConfigError: as :func:`make_work`.
        LabError: QRES-E801 where the module has no such factory.
    """
    factory = _load(table.entry, folder)
    place = {"index": table.index, "nodes": nodes}
    wanted = {name: place[name] for name in _parameters(factory) & place.keys()}
    try:
        made: Any = factory(**{**wanted, **table.options})
    except QresError:
        raise
    except Exception as error:
        what = f"{table.entry} raised {type(error).__name__}: {error}"
        fix = "correct the function, or what trainer.options gives it"
        raise ConfigError.of("QRES-E101", "trainer.entry", what, fix) from error
    fix = "return the trainer, with fit and evaluate, and the first model"
    try:
        trainer, initial = made
    except (TypeError, ValueError) as error:
        what = f"{table.entry} returned {type(made).__name__}, not a pair"
        raise ConfigError.of("QRES-E104", "trainer.entry", what, fix) from error
    if not isinstance(trainer, Trainer) or inspect.isclass(trainer):
        what = f"{table.entry} returned {type(trainer).__name__} as the trainer"
        raise ConfigError.of("QRES-E104", "trainer.entry", what, fix)
    return trainer, check_vector(initial, "trainer.entry: first model")


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
        known = [one for one in dir(module) if callable(getattr(module, one))]
        raise LabError.of(
            "QRES-E801", where, f"{module_name} has no {name!r}", did_you_mean(name, known)
        )
    return factory


# ── one call at a time ────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class _Guarded:
    """A trainer whose ``fit`` and ``evaluate`` wait for each other."""

    inner: Any
    turn: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Train, in turn."""
        with self.turn:
            update: Update = self.inner.fit(vector, round_info)
        return update

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Measure, in turn."""
        with self.turn:
            figures: Mapping[str, float] = self.inner.evaluate(vector)
        return figures


@attrs.frozen(eq=False)
class _GuardedValidator(_Guarded):
    def validate(self, vector: Vector) -> float:
        """Not in turn: it is called in the event loop, which must not wait for an epoch."""
        loss: float = self.inner.validate(vector)
        return loss


@attrs.frozen(eq=False)
class _GuardedReference(_GuardedValidator):
    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """As ``validate``."""
        update: Vector = self.inner.reference(vector, round_info)
        return update


def guarded(trainer: Trainer) -> Trainer:
    """The trainer, with ``fit`` and ``evaluate`` never at the same time, whatever threads call.

    It has ``validate`` and ``reference`` where the trainer has them.
    """
    if isinstance(trainer, Reference) and isinstance(trainer, Validator):
        return _GuardedReference(trainer)
    return _GuardedValidator(trainer) if isinstance(trainer, Validator) else _Guarded(trainer)
