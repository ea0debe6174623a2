"""``qres certify``: hold an aggregation rule against the conformance suite and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import tomli

from qres_core.contract.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from qres_lab.testing.certification import RuleReport

_COLOURS = {"passed": "green", "failed": "red bold", "not asked": "dim"}


@click.command("certify", short_help="Certify an aggregation rule, installed or your own.")
@click.argument("rule", metavar="RULE")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the plugin, as in TOML; of one of several as PLUGIN.KEY=VALUE.",
)
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="KEY=VALUE",
    help="What is claimed of the rule beyond its needs, for example kappa=6.6.",
)
@click.option("--nodes", type=click.IntRange(1), help="Updates in a test round.  [default: 11]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report as a page too; an existing file is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    rule: str,
    *,
    options: tuple[str, ...],
    claims: tuple[str, ...],
    nodes: int | None,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Certify an aggregation rule: conformance, robustness, resistance to every known attack.

    RULE is the name of an installed plugin, for example krum; or MODULE:CLASS, a class of your
    own; or several joined by +, a rule inside its wrappers, for example nnm+median. For
    MODULE:CLASS, and only then, modules are looked for in the working directory too, after
    everything installed, and the module is run as any import runs it.

    Exit code 0 if the rule is certified, 1 if not, 2 if it could not be tested.
    """
    from qres_lab.testing.certification import certify, make_claims  # noqa: PLC0415 - numpy
    from qres_lab.testing.composition import find_rule  # noqa: PLC0415

    found = find_rule(rule, [_setting("--option", text) for text in options])
    stated = make_claims([_setting("--claim", text) for text in claims])
    certificate = certify(found, claims=stated, nodes=nodes, seed=seed)
    if html is not None:
        from qres_lab.testing.certificate_page import page  # noqa: PLC0415

        try:
            html.write_text(page(certificate), encoding="utf-8")
        except OSError as error:
            msg = f"cannot write {html}: {error.strerror or error}"
            raise click.UsageError(msg) from error
    if as_json:
        click.echo(json.dumps(certificate.to_json(), indent=2))
    else:
        show(certificate)
    if not certificate.certified:
        sys.exit(1)


def _setting(flag: str, text: str) -> tuple[str, object]:
    """``f=2`` as a name and a TOML value. Raises ConfigError QRES-E101."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError.of(
            "QRES-E101", f"{flag} {text}", "expected KEY=VALUE", f"for example {flag} f=2"
        )
    try:
        return key.strip(), tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError as error:
        what = f"not a TOML value: {value!r}"
        fix = f"text needs quotes: {flag} '{key}=\"…\"'"
        raise ConfigError.of("QRES-E101", f"{flag} {key}", what, fix) from error


def show(certificate: RuleReport) -> None:
    """The report as text."""
    from rich.markup import escape  # noqa: PLC0415 - JSON output does not pay for rich

    from qres_core.cli.console import console  # noqa: PLC0415
    from qres_lab.testing.certificate_page import stated  # noqa: PLC0415

    where = console()
    colour = "green" if certificate.certified else "red"
    where.print(f"[{colour} bold]{escape(certificate.conclusion)}[/]", highlight=False)
    for part in certificate.parts:
        options = ", ".join(f"{name} = {value!r}" for name, value in part.options.items())
        line = f"  {part.name} ({part.origin}, {part.target}) {options}"
        where.print(escape(line.rstrip()), highlight=False)
    where.print(escape(f"  {stated(certificate.claims)}"), highlight=False)
    where.print(_rules(certificate))
    for table in _measurements(certificate):
        where.print(table)
    for line in _figures(certificate):
        where.print(escape(line), highlight=False)


def _rules(certificate: RuleReport) -> Table:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("rule", "it …", "verdict", "why")
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for item in certificate.verdicts:
        verdict = f"[{_COLOURS[item.outcome]}]{item.outcome}[/]"
        table.add_row(item.rule, item.title, verdict, escape(item.why))
    return table


def _measurements(certificate: RuleReport) -> Iterator[Table]:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from qres_lab.testing.certificate_page import bound, figure  # noqa: PLC0415

    found = certificate.robustness
    if found is not None:
        title = f"(f, kappa)-robustness, n = {found.count}, f = {found.liars}"
        table = Table("", "kappa", title=title, title_justify="left")
        table.add_row("no rule has less than f / (n - 2 f)", figure(found.least))
        table.add_row(f"measured, worst of {found.inputs} sets of inputs", figure(found.measured))
        table.add_row("declared", bound(found))
        for name, kappa in found.worst[:3]:
            table.add_row(f"[dim]{escape(name)}[/dim]", f"[dim]{figure(kappa)}[/dim]")
        yield table
    if certificate.attacks:
        title = f"attacks by {certificate.tolerates} of {certificate.nodes}"
        heads = ("attack", "deviation / honest spread", "kappa", "withstood")
        table = Table(*heads, title=title, title_justify="left")
        for attack in certificate.attacks:
            verdict = {True: "yes", False: "[red bold]NO[/]", None: escape(attack.found.why)}
            cells = (
                figure(attack.found.deviation),
                figure(attack.kappa),
                verdict[attack.found.withstood],
            )
            table.add_row(escape(attack.attack), *cells)
        yield table


def _figures(certificate: RuleReport) -> Iterator[str]:
    if certificate.breakdown is not None:
        withstood, count = certificate.breakdown
        yield f"breakdown: {withstood} far liars among {count} withstood, and no more"
    if certificate.timings:
        times = (
            f"{timing.updates} x {timing.dimension}: {timing.milliseconds:.3g} ms"
            for timing in certificate.timings
        )
        yield f"CPU time a call: {', '.join(times)}"
    versions = ", ".join(f"{name} {value}" for name, value in certificate.versions.items())
    yield f"to reproduce: {certificate.command}"
    yield f"with {versions}"
