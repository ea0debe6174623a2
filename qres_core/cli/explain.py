"""``qres explain``: what the id of an error means, offline."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Final

import click

from qres_core.contract.errors import ERROR_FAMILIES, ERRORS
from qres_core.contract.faults import Fault, is_own_id, is_plugin_name
from qres_core.contract.suggest import nearest
from qres_core.contract.transport import LinkReason

_WIDTH: Final = 88
_PREFIX: Final = "QRES-E"


@click.command("explain")
@click.argument("codes", nargs=-1, metavar="[ID]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(codes: tuple[str, ...], *, as_json: bool) -> None:
    """Explain the ID of an error; without one, list all errors.

    QRES-E304, qres-e304, E304 and 304 are the same id. The ids that logs, metrics and the status
    name are explained too, for example unproven-link. Exit code 2 if there is no such id.
    """
    found = [_code(text) for text in codes] or list(ERRORS)
    if as_json:
        rows = [
            dict(zip(("code", "title", "meaning"), _entry(code), strict=True)) for code in found
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
    if text.strip() in log_ids() or is_of_plugin(text.strip()):
        return text.strip()
    short = re.sub(r"^(QRES-?)?E?-?", "", text.strip().upper())
    code = f"{_PREFIX}{short}"
    if code in ERRORS:
        return code
    near = nearest(short, [error.removeprefix(_PREFIX) for error in ERRORS])
    if not near and re.search("[-_]", text):
        near = nearest(text.strip().lower(), log_ids())
    msg = f"there is no error {text!r}; {near or '`qres explain` lists all'}"
    raise click.UsageError(msg)


def log_ids() -> dict[str, str]:
    """Meanings of the ids that logs name, in a sentence each."""
    faults = {fault.value: fault.text for fault in Fault}
    entry = re.compile(r"^\s+([A-Z_]+): ((?:.+\n)(?:\s{12}.+\n)*)", re.MULTILINE)
    said = entry.findall(LinkReason.__doc__ or "")
    links = {LinkReason[name].value: " ".join(text.split()) for name, text in said}
    return faults | {key: f"A link: {text}" for key, text in links.items()}


def is_of_plugin(text: str) -> bool:
    """True if a text is an id of a plugin, as ``replay:sequence-too-old``."""
    plugin, colon, own = text.partition(":")
    return bool(colon) and is_plugin_name(plugin) and is_own_id(own)


def _entry(code: str) -> tuple[str, str, str]:
    """An id, its title and its meaning."""
    if code in ERRORS:
        return code, *ERRORS[code]
    if code in log_ids():
        return code, "an id in logs, metrics and the status", log_ids()[code]
    plugin, _colon, own = code.partition(":")
    meaning = f"The plugin {plugin} says {own!r}. Its README says what it means."
    return code, f"an id of the plugin {plugin}", meaning


def _page(code: str) -> str:
    _code, title, meaning = _entry(code)
    return f"{click.style(code, fg='red', bold=True)}  {title}\n\n" + textwrap.fill(meaning, _WIDTH)
