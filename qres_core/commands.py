"""Questions that commands of plugins may ask of a configuration.

The module is public. It imports the kernel where a command asks, because
that takes most of the time that all public names take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs

from qres_core.contract.claims import Surroundings
from qres_core.contract.errors import CompatibilityError, ConfigError
from qres_core.contract.suggest import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from qres_core.contract.trainer import Trainer
    from qres_core.contract.types import Vector

T = TypeVar("T")


@attrs.frozen
class Configured:
    """A plugin in its place in a swarm that would start."""

    instance: object  # the plugin, with its options
    around: Surroundings  # what it is told of the swarm and of the plugins beside it
    swarm: str  # the swarm's name
    data_dir: Path | None  # where the node keeps files; ``None`` where the file does not say


def configured(
    path: Path, plugin: str, *, settings: Sequence[str] = (), dimension: int | None = None
) -> Configured:
    """A plugin of a configuration, checked as ``qres check`` does.

    Args:
        path: the configuration file.
        plugin: the name of its table.
        settings: keys that override the file's, as ``swarm.quorum=30``.
        dimension: coordinates of the model; if not given, the trainer that the file names is made
            and asked, and without one the dimension is not known.

    Raises:
        CompatibilityError: everything that would keep the configuration from starting.
        ConfigError: QRES-E103 where the file does not name the plugin; QRES-E101, QRES-E104.
    """
    from pathlib import Path  # noqa: PLC0415 - time

    from qres_core.cli.options import SECTIONS, parse_setting, read_raw  # noqa: PLC0415 - time
    from qres_core.kernel.chain import check_all, hiding, surroundings  # noqa: PLC0415 - time
    from qres_core.kernel.diagnosis import diagnose  # noqa: PLC0415 - time
    from qres_core.kernel.discovery import scan  # noqa: PLC0415 - time

    raw = read_raw(path, [parse_setting(text) for text in settings])
    found = diagnose(raw, source=str(path), sections=SECTIONS, installed=scan())
    if found.problems or found.config is None:
        raise CompatibilityError(found.problems)
    plugins = {item.name: item for item in found.enabled}
    if plugin not in plugins:
        fix = did_you_mean(plugin, plugins) or f"add a table [plugins.{plugin}]"
        raise ConfigError.of("QRES-E103", f"{path}: plugins.{plugin}", "not set", fix)
    if dimension is None:
        from qres_core.training.table import make_work, table_of  # noqa: PLC0415 - numpy

        named = table_of(found.config).named
        dimension = int(make_work(found.config)[1].size) if named else 0
    enabled = found.enabled
    told = surroundings(enabled, found.config.swarm, hiding(enabled), dimension)
    if problems := check_all(enabled, told).problems:
        raise CompatibilityError(problems)
    folder = found.config.node.data_dir
    return Configured(
        plugins[plugin].instance,
        told[plugin].around,
        found.config.swarm.name,
        Path(folder) if folder else None,
    )


@attrs.frozen(eq=False)
class NamedTrainer:
    """Work that a configuration has its first node train."""

    trainer: Trainer  # as the factory made it, without what QRES puts around it
    first: Vector  # the first model, int32, shape ``(d,)``
    scale: int  # ``swarm.scale``


def trained(path: Path, *, settings: Sequence[str] = ()) -> NamedTrainer:
    """Work that a configuration has its first node train; plugins are not looked at.

    Args:
        path: the configuration file.
        settings: keys that override the file's, as ``swarm.scale=-4``.

    Raises:
        ConfigError: the file is refused, or names no trainer that can be made.
        LabError: QRES-E801 for a factory that is not there.
    """
    from qres_core.cli.options import parse_setting, read_config  # noqa: PLC0415 - time
    from qres_core.training.table import make_work, users_own  # noqa: PLC0415 - numpy

    config = read_config(path, [parse_setting(text) for text in settings])
    trainer, first = make_work(config)
    return NamedTrainer(users_own(trainer), first, config.swarm.scale)


@attrs.frozen(eq=False)
class ModelOut:
    """A model in a file of ``qres model export``. Whether a swarm decided it was not checked."""

    vector: Vector  # int32, shape ``(d,)``
    scale: int  # exponent of its grid
    swarm: str  # name of the swarm
    step: int  # how many models the swarm made before it, the first not counted


def read_model(path: Path) -> ModelOut:
    """Read ``model.npz`` or ``model.safetensors``.

    Raises:
        ModelError: QRES-E605 for what is no whole model file.
        ConfigError: QRES-E105 for another ending.
        LabError: QRES-E802 where ``safetensors`` is not installed and the file needs it.
    """
    from qres_core.swarm.storage.model_file import SwarmModel  # noqa: PLC0415 - numpy

    model = SwarmModel.load(path)
    return ModelOut(model.vector, model.scale, model.swarm, model.step)


def structured(
    kind: type[T], where: str, table: Mapping[str, object], settings: Sequence[str] = ()
) -> T:
    """A plugin of options that stand in no file, as strictly as the kernel makes one.

    Args:
        kind: the class of the plugin.
        where: path of the table, for messages: ``plugins.NAME``.
        table: its options.
        settings: keys of that table that override it, as ``plugins.NAME.KEY=VALUE``.

    Raises:
        ConfigError: every option that is refused; QRES-E102 for a key of another table; QRES-E101.
    """
    from qres_core.cli.options import parse_setting  # noqa: PLC0415 - time
    from qres_core.kernel.config import structure  # noqa: PLC0415 - time

    options = dict(table)
    for text in settings:
        key, value = parse_setting(text)
        name = key.removeprefix(f"{where}.")
        if name == key or "." in name:
            fix = f"without a configuration file, only {where}.KEY can be set"
            raise ConfigError.of("QRES-E102", f"--set {key}", f"not a key of {where}", fix)
        options[name] = value
    return structure(options, kind, where)
