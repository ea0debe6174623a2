"""Gossip goes over the line once, and is passed on only where links are missing."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import signature_validator
from qres_carrier import TokenBucket
from qres_transport_libp2p import gossip, mesh
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.mesh import (
    AGE,
    ANNOUNCERS,
    HOLD_SECONDS,
    REMIND,
    WHOLE,
    SparseGossipSub,
    degree_of,
)
from qres_transport_libp2p.pubsub import GOSSIPSUB, Gate, SafePubsub, tuned_gossipsub

TOPIC = "qres/test"
PEERS = [peer_id(bytes([number]) * 32) for number in range(2, 8)]


def test_few_are_asked_in_a_small_swarm() -> None:
    assert [degree_of(nodes, 6) for nodes in (1, 2, 4, 10, 40, 1000)] == [1, 1, 2, 4, 6, 6]
    assert degree_of(1000, 2) == 2


class Router:
    """A router whose neighbours are names, and what it sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[ID, rpc_pb2.RPC]] = []
        self.router = tuned_gossipsub(6)
        nothing: Any = None
        gate = Gate(nothing, nothing, nothing, nothing, nothing, nothing, lambda: PEERS)
        self.pubsub = SafePubsub(
            new_host(key_pair=create_new_key_pair(bytes(32))),
            self.router,
            topic=TOPIC,
            max_data=1000,
            queue=8,
            bucket=lambda: TokenBucket(1.0, 4),
            gate=gate,
        )
        send: Any = lambda peer, rpc, priority=False: self.sent.append((peer, rpc))  # noqa: E731, ARG005
        self.router.send_rpc = send
        self.router.mesh[TOPIC] = set()

    def reach(self, *peers: ID) -> None:
        stream: Any = object()
        self.pubsub.peers = dict.fromkeys(peers, stream)
        self.pubsub.peer_topics[TOPIC] = set(peers)
        for peer in peers:
            self.router.peer_protocol[peer] = GOSSIPSUB

    async def beat(self) -> set[str]:
        """A heartbeat; which control messages it sends."""
        self.sent.clear()
        router = self.router
        graft, prune = router.mesh_heartbeat()
        await router._emit_control_msgs(graft, prune, router.gossip_heartbeat())
        router.mcache.shift()
        kinds = ("graft", "prune", "ihave")
        return {kind for _peer, rpc in self.sent for kind in kinds if getattr(rpc.control, kind)}

    def message(self, author: ID, number: int = 1) -> rpc_pb2.Message:
        made = rpc_pb2.Message(
            from_id=author.to_bytes(), seqno=number.to_bytes(8, "big"), data=b"x" * 100
        )
        made.topicIDs.append(TOPIC)
        return made

    def published(self) -> list[ID]:
        return [peer for peer, rpc in self.sent if rpc.publish]


def run(main: Callable[[Router], Any]) -> None:
    router = Router()

    async def play() -> None:
        await main(router)

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
    router.pubsub.seen_messages.stop()


def test_who_reaches_everybody_has_no_mesh_and_sends_what_it_says_to_all() -> None:
    async def main(made: Router) -> None:
        made.reach(*PEERS)
        assert await made.beat() == set()
        await made.router.publish(made.pubsub.my_id, made.message(made.pubsub.my_id))
        assert len(made.published()) == len(PEERS)
        assert set(made.published()) == set(PEERS)
        made.sent.clear()
        await made.router.publish(PEERS[0], made.message(PEERS[0]))
        assert made.sent == [], "nobody asked for what others say"
        made.router.mesh[TOPIC].add(PEERS[1])  # it sent a GRAFT
        await made.router.publish(PEERS[0], made.message(PEERS[0], 2))
        assert made.published() == [PEERS[1]]

    run(main)


