"""What a sender was told has come is there for the node to take."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from qres_carrier import Mailbox
from qres_transport_grpc.frames import GATHER_SECONDS, NUMBER_BYTES, GrpcFrames
from qres_transport_grpc.network import FRAME, RECEIPT
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.transport import GrpcTransport

NODES = [bytes([number]) * 32 for number in range(1, 6)]
ROOM = 4


def played(box: Mailbox[tuple[bytes, bytes]]) -> tuple[set[Any], set[Any], set[Any]]:
    """Frames that senders were told of, those that waited, and those sent again that came then."""
    confirmed: set[tuple[bytes, bytes]] = set()
    takers: dict[int, Any] = {}

    def say(peer: Any, kind: int, data: bytes) -> None:
        assert kind == RECEIPT
        starts = range(0, len(data), NUMBER_BYTES)
        confirmed.update((peer.node, data[at : at + NUMBER_BYTES]) for at in starts)

    network: Any = SimpleNamespace(serve=lambda found, _lost: takers.update(found), say=say)
    GrpcFrames(network, GrpcOptions(), lambda node, frame: box.put((node, frame), node))
    peers = [SimpleNamespace(node=node, link=SimpleNamespace(session=node)) for node in NODES]
    # The first has two frames where each of the others has one, and the box is full.
    sent = [(peers[index], number.to_bytes(8, "big")) for index, number in ((0, 1), (0, 2))]
    sent += [(peer, (1).to_bytes(8, "big")) for peer in peers[1:]]

    async def main() -> tuple[set[Any], set[Any]]:
        def arrive() -> None:
            for peer, number in sent:
                if (peer.node, number) not in confirmed:  # else it is not sent again
                    takers[FRAME](peer, number + number)

        async def taken() -> set[Any]:
            await asyncio.sleep(2 * GATHER_SECONDS)
            return {await box.get() for _ in range(len(box))}

        arrive()
        first = await taken()
        arrive()
        return first, await taken()

    first, again = asyncio.run(main())
    return confirmed, first, again


@pytest.mark.claim("C-grpc-22")
@pytest.mark.control("C-grpc-22")
@pytest.mark.parametrize("keeps", [True, False], ids=["guarded", "control"])
def test_a_full_inbox_drops_nothing_that_its_sender_was_told_has_come(*, keeps: bool) -> None:
    """Who finds no room sends it again, and there is some once the node has taken something."""
    confirmed, first, again = played(Mailbox(ROOM, keeps=keeps))
    assert len(confirmed) == 6
    assert (first | again == confirmed) is keeps
    assert not first & again


def test_the_inbox_of_the_transport_is_such_a_one(lab: SimpleNamespace) -> None:
    (me,) = roster = lab.members(1)
    end: Any = lab.transport(me, roster, [SimpleNamespace(option="127.0.0.1:1#" + "0" * 64)])
    assert isinstance(end, GrpcTransport)
    assert end._inbox._keeps
