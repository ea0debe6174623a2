"""Gossip that is passed on only where links are missing.

In gossipsub a node sends a message to its mesh, and so does everybody who gets it: with a mesh of
six, every message goes over the line six times for each node. Here members are connected, each to
each. So a node sends what it says to everybody itself, once. Others pass it on only to a node that
asks for that, with a GRAFT. A node asks when it misses a member: for a minute in any case, and for
as long as it hears that member by way of others, which is alive then and out of its reach. Beside
that some nodes announce each message to one more neighbour, a while later, in case it was lost: all
of them where links are missing, else a few. And all announce it to those that asked once: a member
that they miss may speak again after a long silence.

Whoever asks this node makes it no neighbour that passes anything on: a liar asks all and gives
nothing. And nobody has to wait before it asks again: links come and go as they like.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

HOLD_SECONDS: Final = 60.0
"""How long a missing member, or a sign that one lives out of reach, is reason to ask others."""
AGE: Final = 2
"""Heartbeats after which a message is announced: before, it may be on its way still."""
REMIND: Final = 10
"""Heartbeats after which those that were asked are asked again: they may have lost it."""
ANNOUNCERS: Final = 4
"""How many of the nodes that have a message announce it, on average, where no link is missing: who
lost it hears of it from one of them, or when its author repeats it."""
WHOLE: Final = 1
"""The back-off of a PRUNE, in seconds, by which a node says that it reaches every member. It misses
nobody who could speak again, so it is told of nothing any more. And nobody has to wait."""
_CHANCE: Final = random.SystemRandom()


def degree_of(nodes: int, most: int) -> int:
    """Neighbours that a node asks for messages, when it misses a member; ``nodes`` in all."""
    return max(1, min(most, math.ceil(math.log2(max(2, nodes)))))


class SparseGossipSub(GossipSub):
    """A gossipsub router without a mesh, while every member is reached."""

    def join_members(self, topic: str, members: Callable[[], Collection[ID]], most: int) -> None:
        """Begin, for one topic.

        ``members``: all the others; ``most``: neighbours asked for messages.
        """
        self._topic = topic
        self._members = members
        self._most = most
        self._missing: dict[ID, float] = {}  # members that are not reached, since when
        self._out_of_reach: dict[ID, float] = {}  # when others last passed on what they said
        self._grafted: set[ID] = set()  # whom this node asked
        # Whom this node ever asked, and who of them may not know that it asks no more: what is said
        # is lost with the stream that it waits for. Of members alone, so they are few.
        self._asked: set[ID] = set()
        self._untold: set[ID] = set()
        # Whom it told only that it asks no more: while it missed a member, as it may ask again.
        self._paused: set[ID] = set()
        self._askers: set[ID] = set()  # who asked this node, ever since it was connected
        self._served: dict[ID, int] = {}  # who asks it now, and since which heartbeat
        self._heartbeats = 0
        self._beats = 0

    @property
    def passed_on(self) -> bool:
        """True if others pass on what is said, so that it costs more than once."""
        return bool(self.mesh.get(self._topic))

    def _reached(self) -> set[ID]:
        pubsub: Any = self.pubsub
        return set(pubsub.peer_topics.get(self._topic, ())) & set(pubsub.peers)

    def _asks(self) -> bool:
        """True if this node needs others to pass messages on to it."""
        now, reached = trio.current_time(), self._reached()
        members = self._members()
        self._missing = {
            peer: self._missing.get(peer, now) for peer in members if peer not in reached
        }
        self._out_of_reach = {
            peer: at for peer, at in self._out_of_reach.items() if peer in self._missing
        }
        degree = degree_of(len(members) + 1, self._most)
        needed = any(
            now - max(since, self._out_of_reach.get(peer, since)) < HOLD_SECONDS
            for peer, since in self._missing.items()
        )
        self.degree = degree if needed else 0
        self.degree_low = self.degree  # else those that are left could all be liars
        self.degree_high = max(2 * degree, len(members))  # whoever asks has a reason
        return needed

    # ── the mesh ──────────────────────────────────────────────────────────────────────────────

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        """Ask a new neighbour, if it is one of the few that are needed."""
        mesh = self.mesh.get(topic)
        if topic != self._topic or mesh is None or not self._asks():
            return
        self._grafted &= mesh
        if peer_id not in self._grafted and len(self._grafted) < self.degree_low:
            mesh.add(peer_id)
            self._note_asked({peer_id})
            await self.emit_graft(topic, peer_id)

    def mesh_heartbeat(self) -> tuple[defaultdict[ID, list[str]], defaultdict[ID, list[str]]]:
        """Ask as many neighbours as are needed now, or let go of those that were asked."""
        needed = self._asks()
        to_graft: defaultdict[ID, list[str]] = defaultdict(list)
        to_prune: defaultdict[ID, list[str]] = defaultdict(list)
        mesh = self.mesh.get(self._topic, set())
        self._grafted &= mesh
        if needed:
            self._beats += 1
            if len(self._grafted) < self.degree_low:
                lacking = self.degree - len(self._grafted)
                fresh = self.select_from_minus(lacking, self._reached(), self._grafted)
            else:
                fresh = []
            again = self._grafted if self._beats % REMIND == 0 else ()
            for peer in {*fresh, *again}:
                to_graft[peer].append(self._topic)
            mesh.update(fresh)
            self._note_asked({*fresh, *again})
        else:
            pubsub: Any = self.pubsub
            mesh -= self._grafted - self._served.keys()  # who asks this node is served still
            self._untold |= self._grafted
            self._grafted.clear()
            if not self._missing:
                self._untold |= self._paused
                self._paused.clear()
            for peer in self._untold & pubsub.peers.keys():
                to_prune[peer].append(self._topic)
                self._untold.discard(peer)
                if self._missing:
                    self._paused.add(peer)
        return to_graft, to_prune

    def _note_asked(self, peers: set[ID]) -> None:
        self._grafted |= peers
        self._asked |= peers
        self._untold -= peers

    async def handle_graft(self, graft_msg: rpc_pb2.ControlGraft, sender_peer_id: ID) -> None:
        """Remember who asks."""
        before = sender_peer_id in self.mesh.get(self._topic, ())
        await super().handle_graft(graft_msg, sender_peer_id)
        if sender_peer_id in self.mesh.get(self._topic, ()):
            self._askers.add(sender_peer_id)
            self._served.setdefault(sender_peer_id, -AGE if before else self._heartbeats)

    def pack_control_msgs(
        self,
        ihave_msgs: list[rpc_pb2.ControlIHave] | None,
        graft_msgs: list[rpc_pb2.ControlGraft] | None,
        prune_msgs: list[rpc_pb2.ControlPrune] | None,
        idontwant_msgs: list[rpc_pb2.ControlIDontWant] | None = None,
    ) -> rpc_pb2.ControlMessage:
        """Say with a PRUNE whether this node reaches every member."""
        if prune_msgs and not self._missing:
            for prune in prune_msgs:
                prune.backoff = WHOLE
        return super().pack_control_msgs(ihave_msgs, graft_msgs, prune_msgs, idontwant_msgs)

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """Remember that it asks no more; if this node asked it too, it passes on all the same."""
        await super().handle_prune(prune_msg, sender_peer_id)
        self._served.pop(sender_peer_id, None)
        if prune_msg.backoff == WHOLE:
            self._askers.discard(sender_peer_id)
        if sender_peer_id in self._grafted:
            self._grafted.discard(sender_peer_id)
            self._untold.add(sender_peer_id)

    def remove_peer(self, peer_id: ID) -> None:
        """Forget that it asked; and what it was told is not certain to have come."""
        super().remove_peer(peer_id)
        self._askers.discard(peer_id)
        self._served.pop(peer_id, None)
        if peer_id in self._asked:
            self._untold.add(peer_id)

    def _check_graft_flood_protection(self, peer_id: ID, topic: str) -> bool:
        """No flood: the budget of control messages is the limit, and no clock that is set back."""
        del peer_id, topic
        return True

    def _check_back_off(self, peer: ID, topic: str) -> bool:
        """Nobody has to wait."""
        del peer, topic
        return False

    def _perform_opportunistic_grafting(
        self, topic: str, peers_to_graft: defaultdict[ID, list[str]]
    ) -> int:
        """Nobody: the mesh is as large as it has to be."""
        del topic, peers_to_graft
        return 0

    async def _maintain_mesh_quality(self, topic: str) -> None:
        """As it is: no member is better than another."""

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Send what this node says to everybody, and pass on what others say to who asked."""
        pubsub: Any = self.pubsub
        if msg_forwarder != pubsub.my_id:
            author = ID(pubsub_msg.from_id)
            if msg_forwarder != author and author in self._missing:
                self._out_of_reach[author] = trio.current_time()
            if not self.mesh.get(self._topic, set()) - {msg_forwarder, author}:
                self.mcache.put(pubsub_msg)  # it may be asked for
                return
        await super().publish(msg_forwarder, pubsub_msg)

    def _get_peers_to_send(
        self,
        topic_ids: Iterable[str],
        msg_forwarder: ID,
        origin: ID,
        msg_id: bytes | None = None,
    ) -> Iterable[ID]:
        del topic_ids, msg_id
        pubsub: Any = self.pubsub
        mesh = self.mesh.get(self._topic, set())
        peers = self._reached() if msg_forwarder == pubsub.my_id else mesh
        return peers - {msg_forwarder, origin}

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """Announce each message once: to a neighbour that may lack it, and to who asked once.

        Also to those that asked only after it was passed on: they did not get it then.
        """
        told: defaultdict[ID, dict[str, list[bytes]]] = defaultdict(dict)
        self._heartbeats += 1
        late = {peer for peer, since in self._served.items() if self._heartbeats - since <= AGE + 1}
        peers = self._reached() - (self.mesh.get(self._topic, set()) - late)
        parted = self._missing or self._served
        chance = 1.0 if parted else ANNOUNCERS / max(1, len(self._reached()))
        for entry in self.mcache.history[AGE]:
            message = self.mcache.get(entry.mid)
            author = None if message is None else ID(message.from_id)
            others = [peer for peer in peers if peer != author]
            chosen = self._askers.intersection(others)
            if others and _CHANCE.random() < chance:
                chosen.add(_CHANCE.choice(others))
            for peer in chosen:
                told[peer].setdefault(self._topic, []).append(entry.mid)
        return told
