"""Blobs: whoever wants one asks for its pieces, several at once, of several holders at once.

A question is a blob's root, the number of a chunk in 4 bytes, and that of a piece of it in 1 byte.
All pieces of a chunk are asked of one holder, so it is known who lied where the chunk is not what
was announced. Chunks are checked when they are whole, and then served to others. A pull lives while
something of it comes, and what came is kept for the next one. A holder that keeps a chunk waiting
does not keep the blob waiting: another one is asked for it beside.

How many pieces are asked of a holder at once follows from how long they take: more while they come
soon, fewer where they queue. So about two seconds' worth of bytes are on their way from it, on a
fast line and on a slow one, and a holder that gives slowly has no share in what others give.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
from qres_carrier import DISPLACED, UNWRITTEN, SharedBlobStore, Tally, TokenBucket

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef
from qres_transport_grpc.exchanges import ABSENT, ANSWERED, AskedPiece, Exchanges
from qres_transport_grpc.options import GrpcOptions

PIECE: Final = 2**17
"""Bytes of every piece of a chunk but the last: half a second of a line of 2 Mbit/s."""
PIECES: Final = CHUNK // PIECE
"""Of a whole chunk."""
QUESTION_BYTES: Final = 37
ATTEMPTS: Final = 3
"""How often all holders are asked, where none of them sends and none of them lies."""
PAUSE_SECONDS: Final = 0.5
MISSES: Final = 6
MISS_SECONDS: Final = 0.03
LOOK_SECONDS: Final = 0.05
DOUBLINGS: Final = 4
TURN: Final = 0.25
"""After what part of the pull's patience another holder is asked for a chunk too."""
SLOWER: Final = 2.0
"""Or after this many times what pieces take, if that is longer: on a slow line all of them do."""
FIRST_PIECES: Final = 2
"""Asked at once of a holder that gave nothing yet."""
SOON_SECONDS: Final = 1.5
LATE_SECONDS: Final = 3.0
"""A piece that comes sooner makes room for one more; one that comes later takes that of one away,
once for all that are on their way. Between them are two seconds."""
TWICE: Final = 2
"""How often a piece of a holder keeps a pull alive: a link may break in the middle of a chunk."""
TIMES: Final = 4
"""How often a node may be sent all of a blob at once: a link may break, and what it lost counts."""
AGAIN_SECONDS: Final = 120.0
"""After which it may be sent all of it once more."""
FEW: Final = 256
"""Buckets among which no full ones are looked for."""
KEPT: Final = 16
"""Chunks of which pieces are kept that no pull wants now."""

_CHANCE: Final = random.SystemRandom()


@attrs.define(eq=False)
class HolderPace:
    """Number of pieces that are asked of a holder at once."""

    most: int
    size: int = FIRST_PIECES
    flying: int = 0
    shrunk: float = -math.inf  # when the size fell last

    @property
    def full(self) -> bool:
        """True if nothing more is asked of it now."""
        return self.flying >= self.size

    def came(self, took: float, now: float) -> None:
        """A piece came after so many seconds; it still counts as flying.

        What was asked for before the size fell is late for the same reason, and says nothing new.
        """
        if took < SOON_SECONDS and self.full:
            self.size = min(self.most, self.size + 1)
        elif took > LATE_SECONDS and now - took >= self.shrunk:
            self.size, self.shrunk = max(1, self.size - 1), now