def test_a_message_carries_its_author_once_and_its_signature_holds() -> None:
    """38 bytes of PeerId, 64 of signature, 8 of number: little else goes beside the frame."""

    async def main(made: Router) -> None:
        made.reach(*PEERS)
        frame = bytes(300)
        await made.pubsub.publish(TOPIC, frame)
        assert len(made.sent) == len(PEERS)
        for _peer, rpc in made.sent:
            (message,) = rpc.publish
            rpc.ClearField("senderRecord")  # as before it is written
            assert rpc.ByteSize() <= len(frame) + 38 + 64 + 8 + len(TOPIC) + 20
            assert signature_validator(message)
        (message,) = made.sent[0][1].publish
        message.seqno = bytes(8)
        assert not signature_validator(message), "control"

    run(main)


def test_who_misses_a_member_asks_for_a_while_and_lets_go() -> None:
    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        assert await made.beat() == {"graft"}
        assert len(made.router.mesh[TOPIC]) == degree_of(len(PEERS) + 1, 6)
        made.router.mesh[TOPIC].add(PEERS[1])  # one that asked this node
        made.router._grafted.discard(PEERS[1])
        await trio.sleep(HOLD_SECONDS + 1)
        assert await made.beat() == {"prune"}, "the member is gone, nobody hears of it"
        assert made.router.mesh[TOPIC] == {PEERS[1]}, "who asked is still served"
        assert await made.beat() == set()

    run(main)


def test_who_hears_a_missing_member_by_way_of_others_goes_on_asking() -> None:
    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        for number in range(10):
            await made.beat()
            await made.router.publish(PEERS[1], made.message(PEERS[0], number))
            await trio.sleep(HOLD_SECONDS / 2)
            assert made.router._grafted, number
        made.reach(*PEERS)
        assert "prune" in await made.beat(), "now it is reached"
        assert not made.router.mesh[TOPIC]

    run(main)


def test_a_message_is_announced_once_to_one_that_may_lack_it() -> None:
    async def main(made: Router) -> None:
        made.reach(PEERS[0], PEERS[1])
        made.router._most = 0
        made.router._members = lambda: PEERS[:2]
        await made.router.publish(PEERS[0], made.message(PEERS[0]))
        told: list[ID] = []
        for beat in range(8):
            kinds = await made.beat()
            assert kinds == ({"ihave"} if beat == AGE else set())
            told += [peer for peer, rpc in made.sent if rpc.control.ihave]
        assert told == [PEERS[1]], "its author has it"

    run(main)


@pytest.mark.parametrize(
    ("nodes", "parted"), [(4, False), (10, False), (40, False), (10, True), (40, True)]
)
def test_a_few_nodes_announce_a_message_however_many_have_it(
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
    parted: bool,  # noqa: FBT001 - the case
) -> None:
    """All of them where a link is missing."""
    monkeypatch.setattr(mesh, "_CHANCE", random.Random(1))
    peers = [peer_id(bytes([number]) * 32) for number in range(2, nodes + 1)]
    count = 2000

    async def main(made: Router) -> None:
        made.reach(*peers)
        made.router._members = lambda: peers + PEERS[:1] * parted + [peer_id(bytes(32))] * parted
        for number in range(count):
            made.router.mcache.put(made.message(peers[0], number))
        told = 0
        for _ in range(AGE + 1):
            await made.beat()
            said = [item for _peer, rpc in made.sent for item in rpc.control.ihave]
            told += sum(len(item.messageIDs) for item in said)
        chance = 1.0 if parted else min(1.0, ANNOUNCERS / (nodes - 1))
        spread = (count * chance * (1 - chance)) ** 0.5
        assert abs(told - count * chance) <= 5 * spread

    run(main)


def graft_of(*peers: ID) -> list[tuple[ID, rpc_pb2.ControlGraft]]:
    return [(peer, rpc_pb2.ControlGraft(topicID=TOPIC)) for peer in peers]


