"""Blobs: whoever wants one asks for its chunks, several at once, of several holders at once.

A question is a blob's root and the number of a chunk, in 4 bytes. Chunks are checked as they come,
and served to others as soon as they are. A pull lives while something of it comes. A holder that
keeps a chunk waiting does not keep the blob waiting: another one is asked for it beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
from qres_carrier import DISPLACED, UNWRITTEN, SharedBlobStore, Tally

from qres_core import BlobRef, NodeId, TransportError
from qres_transport_grpc.exchanges import ABSENT, ANSWERED, CHUNK_OF, Exchanges
from qres_transport_grpc.options import GrpcOptions

QUESTION_BYTES: Final = 36
ATTEMPTS: Final = 3
"""How often all holders are asked, where none of them sends and none of them lies."""
PAUSE_SECONDS: Final = 0.5
MISSES: Final = 6
MISS_SECONDS: Final = 0.03
LOOK_SECONDS: Final = 0.02
DOUBLINGS: Final = 4
TURN: Final = 0.25
"""After what part of the pull's patience another holder is asked for a chunk too."""
SLOWER: Final = 2.0
"""Or after this many times what chunks take, if that is longer: on a slow line all of them do."""

_CHANCE: Final = random.SystemRandom()


@attrs.define(eq=False)
class _BlobFetch:
    """One blob on its way in."""

    ref: BlobRef
    missing: deque[int]  # chunks that nobody is asked for now
    within: float  # seconds that may pass without anything of it
    alive: Callable[[], None]  # told whenever a chunk came
    wanted: set[int] = attrs.field(init=False)  # chunks that are not here
    # chunks that were asked for: of whom, and since when
    flying: dict[int, dict[NodeId, float]] = attrs.field(factory=dict[int, dict[NodeId, float]])
    lied: set[NodeId] = attrs.field(factory=set[NodeId])
    took: float = 0.0  # seconds that a chunk takes, smoothed; 0 before the first
    whole: asyncio.Event = attrs.field(factory=asyncio.Event)
    displaced: bool = False  # its room was given to blobs that come faster

    def __attrs_post_init__(self) -> None:
        self.wanted = set(self.missing)
        if not self.wanted:
            self.whole.set()

    @property
    def turn(self) -> float:
        """Seconds after which a chunk is late."""
        return max(TURN * self.within, SLOWER * self.took)

    def take(self, holder: NodeId, now: float) -> int | None:
        """The next chunk to ask a holder for: one that nobody is asked for, or one that is late."""
        if self.missing:
            index = self.missing.popleft()
        elif self.keeps_waiting(holder, now):
            return None
        else:
            late = [
                (min(asked.values()), index)
                for index, asked in self.flying.items()
                if holder not in asked and len(asked) < self._most(now - min(asked.values()))
            ]
            if not late:
                return None
            index = min(late)[1]
        self.flying.setdefault(index, {})[holder] = now
        return index

    def _most(self, age: float) -> int:
        """Holders that may be asked for a chunk of some age: twice as many after every turn."""
        return 1 << min(DOUBLINGS, int(age / self.turn))

    def came(self, index: int, took: float) -> None:
        """A chunk is here."""
        self.took = 0.8 * (self.took or took) + 0.2 * took
        self.wanted.discard(index)
        self.flying.pop(index, None)
        self.alive()
        if not self.wanted:
            self.whole.set()

    def back(self, index: int, holder: NodeId) -> None:
        """A holder did not give a chunk, or somebody did."""
        asked = self.flying.get(index, {})
        asked.pop(holder, None)
        if index in self.wanted and not asked:
            self.flying.pop(index, None)
            self.missing.append(index)

    def keeps_waiting(self, holder: NodeId, now: float) -> bool:
        """Whether a holder is late with a chunk."""
        return any(now - asked.get(holder, now) > self.turn for asked in self.flying.values())


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
                if not self._store.put(ref, index, data[index * chunk : (index + 1) * chunk]):
                    raise TransportError.of("QRES-E902", "blob", UNWRITTEN)

    async def fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob. Raises as :meth:`Transport.fetch_blob`."""
        where = f"blob {ref.root.hex()[:16]}"
        lock, mine = self._fetching.setdefault(ref.root, asyncio.Lock()), False
        try:
            # Whoever pulls it already leaves what came, but may have been told of worse holders.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    mine = await lock.acquire()
            data = self._store.read(ref)
            if data is None:
                data = await self._in_time(ref, holders, where, within)
                self._tally.blobs_fetched += 1
        except TransportError:
            self._tally.blobs_failed += 1
            raise
        else:
            return data
        finally:
            if mine:
                lock.release()
            if not lock.locked():
                self._fetching.pop(ref.root, None)

    async def _in_time(
        self, ref: BlobRef, holders: Sequence[NodeId], where: str, within: float
    ) -> bytes:
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(within) as limit:
                return await self._pull(
                    ref, holders, where, within, lambda: limit.reschedule(now() + within)
                )
        except TimeoutError as error:
            what = f"nothing of it came for {within:g} seconds"
            raise TransportError.of("QRES-E905", where, what) from error

    async def _pull(
        self,
        ref: BlobRef,
        holders: Sequence[NodeId],
        where: str,
        within: float,
        alive: Callable[[], None],
    ) -> bytes:
        asked = list(dict.fromkeys(holders))
        asked[1:] = _CHANCE.sample(asked[1:], len(asked[1:]))  # the first one knows why it is
        ready: list[NodeId] = []
        with self._store.filling(ref, fetched=True):
            held = self._store.held(ref)  # of an earlier try, or from before a restart
            order = [index for index in range(len(ref.chunks)) if index not in held]
            # Each receiver has an order of its own: so they have different chunks for each other.
            pull = _BlobFetch(ref, deque(_CHANCE.sample(order, len(order))), within, alive)
            for attempt in range(ATTEMPTS):
                if pull.whole.is_set():
                    break
                if attempt:
                    await asyncio.sleep(PAUSE_SECONDS)
                ready = [node for node in asked if self._is_up(node) and node not in pull.lied]
                if not ready:
                    break
                await self._ask_all(pull, ready)
            if pull.displaced:
                raise TransportError.of("QRES-E905", where, DISPLACED)
            if pull.whole.is_set():
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
        """Ask holders until all of it is here; nobody waits for those that say nothing."""
        asking = asyncio.create_task(self._ask_in_turn(pull, deque(holders)))
        whole = asyncio.create_task(pull.whole.wait())
        try:
            await asyncio.wait((asking, whole), return_when=asyncio.FIRST_COMPLETED)
        finally:
            whole.cancel()
            asking.cancel()
            await asyncio.wait((asking, whole))
        if not asking.cancelled():
            asking.result()

    async def _ask_in_turn(self, pull: _BlobFetch, waiting: deque[NodeId]) -> None:
        """Ask a few holders at once, each next one when another has failed, or is late."""
        now = asyncio.get_running_loop().time
        sources: dict[NodeId, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while waiting:
                busy = [
                    holder
                    for holder, source in sources.items()
                    if not source.done() and not pull.keeps_waiting(holder, now())
                ]
                if len(busy) < self._options.blob_sources:
                    holder = waiting.popleft()
                    sources[holder] = group.create_task(self._ask_one(pull, holder))
                else:
                    await asyncio.sleep(LOOK_SECONDS)

    async def _ask_one(self, pull: _BlobFetch, holder: NodeId) -> None:
        """Have a holder asked for several chunks at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.blob_window):
                group.create_task(self._ask(pull, holder))

    async def _ask(self, pull: _BlobFetch, holder: NodeId) -> None:
        """Take chunks from one holder until there are none to take, or it fails."""
        misses, now = 0, asyncio.get_running_loop().time
        while holder not in pull.lied and misses <= MISSES:
            began = now()
            index = pull.take(holder, began)
            if index is None:
                await asyncio.sleep(LOOK_SECONDS)  # the rest is on its way from others
                continue
            question = pull.ref.root + index.to_bytes(4, "big")
            try:
                status, data = await self._exchanges.ask(
                    holder, CHUNK_OF, question, self._options.read_seconds, "blob"
                )
                if status == ANSWERED and self._accept(pull, holder, index, data, now() - began):
                    misses = 0
                    continue
            except TransportError:
                return
            finally:
                pull.back(index, holder)
            misses += 1
            await asyncio.sleep(MISS_SECONDS * misses)  # it may be fetching too

    def _accept(
        self, pull: _BlobFetch, holder: NodeId, index: int, data: bytes, took: float
    ) -> bool:
        """Keep a chunk that is what it should be."""
        if hashlib.sha256(data).digest() != pull.ref.chunks[index]:
            if holder not in pull.lied:
                pull.lied.add(holder)
                self._exchanges.accuse(holder, "another chunk than that which was asked for")
            return False
        self._tally.bytes_received += len(data)
        if index in pull.wanted:  # else another holder was faster
            if not self._store.put(pull.ref, index, data):
                pull.displaced = True
                pull.whole.set()
                return True
            pull.came(index, took)
        return True
