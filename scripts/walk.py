"""Walk one frame and one update through the code of real nodes, and count the modules on the way.

    python -P scripts/walk.py             print the walks
    python -P scripts/walk.py --calls     the function that each stay begins in, too
    python -P scripts/walk.py --write     put the table into docs/explanation/architecture.md
    python -P scripts/walk.py --check     exit status 1 if that table is another

Nine nodes of one process run the plugins of ``examples/swarm.toml`` for a few rounds, with keys
that are always the same, on a clock that stands still while they work. So every run gives the same
counts. Every call and return is watched at the first node. A *stay* is a stretch of the walk in one
module of QRES, plugins and libraries included; what other packages do in between is left out.

inbound   a contribution of another node, from ``receive`` of the transport until it is counted and
          every step that it makes possible is taken
update    an update of this node, from the trainer's result until its frame is with the transport,
          and then from the vote that decides until the model is merged and told

Of each kind the walk with the median number of stays counts: modules in the order of the first
visit, each with its stays.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import selectors
import sys
import tempfile
import types
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest import mock

import anyio
import attrs
from qres_ed25519 import keyfile
from qres_ed25519.signature import SigningKey

from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.transport import Delivery
from qres_core.contract.types import NodeId, Update
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import parse
from qres_core.swarm.runtime.carrier import Carrier
from qres_core.swarm.runtime.node import Node, run_node
from qres_core.training.tasks import TaskConfig, make_task

NODES: Final = 9
ROUNDS: Final = 4
PLUGINS: Final[Mapping[str, Mapping[str, object]]] = {
    "memory": {},
    "replay": {"window": 2048},
    "reputation": {},
    "krum": {"f": 2},
}
PAGE: Final = Path(__file__).resolve().parent.parent / "docs/explanation/architecture.md"
ROWS: Final = {
    "inbound": "inbound: a frame, from the transport to a counted contribution",
    "update": "update: from the trainer's result to the merged model",
}
_ROW: Final = r"^\| {what} \| \d+ \| \d+ \|$"

Walk = list[tuple[str, str]]
"""For each stay its module, and the function that it begins in."""


@attrs.define(eq=False)
class Track:
    """Notes the modules that one task is in."""

    walk: Walk = attrs.field(factory=Walk)

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """What ``sys.setprofile`` calls."""
        if event not in {"call", "return"}:
            return
        # After a return the caller goes on: the first frame below that is ours.
        at: FrameType | None = frame if event == "call" else frame.f_back
        while at is not None:
            module = at.f_globals.get("__name__", "")
            if module.startswith("qres_") and not at.f_code.co_filename.startswith("<"):
                if not self.walk or self.walk[-1][0] != module:
                    self.walk.append((module, at.f_code.co_qualname))
                return
            if event == "call":
                return
            at = at.f_back

    def during(self, call: Callable[[], object]) -> None:
        """Watch a call."""
        sys.setprofile(self.note)
        try:
            call()
        finally:
            sys.setprofile(None)

    @types.coroutine
    def over(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Watch what a coroutine does, and nothing while it waits."""
        step: Callable[[], Any] = partial(coroutine.send, None)
        while True:
            sys.setprofile(self.note)
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            finally:
                sys.setprofile(None)
            try:
                step = partial(coroutine.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - it is cancelled
                step = partial(coroutine.throw, error)


def median(walks: list[Walk]) -> Walk:
    """The walk with the median number of stays."""
    return sorted(walks, key=len)[len(walks) // 2]


def is_contribution(frame: bytes, *, of: NodeId, own: bool) -> bool:
    """Whether a frame holds a contribution of this node, or of another."""
    envelope = Envelope.from_bytes(frame, max_bytes=len(frame))
    return envelope.kind == "contribution" and (envelope.sender == of) == own


def watch_node(me: NodeId, found: dict[str, list[Walk]]) -> None:
    """Note walks from door to door of one node: transport, inputs and outbox."""
    receive, listen = MemoryTransport.receive, Carrier.listen
    doors: Any = Node
    take, send = doors._take, doors._send  # noqa: SLF001 - watched from outside
    arriving = Track()

    async def watched_receive(transport: MemoryTransport) -> Delivery:
        if transport.node_id == me:
            arriving.walk = []
        return await receive(transport)

    async def watched_listen(carrier: Carrier, put: Callable[[Delivery], Awaitable[None]]) -> None:
        async def watched_put(delivery: Delivery) -> None:
            if is_contribution(delivery.frame, of=me, own=False):
                found["arrive"].append([*arriving.walk])
            await put(delivery)

        ours = carrier.transport
        if isinstance(ours, MemoryTransport) and ours.node_id == me:
            await arriving.over(listen(carrier, watched_put))
        else:
            await listen(carrier, put)

    def watched_take(node: Node, item: Any) -> None:
        if node.machine.node_id != me:
            take(node, item)
            return
        before, track = node.machine.step, Track()
        track.during(partial(take, node, item))
        if node.machine.step > before:
            found["merge"].append(track.walk)
        elif isinstance(item, Delivery) and is_contribution(item.frame, of=me, own=False):
            found["count"].append(track.walk)
        elif isinstance(getattr(item, "result", None), Update):
            found["contribute"].append(track.walk)

    async def watched_send(node: Node, item: Any) -> None:
        if node.machine.node_id != me or not is_contribution(item.frame, of=me, own=True):
            await send(node, item)
            return
        track = Track()
        await track.over(send(node, item))
        found["send"].append(track.walk)

    transports: Any = MemoryTransport
    carriers: Any = Carrier
    transports.receive, carriers.listen = watched_receive, watched_listen
    doors._take, doors._send = watched_take, watched_send  # noqa: SLF001 - as above


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: where the loop would, its clock goes on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            self.now += timeout or 0.0
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


async def _at_once(call: Callable[..., Any], *arguments: Any, **_options: Any) -> Any:
    """In the place of a thread, of which nobody knows when it is done."""
    return call(*arguments)


async def play(folder: Path, found: dict[str, list[Walk]]) -> None:
    """Run the nodes, the first one watched."""
    pairs = [SigningKey.from_seed(bytes([index]) * 32) for index in range(NODES)]
    roster = [pair.public for pair in pairs]
    task = make_task(TaskConfig(name="quadratic", dimension=64), nodes=NODES, seed=1)
    watch_node(roster[0], found)
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
                clock=anyio.current_time,
                linger=1.0,
                meet=5.0,
            )
            group.start_soon(run)


def walks() -> dict[str, Walk]:
    """The walk of each kind."""
    made, at_once = (
        defaultdict[str, list[Walk]](list),
        mock.patch("anyio.to_thread.run_sync", _at_once),
    )
    with tempfile.TemporaryDirectory() as folder, at_once:
        anyio.run(play, Path(folder), made, backend_options={"loop_factory": _Loop})
    found = {kind: median(of_kind) for kind, of_kind in made.items()}
    return {
        "inbound": found["arrive"] + found["count"],
        "update": found["contribute"] + found["send"] + found["merge"],
    }


def show(title: str, walk: Walk, *, calls: bool) -> None:
    """Print how many modules a walk visits, and how often."""
    stays = Counter(module for module, _function in walk)
    print(f"{title}: {len(stays)} modules, {len(walk)} stays")
    if calls:
        for module, function in walk:
            print(f"    {module:40} {function}")
    for module in dict.fromkeys(module for module, _function in walk):
        print(f"    {stays[module]:3}  {module}")


def renewed(page: str, found: Mapping[str, Walk]) -> str:
    """The page with the counts of the walks."""
    for title, walk in found.items():
        what = ROWS[title]
        row = f"| {what} | {len({module for module, _function in walk})} | {len(walk)} |"
        page, count = re.subn(_ROW.format(what=re.escape(what)), row, page, flags=re.MULTILINE)
        if count != 1:
            sys.exit(f"{PAGE.name} has no row for the walk {title!r}")
    return page


def main() -> int:
    """Walk and print, or hold the page against the walks."""
    parser = argparse.ArgumentParser(description="Count the modules on a walk.")
    parser.add_argument("--calls", action="store_true", help="the functions, too")
    parser.add_argument("--write", action="store_true", help="renew the page's table")
    parser.add_argument("--check", action="store_true", help="is the page's table this one?")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names must be gone through in one order
        again = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], again)  # noqa: S606
    found = walks()
    page = PAGE.read_text(encoding="utf-8")
    if options.write:
        PAGE.write_text(renewed(page, found), encoding="utf-8")
    elif options.check:
        if renewed(page, found) != page:
            print(f"{PAGE.name} counts other walks: python -P scripts/walk.py --write")
            return 1
    else:
        for title, walk in found.items():
            show(title, walk, calls=options.calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
