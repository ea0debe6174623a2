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

import attrs
import click

from qres_core.cli.options import default_attackers, parse_setting, policy_option, read_raw

if TYPE_CHECKING:
    from rich.live import Live

    from qres_core.swarm.storage.model_file import SwarmModel
    from qres_lab.box.fleet import Fleet, FleetAgreement

EVERY: Final = 0.5
"""Seconds between two looks at the nodes."""
STILL: Final = 10.0
"""Seconds without news after which it is said what is waited for."""
VOUCHED_WITHIN: Final = 20.0
"""Seconds that a box waits at its end for its nodes to hear the votes for the last model."""
FIGURES_WITHIN: Final = 2.0
"""Seconds that a new model's line waits for its figures."""
MEASURED_WITHIN: Final = 600.0
"""Seconds that a box waits at its end for the figures of the last model: a large one takes long."""
_REASONS: Final = 3
"""Reasons of rounds without a model that are told."""
_SUGAR: Final = {
    "nodes": "swarm.nodes",
    "rounds": "swarm.rounds",
    "attack": "simulation.attack",
    "attackers": "simulation.attackers",
    "seed": "simulation.seed",
}
MAX_COMPLAINTS: Final = 100
"""Failures of trainers that are told; every one is in its node's log."""


@click.group("swarm")
def command() -> None:
    """Run a whole swarm of real nodes on this machine."""


@command.command("up")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.IntRange(1), help="Number of nodes; overrides swarm.nodes.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="Models to make; overrides swarm.rounds. Without it and swarm.until, until ctrl-C.",
)
@click.option("--attack", help="Attack of the attackers, of those that a process can make alone.")
@click.option("--attackers", type=int, help="Number of attackers; swarm.byzantine if left out.")
@click.option("--seed", type=int, help="Decides data and first model.")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds after which the box gives up.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where keys, configurations, data and logs go, and stay. By default a temporary folder, "
    "which is kept only if something goes wrong.",
)
@click.option(
    "--no-restart",
    "restart",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Leave a node dead that was killed or failed.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder for the last model, model.npz, with the votes that decided "
    "it, and for roster.toml to verify it with.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def up(
    config: Path,
    *,
    restart: bool,
    timeout: float | None,
    folder: Path | None,
    save: Path | None,
    settings: tuple[str, ...],
    policy_files: tuple[Path, ...],
    as_json: bool,
    **given: object,
) -> None:
    """Start every node of CONFIG as a process on loopback, and watch them.

    Each gets a key, a configuration and a data folder of its own. They train what [trainer] names,
    as `qres simulate` does; the factory of `entry` is told which node it is by a parameter `index`.
    Attack and attackers are those of [simulation], as for
    `qres simulate`, but an attacker knows its own data and nothing else. The plugin `memory` is
    replaced by `libp2p`. With `grpc`, the box starts a hub too. Ctrl-C, or the end of this process
    in any way, ends all of them.

    A node that is killed or fails is started again with its folder and catches up: at once, then
    after growing pauses, at most five times in a row without a new model. One that is refused at
    its start is left dead. The box gives up when fewer honest nodes are left than a round needs,
    or when so many trainers fail three rounds in a row that no round can close.

    Exit code 0 if all honest nodes that live agreed: on the model of every step, and on the last
    one where swarm.rounds or swarm.until is set. Ctrl-C is how a box without either ends, and ends
    it with 0; it ends a box with one of them before its time, with 130. 1 if the nodes did not
    agree or too few were left, 2 if the configuration is refused.
    """
    from qres_core.node import extra  # noqa: PLC0415 - numpy and more

    extra.require()
    from qres_core.contract.stores.files import new_folder  # noqa: PLC0415
    from qres_core.kernel.policy import in_force  # noqa: PLC0415
    from qres_core.training.table import notices, table_of  # noqa: PLC0415
    from qres_lab.box.fleet import Fleet  # noqa: PLC0415
    from qres_lab.box.nodes import needed, prepare, roster_tables  # noqa: PLC0415

    wanted = [(key, given[name]) for name, key in _SUGAR.items() if given.get(name) is not None]
    raw = read_raw(config, [*(parse_setting(text) for text in settings), *wanted])
    default_attackers(raw, given)
    policies = in_force(policy_files)
    if save is not None:
        new_folder(save)
    home = Path(tempfile.mkdtemp(prefix="qres-swarm-")) if folder is None else folder
    fine = False
    told = Told()
    try:
        if not as_json:
            click.echo(f"making keys and configurations in {home}")
        read, seats = prepare(raw, str(config), home, policies)
        for notice in (said := notices(read)):
            click.echo(f"note {notice}", err=True)
        rounds = read.swarm.rounds or None
        with _listening(told), Fleet(seats, rounds, needed(read), restart) as fleet:
            Watch(fleet, told, read.swarm.name, timeout, as_json=as_json).run()
            if save is not None or (folder is not None and fleet.through):
                _await_vouchers(fleet)
        verdict = fleet.verdict()
        saved = None if save is None else fleet.vouched()
        fine = verdict.agreed and (save is None or saved is not None)
    finally:
        if folder is None and (fine or not any(home.glob("node-*/log.jsonl"))):
            shutil.rmtree(home, ignore_errors=True)
        elif folder is None:
            click.echo(f"keys, data and logs of the nodes are in {home}", err=True)
    trained = {"trainer": table_of(read).name, "notices": said}
    _tell(fleet, verdict, trained, as_json=as_json)
    if save is not None:
        _save(save, saved, roster_tables(read, seats))
    ends = bool(rounds or read.swarm.until)
    early = ends and not fleet.through and verdict.split is None
    if told.by is not None and early:
        last = f" of {rounds}" if rounds else f", before {read.swarm.until}"
        reached = f"model {fleet.step}{last}"
        click.echo(f"stopped by {signal.Signals(told.by).name} at {reached}", err=True)
        sys.exit(128 + told.by)
    if not fine:
        sys.exit(1)


