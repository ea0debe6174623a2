"""``qres dp``: plan a privacy budget, read a ledger, audit the plugin."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from qres_core import ConfigError, reporting
from qres_dp import accounting, combination
from qres_dp.audit import FAULTS, Audit, audit, controls
from qres_dp.audit.black_box import RUNS
from qres_dp.ledger import Owner, PrivacyLedger
from qres_dp.ledger.record import LedgerEntry
from qres_dp.modes import Mode, Unit
from qres_dp.plan import PrivacyPlan, Request, plan

_MAX_CONFIG = 2**20
_MODES = click.Choice([mode.value for mode in Mode])
_UNITS = click.Choice([unit.value for unit in Unit])
_GROUP_SIZES = (2, 5, 10)
_PATH = click.Path(path_type=Path)


@click.group()
def dp() -> None:
    """Plan a privacy budget, read a ledger, audit the plugin."""


# ── plan ──────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class _Budget:
    """Epsilon, rounds and noise multiplier; one of them followed from the others."""

    epsilon: float
    rounds: int
    noise: float
    delta: float
    rate: float

    def spent(self, rounds: int) -> float:
        return accounting.epsilon(self.noise, rounds, self.delta, sampling_rate=self.rate)

    def needed(self, epsilon: float) -> float:
        return accounting.calibrate(epsilon, self.delta, self.rounds, sampling_rate=self.rate)


def _most_rounds(epsilon: float, noise: float, delta: float, rate: float) -> int:
    """The most rounds a budget lasts for."""

    def fits(rounds: int) -> bool:
        return accounting.epsilon(noise, rounds, delta, sampling_rate=rate) <= epsilon

    if not fits(1):
        item = accounting.epsilon(noise, 1, delta, sampling_rate=rate)
        what = f"one round spends epsilon {item:.6g}, and the budget is {epsilon:g}"
        raise ConfigError.of("QRES-E105", "--noise", what, "more noise, or a larger budget")
    low = 1
    while low < 10**9 and fits(min(2 * low, 10**9)):
        low = min(2 * low, 10**9)
    high = min(2 * low, 10**9 + 1)
    while high - low > max(1, low // 10_000 if rate < 1.0 else 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _budget(
    epsilon: float | None, rounds: int | None, noise: float | None, delta: float, rate: float
) -> _Budget:
    if rounds is not None and epsilon is not None and noise is None:
        noise = accounting.calibrate(epsilon, delta, rounds, sampling_rate=rate)
        spent = accounting.epsilon(noise, rounds, delta, sampling_rate=rate)
        return _Budget(spent, rounds, noise, delta, rate)
    if rounds is not None and noise is not None and epsilon is None:
        epsilon = accounting.epsilon(noise, rounds, delta, sampling_rate=rate)
        return _Budget(epsilon, rounds, noise, delta, rate)
    if epsilon is not None and noise is not None and rounds is None:
        rounds = _most_rounds(epsilon, noise, delta, rate)
        return _Budget(epsilon, rounds, noise, delta, rate)
    what = "two of --epsilon, --rounds and --noise are needed; the third follows"
    raise ConfigError.of("QRES-E103", "qres dp plan", what)


def _around(value: float, rate: float) -> list[float]:
    count = 3 if rate == 1.0 else 1  # a sampled point costs convolutions
    return [value * 2.0**power for power in range(-count, count + 1)]


def _rows(budget: _Budget) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Epsilon by rounds at this noise; noise by epsilon at these rounds."""
    rounds = sorted({max(1, round(r)) for r in _around(budget.rounds, budget.rate)})
    by_rounds = [{"rounds": r, "epsilon": budget.spent(r)} for r in rounds if r <= 10**9]
    by_epsilon = [
        {"epsilon": e, "noise_multiplier": budget.needed(e)}
        for e in _around(max(budget.epsilon, 1e-6), budget.rate)
        if 1e-6 <= e <= 1e6
    ]
    return by_rounds, by_epsilon


def _groups(budget: _Budget) -> list[dict[str, Any]]:
    """What the budget promises a person who has several records."""
    spent = [
        accounting.group(budget.noise, budget.rounds, budget.delta, size) for size in _GROUP_SIZES
    ]
    return [{"records": n, "epsilon": e} for n, e in zip(_GROUP_SIZES, spent, strict=True)]


