"""``qres swarm``: a whole swarm of real nodes on this machine."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from qres_core.cli.options import parse_setting, policy_option, read_raw
from qres_core.contract import canonical

if TYPE_CHECKING:
    from qres_core.node.fleet import Fleet, Verdict

EVERY: Final = 0.5
"""Seconds between two looks at the nodes."""
_REASONS: Final = 3
"""Reasons of aborted rounds that are told."""
_SUGAR: Final = {
    "nodes": "swarm.nodes",
    "attack": "simulation.attack",
    "attackers": "simulation.attackers",
    "seed": "simulation.seed",
}


@click.group("swarm")
def command() -> None:
    """Run a whole swarm of real nodes on this machine."""


@command.command("up")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.IntRange(1), help="Number of nodes; overrides swarm.nodes.")
@click.option("--rounds", type=click.IntRange(1), help="Models to make; without it until ctrl-C.")
@click.option("--attack", help="What attackers do, of what a process can do by itself.")
@click.option("--attackers", type=int, help="How many attack; swarm.byzantine if left out.")
@click.option("--seed", type=int, help="Decides data and first model.")
@click.option("--timeout", type=click.FloatRange(0), help="Give up after so many seconds.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where keys, configurations, data and logs go, and stay. By default a temporary folder, "
    "which is kept only if something goes wrong.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def up(
    config: Path,
    *,
    rounds: int | None,
    timeout: float | None,
    folder: Path | None,
    settings: tuple[str, ...],
    policy_files: tuple[Path, ...],
    as_json: bool,
    **given: object,
) -> None:
    """Start every node of CONFIG as a process on loopback, and watch them.

    Each gets a key, a configuration and a data folder of its own. They train the model of
    [trainer] `entry`, whose factory is told which node it is by a parameter `index`; without one,
    the task of [simulation.task]. Attack and attackers are those of [simulation], as for
    `qres simulate`, but an attacker knows its own data and nothing else. The plugin `memory` is
    replaced by `libp2p`. Ctrl-C, or the end of this process in any way, ends all nodes.

    Exit code 0 if all honest nodes agreed: on the model of every step, and with --rounds on the
    last one; 1 if not, or if one of them failed, 2 if the configuration is refused.
    """
    from qres_core.node import extra  # noqa: PLC0415 - numpy and more

    extra.require()
    from qres_core.kernel.policy import in_force  # noqa: PLC0415
    from qres_core.node.box import prepare, shares_data  # noqa: PLC0415
    from qres_core.node.fleet import Fleet  # noqa: PLC0415

    wanted = [(key, given[name]) for name, key in _SUGAR.items() if given.get(name) is not None]
    raw = read_raw(config, [*(parse_setting(text) for text in settings), *wanted])
    _default_attackers(raw, given)
    policies = in_force(policy_files)
    home = Path(tempfile.mkdtemp(prefix="qres-swarm-")) if folder is None else folder
    fine = False
    try:
        read, seats = prepare(raw, str(config), home, policies)
        if shares_data(read):
            said = "has no parameter `index`: all nodes may be training on the same data"
            click.echo(f"trainer.entry {said}", err=True)
        with _told() as told, Fleet(seats, rounds) as fleet:
            _watch(fleet, told, read.swarm.name, timeout, as_json=as_json)
        verdict = fleet.verdict()
        fine = verdict.agreed
    finally:
        if folder is None and (fine or not any(home.glob("node-*/log.jsonl"))):
            shutil.rmtree(home, ignore_errors=True)
        elif folder is None:
            click.echo(f"keys, data and logs of the nodes are in {home}", err=True)
    _tell(fleet, verdict, as_json=as_json)
    if not fine:
        sys.exit(1)


def _default_attackers(raw: dict[str, Any], given: dict[str, object]) -> None:
    """An attack without a number of attackers gets as many as the swarm promises to withstand."""
    table, swarm = raw.get("simulation"), raw.get("swarm")
    if given.get("attack") and canonical.is_map(table) and canonical.is_map(swarm):
        table.setdefault("attackers", swarm.get("byzantine", 0))


@contextmanager
def _told() -> Generator[threading.Event]:
    """Set by ctrl-C and SIGTERM while inside."""
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    fleet: Fleet, told: threading.Event, name: str, timeout: float | None, *, as_json: bool
) -> None:
    """Show the swarm until it is through, told to stop, out of time, or an honest node is lost."""
    from rich.live import Live  # noqa: PLC0415 - rich

    from qres_core.cli.console import console  # noqa: PLC0415
    from qres_core.cli.live import figure, swarm_table  # noqa: PLC0415

    where = console()
    shown = None
    if where.is_terminal and not as_json:
        shown = Live(console=where, auto_refresh=False)
        shown.start()
    seen, started = 0, time.monotonic()
    try:
        while True:
            fleet.poll()
            if shown is not None:
                rows = [(one.seat.name, one.role, one.report) for one in fleet.members]
                title = f"{name}: {len(rows)} processes; ctrl-C stops them"
                shown.update(swarm_table(title, rows), refresh=True)
            elif fleet.step > seen and not as_json:
                report = fleet.honest[0].report or {}
                digest = report.get("model_digest", "")[:12]
                click.echo(f"model {fleet.step}  {figure(report.get('metrics', {}))}  {digest}")
            seen = max(seen, fleet.step)
            over = timeout is not None and time.monotonic() > started + timeout
            through = fleet.rounds is not None and fleet.step >= fleet.rounds
            if through or over or fleet.lost or told.wait(EVERY):
                return
    finally:
        if shown is not None:
            shown.stop()


def _tell(fleet: Fleet, verdict: Verdict, *, as_json: bool) -> None:
    from qres_core.cli.live import figure  # noqa: PLC0415

    if as_json:
        report = {
            "agreed": verdict.agreed,
            "step": verdict.step,
            "model_digest": verdict.model_digest,
            "split": verdict.split,
            "nodes": [
                {
                    "name": one.seat.name,
                    "id": one.seat.node_id,
                    "hostile": one.seat.hostile,
                    "exit_code": one.process.returncode,
                    "status": one.report,
                }
                for one in fleet.members
            ],
        }
        click.echo(json.dumps(report, indent=2))
        return
    honest = fleet.honest
    for one in fleet.fallen:
        log = one.seat.folder / "log.jsonl"
        click.echo(f"{one.seat.name} ended with {one.process.returncode}: {log}", err=True)
    if verdict.split is not None:
        click.echo(f"honest nodes hold different models of step {verdict.split}", err=True)
    elif verdict.agreed:
        last: dict[str, Any] = honest[0].report or {}
        history: list[dict[str, Any]] = last.get("history", [])
        at_step = [
            one["metrics"] for one in history if one["closed"] and one["step"] == verdict.step
        ]
        metrics: dict[str, float] = at_step[-1] if at_step else {}
        click.echo(
            f"all {len(honest)} honest nodes agree: model {verdict.step}, "
            f"{verdict.model_digest[:16]}, {figure(metrics)}"
        )
    elif not fleet.fallen:
        wanted = "" if fleet.rounds is None else f" of {fleet.rounds}"
        click.echo(f"not all honest nodes have a last model: step {verdict.step}{wanted}", err=True)
        for reason, count in _aborted(one.report for one in honest):
            click.echo(f"    rounds aborted at {count} of them: {reason}", err=True)


def _aborted(reports: Iterable[Mapping[str, Any] | None]) -> list[tuple[str, int]]:
    """Why rounds were aborted, and at how many nodes; the most frequent reasons."""
    counts = Counter(
        reason
        for report in reports
        for reason in {
            one["reason"] for one in (report or {}).get("history", []) if not one["closed"]
        }
    )
    return counts.most_common(_REASONS)
