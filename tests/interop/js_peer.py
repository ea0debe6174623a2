"""A peer on js-libp2p as a child process: what starts it, and a handle for a test."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
from anyio.abc import Process

HERE: Final = Path(__file__).parent / "js"
SECONDS: Final = 60.0
"""How long anything may take on a machine that is busy with other things."""


@attrs.define(eq=False)
class JavaScriptPeer:
    """A running peer.

    Attributes:
        process: its process.
        peer_id: its PeerId, as it names itself.
        address: where it listens, with the PeerId.
        events: what it told, in order.
    """

    process: Process
    peer_id: str = ""
    address: str = ""
    events: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    _answers: dict[int, dict[str, Any]] = attrs.field(factory=dict[int, dict[str, Any]])
    _news: anyio.Event = attrs.field(factory=anyio.Event)
    _asked: int = 0

    async def listen(self) -> None:
        """Read its lines until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "event" in said:
                    self.events.append(said)
                else:
                    self._answers[said["id"]] = said
            self._news.set()
            self._news = anyio.Event()

    async def tell(self, what: Mapping[str, object]) -> None:
        """Write it a line."""
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps(what).encode() + b"\n")

    async def do(self, op: str, **arguments: object) -> Any:
        """Give a command and wait for its answer. Raises RuntimeError if it fails."""
        self._asked += 1
        number = self._asked
        await self.tell({"id": number, "op": op, **arguments})
        with anyio.fail_after(SECONDS):
            while number not in self._answers:
                await self._news.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    async def event(self, **fields: object) -> dict[str, Any]:
        """The first event with these fields, past or to come."""
        with anyio.fail_after(SECONDS):
            while True:
                for item in self.events:
                    if fields.items() <= item.items():
                        return item
                await self._news.wait()


@asynccontextmanager
async def javascript_peer(
    node: str, *, seed: bytes, swarm: str, credential: bytes, roster: Sequence[bytes]
) -> AsyncGenerator[JavaScriptPeer]:
    """Start a peer, and end its process afterwards.

    Args:
        node: the interpreter.
        seed: its Ed25519 seed, 32 bytes.
        swarm: name of its swarm.
        credential: what it shows.
        roster: public keys that it lets connect.
    """
    command = [node, str(HERE / "peer.mjs")]
    process = await anyio.open_process(command, cwd=HERE, stderr=None)
    async with process, anyio.create_task_group() as group:
        try:
            peer = JavaScriptPeer(process)
            group.start_soon(peer.listen)
            await peer.tell(
                {
                    "seed": seed.hex(),
                    "swarm": swarm,
                    "credential": credential.hex(),
                    "roster": [node.hex() for node in roster],
                }
            )
            ready = await peer.event(event="ready")
            peer.peer_id, peer.address = ready["peer"], ready["addresses"][0]
            yield peer
        finally:
            group.cancel_scope.cancel()
            process.terminate()
