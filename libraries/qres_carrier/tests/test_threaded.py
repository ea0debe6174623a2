"""The node's side of a transport, with a thread that is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import anyio
import pytest
from qres_carrier import ThreadedTransport, fitting

from qres_core import NodeId
from qres_core.errors import ConfigError, RoundError, TransportError
from qres_core.transport import (
    AttendedTransport,
    BlobRef,
    Delivery,
    LinkKeys,
    PeerChange,
    TransportEvent,
    TransportLimits,
)

T = TypeVar("T")
NODE = bytes(32)


class Plain(ThreadedTransport):
    def __init__(self) -> None:
        super().__init__("transport.plain", 2, 8)
        self.begun = False
        self.said: list[object] = []

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(10, 20, 30)

    @property
    def _started(self) -> bool:
        return self.begun

    async def _call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await work(*args)

    async def _broadcast(self, frame: bytes) -> None:
        self.said.append(frame)

    async def _send(self, to: NodeId, frame: bytes) -> None:
        self.said.append((to, frame))

    async def _request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        del to, protocol, within
        return data

    async def _publish(self, ref: BlobRef, data: bytes) -> None:
        del data
        self.said.append(ref)

    async def _fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        del holders, within
        return bytes(ref.size)


def test_what_is_within_the_limits_goes_on_and_nothing_else() -> None:
    end = Plain()

    async def main() -> None:
        await end.broadcast(b"x" * 10)
        await end.send(NODE, b"y")
        ref = await end.publish_blob(b"z" * 30)
        assert end.said == [b"x" * 10, (NODE, b"y"), ref]
        assert await end.request(NODE, "/p", b"q" * 20, 1.0) == b"q" * 20
        assert await end.fetch_blob(ref, [NODE], 1.0) == bytes(30)
        for size in (0, 11):
            for refused in (end.broadcast(bytes(size)), end.send(NODE, bytes(size))):
                with pytest.raises(TransportError, match="QRES-E901"):
                    await refused
        for refused in (
            end.request(NODE, "/p", bytes(21), 1.0),
            end.publish_blob(bytes(31)),
            end.fetch_blob(BlobRef.of(bytes(31)), [NODE], 1.0),
        ):
            with pytest.raises(TransportError, match="QRES-E901"):
                await refused
        assert len(end.said) == 3

    anyio.run(main)


def test_what_comes_is_waited_for_once_it_is_started() -> None:
    end = Plain()

    async def main() -> None:
        for early in (end.receive(), end.event()):
            with pytest.raises(RoundError, match=r"QRES-E603.*transport\.plain"):
                await early
        end.begun = True
        end._inbox.bind(lambda function: function())
        end._events.bind(lambda function: function())
        assert end._inbox.put(Delivery(NODE, b"x"))
        assert end._events.put(TransportEvent(PeerChange.UP, NODE))
        assert (await end.receive()).frame == b"x"
        assert (await end.event()).change is PeerChange.UP
        assert end.stats().frames_received == 1

    anyio.run(main)


def test_handlers_are_named_once_and_before_the_start() -> None:
    end = Plain()

    async def echo(_node: bytes, data: bytes) -> bytes:
        return data

    end.handle("/p", echo)
    for name in ("/p", "", "/ninebyte"):
        with pytest.raises(ValueError, match=r"once for each|1 to 8 bytes"):
            end.handle(name, echo)
    end.begun = True
    with pytest.raises(ValueError, match="before the start"):
        end.handle("/q", echo)


@pytest.mark.parametrize(
    ("hooks", "largest", "codes"),
    [
        ({"link_keys"}, 100, []),
        ({"link_keys"}, 1000, []),
        (set[str](), 100, ["QRES-E305"]),
        ({"link_keys"}, 1001, ["QRES-E105"]),
        ({"link_keys"}, 2001, ["QRES-E105", "QRES-E105"]),
    ],
)
def test_what_does_not_fit_is_named(hooks: set[str], largest: int, codes: list[str]) -> None:
    sizes: Any = SimpleNamespace(frame_bytes=100, blob_bytes=1000, spool_bytes=2000)
    around: Any = SimpleNamespace(
        hooks=hooks, max_message_bytes=largest, nodes=4, byzantine=1, dimension=0
    )
    assert [problem.code for problem in fitting.problems("plain", sizes, around)] == codes


def test_a_key_is_needed() -> None:
    keys = LinkKeys(NODE, lambda told: told, lambda node: node)
    assert fitting.lent("plain", keys) is keys
    with pytest.raises(ConfigError, match=r"QRES-E103.*plugins\.plain"):
        fitting.lent("plain", None)


@pytest.mark.parametrize(
    ("dimension", "nodes", "byzantine", "enough"),
    [
        (0, 40, 13, ""),
        (25, 400, 100, ""),
        (250_000, 4, 0, ""),
        (250_000, 4, 1, "6291456 or more"),
        (250_000, 5, 0, "5242880 or more"),
    ],
)
def test_an_update_of_each_node_has_room_and_two_more_of_each_liar(
    dimension: int, nodes: int, byzantine: int, enough: str
) -> None:
    """Smaller updates than a frame need none."""
    sizes: Any = SimpleNamespace(frame_bytes=100, blob_bytes=4_000_000, spool_bytes=4_000_000)
    around: Any = SimpleNamespace(
        hooks={"link_keys"},
        max_message_bytes=4_000_000,
        nodes=nodes,
        byzantine=byzantine,
        dimension=dimension,
    )
    found = list(fitting.problems("plain", sizes, around))
    assert [problem.where for problem in found] == ["plugins.plain.spool_bytes"] * bool(enough)
    assert all(enough in problem.fix for problem in found)


def test_a_thread_shows_that_it_runs_and_where_it_is() -> None:
    transport = Plain()
    assert isinstance(transport, AttendedTransport)
    assert transport.doing() == "its thread has ended"  # it was never heard of
    anyio.run(transport.attend)
    assert transport.doing().startswith("at threaded.py:")
    assert "test_a_thread_shows_that_it_runs_and_where_it_is" in transport.doing()
    assert not transport.dials()
