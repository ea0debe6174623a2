"""The conformance suite of transports: a sound one passes, and each rule catches who breaks it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import anyio
import attrs
import pytest
from qres_lab.testing import (
    RULES,
    ContractViolationError,
    Endpoint,
    TransportContract,
    make_node_ids,
)
from qres_lab.testing.transport import Admission, admit_everybody

from qres_core import NodeId
from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.transport import PeerChange, TransportEvent
from qres_core.errors import TransportError, ValueRefusedError
from qres_core.transport import BlobRef, Delivery, PeerInfo, TransportLimits, TransportStats

pytestmark = pytest.mark.usefixtures("virtual_time")

METHODS = {
    f"QRES-TRN-{name.split('_')[2]}": name
    for name in dir(TransportContract)
    if name.startswith("test_trn_")
}
LIMITS = TransportLimits(4096, 4096, 2**22)
SWARMS = itertools.count()


def suite(kind: type[MemoryTransport]) -> TransportContract:
    class Suite(TransportContract):
        patience = 0.6
        flood = 200

        def make(self, admissions: Sequence[Admission]) -> Sequence[Endpoint]:
            swarm = f"suite {next(SWARMS)}"
            ids = make_node_ids(len(admissions))
            return [
                Endpoint(node_id, kind(node_id, swarm, 32, admission, limits=LIMITS))
                for node_id, admission in zip(ids, admissions, strict=True)
            ]

        def spoil(self, endpoint: Endpoint, ref: BlobRef) -> None:
            assert isinstance(endpoint.transport, MemoryTransport)
            endpoint.transport._blobs._held[ref.root] = bytes(ref.size)

    return Suite()


def violated(kind: type[MemoryTransport], rule: str) -> ContractViolationError | None:
    try:
        getattr(suite(kind), METHODS[rule])()
    except ContractViolationError as error:
        return error
    finally:
        MemoryTransport._hubs.clear()
    return None


# ── transports that break one rule ────────────────────────────────────────────────────────────────


class Tiny(MemoryTransport):
    """Has no room for an announcement."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.limits = TransportLimits(64, 4096, 2**22)


class NotAwaited(MemoryTransport):
    """A method that returns instead of waiting."""

    def send(self, to: NodeId, frame: bytes) -> Any:
        return super().send(to, frame)


class CutsShort(MemoryTransport):
    """Loses the end of large frames."""

    def _deliver(self, delivery: Delivery, due: float) -> None:
        super()._deliver(Delivery(delivery.link, delivery.frame[:2000]), due)


class HearsItself(MemoryTransport):
    """Broadcasts to all, its own node included."""

    async def broadcast(self, frame: bytes) -> None:
        await super().broadcast(frame)
        self._deliver(Delivery(self.node_id, frame), 0.0)


class NamesItself(MemoryTransport):
    """Believes a link is whoever it likes."""

    def _deliver(self, delivery: Delivery, due: float) -> None:
        super()._deliver(Delivery(self.node_id, delivery.frame), due)


class MistakesTheAuthor(MemoryTransport):
    """Proves an author who is not."""

    def _deliver(self, delivery: Delivery, due: float) -> None:
        super()._deliver(attrs.evolve(delivery, author=self.node_id), due)


class SendsToAll(MemoryTransport):
    """Has no way to reach one node alone."""

    async def send(self, to: NodeId, frame: bytes) -> None:
        del to
        await self.broadcast(frame)


class Unlimited(MemoryTransport):
    """Publishes blobs of any size."""

    async def publish_blob(self, data: bytes) -> BlobRef:
        return BlobRef.of(data[:1])


class MistakesTheAsker(MemoryTransport):
    """Tells the handler another identity than the one proved."""

    async def _answer(self, asker: NodeId, protocol: str, data: bytes) -> bytes:
        del asker
        return await self._handlers[protocol](self.node_id, data)


class RaisesWhatTheHandlerDid(MemoryTransport):
    """Lets the error of a handler out as it is."""

    async def _answer(self, asker: NodeId, protocol: str, data: bytes) -> bytes:
        return await self._handlers[protocol](asker, data)


class WaitsForever(MemoryTransport):
    """Knows no deadline of requests."""

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        del within
        return await super().request(to, protocol, data, 60)


