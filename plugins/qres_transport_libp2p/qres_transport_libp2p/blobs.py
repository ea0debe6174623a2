"""Blobs: whoever wants one pulls its chunks, a few ahead of time, from several holders at once.

A request is a blob's root and the number of a chunk, in 4 bytes; an answer is a status byte and a
block. A stream carries any number of them, answered in order. Chunks are checked as they come, and
served to others as soon as they are. A pull lives while something of it comes; chunks that came are
kept for the next one, from whomever.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from qres_carrier import DISPLACED, UNWRITTEN, SharedBlobStore, TokenBucket

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef
from qres_transport_libp2p.clock import cancel_scope, patience, spawn
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.wire import (
    BadBytesError,
    BrokenStreamError,
    SlowPeerError,
    Wire,
    closing,
)

PROTOCOL: Final = TProtocol("/qres/blob/1")
REQUEST_BYTES: Final = 36
HERE: Final = b"\0"
ABSENT: Final = b"\1"
BUSY: Final = b"\2"
IDLE_SECONDS: Final = 30.0
PAUSES: Final = 3
"""How many times ``read_seconds`` a holder may take to begin: it may serve many others."""
PAUSE_SECONDS: Final = 0.5
MISSES: Final = 6
MISS_SECONDS: Final = 0.03
ATTEMPTS: Final = 3
"""How often all holders are asked, where none of them sends and none of them lies."""
HANDOVERS: Final = 3
"""How often, in one pull, a holder that has nothing to do takes over from one that brings too
little: each time what came of a chunk is lost."""
TIMES: Final = 4
"""How often a peer may be sent all of a blob at once: a line may break, and what it lost counts."""
AGAIN_SECONDS: Final = 120.0
"""After which it may be sent all of it once more."""
FEW: Final = 256
"""Buckets among which no full ones are looked for."""
ASKED_AGAIN: Final = "blob: asked for again and again"
TURN: Final = 0.25
"""After what part of the pull's patience."""

_CHANCE: Final = random.SystemRandom()


@attrs.define(eq=False)
class _Turn:
    """One holder at work."""

    since: float  # when it brought a chunk, or began
    flying: deque[int] = attrs.field(factory=deque[int])
    came: int = 0  # bytes, since then
    scope: trio.CancelScope = attrs.field(factory=cancel_scope)

    def begins(self, now: float) -> None:
        """It begins another chunk."""
        self.since, self.came = now, 0


@attrs.define(eq=False)
class _Fetch:
    """One blob on its way in."""

    ref: BlobRef
    missing: deque[int]
    alive: Callable[[], None]  # told whenever something came of what was asked for
    within: float  # seconds that may pass without
    least: float = 0.0  # bytes a second, of a holder that keeps what it was asked for
    lied: set[ID] = attrs.field(factory=set[ID])
    late: set[ID] = attrs.field(factory=set[ID])
    """Who took all the time there is for a chunk: each would be given the same again."""
    turns: list[_Turn] = attrs.field(factory=list[_Turn])
    handovers: int = 0
    left: int = 0
    displaced: bool = False
    """Whether its room was given to blobs that come faster."""

    def displace(self) -> None:
        """End all turns."""
        self.displaced, self.left = True, 0
        for turn in self.turns:
            turn.scope.cancel()

    def take_over(self, now: float) -> None:
        """End the turn of who has kept others waiting longest, if that is long.

        On a slow line a chunk takes long from whomever: who brings it as fast as may be keeps it.
        """
        slow = [
            turn
            for turn in self.turns
            if turn.flying
            and now - turn.since > TURN * self.within
            and turn.came < self.least * (now - turn.since)
        ]
        longest = min(slow, key=lambda turn: turn.since, default=None)
        if longest is None or self.handovers >= HANDOVERS:
            return
        self.handovers += 1
        longest.begins(now)
        longest.scope.cancel()
        self.alive()  # on a slow line the next one begins anew


