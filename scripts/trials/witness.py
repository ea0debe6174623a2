"""``qres`` with a witness: what a node accepts, applies and holds is written down as it happens.

The witness is no part of what is tried. It stands around the kernel, the journal and the round
machine, and appends a line of JSON to a file before the node goes on; a line is written with one
call, so that ``kill -9`` leaves whole lines. Run as ``qres`` is, with the folder for the files in
``QRES_WITNESS``.

With ``QRES_REPLAYER`` set the node also says again, for as long as it runs, whatever it has heard,
and, once the file of that name exists, frames that are none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from qres_core import Envelope, cli, model_digest
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.intake import Intake
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.node import Node
from qres_core.swarm.storage.journal import SqliteJournal

FOLDER = "QRES_WITNESS"
REPLAYER = "QRES_REPLAYER"
HEARD = 4096
"""Frames that a replayer remembers."""
PAUSE = 0.25
BURST = 5
"""A replayer sends so many frames after every pause."""


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


class Writer:
    """Appends lines about nodes, one file for each.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[bytes, int] = {}

    def __call__(self, node: bytes, **line: Any) -> None:
        """Append a line about a node."""
        if node not in self._open:
            path = self._folder / f"{node.hex()}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._open[node] = os.open(path, flags, 0o600)
        text = json.dumps({**line, "at": round(time.time(), 3)}, separators=(",", ":"))
        os.write(self._open[node], text.encode() + b"\n")


Patch = Callable[[Any, str, Any], None]
"""Puts something in the place of an attribute."""


def _after(owner: Any, name: str, tell: Callable[..., None], patch: Patch = setattr) -> None:
    """Have ``tell`` called after a method, with its result and its arguments."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        tell(self, result, *args, **kwargs)
        return result

    patch(owner, name, told)


def install(write: Writer, patch: Patch = setattr) -> None:
    """Stand around the kernel, the journal and the machine of every node of this process."""
    names: dict[int, bytes] = {}
    banned: dict[int, list[str]] = {}

    def bans(intake: Intake) -> list[str]:
        return sorted(node.hex() for node in intake.roster if intake.standing(node).banned)

    def set_up(kernel: Kernel, _result: object, node_info: Any) -> None:
        key = id(kernel.intake)
        names[key], banned[key] = node_info.node_id, bans(kernel.intake)
        write(node_info.node_id, kind="bans", banned=banned[key], start=True)

    def observed(intake: Intake, _result: object, evidence: Any) -> None:
        key = id(intake)
        if evidence.against and key in names and (now := bans(intake)) != banned[key]:
            banned[key] = now
            write(names[key], kind="bans", banned=now, fact=evidence.fact)

    def taken(intake: Intake, result: object, *_rest: object, **_more: object) -> None:
        if isinstance(result, Envelope):
            write(
                names[id(intake)],
                kind="took",
                sender=result.sender.hex(),
                sequence=result.sequence,
                message=_short(result.signing_digest),
                says=result.kind,
                round=result.round,
                head=_short(result.head),
                payload=_short(result.payload),
            )
        elif id(intake) in names and isinstance(result, Rejection):
            write(names[id(intake)], kind="refused", reason=result.reason)

    def started(machine: RoundMachine, _result: object, *_rest: object, **_more: object) -> None:
        sequence, head = machine.next_sequence, machine.head
        write(machine.node_id, kind="head", height=head.height, digest=head.digest.hex())
        digest = machine.model_digest.hex()
        write(machine.node_id, kind="start", step=machine.step, digest=digest, sequence=sequence)

    owners: dict[int, bytes] = {}

    def opened(journal: SqliteJournal, _result: object, *_rest: object, **more: Any) -> None:
        owners[id(journal)] = more["node_id"]

    def kept(journal: SqliteJournal, _result: object, links: Any, model: Any) -> None:
        node, last = owners[id(journal)], links[-1]
        after = last.next
        write(node, kind="head", height=after.height, digest=after.digest.hex())
        if model is not None:
            digest = model_digest(model, after.step).hex()
            number = last.chosen.origin
            write(node, kind="model", step=after.step, round=number, digest=digest)

    _after(Kernel, "setup", set_up, patch)
    _after(Intake, "observe", observed, patch)
    _after(Intake, "inbound", taken, patch)
    _after(RoundMachine, "__init__", started, patch)
    _after(SqliteJournal, "__init__", opened, patch)
    _after(SqliteJournal, "record_height", kept, patch)


def install_replayer(unmask: Path) -> None:
    """Have the nodes of this process send again what they have heard.

    Args:
        unmask: once this file exists, they send frames that are none, too.
    """
    heard: deque[bytes] = deque(maxlen=HEARD)
    chance = random.Random(0)  # noqa: S311 - which frames it is, is nothing secret

    def hear(_intake: Intake, _result: object, frame: bytes, *_rest: object) -> None:
        heard.append(frame)

    _after(Intake, "inbound", hear)
    listen = Node._listen  # noqa: SLF001

    async def again(node: Node) -> None:
        limit = node.transport.limits.frame
        while True:
            await anyio.sleep(PAUSE)
            frames = [item for item in heard if len(item) <= limit]
            # Old ones as well as the newest: a window has two ends.
            picked = [*frames[-1:], *(chance.choice(frames) for _ in range(BURST - 1) if frames)]
            if unmask.exists():  # noqa: ASYNC240 - a look at a local file
                picked = [chance.randbytes(64) for _ in range(BURST)]
            for frame in picked:
                peers = [peer.node_id for peer in node.transport.peers()]
                try:
                    if peers and chance.random() < 0.5:
                        await node.transport.send(chance.choice(peers), frame)
                    else:
                        await node.transport.broadcast(frame)
                except Exception:  # noqa: BLE001, S112 - a liar does not mind
                    continue

    async def listen_and_repeat(node: Node, inlet: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(again, node)
            await listen(node, inlet)

    Node._listen = listen_and_repeat  # type: ignore[assignment,method-assign]  # noqa: SLF001


if __name__ == "__main__":
    install(Writer(Path(os.environ[FOLDER])))
    if REPLAYER in os.environ:
        install_replayer(Path(os.environ[REPLAYER]))
    cli.main()
