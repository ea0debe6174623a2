"""``qres attack``: the attack gallery."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qres_lab.gallery.run import Job, Shown

_SEED = click.option("--seed", default=1, show_default=True, help="Seed of all randomness.")
_QUICK = click.option("--quick", is_flag=True, help="Few rounds and samples: to see that it works.")
_COSTS = click.option(
    "--costs", is_flag=True, help="Also processor time and bytes, which differ from run to run."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_JOBS = click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=lambda: min(2, os.cpu_count() or 1),
    show_default="2, or 1 on one core",
    help="Played at once; changes no result.",
)


@click.group(
    "attack", short_help="Play attacks against nothing, single defences, and all together."
)
def command() -> None:
    """Play attacks against nothing, against single defences, and against all together."""


@command.command("list")
@_JSON
def list_command(*, as_json: bool) -> None:
    """List the attacks and the exhibits, those of plugins included.

    Attacks are names for `simulation.attack` and --attack; exhibits are names for `qres attack
    run`.
    """
    from qres_core.attacks import catalogue, sabotages  # noqa: PLC0415 - numpy
    from qres_lab.exhibits import lacking  # noqa: PLC0415
    from qres_lab.gallery.entries import gallery  # noqa: PLC0415

    attacks = [
        {"name": attack.name, "summary": attack.summary, "knowledge": attack.knowledge}
        for attack in catalogue().values()
    ] + [
        {"name": attack.name, "summary": attack.summary, "knowledge": "what it hears"}
        for attack in sabotages().values()
    ]
    exhibits = [
        {
            "name": item.name,
            "family": item.family.value,
            "summary": item.summary,
            "succeeds_if": item.aim,
            "against": list(item.plays),
        }
        for item in gallery().values()
    ]
    if as_json:
        click.echo(json.dumps({"attacks": attacks, "exhibits": exhibits}, indent=2))
        return
    from rich.table import Table  # noqa: PLC0415

    from qres_core.cli.console import console  # noqa: PLC0415

    table = Table("attack", "what it sends", "what the attacker must know")
    for row in attacks:
        table.add_row(*row.values())
    console().print("Attacks, for simulation.attack and --attack:", table)
    table = Table("exhibit", "family", "what the attackers do", "succeeds if", "against")
    for item in gallery().values():
        table.add_row(item.name, item.family.value, item.summary, item.aim, str(len(item.plays)))
    console().print("\nExhibits, for `qres attack run`:", table)
    for module, names in lacking().items():
        click.echo(f"Those of {module} are left out: {', '.join(names)} not installed")


@command.command("run")
@click.argument("name")
@click.option("--against", multiple=True, help="One defence, besides none at all; may be repeated.")
@_SEED
@_QUICK
@_COSTS
@_JOBS
@_JSON
def run_command(
    name: str,
    *,
    against: tuple[str, ...],
    seed: int,
    quick: bool,
    costs: bool,
    processes: int,
    as_json: bool,
) -> None:
    """Play the exhibit NAME against everything it is made for, or against one defence.

    Exit code 1 if a defence fails.
    """
    shown = _played([name], seed=seed, quick=quick, processes=processes, against=against)
    if as_json:
        click.echo(_json(shown, seed=seed, quick=quick, costs=costs))
    else:
        _print(shown, costs=costs)
    _end(shown)


@command.command("report")
@_SEED
@_QUICK
@_COSTS
@_JOBS
@click.option(
    "--output",
    default="qres-attacks.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page: one file that loads nothing.",
)
@_JSON
def report_command(
    *, seed: int, quick: bool, costs: bool, processes: int, output: Path, as_json: bool
) -> None:
    """Play the whole gallery and write a page.

    Exit code 1 if a defence fails: the page says which, and why.
    """
    from qres_lab.exhibit import GallerySetting  # noqa: PLC0415
    from qres_lab.gallery.page import render  # noqa: PLC0415

    shown = _played([], seed=seed, quick=quick, processes=processes)
    output.write_text(render(shown, GallerySetting(seed, quick), costs=costs), encoding="utf-8")
    if as_json:
        click.echo(_json(shown, seed=seed, quick=quick, costs=costs))
    else:
        _print(shown, costs=costs)
        click.echo(f"page {output}")
    _end(shown)


def _json(shown: Sequence[Shown], *, seed: int, quick: bool, costs: bool) -> str:
    from qres_lab.exhibit import GallerySetting  # noqa: PLC0415
    from qres_lab.gallery.run import to_json  # noqa: PLC0415

    return json.dumps(to_json(shown, GallerySetting(seed, quick), costs=costs), indent=2)


def _played(
    names: list[str], *, seed: int, quick: bool, processes: int, against: Sequence[str] = ()
) -> tuple[Shown, ...]:
    from qres_lab.exhibit import GallerySetting  # noqa: PLC0415
    from qres_lab.gallery.run import play_all  # noqa: PLC0415

    def progress(done: int, of: int, job: Job) -> None:
        click.echo(f"\r{done}/{of} {job[0]}, {job[1]:40}", err=True, nl=False)

    shown = play_all(
        names,
        GallerySetting(seed, quick),
        against=against,
        processes=processes,
        progress=progress if sys.stderr.isatty() else None,
    )
    if sys.stderr.isatty():
        click.echo(err=True)
    return shown


def _print(shown: Sequence[Shown], *, costs: bool) -> None:
    from rich.table import Table  # noqa: PLC0415

    from qres_core.cli.console import console  # noqa: PLC0415
    from qres_lab.gallery.matrix import mark  # noqa: PLC0415

    styles = {"failed": "bold red", "costly": "yellow", "held": "green", "none": "dim"}
    heads = ["attack", "against", "outcome", "measured", "accuracy", "noticed by", "why"]
    table = Table(*heads, *(["CPU s", "MB"] if costs else []))
    for item in shown:
        for outcome, seconds in zip(item.outcomes, item.seconds, strict=True):
            sign = mark(outcome)
            table.add_row(
                item.entry.name,
                outcome.defence,
                f"[{styles[sign.kind]}]{sign.word}[/]",
                f"{outcome.measure}: {outcome.value:.3g}",
                "" if outcome.accuracy is None else f"{outcome.accuracy:.1%}",
                "; ".join(outcome.detected) or "nobody",
                outcome.reason,
                *([f"{seconds:.1f}", f"{outcome.octets / 1e6:.1f}"] if costs else []),
            )
        table.add_section()
    console().print(table)


def _end(shown: Sequence[Shown]) -> None:
    from qres_lab.gallery.run import failures  # noqa: PLC0415

    found = failures(shown)
    for name, outcome in found:
        click.echo(f"FAILED {name} against {outcome.defence}: {outcome.reason}", err=True)
    if found:
        sys.exit(1)
