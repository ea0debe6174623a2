"""``qres keygen`` and ``qres key``: make, show, replace and check keys."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import click

from qres_core.errors import ConfigError, LabError
from qres_ed25519 import keyfile, names
from qres_ed25519.rotation import KeyRotation, Rotations, read_statement
from qres_ed25519.signature import key_fault

_path = click.Path(path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_passphrase_env = click.option(
    "--passphrase-env",
    default="",
    metavar="NAME",
    help="Environment variable that holds the passphrase of the new key file.",
)
_no_passphrase = click.option(
    "--no-passphrase", is_flag=True, help="Write the new key unencrypted, guarded by mode 0600."
)


def _new_passphrase(variable: str, *, none: bool) -> bytes | None:
    if bool(variable) == none:
        what = "both are given" if none else "neither is given"
        fix = "choose one; an encrypted key needs its passphrase at every start of the node"
        raise ConfigError.of("QRES-E103", "--passphrase-env or --no-passphrase", what, fix)
    return keyfile.passphrase(variable, "--passphrase-env")


def _named(public: bytes) -> dict[str, str]:
    return {
        "public_key": public.hex(),
        "peer_id": names.peer_id(public),
        "did": names.did(public),
    }


def _print(report: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    width = max(map(len, report))
    for name, value in report.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {value}")


@click.command("keygen")
@click.argument("path", type=_path)
@_passphrase_env
@_no_passphrase
@_as_json
def keygen(path: Path, *, passphrase_env: str, no_passphrase: bool, as_json: bool) -> None:
    """Make a private key and write it to PATH: PKCS#8, PEM, mode 0600.

    An existing file is left alone (exit 2).
    """
    secret = _new_passphrase(passphrase_env, none=no_passphrase)
    pair = keyfile.generate()
    keyfile.save(path, pair, secret)
    report = {"path": str(path), "encrypted": secret is not None, **_named(pair.public)}
    _print(report, as_json=as_json)


@click.group("key")
def key() -> None:
    """Show, replace and check the keys of nodes."""


@key.command("show")
@click.argument("path", type=_path, required=False)
@click.option("--public", "public_hex", metavar="HEX", help="A public key instead of a file.")
@click.option(
    "--passphrase-env", default="", metavar="NAME", help="Variable with the file's passphrase."
)
@_as_json
def show(path: Path | None, *, public_hex: str | None, passphrase_env: str, as_json: bool) -> None:
    """Print the names of a key: public key, libp2p PeerId, DID. Never the private key."""
    if (path is None) == (public_hex is None):
        what = "neither is given" if path is None else "both are given"
        raise ConfigError.of("QRES-E103", "PATH or --public", what, "name one of the two")
    if path is not None:
        secret = keyfile.passphrase(passphrase_env, "--passphrase-env")
        public = keyfile.load(path, secret, "PATH").public
    else:
        public = _public(public_hex or "")
    _print(_named(public), as_json=as_json)


def _public(text: str) -> bytes:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        what = f"must be 64 hex digits, got {text!r}"
        raise ConfigError.of("QRES-E105", "--public", what, "`qres key show PATH` prints them")
    public = bytes.fromhex(text)
    if fault := key_fault(public):
        what = f"no Ed25519 public key: {fault}"
        raise ConfigError.of("QRES-E105", "--public", what, "`qres key show PATH` prints one")
    return public


@key.command("rotate")
@click.argument("old", type=_path)
@click.argument("new", type=_path)
@click.option("--statement", type=_path, required=True, help="File for the statement.")
@click.option(
    "--old-passphrase-env", default="", metavar="NAME", help="Variable with OLD's passphrase."
)
@_passphrase_env
@_no_passphrase
@_as_json
def rotate(
    old: Path,
    new: Path,
    *,
    statement: Path,
    old_passphrase_env: str,
    passphrase_env: str,
    no_passphrase: bool,
    as_json: bool,
) -> None:
    """Make a key that replaces the one in OLD: write it to NEW, and a statement signed by both.

    Give the statement to every node (`rotations` of the plugin), start this one with NEW, and
    destroy OLD. The node keeps its identity. Existing files are left alone (exit 2).
    """
    secret = _new_passphrase(passphrase_env, none=no_passphrase)
    old_secret = keyfile.passphrase(old_passphrase_env, "--old-passphrase-env")
    before = keyfile.load(old, old_secret, "OLD")
    pair = keyfile.generate()
    made = KeyRotation.make(before, pair, int(time.time()))
    # The statement first: it is worth nothing without the key, and a key without its statement
    # could be taken for the node's.
    keyfile.write_new(statement, made.to_bytes(), 0o644)
    try:
        keyfile.save(new, pair, secret)
    except (ConfigError, LabError):
        statement.unlink()
        raise
    report = {
        "statement": str(statement),
        "path": str(new),
        "encrypted": secret is not None,
        "old_public_key": before.public.hex(),
        **_named(pair.public),
    }
    _print(report, as_json=as_json)


@key.command("check")
@click.argument("statements", type=_path, nargs=-1, required=True)
@_as_json
def check(statements: tuple[Path, ...], *, as_json: bool) -> None:
    """Verify rotation STATEMENTS and join them: which key speaks for which identity.

    Exit code 0 if all are valid and none contradicts another, 2 if not.
    """
    read = [read_statement(path, "STATEMENT") for path in statements]
    rotations = Rotations.join(read, "STATEMENTS")
    chains = [
        [public.hex() for public in rotations.chain(old)]
        for old in rotations.following
        if old not in rotations.preceding
    ]
    if as_json:
        made = [{"old": s.old.hex(), "new": s.new.hex(), "time": s.time} for s in read]
        click.echo(json.dumps({"ok": True, "statements": made, "chains": chains}, indent=2))
        return
    for chain in chains:
        click.echo(f"identity  {chain[0]}")
        for public in chain[1:]:
            click.echo(f"  then    {public}")
