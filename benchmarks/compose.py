"""What each defence costs a node in a round, and all of them together.

Run ``PYTHONPATH=benchmarks python benchmarks/compose.py [--quick] [--json] [--plot FILE.svg]``.
Times are process times of one thread.

*Table*: every part of the stack is measured by itself, for one node, at n nodes and d coordinates:
what it does once, and what it does for each of the others' messages, times their number. Nothing is
extrapolated in d. Secure aggregation is one sum on the sparse graph, its session played by all n
nodes and one of them timed; nobody drops out. Proofs are checked by committees for one liar in
twenty nodes; what they cost where everybody checks all of them is a row of its own, not in the sum.

*Whole round*: the simulator plays all nodes of the stack with groups and a median, and the time
of every hook of one node is kept, which checks every signature and every proof it is in charge of
itself. The others share verdicts. What is not a plugin's is divided among all nodes. The swarm
promises to withstand as many liars as the median of its groups does.

*Latency* is a model: 50 ms for each message that has to wait for another, the lab's network, and
the node's own processor time.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import harness
import numpy as np
from harness import Record, cpu_seconds
from nacl.signing import SigningKey
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mechanism, Mode, Relation
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

from qres_core import Envelope, NodeInfo, RoundInfo, Update, Vector
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Caller, Kernel
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.once import Once
from qres_core.lab.scenario import Scenario
from qres_core.lab.tasks import Task
from qres_core.swarm.checking import TOGETHER
from qres_core.swarm.messages import ContributionBody
from qres_core.testing.builders import make_updates

DELAY: Final = 0.05
CORE, HIDDEN = 6, 6
"""Messages of a node in a round: contribution, proposal, two votes on the set and two on the
outcome; and secagg's."""
WAITS: Final = 6
"""Messages of it that wait for one another."""
NOW: Final = 1_700_000_000.0
K: Final = 256
GROUP: Final = 8
OTHERS: Final = "others"
EVERYONE: Final = "zk, everyone checks"
PARTS: Final = (
    "kernel",
    "ed25519",
    "replay",
    "reputation",
    "dp",
    "zk",
    "secagg",
    "validation",
    "median",
)


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


def _frames(d: int) -> tuple[bytes, bytes, bytes]:
    """A contribution, its vector in it, and a vote, as frames; and who sent them."""
    sender = bytes(SigningKey.generate().verify_key)
    body = ContributionBody(1, np.ones(d, dtype=np.int32), {}, {}).to_bytes()
    made = [
        Envelope("bench", kind, 1, bytes(32), sender, n, int(NOW * 1000), payload).to_bytes()
        for n, (kind, payload) in enumerate((("contribution", body), ("choice/prevote", bytes(34))))
    ]
    return made[0], made[1], sender


