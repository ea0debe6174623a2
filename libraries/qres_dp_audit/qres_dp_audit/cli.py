"""``qres dp audit``."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

import attrs
import click

from qres_dp_audit.faults import FAULTS
from qres_dp_audit.run import Audit, audit, controls


def _found(audit: Audit) -> dict[str, Any]:
    findings = [{**attrs.asdict(f), "passed": f.passed} for f in audit.findings]
    return {
        "subject": audit.subject,
        "seed": audit.seed,
        "passed": audit.passed,
        "findings": findings,
    }


@click.command("audit")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of an audit to make again.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Audits made.")
@click.option("--faults/--no-faults", default=False, help="Show that known faults are found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(seed: int | None, *, runs: int, faults: bool, as_json: bool) -> None:
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
