"""Blobs: whoever wants one asks for its chunks, several at once, of several holders at once.

A question is a blob's root and the number of a chunk, in 4 bytes. Chunks are checked as they come,
and served to others as soon as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
from qres_carrier import SharedBlobStore, Tally

from qres_core import BlobRef, NodeId, TransportError
from qres_transport_grpc.exchanges import ABSENT, ANSWERED, CHUNK_OF, Exchanges
from qres_transport_grpc.options import GrpcOptions

QUESTION_BYTES: Final = 36
ATTEMPTS: Final = 3
"""How often all holders are asked, where none of them sends and none of them lies."""
PAUSE_SECONDS: Final = 0.5
MISSES: Final = 6
MISS_SECONDS: Final = 0.03

_CHANCE: Final = random.SystemRandom()


@attrs.define(eq=False)
class _BlobFetch:
    """One blob on its way in."""

    ref: BlobRef
    missing: deque[int]
    lied: set[NodeId] = attrs.field(factory=set[NodeId])
    left: int = 0


class ChunkService:
    """Serves chunks out of a store."""

    def __init__(self, store: SharedBlobStore) -> None:
        self._store = store

    def answer(self, question: bytes) -> tuple[int, bytes]:
        """The chunk that was asked for, if it is here."""
        if len(question) != QUESTION_BYTES:
            return ABSENT, b""
        data = self._store.chunk(question[:32], int.from_bytes(question[32:], "big"))
        return (ABSENT, b"") if data is None else (ANSWERED, data)


class BlobPuller:
    """Fetches blobs.

    Args:
        exchanges: what asks.
        options: limits.
        store: what is here.
        tally: counts.
        is_up: whether a node is linked.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        options: GrpcOptions,
        store: SharedBlobStore,
        tally: Tally,
        is_up: Callable[[NodeId], bool],
    ) -> None:
        self._exchanges, self._options, self._store = exchanges, options, store
        self._tally, self._is_up = tally, is_up
        self._fetching: dict[bytes, asyncio.Lock] = {}

    def publish(self, ref: BlobRef, data: bytes, chunk: int) -> None:
        """Hold a blob for others."""
        if self._store.whole(ref.root):
            return
        with self._store.filling(ref):
            for index in range(len(ref.chunks)):
                self._store.put(ref, index, data[index * chunk : (index + 1) * chunk])

    async def fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob. Raises as :meth:`Transport.fetch_blob`."""
        where = f"blob {ref.root.hex()[:16]}"
        lock = self._fetching.setdefault(ref.root, asyncio.Lock())
        try:
            async with asyncio.timeout(within), lock:
                data = self._store.read(ref)
                if data is None:
                    data = await self._pull(ref, holders, where)
                    self._tally.blobs_fetched += 1
                return data
        except TimeoutError as error:
            self._tally.blobs_failed += 1
            raise TransportError.of("QRES-E905", where, f"{within:g} seconds are over") from error
        except TransportError:
            self._tally.blobs_failed += 1
            raise
        finally:
            if not lock.locked():
                self._fetching.pop(ref.root, None)

    async def _pull(self, ref: BlobRef, holders: Sequence[NodeId], where: str) -> bytes:
        asked = list(dict.fromkeys(holders))
        asked[1:] = _CHANCE.sample(asked[1:], len(asked[1:]))  # the first one knows why it is
        ready: list[NodeId] = []
        with self._store.filling(ref):
            held = self._store.held(ref)  # of an earlier try, or from before a restart
            order = [index for index in range(len(ref.chunks)) if index not in held]
            # Each receiver has an order of its own: so they have different chunks for each other.
            pull = _BlobFetch(ref, deque(_CHANCE.sample(order, len(order))), left=len(order))
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(PAUSE_SECONDS)
                ready = [node for node in asked if self._is_up(node) and node not in pull.lied]
                if not ready:
                    break
                await self._ask_all(pull, ready)
                if not pull.left:
                    data = self._store.read(ref, check=False)
                    if data is None:
                        what = "the stored blob cannot be read"
                        raise TransportError.of("QRES-E906", where, what)
                    return data
        if pull.lied:
            what = f"{len(pull.lied)} of {len(asked)} holders sent something else"
            raise TransportError.of("QRES-E906", where, what)
        what = "no holder is connected" if not ready else "no holder has all of it"
        raise TransportError.of("QRES-E904", where, what)

    async def _ask_all(self, pull: _BlobFetch, holders: Sequence[NodeId]) -> None:
        """Ask holders, a few at once, each next one when another has failed."""
        waiting = deque(holders)

        async def source() -> None:
            while waiting and pull.left:
                holder = waiting.popleft()
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._options.blob_window):
                        group.create_task(self._ask(pull, holder))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._options.blob_sources, len(waiting))):
                group.create_task(source())

    async def _ask(self, pull: _BlobFetch, holder: NodeId) -> None:
        """Take chunks from one holder until there are none to take, or it fails."""
        misses = 0
        while pull.left and holder not in pull.lied and misses <= MISSES:
            if not pull.missing:
                await asyncio.sleep(0.02)  # the rest is on its way from others, who may yet fail
                continue
            index = pull.missing.popleft()
            try:
                question = pull.ref.root + index.to_bytes(4, "big")
                status, data = await self._exchanges.ask(
                    holder, CHUNK_OF, question, self._options.read_seconds, "blob"
                )
            except TransportError:
                pull.missing.append(index)
                return
            except BaseException:
                pull.missing.append(index)
                raise
            if status != ANSWERED:
                pull.missing.append(index)
                misses += 1
                await asyncio.sleep(MISS_SECONDS * misses)  # it may be fetching too
            elif hashlib.sha256(data).digest() != pull.ref.chunks[index]:
                pull.missing.append(index)
                if holder not in pull.lied:
                    pull.lied.add(holder)
                    self._exchanges.accuse(holder, "another chunk than that which was asked for")
            else:
                misses = 0
                self._store.put(pull.ref, index, data)
                self._tally.bytes_received += len(data)
                pull.left -= 1