def _await_vouchers(fleet: Fleet) -> None:
    """Give the nodes a moment to hear the votes for the last model: any may be exported from."""
    end = time.monotonic() + VOUCHED_WITHIN
    while fleet.living and time.monotonic() < end and fleet.vouched_by_all() < fleet.step:
        time.sleep(EVERY / 5)


def _save(folder: Path, model: SwarmModel | None, roster: Mapping[str, Any]) -> None:
    """Write the model and what to verify it with; told on stderr, for JSON goes to stdout."""
    from qres_core.contract.stores import create_file  # noqa: PLC0415
    from qres_lab.box import toml  # noqa: PLC0415

    if model is None:
        said = "no model was saved: the swarm has decided none"
        click.echo(said, err=True)
        return
    model.save(folder / "model.npz")
    create_file(folder / "roster.toml", toml.render(roster).encode())
    click.echo(f"saved model {model.step}, {model.digest.hex()[:16]}; to check it:", err=True)
    click.echo(f"    qres model verify {folder}/model.npz --roster {folder}/roster.toml", err=True)


@attrs.define
class Told:
    """Flag that somebody told the box to stop."""

    by: int | None = None  # number of the signal; ``None`` before
    event: threading.Event = attrs.field(factory=threading.Event)  # set when it comes


@contextmanager
def _listening(told: Told) -> Generator[None]:
    """Note ctrl-C and SIGTERM while inside."""

    def tell(number: int, _frame: FrameType | None) -> None:
        told.by = number
        told.event.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@attrs.define(eq=False)