@pytest.mark.parametrize("mended", [True, False])
def test_liars_that_ask_this_node_do_not_keep_it_from_asking_others(
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """The control counts, as gossipsub does, whoever asked as one that passes messages on."""
    if not mended:
        monkeypatch.setattr(SparseGossipSub, "mesh_heartbeat", GossipSub.mesh_heartbeat)

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        made.router._asks()
        liars = PEERS[1 : 1 + made.router.degree_low]
        for peer, graft in graft_of(*liars):
            await made.router.handle_graft(graft, peer)
        await made.beat()
        asked = {peer for peer, rpc in made.sent if rpc.control.graft}
        assert len(asked) == (degree_of(len(PEERS) + 1, 6) if mended else 0)

    run(main)


@pytest.mark.parametrize("mended", [True, False])
def test_a_node_that_let_go_may_ask_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """Its neighbours, too, serve it; the control waits a minute of the machine's clock."""
    if not mended:
        for name in ("_check_back_off", "_check_graft_flood_protection"):
            monkeypatch.setattr(SparseGossipSub, name, getattr(GossipSub, name))

    async def main(made: Router) -> None:
        (peer, graft), neighbour = graft_of(PEERS[1])[0], made.router.mesh[TOPIC]
        made.reach(*PEERS)
        await made.router.handle_graft(graft, peer)
        await made.router.handle_prune(rpc_pb2.ControlPrune(topicID=TOPIC), peer)
        await made.router.handle_graft(graft, peer)
        assert (neighbour == {peer}) is mended

    run(main)


def test_another_is_asked_for_each_that_leaves() -> None:
    """Those that are left may be liars."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        await made.beat()
        asked = set(made.router._grafted)
        gone = next(iter(asked))
        made.router.remove_peer(gone)
        made.reach(*(peer for peer in PEERS[1:] if peer != gone))
        assert await made.beat() == {"graft"}
        assert len(made.router._grafted) == len(asked)
        assert gone not in made.router._grafted

    run(main)


def test_who_was_asked_is_reminded_while_it_is_needed() -> None:
    """A neighbour whose stream was renewed has forgotten who asked it."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        kinds = [await made.beat() for _ in range(2 * REMIND)]
        assert [number + 1 for number, kind in enumerate(kinds) if kind] == [1, REMIND, 2 * REMIND]
        assert kinds[-1] == {"graft"}

    run(main)


def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stream that ends take with it what has yet to be told."""
    plain = SparseGossipSub.remove_peer

    def remove_peer(self: SparseGossipSub, peer_id: ID) -> None:
        plain(self, peer_id)
        self._untold.discard(peer_id)

    monkeypatch.setattr(SparseGossipSub, "remove_peer", remove_peer)


@pytest.mark.parametrize("mended", [True, False])
@pytest.mark.parametrize("lost", ["before", "with", "after"])
def test_who_was_asked_over_another_stream_is_told_when_it_is_needed_no_more(
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """Else it passes on for ever what it hears, and so does this node, whose mesh it is in."""
    if not mended:
        forgotten(monkeypatch)

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        await made.beat()
        asked = set(made.router._grafted)
        changed = next(iter(asked))
        others = [peer for peer in PEERS if peer != changed]
        told: list[ID] = []

        async def beat() -> None:
            kinds = await made.beat()
            assert "graft" not in kinds
            told.extend(peer for peer, rpc in made.sent if rpc.control.prune)

        if lost == "before":  # its stream is made anew while it is needed, and then it is not
            made.router.remove_peer(changed)
        elif lost == "with":  # there is no stream at the moment at which it would be told
            made.router.remove_peer(changed)
            made.reach(*others)
            made.router._asks = lambda: False  # whom it misses is a member no more
            await beat()
            assert changed not in told
        else:  # it was told, over a stream that ended before that was written
            made.reach(*PEERS)
            await beat()
            made.router.remove_peer(changed)
        made.reach(*PEERS)
        await beat()
        assert set(told) == (asked if mended or lost == "after" else asked - {changed})
        assert told.count(changed) == {"before": 1, "with": 1, "after": 2}[lost] - (not mended)
        for _ in range(2 * REMIND):
            await beat()
        assert len(told) == len(asked) + (lost == "after") - (not mended), "and no more than that"

    run(main)


@pytest.mark.parametrize("mended", [True, False])
def test_who_lets_go_goes_on_serving_who_asked_it(
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """Two that asked each other, as in the middle of a line. The control forgets who asked."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        await made.beat()
        both = next(iter(made.router._grafted))
        await made.router.handle_graft(graft_of(both)[0][1], both)
        if not mended:
            made.router._served.clear()
        made.reach(*PEERS)
        assert await made.beat() == {"prune"}
        assert both in [peer for peer, rpc in made.sent if rpc.control.prune]
        assert made.router.mesh[TOPIC] == ({both} if mended else set())
        await made.router.handle_prune(rpc_pb2.ControlPrune(topicID=TOPIC), both)
        assert not made.router.mesh[TOPIC], "now it asks no more"

    run(main)


def test_two_that_asked_each_other_both_let_go() -> None:
    """Each serves the other until it is told, and is told once, in whatever order."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        await made.beat()
        both = next(iter(made.router._grafted))
        await made.router.handle_graft(graft_of(both)[0][1], both)
        await made.router.handle_prune(rpc_pb2.ControlPrune(topicID=TOPIC), both)  # it is first
        made.reach(*PEERS)
        assert await made.beat() == {"prune"}
        assert [peer for peer, rpc in made.sent if rpc.control.prune].count(both) == 1
        assert not made.router.mesh[TOPIC]
        await made.router.handle_prune(rpc_pb2.ControlPrune(topicID=TOPIC), both)
        assert await made.beat() == set(), "no word follows upon the other for ever"

    run(main)


@pytest.mark.parametrize("beats", [0, 1, 2])
@pytest.mark.parametrize("mended", [True, False])
def test_who_asks_just_after_a_message_was_passed_on_is_told_of_it(
    beats: int,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """The control takes everybody in the mesh for one that has all that was passed on."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[:2])
        made.router._most = 0
        made.router._members = lambda: PEERS[:2]
        await made.router.publish(PEERS[0], made.message(PEERS[0]))
        told: list[ID] = []
        for beat in range(8):
            if beat == beats:
                await made.router.handle_graft(graft_of(PEERS[1])[0][1], PEERS[1])
            if not mended:
                made.router._served.clear()
            await made.beat()
            told += [peer for peer, rpc in made.sent if rpc.control.ihave]
            if beat > beats + AGE:
                await made.router.publish(PEERS[0], made.message(PEERS[0], beat))
                assert made.published() == [PEERS[1]]
        assert told == ([PEERS[1]] if mended else [])

    run(main)


@pytest.mark.parametrize("whole", [True, False], ids=["guarded", "control"])
def test_who_asked_and_now_reaches_everybody_is_told_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,  # noqa: FBT001 - the case
) -> None:
    """All nodes ask each other when a swarm begins; each would be told of each message for ever."""
    monkeypatch.setattr(mesh, "ANNOUNCERS", 0)

    async def main(made: Router) -> None:
        made.reach(*PEERS)
        for peer, graft in graft_of(*PEERS[1:4]):
            await made.router.handle_graft(graft, peer)
            prune = rpc_pb2.ControlPrune(topicID=TOPIC, backoff=WHOLE if whole else 60)
            await made.router.handle_prune(prune, peer)
        await made.router.publish(PEERS[0], made.message(PEERS[0]))
        told: set[ID] = set()
        for _ in range(AGE + 1):
            await made.beat()
            told |= {peer for peer, rpc in made.sent if rpc.control.ihave}
        assert told == (set() if whole else set(PEERS[1:4]))

    run(main)


