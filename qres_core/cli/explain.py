"""``qres explain``: what the id of an error means, offline."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Final

import click

from qres_core.contract.errors import ERROR_FAMILIES, ERRORS
from qres_core.contract.suggest import nearest

_WIDTH: Final = 88
_PREFIX: Final = "QRES-E"


@click.command("explain")
@click.argument("codes", nargs=-1, metavar="[ID]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(codes: tuple[str, ...], *, as_json: bool) -> None:
    """Explain the ID of an error; without one, list all.

    QRES-E304, qres-e304, E304 and 304 are the same id. Exit code 2 if there is no such id.
    """
    found = [_code(text) for text in codes] or list(ERRORS)
    if as_json:
        rows = [
            {"code": code, "title": ERRORS[code][0], "meaning": ERRORS[code][1]} for code in found
        ]
        click.echo(json.dumps(rows, indent=2))
    elif codes:
        click.echo("\n\n".join(_page(code) for code in dict.fromkeys(found)))
    else:
        for family, about in ERROR_FAMILIES.items():
            click.echo(f"{about}:")
            for code, (title, _meaning) in ERRORS.items():
                if code.startswith(family):
                    click.echo(f"  {code}  {title}")


def _code(text: str) -> str:
    """The id that somebody means."""
    short = re.sub(r"^(QRES-?)?E?-?", "", text.strip().upper())
    code = f"{_PREFIX}{short}"
    if code in ERRORS:
        return code
    near = nearest(short, [error.removeprefix(_PREFIX) for error in ERRORS])
    msg = f"there is no error {text!r}; {near or '`qres explain` lists all'}"
    raise click.UsageError(msg)


def _page(code: str) -> str:
    title, meaning = ERRORS[code]
    return f"{click.style(code, fg='red', bold=True)}  {title}\n\n" + textwrap.fill(meaning, _WIDTH)
