"""``qres roster``: change the members of a swarm while it runs, and see them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from qres_core.cli.options import policy_option, read_config
from qres_core.contract.errors import ConfigError

if TYPE_CHECKING:
    from qres_core.kernel.config import Config
    from qres_core.swarm.ledger.roster import Action, Roster, RosterChange

_ID_DIGITS: Final = 64
_config = click.argument("config", type=click.Path(path_type=Path))
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the change to this new file too, for the operators of other members.",
)


def _made(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate with the options of commands that put a change into the node's folder."""
    for option in (_as_json, policy_option, _out):
        function = option(function)
    return function


@click.group("roster")
def command() -> None:
    """Change the members of a swarm while it runs, and see them."""


@command.command("show")
@_config
@_as_json
def show(config: Path, *, as_json: bool) -> None:
    """Print the members that the node of CONFIG knows, and the changes that wait in its folder.

    The node writes its roster to its folder. Before its first start this is the roster of CONFIG.
    """
    from qres_core.node.members import roster_of, waiting_at  # noqa: PLC0415 - numpy

    read = read_config(config)
    roster = roster_of(read)
    changes, problems = waiting_at(read, roster, time.time())
    if as_json:
        waiting = [_report(read, roster, change) for change in changes]
        report = {**_numbers(read, roster), "waiting": waiting, "problems": problems}
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{_described(read, roster)}; {roster.threshold} decide a vote")
    for rank, member in enumerate(roster.members):
        click.echo(f"{rank:>5}  {member.hex()}")
    for change in changes:
        click.echo(f"waiting: {_said(change)}; {_support(read, roster, change)}")
    for name, problem in problems.items():
        click.echo(f"{name} does not count: {problem}", err=True)


@command.command("add")
@_config
@click.argument("member")
@_made
def add(config: Path, member: str, **given: Any) -> None:
    """Let MEMBER, an identity of 64 hex digits, join the swarm.

    The change is checked with the plugins of CONFIG, signed with its key, and put into the node's
    folder. As many members must sign it as decide a vote: give the file to their operators.
    """
    _make(config, "add", member, None, **given)


@command.command("remove")
@_config
@click.argument("member")
@_made
def remove(config: Path, member: str, **given: Any) -> None:
    """Let MEMBER, an identity of 64 hex digits, be a member no longer.

    Otherwise as `qres roster add`.
    """
    _make(config, "remove", member, None, **given)


@command.command("rotate")
@_config
@click.argument("member")
@click.argument("successor")
@_made
def rotate(config: Path, member: str, successor: str, **given: Any) -> None:
    """Give the seat of MEMBER to SUCCESSOR, most often a new key of the same operator.

    The numbers of the swarm stay, and a ban of MEMBER becomes one of SUCCESSOR. Otherwise as
    `qres roster add`.
    """
    _make(config, "rotate", member, successor, **given)


@command.command("sign")
@_config
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--approval", metavar="HEX", help="What the authority gave out for this change.")
@_made
def sign(config: Path, file: Path, approval: str | None, **given: Any) -> None:
    """Sign the change in FILE with the key of CONFIG, and put it into the node's folder.

    It is checked first, with the plugins of CONFIG. FILE stays as it is; the file in the folder
    holds all signatures. Where swarm.authority is "ca", nothing is signed, and --approval gives
    what the authority said.
    """
    from qres_core.swarm.members.pending_changes import read_change  # noqa: PLC0415 - numpy

    change = read_change(file)
    if approval is not None:
        change = attrs.evolve(change, approval=_octets(approval))
    _finish(read_config(config), change, **given)


@command.command("read")
@click.argument("file", type=click.Path(path_type=Path))
@_as_json
def read(file: Path, *, as_json: bool) -> None:
    """Print what the change in FILE does, and its digest. Checks no signature."""
    from qres_core.swarm.members.pending_changes import read_change  # noqa: PLC0415 - numpy

    change = read_change(file)
    if as_json:
        signed = [item.sender.hex() for item in change.signatures]
        about = {"swarm": change.swarm, "epoch": change.epoch, "roster": change.roster.hex()}
        report = {**about, **_named(change), "signed": signed, "approved": bool(change.approval)}
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{_said(change)}")
    click.echo(f"in roster {change.epoch} of {change.swarm}, {change.roster.hex()[:16]}")
    click.echo(f"digest {change.digest.hex()}")