def test_who_reaches_everybody_says_so_to_all_that_it_asked() -> None:
    """Also to those that it told before only that it asks no more."""

    async def main(made: Router) -> None:
        made.reach(*PEERS[1:])
        await made.beat()
        asked = set(made.router._grafted)
        await trio.sleep(HOLD_SECONDS + 1)
        for back, expected in ((False, 0), (True, WHOLE)):
            if back:
                made.reach(*PEERS)
            assert await made.beat() == {"prune"}
            prunes = {peer: rpc.control.prune[0].backoff for peer, rpc in made.sent}
            assert prunes == dict.fromkeys(asked, expected)
        assert await made.beat() == set()

    run(main)


def test_who_asked_once_is_told_of_each_message_after_a_silence() -> None:
    """A hub's neighbours do not reach each other: one of them alone would be told else."""

    async def main(made: Router) -> None:
        made.reach(*PEERS)
        for peer, graft in graft_of(*PEERS[1:4]):
            await made.router.handle_graft(graft, peer)
            await made.router.handle_prune(rpc_pb2.ControlPrune(topicID=TOPIC), peer)
        made.router.remove_peer(PEERS[3])
        made.reach(*PEERS)
        assert not made.router.mesh[TOPIC]
        told: set[ID] = set()
        await made.router.publish(PEERS[0], made.message(PEERS[0]))
        for _ in range(AGE + 1):
            await made.beat()
            told |= {peer for peer, rpc in made.sent if rpc.control.ihave}
        assert set(PEERS[1:3]) <= told, "they asked once"
        assert len(told) <= 3, "one more at most: it is chosen among all"

    run(main)


