"""Frames of any size over a transport that carries small ones, and blobs.

A frame within ``limits.frame`` travels as it is. A larger one is published as a blob and announced
by a small frame; who gets the announcement pulls the blob, so that each receiver sets its own pace
and nobody is sent megabytes it did not ask for::

    broadcast ──► small? ──► transport.broadcast
                  large? ──► publish_blob ──► transport.broadcast(announcement)

    transport.receive ──► message ─────────────────────────────────────► take
                          announcement ──► queue of its source ──► pull ──► take

The source is the author where the transport proves one, else the link. Each has a short queue, from
which one blob at a time is pulled, so what a source announces delays no other. What a link passes
on of others waits in a queue of the link: it may be of long ago, and nobody has it, so it must not
delay what its author announces now. Of the slots in which blobs are pulled, two for every liar, one
for each of its queues, are counted as lost to it. The others are as many as the
line bears: a little more of them with every blob that comes, and half as many when one stalls while
nothing else comes. A
pull has no end while something of it comes, and the next one has what came of it. A frame is as old
as its announcement, which names each byte of it: how long a line takes for it makes nothing stale.

A small frame stands for a large one::

    00 [size, hashes of the chunks]    for everybody: whoever has it may be asked
    01 [size, hashes of the chunks]    for the receiver alone: only the sender is asked

in deterministic CBOR after the first byte, hashes joined. A message of the swarm begins with the
head of a map, so the first byte tells the two apart and small messages travel as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, TypeAlias

import anyio
import attrs
from anyio.abc import TaskGroup

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError, QresError, RoundError, TransportError, WireError
from qres_core.contract.transport import CHUNK, BlobRef, Delivery, Transport
from qres_core.contract.types import DIGEST_BYTES, NodeId
from qres_core.kernel.config import SwarmConfig

PULLS: Final = 4
"""Blobs pulled at once at first, beside those of liars; of large ones never more: all in memory."""
MOST_PULLS: Final = 16
"""Small blobs pulled at once at most: over a long line most of a pull is waiting."""
PULLED_BYTES: Final = 2**26
"""Blobs are small if so many of them take no more than this together."""
PENDING: Final = 8
"""Announcements of one source that may wait: as many messages of the largest size as an outbox
holds."""
PASSED_ON: Final = 64
"""Announcements of others that one link passed on that may wait."""
SOURCES: Final = 1024
"""Sources that may have something waiting; each costs a task."""
OTHERS: Final = 8
"""Neighbours asked for a blob that its sender does not give."""
PULL_SECONDS: Final = 10.0
"""How long nothing may come of a blob, from the sender and then again from the others."""
LONGEST_PULL: Final = 60.0
"""The same, of a source whose last blobs stalled: it doubles each time, and may just be slow."""
PAUSES: Final = (0.5, 2.0, 8.0)
"""Seconds until a blob is asked for again that nobody had, or that its source announced itself and
that stalled. Where its author is no neighbour, those who passed its announcement on have yet to
pull it themselves; and a line may be full for longer than the patience, which grows each time."""
KNOWN: Final = 4096
"""Frames that are remembered by link and root, so that each is handed on once for each link."""

Take: TypeAlias = Callable[[Delivery], Awaitable[None]]


@attrs.define(eq=False)
class Pulls:
    """Fates of large frames."""

    announced: int = 0  # large frames sent
    pulled: int = 0  # large frames received
    repeated: int = 0  # announcements that the same link had delivered already
    failed: int = 0  # times that nobody gave a frame whole and in time
    dropped: int = 0  # announcements for which there was no room
    # announcements that are none; handed on, to be refused as any malformed frame
    malformed: int = 0


@attrs.define(eq=False)
class PullPace:
    """Number of blobs pulled at once, and the time for which nothing may come of each."""

    spare: int  # slots that count as lost to liars
    budget: int = 0  # bytes of memory for blobs that are pulled at once; 0 for no limit
    at_once: float = attrs.field(factory=lambda: float(PULLS))  # the others
    count: int = attrs.field(default=0, init=False)  # blobs that came whole
    slots: anyio.CapacityLimiter = attrs.field(init=False)
    large: anyio.CapacityLimiter = attrs.field(init=False)  # those that large blobs may have
    _patience: dict[NodeId, float] = attrs.field(factory=dict[NodeId, float])

    def __attrs_post_init__(self) -> None:
        self.slots = anyio.CapacityLimiter(self._places)
        self.large = anyio.CapacityLimiter(PULLS + self.spare)

    @asynccontextmanager
    async def slot(self, size: int) -> AsyncGenerator[None]:
        """A slot for a blob of so many bytes: small ones that came make room for small ones."""
        async with AsyncExitStack() as stack:
            if size * PULLS > self._together:
                self.large.total_tokens = self.spare + self._large_at_once(size)
                await stack.enter_async_context(self.large)
            await stack.enter_async_context(self.slots)
            yield

    @property
    def _together(self) -> int:
        """Bytes that small blobs may take together."""
        return min(PULLED_BYTES, self.budget) if self.budget else PULLED_BYTES

    def _large_at_once(self, size: int) -> int:
        """Number of blobs of a size in memory at once, beside those of liars; at least one."""
        return max(1, min(PULLS, self.budget // size)) if self.budget else PULLS

    @property
    def _places(self) -> int:
        return int(self.at_once) + self.spare

    def patience(self, source: NodeId) -> float:
        """Seconds without anything of a blob."""
        return self._patience.get(source, PULL_SECONDS)

    def came(self, source: NodeId, size: int) -> None:
        """A blob of so many bytes came whole."""
        self.count += 1
        self._patience.pop(source, None)
        most = max(PULLS, min(MOST_PULLS, self._together // max(1, size)))
        self.at_once = min(float(most), self.at_once + 1 / self.at_once)
        self.slots.total_tokens = self._places

    def stalled(self, source: NodeId, count: int) -> None:
        """Of one nothing came any more; ``count`` is of when it was begun.

        If others came meanwhile, the line is not what it stalled for.
        """
        self._patience[source] = min(LONGEST_PULL, 2 * self.patience(source))
        while len(self._patience) > SOURCES:
            del self._patience[next(iter(self._patience))]
        if count < self.count:
            return
        self.at_once = max(1.0, self.at_once / 2)
        self.slots.total_tokens = self._places


@attrs.frozen
class _Waiting:
    """An announcement that was delivered, to be pulled."""

    announce: Announce
    link: NodeId
    author: NodeId | None
    since: float = attrs.field(eq=False)  # on the event loop's clock

    @property
    def source(self) -> NodeId:
        return self.author or self.link

    @property
    def own(self) -> bool:
        """True if the link is the source."""
        return self.source == self.link

    @property
    def queue(self) -> tuple[NodeId, bool]:
        return self.link, self.own

    @property
    def root(self) -> bytes:
        return self.announce.ref.root


@attrs.define(eq=False)
class Carrier:
    """Carries the frames of one node."""

    transport: Transport  # carries frames and blobs
    max_bytes: int  # largest frame, ``swarm.max_message_bytes``
    liars: int = 0  # nodes that may announce what they never give, ``swarm.byzantine``
    budget: int = 0  # bytes of memory for blobs that are pulled at once; 0 for no limit
    pulls: Pulls = attrs.field(factory=Pulls, init=False)  # counts
    # by link, and whether it is the source
    _queues: dict[tuple[NodeId, bool], deque[_Waiting]] = attrs.field(
        factory=dict[tuple[NodeId, bool], deque[_Waiting]], init=False
    )
    _active: dict[bytes, anyio.Event] = attrs.field(factory=dict[bytes, anyio.Event], init=False)
    _known: dict[tuple[NodeId, bytes], None] = attrs.field(
        factory=dict[tuple[NodeId, bytes], None], init=False
    )
    _pace: PullPace = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pace = PullPace(2 * self.liars, self.budget)

    @classmethod
    def of(cls, transport: Transport, swarm: SwarmConfig) -> Carrier:
        """Of a node of a swarm."""
        return cls(transport, swarm.max_message_bytes, swarm.byzantine, swarm.memory // 2)

    def check(self) -> None:
        """See that the transport can carry every frame.

        Raises ConfigError: QRES-E105 where ``swarm.max_message_bytes`` is more than it can.
        """
        limits = self.transport.limits
        if self.max_bytes <= limits.frame:
            return
        if self.max_bytes > limits.blob:
            what = f"{self.max_bytes}, and the transport carries {limits.blob} bytes at most"
        elif announce_bytes(self.max_bytes) > limits.frame:
            size = announce_bytes(self.max_bytes)
            what = f"{self.max_bytes}, announced in {size} bytes; the transport's frames hold "
            what += f"{limits.frame}"
        else:
            return
        fix = "lower swarm.max_message_bytes, on every node, or raise the transport's limit"
        raise ConfigError.of("QRES-E105", "swarm.max_message_bytes", what, fix)

    def arriving(self) -> frozenset[NodeId]:
        """Sources of large frames that were announced, are not here yet, and may come."""
        return frozenset(item.source for queue in self._queues.values() for item in queue)

    # ── out ───────────────────────────────────────────────────────────────────────────────────

    async def broadcast(self, frame: bytes) -> None:
        """Send to every other node, best effort. Raises what the transport does."""
        await self.transport.broadcast(await self._small(frame, private=False))

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Send to one node, best effort. Raises what the transport does."""
        await self.transport.send(to, await self._small(frame, private=True))

    async def _small(self, frame: bytes, *, private: bool) -> bytes:
        limits = self.transport.limits
        if len(frame) <= min(limits.frame, limits.inline or limits.frame):
            return frame
        ref = await self.transport.publish_blob(frame)
        self.pulls.announced += 1
        return Announce(ref, private).to_bytes()

    # ── in ────────────────────────────────────────────────────────────────────────────────────

    async def listen(self, take: Take) -> None:
        """Receive until cancelled.

        ``take``: given every frame, also several at a time; it may wait, which holds up the
        transport for small frames and the link for large ones. Raises RoundError: QRES-E603, the
        transport's ``receive`` failed, or its ``fetch_blob`` in a way it should not. Raises
        Exception: what ``take`` raises.
        """
        async with task_group() as group:
            while True:
                with transport_errors("receive"):
                    delivery = await self.transport.receive()
                if not announces(delivery.frame):
                    await take(delivery)
                    continue
                try:
                    from_byte = Announce.from_bytes(delivery.frame, max_bytes=self.max_bytes)
                except WireError:
                    self.pulls.malformed += 1
                    await take(delivery)
                else:
                    waiting = _Waiting(
                        from_byte, delivery.link, delivery.author, anyio.current_time()
                    )
                    self._enqueue(group, waiting, take)

    def _enqueue(self, group: TaskGroup, waiting: _Waiting, take: Take) -> None:
        queue = self._queues.get(waiting.queue)
        # What another link announced is handed on again, as small frames are: were it not, a link
        # whose frames are refused could suppress those of others by repeating their announcements.
        if (waiting.link, waiting.root) in self._known or (queue is not None and waiting in queue):
            self.pulls.repeated += 1
        elif queue is None and len(self._queues) < SOURCES:
            queue = self._queues[waiting.queue] = deque((waiting,))
            group.start_soon(self._serve, waiting.queue, queue, take)
        elif queue is None or len(queue) >= (PENDING if waiting.queue[1] else PASSED_ON):
            self.pulls.dropped += 1
        else:
            queue.append(waiting)

    async def _serve(self, name: tuple[NodeId, bool], queue: deque[_Waiting], take: Take) -> None:
        """Pull what a link announced, or passed on, one after the other."""
        while queue:
            for pause in (*PAUSES, None):
                await self._await_others(queue[0])
                size = queue[0].announce.ref.size
                async with self._pace.slot(size):  # until it is handed on: all of it is in memory
                    found = await self._pull(queue[0], take)
                if found or pause is None:
                    break
                await anyio.sleep(pause)
            queue.popleft()
        del self._queues[name]

    async def _await_others(self, waiting: _Waiting) -> None:
        """Leave a blob to another source that is being asked for it, unless that keeps us waiting.

        Who repeats the announcements of others and gives nothing cannot hold them up for long.
        """
        active = self._active.get(waiting.root)
        if active is not None:
            with anyio.move_on_after(PULL_SECONDS / 4):
                await active.wait()

    async def _pull(self, waiting: _Waiting, take: Take) -> bool:
        """Pull a frame and hand it on; ``False`` if it is to be asked for again.

        Nobody had it, or it has no room, or it stalled. What stalls keeps only the queue of who
        announced it waiting, so what others announced and this link passed on is left at once.
        """
        done, count = anyio.Event(), self._pace.count
        self._active.setdefault(waiting.root, done)
        try:
            with transport_errors("fetch_blob"):
                frame = await self._ask(waiting)
        except TransportError as error:
            self.pulls.failed += 1
            if error.code == "QRES-E905":
                self._pace.stalled(waiting.link, count)
                return not waiting.own
            return error.code not in {"QRES-E902", "QRES-E904"}
        finally:
            done.set()
            if self._active.get(waiting.root) is done:
                del self._active[waiting.root]
        self.pulls.pulled += 1
        self._pace.came(waiting.link, len(frame))
        self._known[waiting.link, waiting.root] = None
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        waited = anyio.current_time() - waiting.since
        await take(Delivery(waiting.link, frame, waiting.author, waited))
        return True

    async def _ask(self, waiting: _Waiting) -> bytes:
        """The blob, from its source or else from others. Raises TransportError."""
        ref, within = waiting.announce.ref, self._pace.patience(waiting.link)
        # The author first: who passed the announcement on may not have pulled the blob yet.
        first = tuple(dict.fromkeys((waiting.source, waiting.link)))
        near = {peer.node_id for peer in self.transport.peers()}
        if waiting.source not in near and not waiting.announce.private:
            # Else who passed it on would be the only one asked, and may be slow on purpose.
            return await self.transport.fetch_blob(
                ref, first + self._others(waiting, first), within
            )
        try:
            return await self.transport.fetch_blob(ref, first, within)
        except TransportError as error:
            others = self._others(waiting, first)
            if waiting.announce.private or not others:
                raise
            # Whose line is full is asked on: others may not have the blob yet.
            asked = first + others if error.code == "QRES-E905" else others
        return await self.transport.fetch_blob(ref, asked, within)

    def _others(self, waiting: _Waiting, first: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        near = [peer.node_id for peer in self.transport.peers() if peer.node_id not in first]
        # From another neighbour on for each blob, so that not all ask the same one.
        start = int.from_bytes(waiting.root[:8], "big") % max(1, len(near))
        return tuple(near[start:] + near[:start])[:OTHERS]


_HEADS: Final = (b"\x00", b"\x01")
_ROOM: Final = 32
"""More than everything but the hashes takes."""


@attrs.frozen
class Announce:
    """A large frame, by name."""

    ref: BlobRef  # the blob that is the frame
    private: bool  # it was sent to one node, so nobody else is told its name

    def to_bytes(self) -> bytes:
        """Encode."""
        return _HEADS[self.private] + canonical.dumps([self.ref.size, b"".join(self.ref.chunks)])

    @classmethod
    def from_bytes(cls, frame: bytes, *, max_bytes: int) -> Announce:
        """Decode the announcement of a frame of at most ``max_bytes``.

        Raises WireError: QRES-E401 too large, or of too large a frame, QRES-E402 and QRES-E403
        malformed, QRES-E404 a field is invalid. Nothing else, whatever the bytes.
        """
        if not announces(frame):
            raise WireError.of("QRES-E402", "announce", "no announcement")
        value = canonical.loads(frame[1:], max_bytes=announce_bytes(max_bytes) - 1)
        if not canonical.is_list(value) or len(value) != 2:
            raise WireError.of("QRES-E404", "announce", "expected a size and hashes")
        size, hashes = value
        if type(size) is not int or type(hashes) is not bytes:
            raise WireError.of("QRES-E404", "announce", "expected a size and hashes")
        if size > max_bytes:
            raise WireError.of("QRES-E401", "announce", f"{size} bytes, limit {max_bytes}")
        starts = range(0, len(hashes), DIGEST_BYTES)
        try:
            ref = BlobRef(size, tuple(hashes[start : start + DIGEST_BYTES] for start in starts))
        except QresError as error:
            raise WireError.of("QRES-E404", "announce", str(error.problems[0].what)) from error
        return cls(ref, private=frame[:1] == _HEADS[1])


def announces(frame: bytes) -> bool:
    """True if a frame is meant as an announcement, and so cannot be a message."""
    return frame[:1] in _HEADS


def announce_bytes(size: int) -> int:
    """No announcement of a frame of ``size`` bytes is larger."""
    return _ROOM + DIGEST_BYTES * -(-size // CHUNK)


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """A task group that raises the one error that ended it as it is, not in a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as group_error:
        first, *others = group_error.exceptions
        if others:
            raise
        raise first from first.__cause__


@contextmanager
def transport_errors(doing: str) -> Generator[None]:
    """Give what a transport raises its name, QRES-E603."""
    try:
        yield
    except QresError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise RoundError.of("QRES-E603", f"transport.{doing}", what) from error
