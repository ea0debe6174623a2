"""Obstacles to a node's part in a swarm, found before or while it runs: one line each.

Nothing is changed, the node's stores are opened in a copy alone, and no other node learns more than
that somebody knocked.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.contract.errors import ConfigError, Problem, QresError
from qres_core.contract.transport import LinkKeys
from qres_core.contract.types import NodeInfo
from qres_core.kernel.compliance import unmet
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import SitePolicy
from qres_core.node.ask import ask
from qres_core.node.calling import runs_in
from qres_core.node.members import roster_of
from qres_core.node.readiness import disk_trouble
from qres_core.node.server import parse_address
from qres_core.training.table import table_of

FREE_BYTES: Final = 256 * 2**20
"""Fewer free bytes than that are too few: a journal that cannot grow stops the node."""
CLOCK_SECONDS: Final = 5.0
"""How far a clock may be from the others'; a refusal by the replay plugin comes later."""
UNKNOWN: Final = "not compared: only a node that runs hears from the others"
_SHORT: Final = 16
_PEER: Final = ".peers["
"""In the place of an address at which another node is meant to be."""


@attrs.frozen
class Examined:
    """One thing that was looked at."""

    where: str  # what, as a key path where it has one
    what: str  # what was found
    fix: str = ""  # what to do
    well: bool = True  # whether there is nothing to do

    @classmethod
    def of(cls, problem: Problem) -> Examined:
        """Line about something to mend."""
        return cls(problem.where, f"{problem.what} ({problem.code})", problem.fix, well=False)


@attrs.define(eq=False)
class Doctor:
    """Examines one node by its configuration."""

    read: Callable[[], Config]  # reads the file
    installed: Mapping[str, Installed] = attrs.field(factory=scan)  # plugins by name
    policies: Callable[[], Sequence[SitePolicy]] = tuple  # reads those that apply

    def findings(self) -> Iterator[Examined]:
        """Everything that can be looked at, in the order in which it should be mended."""
        try:
            config = self.read()
            yield Examined("file", f"{config.source} is a configuration")
            kernel = Kernel.from_config(config, installed=self.installed)
            yield Examined("plugins", ", ".join(plugin.name for plugin in kernel.enabled))
            yield from map(Examined.of, unmet(self.policies(), config, kernel.enabled))
        except QresError as error:
            yield from map(Examined.of, error.problems)
            return
        yield from self._of_node(config, kernel)

    def _of_node(self, config: Config, kernel: Kernel) -> Iterator[Examined]:
        node_id: bytes | None = None
        try:
            node_id = kernel.identity(None)
            if node_id is None:
                fix = "enable a plugin that keeps a key"
                yield Examined("key", "no enabled plugin gives this node a key", fix, well=False)
            else:
                yield Examined("key", f"readable, and nobody else's; it is {node_id.hex()}")
        except QresError as error:
            yield from map(Examined.of, error.problems)
        info: NodeInfo | None = None
        try:
            roster = roster_of(config)
            if node_id is not None:
                info = NodeInfo(node_id, config.swarm.name, roster.members, roster.byzantine)
            yield _membership(config, node_id, roster.members)
        except QresError as error:
            yield from map(Examined.of, error.problems)
        yield _trainer(config)
        folder = None if config.node.data_dir is None else Path(config.node.data_dir)
        own = None if folder is None or node_id is None else folder / node_id.hex()
        disk = tuple(_disk(folder, own))
        if info is not None:
            # Of a folder that takes nothing one line is enough, whatever is in it.
            takes = own is not None and all(found.well for found in disk)
            place = str(own) if takes else None
            yield from _of_start(kernel, attrs.evolve(info, data_dir=place))
        yield from disk
        runs = own is not None and runs_in(own)
        status = _asked(config.node.status) if runs else None
        other = "" if status is None or node_id is None else _other(status, node_id)
        status = None if other else status
        yield _process(status, runs=runs)
        yield from _status_port(config.node.status, runs=runs, answers=status is not None or other)
        yield from _clock(status)
        if info is not None:
            # A node that never ran may be the first one: that nobody is there yet is no fault.
            fresh = own is not None and not _is_there(own)
            yield from _of_plugins(kernel, info, runs=runs, fresh=fresh)


def _membership(config: Config, node_id: bytes | None, members: tuple[bytes, ...]) -> Examined:
    if not config.swarm.roster:  # it was read from the folder, and a start asks for the file's
        fix = "list the identities of all nodes in the file"
        return Examined("swarm.roster", "the file does not list the nodes", fix, well=False)
    if node_id is None or node_id in members:
        among = "" if node_id is None else ", this node among them"
        return Examined("swarm.roster", f"{len(members)} members{among}")
    fix = "name the right key file; of a new node, have the members add it: `qres roster add`. If "
    fix += "they have, start it: it learns of that from them"
    return Examined("swarm.roster", "this node's key is no member's", fix, well=False)


def _trainer(config: Config) -> Examined:
    """Look for a trainer; its code is not run here."""
    table = table_of(config)
    if not table.named:
        fix = 'set entry = "module:factory", or add [trainer.task]'
        return Examined("trainer", "no model or task is named", fix, well=False)
    return Examined("trainer", f"{table.name}, which is tried only at a start")


def _of_start(kernel: Kernel, info: NodeInfo) -> Iterator[Examined]:
    """Refusals of a start by plugins, whatever the trainer is: it is not run here."""
    able = attrs.evolve(
        info, validates=True, references=True, pooled=True, clipped=kernel.record_clip
    )
    try:
        yield from map(Examined.of, kernel.preflight(able))
    except QresError as error:
        yield from map(Examined.of, error.problems)


