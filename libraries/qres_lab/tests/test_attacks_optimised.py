"""Attacks that search, and the copies they search on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.shadow import Sandbox, Shadow
from qres_lab.testing import make_node_ids

from qres_core import (
    ACCEPT,
    Accusation,
    Claims,
    Contribution,
    Evidence,
    NodeId,
    RoundInfo,
    Standing,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.attacks import ATTACKS, AttackContext, Forgery, make_attack, register
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import weighted_mean
from qres_core.contract.types import model_digest
from qres_core.errors import LabError, ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut, Screening
from qres_core.training.tasks import TaskConfig

Rows = NDArray[np.int32]
Rule = Callable[[Rows], Vector]


def mean(rows: Rows) -> Vector:
    return np.rint(rows.mean(axis=0)).astype(np.int32)


def median(rows: Rows) -> Vector:
    return np.sort(rows, axis=0)[(len(rows) - 1) // 2]


def krum(rows: Rows) -> Vector:
    """Krum for f = 4 in plain loops."""
    values = [[int(x) for x in row] for row in rows]
    scores = [
        sum(
            sorted(
                sum((a - b) ** 2 for a, b in zip(value, other, strict=True))
                for j, other in enumerate(values)
                if j != i
            )[: len(values) - 6]
        )
        for i, value in enumerate(values)
    ]
    return rows[scores.index(min(scores))]


RULES: dict[str, Rule] = {"mean": mean, "median": median, "krum": krum}


def honest_rows(seed: int, *, alike: float = 0.3) -> Rows:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=12)
    return np.rint(1e5 * (common + alike * rng.normal(size=(10, 12)))).astype(np.int32)


def merged(name: str, rows: Rows, rule: Rule) -> Vector:
    def probe(forged: Rows) -> Vector:
        return rule(np.concatenate([rows, forged]))

    context = AttackContext(
        RoundInfo("a", 1, b"m" * 32, rows.shape[1], 0, (b"s" * 32,), 1, head=b"h" * 32),
        rows[0],
        Update(rows[0]),
        rows,
        4,
        0,
        np.random.default_rng(0),
        probe,
    )
    (forged,) = make_attack(name).forge(context)
    row = np.frombuffer(forged.octets, dtype="<i4").astype(np.int32)
    return probe(np.tile(row, (4, 1)))


@pytest.mark.claim("C-attack-2")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_the_search_does_at_least_the_harm_of_the_fixed_strengths(rule: str, seed: int) -> None:
    rows = honest_rows(seed)
    centre = rows.mean(axis=0)

    def progress(name: str) -> float:
        return float(merged(name, rows, RULES[rule]) @ centre)

    def moved(name: str) -> float:
        return float(np.linalg.norm(merged(name, rows, RULES[rule]) - centre))

    assert progress("optimised_ipm") <= min(progress("ipm"), progress("foe"))
    assert moved("optimised_alie") >= moved("alie")


@pytest.mark.control("C-attack-2")
def test_the_search_finds_strengths_that_the_fixed_ones_miss() -> None:
    """Krum throws the doubled negation out and takes one that stays near."""
    rows = honest_rows(0, alike=1.2)
    centre = rows.mean(axis=0)
    assert merged("ipm", rows, krum) @ centre > 0
    assert merged("optimised_ipm", rows, krum) @ centre < 0


def test_what_the_aggregation_refuses_does_no_harm() -> None:
    """A rule that refuses large rows is attacked with small ones."""
    rows = honest_rows(1)
    limit = int(3 * np.abs(rows).max())

    def gated(forged: Rows) -> Vector | None:
        return None if np.abs(forged).max() > limit else mean(np.concatenate([rows, forged]))

    context = AttackContext(
        RoundInfo("a", 1, b"m" * 32, rows.shape[1], 0, (b"s" * 32,), 1, head=b"h" * 32),
        rows[0],
        Update(rows[0]),
        rows,
        4,
        0,
        np.random.default_rng(0),
        gated,
    )
    (forged,) = make_attack("optimised_ipm").forge(context)
    size = np.abs(np.frombuffer(forged.octets, dtype="<i4")).max()
    assert 2 * np.abs(rows.mean(axis=0)).max() < size <= limit


# ── the sandbox ───────────────────────────────────────────────────────────────────────────────────


@attrs.define
class Stateful:
    """A rule with a memory: it adds to the mean what it made the time before."""

    before: Any = attrs.field(default=None, init=False)
    seen: list[int] = attrs.field(factory=list[int], init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def verify(self, contribution: Contribution) -> Verdict:
        self.seen.append(int(contribution.vector[0]))
        return ACCEPT if int(contribution.vector[0]) != 13 else reject("unlucky")

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        self.seen.append(sender[0])
        return Standing()

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        del evidence

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        if int(updates.vectors.max()) > 2**20:
            raise ValueRefusedError.of("QRES-E505", "updates", "too large")
        made = weighted_mean(updates.vectors, updates.weights)
        if self.before is not None:
            made = made + self.before
        self.before = made
        return made


def swarm(name: str, kind: type) -> Kernel:
    return Kernel.from_config(configured(name, 5, 4), installed=installed(name, kind))


def configured(name: str, nodes: int, quorum: int) -> Config:
    table = {"name": "s", "nodes": nodes, "byzantine": 1, "quorum": quorum}
    table |= {"insecure": True, "weight_cap": 8}
    return parse({"swarm": table, "plugins": {"memory": {}, name: {}}}, source="test")


def installed(name: str, kind: type) -> dict[str, Installed]:
    return {**scan(), name: Installed.local(name, kind)}


def shadow(kernel: Kernel, weights: tuple[int, ...] = (1, 1, 1, 1)) -> Shadow:
    ids = make_node_ids(5)
    made = [
        Update(np.array([4 * k, k], dtype=np.int32), weight)
        for k, weight in enumerate(weights, start=1)
    ]
    liar = Update(np.array([0, 0], dtype=np.int32))
    return Shadow(
        Sandbox(kernel),
        RoundInfo("s", 1, b"m" * 32, 2, 0, tuple(sorted(ids)), 4, 1, head=b"h" * 32),
        np.zeros(2, dtype=np.int32),
        dict(zip(ids, made, strict=False)),
        {ids[4]: liar},
    )


def row(*values: int) -> Rows:
    return np.array([values], dtype=np.int32)


def test_a_probe_leaves_the_plugins_of_the_node_as_they_are() -> None:
    kernel = swarm("stateful", Stateful)
    (plugin,) = [plugin.instance for plugin in kernel.enabled if plugin.name == "stateful"]
    assert isinstance(plugin, Stateful)
    bench = shadow(kernel)
    first = bench.probe(row(20, 40))
    assert first is not None
    assert first.tolist() == [12, 10]
    assert (plugin.before, plugin.seen, dict(kernel.rejections)) == (None, [], {})
    again = bench.probe(row(20, 40))  # nor does one probe see the one before
    assert again is not None
    assert again.tolist() == [12, 10]
    plugin.before = np.array([100, 200], dtype=np.int32)  # but each sees the node's own past
    after = bench.probe(row(20, 40))
    assert after is not None
    assert after.tolist() == [112, 210]
    assert plugin.before.tolist() == [100, 200]
    assert plugin.seen == []


def test_a_probe_counts_the_weights_and_says_what_would_be_refused() -> None:
    bench = shadow(swarm("stateful", Stateful), (5, 1, 1, 1))
    weighted = bench.probe(row(20, 40))
    assert weighted is not None
    assert weighted.tolist() == [round((5 * 4 + 8 + 12 + 16 + 20) / 9), round((5 + 9 + 40) / 9)]
    assert bench.probe(row(2**21, 0)) is None  # the rule refuses
    alone = bench.probe(row(13, 13))  # `verify` refuses the forged row; four are a quorum
    nobody = bench.probe(np.empty((0, 2), dtype=np.int32))
    assert alone is not None
    assert nobody is not None
    assert alone.tolist() == nobody.tolist() == [round((5 * 4 + 8 + 12 + 16) / 8), round(14 / 8)]
    with pytest.raises(LabError, match=r"QRES-E105 probe.rows: 2 forged rows of 1 attackers"):
        bench.probe(np.zeros((2, 2), dtype=np.int32))


@attrs.frozen
class Judge:
    """Leaves out what makes the loss worse alone, and refuses what is worse merged."""

    claims = Claims(tolerates=None)

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut) -> Screening:
        return Screening(
            tuple(
                Accusation(sender, "harmful")
                for sender, row in zip(updates.senders, updates.vectors, strict=True)
                if held_out.loss_with(row) > 1000.0
            )
        )

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        return ACCEPT if held_out.loss_with(merged) < 20.0 else reject("worse")

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return weighted_mean(updates.vectors, updates.weights)


class Examples:
    """A trainer that judges a model by its largest coordinate, and counts how often."""

    calls = 0

    def validate(self, vector: Vector) -> float:
        self.calls += 1
        return float(np.abs(vector).max())


def test_a_probe_is_screened_and_must_be_endorsed_by_the_held_out_examples() -> None:
    bench, examples = shadow(swarm("judge", Judge)), Examples()
    judged = attrs.evolve(bench, trainer=examples)
    for forged, blind, seeing in [
        ((20, 40), [12, 10], [12, 10]),
        ((500, 0), [108, 2], None),  # not endorsed
        ((5000, 0), [1008, 2], [10, 2]),  # screened out; four are left
    ]:
        for item, expected in ((bench, blind), (judged, seeing)):
            merged = item.probe(row(*forged))
            assert (None if merged is None else merged.tolist()) == expected
    assert examples.calls == 4 + 3 + 3  # the honest rows once, forged and merged ones each time


class Strict(Examples):
    """To it every model is a hundred times as bad."""

    def validate(self, vector: Vector) -> float:
        return 100.0 * super().validate(vector)


@pytest.mark.parametrize(("needed", "passes"), [(1, True), (2, True), (3, False)])
def test_a_probe_needs_the_votes_of_honest_nodes_that_hold_out_other_examples(
    needed: int,
    passes: bool,  # noqa: FBT001 - a table of cases
) -> None:
    """The proposer screens by its own examples; three others vote by theirs."""
    voters = (Strict(), Examples(), Examples())
    bench = attrs.evolve(
        shadow(swarm("judge", Judge)), trainer=Examples(), voters=voters, needed=needed
    )
    assert (bench.probe(row(20, 40)) is not None) == passes


@attrs.frozen
class Stubborn:
    """A rule that cannot be copied."""

    claims = Claims(tolerates=None)

    def __deepcopy__(self, memo: dict[int, object]) -> Stubborn:
        msg = "one of a kind"
        raise TypeError(msg)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


def test_a_plugin_that_cannot_be_copied_is_named() -> None:
    with pytest.raises(LabError, match=r"QRES-E105 plugins.stubborn: .*one of a kind"):
        shadow(swarm("stubborn", Stubborn)).probe(row(1, 2))


@pytest.mark.claim("C-attack-2")
@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_a_probe_foretells_the_round(engine: str) -> None:
    """What the attackers were told is what is merged, memory and all; and nobody is disturbed."""
    told: list[list[int]] = []

    @register("test_foretell", summary="what was probed", knowledge="everything")
    @attrs.frozen
    class Foretell:
        probes: bool = True

        def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
            def plan() -> list[Rows]:
                rows = context.rng.integers(-1000, 1000, (context.attackers, 8)).astype(np.int32)
                for guess in (2 * rows, rows):
                    merged = context.probe(guess)
                    assert merged is not None
                told.append((context.model + merged).tolist())
                return [np.ascontiguousarray(row) for row in rows]

            mine = context.agreed(plan)[context.index]
            return (Forgery(mine.astype("<i4").tobytes(), context.own.weight),)

    task = TaskConfig(name="quadratic", dimension=8, local_epochs=1, learning_rate=0.3)
    try:
        result = simulate(
            configured("stateful", 7, 7),
            Scenario(rounds=3, attack="test_foretell", attackers=2, engine=engine),
            task=task,
            installed=installed("stateful", Stateful),
        )
    finally:
        del ATTACKS["test_foretell"]
    assert len(told) == len(result.closed) == 3
    digests = [record.model_digest for record in result.closed]
    assert digests == [
        model_digest(np.array(model, dtype=np.int32), step).hex()
        for step, model in enumerate(told, start=1)
    ]
