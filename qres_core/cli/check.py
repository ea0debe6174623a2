"""``qres check``: would this configuration start, and what would it run?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from qres_core.cli.app import tell
from qres_core.cli.options import SECTIONS, parse_setting, policy_option, read_raw
from qres_core.contract.errors import CompatibilityError
from qres_core.kernel.diagnosis import Diagnosis, diagnose
from qres_core.kernel.discovery import scan
from qres_core.kernel.policy import in_force
from qres_core.kernel.slots import LIFE_CYCLE, SLOTS


@click.command("check")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    config: Path, *, settings: tuple[str, ...], policy_files: tuple[Path, ...], as_json: bool
) -> None:
    """Print the resolved pipeline of CONFIG, or everything that is wrong with it.

    Exit code 0 if it would start, 2 if not.
    """
    raw = read_raw(config, [parse_setting(text) for text in settings])
    found = diagnose(
        raw,
        source=str(config),
        sections=SECTIONS,
        installed=scan(),
        policies=in_force(policy_files),
    )
    if found.problems:
        tell(CompatibilityError(found.problems), as_json=as_json)
        sys.exit(2)
    if as_json:
        report = {"ok": True, "notices": found.notices, "pipeline": pipeline(found)}
        click.echo(json.dumps(report, indent=2))
        return
    show(found, config)


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


def show(found: Diagnosis, path: Path) -> None:
    """The pipeline as a table."""
    from rich.table import Table  # noqa: PLC0415 - JSON output does not pay for rich

    from qres_core.cli.console import console  # noqa: PLC0415

    where = console()
    table = Table("family", "plugins", "results combine as")
    for row in pipeline(found):
        plugins = "\n".join(
            f"{one['name']} ({one['distribution']} {one['version']}): {', '.join(one['hooks'])}"
            for one in row["plugins"]
        )
        slot = SLOTS.get(row["family"])
        table.add_row(row["family"], plugins or "[dim]none[/dim]", slot.combination if slot else "")
    where.print(table)
    for notice in found.notices:
        where.print(f"[yellow]note[/yellow] {notice}", highlight=False)
    where.print(f"[green]{path} would start.[/green]", highlight=False)
