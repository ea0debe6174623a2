"""``qres check``: would this configuration start, and what would it run?"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from qres_core.cli.errors import tell
from qres_core.cli.options import SECTIONS, parse_setting, policy_option, read_raw
from qres_core.contract.by_record import by_record
from qres_core.contract.errors import (
    CompatibilityError,
    ConfigError,
    PluginError,
    Problem,
    QresError,
)
from qres_core.contract.stores import no_room
from qres_core.contract.trainer_abilities import base_of
from qres_core.contract.types import NODE_ID_BYTES, NodeId
from qres_core.kernel.config import Config
from qres_core.kernel.diagnosis import Diagnosis, diagnose
from qres_core.kernel.discovery import HOSTS_GROUP, load, scan
from qres_core.kernel.index import absent, plugin_index
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import in_force
from qres_core.kernel.slots import LIFE_CYCLE, SLOTS

if TYPE_CHECKING:
    from rich.console import Console

    from qres_core.contract.trainer import Trainer
    from qres_core.contract.types import Vector

_NO_KEY = ("QRES-E101", "QRES-E103")
"""What a plugin says of a key that is not named, or not on this machine."""


@click.command("check")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@policy_option
@click.option(
    "--host",
    type=click.Choice(sorted(plugin_index().brought[HOSTS_GROUP])),
    help="Check it as part of this framework, whose server takes the place of agreement.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    config: Path,
    *,
    settings: tuple[str, ...],
    policy_files: tuple[Path, ...],
    host: str | None,
    as_json: bool,
) -> None:
    """Print the resolved pipeline of CONFIG, or everything that is wrong with it.

    What [trainer] names is imported, and the trainer of one node is made: that of `trainer.index`,
    the first unless it is set. With --host it is left alone: the framework's own code trains.
    The node's key and what plugins read at a start are looked at, if the key is on this machine.

    Exit code 0 if it would start, 2 if not.
    """
    raw = read_raw(config, [parse_setting(text) for text in settings])
    installed, policies = scan(), in_force(policy_files)
    trained: dict[str, Any] = {"trainer": host, "made": None, "parameters": None}
    if host is None:
        found = diagnose(
            raw, source=str(config), sections=SECTIONS, installed=installed, policies=policies
        )
        found, trained = with_trainer(found)
    else:
        try:
            found = as_part_of(host, raw, str(config), installed, policies)
        except PluginError as error:
            tell(error, as_json=as_json)
            sys.exit(2)
    if found.problems:
        tell(CompatibilityError(found.problems), as_json=as_json)
        sys.exit(2)
    if as_json:
        report = {
            "ok": True,
            **trained,
            "notices": found.notices,
            "settings": settings_of(found),
            "pipeline": pipeline(found),
        }
        click.echo(json.dumps(report, indent=2))
        return
    show(found, config, trained)


def as_part_of(host: str, *given: Any) -> Diagnosis:
    """The diagnosis inside a framework, by what a distribution brings for it.

    Raises PluginError: QRES-E201 says which to install, QRES-E202 to QRES-E205 why it has no use.
    """
    if (problem := absent(host, HOSTS_GROUP, "--host")) is not None:
        raise PluginError((problem,))
    diagnosed: Diagnosis = load(scan(group=HOSTS_GROUP)[host], "--host")(*given)
    return diagnosed


def with_trainer(found: Diagnosis) -> tuple[Diagnosis, dict[str, Any]]:
    """The diagnosis with what is wrong with the trainer, and what is trained, for a report."""
    if found.config is None:
        return found, {}
    from qres_core.training.table import make_work, notices, table_of  # noqa: PLC0415 - numpy

    table = table_of(found.config)
    shared = found.settings
    trained: dict[str, Any] = {"trainer": table.name, "made": None, "parameters": None}
    trained |= {"node": None, "keyless": ""}
    try:
        if table.named:
            trainer, initial = make_work(found.config)
            trained |= {"made": table.index, "parameters": int(initial.size)}
            if not found.problems:
                kernel = Kernel.from_config(found.config, installed=scan())
                kernel.fit(int(initial.size))
                trainer = by_record(trainer, kernel.record_clip)
                shared = kernel.settings.on_top_of(base_of(trainer))
                node_id, keyless = identity_of(kernel)
                trained |= {"node": node_id and node_id.hex(), "keyless": keyless}
                refuse_start(kernel, found.config, trainer, node_id)
                if not kernel.solution.noised:
                    trained |= reached(found, found.config, trainer, initial)
        said = notices(found.config)
    except QresError as error:
        return attrs.evolve(found, problems=(*found.problems, *error.problems)), trained
    return attrs.evolve(found, settings=shared, notices=(*said, *found.notices)), trained


def identity_of(kernel: Kernel) -> tuple[NodeId | None, str]:
    """Identity of this machine's node, or the reason why no key was looked at where one is needed.

    Raises ConfigError: what is wrong with a key that is there.
    """
    try:
        return kernel.identity(None), ""
    except ConfigError as error:
        problem = error.problems[0]
        if problem.code not in _NO_KEY:
            raise
        return None, f"{problem.where}: {problem.what}"


def refuse_start(kernel: Kernel, config: Config, trainer: object, node_id: NodeId | None) -> None:
    """Refuse what a start would refuse; nothing of the node is made or changed.

    ``node_id``: whose key is here; without one, no file is read that only the node has. Raises
    CompatibilityError or ConfigError.
    """
    from qres_core.swarm.context.position import node_info  # noqa: PLC0415 - numpy
    from qres_core.swarm.storage.journal import FILE  # noqa: PLC0415 - numpy

    roster = [bytes.fromhex(member) for member in config.swarm.roster]
    folder, trouble = None, ""
    if node_id is not None and config.node.data_dir is not None:
        folder = Path(config.node.data_dir, node_id.hex())
        trouble = no_room(folder)
    # Of a folder that takes nothing one line is enough, whatever is in it.
    place = None if folder is None or trouble else str(folder)
    named = node_id or bytes(NODE_ID_BYTES)
    info = node_info(config.swarm, named, roster, trainer, data_dir=place)
    problems = kernel.preflight(info)
    if folder is not None and trouble:
        what = Problem("QRES-E602", str(folder / FILE), trouble, "name another folder")
        problems = (what, *problems)
    if node_id is None:
        problems = tuple(each for each in problems if each.code.startswith("QRES-E3"))
    if problems:
        raise CompatibilityError(problems)


def reached(found: Diagnosis, config: Config, trainer: Trainer, initial: Vector) -> dict[str, Any]:
    """Compare a round's training with a reference, if a rule holds others to references.

    One that does judges single updates, and merges them by what it found.
    """
    rules = [
        plugin.name
        for plugin in found.enabled
        if {"screen", "endorse", "aggregate"} <= set(plugin.hooks)
        and config.plugins[plugin.name].get("farthest") != 0
    ]
    if not rules:
        return {}
    from qres_core.training.first_round import reach  # noqa: PLC0415 - numpy

    lengths = reach(trainer, initial, config.swarm.scale)
    return {} if lengths is None else {"reach": lengths, "held_to_references": rules[0]}


def pipeline(found: Diagnosis) -> list[dict[str, Any]]:
    """Every family with the plugins that fill it, in order."""
    families = {"life cycle": LIFE_CYCLE, **{name: slot.hooks for name, slot in SLOTS.items()}}
    return [
        {
            "family": family,
            "plugins": [
                {
                    "name": plugin.name,
                    "distribution": plugin.origin.distribution,
                    "version": plugin.origin.version,
                    "hooks": [hook for hook in hooks if hook in plugin.hooks],
                }
                for plugin in found.enabled
                if set(hooks) & set(plugin.hooks)
            ],
        }
        for family, hooks in families.items()
    ]


def settings_of(found: Diagnosis) -> dict[str, Any] | None:
    """Settings that all nodes must have alike: the short digest, the whole one, and the values."""
    if found.settings is None:
        return None
    return {
        "short": found.settings.short,
        "digest": found.settings.digest.hex(),
        "values": {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in found.settings.values.items()
        },
    }


def show(found: Diagnosis, path: Path, trained: Mapping[str, Any]) -> None:
    """The pipeline as a table, and what is trained."""
    from rich.markup import escape  # noqa: PLC0415 - JSON output does not pay for rich
    from rich.table import Table  # noqa: PLC0415

    from qres_core.cli.console import console  # noqa: PLC0415

    where = console()
    table = Table("family", "plugins", "results combine as")
    for row in pipeline(found):
        plugins = "\n".join(
            f"{part['name']} ({part['distribution']} {part['version']}): {', '.join(part['hooks'])}"
            for part in row["plugins"]
        )
        slot = SLOTS.get(row["family"])
        table.add_row(row["family"], plugins or "[dim]none[/dim]", slot.combination if slot else "")
    where.print(table)
    if trained["parameters"] is not None:
        where.print(
            f"trains {trained['trainer']}: {trained['parameters']} parameters; "
            f"made for node {trained['made']} alone",
            highlight=False,
        )
    if "reach" in trained:
        show_reach(where, trained["reach"], trained["held_to_references"])
    if found.settings is not None:
        where.print(
            f"shared settings {found.settings.short}; must be the same on all nodes",
            highlight=False,
        )
    for notice in found.notices:
        where.print(f"[yellow]note[/yellow] {escape(notice)}", highlight=False)
    if trained.get("keyless"):
        said = f"no key was looked at: {trained['keyless']}"
        where.print(f"[yellow]note[/yellow] {escape(said)}", highlight=False)
        said = f"{path} is consistent; a node also needs its key."
        where.print(f"[green]{said}[/green]", highlight=False)
        return
    where.print(f"[green]{path} would start.[/green]", highlight=False)


def show_reach(where: Console, lengths: float, rule: str) -> None:
    """Show the length of a training beside its reference, and a remedy if it is too long."""
    from qres_core.training.first_round import FAR  # noqa: PLC0415 - numpy

    where.print(
        f"a round of training is {lengths:.2g} times as long as the reference of held-out examples",
        highlight=False,
    )
    if lengths > FAR:
        where.print(
            f"[yellow]note[/yellow] plugins.{rule}.farthest: above {FAR:g} times, honest nodes may "
            "refuse each other's sets, and rounds are aborted: let the reference take as many "
            f"steps as training does, or set plugins.{rule}.farthest = 0",
            highlight=False,
        )
