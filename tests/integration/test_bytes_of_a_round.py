"""What a round of a small model costs over libp2p, from what nodes say and what goes around it."""

from __future__ import annotations

from typing import Any, Final

import pytest
from qres_transport_libp2p.curves import without_fastecdsa

with without_fastecdsa():
    from libp2p.pubsub.pb import rpc_pb2

from qres_transport_libp2p.gossip import topic_of
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.mesh import ANNOUNCERS

from qres_core.attacks.carried import size
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.kernel.config import parse
from qres_core.lab.network import SimulatedNetwork
from qres_core.lab.simulator import simulate

NODES: Final = 10
DIMENSION: Final = 1000
ROUNDS: Final = 4
WORD: Final = 4
LEAST: Final = 0.5
"""Of the ideal, which all that nodes say takes: else nothing was counted."""
MOST: Final = 1.15
AROUND: Final = 12 + 2 + 16
"""Of a frame of yamux, and of Noise around it."""
SEQNO, SIGNATURE, KEY = bytes(8), bytes(64), bytes(36)
AUTHOR: Final = peer_id(bytes(32)).to_bytes()
TOPIC: Final = topic_of("cost")


def written(rpc: rpc_pb2.RPC) -> int:
    """Bytes of an RPC on the line, by itself: what waits together costs less."""
    length = rpc.ByteSize()
    return length + (1 if length < 128 else 2) + AROUND


def beside(*, key: bool) -> int:
    """Bytes beside a frame, in gossip, to each neighbour."""
    message = rpc_pb2.Message(
        from_id=AUTHOR, seqno=SEQNO, topicIDs=[TOPIC], signature=SIGNATURE, data=bytes(300)
    )
    if key:
        message.key = KEY
    return written(rpc_pb2.RPC(publish=[message])) - 300


def announcement() -> int:
    """Bytes of one message's name to one neighbour, where no other goes with it."""
    rpc = rpc_pb2.RPC()
    rpc.control.ihave.add(topicID=TOPIC, messageIDs=[AUTHOR + SEQNO])
    return written(rpc)


def said(monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Frames that a node sends in a round, each to each counted, and their bytes."""
    counts = [0, 0]
    plain = SimulatedNetwork.carry

    def carry(network: Any, sender: Any, receiver: Any, frame: bytes, **how: Any) -> None:
        counts[0] += 1
        counts[1] += size(frame)
        plain(network, sender, receiver, frame, **how)

    monkeypatch.setattr(SimulatedNetwork, "carry", carry)
    tables = {
        "swarm": {"name": "cost", "nodes": NODES, "byzantine": 1, "quorum": NODES},
        "plugins": {
            "memory": {},
            "ed25519": {},
            "replay": {"window": 4096},
            "reputation": {},
            "krum": {"f": 1},
        },
        "trainer": {"task": {"name": "quadratic", "dimension": DIMENSION, "learning_rate": 0.002}},
        "simulation": {"rounds": ROUNDS, "seed": 1},
    }
    config = parse(tables, source="test", sections=SECTIONS)
    scenario = config.sections["simulation"]
    assert isinstance(scenario, Scenario)
    simulate(config, scenario)
    frames, octets = (count / ROUNDS / NODES for count in counts)
    return frames, octets


def test_a_round_of_a_thousand_parameters_costs_little_more_than_its_updates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control is a key in each message, and each node announcing each message."""
    frames, octets = said(monkeypatch)
    ideal = (NODES - 1) * WORD * DIMENSION
    messages = frames / (NODES - 1)

    def cost(*, key: bool, announcers: int) -> float:
        around = frames * beside(key=key) + messages * announcers * announcement()
        return (octets + around) / ideal

    assert octets > LEAST * ideal
    assert cost(key=False, announcers=ANNOUNCERS) <= MOST
    assert cost(key=True, announcers=NODES) > MOST