class KeepsNothing(MemoryTransport):
    """Does not hold what it fetched."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        data = await super().fetch_blob(ref, holders, within)
        self._blobs.clear()
        return data


class Believes(MemoryTransport):
    """Checks no chunk."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        for holder in holders:
            if holder in self._links:
                return self._links[holder].end._blobs.get(ref.root) or b""
        return await super().fetch_blob(ref, (), within)


class LosesInSilence(MemoryTransport):
    """Returns nothing where nobody has the blob."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        return await super().fetch_blob(ref, holders, within) if holders else b""


class Unsorted(MemoryTransport):
    """Names its peers in another order."""

    def peers(self) -> Sequence[PeerInfo]:
        return tuple(reversed(super().peers()))


class NoticesNoLoss(MemoryTransport):
    """Never says that a neighbour went."""

    def link_down(self, node_id: NodeId, why: str) -> None:
        super().link_down(node_id, why)
        kept = [item for item in self._events._kept if item.change is not PeerChange.DOWN]
        self._events._kept.clear()
        self._events._kept.extend(kept)


class CountsNothing(MemoryTransport):
    """Has statistics of zeros."""

    def stats(self) -> TransportStats:
        return TransportStats()


class AdmitsAll(MemoryTransport):
    """Asks, counts, reports, and connects."""

    def admits(self, other: MemoryTransport) -> bool:
        super().admits(other)
        return True


class LeavesAThread(MemoryTransport):
    """Starts a thread that it does not end; the test does."""

    over: ClassVar[threading.Event] = threading.Event()

    async def start(self) -> None:
        await super().start()
        threading.Thread(target=self.over.wait, args=(600.0,), daemon=True).start()


class NeverEnds(MemoryTransport):
    """Lets who waits for events wait after it closed."""

    async def event(self) -> TransportEvent:
        while True:
            with anyio.move_on_after(60):
                await anyio.sleep_forever()


class KeepsAll(MemoryTransport):
    """Has a queue without bound."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.capacity = 10**9


class DropsInSilence(MemoryTransport):
    """Counts no frame that found no room."""

    def stats(self) -> TransportStats:
        return attrs.evolve(super().stats(), frames_dropped=0)


class Misnames(MemoryTransport):
    """Names a published blob as another."""

    async def publish_blob(self, data: bytes) -> BlobRef:
        await super().publish_blob(data)
        return BlobRef.of(data + b"!")


class FetchesOtherBytes(MemoryTransport):
    """Hands out what was fetched with a byte changed."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        data = await super().fetch_blob(ref, holders, within)
        return bytes([data[0] ^ 1]) + data[1:]


class CountsNoFailure(MemoryTransport):
    """Counts no fetch that failed."""

    def stats(self) -> TransportStats:
        return attrs.evolve(super().stats(), blobs_failed=0)


class CountsNoFrames(MemoryTransport):
    """Counts no frame that was received."""

    def stats(self) -> TransportStats:
        return attrs.evolve(super().stats(), frames_received=0)


class CountsNoBytes(MemoryTransport):
    """Counts no byte that was received."""

    def stats(self) -> TransportStats:
        return attrs.evolve(super().stats(), bytes_received=0)


class CountsNoBlobs(MemoryTransport):
    """Counts no blob that was fetched."""

    def stats(self) -> TransportStats:
        return attrs.evolve(super().stats(), blobs_fetched=0)


class ForgetsWhoLeft(MemoryTransport):
    """Says that a neighbour went, and goes on naming it."""

    def peers(self) -> Sequence[PeerInfo]:
        seen = {peer.node_id: peer for peer in (*self.__dict__.get("seen", ()), *super().peers())}
        self.__dict__["seen"] = tuple(seen.values())
        return tuple(sorted(seen.values(), key=lambda peer: peer.node_id))


class RaisesItsOwn(MemoryTransport):
    """Raises errors that no caller knows."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        if not holders:
            raise LookupError
        return await super().fetch_blob(ref, holders, within)


class RaisesAnother(MemoryTransport):
    """Refuses what nobody has as a value that is wrong."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        if not holders:
            raise ValueRefusedError.of("QRES-E507", "blob", "nobody has it")
        return await super().fetch_blob(ref, holders, within)


class RaisesAnotherCode(MemoryTransport):
    """Says of a blob that nobody has that the node is too busy."""

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        if not holders:
            raise TransportError.of("QRES-E902", "blob", "too busy")
        return await super().fetch_blob(ref, holders, within)


class OneAtATime(MemoryTransport):
    """Mixes up requests that are under way together."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.seed = b""

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        reply = await super().request(to, protocol, data, within)
        return reply if protocol != "/echo" else reply[::-1]


