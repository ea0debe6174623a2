"""The connections to all hubs, and what goes over which of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from qres_core import NodeInfo
from qres_core.transport import LinkKeys, LinkReason
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import Acquaintance
from qres_transport_grpc.uplink import Uplink
from qres_transport_grpc.wire import SMALL_BYTES, HubPlace

LEAVING_SECONDS: Final = 1.0


def by_digest(hubs: Sequence[str]) -> dict[str, tuple[HubPlace, ...]]:
    """The places of each hub, by the digest of its certificate, in their order."""
    found: dict[str, tuple[HubPlace, ...]] = {}
    for place in dict.fromkeys(map(HubPlace.of, hubs)):
        found[place.digest] = (*found.get(place.digest, ()), place)
    return found


class HubLines:
    """Keeps a connection to each hub; all but ``__init__`` is for the transport's thread.

    Args:
        info: who this node is.
        keys: to prove that.
        options: limits.
        took: gets each message, and the connection it came over.
        told: what became of a connection: why it is not up, or ``None`` and nothing if it is.
        drained: told that a line may have room again.
    """

    def __init__(
        self,
        info: NodeInfo,
        keys: LinkKeys,
        options: GrpcOptions,
        took: Callable[[Uplink, bytes], None],
        told: Callable[[HubPlace, LinkReason | None, str], object],
        drained: Callable[[], object],
    ) -> None:
        self._make = partial(
            Uplink,
            node=info.node_id,
            swarm=info.swarm,
            keys=keys,
            options=options,
            took=self._from_hub,
            changed=self._changed,
            drained=partial(self._post, drained),
        )
        self._took, self._told = took, told
        self._uplinks: dict[str, Uplink] = {}  # by the digest of the hub's certificate
        self._loop: asyncio.AbstractEventLoop | None = None

    def aim(self, hubs: Sequence[str]) -> None:
        """Keep connections to these hubs from now on."""
        self._loop = loop = asyncio.get_running_loop()
        wanted = by_digest(hubs)
        for digest, uplink in list(self._uplinks.items()):
            if wanted.get(digest) != uplink.places:
                del self._uplinks[digest]
                loop.run_in_executor(None, uplink.join)
        for digest, places in wanted.items():
            if digest not in self._uplinks:
                made = self._uplinks[digest] = self._make(places)
                made.start()

    async def end(self) -> None:
        """End all connections; what waits leaves first, if it goes at once."""
        for uplink in self._uplinks.values():
            uplink.ask_to_stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                while any(uplink.up for uplink in self._uplinks.values()):  # noqa: ASYNC110 - threads
                    await asyncio.sleep(0.02)
        for uplink in self._uplinks.values():
            uplink.hang_up()
        for uplink in self._uplinks.values():
            uplink.join()

    def ways(self, peer: Acquaintance) -> list[Uplink]:
        """Hubs that are up, those first that something of this node came from last."""
        up = [uplink for uplink in self._uplinks.values() if uplink.up]
        return sorted(up, key=lambda uplink: -peer.via.get(uplink, 0.0))

    def pass_on(self, peer: Acquaintance, message: bytes, attempt: int = 0) -> bool:
        """Hand a message to the hubs: a small one to all, a large one to one.

        ``attempt``: another one goes over another hub. Both ends go through them in one order, in
        which no hub has a hand. Returns whether a hub takes it.
        """
        whole = peer.node + message
        if len(whole) <= SMALL_BYTES:
            return sum(uplink.put(whole) for uplink in self.ways(peer)) > 0
        way = self._way(peer, attempt)
        return way is not None and way.put(whole)

    def _way(self, peer: Acquaintance, attempt: int) -> Uplink | None:
        """The hub that a large message goes over."""
        ways = self.ways(peer)
        if attempt:
            ways.sort(key=lambda uplink: uplink.place.digest)
        return ways[attempt % len(ways)] if ways else None

    def idles(self, peer: Acquaintance, attempt: int) -> bool:
        """True if a large message for a node would leave soon."""
        way = self._way(peer, attempt)
        return way is not None and way.idles()

    # ── out of the connections' threads ───────────────────────────────────────────────────────

    def _post(self, function: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(function, *args)

    def _changed(self, uplink: Uplink, reason: LinkReason | None, why: str) -> None:
        self._post(self._told, uplink.place, reason, why)

    def _from_hub(self, uplink: Uplink, message: bytes) -> None:
        self._post(self._take, uplink, message)

    def _take(self, uplink: Uplink, message: bytes) -> None:
        with contextlib.suppress(ValueError):  # it is being closed
            uplink.room.release()
        self._took(uplink, message)