class Watch:
    """Shows a swarm: as a table on a terminal, else a line for each thing that happens."""

    fleet: Fleet
    told: Told
    name: str
    timeout: float | None
    as_json: bool = attrs.field(kw_only=True)
    _shown: Live | None = attrs.field(default=None, init=False)
    _step: int = attrs.field(default=0, init=False)
    _told_of: set[tuple[str, str, str]] = attrs.field(factory=set[tuple[str, str, str]], init=False)
    _goal_told: bool = attrs.field(default=False, init=False)
    _since: float = attrs.field(default=0.0, init=False)
    _through_since: float | None = attrs.field(default=None, init=False)
    _seen_since: dict[int, float] = attrs.field(factory=dict[int, float], init=False)

    def run(self) -> None:
        """Until the swarm is through, told to stop, out of time, or can make no more models."""
        from rich.live import Live  # noqa: PLC0415 - rich

        from qres_core.cli.console import console  # noqa: PLC0415

        where = console()
        self._addresses()
        if where.is_terminal and not self.as_json:
            self._shown = Live(console=where, auto_refresh=False)
            self._shown.start()
        started = self._since = time.monotonic()
        try:
            while True:
                for said in self.fleet.poll():
                    self._news(said)
                self._complaints()
                self._progress()
                over = self.timeout is not None and time.monotonic() > started + self.timeout
                if over or self.fleet.hopeless or self.fleet.starving:
                    return
                if self.fleet.through and self._no_more_figures():
                    return
                if self.told.event.wait(EVERY):
                    return
        finally:
            self._models(wait=False)
            if self._shown is not None:
                self._shown.stop()

    def _no_more_figures(self) -> bool:
        """True if the last model's figures are there, or are waited for no longer."""
        now, step = time.monotonic(), self.fleet.step
        if figures_of(self.fleet, step) or all(entry.measured(step) for entry in self.fleet.living):
            return True
        if self._through_since is None:
            self._through_since = now
        if now < self._through_since + MEASURED_WITHIN:
            return False
        self._news(f"gave up on the figures of model {step} after {MEASURED_WITHIN:g} s")
        return True

    def _addresses(self) -> None:
        if self.as_json:
            return
        for member in self.fleet.members:
            role = " (attacker)" if member.seat.hostile else ""
            click.echo(f"{member.seat.name}  {member.seat.url}{role}")

    def _news(self, said: str) -> None:
        """Tell of trouble, at once."""
        self._since = time.monotonic()
        if self._shown is not None:
            self._shown.console.print(said, markup=False, highlight=False)
        else:
            click.echo(said, err=True)

    def _complaints(self) -> None:
        """Tell of failing trainers, once of each error of a node."""
        from qres_core.cli.live import trainer_error  # noqa: PLC0415 - rich

        for member in self.fleet.members:
            if member.goal and not self._goal_told and not member.seat.hostile:
                self._goal_told = True
                self._news(f"{member.seat.name}: {member.goal}")
            failure = member.complaint
            if failure is None:
                continue
            kind = member.seat.name, str(failure["method"]), str(failure["error"])[:200]
            if kind not in self._told_of and len(self._told_of) < MAX_COMPLAINTS:
                self._told_of.add(kind)
                log = member.seat.folder / "log.jsonl"
                self._news(f"{member.seat.name}: {trainer_error(failure)}; traceback in {log}")

    def _progress(self) -> None:
        if self._shown is not None:
            from qres_core.cli.live import swarm_table  # noqa: PLC0415 - rich

            rows = [(member.seat.name, member.role, member.report) for member in self.fleet.members]
            title = f"{self.name}: {len(rows)} nodes; ctrl-C stops them"
            self._shown.update(swarm_table(title, rows), refresh=True)
        elif not self.as_json:
            self._models(wait=True)
            if time.monotonic() >= self._since + STILL:
                self._since = time.monotonic()
                click.echo(f"still waiting: {waited_for(self.fleet)}")

    def _models(self, *, wait: bool) -> None:
        """A line for each model that all have; its figures may come a little later."""
        if self._shown is not None or self.as_json:
            return
        from qres_core.cli.live import figure  # noqa: PLC0415 - rich

        now = time.monotonic()
        for step in range(self._step + 1, self.fleet.step + 1):
            since = self._seen_since.setdefault(step, now)
            metrics = figures_of(self.fleet, step)
            patience = MEASURED_WITHIN if self.fleet.through else FIGURES_WITHIN
            if wait and not metrics and step == self.fleet.step and now < since + patience:
                return
            self._step, self._since = step, now
            del self._seen_since[step]
            digest = self.fleet.digest(step)
            if digest:
                click.echo(f"model {step}  {figure(metrics) or 'not measured'}  {digest[:12]}")