BROKEN = [
    (Tiny, "QRES-TRN-1"),
    (NotAwaited, "QRES-TRN-1"),
    (CutsShort, "QRES-TRN-2"),
    (HearsItself, "QRES-TRN-2"),
    (NamesItself, "QRES-TRN-2"),
    (NamesItself, "QRES-TRN-3"),
    (MistakesTheAuthor, "QRES-TRN-2"),
    (SendsToAll, "QRES-TRN-3"),
    (Unlimited, "QRES-TRN-4"),
    (MistakesTheAsker, "QRES-TRN-5"),
    (RaisesWhatTheHandlerDid, "QRES-TRN-6"),
    (WaitsForever, "QRES-TRN-6"),
    (Misnames, "QRES-TRN-7"),
    (FetchesOtherBytes, "QRES-TRN-7"),
    (KeepsNothing, "QRES-TRN-7"),
    (Believes, "QRES-TRN-8"),
    (LosesInSilence, "QRES-TRN-9"),
    (RaisesItsOwn, "QRES-TRN-9"),
    (RaisesAnother, "QRES-TRN-9"),
    (RaisesAnotherCode, "QRES-TRN-9"),
    (CountsNoFailure, "QRES-TRN-9"),
    (Unsorted, "QRES-TRN-10"),
    (NoticesNoLoss, "QRES-TRN-10"),
    (ForgetsWhoLeft, "QRES-TRN-10"),
    (CountsNothing, "QRES-TRN-11"),
    (CountsNoFrames, "QRES-TRN-11"),
    (CountsNoBytes, "QRES-TRN-11"),
    (CountsNoBlobs, "QRES-TRN-11"),
    (AdmitsAll, "QRES-TRN-12"),
    (LeavesAThread, "QRES-TRN-13"),
    (NeverEnds, "QRES-TRN-13"),
    (KeepsAll, "QRES-TRN-14"),
    (DropsInSilence, "QRES-TRN-14"),
    (OneAtATime, "QRES-TRN-15"),
]


@pytest.mark.control("C-grpc-1", "C-libp2p-26", "C-transport-2", "C-transport-4", "C-transport-6")
@pytest.mark.parametrize(("kind", "rule"), BROKEN)
def test_broken_transports_fail_the_rule_they_break(kind: type[MemoryTransport], rule: str) -> None:
    LeavesAThread.over.clear()
    try:
        error = violated(kind, rule)
    finally:
        LeavesAThread.over.set()
    assert error is not None, f"{kind.__name__} passed {rule}"
    assert error.rule == rule


def test_every_rule_has_a_test_and_a_positive_control() -> None:
    stated = {rule for rule in RULES if rule.startswith("QRES-TRN-")}
    assert set(METHODS) == stated
    assert {rule for _kind, rule in BROKEN} == stated


@pytest.mark.parametrize("identity", [b"short", "text", bytearray(32)])
def test_an_identity_that_is_none_is_refused(identity: Any) -> None:
    checked: Any = suite(MemoryTransport)
    (made,) = checked.make([admit_everybody])
    checked.make = lambda _admissions: [Endpoint(identity, made.transport)]
    with pytest.raises(ContractViolationError, match="the identity is not 32 bytes"):
        checked.test_trn_1_is_a_transport()


def test_what_has_no_methods_of_a_transport_is_none() -> None:
    checked: Any = suite(MemoryTransport)
    checked.make = lambda _admissions: [Endpoint(bytes(32), object())]
    with pytest.raises(ContractViolationError, match="object lacks methods of a Transport"):
        checked.test_trn_1_is_a_transport()


@pytest.mark.parametrize(
    "call",
    [
        lambda: TransportContract().make([admit_everybody]),
        lambda: TransportContract().spoil(suite(MemoryTransport).make([])[0:1], BlobRef.of(b"x")),
    ],
)
def test_what_an_author_must_define_is_named(call: Callable[[], object]) -> None:
    with pytest.raises(NotImplementedError, match="must define"):
        call()
