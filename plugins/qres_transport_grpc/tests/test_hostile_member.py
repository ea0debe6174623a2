"""What a member tries against the others, over a hub that is honest."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from qres_transport_grpc.network import CREDENTIAL
from qres_transport_grpc.peers import NONCE_BYTES

from qres_core import LinkReason, PeerChange, reject


async def nothing(*_args: Any) -> None:
    """A member that does not show its credential any more."""


@pytest.mark.parametrize("breaks", [True, False])
def test_who_is_banned_cannot_stay_by_showing_nothing_any_more(
    hub: Callable[..., Any], lab: SimpleNamespace, *, breaks: bool
) -> None:
    """Neither in the link that is up, nor in the next one where that went down."""
    roster = lab.members(2)
    server = hub(roster)
    banned: list[bytes] = []

    def admission(peer: bytes, credential: bytes) -> Any:
        return reject("banned") if peer in banned else lab.admit_everybody(peer, credential)

    soon = 3600.0 if breaks else 0.5
    first = lab.transport(roster[0], roster, [server], admission=admission, readmit_seconds=soon)
    hostile = lab.transport(roster[1], roster, [server], readmit_seconds=3600.0)

    async def main() -> None:
        async with lab.running(first, hostile):
            peer = first._network.peers[roster[1].node_id]
            network = hostile._network
            network._show = nothing
            banned.append(roster[1].node_id)
            if breaks:
                me = network.peers[roster[0].node_id]
                hostile._thread.post(lambda: network._say(me, me.link, 0))
            with anyio.fail_after(lab.PATIENCE):
                while (event := await first.event()).change is not PeerChange.DOWN:
                    pass
            wanted = LinkReason.BROKE_PROTOCOL if breaks else LinkReason.REFUSED_HELLO
            assert event.reason is wanted
            await lab.until(lambda: peer.link.proved)  # it is there, and not admitted
            assert not first.peers()

    anyio.run(main)


def test_a_member_that_floods_credentials_does_not_keep_the_plugins_busy(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    asked: list[bytes] = []

    def admission(peer: bytes, credential: bytes) -> Any:
        asked.append(credential)
        return lab.admit_everybody(peer, credential)

    first = lab.transport(roster[0], roster, [server], admission=admission)
    hostile = lab.transport(roster[1], roster, [server])

    async def main() -> None:
        async with lab.running(first, hostile):
            network = hostile._network
            me = network.peers[roster[0].node_id]

            def flood() -> None:
                for _ in range(500):
                    network._say(me, me.link, CREDENTIAL, bytes(NONCE_BYTES))

            hostile._thread.post(flood)
            await lab.until(lambda: first.stats().reasons.get("credentials: too fast", 0) > 300)

    began = time.monotonic()
    anyio.run(main)
    assert len(asked) <= 20 + 5 * (time.monotonic() - began)