def _chart(
    title: str,
    labels: tuple[str, str],
    points: list[tuple[float, float]],
    mark: tuple[float, float],
) -> reporting.Chart:
    across, up = (reporting.Axis(label, logarithmic=True) for label in labels)
    return reporting.Chart([reporting.Line(points)], title, across, up, [mark])


def _plot(budget: _Budget, path: Path) -> None:
    if path.suffix != ".svg":
        raise ConfigError.of("QRES-E105", "--plot", f"{path}: only .svg is written")
    count = 60 if budget.rate == 1.0 else 12
    grow = [2.0 ** (-4 + 6 * i / (count - 1)) for i in range(count)]
    rounds = sorted({max(1, round(budget.rounds * g)) for g in grow} | {budget.rounds})
    spent = [(float(r), budget.spent(r)) for r in rounds if r <= 10**9]
    goals = [max(budget.epsilon, 1e-6) * g for g in grow]
    needed = [(e, budget.needed(e)) for e in goals if 1e-6 <= e <= 1e6]
    charts = [
        _chart(
            f"noise multiplier {budget.noise:.4g}, delta {budget.delta:g}",
            ("rounds", "epsilon"),
            [(x, max(y, 1e-12)) for x, y in spent],
            (float(budget.rounds), max(budget.epsilon, 1e-12)),
        ),
        _chart(
            f"{budget.rounds} rounds, delta {budget.delta:g}",
            ("epsilon", "noise multiplier"),
            needed,
            (max(budget.epsilon, 1e-6), budget.noise),
        ),
    ]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(reporting.svg_file(charts))
    except FileExistsError as error:
        raise ConfigError.of("QRES-E803", "--plot", f"{path} exists") from error
    except OSError as error:
        raise ConfigError.of("QRES-E105", "--plot", str(error)) from error


def _described(privacy_plan: PrivacyPlan) -> dict[str, Any]:
    mechanism = privacy_plan.mechanism
    return {
        "mode": mechanism.mode.value,
        "unit": privacy_plan.request.unit,
        "relation": mechanism.relation.value,
        "bound_steps": mechanism.bound,
        "sensitivity_steps": mechanism.sensitivity,
        "noise_drawn_at_once_steps": math.sqrt(mechanism.share),
        "noise_drawn_at_once": privacy_plan.noise_of_share,
        "noise_of_sum": privacy_plan.noise_of_sum,
        "noise_of_mean": privacy_plan.noise_of_mean,
        "signal_to_noise": privacy_plan.longest
        / (privacy_plan.noise_of_mean * math.sqrt(privacy_plan.request.dimension)),
        "room_used": privacy_plan.room,
    }


_TOLD = {
    "mode": "mode",
    "unit": "unit of privacy",
    "relation": "neighbours",
    "bound_steps": "clipping bound, in steps of the grid",
    "sensitivity_steps": "sensitivity of a sum, in steps",
    "noise_drawn_at_once_steps": "noise drawn at once, deviation in steps",
    "noise_drawn_at_once": "noise drawn at once, deviation",
    "noise_of_sum": "noise in a sum of all nodes, deviation",
    "noise_of_mean": "noise in the mean of all nodes, deviation",
    "signal_to_noise": "longest mean over length of its noise",
    "room_used": "part of the grid's range in use",
}


