"""A budget for gossip's control messages: GRAFT, PRUNE, IHAVE and IWANT.

libp2p 0.8.1 answers an IWANT as often as it names a message, signs a PRUNE for a GRAFT of any
topic, and remembers topics that it never heard of. Here a neighbour is sent each message once,
other topics are not looked at, and whoever sends too much is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import safe_bytes_from_hex
from qres_carrier import TokenBucket

from qres_transport_libp2p.mesh import SparseGossipSub
from qres_transport_libp2p.services import without_unlisted

CONTROL_PER_SECOND: Final = 100.0
"""Control messages a second taken from a neighbour, on average; a heartbeat sends a few."""
CONTROL_BURST: Final = 400.0
IDS_EACH: Final = 200
"""Names of messages that cost as much as a control message."""
FAR: Final = 10.0
"""How many times the budget a neighbour may send before it is cut off."""
REMEMBERED: Final = 4096
"""Answers to a neighbour that are remembered; more are looked through for those that are over."""
TOO_FAST: Final = "control too fast"
OTHER_TOPIC: Final = "control for another topic"
UNLISTED: Final = "a field that is not used"


class FrugalGossipSub(SparseGossipSub):
    """A gossipsub router whose neighbours cannot make it work, or talk, without end."""

    def keep_to(self, dropped: Callable[[str], object], flooded: Callable[[ID], object]) -> None:
        """Begin, after :meth:`join_members`.

        ``dropped``: told why control messages are dropped; ``flooded``: told of a neighbour that
        sends far too many.
        """
        self._dropped = dropped
        self._flooded = flooded
        self._budgets: dict[ID, tuple[TokenBucket, TokenBucket]] = {}
        self._answered: dict[ID, set[bytes]] = {}
        self.max_iwant_requests_per_second = math.inf  # a refused answer would be remembered

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Take control messages while the neighbour's budget lasts."""
        control = rpc.control
        if not self.affords(sender_peer_id, _cost(control)):
            return
        if _drop_others(control, self._topic):
            self._dropped(OTHER_TOPIC)
        unlisted = without_unlisted(control)
        for kind in (control.ihave, control.iwant, control.graft, control.prune):
            for item in kind:
                unlisted = without_unlisted(item) or unlisted
        if unlisted:
            self._dropped(UNLISTED)
        without_unlisted(rpc)
        await super().handle_rpc(rpc, sender_peer_id)

    def affords(self, peer: ID, cost: float) -> bool:
        """Take the cost of some control messages, or subscriptions, from a neighbour's budget.

        Whether it was there. Whoever exceeds it is told of, or cut off.
        """
        near, far = self._budget(peer)
        if not far.take(cost):
            self._flooded(peer)
            return False
        if not near.take(cost):
            self._dropped(TOO_FAST)
            return False
        return True

    def _budget(self, peer: ID) -> tuple[TokenBucket, TokenBucket]:
        found = self._budgets.get(peer)  # of members alone, so they are few
        if found is None:
            found = self._budgets[peer] = (
                TokenBucket(CONTROL_PER_SECOND, CONTROL_BURST),
                TokenBucket(FAR * CONTROL_PER_SECOND, FAR * CONTROL_BURST),
            )
        return found

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send what is asked for and is here, once to each neighbour."""
        answered = self._answered.setdefault(sender_peer_id, set())
        wanted: list[bytes] = []
        for name in iwant_msg.messageIDs:
            decoded = safe_bytes_from_hex(name)
            if decoded is not None and decoded in self.mcache.msgs and decoded not in answered:
                answered.add(decoded)
                wanted.append(name)
        if len(answered) > REMEMBERED:
            answered.intersection_update(self.mcache.msgs)
        if wanted:
            await super().handle_iwant(rpc_pb2.ControlIWant(messageIDs=wanted), sender_peer_id)


def _cost(control: Any) -> float:
    named = sum(
        len(item.messageIDs)
        for kind in (control.ihave, control.iwant, control.idontwant)
        for item in kind
    )
    many = (control.ihave, control.iwant, control.graft, control.prune, control.idontwant)
    return sum(len(kind) for kind in many) + named / IDS_EACH


def _drop_others(control: Any, topic: str) -> bool:
    """Take out what is about another topic; whether there was any."""
    found = False
    for kind in (control.ihave, control.graft, control.prune):
        kept = [item for item in kind if item.topicID == topic]
        if len(kept) < len(kind):
            found = True
            del kind[:]
            kind.extend(kept)
    return found
