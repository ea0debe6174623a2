"""``qres dp``: plan a privacy budget, read a ledger, audit the plugin."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from qres_core.errors import ConfigError, LabError
from qres_dp.ledger import Owner, PrivacyLedger
from qres_dp.ledger.record import LedgerEntry
from qres_dp.output import bounded
from qres_dp.places import ledger_place
from qres_dp.plan_command import plan_command
from qres_dp.report_command import report_command

_AUDIT = "audit"
_MAX_CONFIG = 2**20
_PATH = click.Path(path_type=Path)


class _WithAudit(click.Group):
    """The verbs, and the audit, which a distribution apart brings."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The audit too, if it is installed."""
        audit = [_AUDIT] if importlib.util.find_spec("qres_dp_audit") is not None else []
        return sorted([*super().list_commands(ctx), *audit])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the audit when it is asked for. Raises LabError: QRES-E802 without it."""
        if cmd_name != _AUDIT:
            return super().get_command(ctx, cmd_name)
        try:
            module = importlib.import_module("qres_dp_audit.cli")
        except ModuleNotFoundError as error:
            if error.name != "qres_dp_audit":
                raise
            what = "qres-dp-audit is not installed"
            fix = 'pip install "qres-dp[audit]": in a checkout of QRES, ./libraries/qres_dp_audit'
            raise LabError.of("QRES-E802", "qres dp audit", what, fix) from error
        command: click.Command = module.command
        return command


@click.group(cls=_WithAudit)
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