def _octets(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        what = f"{text!r} is not hexadecimal"
        raise ConfigError.of(
            "QRES-E105", "--approval", what, "take it as it was printed"
        ) from error


def _make(config: Path, action: Action, member: str, successor: str | None, **given: Any) -> None:
    from qres_core.node.members import roster_of  # noqa: PLC0415 - numpy

    read = read_config(config)
    heir = None if successor is None else _identity(successor, "SUCCESSOR")
    if successor == member:
        fix = "make a new key with `qres keygen`, and name its identity"
        raise ConfigError.of("QRES-E105", "SUCCESSOR", "it is MEMBER itself", fix)
    change = roster_of(read).change(read.swarm.name, action, _identity(member, "MEMBER"), heir)
    _finish(read, change, **given)


def _identity(text: str, where: str) -> bytes:
    if len(text) != _ID_DIGITS or set(text) - set("0123456789abcdef"):
        what = f"{text!r} is not {_ID_DIGITS} lower-case hex digits"
        raise ConfigError.of("QRES-E105", where, what, "`qres key show` prints a node's identity")
    return bytes.fromhex(text)


def _finish(
    config: Config,
    change: RosterChange,
    *,
    out: Path | None,
    policy_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check a change, sign it, and put it into the node's folder."""
    from qres_core.contract.stores import create_file  # noqa: PLC0415
    from qres_core.kernel.policy import in_force  # noqa: PLC0415
    from qres_core.node.members import (  # noqa: PLC0415 - numpy
        check_approval,
        check_change,
        home_of,
        roster_of,
        sign_change,
    )
    from qres_core.swarm.members.pending_changes import hand_over, read_change  # noqa: PLC0415

    home, roster, now = home_of(config), roster_of(config), time.time()
    after = check_change(config, roster, change, in_force(policy_files))
    if config.swarm.authority == "members":
        change = sign_change(config, roster, change, now)
    elif change.approval:
        check_approval(config, roster, change, now)
    path = hand_over(home, change)
    whole = read_change(path)
    if out is not None:
        create_file(out, whole.to_bytes(), mode=0o644)
    if as_json:
        made = {**_report(config, roster, whole), "after": _numbers(config, after)}
        click.echo(json.dumps({**made, "file": str(path)}, indent=2))
        return
    click.echo(f"{_said(whole)}; {_support(config, roster, whole)}")
    click.echo(f"after it: {_described(config, after)}")
    click.echo(f"the change: {path}")


def _said(change: RosterChange) -> str:
    heir = "" if change.successor is None else f" to {change.successor.hex()}"
    return f"{change.action} {change.member.hex()}{heir}"


def _support(config: Config, roster: Roster, change: RosterChange) -> str:
    if config.swarm.authority == "ca":
        return "approved" if change.approval else "the authority must approve it"
    signed = len([item for item in change.signatures if item.sender in roster])
    return f"signed by {signed} of {len(roster)} members, {roster.threshold} must sign"


def _described(config: Config, roster: Roster) -> str:
    n = "1 member" if len(roster) == 1 else f"{len(roster)} members"
    return (
        f"roster {roster.epoch} of {config.swarm.name}, {roster.digest.hex()[:16]}: {n}, "
        f"f = {roster.byzantine}, quorum {roster.quorum}"
    )


def _numbers(config: Config, roster: Roster) -> dict[str, Any]:
    return {
        "swarm": config.swarm.name,
        "epoch": roster.epoch,
        "digest": roster.digest.hex(),
        "byzantine": roster.byzantine,
        "quorum": roster.quorum,
        "threshold": roster.threshold,
        "members": [member.hex() for member in roster.members],
    }


def _report(config: Config, roster: Roster, change: RosterChange) -> dict[str, Any]:
    return {
        **_named(change),
        "signed": [item.sender.hex() for item in change.signatures if item.sender in roster],
        "needed": roster.threshold if config.swarm.authority == "members" else 0,
        "approved": bool(change.approval),
    }


def _named(change: RosterChange) -> dict[str, Any]:
    return {
        "digest": change.digest.hex(),
        "action": change.action,
        "member": change.member.hex(),
        "successor": None if change.successor is None else change.successor.hex(),
    }
