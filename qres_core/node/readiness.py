"""Readiness: does a node take part in its swarm now? For those that start, stop and watch nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from qres_core.contract.stores.system import create_now, sync
from qres_core.node.status import StatusBoard

PROBE: Final = ".qres-writable.probe"
"""File by which the disk is tried; gone again at once."""
PROBE_BYTES: Final = 4096
PROBE_SECONDS: Final = 5.0
"""Least time between two trials: whoever asks often must not keep the disk busy."""


def disk_trouble(folder: Path) -> str:
    """Reason why nothing can be written into a folder; empty where it can."""
    probe = folder / PROBE
    try:
        try:
            number = create_now(probe)  # never through a link that somebody put there
        except FileExistsError:  # left behind by a process that was killed
            probe.unlink()
            number = create_now(probe)
        try:
            os.write(number, bytes(PROBE_BYTES))
            sync(number)
        finally:
            os.close(number)
    except OSError as error:
        return f"cannot write into {folder}: {error.strerror or error}"
    finally:
        with suppress(OSError):
            probe.unlink()
    return ""


@attrs.define(eq=False)
class Readiness:
    """Judges one node when asked."""

    board: StatusBoard  # what is known of the node
    folder: Path | None  # where its journal is; ``None`` for a node that keeps none
    clock: Callable[[], float] = time.monotonic
    # why the transport carries nothing now; empty where it does
    stuck: Callable[[], str] = str
    _disk: str = attrs.field(default="", init=False)
    _tried: float = attrs.field(default=float("-inf"), init=False)

    def trouble(self) -> str:
        """Reason why the node does not take part; empty where it does."""
        node = self.board.node
        if node is None:
            return "the node is starting"
        if why := self.stuck():
            return why
        machine = node.machine
        if not machine.is_member:
            return "this node is no member where its history is"
        if machine.node_id in machine.head.bans:
            return "the members banned this node"
        here, quorum = len(node.transport.peers()) + 1, machine.head.roster.quorum
        if here < quorum:
            return f"{here} of the {quorum} nodes that a round needs are connected, with this one"
        return self._disk_trouble()

    def _disk_trouble(self) -> str:
        if self.folder is not None and self.clock() >= self._tried + PROBE_SECONDS:
            self._tried = self.clock()
            self._disk = disk_trouble(self.folder)
        return self._disk
