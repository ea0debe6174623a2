"""``qres simulate``: play a configuration on a virtual clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from qres_core.cli.options import (
    SECTIONS,
    default_attackers,
    parse_setting,
    policy_option,
    read_raw,
)
from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError, LabError
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel.assembly import assemble
from qres_core.kernel.compliance import enforce
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import TRAINERS_GROUP, load, scan
from qres_core.kernel.index import absent
from qres_core.kernel.policy import SitePolicy, in_force

if TYPE_CHECKING:
    from qres_core.lab.record import SimulationResult


def _moved(_context: click.Context, _parameter: click.Parameter, given: bool) -> None:  # noqa: FBT001 - click's signature
    if given:
        raise click.UsageError("--list-attacks is a command now: qres attack list")


@click.command("simulate")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "--trainer",
    "foreign",
    type=(str, str),
    metavar="NAME APP",
    help="Train APP, made for another framework, in place of what [trainer] names; `flower` is of "
    "qres-flower. Without CONFIG: APP/qres.toml, or else the profile `minimal`.",
)
@click.option("--nodes", type=int, help="Number of nodes; overrides swarm.nodes.")
@click.option("--attack", help="Attack of the attackers; see `qres attack list`.")
@click.option("--attackers", type=int, help="Number of attackers; swarm.byzantine if left out.")
@click.option("--rounds", type=int, help="Models to make.")
@click.option("--seed", type=int, help="Seed of all randomness.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option(
    "--without",
    multiple=True,
    metavar="PLUGIN",
    help="First run it without this plugin, to compare; may be repeated.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder for model.npz and, after each round, a checkpoint.",
)
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    help="Go on from the checkpoint in this folder of --save, with the same CONFIG.",
)
@policy_option
@click.option(
    "--list-attacks", is_flag=True, hidden=True, expose_value=False, callback=_moved, is_eager=True
)
@click.option("--list-nodes", is_flag=True, help="List the simulated nodes' identities and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    config: Path | None,
    *,
    foreign: tuple[str, str] | None,
    settings: tuple[str, ...],
    without: tuple[str, ...],
    save: Path | None,
    resume: Path | None,
    policy_files: tuple[Path, ...],
    list_nodes: bool,
    as_json: bool,
    **given: object,
) -> None:
    """Play the swarm of CONFIG: every node, every message, decided by a seed.

    Exit code 0 if all models were made and all honest nodes hold the same one, 1 if not, 2 if the
    configuration is refused. With --without, the run with all plugins decides.
    """
    config = _configuration(config, foreign)
    laid = [*_foreign(foreign), *(parse_setting(text) for text in settings), *_sugar(given)]
    raw = read_raw(config, laid)
    default_attackers(raw, given)
    _default_rounds(raw)
    read = parse(raw, source=str(config), sections=SECTIONS)
    if list_nodes:
        show_nodes(read, as_json=as_json)
        return
    arms = [(f"without {', '.join(without)}", _without(read, without))] if without else []
    arms.append(("", read))
    policies = in_force(policy_files)
    for _label, arm in arms:
        _meet(policies, arm)
    if save is not None and resume is not None:
        raise click.UsageError("--resume goes on in the folder it names: leave out --save.")
    if without and (save is not None or resume is not None):
        raise click.UsageError("--save and --resume are for one run: leave out --without.")
    results = [_run(label, arm, as_json=as_json, save=save, resume=resume) for label, arm in arms]
    if as_json and without:
        report = {"without": results[0].to_json(), "with": results[1].to_json()}
        click.echo(json.dumps(report, indent=2))
    elif as_json:
        click.echo(json.dumps(results[0].to_json(), indent=2))
    decisive = results[-1]
    if len(decisive.closed) < read.sections["simulation"].rounds or not decisive.unanimous:
        sys.exit(1)


def _configuration(config: Path | None, foreign: tuple[str, str] | None) -> Path:
    """The file to read."""
    if config is not None:
        return config
    if foreign is None:
        raise click.UsageError("Missing argument 'CONFIG'.")
    beside = Path(foreign[1]) / "qres.toml"
    return beside if beside.is_file() else Path(str(files("qres_core.cli"))) / _DEFAULT


def _foreign(foreign: tuple[str, str] | None) -> list[tuple[str, object]]:
    """The table that trains an app of another framework.

    Raises LabError: QRES-E201 for a trainer that is not installed, QRES-E801 for a name that nobody
    knows. Raises PluginError: QRES-E202 to QRES-E205 for one that cannot be used.
    """
    if foreign is None:
        return []
    name, app = foreign
    if (problem := absent(name, TRAINERS_GROUP, "--trainer")) is not None:
        raise LabError((problem,))
    origin = scan(group=TRAINERS_GROUP)[name]
    load(origin, "--trainer")
    folder = Path(app)
    options = {"app": str(folder.resolve()) if folder.exists() else app}
    return [("trainer", {"entry": origin.target, "options": options})]


_DEFAULT: Final = "profiles/minimal.toml"
_SUGAR = {
    "nodes": "swarm.nodes",
    "attack": "simulation.attack",
    "attackers": "simulation.attackers",
    "rounds": "simulation.rounds",
    "seed": "simulation.seed",
}


def _sugar(given: dict[str, object]) -> list[tuple[str, object]]:
    return [(key, given[name]) for name, key in _SUGAR.items() if given[name] is not None]


def _default_rounds(raw: dict[str, Any]) -> None:
    """A simulation makes as many models as the swarm would, unless it says how many."""
    table, swarm = raw.setdefault("simulation", {}), raw.get("swarm")
    if canonical.is_map(table) and canonical.is_map(swarm) and swarm.get("rounds"):
        table.setdefault("rounds", swarm["rounds"])


def _without(config: Config, names: tuple[str, ...]) -> Config:
    for name in names:
        if name not in config.plugins:
            what = f"{config.source} does not enable it"
            fix = f"name an enabled plugin; {did_you_mean(name, config.plugins)}"
            raise ConfigError.of("QRES-E102", f"--without {name}", what, fix)
    tables = {name: table for name, table in config.plugins.items() if name not in names}
    # What guarded the swarm may be among the names; the comparison says so itself.
    return attrs.evolve(config, plugins=tables, swarm=attrs.evolve(config.swarm, insecure=True))


def _meet(policies: Sequence[SitePolicy], config: Config) -> None:
    if policies:
        enforce(policies, config, assemble(config, scan()))


def _run(
    label: str, config: Config, *, as_json: bool, save: Path | None, resume: Path | None
) -> SimulationResult:
    from qres_core.attacks.scenario import Scenario  # noqa: PLC0415 - numpy
    from qres_core.lab.simulator import simulate  # noqa: PLC0415

    scenario: Scenario = config.sections["simulation"]
    if as_json:
        return _told(config, simulate(config, scenario, save=save, resume=resume))
    from qres_core.cli.console import console  # noqa: PLC0415 - rich
    from qres_core.cli.display import RoundTable, summary  # noqa: PLC0415

    where = console()
    under = f", {scenario.attackers} {scenario.attack}" if scenario.attack else ""
    title = f"{config.swarm.name}: {config.swarm.nodes} nodes{under}"
    table = RoundTable(f"{title}, {label}" if label else title)
    with table.shown(where):
        result = simulate(config, scenario, progress=table.add, save=save, resume=resume)
    result = _told(config, result)
    where.print(summary(result), highlight=False)
    return result


def _told(config: Config, result: SimulationResult) -> SimulationResult:
    """The result, with what the simulator leaves out of the configuration."""
    if not config.swarm.until:
        return result
    said = "swarm.until stops nodes; a simulation makes all its rounds"
    return attrs.evolve(result, notices=(*result.notices, said))


def show_nodes(config: Config, *, as_json: bool) -> None:
    """Show the simulated nodes' identities, which a list of members or a certificate must name."""
    from qres_core.lab.nodes import identify  # noqa: PLC0415 - numpy

    scenario = config.sections["simulation"]
    # Without what decides who is admitted: it is for that list that one asks.
    _kernels, ids = identify(config, scenario.seed, scan(), outsiders=config.swarm.nodes)
    honest = config.swarm.nodes - scenario.attackers
    rows = [
        {"index": index, "role": "honest" if index < honest else "attacker", "id": node_id.hex()}
        for index, node_id in enumerate(ids)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['index']:4} {row['role']:9} {row['id']}")