# ── real nodes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-libp2p-25")
@pytest.mark.control("C-libp2p-25")
@pytest.mark.parametrize("sparse", [True, False])
def test_among_members_that_are_connected_a_message_goes_over_each_line_once(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    sparse: bool,  # noqa: FBT001 - the case
) -> None:
    """The control is libp2p's own way to choose whom a message is sent to."""
    roster = lab.members(5)
    sent: list[bytes] = []
    plain: Any = GossipSub.send_rpc

    def counted(self: Any, peer: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:  # noqa: FBT001, FBT002
        sent.extend(message.data for message in rpc.publish)
        plain(self, peer, rpc, priority)

    monkeypatch.setattr(GossipSub, "send_rpc", counted)
    if not sparse:
        for name in (
            "publish",
            "_get_peers_to_send",
            "gossip_heartbeat",
            "mesh_heartbeat",
            "on_peer_subscribed",
        ):
            monkeypatch.setattr(SparseGossipSub, name, getattr(GossipSub, name))

        def meshed(degree: int) -> Any:
            router = tuned_gossipsub(degree)
            router.degree_low = 4
            return router

        monkeypatch.setattr(gossip, "tuned_gossipsub", meshed)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            nodes = [lab.transport(me, roster) for me in roster]
            await swarm.start(*nodes)
            await lab.connected(*nodes)

            async def passed_on() -> list[bool]:
                return [node._parts.gossip._router.passed_on for node in nodes]

            with anyio.fail_after(lab.PATIENCE):
                while set(await nodes[0]._call(passed_on)) != {not sparse}:  # noqa: ASYNC110
                    await anyio.sleep(0.1)
            frames = [b"frame %d" % number for number in range(10)]
            for frame in frames:
                await nodes[0].broadcast(frame)
                for other in nodes[1:]:
                    await lab.heard(other, frame)
            if sparse:
                assert sorted(sent) == sorted(frames * (len(nodes) - 1))
            else:
                assert len(sent) > 1.5 * len(frames) * (len(nodes) - 1)

    anyio.run(main)


@pytest.mark.claim("C-libp2p-25")
@pytest.mark.parametrize("hold", [0.0, HOLD_SECONDS])
def test_what_no_link_carries_comes_by_way_of_another(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    hold: float,
) -> None:
    """A line of three: passed on at once where that is asked for, and announced where it is not."""
    monkeypatch.setattr(mesh, "HOLD_SECONDS", hold)
    first, middle, last = roster = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            one_end = lab.transport(first, roster, dial=[middle])
            between = lab.transport(middle, roster, dial=[])
            other = lab.transport(last, roster, dial=[middle])
            await swarm.start(one_end, between, other)
            await lab.connected(one_end, between)
            await lab.connected(between, other)
            for number in range(3):
                await one_end.broadcast(b"%d" % number)
                delivery = await lab.heard(other, b"%d" % number)
                assert (delivery.link, delivery.author) == (middle.node_id, first.node_id)

    anyio.run(main)
