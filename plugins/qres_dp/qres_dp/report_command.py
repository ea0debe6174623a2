"""``qres dp report``: the page that one hands to whoever answers for the data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import click

from qres_core import commands
from qres_core.errors import ConfigError
from qres_dp.output import write_new
from qres_dp.places import ledger_place
from qres_dp.plugin import Dp
from qres_dp.report import read_ledger, report_of
from qres_dp.report_page import Block, blocks, html, markdown

_PATH = click.Path(path_type=Path)
_MAX_AUDIT: Final = 2**22
_WRITERS: Final[Mapping[str, Callable[[Sequence[Block]], str]]] = {
    ".md": markdown,
    ".html": html,
}


def _audit(path: Path) -> dict[str, Any]:
    """Output of ``qres dp audit --json``. Raises ConfigError: QRES-E101."""
    try:
        with path.open("rb") as file:
            octets = file.read(_MAX_AUDIT + 1)
        found: Any = json.loads(octets.decode("utf-8")) if len(octets) <= _MAX_AUDIT else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError.of("QRES-E101", "--audit", f"{path}: {error}") from error
    table = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    numbers = {"runs": int, "alarms": int, "missed": list}
    wrong = any(type(table.get(name)) is not kind for name, kind in numbers.items())
    if wrong or type(table.get("faults", [])) is not list:
        what = f"{path} is not what qres dp audit --json prints"
        raise ConfigError.of(
            "QRES-E101", "--audit", what, "qres dp audit --faults --json > audit.json"
        )
    return table


@click.command("report")
@click.argument("path", type=_PATH)
@click.option("--ledger", type=_PATH, help="Folder of the ledger, if not the one PATH names.")
@click.option("--audit", type=_PATH, help="What qres dp audit --json printed.")
@click.option("--dimension", type=click.IntRange(1), help="Coordinates of an update.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--output", type=_PATH, help="A new file, .md or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report_command(
    path: Path,
    *,
    ledger: Path | None,
    audit: Path | None,
    dimension: int | None,
    settings: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """A page on what was promised and spent, for whoever answers for the data.

    PATH is the node's configuration file, of a run that goes on or is over. The page is Markdown,
    or HTML in a file that ends with .html. Ends with code 1 if the ledger does not hold, or the
    audit failed; the page says so too.
    """
    if output is not None and output.suffix not in _WRITERS:
        what = f"{output}: only {' and '.join(_WRITERS)} are written"
        raise ConfigError.of("QRES-E105", "--output", what)
    found = commands.configured(path, "dp", settings=settings, dimension=dimension)
    if not isinstance(found.instance, Dp):
        raise ConfigError.of("QRES-E103", f"{path}: plugins.dp", "is not the plugin of qres-dp")
    dataset = found.instance.dataset
    folder = ledger or (Path(dataset) if dataset else found.data_dir)
    if folder is None:
        fix = "name the folder of the ledger: --ledger"
        raise ConfigError.of("QRES-E103", f"{path}: node.data_dir", "not set", fix)
    plan = found.instance.plan(found.around)
    checked = None if audit is None else _audit(audit)
    report = report_of(found.swarm, plan, read_ledger(ledger_place(folder), plan), checked)
    parts = blocks(report)
    if output is not None:
        write_new(output, _WRITERS[output.suffix](parts), "--output")
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif output is None:
        click.echo(markdown(parts), nl=False)
    failed = checked is not None and (checked["alarms"] > 0 or bool(checked["missed"]))
    if failed or not report["ledger"]["holds"]:
        sys.exit(1)
