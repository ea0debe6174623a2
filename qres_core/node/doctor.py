"""What keeps a node from taking part, found before or while it runs: one line each.

Nothing is changed, nothing of the node's state is opened, and no other node learns more than that
somebody knocked.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.contract.errors import ConfigError, Problem, QresError
from qres_core.contract.types import NodeInfo
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.node.ask import ask
from qres_core.node.calling import runs_in
from qres_core.node.members import roster_of
from qres_core.node.readiness import disk_trouble
from qres_core.node.server import parse_address

FREE_BYTES: Final = 256 * 2**20
"""Fewer free bytes than that are too few: a journal that cannot grow stops the node."""
CLOCK_SECONDS: Final = 5.0
"""How far a clock may be from the others'; a refusal by the replay plugin comes later."""
UNKNOWN: Final = "not compared: only a node that runs hears from the others"
_SHORT: Final = 16


@attrs.frozen
class Examined:
    """One thing that was looked at."""

    where: str  # what, as a key path where it has one
    what: str  # what was found
    fix: str = ""  # what to do
    well: bool = True  # whether there is nothing to do

    @classmethod
    def of(cls, problem: Problem) -> Examined:
        """What is to be mended."""
        return cls(problem.where, f"{problem.what} ({problem.code})", problem.fix, well=False)


@attrs.define(eq=False)
class Doctor:
    """Examines one node by its configuration."""

    read: Callable[[], Config]  # reads the file
    installed: Mapping[str, Installed] = attrs.field(factory=scan)  # plugins by name

    def findings(self) -> Iterator[Examined]:
        """Everything that can be looked at, in the order in which it should be mended."""
        try:
            config = self.read()
            yield Examined("file", f"{config.source} is a configuration")
            kernel = Kernel.from_config(config, installed=self.installed)
            yield Examined("plugins", ", ".join(plugin.name for plugin in kernel.enabled))
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
            yield _membership(node_id, roster.members)
        except QresError as error:
            yield from map(Examined.of, error.problems)
        folder = config.node.data_dir
        yield from _disk(None if folder is None else Path(folder))
        runs = folder is not None and node_id is not None and runs_in(Path(folder, node_id.hex()))
        yield Examined("process", "the node runs" if runs else "the node does not run")
        status = ask(config.node.status) if config.node.status and runs else None
        yield from _status_port(config.node.status, runs=runs, answers=status is not None)
        yield from _clock(status)
        if info is not None:
            yield from _of_plugins(kernel, info, runs=runs)


def _membership(node_id: bytes | None, members: tuple[bytes, ...]) -> Examined:
    if node_id is None or node_id in members:
        among = "" if node_id is None else ", this node among them"
        return Examined("swarm.roster", f"{len(members)} members{among}")
    fix = "name the right key file, or have the members add it: `qres roster add`"
    return Examined("swarm.roster", "this node's key is no member's", fix, well=False)


def _disk(folder: Path | None) -> Iterator[Examined]:
    where = "node.data_dir"
    if folder is None:
        fix = "name a folder on a local disk"
        yield Examined(where, "not set, and a node must remember its votes", fix, well=False)
        return
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if trouble := disk_trouble(there):
        fix = "give the folder to the user that runs the node, on a disk that is not read-only"
        yield Examined(where, trouble, fix, well=False)
        return
    free = shutil.disk_usage(there).free
    what = f"{there} takes what is written, {free // 2**20} MiB are free"
    fix = "" if free >= FREE_BYTES else f"free at least {FREE_BYTES // 2**20} MiB"
    yield Examined(where, what, fix, well=not fix)


def _status_port(address: str, *, runs: bool, answers: bool) -> Iterator[Examined]:
    where = "node.status"
    if not address:
        return
    try:
        host, port = parse_address(address)
    except ConfigError as error:
        yield from map(Examined.of, error.problems)
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
    offsets = {
        str(member.get("id", ""))[:_SHORT]: float(member["clock_offset_seconds"])
        for member in status.get("members", ())
        if isinstance(member.get("clock_offset_seconds"), int | float)
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


def _of_plugins(kernel: Kernel, info: NodeInfo, *, runs: bool) -> Iterator[Examined]:
    for plugin in kernel.enabled:
        try:
            found = plugin.examine(info, runs)
        except QresError as error:
            yield from map(Examined.of, error.problems)
            continue
        for item in found:
            if isinstance(item, str):
                yield Examined(f"plugins.{plugin.name}", item)
            else:
                yield Examined.of(item)
