"""The round of one real node among n, whose messages are made by rule.

The node is a whole round machine with its plugins. It checks every signature, hash and path, merges
its shards, pulls the others and votes. Nobody else is played: what the others of a quiet swarm
would send to it is made by the functions that real nodes encode with, signed with keys of their
own, and given to it in the order of a quiet round. So a swarm of thousands
takes the memory of one node, and what is counted is exactly what one node of it receives and does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_quantize import Quantize
from qres_quantize.rounding import rounded

from qres_core import (
    Envelope,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
    Vector,
    model_digest,
    packing,
)
from qres_core.contract.fixed import add_saturating
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.lab.meter import Meter
from qres_core.lab.nodes import identify
from qres_core.swarm.context.effects import Effect, Refused, RoundEnded
from qres_core.swarm.context.position import node_info, round_info
from qres_core.swarm.ledger.merkle import leaf_hash, merkle_path, merkle_root
from qres_core.swarm.ledger.messages import (
    CERTIFICATE,
    CONTRIBUTION,
    OUTCOME_PRECOMMIT,
    OUTCOME_PREVOTE,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    CandidateSet,
    Certificate,
    ContributionBody,
    Member,
    Proposal,
    contribution_digest,
    encode_conclusion,
    encode_vote,
)
from qres_core.swarm.ledger.results import Conclusion, Merged
from qres_core.swarm.machine.rounds import RoundMachine, round_machine
from qres_core.swarm.runtime.driver import Driver, Ports, Told
from qres_core.swarm.shards.committees import ShardPlan, pack_shard
from qres_core.swarm.shards.messages import (
    HELD,
    HELD_BLOCK,
    PART,
    PULL,
    RESULT,
    SHARD_MERGED,
    ContributionHeader,
    HeldBlock,
    MergedShard,
    ShardPart,
    block_digest,
    decode_pull,
    encode_held,
    encode_pull,
    encode_shard_results,
)
from qres_core.swarm.storage.journal import MemoryJournal

START = 1_700_000_000.0


def config(n: int, f: int, rule: str = "median", bits: int = 0, **swarm: Any) -> Config:
    """A quiet swarm with signatures and a replay check.

    ``bits``: to which updates are rounded; 0 for not.
    """
    table = {
        "name": "scale",
        "nodes": n,
        "byzantine": f,
        "quorum": n - f,
        "aggregation": "sharded",
        **swarm,
    }
    plugins: dict[str, dict[str, Any]] = {"memory": {}, "ed25519": {}, "replay": {}}
    plugins |= {rule: {"f": f}} | ({"quantize": {"bits": bits}} if bits else {})
    return parse({"swarm": table, "plugins": plugins}, source="benchmark")


@attrs.frozen
class Path:
    """What the round of one node took.

    Attributes:
        received: bytes by what they are for.
        seconds: processor time of the node, all in all.
        merging: processor time of the rule at the node.
        whole: processor time of the rule at a node that merges all coordinates.
        everyone: bytes of all contributions at a node that takes them in whole.
    """

    received: dict[str, int]
    seconds: float
    merging: float
    whole: float
    everyone: int

    @property
    def total(self) -> int:
        """Bytes received."""
        return sum(self.received.values())

    @property
    def unsharded(self) -> int:
        """Bytes that it would receive if everyone took in all updates: the votes are the same."""
        return self.everyone + self.received["choice"] + self.received["outcome"]


class OneNode:
    """The first member of a swarm in a quiet round.

    Args:
        swarm: the configuration.
        d: coordinates.
        seed: of the updates.
        most: the largest number of an update. By default they are random over all of the grid:
            nothing of them packs.
    """

    def __init__(self, swarm: Config, d: int, seed: int = 0, most: int = 2**31 - 1) -> None:
        self.swarm, self.d, self.seed, self.most = swarm.swarm, d, seed, most
        self.bits: Any = swarm.plugins.get("quantize", {}).get("bits", 0)
        self.kernels, ids = identify(swarm, seed, scan())
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        self.kernels = [self.kernels[index] for index in by_id]
        self.members = [ids[index] for index in by_id]
        self.me, self.kernel = self.members[0], self.kernels[0]
        self.meter, self.sequence, self.seconds, self.merging = Meter(1), 0, 0.0, 0.0
        self.own: Vector | None = None  # as it is sent, once it is made
        self.refused: list[str] = []
        self.ended: list[RoundEnded] = []
        self.pulls: list[tuple[bytes, Sequence[int]]] = []
        self.model = np.zeros(d, dtype=np.int32)
        info = self.node_info = node_info(self.swarm, self.me, self.members, object(), seed=seed)
        self.kernel.fit(d)
        self.kernel.setup(info)  # of the others only the keys are used
        self.machine: RoundMachine = round_machine(
            info, self.kernel, self.swarm, self.model, MemoryJournal(), object()
        )
        self.machine.trains_ahead = False
        ports = Ports(broadcast=self.note, send=lambda _to, frame: self.note(frame), tell=self.told)
        self.driver = Driver(self.machine, ports)

    @cached_property
    def plan(self) -> ShardPlan:
        """The committees at the first head."""
        return ShardPlan.at(self.machine.head, self.info.dimension, self.swarm.shard_committee)

    @property
    def serves(self) -> bool:
        """Whether the node is one of those that serve a shard first."""
        return any(self.me in self.plan.serving(shard) for shard in self.plan.seats(self.me))

    @cached_property
    def info(self) -> RoundInfo:
        """The first round."""
        return round_info(self.swarm, self.machine.head, self.d, 1)

    @property
    def next_model(self) -> Vector:
        """The right one."""
        return add_saturating(self.model, self.plan.joined(self.merged)).vector

    # ── what the others made ──────────────────────────────────────────────────────────────────

    def rows(self, shard: int) -> NDArray[np.int32]:
        """Everybody's part of a shard, as it is sent: int32, a row for each member.

        The node's own is what its plugins make of its update.
        """
        start, stop = self.plan.bounds(shard)
        rng = np.random.default_rng([self.seed, shard])
        shape, lead = (len(self.members), stop - start), start % packing.BLOCK
        rows = rng.integers(-self.most, self.most, shape, dtype=np.int32, endpoint=True)
        for number, row in enumerate(rows if self.bits else ()):
            key = bytes([number % 256, number // 256]) * 16
            row[:] = rounded(np.concatenate([np.zeros(lead), row]), self.bits, key)[lead:]
        if self.own is not None:
            rows[0] = self.own[start:stop]
        return rows

    def make(self) -> None:
        """All contributions and what they merge to; of other members only what this node gets."""
        plan, n = self.plan, len(self.members)
        self.leaves: list[list[bytes]] = [[] for _member in range(n)]
        self.kept: dict[int, list[bytes]] = {}  # parts of shards that this node serves
        self.merged: list[bytes] = []
        self.whole = 0.0
        drawn = np.concatenate([self.rows(shard)[0] for shard in range(len(plan))])
        self.trained = drawn
        self.own = drawn
        if self.bits:  # as the node's plugin will: its key follows from the seed
            twin = Quantize(bits=self.bits)
            twin.setup(self.node_info)
            self.own = twin.privatize(Update(drawn), self.info).vector
        first = Updates(self.rows(0), tuple(self.members), np.ones(n, dtype=np.int64))
        self.kernel.aggregate(first, attrs.evolve(self.info, dimension=first.vectors.shape[1]))
        for shard in range(len(plan)):
            rows = self.rows(shard)
            start, _stop = plan.bounds(shard)
            packed = [shard.to_bytes(4, "big")] * n  # no node sees the shards that it serves not
            if self.me in plan.serving(shard):
                packed = self.kept[shard] = [pack_shard(row, start) for row in rows]
            for leaves, octets in zip(self.leaves, packed, strict=True):
                leaves.append(leaf_hash(octets))
            ones = np.ones(n, dtype=np.int64)
            here = attrs.evolve(self.info, dimension=rows.shape[1])
            began = time.process_time()
            merged = self.kernel.aggregate(Updates(rows, tuple(self.members), ones), here)
            self.whole += time.process_time() - began
            self.merged.append(pack_shard(merged, start))

    # ── playing ───────────────────────────────────────────────────────────────────────────────

    def message(self, sender: int, kind: str, payload: bytes) -> Envelope:
        """A signed message of another member."""
        self.sequence += 1
        head, now = self.machine.head.digest, int(START * 1000)
        name, member = self.swarm.name, self.members[sender]
        made = Envelope(name, kind, 1, head, member, self.sequence, now, payload)
        return self.kernels[sender].sign(made)

    def give(self, envelope: Envelope) -> None:
        """Have the node receive a message."""
        frame = envelope.to_bytes()
        self.meter.count(0, envelope, len(frame))
        self.timed(self.machine.receive, frame, envelope.sender, START)

    def timed(self, call: Any, *arguments: Any) -> None:
        """Have the node do something, and count its processor time."""
        began = time.process_time()
        effects: list[Effect] = call(*arguments)
        self.seconds += time.process_time() - began
        self.driver.carry_out(effects)

    def note(self, frame: bytes) -> None:
        """What the node sends; its questions are answered later."""
        sent = Envelope.from_bytes(frame, max_bytes=2**31)
        if sent.kind == CONTRIBUTION:
            self.digest = contribution_digest(sent)
        elif sent.kind == PROPOSAL:
            self.proposed = Proposal.from_bytes(sent.payload, len(self.members))
        elif sent.kind == PULL:
            self.pulls.append(decode_pull(sent.payload, len(self.plan)))

    def told(self, told: Told) -> None:
        """What the node reports."""
        if isinstance(told, Refused):
            self.refused.append(told.reason)
        elif isinstance(told, RoundEnded):
            self.ended.append(told)

    def others(self) -> Iterator[int]:
        """All members but this node."""
        yield from range(1, len(self.members))

    def play(self) -> Path:
        """Play the round. The model that comes of it must be right."""
        self.make()
        original = self.kernel.aggregate_shard

        def aggregate(*arguments: Any) -> Any:
            began = time.process_time()
            merged = original(*arguments)
            self.merging += time.process_time() - began
            return merged

        self.kernel.aggregate_shard = aggregate  # type: ignore[method-assign,assignment]
        self.timed(self.machine.start, START)
        trained = Update(self.trained), 1, self.machine.head.digest, START
        self.timed(self.machine.trained, *trained)
        members = self._contribute()
        self._hold(members)
        self._decide(members)
        self._conclude()
        (ended,) = self.ended
        model = self.next_model
        right = ended.outcome.status is RoundStatus.CLOSED
        if not right or self.refused or not np.array_equal(ended.model, model):
            raise RuntimeError(f"the round went wrong: {ended.outcome}, refused {self.refused}")
        received, _most = self.meter.take()
        return Path(received, self.seconds, self.merging, self.whole, self._everyone())

    def _contribute(self) -> list[Member]:
        members = [Member(self.me, self.digest)]
        for sender in self.others():
            header = ContributionHeader(1, merkle_root(self.leaves[sender]))
            made = self.message(sender, CONTRIBUTION, header.to_bytes())
            members.append(Member(self.members[sender], contribution_digest(made)))
            self.give(made)
        for shard, parts in self.kept.items():
            for sender in self.others():
                path = merkle_path(self.leaves[sender], shard)
                part = ShardPart(members[sender].digest, shard, parts[sender], path)
                self.give(self.message(sender, PART, part.to_bytes()))
        self.kept.clear()
        return members

    def _hold(self, members: Sequence[Member]) -> None:
        digests = [member.digest for member in members]
        rows = [digests[at : at + HELD_BLOCK] for at in range(0, len(digests), HELD_BLOCK)]
        full = [(block_digest(row), 2 ** len(row) - 1) for row in rows]
        for member in self.others():
            who = self.members[member]
            serves = [who in self.plan.serving(seat) for seat in self.plan.seats(who)]
            blocks = [
                HeldBlock(number, digest, mask, tuple(mask * serving for serving in serves))
                for number, (digest, mask) in enumerate(full)
            ]
            self.give(self.message(member, HELD, encode_held({}, blocks if any(serves) else [])))

    def _decide(self, members: Sequence[Member]) -> None:
        candidate = CandidateSet(1, tuple(members))
        proposer = self.members.index(self.machine.proposer(1))
        if proposer:
            self.give(self.message(proposer, PROPOSAL, Proposal(candidate).to_bytes()))
        elif self.proposed.candidate != candidate:
            raise RuntimeError("the node proposes another set")
        value = candidate.digest(self.machine.head.digest)
        votes = list[Envelope]()
        for kind in (PREVOTE, PRECOMMIT):
            votes = [self.message(who, kind, encode_vote(value)) for who in self.others()]
            for vote in votes:
                self.give(vote)
        if proposer:
            proof = tuple(votes[: self.machine.head.roster.threshold])
            told = Certificate(candidate, 1, proof).to_bytes()
            self.give(self.message(proposer, CERTIFICATE, told))
        self.value = value

    def _conclude(self) -> None:
        for member in self.others():
            who, leaves = self.members[member], [leaf_hash(octets) for octets in self.merged]
            found = {
                shard: leaves[shard]
                for shard in self.plan.seats(who)
                if who in self.plan.serving(shard)
            }
            if found:
                self.give(
                    self.message(member, SHARD_MERGED, encode_shard_results(self.value, found))
                )
        for member in self.others():
            if asked := [shard for shard in self.plan.seats(self.me) if self._asks(member, shard)]:
                self.give(self.message(member, PULL, encode_pull(self.value, asked)))
        while self.pulls:
            name, shards = self.pulls.pop()
            for shard in shards:
                source = next(who for who in self.plan.serving(shard) if who != self.me)
                made = MergedShard(name, shard, self.merged[shard]).to_bytes()
                self.give(self.message(self.members.index(source), RESULT, made))
        merged = Merged(model_digest(self.next_model, 1))
        payload = encode_conclusion(Conclusion(self.value, merged))
        for kind in (OUTCOME_PREVOTE, OUTCOME_PRECOMMIT):
            for member in self.others():
                if not self.ended:
                    self.give(self.message(member, kind, payload))
                else:  # it comes, and the node has no use for it
                    late = self.message(member, kind, payload)
                    self.meter.count(0, late, len(late.to_bytes()))

    def _asks(self, member: int, shard: int) -> bool:
        """Whether another member asks this node for a merged shard."""
        serving, who = self.plan.serving(shard), self.members[member]
        return who not in serving and serving[member % len(serving)] == self.me

    def _everyone(self) -> int:
        """Bytes of all others' contributions, whole: all are as large as this node's."""
        assert self.own is not None  # noqa: S101 - it is made
        body = ContributionBody(1, self.own).to_bytes()
        return (len(self.members) - 1) * len(self.message(1, CONTRIBUTION, body).to_bytes())
