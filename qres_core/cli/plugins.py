"""``qres plugins``: what is installed, without importing it."""

from __future__ import annotations

import json
from typing import Any

import click

from qres_core.kernel.discovery import Status, scan
from qres_core.kernel.inspection import hooks_of, summary_of


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, as_json: bool) -> None:
    """List the installed plugins, importing none.

    Hooks and descriptions are read from the source. A plugin that could not be enabled is listed
    with the reason.
    """
    rows: list[dict[str, Any]] = []
    for plugin in scan().values():
        hooks = hooks_of(plugin.target)
        rows.append(
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "summary": summary_of(plugin.target),
                "status": plugin.status.value,
                "hooks": None if hooks is None else list(hooks),
                "target": plugin.target,
                "detail": plugin.detail,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.markup import escape  # noqa: PLC0415 - JSON output does not pay for rich
    from rich.table import Table  # noqa: PLC0415

    from qres_core.cli.console import console  # noqa: PLC0415

    table = Table("name", "what it does", "hooks", "from")
    for row in rows:
        hooks_text = "unknown" if row["hooks"] is None else ", ".join(row["hooks"])
        what = row["summary"]
        if row["status"] != Status.INSTALLED.value:
            what = f"{row['status']}: {row['detail']}"
        cells = (row["name"], what, hooks_text, f"{row['distribution']} {row['version']}")
        table.add_row(*(escape(cell) for cell in cells))
    console().print(table)
