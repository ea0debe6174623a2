"""``qres ca``: make a swarm's CA, issue and revoke its certificates."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from qres_core.errors import ConfigError
from qres_pki.authority import BACKDATED, REASONS, Authority
from qres_pki.index import Issued
from qres_pki.members import parse_member, peer_id
from qres_pki.profile import ROLES

_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_DIGITS: Final = 64
_DATE: Final = click.DateTime(["%Y-%m-%d"])


def _now() -> int:
    return int(time.time())


def _start(date: datetime | None) -> int:
    return _now() - BACKDATED if date is None else int(date.replace(tzinfo=UTC).timestamp())


def _json(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _say(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps({"ok": True, **document}, indent=2) if as_json else text)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(text: str) -> bytes:
    try:
        return parse_member(text)
    except ValueError as error:
        raise ConfigError.of(
            "QRES-E105", "--public-key", str(error), "`qres key show PATH` prints it"
        ) from error


def _row(issued: Issued) -> dict[str, Any]:
    return {
        "serial": issued.serial,
        "name": issued.name,
        "public_key": issued.public_key,
        "peer_id": peer_id(bytes.fromhex(issued.public_key)),
        "roles": list(issued.roles),
        "not_before": _iso(issued.not_before),
        "not_after": _iso(issued.not_after),
        "status": issued.status(_now()),
        "reason": issued.reason,
    }


@click.group("ca")
def ca() -> None:
    """Say who may take part: the swarm's certificates and revocations.

    The folder DIR holds the CA's key and belongs on no node. Nodes get ca.pem, their own
    certificate, and crl.pem again whenever it changes. A passphrase for the key is taken from the
    environment variable QRES_CA_PASSPHRASE.
    """


@ca.command("init")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--swarm", required=True, help="Name of the swarm, as in [swarm] name.")
@click.option("--days", default=3650, show_default=True, help="Validity of the CA certificate.")
@click.option("--crl-days", default=30, show_default=True, help="Validity of a CRL.")
@click.option("--valid-from", type=_DATE, help="First day of validity; by default, today.")
@_json
def init(
    folder: Path,
    swarm: str,
    days: int,
    crl_days: int,
    valid_from: datetime | None,
    *,
    as_json: bool,
) -> None:
    """Make a CA for a swarm in DIR."""
    start = _start(valid_from)
    Authority.create(folder, swarm, days=days, crl_days=crl_days, start=start, now=_now())
    names = {"ca": str(folder / "ca.pem"), "crl": str(folder / "crl.pem")}
    text = f"made the CA of swarm {swarm!r}; every node gets\n    {names['ca']}\n    {names['crl']}"
    _say({"swarm": swarm, **names}, text, as_json=as_json)


@ca.command("issue")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--public-key", required=True, help="The node's key: 64 hex digits or a PeerId.")
@click.option("--name", required=True, help="The node's name; one name belongs to one key.")
@click.option(
    "--role",
    "roles",
    required=True,
    multiple=True,
    type=click.Choice(ROLES),
    help="train: may contribute. aggregate: may propose and vote. Repeat for both.",
)
@click.option("--days", default=365, show_default=True, help="Validity.")
@click.option("--valid-from", type=_DATE, help="First day of validity; by default, today.")
@click.option("--out", type=_FOLDER, help="Folder for the file; by default DIR/certificates.")
@click.option("--renew", is_flag=True, help="Replace the certificate of this name and key.")
@_json
def issue(  # noqa: PLR0913 - an argument per option
    folder: Path,
    public_key: str,
    name: str,
    roles: tuple[str, ...],
    days: int,
    valid_from: datetime | None,
    out: Path | None,
    *,
    renew: bool,
    as_json: bool,
) -> None:
    """Issue a certificate for a node."""
    key = _key(public_key)
    target = folder / "certificates" if out is None else out
    with Authority.open(folder) as authority:
        issued = authority.issue(
            key,
            name,
            roles,
            days=days,
            start=_start(valid_from),
            now=_now(),
            out=target,
            renew=renew,
        )
    path = target / f"{key.hex()}.pem"
    text = f"issued {issued.serial} to {name!r}, valid to {_iso(issued.not_after)}: {path}"
    _say({"path": str(path), **_row(issued)}, text, as_json=as_json)


@ca.command("revoke")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("serial", required=False)
@click.option("--public-key", help="Every certificate of this key.")
@click.option("--name", help="Every certificate of this name.")
@click.option(
    "--reason", type=click.Choice(list(REASONS)), default="unspecified", show_default=True
)
@_json
def revoke(
    folder: Path,
    serial: str | None,
    public_key: str | None,
    name: str | None,
    reason: str,
    *,
    as_json: bool,
) -> None:
    """Revoke certificates, by SERIAL, key or name, and rewrite crl.pem.

    There is no way back. Repeating it does no harm.
    """
    if sum(item is not None for item in (serial, public_key, name)) != 1:
        what = "the certificates to revoke must be named in one way"
        fix = "give one of SERIAL, --public-key and --name"
        raise ConfigError.of("QRES-E105", "SERIAL", what, fix)
    wanted = _key(public_key).hex() if public_key is not None else None
    with Authority.open(folder) as authority:
        chosen = [
            item
            for item in authority.index.all()
            if (serial is not None and item.serial == serial.lower().replace(":", "").lstrip("0"))
            or item.public_key == wanted
            or (name is not None and item.name == name)
        ]
        if not chosen:
            what = f"there is no certificate {serial or public_key or name!r}"
            fix = f"`qres ca list {folder}` lists them"
            raise ConfigError.of("QRES-E105", "SERIAL", what, fix)
        authority.revoke(chosen, reason, _now())
        number = authority.index.crl.number
    serials = [item.serial for item in chosen]
    text = f"revoked {', '.join(serials)}; give every node the new CRL, number {number}:\n"
    text += f"    {folder / 'crl.pem'}"
    _say({"revoked": serials, "crl_number": number}, text, as_json=as_json)


@ca.command("renew-crl")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--days", type=int, help="Validity of the CRL; by default as at `init`.")
@_json
def renew_crl(folder: Path, days: int | None, *, as_json: bool) -> None:
    """Rewrite crl.pem with a new end, before nodes refuse everybody for lack of one."""
    with Authority.open(folder) as authority:
        authority.renew_crl(_now(), days)
        number = authority.index.crl.number
    text = f"give every node the new CRL, number {number}:\n    {folder / 'crl.pem'}"
    _say({"crl_number": number}, text, as_json=as_json)


@ca.command("approve")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("digest")
@_json
def approve(folder: Path, digest: str, *, as_json: bool) -> None:
    """Approve the change of the members that DIGEST names, and print the approval.

    `qres roster read FILE` shows what a change does, and its digest. Look at that first: an
    approval cannot be taken back before another change is decided. An operator hands it over with
    `qres roster sign CONFIG FILE --approval`.
    """
    if len(digest) != _DIGITS or set(digest) - set("0123456789abcdef"):
        what = f"{digest!r} is not {_DIGITS} lower-case hex digits"
        raise ConfigError.of("QRES-E105", "DIGEST", what, "`qres roster read FILE` prints it")
    with Authority.open(folder) as authority:
        approval = authority.approve(bytes.fromhex(digest)).hex()
    _say({"digest": digest, "approval": approval}, approval, as_json=as_json)


@ca.command("list")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_json
def show(folder: Path, *, as_json: bool) -> None:
    """List what was issued, and the CRL."""
    with Authority.open(folder) as authority:
        rows = [_row(item) for item in authority.index.all()]
        newest = authority.issuer.read_crl(authority.index.crl.pem)
        published = authority.published
        swarm = authority.issuer.swarm
    crl = {
        "number": newest.number,
        "this_update": _iso(newest.this_update),
        "next_update": _iso(newest.next_update),
        "published": published,
    }
    lines = [f"{row['status']:<13} {row['name']:<20} {row['public_key']}" for row in rows]
    lines = [
        f"{line} {'+'.join(row['roles']):<15} to {row['not_after']} {row['serial']}"
        for line, row in zip(lines, rows, strict=True)
    ]
    lines.append(f"CRL number {newest.number}, to be renewed by {crl['next_update']}")
    if not published:
        lines.append("crl.pem is not the newest CRL: qres ca renew-crl")
    _say({"swarm": swarm, "certificates": rows, "crl": crl}, "\n".join(lines), as_json=as_json)
