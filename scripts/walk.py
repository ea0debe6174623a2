"""Walk one frame and one update through the code of real nodes, and count the modules on the way.

    python -P scripts/walk.py

Nine nodes of one process run the plugins of ``examples/swarm.toml`` for a few rounds, with keys of
their own. Every call and return is watched at the first node. A *stay* is a stretch of the walk in
one module of QRES, plugins and libraries included; what other packages do in between is left out.

inbound   a contribution of another node, from ``receive`` of the transport until it is counted and
          every step that it makes possible is taken
update    an update of this node, from the trainer's result until its frame is with the transport,
          and then from the vote that decides until the model is merged and told

Of each kind the walk with the median number of stays is printed: modules in the order of the first
visit, each with its stays.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyio
import attrs
from qres_ed25519 import keyfile

from qres_core.contract.transport import Delivery
from qres_core.contract.types import NodeId, Update
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import parse
from qres_core.lab.tasks import TaskConfig, make_task
from qres_core.swarm.carrier import Carrier
from qres_core.swarm.memory import MemoryTransport
from qres_core.swarm.node import Node, run_node

NODES: Final = 9
ROUNDS: Final = 4
PLUGINS: Final[Mapping[str, Mapping[str, object]]] = {
    "memory": {},
    "replay": {"window": 2048},
    "reputation": {},
    "krum": {"f": 2},
}

Walk = list[str]


@attrs.define(eq=False)
class Watch:
    """Notes the modules that the watched tasks are in."""

    walks: dict[str, list[Walk]] = attrs.field(factory=dict[str, list[Walk]])
    _open: dict[object, Walk] = attrs.field(factory=dict[object, Walk])
    _names: dict[str, str] = attrs.field(factory=dict[str, str])

    def begin(self) -> None:
        """The current task's walk begins."""
        self._open[asyncio.current_task()] = []

    def end(self, kind: str = "") -> Walk:
        """It is over; kept if it is of a kind."""
        walk = self._open.pop(asyncio.current_task(), [])
        if kind:
            self.walks.setdefault(kind, []).append(walk)
        return walk

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """What ``sys.setprofile`` calls."""
        if not self._open or event not in {"call", "return"}:
            return
        walk = self._open.get(asyncio.current_task())
        if walk is None:
            return
        # After a return the caller goes on: the first frame below that is ours.
        at: FrameType | None = frame if event == "call" else frame.f_back
        while at is not None:
            module = at.f_globals.get("__name__", "")
            if module.startswith("qres_") and not at.f_code.co_filename.startswith("<"):
                if not walk or walk[-1] != module:
                    walk.append(module)
                return
            if event == "call":
                return
            at = at.f_back


def median(walks: list[Walk]) -> Walk:
    """The walk with the median number of stays."""
    return sorted(walks, key=len)[len(walks) // 2]


def is_contribution(frame: bytes, *, of: NodeId, own: bool) -> bool:
    """Whether a frame holds a contribution of this node, or of another."""
    envelope = Envelope.from_bytes(frame, max_bytes=len(frame))
    return envelope.kind == "contribution" and (envelope.sender == of) == own


def watch_node(watch: Watch, me: NodeId) -> None:
    """Begin and end walks at the doors of one node: transport, inputs and outbox."""
    receive, listen = MemoryTransport.receive, Carrier.listen
    doors: Any = Node
    take, send = doors._take, doors._send  # noqa: SLF001 - watched from outside

    async def watched_receive(transport: MemoryTransport) -> Delivery:
        if transport.node_id == me:
            watch.begin()
        return await receive(transport)

    async def watched_listen(carrier: Carrier, put: Callable[[Delivery], Awaitable[None]]) -> None:
        async def watched_put(delivery: Delivery) -> None:
            mine = is_contribution(delivery.frame, of=me, own=False)
            watch.end("arrive" if mine else "")
            await put(delivery)

        ours = carrier.transport
        is_me = isinstance(ours, MemoryTransport) and ours.node_id == me
        await listen(carrier, watched_put if is_me else put)

    def watched_take(node: Node, item: Any) -> None:
        if node.machine.node_id != me:
            take(node, item)
            return
        before = node.machine.step
        watch.begin()
        take(node, item)
        kind = ""
        if node.machine.step > before:
            kind = "merge"
        elif isinstance(item, Delivery) and is_contribution(item.frame, of=me, own=False):
            kind = "count"
        elif isinstance(getattr(item, "result", None), Update):
            kind = "contribute"
        watch.end(kind)

    async def watched_send(node: Node, item: Any) -> None:
        if node.machine.node_id != me:
            await send(node, item)
            return
        watch.begin()
        await send(node, item)
        watch.end("send" if is_contribution(item.frame, of=me, own=True) else "")

    transports: Any = MemoryTransport
    carriers: Any = Carrier
    transports.receive, carriers.listen = watched_receive, watched_listen
    doors._take, doors._send = watched_take, watched_send  # noqa: SLF001 - as above


async def play(folder: Path, watch: Watch) -> None:
    """Run the nodes, the first one watched."""
    pairs = [keyfile.generate() for _node in range(NODES)]
    roster = [pair.public for pair in pairs]
    task = make_task(TaskConfig(name="quadratic", dimension=64), nodes=NODES, seed=1)
    watch_node(watch, roster[0])
    sys.setprofile(watch)
    async with anyio.create_task_group() as group:
        for index, pair in enumerate(pairs):
            key = folder / f"{index}.key"
            keyfile.save(key, pair, None)
            swarm = {"name": "walk", "nodes": NODES, "byzantine": 2, "quorum": 7, "deadline": 5.0}
            tables = {**PLUGINS, "ed25519": {"key": str(key)}}
            run = partial(
                run_node,
                parse({"swarm": swarm, "plugins": tables}, source="walk.py"),
                node_id=pair.public,
                roster=roster,
                trainer=task.trainers[index],
                initial=task.initial,
                steps=ROUNDS,
                linger=1.0,
                meet=5.0,
            )
            group.start_soon(run)
    sys.setprofile(None)


def show(title: str, walk: Walk) -> None:
    """Print how many modules a walk visits, and how often."""
    stays = Counter(walk)
    print(f"{title}: {len(stays)} modules, {len(walk)} stays")
    for module in dict.fromkeys(walk):
        print(f"    {stays[module]:3}  {module}")


def main() -> None:
    """Walk and print."""
    argparse.ArgumentParser(description="Count the modules on a walk.").parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(play, Path(folder), watch)
    found = {kind: median(walks) for kind, walks in watch.walks.items()}
    show("inbound", found["arrive"] + found["count"])
    show("update", found["contribute"] + found["send"] + found["merge"])


if __name__ == "__main__":
    main()