def kernel(n: int, d: int) -> Cost:
    """Decoding of everything that comes in, without any defence."""
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

    cpu_second = cpu_seconds(lambda: take(large, contribution=True), repeats=5)
    few = cpu_seconds(lambda: take(small, contribution=False), repeats=50)
    return Cost(
        (n - 1) * (cpu_second + (CORE - 1) * few), len(large) + (CORE - 1) * len(small), WAITS
    )


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
    messages = CORE + HIDDEN
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
    charges = min(n - 1, 2 * max(1, n // 20) + 1)
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
        "kernel": kernel(n, d),
        **trust(n),
        "dp": noise(n, d),
        **proofs(n, d),
        "secagg": hidden(n, d),
        "validation": judged(d),
        "median": merged(n, d),
    }


# ── the whole round ───────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class Clock:
    """Process time by plugin, without that of what it calls; one thread."""

    spent: dict[str, float] = attrs.field(factory=lambda: defaultdict[str, float](float))
    _inner: list[float] = attrs.field(factory=lambda: [0.0])

    def timed(self, name: str, run: Callable[[], Any]) -> Any:
        """Run, and add the time to the name's."""
        self._inner.append(0.0)
        start = time.process_time()
        try:
            return run()
        finally:
            whole = time.process_time() - start
            self.spent[name] += whole - self._inner.pop()
            self._inner[-1] += whole

    def of_node(self, plugin: Enabled, hook: str, ask: Caller) -> Caller:
        """What a hook costs the node that is looked at."""
        return self._timing(plugin.name, hook, ask)

    def of_others(self, _plugin: Enabled, hook: str, ask: Caller) -> Caller:
        """What it costs the others, which share verdicts."""
        return self._timing(OTHERS, hook, ask)

    def _timing(self, name: str, hook: str, ask: Caller) -> Caller:
        if hook == "transport":
            return ask

        def run(**arguments: Any) -> list[Any]:
            results: list[Any] = self.timed(name, lambda: ask(**arguments))
            if hook == "round_opened" and results and results[0] is not None:
                results[0] = _Timed(results[0], self, name)
            return results

        return run


class _Timed:
    """A dialogue whose time is kept."""

    def __init__(self, inner: Any, clock: Clock, label: str) -> None:
        self._inner, self._clock, self._label = inner, clock, label

    @property
    def ready(self) -> bool:
        return bool(self._inner.ready)

    @property
    def finished(self) -> bool:
        return bool(self._inner.finished)

    def start(self) -> Any:
        return self._clock.timed(self._label, self._inner.start)

    def receive(self, message: Any) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.receive(message))

    def tick(self, now: float) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.tick(now))

    def decided(self, *agreed: Any) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.decided(*agreed))


