"""``qres demo``: the main job, with and without a defence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command("demo", short_help="Train real nodes under attack, with and without a defence.")
@click.option("--attack", default="sign_flip", show_default=True, help="Attack of the attackers.")
@click.option("--seed", default=1, show_default=True, help="Seed of all randomness.")
@click.option("--rounds", default=12, show_default=True, help="Models each run makes.")
@click.option(
    "--output",
    default="qres-demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for demo.png and demo.html.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(*, attack: str, seed: int, rounds: int, output: Path, as_json: bool) -> None:
    """Train twenty nodes on handwritten digits while six of them attack.

    Three runs of one swarm: nobody attacks, the mean under attack, Krum under attack. Exit code 1
    if the mean does not fail by 30 points or Krum is more than 5 below the clean run.
    """
    from qres_core.attacks.scenario import Scenario  # noqa: PLC0415
    from qres_core.kernel.config import structure  # noqa: PLC0415 - numpy and more
    from qres_core.kernel.discovery import Status, scan  # noqa: PLC0415
    from qres_core.kernel.index import FROM_CHECKOUT  # noqa: PLC0415
    from qres_core.lab.record import SimulationResult  # noqa: PLC0415
    from qres_lab.demo import (  # noqa: PLC0415
        ATTACKERS,
        CLEAN,
        DEFENDED,
        UNDEFENDED,
        DemoResult,
        run_arm,
    )
    from qres_lab.report import write  # noqa: PLC0415

    raw = {"attack": attack, "attackers": ATTACKERS, "seed": seed, "rounds": rounds}
    scenario = structure(raw, Scenario, "qres demo")
    installed = scan()
    krum = installed.get("krum")
    arms = [CLEAN, UNDEFENDED]
    if krum is not None and krum.status is Status.INSTALLED:
        arms.append(DEFENDED)

    runs: list[SimulationResult] = []
    if as_json:
        runs = [run_arm(arm, scenario, installed, None) for arm in arms]
    else:
        from qres_core.cli.console import console  # noqa: PLC0415
        from qres_core.cli.display import RoundTable, summary  # noqa: PLC0415

        where = console()
        for arm in arms:
            under = f", {ATTACKERS} of 20 {attack}" if arm.attacked else ""
            table = RoundTable(f"{arm.label}{under}")
            with table.shown(where):
                runs.append(run_arm(arm, scenario, installed, table.add))
            where.print(summary(runs[-1]) + "\n", highlight=False)
    result = DemoResult(runs[0], runs[1], runs[2] if len(runs) > 2 else None)
    picture, page = write(result, output)

    if as_json:
        report = {
            "as_claimed": result.as_claimed,
            "picture": str(picture),
            "page": str(page),
            "runs": {arm.label: run.to_json() for arm, run in result.runs},
        }
        click.echo(json.dumps(report, indent=2))
    else:
        for arm, run in result.runs:
            shown = f"{0.0 - result.points_below_clean(run):+.1f}"
            click.echo(f"{arm.label:22} {run.final('accuracy') or 0:6.1%}  {shown:>6} points")
        if result.defended is None:
            click.echo("qres-krum is not installed, so there is no defence to show:")
            click.echo(f"    {FROM_CHECKOUT}")
        click.echo(f"picture {picture}\npage    {page}")
    if result.defended is not None and not result.as_claimed:
        click.echo(f"not as claimed: under {attack!r} {result.shortfall}", err=True)
        sys.exit(1)