class Blobs:
    """Fetches and serves.

    Args:
        sessions: who is admitted.
        options: limits.
        store: what is here.
    """

    def __init__(self, sessions: Sessions, options: Libp2pOptions, store: SharedBlobStore) -> None:
        self._sessions = sessions
        self._options = options
        self._store = store
        self._serving: Counter[ID] = Counter()
        self._sent: dict[tuple[ID, bytes], TokenBucket] = {}  # of bytes, to each peer of each blob
        self._many = FEW  # buckets, of which full ones are let go next
        self._fetching: dict[bytes, trio.Lock] = {}
        sessions.serve(PROTOCOL, self._serve)

    # ── serving ───────────────────────────────────────────────────────────────────────────────

    def publish(self, ref: BlobRef, data: bytes) -> None:
        """Hold a blob for others."""
        view = memoryview(data)
        with self._store.filling(ref):  # it counts as used now, also one that is here already
            if self._store.whole(ref.root):
                return
            for index in range(len(ref.chunks)):
                start = index * CHUNK
                if not self._store.put(ref, index, bytes(view[start : start + CHUNK])):
                    raise TransportError.of("QRES-E902", "blob", UNWRITTEN)

    async def _serve(self, link: PeerConnection, wire: Wire) -> None:
        peer = link.peer
        busy = (
            self._serving[peer] >= self._options.blob_streams_per_peer
            or self._serving.total() >= self._options.blob_streams_total
        )
        self._serving[peer] += 1
        try:
            if busy:
                await wire.send(b"", before=BUSY)
                return
            while True:
                asked = await wire.exactly(REQUEST_BYTES, IDLE_SECONDS)
                await self._answer(peer, asked[:32], int.from_bytes(asked[32:], "big"), wire)
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]

    async def _answer(self, peer: ID, root: bytes, index: int, wire: Wire) -> None:
        """Send a chunk that is here, unless the peer was sent the blob several times already."""
        data = self._store.chunk(root, index)
        if data is None:
            await wire.send(b"", before=ABSENT)
            return
        if not self._bucket(peer, root).take(len(data)):
            self._sessions.tally.drop(ASKED_AGAIN)
            await wire.send(b"", before=BUSY)
            return
        self._sessions.tally.bytes_sent += len(data)
        await wire.send(data, before=HERE)

    def _bucket(self, peer: ID, root: bytes) -> TokenBucket:
        """Allowance of a peer for a blob that is here.

        Full ones are worth nothing and are let go, whenever there are twice as many as then.
        """
        found = self._sent.get((peer, root))
        if found is None:
            if len(self._sent) >= self._many:
                self._sent = {key: kept for key, kept in self._sent.items() if not kept.full}
                self._many = max(FEW, 2 * len(self._sent))
            size = max(1, self._store.size(root))
            found = TokenBucket(size / AGAIN_SECONDS, TIMES * size, clock=trio.current_time)
            self._sent[peer, root] = found
        return found

    # ── fetching ──────────────────────────────────────────────────────────────────────────────

    async def fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob. Raises as :meth:`Transport.fetch_blob`."""
        lock = self._fetching.setdefault(ref.root, trio.Lock())
        where = f"blob {ref.root.hex()[:16]}"
        try:
            # Whoever pulls it already leaves what came, but may have been told of worse holders.
            with patience(within):
                await lock.acquire()
            mine = lock.statistics().owner is trio.lowlevel.current_task()
            try:
                return await self._have(ref, holders, where, within)
            finally:
                if mine:
                    lock.release()
        except TransportError:
            self._sessions.tally.blobs_failed += 1
            raise
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._fetching.pop(ref.root, None)

    async def _have(
        self, ref: BlobRef, holders: Sequence[NodeId], where: str, within: float
    ) -> bytes:
        data = self._store.read(ref)
        if data is None:
            data = await self._in_time(ref, holders, where, within)
            self._sessions.tally.blobs_fetched += 1
        return data

    async def _in_time(
        self, ref: BlobRef, holders: Sequence[NodeId], where: str, within: float
    ) -> bytes:
        with patience(within) as scope:

            def alive() -> None:
                scope.deadline = trio.current_time() + within

            # No chunk may take longer than the first of these allows, see ``Wire.exactly``.
            least = max(CHUNK / (10 * self._options.read_seconds), self._store.far_slower)
            return await self._pull(_Fetch(ref, deque(), alive, within, least), holders, where)
        raise TransportError.of("QRES-E905", where, f"nothing of it came for {within:g} seconds")

    async def _pull(self, fetch: _Fetch, holders: Sequence[NodeId], where: str) -> bytes:
        ref = fetch.ref
        peers = self._sessions.members.peers
        asked = list(dict.fromkeys(peers[node] for node in holders if node in peers))
        asked[1:] = _CHANCE.sample(asked[1:], len(asked[1:]))  # the first one knows why it is
        ready: list[ID] = []
        with self._store.filling(ref, fetched=True):
            missing = sorted(set(range(len(ref.chunks))) - self._store.held(ref))
            # Every receiver in an order of its own: then they have different chunks to give.
            fetch.missing.extend(_CHANCE.sample(missing, len(missing)))
            fetch.left = len(missing)
            for attempt in range(ATTEMPTS):
                if not fetch.left:
                    return self._whole(fetch, where)
                if attempt:
                    await trio.sleep(PAUSE_SECONDS)
                out = fetch.lied | fetch.late
                ready = [item for item in asked if self._sessions.is_up(item) and item not in out]
                if not ready:
                    break
                await self._ask_all(fetch, ready)
            if not fetch.left:
                return self._whole(fetch, where)
        if fetch.lied:
            what = f"{len(fetch.lied)} of {len(asked)} holders sent something else"
            raise TransportError.of("QRES-E906", where, what)
        if fetch.late:
            what = f"{len(fetch.late)} of {len(asked)} holders did not go on"
            raise TransportError.of("QRES-E905", where, what)
        what = "no holder is connected" if not ready else "no holder has all of it"
        raise TransportError.of("QRES-E904", where, what)

    def _whole(self, fetch: _Fetch, where: str) -> bytes:
        if fetch.displaced:
            raise TransportError.of("QRES-E905", where, DISPLACED)
        data = self._store.read(fetch.ref, check=False)
        if data is None:
            what = "the stored blob cannot be read"
            raise TransportError.of("QRES-E906", where, what)
        return data

    async def _ask_all(self, fetch: _Fetch, holders: Sequence[ID]) -> None:
        """Ask holders, a few at once, each next one when another has failed."""
        waiting = deque(holders)

        async def worker() -> None:
            while waiting and fetch.left:
                turn = _Turn(trio.current_time())
                fetch.turns.append(turn)
                with turn.scope:
                    await self._ask(fetch, waiting.popleft(), turn)
                fetch.turns.remove(turn)

        async with trio.open_nursery() as nursery:
            for _ in range(min(self._options.blob_sources, len(waiting))):
                spawn(nursery, worker)

    async def _ask(self, fetch: _Fetch, peer: ID, turn: _Turn) -> None:
        """Take chunks from one holder until there are none to take, or it fails."""
        flying = turn.flying
        misses, leaving = 0, False

        def came(octets: int) -> None:
            turn.came += octets
            fetch.alive()

        try:
            wire = await self._sessions.open(peer, PROTOCOL)
            async with closing(wire.stream):
                while fetch.left and (flying or not leaving):
                    if not flying:
                        turn.begins(trio.current_time())
                    if not leaving:
                        await self._request(fetch, wire, flying)
                    if not flying:
                        # The rest is on its way from others, who may yet fail.
                        fetch.take_over(trio.current_time())
                        await trio.sleep(0.02)
                        continue
                    status = await wire.exactly(
                        1, min(fetch.within, PAUSES * self._options.read_seconds)
                    )
                    data = await wire.block(CHUNK, progress=came)
                    if status == HERE:
                        self._take(fetch, flying[0], data)
                        flying.popleft()
                        misses = 0
                        turn.begins(trio.current_time())
                        continue
                    fetch.missing.append(flying.popleft())
                    misses += 1
                    # What has been asked for is still taken: it may be on its way.
                    leaving = leaving or status != ABSENT or misses > MISSES
                    if not leaving:
                        await trio.sleep(MISS_SECONDS * misses)  # it may be fetching too
        except BadBytesError as error:
            fetch.lied.add(peer)
            self._sessions.bad_peer(
                peer, f"{PROTOCOL}: {error}", f"malformed: {PROTOCOL}", error.reason
            )
        except SlowPeerError:
            fetch.late.add(peer)
        except BrokenStreamError:
            pass
        finally:
            fetch.missing.extendleft(reversed(flying))

    async def _request(self, fetch: _Fetch, wire: Wire, flying: deque[int]) -> None:
        asked = bytearray()
        while fetch.missing and len(flying) < self._options.blob_window:
            index = fetch.missing.popleft()
            flying.append(index)
            asked += fetch.ref.root + index.to_bytes(4, "big")
        if asked:
            await wire.write(bytes(asked))

    def _take(self, fetch: _Fetch, index: int, data: bytes) -> None:
        if hashlib.sha256(data).digest() != fetch.ref.chunks[index]:
            what = f"chunk {index} differs from the announced one"
            raise BadBytesError(what)
        if not self._store.put(fetch.ref, index, data):
            fetch.displace()
            return
        self._sessions.tally.bytes_received += len(data)
        fetch.left -= 1