@attrs.define(eq=False)
class _Pieces:
    """Pieces of one chunk by one holder."""

    length: int  # of the chunk, in bytes
    asked: float  # when it was asked for
    came: float = -math.inf  # when the last of it came
    count: int = attrs.field(init=False)
    todo: deque[int] = attrs.field(init=False)  # pieces that were not asked for
    here: dict[int, bytes] = attrs.field(factory=dict[int, bytes])

    def __attrs_post_init__(self) -> None:
        self.count = -(-self.length // PIECE)
        self.todo = deque(range(self.count))

    def fits(self, piece: int, data: bytes) -> bool:
        """True if a piece has the length of that piece."""
        return len(data) == min(PIECE, self.length - piece * PIECE)

    @property
    def since(self) -> float:
        """Time of its last move."""
        return max(self.asked, self.came)


def _moved(asked: Mapping[NodeId, _Pieces]) -> float:
    """Time when the last of a chunk came from anybody, or it was asked for first."""
    first = min(parts.asked for parts in asked.values())
    return max(first, *(parts.came for parts in asked.values()))


PartKey = tuple[bytes, int, NodeId]
"""A blob's root, a chunk and who gives it."""


@attrs.define(eq=False)
class _Asked:
    key: PartKey
    item: AskedPiece
    counts: bool = True  # as asked of its holder


@attrs.define(eq=False)
class _BlobFetch:
    """One blob on its way in."""

    ref: BlobRef
    missing: deque[int]  # chunks that nobody is asked for now
    within: float  # seconds that may pass without anything of it
    alive: Callable[[], None]  # told whenever a piece came
    wanted: set[int] = attrs.field(init=False)  # chunks that are not here
    # chunks that were asked for, and of whom
    flying: dict[int, dict[NodeId, _Pieces]] = attrs.field(factory=dict[int, dict[NodeId, _Pieces]])
    holders: list[NodeId] = attrs.field(factory=list[NodeId])  # that did not fail
    lied: set[NodeId] = attrs.field(factory=set[NodeId])
    misses: Counter[NodeId] = attrs.field(factory=Counter[NodeId])
    rests: dict[NodeId, float] = attrs.field(factory=dict[NodeId, float])  # till when
    took: float = 0.0  # seconds that a piece takes, smoothed; 0 before the first
    # how often each piece of a chunk came from each holder
    seen: Counter[tuple[NodeId, int, int]] = attrs.field(factory=Counter[tuple[NodeId, int, int]])
    over: asyncio.Event = attrs.field(factory=asyncio.Event)
    displaced: bool = False  # its room was given to blobs that come faster

    def __attrs_post_init__(self) -> None:
        self.wanted = set(self.missing)

    @property
    def turn(self) -> float:
        """Seconds after which a chunk is late."""
        return max(TURN * self.within, SLOWER * self.took)

    def begin(self, holders: Sequence[NodeId]) -> None:
        """Ask these holders from now on."""
        self.holders = list(holders)
        self.misses.clear()
        self.over.clear()
        self.look()

    def look(self) -> None:
        """See whether there is nothing more to do."""
        if not self.wanted or not self.holders or self.displaced:
            self.over.set()

    def sources(self, most: int, now: float, full: Callable[[NodeId], bool]) -> list[NodeId]:
        """Holders to ask now: a few, and one more for each that keeps a chunk waiting.

        ``full``: whether as much is asked of a holder already as may be, of whatever blob.
        """
        chosen: list[NodeId] = []
        busy = 0
        for holder in self.holders:
            if busy >= most:
                break
            gives = any(holder in asked for asked in self.flying.values())
            busy += (gives or not full(holder)) and not self.keeps_waiting(holder, now)
            if self.rests.get(holder, 0.0) <= now:
                chosen.append(holder)
        return chosen

    def take(
        self, holder: NodeId, now: float, parts: Callable[[int, NodeId], _Pieces]
    ) -> tuple[int, int] | None:
        """The next piece to ask a holder for.

        It is of a chunk that the holder gives already, or that nobody is asked for, or that is
        late. ``parts``: what came of a chunk from a holder.
        """
        for index, asked in self.flying.items():
            if holder in asked and asked[holder].todo:
                return index, asked[holder].todo.popleft()
        while (chunk := self._next(holder, now)) is not None:
            found = self.flying.setdefault(chunk, {})[holder] = parts(chunk, holder)
            found.asked = now
            if found.todo:
                return chunk, found.todo.popleft()
        return None

    def _next(self, holder: NodeId, now: float) -> int | None:
        if self.missing:
            return self.missing.popleft()
        if self.keeps_waiting(holder, now):
            return None
        late = [
            (since, index)
            for index, asked in self.flying.items()
            if holder not in asked and len(asked) < self._most(now - (since := _moved(asked)))
        ]
        return min(late)[1] if late else None

    def _most(self, age: float) -> int:
        """Holders that may be asked for a chunk of some age: twice as many after every turn."""
        return 1 << min(DOUBLINGS, int(age / self.turn))

    def keeps_waiting(self, holder: NodeId, now: float) -> bool:
        """True if a holder is late with a chunk."""
        return any(
            now - asked[holder].since > self.turn
            for asked in self.flying.values()
            if holder in asked
        )

    def came(self, took: float, holder: NodeId, index: int, piece: int) -> None:
        """A piece is here; one that a holder gives again and again keeps no pull alive."""
        self.took = 0.8 * (self.took or took) + 0.2 * took
        self.seen[holder, index, piece] += 1
        if self.seen[holder, index, piece] <= TWICE:
            self.alive()

    def lies(self, holder: NodeId) -> bool:
        """A holder sent something else, and is asked no more; whether that is news."""
        if holder in self.lied:
            return False
        self.lied.add(holder)
        self.fail(holder)
        return True

    def done(self, index: int) -> None:
        """A chunk is here."""
        self.wanted.discard(index)
        self.flying.pop(index, None)
        if index in self.missing:
            self.missing.remove(index)
        self.look()

    def back(self, index: int, holder: NodeId) -> None:
        """A holder does not give a chunk."""
        asked = self.flying.get(index, {})
        if asked.pop(holder, None) is not None and not asked:
            del self.flying[index]
            if index in self.wanted:
                self.missing.append(index)

    def miss(self, index: int, holder: NodeId, now: float) -> None:
        """A holder does not have a chunk; it may be fetching too."""
        if holder in self.flying.get(index, {}):
            self.back(index, holder)
            self.misses[holder] += 1
            self.rests[holder] = now + MISS_SECONDS * self.misses[holder]
            if self.misses[holder] > MISSES:
                self.fail(holder)

    def fail(self, holder: NodeId) -> None:
        """A holder is asked no more."""
        for index in list(self.flying):
            self.back(index, holder)
        if holder in self.holders:
            self.holders.remove(holder)
        self.look()


class PieceService:
    """Serves pieces of chunks out of a store."""

    def __init__(self, store: SharedBlobStore) -> None:
        self._store = store
        self._sent: dict[tuple[NodeId, bytes], TokenBucket] = {}  # of bytes, of each blob
        self._many = FEW  # buckets, of which full ones are let go next

    def allows(self, node: NodeId, question: bytes) -> bool:
        """True if a node may be sent another piece of a blob, or was sent it several times.

        It is asked before the piece is read: a question costs far less than its answer.
        """
        root = question[:32]
        size = self._store.size(root)
        if not size:
            return True  # there is nothing to send
        found = self._sent.get((node, root))
        if found is None:
            if len(self._sent) >= self._many:
                self._sent = {key: kept for key, kept in self._sent.items() if not kept.full}
                self._many = max(FEW, 2 * len(self._sent))
            found = self._sent[node, root] = TokenBucket(size / AGAIN_SECONDS, TIMES * size)
        return found.take(min(PIECE, size))

    def answer(self, question: bytes) -> tuple[int, bytes]:
        """The piece that was asked for, if it is here."""
        if len(question) != QUESTION_BYTES:
            return ABSENT, b""
        data = self._store.chunk(question[:32], int.from_bytes(question[32:36], "big"))
        piece = b"" if data is None else data[question[36] * PIECE : (question[36] + 1) * PIECE]
        return (ANSWERED, piece) if piece else (ABSENT, b"")


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
        self._pulls: deque[_BlobFetch] = deque()
        self._paces: dict[NodeId, HolderPace] = {}
        self._parts: OrderedDict[PartKey, _Pieces] = OrderedDict()
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count()
        self._going = False

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

                def alive() -> None:
                    if not limit.expired():
                        limit.reschedule(now() + within)

                return await self._pull(ref, holders, where, within, alive)
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
            self._pulls.append(pull)
            try:
                self._take_kept(pull)
                for attempt in range(ATTEMPTS):
                    if not pull.wanted or pull.displaced:
                        break
                    if attempt:
                        await asyncio.sleep(PAUSE_SECONDS)
                    ready = [node for node in asked if self._is_up(node) and node not in pull.lied]
                    if not ready:
                        break
                    pull.begin(ready)
                    await self._all_asked(pull)
            finally:
                self._pulls.remove(pull)
                self._leave(ref.root)
            if pull.displaced:
                raise TransportError.of("QRES-E905", where, DISPLACED)
            if not pull.wanted:
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

    async def _all_asked(self, pull: _BlobFetch) -> None:
        """Ask holders until all of it is here, or none is left; nobody waits for the silent."""
        while not pull.over.is_set():
            self._go_on()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):  # a chunk may be late by then
                    await pull.over.wait()

    # ── what came before ──────────────────────────────────────────────────────────────────────

    def _take_kept(self, pull: _BlobFetch) -> None:
        """Use what came for an earlier pull of the blob, after its end too."""
        for key, parts in list(self._parts.items()):
            # A chunk that is kept takes what others gave of it along.
            if key[0] == pull.ref.root and len(parts.here) == parts.count and key in self._parts:
                self._check(key, parts)

    def _leave(self, root: bytes) -> None:
        """A pull is over: what was asked for may still come, and is not asked for again."""
        wanted = {pull.ref.root for pull in self._pulls}
        if root in wanted:
            return
        for asked in self._asked.values():
            if asked.key[0] == root:
                asked.item.wanted = False
                self._pace(asked.key[2]).flying -= asked.counts  # others are not to wait for it
                asked.counts = False
        whole = self._store.whole(root)
        idle = [key for key in self._parts if key[0] not in wanted]
        kept = [key for key in idle if not (whole and key[0] == root)][-KEPT:]
        for key in idle:
            if key not in kept:
                del self._parts[key]

    # ── asking ────────────────────────────────────────────────────────────────────────────────

    def _go_on(self) -> None:
        """Ask for as many pieces as there is room for; pulls take turns."""
        if self._going:  # a link that is over says so in the middle of it
            return
        self._going = True
        try:
            now, idle = asyncio.get_running_loop().time(), 0
            while idle < len(self._pulls):
                pull = self._pulls[0]
                self._pulls.rotate(-1)
                idle = 0 if self._ask_next(pull, now) else idle + 1
        finally:
            self._going = False

    def _pace(self, holder: NodeId) -> HolderPace:
        if holder not in self._paces:
            self._paces[holder] = HolderPace(self._options.blob_window * PIECES)
        return self._paces[holder]

    def _ask_next(self, pull: _BlobFetch, now: float) -> bool:
        """Ask for one more piece of a blob, of the holder of whom least is asked."""
        if pull.over.is_set():
            return False
        sources = pull.sources(
            self._options.blob_sources, now, lambda holder: self._pace(holder).full
        )
        for holder in sorted(sources, key=lambda holder: self._pace(holder).flying):
            pace = self._pace(holder)
            if pace.full:
                continue
            unit = pull.take(holder, now, partial(self._begun, pull.ref, now))
            if unit is not None:
                self._ask(pull, holder, *unit)
                return True
        return False

    def _begun(self, ref: BlobRef, now: float, index: int, holder: NodeId) -> _Pieces:
        """Pieces of a chunk by a holder; those it was asked for and may come are waited for."""
        key = (ref.root, index, holder)
        if key not in self._parts:
            self._parts[key] = _Pieces(ref.length(index), now)
        self._parts.move_to_end(key)
        for asked in self._asked.values():
            if asked.key == key:
                asked.item.wanted = True
                self._pace(holder).flying += not asked.counts
                asked.counts = True
        return self._parts[key]

    def _ask(self, pull: _BlobFetch, holder: NodeId, index: int, piece: int) -> None:
        root = pull.ref.root
        key = (root, index, holder)
        question = root + index.to_bytes(4, "big") + bytes([piece])
        number = next(self._numbers)
        item = self._exchanges.want(holder, question, partial(self._came, number, piece))
        if item is None:
            self._parts.pop(key, None)
            pull.fail(holder)
            return
        self._asked[number] = _Asked(key, item)
        self._pace(holder).flying += 1

    # ── what comes ────────────────────────────────────────────────────────────────────────────

    def _came(self, number: int, piece: int, status: int, data: bytes, took: float) -> None:
        """A piece came, or does not; perhaps after the pull's end."""
        asked = self._asked.pop(number)
        key = root, index, holder = asked.key
        pace, parts = self._pace(holder), self._parts.get(key)
        pulls = [pull for pull in self._pulls if pull.ref.root == root]
        if status == ANSWERED:
            pace.came(took, asyncio.get_running_loop().time())
        pace.flying -= asked.counts
        if status != ANSWERED:
            self._parts.pop(key, None)  # it is asked for anew
            now, up = asyncio.get_running_loop().time(), self._is_up(holder)
            for pull in pulls:
                if up:
                    pull.miss(index, holder, now)
                else:
                    pull.fail(holder)
        elif parts is not None and not parts.fits(piece, data):
            del self._parts[key]
            self._lied(pulls, holder)
        elif parts is not None and piece not in parts.here:
            parts.here[piece] = data
            parts.came = asyncio.get_running_loop().time()
            for pull in pulls:
                pull.came(took, holder, index, piece)
            if len(parts.here) == parts.count and pulls:
                self._check(key, parts)
        self._go_on()

    def _lied(self, pulls: Sequence[_BlobFetch], holder: NodeId) -> None:
        """A holder sent what is not of the blob."""
        news = [pull for pull in pulls if pull.lies(holder)]
        if news:
            self._exchanges.accuse(holder, "another chunk than that which was asked for")

    def _check(self, key: PartKey, parts: _Pieces) -> None:
        """Keep a chunk whose pieces are all here, if it is what it should be."""
        root, index, holder = key
        pulls = [pull for pull in self._pulls if pull.ref.root == root]
        data = b"".join(parts.here[piece] for piece in range(parts.count))
        del self._parts[key]
        if hashlib.sha256(data).digest() != pulls[0].ref.chunks[index]:
            self._lied(pulls, holder)
            return
        for pull in pulls:
            pull.misses.pop(holder, None)
        self._tally.bytes_received += len(data)
        if all(index not in pull.wanted for pull in pulls):
            return  # another holder was faster
        put = self._store.put(pulls[0].ref, index, data)
        for pull in pulls:
            if put:
                pull.done(index)
            else:
                pull.displaced = True
                pull.look()
        for other in [it for it in self._parts if it[:2] == (root, index)]:
            del self._parts[other]
        for asked in self._asked.values():
            if asked.key[:2] == (root, index):
                asked.item.wanted = False
