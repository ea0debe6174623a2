"""Duties of every transport, as tests to inherit."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

import anyio
import attrs

from qres_core.contract.errors import QresError, TransportError
from qres_core.contract.transport import (
    CHUNK,
    BlobRef,
    Delivery,
    PeerChange,
    Transport,
    TransportEvent,
)
from qres_core.contract.types import NODE_ID_BYTES, NodeId
from qres_core.contract.verdict import ACCEPT, Verdict, reject
from qres_lab.testing.rules import ContractViolationError, broken

Admission: TypeAlias = Callable[[NodeId, bytes], Verdict]

_ASYNCHRONOUS: Final = (
    "start",
    "broadcast",
    "send",
    "receive",
    "request",
    "publish_blob",
    "fetch_blob",
    "event",
    "aclose",
)
_PROTOCOL: Final = "/qres/contract/1"
_STRANGER: Final = b"\xa5" * NODE_ID_BYTES
_BLOB: Final = bytes(range(256)) * (5 * CHUNK // 512)
"""Two and a half chunks."""


def admit_everybody(peer: NodeId, credential: bytes) -> Verdict:
    """An admission that accepts every neighbour."""
    del peer, credential
    return ACCEPT


@attrs.frozen(eq=False)
class Endpoint:
    """One node's transport, and who that node is.

    Attributes:
        node_id: its identity, as its neighbours see it.
        transport: not started.
    """

    node_id: NodeId
    transport: Transport


async def _echo(asker: NodeId, data: bytes) -> bytes:
    return asker + data


def _violation(error: object) -> ContractViolationError | None:
    """The first violation in a group of errors."""
    if isinstance(error, ContractViolationError):
        return error
    for item in getattr(error, "exceptions", ()):
        found = _violation(item)
        if found is not None:
            return found
    return None


def _is_transport(made: object) -> bool:
    return isinstance(made, Transport)


class TransportContract:
    """Conformance suite of the ``transport`` hook.

    Every test makes transports that find each other over the loopback interface or in the process,
    runs them under ``anyio.run`` and closes them. Frames are best effort, so a test that waits for
    one sends it again until it comes.

    Example::

        class TestMine(TransportContract):
            def make(self, admissions):
                return [Endpoint(id, Mine(id, admission)) for id, admission in zip(IDS, admissions)]

            def spoil(self, endpoint, ref):
                endpoint.transport.blobs[ref.root] = bytes(ref.size)

    Attributes:
        patience: seconds within which connections are up and messages arrive; generous, for a
            machine that is busy with other things.
        flood: frames that are sent to a node that does not read. More than its queue holds.
        backend: of ``anyio.run``.
    """

    patience: ClassVar[float] = 30.0
    flood: ClassVar[int] = 5000
    backend: ClassVar[str] = "asyncio"

    def make(self, admissions: Sequence[Admission]) -> Sequence[Endpoint]:
        """For each admission a new transport that asks it, not started; all can find each other.

        Every call makes a swarm of its own, which no earlier one disturbs.
        """
        msg = f"{type(self).__name__} must define make()"
        raise NotImplementedError(msg)

    def spoil(self, endpoint: Endpoint, ref: BlobRef) -> None:
        """Have a node serve other bytes of the same length for a blob that it published."""
        msg = f"{type(self).__name__} must define spoil()"
        raise NotImplementedError(msg)

    # ── the rules ─────────────────────────────────────────────────────────────────────────────

    def test_trn_1_is_a_transport(self) -> None:
        """QRES-TRN-1: every method is there, what may wait is asynchronous, limits are numbers."""
        (end,) = self.make([admit_everybody])
        if not _is_transport(end.transport):
            broken("QRES-TRN-1", f"{type(end.transport).__name__} lacks methods of a Transport")
        if type(end.node_id) is not bytes or len(end.node_id) != NODE_ID_BYTES:
            broken("QRES-TRN-1", f"the identity is not {NODE_ID_BYTES} bytes")
        for name in _ASYNCHRONOUS:
            if not inspect.iscoroutinefunction(getattr(end.transport, name)):
                broken("QRES-TRN-1", f"{name} is not asynchronous")
        for field, limit in attrs.asdict(end.transport.limits).items():
            none = field == "inline" and limit == 0
            if type(limit) is not int or (limit < 1024 and not none):
                broken("QRES-TRN-1", f"limits.{field} is {limit!r}, not at least 1024 bytes")

    def test_trn_2_broadcasts(self) -> None:
        """QRES-TRN-2: a broadcast reaches all others, whole, and not its sender."""

        async def scene(*ends: Endpoint) -> None:
            first = ends[0]
            sizes = (1, 1000, first.transport.limits.frame)
            for frame in (b"\xab" * size for size in sizes):
                await self._all_hear("QRES-TRN-2", first, ends[1:], frame)
            with anyio.move_on_after(0.2):
                await first.transport.receive()
                broken("QRES-TRN-2", "the sender hears its own broadcast")

        self._play(3, scene)

    def test_trn_3_sends_to_one(self) -> None:
        """QRES-TRN-3: a frame for one node reaches it alone, and the link is who sent it."""

        async def scene(first: Endpoint, second: Endpoint, third: Endpoint) -> None:
            await first.transport.send(_STRANGER, b"nobody")
            for sender, to in ((first, second), (third, second), (second, first)):
                frame = b"from" + sender.node_id
                delivery = await self._hears("QRES-TRN-3", sender, to, frame)
                if delivery.link != sender.node_id:
                    broken("QRES-TRN-3", "the link is not the node that sent the frame")
            with anyio.move_on_after(0.2):
                await third.transport.receive()
                broken("QRES-TRN-3", "a frame for another node arrived")

        self._play(3, scene)

    def test_trn_4_refuses_what_is_too_large(self) -> None:
        """QRES-TRN-4: QRES-E901 above every limit, before anything is sent or asked."""

        async def scene(first: Endpoint, second: Endpoint) -> None:
            item, other = first.transport, second.node_id
            frame, request = bytes(item.limits.frame + 1), bytes(item.limits.request + 1)
            blob = bytes(item.limits.blob + 1)
            chunks = (bytes(32),) * -(-len(blob) // CHUNK)
            ref = BlobRef(len(blob), chunks)
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "broadcast": lambda: item.broadcast(frame),
                "send": lambda: item.send(other, frame),
                "request": lambda: item.request(other, _PROTOCOL, request, self.patience),
                "publish_blob": lambda: item.publish_blob(blob),
                "fetch_blob": lambda: item.fetch_blob(ref, [other], self.patience),
            }
            for name, call in calls.items():
                await self._refused("QRES-TRN-4", name, call, {"QRES-E901"})

        self._play(2, scene)

    def test_trn_5_answers_requests(self) -> None:
        """QRES-TRN-5: the handler gets the proved identity and the request, the asker its reply."""

        async def scene(*ends: Endpoint) -> None:
            first = ends[0]
            limit = first.transport.limits.request
            for size in (1, 1000, limit - NODE_ID_BYTES):
                for to in ends[1:]:
                    data = b"\x17" * size
                    reply = await first.transport.request(
                        to.node_id, _PROTOCOL, data, self.patience
                    )
                    if reply != first.node_id + data:
                        broken("QRES-TRN-5", f"another reply than the handler's, {size} bytes")

        self._play(3, scene, handlers={_PROTOCOL: _echo})

    def test_trn_6_requests_fail_by_name(self) -> None:
        """QRES-TRN-6: nobody there, no answer, a handler that raises: a TransportError in time."""

        async def slow(asker: NodeId, data: bytes) -> bytes:
            del asker
            await anyio.sleep(self.patience)
            return data

        async def fail(asker: NodeId, data: bytes) -> bytes:
            raise LookupError(asker, data)

        async def large(asker: NodeId, data: bytes) -> bytes:
            del asker
            return bytes(1 + int.from_bytes(data, "big"))

        async def scene(first: Endpoint, second: Endpoint) -> None:
            limit = first.transport.limits.request.to_bytes(8, "big")

            def ask(
                to: NodeId, protocol: str, within: float = self.patience
            ) -> Callable[[], Awaitable[object]]:
                return lambda: first.transport.request(to, protocol, limit, within)

            other = second.node_id
            cases = {
                "to nobody": (ask(_STRANGER, "/echo"), {"QRES-E904"}),
                "without an answer in time": (ask(other, "/slow", 0.5), {"QRES-E905"}),
                "whose handler raises": (ask(other, "/fail"), {"QRES-E907"}),
                "of a protocol without handler": (ask(other, "/none"), {"QRES-E907"}),
                "with too large a reply": (ask(other, "/large"), {"QRES-E901", "QRES-E907"}),
            }
            for what, (call, codes) in cases.items():
                await self._refused("QRES-TRN-6", f"a request {what}", call, codes)
                reply = await first.transport.request(other, "/echo", b"!", self.patience)
                if reply != first.node_id + b"!":
                    broken("QRES-TRN-6", f"after a request {what} none is answered")

        handlers = {"/slow": slow, "/fail": fail, "/large": large, "/echo": _echo}
        self._play(2, scene, handlers=handlers)

    def test_trn_7_carries_blobs(self) -> None:
        """QRES-TRN-7: a blob arrives whole, and who fetched it serves it when its author left."""

        async def scene(first: Endpoint, second: Endpoint, third: Endpoint) -> None:
            limit = first.transport.limits.blob
            for size in {1, min(CHUNK, limit), min(CHUNK + 1, limit), min(len(_BLOB), limit)}:
                ref = await first.transport.publish_blob(_BLOB[:size])
                if ref != BlobRef.of(_BLOB[:size]):
                    broken("QRES-TRN-7", "publish_blob names another blob")
                await self._fetches("QRES-TRN-7", second, ref, [first.node_id], _BLOB[:size])
            ref = await first.transport.publish_blob(_BLOB[: min(len(_BLOB), limit)])
            await first.transport.aclose()
            holders = [first.node_id, second.node_id]
            await self._fetches("QRES-TRN-7", third, ref, holders, _BLOB[: ref.size])

        self._play(3, scene)

    def test_trn_8_believes_no_holder(self) -> None:
        """QRES-TRN-8: a holder with other bytes is passed over; alone it is QRES-E906."""

        async def scene(first: Endpoint, second: Endpoint, third: Endpoint) -> None:
            blob = _BLOB[: min(len(_BLOB), first.transport.limits.blob)]
            ref = await first.transport.publish_blob(blob)
            await second.transport.publish_blob(blob)
            self.spoil(first, ref)
            alone = partial(third.transport.fetch_blob, ref, [first.node_id], self.patience)
            await self._refused("QRES-TRN-8", "a fetch from a liar", alone, {"QRES-E906"})
            holders = [first.node_id, second.node_id]
            await self._fetches("QRES-TRN-8", third, ref, holders, blob)

        self._play(3, scene)

    def test_trn_9_blobs_are_not_lost_in_silence(self) -> None:
        """QRES-TRN-9: a blob that nobody has, or nobody there, is a TransportError in time."""

        async def scene(first: Endpoint, second: Endpoint) -> None:
            ref = BlobRef.of(b"nobody has it")
            gone = {"QRES-E904"}
            for what, holders, codes in (
                ("from nobody", [], gone),
                ("from a stranger", [_STRANGER], gone),
                ("of what no holder has", [second.node_id], {"QRES-E904", "QRES-E906"}),
            ):
                call = partial(first.transport.fetch_blob, ref, holders, self.patience)
                await self._refused("QRES-TRN-9", f"a fetch {what}", call, codes)
            if first.transport.stats().blobs_failed < 1:
                broken("QRES-TRN-9", "stats().blobs_failed counts no fetch that failed")

        self._play(2, scene)

    def test_trn_10_knows_its_peers(self) -> None:
        """QRES-TRN-10: peers are complete and ascending; events tell who came, and who went why."""

        async def scene(first: Endpoint, second: Endpoint, third: Endpoint) -> None:
            ids = [peer.node_id for peer in first.transport.peers()]
            if ids != sorted({second.node_id, third.node_id}):
                broken("QRES-TRN-10", "peers() is not all others, ascending")
            others = {second.node_id, third.node_id}
            while others:
                event = await self._notices("QRES-TRN-10", first, PeerChange.UP, *others)
                others.discard(event.peer or b"")
            await third.transport.aclose()
            gone = await self._notices("QRES-TRN-10", first, PeerChange.DOWN, third.node_id)
            if gone.reason is None:
                broken("QRES-TRN-10", "the event of a peer that went has no reason")
            await self._until(
                "QRES-TRN-10",
                lambda: [peer.node_id for peer in first.transport.peers()] == [second.node_id],
                "peers() still names a node that left",
            )

        self._play(3, scene)

    def test_trn_11_counts(self) -> None:
        """QRES-TRN-11: stats count what was sent, received and fetched."""

        async def scene(first: Endpoint, second: Endpoint) -> None:
            before = second.transport.stats()
            await self._hears("QRES-TRN-11", first, second, b"\xab" * 1000)
            ref = await first.transport.publish_blob(b"blob" * 1000)
            await self._fetches("QRES-TRN-11", second, ref, [first.node_id], b"blob" * 1000)
            sent, after = first.transport.stats(), second.transport.stats()
            if sent.frames_sent < 1 or sent.bytes_sent < 5000:
                broken("QRES-TRN-11", f"a frame and a blob were sent: {sent}")
            if after.frames_received < before.frames_received + 1:
                broken("QRES-TRN-11", f"a frame was received: {after}")
            if after.bytes_received < before.bytes_received + 5000:
                broken("QRES-TRN-11", f"5000 bytes were received: {after}")
            if after.blobs_fetched != before.blobs_fetched + 1:
                broken("QRES-TRN-11", f"one blob was fetched: {after}")

        self._play(2, scene)

    def test_trn_12_admits_nobody_unasked(self) -> None:
        """QRES-TRN-12: who is not admitted is no peer, is not heard and gets nothing."""
        unwanted: list[NodeId] = []

        def admission(peer: NodeId, credential: bytes) -> Verdict:
            del credential
            return reject("unwanted") if peer in unwanted else ACCEPT

        ends = self.make([admission, admission, admit_everybody])
        first, second, third = ends
        unwanted.append(third.node_id)

        async def scene() -> None:
            await self._connected([first, second])
            await self._until(
                "QRES-TRN-12",
                lambda: first.transport.stats().refused > 0,
                "stats().refused counts no connection that admission turned away",
            )
            await self._notices("QRES-TRN-12", first, PeerChange.REFUSED, third.node_id, None)
            ref = await first.transport.publish_blob(b"secret")
            for _time in range(3):
                await third.transport.send(first.node_id, b"unwanted")
                await third.transport.broadcast(b"unwanted")
                await first.transport.broadcast(b"wanted")
            call = partial(third.transport.fetch_blob, ref, [first.node_id], 2.0)
            codes = {"QRES-E904", "QRES-E905"}
            await self._refused("QRES-TRN-12", "a fetch by the unadmitted", call, codes)
            await self._hears("QRES-TRN-12", second, first, b"wanted", never=b"unwanted")
            if third.node_id in {peer.node_id for peer in first.transport.peers()}:
                broken("QRES-TRN-12", "peers() names a node that was not admitted")
            with anyio.move_on_after(0.2):
                await third.transport.receive()
                broken("QRES-TRN-12", "a node that was not admitted hears frames")

        self._run(ends, scene)

    def test_trn_13_closes(self) -> None:
        """QRES-TRN-13: closing ends what waits, may be repeated, and leaves no thread behind."""

        async def main() -> None:
            (unused,) = self.make([admit_everybody])
            await unused.transport.aclose()
            ends = self.make([admit_everybody] * 2)
            await self._open(ends)
            ended: list[str] = []

            async def wait(call: Callable[[], Awaitable[object]]) -> None:
                try:
                    while True:
                        await call()
                except Exception as error:  # noqa: BLE001 - whatever says that it is over
                    ended.append(type(error).__name__)

            try:
                await self._connected(ends)
                with anyio.move_on_after(self.patience) as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(wait, ends[0].transport.receive)
                        group.start_soon(wait, ends[0].transport.event)
                        await anyio.sleep(0.1)
                        await ends[0].transport.aclose()
                if scope.cancelled_caught:
                    broken("QRES-TRN-13", "receive or event waits on after aclose")
            finally:
                for _time in range(2):
                    await self._close(ends)

        self._anyio_run(main)  # a library may start a thread once for the whole process
        threads = threading.active_count()
        self._anyio_run(main)
        end = time.monotonic() + self.patience
        while (left := threading.active_count() - threads) > 0 and time.monotonic() < end:
            time.sleep(0.01)  # it may be about to end
        if left > 0:
            broken("QRES-TRN-13", f"{left} threads are left: {threading.enumerate()}")

    def test_trn_14_queues_are_bounded(self) -> None:
        """QRES-TRN-14: what is not read is refused to the sender, or dropped and counted."""

        async def scene(first: Endpoint, second: Endpoint) -> None:
            refused = 0
            with anyio.move_on_after(self.patience) as scope:
                for number in range(self.flood):
                    try:
                        await first.transport.send(second.node_id, b"%08d" % number)
                    except TransportError as error:
                        if error.code not in {"QRES-E902", "QRES-E903"}:
                            raise
                        refused += 1
            await anyio.sleep(0.5)
            read = await self._drain(second)
            counted = refused + scope.cancelled_caught  # a sender that has to wait is refused too
            for end in (first, second):
                counted += end.transport.stats().frames_dropped
            if not counted and read < self.flood:
                lost = self.flood - read
                broken("QRES-TRN-14", f"{lost} frames of {self.flood} are missing and not counted")
            if not counted:
                broken("QRES-TRN-14", f"all of {self.flood} unread frames were kept")
            await self._hears("QRES-TRN-14", first, second, b"afterwards")

        self._play(2, scene)

    def test_trn_15_takes_many_calls_at_once(self) -> None:
        """QRES-TRN-15: calls do not disturb each other, nor does one that is cancelled."""

        async def scene(*ends: Endpoint) -> None:
            blobs = [bytes([number]) * 5000 for number in range(len(ends))]
            refs = [
                await end.transport.publish_blob(blob)
                for end, blob in zip(ends, blobs, strict=True)
            ]

            async def work(end: Endpoint, other: int) -> None:
                to = ends[other]
                if to is end:
                    return
                await self._fetches("QRES-TRN-15", end, refs[other], [to.node_id], blobs[other])
                reply = await end.transport.request(to.node_id, "/echo", b"?", self.patience)
                if reply != end.node_id + b"?":
                    broken("QRES-TRN-15", "requests at once get each other's replies")

            async def give_up(end: Endpoint, to: Endpoint) -> None:
                with anyio.move_on_after(0.05):
                    await end.transport.request(to.node_id, "/slow", b"?", self.patience)

            with anyio.move_on_after(3 * self.patience) as scope:
                async with anyio.create_task_group() as group:
                    for end in ends:
                        group.start_soon(give_up, end, ends[end is ends[0]])
                        for other in range(len(ends)):
                            group.start_soon(work, end, other)
            if scope.cancelled_caught:
                broken("QRES-TRN-15", "calls at once do not come to an end")
            await self._hears("QRES-TRN-15", ends[0], ends[1], b"still here")

        async def slow(asker: NodeId, data: bytes) -> bytes:
            del asker
            await anyio.sleep(1.0)
            return data

        self._play(3, scene, handlers={"/echo": _echo, "/slow": slow})

    # ── how they are checked ──────────────────────────────────────────────────────────────────

    def _play(
        self,
        count: int,
        scene: Callable[..., Awaitable[None]],
        *,
        handlers: dict[str, Any] | None = None,
    ) -> None:
        ends = self.make([admit_everybody] * count)
        for end in ends:
            for protocol, handler in (handlers or {}).items():
                end.transport.handle(protocol, handler)

        async def connected() -> None:
            await self._connected(ends)
            await scene(*ends)

        self._run(ends, connected)

    def _run(self, ends: Sequence[Endpoint], scene: Callable[[], Awaitable[None]]) -> None:
        __tracebackhide__ = True

        async def main() -> None:
            try:
                await self._open(ends)
                await scene()
            finally:
                await self._close(ends)

        self._anyio_run(main)

    def _anyio_run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run, and raise the violation alone where it came with others in a group."""
        __tracebackhide__ = True
        try:
            anyio.run(main, backend=self.backend)
        except BaseExceptionGroup as group:
            violation = _violation(group)
            if violation is None:
                raise
            raise violation from group

    async def _open(self, ends: Sequence[Endpoint]) -> None:
        async with anyio.create_task_group() as group:
            for end in ends:
                group.start_soon(end.transport.start)

    async def _close(self, ends: Sequence[Endpoint]) -> None:
        with anyio.CancelScope(shield=True):
            for end in ends:
                await end.transport.aclose()

    async def _connected(self, ends: Sequence[Endpoint]) -> None:
        ids = {end.node_id for end in ends}
        await self._until(
            "QRES-TRN-10",
            lambda: all(
                {peer.node_id for peer in end.transport.peers()} >= ids - {end.node_id}
                for end in ends
            ),
            f"not all of {len(ends)} nodes are connected after {self.patience} s",
        )

    async def _until(self, rule: str, done: Callable[[], bool], what: str) -> None:
        __tracebackhide__ = True
        with anyio.move_on_after(self.patience):
            while not done():  # noqa: ASYNC110 - a transport tells nobody
                await anyio.sleep(0.02)
            return
        broken(rule, what)

    async def _hears(
        self,
        rule: str,
        sender: Endpoint,
        to: Endpoint,
        frame: bytes,
        *,
        never: bytes | None = None,
    ) -> Delivery:
        """Send a frame until it arrives; the first delivery of it."""
        __tracebackhide__ = True
        send = partial(sender.transport.send, to.node_id, frame)
        return await self._arrival(rule, send, to, frame, never)

    async def _all_hear(
        self, rule: str, sender: Endpoint, others: Sequence[Endpoint], frame: bytes
    ) -> None:
        for other in others:
            send = partial(sender.transport.broadcast, frame)
            delivery = await self._arrival(rule, send, other, frame)
            if delivery.link == other.node_id:
                broken(rule, "the link is the receiver itself")
            if delivery.author not in {None, sender.node_id}:
                broken(rule, "the author is not the node that sent the frame first")

    async def _arrival(
        self,
        rule: str,
        send: Callable[[], Awaitable[None]],
        to: Endpoint,
        frame: bytes,
        never: bytes | None = None,
    ) -> Delivery:
        __tracebackhide__ = True
        with anyio.move_on_after(self.patience):
            while True:
                await send()
                with anyio.move_on_after(1.0):
                    while True:
                        delivery = await to.transport.receive()
                        if delivery.frame == frame:
                            return delivery
                        if delivery.frame == never:
                            broken(rule, "a frame arrived that must not")
        return broken(rule, f"{len(frame)} bytes did not arrive within {self.patience} s")

    async def _drain(self, end: Endpoint) -> int:
        """Read what waits; how many frames it was."""
        read = 0
        while True:
            with anyio.move_on_after(1.0) as scope:
                await end.transport.receive()
            if scope.cancelled_caught or read > self.flood:
                return read
            read += 1

    async def _fetches(
        self, rule: str, end: Endpoint, ref: BlobRef, holders: Sequence[NodeId], blob: bytes
    ) -> None:
        __tracebackhide__ = True
        try:
            data = await end.transport.fetch_blob(ref, holders, self.patience)
        except TransportError as error:
            broken(rule, f"a blob of {ref.size} bytes did not come: {error}", error)
        if data != blob:
            broken(rule, f"a blob of {ref.size} bytes came as other bytes")

    async def _notices(
        self, rule: str, end: Endpoint, change: PeerChange, *peers: NodeId | None
    ) -> TransportEvent:
        """Wait for the event, whatever comes before it."""
        __tracebackhide__ = True
        seen: list[TransportEvent] = []
        with anyio.move_on_after(self.patience):
            while True:
                seen.append(await end.transport.event())
                if seen[-1].change is change and seen[-1].peer in peers:
                    return seen[-1]
        return broken(
            rule, f"no event {change.value!r}; {[earlier.change.value for earlier in seen]} came"
        )

    async def _refused(
        self, rule: str, what: str, call: Callable[[], Awaitable[object]], codes: set[str]
    ) -> None:
        __tracebackhide__ = True
        try:
            with anyio.fail_after(2 * self.patience):
                await call()
        except TransportError as error:
            if error.code not in codes:
                broken(rule, f"{what} raised {error.code}, not {' or '.join(sorted(codes))}", error)
        except TimeoutError as error:
            broken(rule, f"{what} hangs", error)
        except QresError as error:
            broken(rule, f"{what} raised {type(error).__name__}, not a TransportError", error)
        except Exception as error:  # noqa: BLE001 - whatever a transport raises
            broken(rule, f"{what} raised {type(error).__name__}: {error}", error)
        else:
            broken(rule, f"{what} was not refused")
