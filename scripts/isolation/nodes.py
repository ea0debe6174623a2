"""The same with whole nodes: the simulator's agreement, heights and outcomes, signatures and all.

The proposers among the colluders leave nodes out of their sets, and the first heights end without a
model, after their sums were opened. In sharded rounds colluders also give their shards to some
members of committees alone, and committees open the sums.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import attrs
from qres_lab.testing import make_node_ids
from qres_secagg import Secagg

from isolation import algebra
from isolation.product import Recorder
from qres_core import NodeId, NodeInfo, hookimpl
from qres_core.attacks.scenario import Scenario
from qres_core.errors import QresError, ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import CandidateSet
from qres_core.swarm.machine.steps import Round
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import ShardPart
from qres_core.training.tasks import TaskConfig

TASK = TaskConfig(name="quadratic", dimension=5, learning_rate=0.2)


ONCE = ("ed25519.authenticate",)


@attrs.frozen
class Whole:
    """How a swarm of whole nodes fared."""

    isolated: algebra.Isolated | None
    sums: int  # independent ones that the colluders have
    voided: int  # heights that ended without a model after their sums were open
    repeated: int  # inputs that were sent more than once

    @property
    def least(self) -> int:
        """How many honest inputs a combination isolates at least; 0: no sum is open."""
        return 0 if self.isolated is None else self.isolated.size


def _drawn(rng: random.Random, aggregation: str) -> tuple[Config, int]:
    """A swarm that is allowed, and how many collude in it."""
    while True:
        nodes, corrupt = rng.randint(8, 14), rng.choice((0, 1, 1, 2))
        swarm = {
            "name": "isolation",
            "nodes": nodes,
            "byzantine": 0,
            "quorum": rng.randint((nodes + corrupt) // 2 + 1, nodes - 1),
            "deadline": 8.0,
            "vote_timeout": 1.0,
            "aggregation": aggregation,
        }
        options: dict[str, Any] = {"corrupt": (corrupt + 0.5) / nodes, "patience": 1.0}
        if rng.random() < 0.3:
            options |= {"group_size": nodes // 2, "min_size": max(3, corrupt + 2)}
        plugins = {"memory": {}, "ed25519": {}, "replay": {}, "secagg": options, "mean": {}}
        config = parse({"swarm": swarm, "plugins": plugins}, source="isolation")
        roster = make_node_ids(nodes)
        try:
            Secagg(**options).parameters(NodeInfo(roster[0], "isolation", roster), 1)
        except (QresError, ValueError):
            continue
        return config, corrupt


@contextmanager
def _void(heights: int, seen: set[int]) -> Iterator[None]:
    """The first heights end without a model, once nodes have their sums."""
    inner = Secagg.reveal

    @hookimpl
    def reveal(self: Secagg, updates: Any, contributions: Any, round_info: Any) -> Any:
        found = inner(self, updates, contributions, round_info)
        if round_info.height < heights:
            seen.add(round_info.height)
            raise ValueRefusedError.of("QRES-E507", "isolation", "no model of these")
        return found

    with mock.patch.object(Secagg, "reveal", reveal):
        yield


@contextmanager
def _leaving_out(rng: random.Random, many: int, corrupt: set[NodeId]) -> Iterator[None]:
    """Corrupt proposers leave honest nodes out: one, some, or as many as they can."""
    fresh = Round._fresh  # noqa: SLF001 - a proposer has no other place to lie at

    def proposing(made: Round, now: float) -> CandidateSet | None:
        found, context = fresh(made, now), made.context
        if not corrupt and many:
            corrupt.update(rng.sample(context.head.roster.members, many))
        if found is None or context.node_id not in corrupt:
            return found
        honest = [member for member in found.members if member.sender not in corrupt]
        spare = max(0, len(found.members) - context.quorum)
        gone = set(
            rng.sample(range(len(honest)), min(len(honest), spare, rng.choice((1, 1, 3, spare))))
        )
        out = {honest[place].sender for place in gone}
        kept = tuple(member for member in found.members if member.sender not in out)
        return attrs.evolve(found, members=kept)

    with mock.patch.object(Round, "_fresh", proposing):
        yield


@contextmanager
def _withholding(rng: random.Random, corrupt: set[NodeId]) -> Iterator[None]:
    """Corrupt senders give each shard to about half of those that are to have it."""
    give = ShardGathering._give  # noqa: SLF001 - a sender has no other place to lie at

    def giving(
        parts: ShardGathering, part: ShardPart, members: Iterable[NodeId], now: float
    ) -> None:
        if parts.me in corrupt:
            members = [member for member in members if rng.random() < 0.5]
        give(parts, part, members, now)

    with mock.patch.object(ShardGathering, "_give", giving):
        yield


def play_nodes(seed: int, aggregation: str = "everyone") -> Whole:
    """Play a swarm of whole nodes, as its seed decides; ``aggregation``: as ``[swarm]`` has it."""
    rng = random.Random(seed)  # noqa: S311 - a seed must replay
    config, many = _drawn(rng, aggregation)
    recorder, corrupt, seen = Recorder(), set[NodeId](), set[int]()
    scenario = Scenario(rounds=1, seed=seed, once=ONCE)
    with (
        recorder.running(),
        _void(rng.randint(1, 3), seen),
        _leaving_out(rng, many, corrupt),
        _withholding(rng, corrupt),
    ):
        simulate(config, scenario, task=TASK)
    equations = list(recorder.transcript.equations(corrupt))
    sent = Counter(row.input for row in recorder.transcript.rows)
    return Whole(
        isolated=algebra.isolated(equations),
        sums=algebra.rank(algebra.revealed(equations) or []),
        voided=len(seen),
        repeated=sum(count > 1 for count in sent.values()),
    )