@dp.command("plan")
@click.option("--epsilon", type=float, help="Budget of all rounds together.")
@click.option("--rounds", type=int, help="Rounds the budget is for.")
@click.option("--noise", type=float, help="Noise multiplier: deviation over sensitivity.")
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--sampling-rate", type=float, help="Poisson sampling, only where it is secret.")
@click.option("--mode", type=_MODES, help="With --nodes, --dimension, --clip: a whole plan.")
@click.option("--nodes", type=int, help="Nodes of the swarm.")
@click.option("--dimension", type=int, help="Coordinates of an update.")
@click.option("--clip", type=float, help="Greatest L2 norm of what a unit adds to an update.")
@click.option("--unit", type=_UNITS, default="node", show_default=True, help="What is protected.")
@click.option("--records", type=int, default=0, help="Unit record: most records of a node.")
@click.option("--honest", type=int, default=0, help="Mode distributed: shares nobody knows.")
@click.option("--scale", type=int, default=0, show_default=True, help="As swarm.scale.")
@click.option("--relation", default="", help="add-remove or replace-one; the mode's by default.")
@click.option("--plot", type=_PATH, help="Write both curves to this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(  # noqa: PLR0913 - a command takes one argument per option
    *,
    epsilon: float | None,
    rounds: int | None,
    noise: float | None,
    delta: float,
    sampling_rate: float | None,
    mode: str | None,
    nodes: int | None,
    dimension: int | None,
    clip: float | None,
    unit: str,
    records: int,
    honest: int,
    scale: int,
    relation: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Epsilon, rounds or noise from the two others, and what that means for a swarm.

    Every epsilon printed is an upper bound for all rounds together.
    """
    rate = 1.0 if sampling_rate is None else sampling_rate
    budget = _budget(epsilon, rounds, noise, delta, rate)
    result: dict[str, Any] = attrs.asdict(budget)
    if mode is not None:
        if nodes is None or dimension is None or clip is None:
            what = "a whole plan needs --nodes, --dimension and --clip"
            raise ConfigError.of("QRES-E103", "--mode", what)
        sampling = "none" if sampling_rate is None else "poisson"
        # A rounding's width above what is spent, so that planning back finds this noise again.
        wanted = Request(
            mode,
            budget.epsilon * (1.0 + 1e-9),
            delta,
            clip,
            budget.rounds,
            nodes,
            dimension,
            honest,
            scale,
            relation,
            sampling,
            rate,
            unit,
            records,
        )
        result["plan"] = _described(plan(wanted))
    if unit == Unit.RECORD.value:
        combination.check_sampling(Mode.DISTRIBUTED, rate, sampled=rate < 1.0, unit=Unit.RECORD)
        result["groups"] = _groups(budget)
    by_rounds, by_epsilon = _rows(budget)
    result |= {"by_rounds": by_rounds, "by_epsilon": by_epsilon}
    if plot is not None:
        _plot(budget, plot)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    _print_plan(budget, result)


def _print_plan(budget: _Budget, result: dict[str, Any]) -> None:
    click.echo(f"epsilon           {budget.epsilon:.6g}")
    click.echo(f"delta             {budget.delta:g}")
    click.echo(f"rounds            {budget.rounds}")
    click.echo(f"noise multiplier  {budget.noise:.6g}")
    if budget.rate < 1.0:
        click.echo(f"sampling rate     {budget.rate:g} (Poisson, secret)")
    for key, value in result.get("plan", {}).items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        click.echo(f"{_TOLD[key]:42}{shown}")
    click.echo(f"\nat noise multiplier {budget.noise:.6g}\n{'rounds':>12}{'epsilon':>12}")
    for row in result["by_rounds"]:
        click.echo(f"{row['rounds']:>12}{row['epsilon']:>12.4f}")
    if "groups" in result:
        click.echo(f"\nof one person's records\n{'records':>12}{'epsilon':>12}")
        click.echo(f"{1:>12}{budget.epsilon:>12.4f}")
    for row in result.get("groups", ()):
        click.echo(f"{row['records']:>12}{row['epsilon']:>12.4f}")
    click.echo(f"\nover {budget.rounds} rounds\n{'epsilon':>12}{'noise':>12}")
    for row in result["by_epsilon"]:
        click.echo(f"{row['epsilon']:>12.4g}{row['noise_multiplier']:>12.4f}")


# ── ledger ────────────────────────────────────────────────────────────────────────────────────


def _folder(path: Path) -> Path:
    """The folder itself, or the ``node.data_dir`` of a configuration."""
    if not path.is_file():
        return path
    try:
        with path.open("rb") as file:
            octets = file.read(_MAX_CONFIG + 1)
        if len(octets) > _MAX_CONFIG:
            raise ConfigError.of("QRES-E101", str(path), "over 1 MiB")
        table: dict[str, Any] = tomllib.loads(octets.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError.of("QRES-E101", str(path), str(error)) from error
    node = table.get("node")
    found = node.get("data_dir") if isinstance(node, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(found, str):
        fix = "name the folder of the ledger instead"
        raise ConfigError.of("QRES-E103", f"{path}: node.data_dir", "not set", fix)
    return Path(found)


def _row(record: LedgerEntry) -> dict[str, Any]:
    charge = record.charge
    return {
        "index": record.index,
        "round": charge.round,
        "mode": charge.mode,
        "noise_multiplier": charge.noise_multiplier,
        "sampling_rate": charge.sampling_rate,
        "bound_steps": charge.bound,
        "scale": charge.scale,
        "nodes": charge.nodes,
        "honest": charge.honest,
        "epsilon": record.epsilon,
        "delta": record.delta,
        "budget": record.budget,
        "digest": record.digest.hex(),
    }


@dp.command("ledger")
@click.argument("path", type=_PATH)
@click.option("--last", type=click.IntRange(0), default=20, show_default=True, help="Rows shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all rows.")
def ledger_command(path: Path, *, last: int, as_json: bool) -> None:
    """Check a node's ledger and print what it spent.

    PATH is the node's data folder, or its configuration file. The chain of records and the anchor
    beside it are checked first; a ledger that fails is refused.
    """
    owner, records = PrivacyLedger.read(_folder(path))
    if as_json:
        head = {"swarm": owner.swarm, "node": owner.node.hex(), "relation": owner.relation}
        click.echo(json.dumps({**head, "records": [_row(record) for record in records]}, indent=2))
        return
    _print_ledger(owner, records, last)


def _print_ledger(owner: Owner, records: Sequence[LedgerEntry], last: int) -> None:
    click.echo(f"swarm {owner.swarm}, node {owner.node.hex()}, neighbours {owner.relation}")
    if not records:
        click.echo("nothing was released")
        return
    shown = records[len(records) - min(last, len(records)) :]
    click.echo(f"{'round':>8}  {'mode':12}{'noise':>10}{'rate':>8}{'clip':>14}{'epsilon':>12}")
    for record in shown:
        charge = record.charge
        clip = math.ldexp(charge.bound, charge.scale - 16)
        click.echo(
            f"{charge.round:>8}  {charge.mode:12}{charge.noise_multiplier:>10.4g}"
            f"{charge.sampling_rate:>8.3g}{clip:>14.6g}{record.epsilon:>12.6f}"
        )
    end = records[-1]
    click.echo(
        f"{len(records)} releases, chain and anchor hold: epsilon {end.epsilon:.6f} of "
        f"{end.budget:g} spent, delta {end.delta:g}"
    )


# ── audit ─────────────────────────────────────────────────────────────────────────────────────


def _found(audit: Audit) -> dict[str, Any]:
    findings = [{**attrs.asdict(f), "passed": f.passed} for f in audit.findings]
    return {"subject": audit.subject, "passed": audit.passed, "findings": findings}


@dp.command("audit")
@click.option("--mode", type=_MODES, help="Only this mode.  [default: all]")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Audits made.")
@click.option("--samples", type=click.IntRange(100, 10**6), default=RUNS, show_default=True)
@click.option("--faults/--no-faults", default=True, help="Show that known faults are found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit_command(
    mode: str | None, *, runs: int, samples: int, faults: bool, as_json: bool
) -> None:
    """Audit the plugin, and show that the audit finds known faults.

    Ends with code 1 if the plugin fails a check, or a fault passes them all. A passed audit is a
    lower bound of the privacy loss and no proof.
    """
    modes = tuple(Mode) if mode is None else (Mode(mode),)
    correct = [audit(modes, samples) for _ in range(runs)]
    alarms = [case for case in correct if not case.passed]
    broken = list(controls(runs=samples)) if faults else []
    missed = [case.subject for case in broken if case.passed]
    if as_json:
        told = {
            "runs": runs,
            "alarms": len(alarms),
            "missed": missed,
            "audits": [_found(alarm) for alarm in (alarms or correct[:1])],
            "faults": [_found(case) for case in broken],
        }
        click.echo(json.dumps(told, indent=2))
    else:
        for alarm in alarms[:5] or correct[:1]:
            _print_audit(alarm)
        if runs > 1:
            click.echo(f"{len(alarms)} alarms in {runs} audits")
        for alarm in broken:
            by = ", ".join(f.check for f in alarm.findings if not f.passed)
            click.echo(f"fault  {alarm.subject:26}{'found by ' + by if by else 'MISSED'}")
        if broken:
            click.echo(f"{len(broken) - len(missed)} of {len(FAULTS)} faults found")
    if alarms or missed:
        sys.exit(1)


def _print_audit(audit: Audit) -> None:
    for finding in audit.findings:
        verdict = "holds" if finding.passed else "FAILS"
        numbers = f"{finding.value:.4f}, at most {finding.limit:g}"
        click.echo(f"{verdict}  {finding.mode:12}{finding.check:12}{numbers}  {finding.refused}")
