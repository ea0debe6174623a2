"""Members that change between heights, through the kernel and the plugins of a whole stack."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import attrs
import pytest
from qres_lab.testing import make_envelope

from qres_core import (
    Blame,
    Envelope,
    Fault,
    NodeId,
    NodeInfo,
    RoundInfo,
    Standing,
    Visibility,
)
from qres_core.kernel.config import parse
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.node_ids import node_ids

NOW = 1_700_000_000.0
SWARM: dict[str, Any] = {"name": "testing", "nodes": 8, "byzantine": 1, "quorum": 7}
STACK: dict[str, Any] = {
    "memory": {},
    "ed25519": {},
    "replay": {},
    "reputation": {},
    "dp": {
        "mode": "distributed",
        "clip": 0.5,
        "delta": 1e-6,
        "epsilon": 8.0,
        "rounds": 50,
        "honest": 4,
    },
    "zk": {"bound": 32.0, "clip": False, "k": 512},
    "secagg": {"bound": 32.0, "noise_room": 256.0},
    "mean": {"unprotected": True},
}
"""Everything that looks at the members, with a rule that protects nothing: nothing is merged."""


@attrs.define(eq=False)
class Heights:
    """Ten nodes with kernels, of which some are members at each height."""

    kernels: dict[NodeId, Kernel]
    members: tuple[NodeId, ...] = ()
    number: int = 0
    said: int = 0

    def enter(self, members: Collection[NodeId], banned: Collection[NodeId] = ()) -> None:
        """A height begins at all members, and its first round opens."""
        self.members, self.number = tuple(sorted(members)), self.number + 1
        n = len(self.members)
        round_info = RoundInfo(
            "testing",
            self.number,
            bytes(32),
            20,
            0,
            self.members,
            n - 1,
            byzantine=1,
            height=self.number,
            head=bytes([self.number]) * 32,
        )
        for member in self.members:
            kernel = self.kernels[member]
            kernel.enter(frozenset(self.members), frozenset(banned))
            assert set(kernel.round_opened(round_info)) == {"secagg"}

    def say(self, sender: NodeId) -> Envelope:
        self.said += 1
        kernel = self.kernels[sender]
        envelope = make_envelope(
            sender=sender, kind="prevote", sequence=self.said, time_ms=int(NOW * 1000)
        )
        return kernel.sign(envelope)

    def hear(self, envelope: Envelope, source: NodeId | None = None) -> set[str]:
        """How the members but the sender take it: reasons, or nothing for those that accept."""
        found: set[str] = set()
        for member in self.members:
            if member != envelope.sender:
                taken = self.kernels[member].inbound(
                    envelope.to_bytes(), source or envelope.sender, NOW
                )
                if isinstance(taken, Rejection):
                    assert taken.blame is Blame.NOBODY, taken
                    found.add(str(taken.reason))
                else:
                    found.add("")
        return found


@pytest.fixture
def heights() -> Iterator[Heights]:
    config = parse({"swarm": SWARM, "plugins": STACK}, source="test")
    seeds = node_ids(10, 0)
    kernels: dict[NodeId, Kernel] = {}
    made: list[Kernel] = []
    for seed in seeds:
        kernel = Kernel.from_config(config)
        node_id = kernel.identity(seed)
        assert node_id is not None
        kernels[node_id] = kernel
        made.append(kernel)
    ids = tuple(kernels)
    first = tuple(sorted(ids[:8]))
    for node_id, kernel in kernels.items():
        # A newcomer is set up with the members that it joins.
        roster = first if node_id in first else tuple(sorted({*first, node_id}))
        kernel.setup(
            NodeInfo(
                node_id, "testing", roster, byzantine=1, seed=0, visibility=Visibility.INDIVIDUAL
            )
        )
        kernel.fit(20)
    yield Heights(kernels, ids)
    for kernel in made:
        kernel.teardown()


def test_members_come_and_go_and_nobody_honest_is_held_to_account(heights: Heights) -> None:
    *first, newcomer, later = heights.members
    gone = first[2]
    heights.enter(first)
    early, before = heights.say(newcomer), heights.say(gone)
    assert heights.hear(early, source=first[0]) == {Fault.UNKNOWN_SENDER}
    assert heights.hear(before) == {""}
    # It joins.
    heights.enter([*first, newcomer])
    assert heights.hear(early) == {""}
    assert heights.hear(early) == {Fault.REPLAYED}
    assert heights.hear(heights.say(first[0])) == {""}
    # Another leaves; what it said is still proved by its signature, at the height it was said at.
    heights.enter([node for node in heights.members if node != gone])
    assert heights.hear(heights.say(gone), source=first[0]) == {Fault.UNKNOWN_SENDER}
    judge = heights.kernels[newcomer]
    assert judge.authentic(before, NOW, frozenset(first))
    assert not judge.authentic(before, NOW)
    forged = attrs.evolve(before, payload=b"something else")
    assert not judge.authentic(forged, NOW, frozenset(first))
    # One more joins, and the one that left comes back: what it said before is not new.
    heights.enter([*heights.members, gone, later])
    assert heights.hear(before) >= {Fault.REPLAYED}
    assert heights.hear(heights.say(gone)) == {""}
    assert heights.hear(heights.say(later)) == {""}
    for member in heights.members:
        for other in heights.members:
            assert heights.kernels[member].standing(other) == Standing()


def test_whom_a_height_bans_is_out_until_a_height_does_not(heights: Heights) -> None:
    *first, _newcomer, _later = heights.members
    heights.enter(first, banned=[first[1]])
    assert heights.hear(heights.say(first[1])) == {Fault.BANNED}
    assert heights.hear(heights.say(first[2])) == {""}
    heights.enter(first)
    assert heights.hear(heights.say(first[1])) == {""}


def test_a_change_that_breaks_a_promise_of_a_plugin_is_refused_by_all_beforehand(
    heights: Heights,
) -> None:
    *first, newcomer, _later = heights.members
    told = {
        tuple(str(problem) for problem in kernel.refusals(members, 1, len(members) - 1))
        for kernel in heights.kernels.values()
        for members in ([*first, newcomer], first[:6])
    }
    assert told == {()}
    fewer = {
        tuple(problem.where for problem in kernel.refusals(first[:4], 1, 3))
        for kernel in heights.kernels.values()
    }
    assert fewer == {("plugins.dp.honest", "secagg")}
