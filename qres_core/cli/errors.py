"""Errors on the command line."""

from __future__ import annotations

import json

import click

from qres_core.contract.errors import QresError


def tell(error: QresError, *, as_json: bool) -> None:
    """Print every problem of an error, to stderr or as JSON to stdout."""
    if as_json:
        problems = [
            {"code": p.code, "where": p.where, "what": p.what, "fix": p.fix} for p in error.problems
        ]
        click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        return
    for problem in error.problems:
        code = click.style(problem.code, fg="red", bold=True)
        click.echo(f"{code} {problem.where}: {problem.what}", err=True)
        if problem.fix:
            click.echo(f"    {click.style('fix:', fg='green')} {problem.fix}", err=True)
    codes = " ".join(dict.fromkeys(problem.code for problem in error.problems))
    click.echo(f"More on this: qres explain {codes}", err=True)
