"""``qres dp``: plan a privacy budget, read a ledger, audit the plugin."""

from __future__ import annotations

import json
import math
import secrets
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from qres_core import ConfigError
from qres_dp.audit import FAULTS, Audit, audit, controls
from qres_dp.ledger import Owner, PrivacyLedger
from qres_dp.ledger.record import LedgerEntry
from qres_dp.output import bounded
from qres_dp.places import ledger_place
from qres_dp.plan_command import plan_command
from qres_dp.report_command import report_command

_MAX_CONFIG = 2**20
_PATH = click.Path(path_type=Path)


@click.group()
def dp() -> None:
    """Plan a privacy budget, read a ledger, audit the plugin."""


dp.add_command(plan_command)
dp.add_command(report_command)


# ── ledger ────────────────────────────────────────────────────────────────────────────────────


def _folder(path: Path) -> Path:
    """The folder itself, or the ``plugins.dp.dataset`` or ``node.data_dir`` of a configuration."""
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
    plugins = table.get("plugins")
    dp_table = plugins.get("dp") if isinstance(plugins, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    shared = dp_table.get("dataset") if isinstance(dp_table, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(shared, str) and shared:
        return Path(shared)
    found = node.get("data_dir") if isinstance(node, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(found, str):
        fix = "name the folder of the ledger instead"
        raise ConfigError.of("QRES-E103", f"{path}: node.data_dir", "not set", fix)
    return Path(found)


def _row(record: LedgerEntry) -> dict[str, Any]:
    charge = record.charge
    return {
        "index": record.index,
        "swarm": charge.swarm,
        "node": charge.node.hex(),
        "height": charge.height,
        "round": charge.round,
        "head": charge.head.hex(),
        "mode": charge.mode,
        "relation": charge.relation,
        "unit": charge.unit,
        "noise_multiplier": charge.noise_multiplier,
        "sampling_rate": charge.sampling_rate,
        "bound_steps": charge.bound,
        "scale": charge.scale,
        "dimension": charge.dimension,
        "nodes": charge.nodes,
        "honest": charge.honest,
        "units": charge.units,
        "stream": charge.stream.hex(),
        "row": charge.row,
        "content": charge.content.hex(),
        "votes_multiplier": charge.votes or None,
        "epsilon": record.epsilon,
        "delta": record.delta,
        "budget": record.budget,
    }


@dp.command("ledger")
@click.argument("path", type=_PATH)
@click.option("--last", type=click.IntRange(0), default=20, show_default=True, help="Rows shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all rows.")
def ledger_command(path: Path, *, last: int, as_json: bool) -> None:
    """Check a ledger and print what was spent.

    PATH is the folder of the node or of the data set, or the node's configuration file. The chain
    of records, its key and its anchor are checked first; a ledger that fails is refused.
    """
    owner, records = PrivacyLedger.read(ledger_place(_folder(path)))
    if as_json:
        head = {**attrs.asdict(owner), "node": owner.node.hex()}
        click.echo(json.dumps({**head, "records": [_row(record) for record in records]}, indent=2))
        return
    _print_ledger(owner, records, last)


def _print_ledger(owner: Owner, records: Sequence[LedgerEntry], last: int) -> None:
    whose = f"swarm {owner.swarm}, node {owner.node.hex()}" if owner.node else "a data set"
    click.echo(f"{whose}, neighbours {owner.relation}, unit {owner.unit}")
    if not records:
        click.echo("nothing was released")
        return
    shown = records[len(records) - min(last, len(records)) :]
    click.echo(f"{'round':>8}  {'mode':12}{'noise':>10}{'clip':>14}{'epsilon':>12}")
    for record in shown:
        charge = record.charge
        clip = math.ldexp(charge.bound, charge.scale - 16)
        votes = "  with a vote" if charge.votes else ""
        click.echo(
            f"{charge.round:>8}  {charge.mode:12}{charge.noise_multiplier:>10.4g}"
            f"{clip:>14.6g}{bounded(record.epsilon):>12}{votes}"
        )
    end = records[-1]
    click.echo(
        f"{len(records)} releases, chain and anchor hold: epsilon {bounded(end.epsilon)} of "
        f"{end.budget:g} spent, delta {end.delta:g}"
    )


# ── audit ─────────────────────────────────────────────────────────────────────────────────────


def _found(audit: Audit) -> dict[str, Any]:
    findings = [{**attrs.asdict(f), "passed": f.passed} for f in audit.findings]
    return {
        "subject": audit.subject,
        "seed": audit.seed,
        "passed": audit.passed,
        "findings": findings,
    }


@dp.command("audit")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of an audit to make again.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Audits made.")
@click.option("--faults/--no-faults", default=False, help="Show that known faults are found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit_command(seed: int | None, *, runs: int, faults: bool, as_json: bool) -> None:
    """Audit the installed plugin: does it do what its plans promise?

    Settings and what happens in them are drawn at random, from the seed that is printed. What comes
    out is compared with a short reference. With --faults, each of the known faults is put into the
    plugin and must be found. Ends with code 1 if the plugin fails a check, or a fault passes them
    all. The audit finds what it was made for; a passed audit is no proof.
    """
    first = secrets.randbits(32) if seed is None else seed
    correct = [audit(first + number) for number in range(runs)]
    alarms = [case for case in correct if not case.passed]
    broken = list(controls(first)) if faults else []
    missed = [case.subject for case in broken if case.passed]
    if as_json:
        told = {
            "seed": first,
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
            by = ", ".join(f"{f.check} ({f.mode})" for f in alarm.findings if not f.passed)
            click.echo(f"fault  {alarm.subject:48}{'found by ' + by if by else 'MISSED'}")
        if broken:
            click.echo(f"{len(broken) - len(missed)} of {len(FAULTS)} faults found")
    if alarms or missed:
        sys.exit(1)


def _print_audit(audit: Audit) -> None:
    click.echo(f"seed {audit.seed}")
    for finding in audit.findings:
        verdict = "holds" if finding.passed else "FAILS"
        numbers = f"{finding.value:.4g}, at most {finding.limit:.4g}"
        click.echo(f"{verdict}  {finding.mode:14}{finding.check:16}{numbers}  {finding.refused}")
