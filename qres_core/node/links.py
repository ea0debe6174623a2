"""Links to neighbours that ended or did not come to be: the reasons, and the counts."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import anyio
import attrs

from qres_core.contract.transport import LinkReason, TransportEvent
from qres_core.contract.types import NodeId
from qres_core.node.telling import Teller

PEERS: Final = 1024
"""Neighbours told apart; of more, whose members changed, the one first heard of is forgotten."""
EVERY: Final = 60.0
"""Seconds between two lines of the log about one neighbour."""
MAX_DETAIL: Final = 200


@attrs.define(eq=False)
class _Count:
    """Count of one neighbour's links that ended for one reason."""

    count: int = 0
    at: float = 0.0  # the last time, seconds since 1970
    detail: str = ""  # what was said of it then


@attrs.define(eq=False)
class _Neighbour:
    """All of one neighbour, and what of it the log has not told."""

    counts: dict[LinkReason, _Count] = attrs.field(factory=dict[LinkReason, _Count])
    untold: Counter[LinkReason] = attrs.field(factory=Counter[LinkReason])
    detail: str = ""  # of the newest


@attrs.define(eq=False)
class LinkBook:
    """Keeps the reasons by neighbour; ``None`` stands for all that proved no member's key."""

    _neighbours: dict[NodeId | None, _Neighbour] = attrs.field(
        factory=dict[NodeId | None, _Neighbour]
    )

    def note(self, event: TransportEvent, at: float) -> None:
        """Take what the transport reports; ``at``: seconds since 1970."""
        if event.reason is None:
            return
        neighbour = self._neighbours.setdefault(event.peer, _Neighbour())
        if len(self._neighbours) > PEERS:
            del self._neighbours[next(iter(self._neighbours))]
        kept = neighbour.counts.setdefault(event.reason, _Count())
        kept.count, kept.at, kept.detail = kept.count + 1, at, event.detail[:MAX_DETAIL]
        neighbour.untold[event.reason] += 1
        neighbour.detail = kept.detail

    def facts(self) -> list[dict[str, Any]]:
        """Ready for JSON: for each neighbour and reason how often, and the last time."""
        return [
            {
                "peer": None if peer is None else peer.hex(),
                "reason": str(reason),
                "count": kept.count,
                "at": kept.at,
                "detail": kept.detail,
            }
            for peer, neighbour in self._neighbours.items()
            for reason, kept in neighbour.counts.items()
        ]

    def tell(self, teller: Teller) -> None:
        """Log what was not told yet, one line for each neighbour."""
        for peer, neighbour in self._neighbours.items():
            if neighbour.untold:
                counts = {str(reason): count for reason, count in neighbour.untold.items()}
                teller.links(peer, counts, neighbour.detail)
                neighbour.untold.clear()

    async def tell_often(self, teller: Teller) -> None:
        """Log once a minute, until cancelled."""
        while True:
            await anyio.sleep(EVERY)
            self.tell(teller)