def figures_of(fleet: Fleet, step: int) -> dict[str, float]:
    """Figures of the model of a step, of the first honest node that measured it."""
    from qres_core.cli.live import figures_at  # noqa: PLC0415 - rich

    for member in fleet.living:
        if member.report is not None and (made := figures_at(member.report, step)):
            return made
    return {}


def waited_for(fleet: Fleet) -> str:
    """Name the next model's missing parts, or those of the end, as far as the nodes say."""
    if fleet.through:
        return f"every node has model {fleet.step}, and its figures are computed"
    silent = [living_node.seat.name for living_node in fleet.living if not living_node.answers]
    if silent:
        return f"{', '.join(silent)} {'does' if len(silent) == 1 else 'do'} not answer yet"
    behind = [
        living_node
        for living_node in fleet.living
        if living_node.step < max(two.step for two in fleet.living)
    ]
    if behind:
        said = ", ".join(f"{item.seat.name} is at model {item.step}" for item in behind)
        return f"{said}, others at {max(living_node.step for living_node in fleet.living)}"
    report: dict[str, Any] = (fleet.living[0].report if fleet.living else None) or {}
    last = (report.get("history") or [{"closed": True}])[-1]
    why = "" if last["closed"] else f"; the last was {without_model(last)}"
    return f"round {report.get('round', 0)} goes on{why}"


def _tell(
    fleet: Fleet, verdict: FleetAgreement, trained: Mapping[str, object], *, as_json: bool
) -> None:
    from qres_core.cli.live import figure  # noqa: PLC0415

    metrics = figures_of(fleet, verdict.step)
    if as_json:
        report = {
            "agreed": verdict.agreed,
            "step": verdict.step,
            "model_digest": verdict.model_digest,
            "metrics": metrics,
            "split": verdict.split,
            **trained,
            "nodes": [
                {
                    "name": member.seat.name,
                    "id": member.seat.node_id,
                    "url": member.seat.url,
                    "hostile": member.seat.hostile,
                    "exit_code": member.process.returncode,
                    "restarts": member.restarts,
                    "trainer_error": member.complaint,
                    "dead": member.fate or None,
                    "status": member.report,
                }
                for member in fleet.members
            ],
        }
        click.echo(json.dumps(report, indent=2))
        return
    honest, living = fleet.honest, fleet.living
    for outcome in fleet.dead:
        log = outcome.seat.folder / "log.jsonl"
        click.echo(f"{outcome.seat.name} is dead: it {outcome.fate} ({log})", err=True)
    if fleet.hopeless:
        few = f"{len(living)} of {len(honest)} honest nodes are left"
        click.echo(f"{few}, and a round needs {fleet.needed}", err=True)
    if fleet.starving:
        few = f"trainers fail at {fleet.starving} of {len(honest)} honest nodes, round after round"
        click.echo(f"{few}; a round needs the updates of {fleet.needed} nodes", err=True)
    if verdict.split is not None:
        click.echo(f"honest nodes hold different models of step {verdict.split}", err=True)
    elif verdict.agreed:
        who = f"all {len(honest)}" if living == honest else f"{len(living)} of {len(honest)}"
        click.echo(
            f"{who} honest nodes agree: model {verdict.step}, "
            f"{verdict.model_digest[:16]}, {figure(metrics) or 'not measured'}"
        )
    elif not fleet.hopeless:
        wanted = "" if fleet.rounds is None else f" of {fleet.rounds}"
        made = f"they are at model {verdict.step}{wanted}"
        click.echo(f"the honest nodes did not all end with one model: {made}", err=True)
        for reason, count in _without_model(honest_node.report for honest_node in honest):
            click.echo(f"    rounds at {count} of them {reason}", err=True)


def without_model(ended: Mapping[str, Any]) -> str:
    """End of a round that made no model, of a node's history."""
    return f"{'void' if ended.get('void') else 'aborted'}: {ended['reason']}"


def _without_model(reports: Iterable[Mapping[str, Any] | None]) -> list[tuple[str, int]]:
    """Reasons why rounds made no model, and at how many nodes; the most frequent ones."""
    counts = Counter(
        reason
        for report in reports
        for reason in {
            without_model(item) for item in (report or {}).get("history", []) if not item["closed"]
        }
    )
    return counts.most_common(_REASONS)