@attrs.frozen
class _Trainer:
    """Costs nothing; judges by a norm."""

    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """A small update."""
        rng = np.random.default_rng((round_info.number, self.index))
        return Update(rng.integers(-20, 21, vector.size).astype(np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Nothing."""
        del vector
        return {}

    def validate(self, vector: Vector) -> float:
        """The same for every model."""
        return 1.0 + 0.0 * float(vector[0])


def whole_round(n: int, d: int, proof_checks: str = "committee") -> dict[str, float]:
    """Seconds of one node by plugin; ``kernel`` is all else, the simulator among it, by node."""
    f = min((n // GROUP - 1) // 2, GROUP - 2)  # each of them can spoil one group
    swarm = {
        "name": "bench",
        "nodes": n,
        "byzantine": f,
        "quorum": n,
        "deadline": 30.0,
        "max_message_bytes": 2**24,
        "proof_checks": proof_checks,
    }
    tables: dict[str, dict[str, Any]] = {
        "memory": {},
        "ed25519": {},
        "replay": {},
        "reputation": {"exponent": 0},
        "dp": {
            "mode": "distributed",
            "clip": 0.5,
            "noise_multiplier": 0.5,
            "delta": 1e-6,
            "rounds": 50,
            "honest": GROUP - f,
        },
        "zk": {"bound": 300.0, "k": K, "clip": False},
        "secagg": {
            "group_size": GROUP,
            "min_size": GROUP,
            "corrupt": 0.0,
            "dropout": 0.0,
            "noise_room": 64.0,
        },
        "public_validation": {},
        "median": {"f": f},
    }
    config = parse({"swarm": swarm, "plugins": tables}, source="benchmark")
    trainers = tuple(_Trainer(index) for index in range(n))
    task = Task("none", np.zeros(d, dtype=np.int32), trainers, trainers[0].evaluate)
    engine = EventEngine(Experiment(config, Scenario(rounds=1), task, scan()))
    clock, once = Clock(), Once(("ed25519.authenticate", "zk.verify"))
    *others, looked_at = engine.nodes  # the last: what is compiled at first use is by then
    looked_at.kernel.wrap(clock.of_node)
    for node in others:
        node.kernel.wrap(clock.of_others)
        node.kernel.wrap(once.wrap)
    try:
        clock.timed("kernel", engine.run)
    finally:
        for kernel in engine.kernels:
            kernel.teardown()
    records = engine.recorder.records
    if not (records and records[-1].closed):
        raise SystemExit(f"the round did not close: {records}")
    del clock.spent[OTHERS]
    clock.spent["kernel"] /= n
    return dict(clock.spent)


# ── showing ───────────────────────────────────────────────────────────────────────────────────


def waterfall(cells: Mapping[tuple[int, int], Mapping[str, Cost]]) -> str:
    """The parts' times one after the other, a panel for each cell, as an SVG on its own."""
    wide, high, gap = 300, 30 + 18 * len(PARTS), 90
    columns = 3
    rows = -(-len(cells) // columns)
    size = f'width="{columns * (wide + gap)}" height="{rows * (high + 40)}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
    ]
    for index, ((n, d), parts) in enumerate(cells.items()):
        left, top = (
            gap - 15 + (index % columns) * (wide + gap),
            30 + (index // columns) * (high + 40),
        )
        total = sum(parts[name].cpu for name in PARTS)
        title = f"n = {n}, d = {d:.0e}: {total:.3g} s of a node".replace("e+0", "e")
        out.append(f'<text x="{left}" y="{top - 10}" font-weight="bold">{title}</text>')
        before = 0.0
        for place, name in enumerate(PARTS):
            cpu = parts[name].cpu
            x = left + (wide - 50) * before / total
            width = max(0.7, (wide - 50) * cpu / total)
            y = top + 18 * place
            out += [
                f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{name}</text>',
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" fill="#1f6fb4"/>',
                f'<text x="{x + width + 4:.1f}" y="{y + 11}" fill="#444">{_short(cpu)}</text>',
            ]
            before += cpu
    return "\n".join([*out, "</svg>", ""])


def _short(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} µs"


def table(cells: Mapping[tuple[int, int], Mapping[str, Cost]]) -> str:
    """Processor time of a node, bytes to each other and latency, by part."""
    lines: list[str] = []
    for (n, d), parts in cells.items():
        lines.append(f"n = {n}, d = {d}")
        for name in (*PARTS, EVERYONE):
            part = parts[name]
            sent = f"{part.sent / 1024:.1f} KiB"
            lines.append(
                f"   {name:20} {_short(part.cpu):>10} {sent:>14} {_short(part.latency):>10}"
            )
    return "\n".join(lines)


def measure(quick: bool, plot: Path | None) -> list[Record]:  # noqa: FBT001
    """All figures; the table and the plot beside them."""
    sizes = (
        [(10, 10_000)] if quick else [(n, d) for d in (10_000, 1_000_000) for n in (10, 100, 1000)]
    )
    cells = {(n, d): cell(n, d) for n, d in sizes}
    print(table(cells), file=sys.stderr)
    if plot is not None:
        plot.write_text(waterfall(cells), encoding="utf-8")
    records = [
        Record(f"{name}, n = {n}, d = {d}: {what}", value, unit)
        for (n, d), parts in cells.items()
        for name, part in parts.items()
        for what, value, unit in (
            ("CPU of a node", 1e3 * part.cpu, "ms"),
            ("sent to each", part.sent, "bytes"),
            ("latency", 1e3 * part.latency, "ms"),
        )
    ]
    n, d = (24, 2_000) if quick else (100, 100_000)
    parts = whole_round(n, d)
    records += [
        Record(f"whole round, n = {n}, d = {d}: {name}", 1e3 * seconds, "ms")
        for name, seconds in sorted(parts.items(), key=lambda item: -item[1])
    ]
    total = sum(parts.values())
    limit = None if quick else 0.5
    records.append(Record(f"whole round, n = {n}, d = {d}: CPU of a node", total, "s", limit))
    everyone = sum(whole_round(n, d, "everyone").values())
    name = f"whole round, n = {n}, d = {d}, everyone checks: CPU of a node"
    records.append(Record(name, everyone, "s"))
    return records


if __name__ == "__main__":
    where = harness.plot_option()
    harness.main(
        __doc__ or "",
        lambda quick: measure(quick, where),
        dists=["qres-core", "qres-secagg", "qres-zk", "qres-dp", "numpy", "numba"],
    )