def _process(status: Mapping[str, Any] | None, *, runs: bool) -> Examined:
    """Find out if it runs, and takes part as far as it says."""
    where, said = "process", "the node runs" if runs else "the node does not run"
    if status is None or status["state"] != "running":
        return Examined(where, said)
    mine = [member for member in status["members"] if member.get("self") is True]
    here, quorum = len(status["peers"]) + 1, status["swarm"].get("quorum")
    fix = "see the reasons of its links: `qres node status --json`"
    if status.get("removed") is True:
        said, fix = f"{said} and is no member", "have the members add it: `qres roster add`"
    elif any(member.get("banned_by_all") is True for member in mine):
        said, fix = f"{said}, and the members banned it", "ask the operators of the others why"
    elif type(quorum) is int and here < quorum:
        said = f"{said} and reaches {here} of the {quorum} nodes that a round needs, with itself"
    else:
        return Examined(where, said)
    return Examined(where, said, fix, well=False)


def _asked(address: str) -> Mapping[str, Any] | None:
    """Status at the address of the file, where that tells a port."""
    try:
        _host, port = parse_address(address)
    except ConfigError:  # which is told where the port is looked at, or none is wanted
        return None
    return ask(address) if port else None


def _other(status: Mapping[str, Any], node_id: bytes) -> str:
    """The name of another node that answers in this one's stead; empty if it is this one."""
    if status["state"] != "running":
        return ""
    found = str(status["node"].get("id", ""))
    return "" if found == node_id.hex() else found[:_SHORT] or "none"


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:  # also where it cannot be looked at; what is above it tells why
        return False
    return True


def _disk(folder: Path | None, own: Path | None = None) -> Iterator[Examined]:
    """``own``: the folder of this node in the other, if it can be told."""
    where = "node.data_dir"
    if folder is None:
        fix = "name a folder on a local disk"
        yield Examined(where, "not set, and a node must remember its votes", fix, well=False)
        return
    inner = folder if own is None or not _is_there(own) else own
    there = next(path for path in (inner, *folder.absolute().parents) if _is_there(path))
    if trouble := disk_trouble(there) or _barred(own):
        fix = "give the folder to the user that runs the node, on a disk that is not read-only"
        yield Examined(where, trouble, fix, well=False)
        return
    free = shutil.disk_usage(there).free
    what = f"{there} takes what is written, {free // 2**20} MiB are free"
    fix = "" if free >= FREE_BYTES else f"free at least {FREE_BYTES // 2**20} MiB"
    yield Examined(where, what, fix, well=not fix)


def _barred(own: Path | None) -> str:
    """Find paths in a node's folder that this user cannot read and write; empty for none."""
    try:
        found = [] if own is None or not own.is_dir() else sorted(own.iterdir())
    except OSError as error:
        return f"cannot look into {own}: {error.strerror or error}"
    barred = (path for path in found if not os.access(path, os.R_OK | os.W_OK))
    return next((f"cannot read and write {path}" for path in barred), "")


def _status_port(address: str, *, runs: bool, answers: bool | str) -> Iterator[Examined]:
    """``answers``: whether this node does, or which other one."""
    where = "node.status"
    if not address:
        return
    try:
        host, port = parse_address(address)
    except ConfigError as error:
        yield from map(Examined.of, error.problems)
        return
    if runs and isinstance(answers, str) and answers:
        fix = "name the address in the file at which this node serves its own"
        yield Examined(where, f"{address} is answered by node {answers}", fix, well=False)
        return
    if runs:
        fix = "" if answers or not port else "look into the node's log; it may hang"
        what = f"{address} answers" if answers else f"{address} does not answer"
        yield Examined(where, what, fix, well=not fix)
        return
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = "end the process that holds it, or choose another address"
            yield Examined(where, f"{address}: {error.strerror or error}", fix, well=False)
        else:
            yield Examined(where, f"{address} is free")


def _clock(status: Mapping[str, Any] | None) -> Iterator[Examined]:
    where = "clock"
    if status is None:
        yield Examined(where, UNKNOWN)
        return
    told = {
        str(member.get("id", ""))[:_SHORT]: member.get("clock_offset_seconds")
        for member in status.get("members", ())
    }
    offsets = {
        name: offset
        for name, offset in told.items()
        if type(offset) is float and math.isfinite(offset)
    }
    if not offsets:
        yield Examined(where, "not compared: no peer's message came yet")
        return
    ordered = sorted(offsets.values())
    middle = ordered[len(ordered) // 2]
    fix = "set this machine's clock by NTP"
    if abs(middle) > CLOCK_SECONDS:
        said = "ahead of" if middle > 0 else "behind"
        yield Examined(where, f"{abs(middle):.1f} s {said} most peers'", fix, well=False)
        return
    yield Examined(where, f"{abs(middle):.1f} s from most of {len(offsets)} peers'")
    for peer, offset in sorted(offsets.items()):
        if abs(offset) > CLOCK_SECONDS:
            fix = "have its operator set that machine's clock by NTP"
            what = f"that of {peer} is {abs(offset):.1f} s away"
            yield Examined(where, what, fix, well=False)


def _of_plugins(
    kernel: Kernel, info: NodeInfo, *, runs: bool, fresh: bool = False
) -> Iterator[Examined]:
    """``fresh``: the node never ran here."""
    keys: LinkKeys | None = None
    with suppress(QresError):  # it was told already
        keys = kernel.link_keys()
    for plugin in kernel.enabled:
        try:
            found = plugin.ask("examine", info, runs, keys)
        except QresError as error:
            yield from map(Examined.of, error.problems)
            continue
        for item in found:
            if isinstance(item, str):
                yield Examined(f"plugins.{plugin.name}", item)
            elif fresh and item.code == "QRES-E904" and _PEER in item.where:
                yield Examined(item.where, f"nobody answers yet: {item.what}")
            else:
                yield Examined.of(item)
