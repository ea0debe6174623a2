"""Blobs: a bounded store to serve them from, and how one is pulled from several holders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio
import attrs

from qres_core.contract.errors import TransportError
from qres_core.contract.transport import CHUNK, BlobRef
from qres_core.contract.types import NodeId

WINDOW: Final = 4
"""Chunks asked for at once: one on the way, one in each buffer, one being checked."""

Ask: TypeAlias = Callable[[NodeId, int], Awaitable[bytes]]
"""Gets a chunk from a holder by its index, or raises a TransportError."""


@attrs.define(eq=False)
class BlobStore:
    """Blobs by root, in memory, bounded in bytes.

    The blob put longest ago goes first, however often it is asked for: else whoever keeps asking
    for an old blob would keep it here at the cost of new ones.
    """

    limit: int  # bytes in all
    _held: dict[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])
    _bytes: int = 0

    def put(self, ref: BlobRef, data: bytes) -> None:
        """Hold a blob, which must be the one that ``ref`` names.

        Raises TransportError: QRES-E901 for more than ``limit`` bytes.
        """
        if len(data) > self.limit:
            what = f"{len(data)} bytes, limit {self.limit}"
            raise TransportError.of("QRES-E901", "transport.blob", what)
        self._bytes += len(data) - len(self._held.pop(ref.root, b""))
        self._held[ref.root] = data
        while self._bytes > self.limit:
            self._bytes -= len(self._held.pop(next(iter(self._held))))

    def get(self, root: bytes) -> bytes | None:
        """A blob, if it is still here."""
        return self._held.get(root)

    def chunk(self, root: bytes, index: int) -> bytes | None:
        """One chunk of a blob; ``None`` if the blob is not here or has no such chunk."""
        data = self._held.get(root)
        if data is None or not 0 <= index * CHUNK < len(data):
            return None
        return data[index * CHUNK : (index + 1) * CHUNK]

    def clear(self) -> None:
        """Forget all blobs."""
        self._held.clear()
        self._bytes = 0


def _error(code: str, what: str) -> TransportError:
    return TransportError.of(code, "transport.fetch_blob", what)


@attrs.define(eq=False)
class _Pull:
    """A blob that is coming in."""

    ref: BlobRef
    ask: Ask
    chunks: dict[int, bytes] = attrs.field(factory=dict[int, bytes])

    async def turn(self, holder: NodeId) -> TransportError | None:
        """Ask one holder for all that is missing; what stopped it, if anything did."""
        todo = iter([index for index in range(len(self.ref.chunks)) if index not in self.chunks])
        stopped: TransportError | None = None

        async def work(scope: anyio.CancelScope) -> None:
            nonlocal stopped
            for index in todo:
                try:
                    data = await self.ask(holder, index)
                    self._keep(index, data)
                except TransportError as error:
                    stopped = stopped or error
                    scope.cancel()

        async with anyio.create_task_group() as group:
            for _worker in range(WINDOW):
                group.start_soon(work, group.cancel_scope)
        return stopped

    def _keep(self, index: int, data: bytes) -> None:
        fits = len(data) == self.ref.length(index)
        if not fits or hashlib.sha256(data).digest() != self.ref.chunks[index]:
            raise _error("QRES-E906", f"chunk {index} differs from the announced one")
        self.chunks[index] = data

    def whole(self) -> bytes:
        return b"".join(self.chunks[index] for index in range(len(self.ref.chunks)))


async def pull(
    ref: BlobRef,
    holders: Sequence[NodeId],
    ask: Ask,
    within: float,
    on_bad: Callable[[NodeId, str], None] = lambda _holder, _what: None,
) -> bytes:
    """Pull a blob from holders in turn, :data:`WINDOW` chunks at a time, every chunk checked.

    A holder that fails, or is not done when its even share of the time is over, is asked no more.
    The next goes on with what is missing.

    ``holders``: distinct; ``within``: seconds, for all of it; ``on_bad``: told who sent something
    else than the chunk it was asked for. Raises TransportError: QRES-E906 when anybody sent
    something else, else QRES-E905 when anybody was too slow, else QRES-E904: nobody has it.

    Complexity: O(size), memory 2 size at the end.
    """
    end = anyio.current_time() + within
    coming = _Pull(ref, ask)
    reasons: set[str] = set()
    for index, holder in enumerate(holders):
        remaining = end - anyio.current_time()
        patience = max(0.0, remaining / (len(holders) - index))
        stopped: TransportError | None = _error("QRES-E905", "too slow")
        with anyio.move_on_after(patience if math.isfinite(patience) else None):
            stopped = await coming.turn(holder)
        if stopped is None:
            return coming.whole()
        reasons.add(stopped.code)
        if stopped.code == "QRES-E906":
            on_bad(holder, stopped.problems[0].what)
    what = f"{len(coming.chunks)} of {len(ref.chunks)} chunks came from {len(holders)} holders"
    for code in ("QRES-E906", "QRES-E905"):
        if code in reasons:
            raise _error(code, what)
    raise _error("QRES-E904", what)
