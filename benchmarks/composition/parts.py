"""Every part of the stack by itself, for one node, at n nodes and d coordinates."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
import numpy as np
from harness import cpu_seconds
from nacl.signing import SigningKey
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mechanism, Mode, Relation
from qres_lab.testing.builders import make_updates
from qres_quantize.rounding import rounded
from qres_robust_stats import Median
from qres_secagg.aggregator import Aggregator
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, Phase, VolatileHistory
from qres_secagg.inputs import input_digest
from qres_secagg.messages import Kind
from qres_zk import norm, pedersen
from qres_zk.aggregate import opens
from qres_zk.batch import verify_batch
from qres_zk.bundle import commitments
from qres_zk.group import integers
from qres_zk.statement import Context, NormStatement
from secagg import Said
from secagg import session as session_of

from qres_core import Envelope, NodeInfo, RoundInfo, Vector, packing
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import Step
from qres_core.swarm.contributions.verification import TOGETHER
from qres_core.swarm.ledger.merkle import leaf_hash, proves_leaf
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import ContributionHeader, ShardPart

DELAY: Final = 0.05
VECTORS, VOTES, HIDDEN = 2, 4, 6
"""Messages of a node in a round: contribution and proposal; two votes on the set and two on the
outcome; secagg's. All but secagg's wait for one another."""
NOW: Final = 1_700_000_000.0
K: Final = 256
EVERYONE: Final = "zk, everyone checks"
SHARDED: Final = "vectors, sharded"
BITS: Final = "quantize, 4 bits"
PARTS: Final = (
    "kernel",
    "agreement",
    "ed25519",
    "replay",
    "reputation",
    "dp",
    "zk",
    "secagg",
    "validation",
    "median",
)
"""Of the stack, one after the other."""
OTHERWISE: Final = (BITS, SHARDED, EVERYONE)
"""What is not in its sum: rounding beside it, shards in place of what the kernel takes in, and
proofs that everybody checks."""


@attrs.frozen
class Cost:
    """Of one part, for one node and round.

    Attributes:
        cpu: seconds.
        sent: bytes it adds to what the node sends to each of the others.
        hops: messages it adds that have to wait for one another.
    """

    cpu: float
    sent: float = 0.0
    hops: int = 0

    @property
    def latency(self) -> float:
        """Seconds."""
        return self.cpu + DELAY * self.hops


def _once(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


# ── single parts ──────────────────────────────────────────────────────────────────────────────


def _update(d: int) -> Vector:
    """An update of 13 bits a coordinate."""
    return np.random.default_rng(3).integers(-4096, 4097, d).astype(np.int32)


def _frames(d: int) -> tuple[bytes, bytes, bytes]:
    """A contribution and a vote, as frames; and who sent them."""
    sender = bytes(SigningKey.generate().verify_key)
    body = ContributionBody(1, _update(d), {}, {}).to_bytes()
    made = [
        Envelope("bench", kind, 1, bytes(32), sender, n, int(NOW * 1000), payload).to_bytes()
        for n, (kind, payload) in enumerate((("contribution", body), ("choice/prevote", bytes(34))))
    ]
    return made[0], made[1], sender


def kernel(n: int, d: int) -> dict[str, Cost]:
    """Decoding of everything that comes in, without any defence, and what votes decide."""
    swarm = {"name": "bench", "nodes": 1, "byzantine": 0, "quorum": 1, "insecure": True}
    bare = Kernel.from_config(
        parse({"swarm": swarm, "plugins": {"memory": {}, "mean": {}}}, source="")
    )
    large, small, sender = _frames(d)
    bare.setup(NodeInfo(sender, "bench", (sender,)))

    def take(frame: bytes, *, contribution: bool) -> None:
        envelope = bare.inbound(frame, sender, NOW)
        assert isinstance(envelope, Envelope)  # noqa: S101
        if contribution:
            ContributionBody.from_bytes(envelope.payload, d)

    vector = cpu_seconds(lambda: take(large, contribution=True), repeats=5)
    few = cpu_seconds(lambda: take(small, contribution=False), repeats=50)
    counted = cpu_seconds(partial(_counted, n), repeats=3)
    return {
        "kernel": Cost((n - 1) * (vector + few), len(large) + len(small), VECTORS),
        "agreement": Cost((n - 1) * VOTES * few + counted, VOTES * len(small), VOTES),
    }


def _counted(n: int) -> None:
    """All votes of a quiet round, counted by both instances of one node."""
    voters, value = [number.to_bytes(32, "big") for number in range(n)], bytes(32)
    for claims in (False, True):
        engine = Consensus(voters[0], voters, _liars(n), lambda _round: voters[0], claims=claims)
        engine.start()
        engine.propose(1, value)
        engine.judge(value, accepted=True)
        for step in (Step.PREVOTE, Step.PRECOMMIT):
            for voter in voters[1:]:
                engine.vote(step, 1, voter, value)
                engine.advance()
        assert engine.decided is not None  # noqa: S101


def _liars(n: int) -> int:
    """How many the stack is to withstand: one in twenty."""
    return max(1, n // 20)


def sharded(n: int, d: int) -> Cost:
    """Vectors taken in and joined by shards, as one of those does who serve a shard first.

    It stands beside the contributions of ``kernel``: cutting the own vector, the others' headers,
    their shards with what proves them, and the merged shards of all.
    """
    members = tuple(number.to_bytes(32, "big") for number in range(n))
    plan = ShardPlan.of(bytes(32), members, _liars(n), d)
    vector = _update(d)
    cut = plan.cut(vector)
    widths = [len(shard) for shard in cut.shards]
    part = ShardPart(bytes(32), 0, cut.shards[0], cut.path(0)).to_bytes()
    header = ContributionHeader(1, cut.root).to_bytes()

    def take() -> None:
        ContributionHeader.from_bytes(header)
        got = ShardPart.from_bytes(part, len(plan), plan.most_bytes)
        assert proves_leaf(cut.root, leaf_hash(got.octets), 0, len(plan), got.path)  # noqa: S101
        plan.unpack(0, got.octets)

    own = cpu_seconds(lambda: plan.cut(vector).root, repeats=3)
    others = (n - 1) * cpu_seconds(take, repeats=5)
    joined = cpu_seconds(lambda: plan.joined(cut.shards), repeats=3)
    # Each of the others gets a shard at most, and pulls the merged shard from one that serves it.
    sent = plan.needed * len(plan) * max(widths) / n + max(widths) + len(header)
    return Cost(own + others + joined, sent, 3)


def rounding(d: int) -> Cost:
    """An update rounded to four bits, which then takes fewer bytes than it did."""
    vector, key = _update(d), bytes(32)
    cpu = cpu_seconds(lambda: rounded(vector, 4, key), repeats=3)
    return Cost(cpu, len(packing.pack(rounded(vector, 4, key))) - len(packing.pack(vector)))


def trust(n: int) -> dict[str, Cost]:
    """The plugins that look at every message."""
    tables = {"ed25519": {}, "replay": {}, "reputation": {"exponent": 0}, "memory": {}, "mean": {}}
    swarm = {"name": "bench", "nodes": 1, "byzantine": 0, "quorum": 1}
    made = Kernel.from_config(parse({"swarm": swarm, "plugins": tables}, source=""))
    seed = os.urandom(32)
    sender = made.identity(seed)
    assert sender is not None  # noqa: S101
    made.setup(NodeInfo(sender, "bench", (sender,)))
    plugins: dict[str, Any] = {plugin.name: plugin.instance for plugin in made.enabled}
    count = 200
    envelopes = [
        made.sign(
            Envelope("bench", "choice/prevote", 1, bytes(32), sender, n, int(NOW * 1000), bytes(34))
        )
        for n in range(6 * count)
    ]
    batches = iter([envelopes[i : i + count] for i in range(0, len(envelopes), count)])
    checked = cpu_seconds(
        lambda: [plugins["ed25519"].authenticate(envelope) for envelope in envelopes[:count]],
        repeats=3,
    )
    signed = cpu_seconds(lambda: [made.sign(envelope) for envelope in envelopes[:count]], repeats=3)
    fresh = cpu_seconds(
        lambda: [plugins["replay"].replay_check(item, NOW) for item in next(batches)], repeats=4
    )
    gate = cpu_seconds(
        lambda: [plugins["reputation"].reputation(sender) for _ in range(count)], repeats=3
    )
    made.teardown()
    messages = VECTORS + VOTES + HIDDEN
    incoming = messages * (n - 1) / count
    return {
        "ed25519": Cost(incoming * checked + messages * signed / count, 74.0 * messages),
        "replay": Cost(incoming * fresh),
        "reputation": Cost(2 * incoming * gate),
    }


def noise(n: int, d: int) -> Cost:
    """Clipping and a share of the noise."""
    mechanism = Mechanism(
        Mode.DISTRIBUTED,
        Relation.ADD_REMOVE,
        bound=65536,
        noise_multiplier=1.0,
        honest=max(2, n // 2),
    )
    sampler, vector = discrete_gaussian(mechanism.share), np.full(d, 1000, dtype=np.int32)

    def run() -> None:
        clip(vector, mechanism.bound)
        sampler.sample(d, key=os.urandom(32))

    return Cost(cpu_seconds(run, repeats=3))


def proofs(n: int, d: int) -> dict[str, Cost]:
    """One proof made, others checked as many together as a node does, and the sum opened."""
    statement = NormStatement(d, bound=2**17, k=K)
    vector = np.random.default_rng(1).integers(-20, 21, d).astype(np.int32)
    context = Context.of(os.urandom(32), _info(d))
    commitment, bundle = norm.prove(statement, context, pedersen.commit(statement, vector))
    data = bundle.to_bytes()

    def prove() -> None:
        norm.prove(statement, context, pedersen.commit(statement, vector))

    def verify(count: int) -> float:
        def run() -> None:
            assert not verify_batch(statement, [(context, data)] * count)  # noqa: S101

        return cpu_seconds(run, repeats=3)

    made = cpu_seconds(prove, repeats=3)
    charges = min(n - 1, 2 * _liars(n) + 1)
    together = min(TOGETHER, n - 1)
    here = verify(min(TOGETHER, charges)) * charges / min(TOGETHER, charges)
    here += (n - 1 - charges) * cpu_seconds(lambda: commitments(data, statement), repeats=5)
    everywhere = verify(together) * (n - 1) / together
    points = [bundle.points[: statement.rows]] * n
    blinds = tuple(n * integer for integer in integers(commitment.blinds))
    sums = n * vector.astype(np.int64)
    total = cpu_seconds(lambda: opens(statement, points, sums, blinds), repeats=2)
    sent = len(data) + 32.0 * statement.rows
    return {
        "zk": Cost(made + here + total, sent + 34.0 * charges, 1),
        EVERYONE: Cost(made + everywhere + total, sent),
    }


def _info(d: int) -> RoundInfo:
    sender = os.urandom(32)
    return RoundInfo("bench", 1, bytes(32), d, 0, (sender,), 1, 0, 0)


def hidden(n: int, d: int) -> Cost:
    """One node's side of a session of n, and the opening of its sum."""
    corrupt, dropped = max(1, n // 10), max(1, n // 10)
    session = session_of(n, d, corrupt, dropped)
    roster = session.roster
    board, own = SessionMessages(session), SessionMessages(session, roster[0])
    # The others share a board: it holds no secret, and says the same to all.
    clients = [Client(session, node, board, VolatileHistory()) for node in roster[1:]]
    me = Client(session, roster[0], own, VolatileHistory())
    spent, sent = 0.0, 0

    def all_say(step: Callable[[Client], Said]) -> None:
        nonlocal spent, sent
        start = time.process_time()
        mine = step(me)
        spent += time.process_time() - start
        sent += sum(len(body) for _, body in mine)
        for kind, body in mine:
            board.receive(roster[0], kind, body)
        said = [(client.me, kind, body) for client in clients for kind, body in step(client)]
        start = time.process_time()
        for message in said:
            own.receive(*message)
        spent += time.process_time() - start

    all_say(lambda client: [(Kind.ADVERTISE, client.advertise())])
    all_say(lambda client: [(Kind.SHARE, client.share())])
    all_say(Client.acknowledge)
    listing = board.compose()
    spent += _once(partial(me.adopt, listing))
    for client in clients:
        client.adopt(listing)
    vector = np.ones(d, dtype=np.int32)
    start = time.process_time()
    masked = me.mask(vector)
    spent += time.process_time() - start
    # The others' masks are left out, and the same input taken for all: the work is the same.
    digest = input_digest(masked.vector, {})
    for client in clients:
        client.phase = Phase.MASKED
        vars(client)["_digest"] = digest
    inputs = dict.fromkeys(roster, digest)
    all_say(lambda client: [(Kind.STATEMENT, client.state(inputs))])
    all_say(lambda client: [(Kind.UNMASK, client.unmask())])

    def opened() -> None:
        aggregator = Aggregator(own)
        for node in roster:
            aggregator.add(node, masked.vector)
        aggregator.finish()

    return Cost(spent + _once(opened), float(sent), HIDDEN)


def judged(d: int) -> Cost:
    """Two evaluations of a linear model of d parameters on sixty examples."""
    inputs, outputs = min(d, 100), max(1, d // 100)
    x, w = np.ones((60, inputs)), np.ones((inputs, outputs), dtype=np.int32)
    return Cost(2 * cpu_seconds(lambda: x @ (w / 65536.0), repeats=3))


def merged(n: int, d: int) -> Cost:
    """The median of the means of groups of ten."""
    rows = max(3, n // 10)
    updates = make_updates(np.random.default_rng(2).integers(-99, 99, (rows, d)))
    return Cost(cpu_seconds(lambda: Median(f=1).aggregate(updates), repeats=3))


def cell(n: int, d: int) -> dict[str, Cost]:
    """Every part at n nodes and d coordinates."""
    return {
        **kernel(n, d),
        **trust(n),
        "dp": noise(n, d),
        **proofs(n, d),
        "secagg": hidden(n, d),
        "validation": judged(d),
        "median": merged(n, d),
        BITS: rounding(d),
        SHARDED: sharded(n, d),
    }
