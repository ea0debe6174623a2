"""``qres simulate``: play a configuration on a virtual clock."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from qres_core.cli.options import parse_setting, read_config


@click.command("simulate")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--nodes", type=int, help="Number of nodes; overrides swarm.nodes.")
@click.option("--attack", help="What attackers do; see --list-attacks.")
@click.option("--attackers", type=int, help="How many attack; swarm.byzantine if left out.")
@click.option("--rounds", type=int, help="Models to make.")
@click.option("--seed", type=int, help="Decides everything random.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option("--list-attacks", is_flag=True, help="List the attacks and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    config: Path | None,
    *,
    nodes: int | None,
    attack: str | None,
    attackers: int | None,
    rounds: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    list_attacks: bool,
    as_json: bool,
) -> None:
    """Play the swarm of CONFIG: every node, every message, decided by a seed.

    Exit code 0 if all models were made and all honest nodes hold the same one, 1 if not, 2 if the
    configuration is refused.
    """
    if list_attacks:
        show_attacks(as_json=as_json)
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG'.")
    laid_over = [parse_setting(text) for text in settings]
    given = {
        "swarm.nodes": nodes,
        "simulation.attack": attack,
        "simulation.attackers": attackers,
        "simulation.rounds": rounds,
        "simulation.seed": seed,
    }
    laid_over += [(key, value) for key, value in given.items() if value is not None]
    if attack and attackers is None:
        from qres_core.cli.options import read_raw  # noqa: PLC0415

        raw = read_raw(config, laid_over)
        if not raw.get("simulation", {}).get("attackers"):
            laid_over.append(("simulation.attackers", raw.get("swarm", {}).get("byzantine", 0)))
    read = read_config(config, laid_over)

    from qres_core.lab.scenario import Scenario  # noqa: PLC0415
    from qres_core.lab.simulator import simulate  # noqa: PLC0415 - numpy

    scenario = read.sections["simulation"]
    assert isinstance(scenario, Scenario)  # noqa: S101 - SECTIONS says so
    if as_json:
        result = simulate(read, scenario)
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        from qres_core.cli.console import console  # noqa: PLC0415
        from qres_core.cli.display import RoundTable, summary  # noqa: PLC0415 - rich

        where = console()
        under = f", {scenario.attackers} {scenario.attack}" if scenario.attack else ""
        figure = "accuracy" if scenario.task.name == "digits" else "loss"
        table = RoundTable(f"{read.swarm.name}: {read.swarm.nodes} nodes{under}", figure)
        with table.shown(where):
            result = simulate(read, scenario, progress=table.add)
        where.print(summary(result), highlight=False)
    if len(result.closed) < scenario.rounds or not result.unanimous:
        sys.exit(1)


def show_attacks(*, as_json: bool) -> None:
    """The registry of attacks."""
    from qres_core.lab.attacks import ATTACKS  # noqa: PLC0415 - numpy

    rows = [
        {"name": one.name, "summary": one.summary, "knowledge": one.knowledge}
        for one in ATTACKS.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table  # noqa: PLC0415

    from qres_core.cli.console import console  # noqa: PLC0415

    table = Table("attack", "what it sends", "what the attacker must know")
    for row in rows:
        table.add_row(*row.values())
    console().print(table)
