"""``qres plugins``: what is installed, without importing it."""

from __future__ import annotations

import json
from typing import Any

import click

from qres_core.kernel.discovery import scan
from qres_core.kernel.inspection import hooks_of


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, as_json: bool) -> None:
    """List the installed plugins, importing none.

    Hooks are read from the source. A plugin that could not be enabled is listed with the reason.
    """
    rows: list[dict[str, Any]] = []
    for plugin in scan().values():
        hooks = hooks_of(plugin.target)
        rows.append(
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "status": plugin.status.value,
                "hooks": None if hooks is None else list(hooks),
                "target": plugin.target,
                "detail": plugin.detail,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table  # noqa: PLC0415 - JSON output does not pay for rich

    from qres_core.cli.console import console  # noqa: PLC0415

    table = Table("name", "distribution", "version", "status", "hooks", "detail")
    for row in rows:
        hooks_text = "unknown" if row["hooks"] is None else ", ".join(row["hooks"])
        cells = [row["name"], row["distribution"], row["version"], row["status"]]
        table.add_row(*cells, hooks_text, row["detail"])
    console().print(table)
