"""Random rounds, sharded: for every rule in every chain of wrappers, the model of unsharded rounds.

``make sharded-rounds`` plays 2,000 of them, and whole swarms beside; the gate plays a few.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_krum import Bulyan, Krum
from qres_robust_stats import (
    Arc,
    Caf,
    CentredClipping,
    Clipping,
    GeometricMedian,
    Mda,
    Meamed,
    Median,
    Monna,
    Nnm,
    TrimmedMean,
)

from qres_core import (
    NodeId,
    QresError,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
    Vector,
    model_digest,
)
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.solver import Solution
from qres_core.swarm.mean import Mean
from qres_core.swarm.merkle import proves_leaf
from qres_core.swarm.products import summed_products
from qres_core.swarm.shard_merging import shard_result
from qres_core.swarm.shard_messages import RESULT, SHARD_MERGED
from qres_core.swarm.shards import ShardPlan
from qres_core.testing import make_node_ids, make_round_info, merged

ROUNDS: Final = int(os.environ.get("QRES_SHARDED_ROUNDS", "40"))
SWARMS: Final = int(os.environ.get("QRES_SHARDED_SWARMS", "3"))
REACHES: Final = (1, 2**8, 2**16, 2**31 - 1)
"""How far coordinates go. With little of it many distances are equal."""


@attrs.frozen
class Drawn:
    """A round: who sent what, who lies, and what merges it."""

    members: tuple[NodeId, ...]
    byzantine: int  # members that may lie, f
    present: tuple[int, ...]  # members that contributed; the others dropped out
    liars: tuple[int, ...]
    vectors: NDArray[np.int32]  # shape ``(n, d)``, of all members
    weights: NDArray[np.int64]
    plugins: tuple[Any, ...]  # wrappers, the outermost first, and the rule
    shards: int
    head: bytes

    @classmethod
    def of(cls, seed: int, most: int = 60) -> Drawn:
        """Of a seed, with 5 to ``most`` members."""
        rng = random.Random(seed)
        n = rng.randint(5, most)
        f = rng.randint(0, (n - 1) // 3)
        d = rng.randint(1, 80)
        members = make_node_ids(n)
        present = sorted(rng.sample(range(n), n - rng.randint(0, f)))
        liars = tuple(rng.sample(range(n), rng.randint(0, f)))
        numbers = np.random.default_rng(seed)
        reach = rng.choice(REACHES)
        honest = numbers.integers(-reach, reach, (n, d), endpoint=True)
        honest += numbers.integers(-reach, reach, d, endpoint=True)
        rows = np.clip(honest // 2, -(2**31), 2**31 - 1).astype(np.int32)
        for liar in liars:
            rows[liar] = lied(rng, numbers, rows)
        return cls(
            members,
            f,
            tuple(present),
            liars,
            rows,
            numbers.integers(1, 6, n),
            plugins(rng, len(present), members[present[0]]),
            rng.randint(1, d),
            rng.randbytes(32),
        )

    def updates(self, of: Sequence[int]) -> Updates:
        """What some members sent."""
        senders = tuple(self.members[index] for index in of)
        return Updates(self.vectors[list(of)], senders, self.weights[list(of)])


def lied(
    rng: random.Random, numbers: np.random.Generator, rows: NDArray[np.int32]
) -> NDArray[np.int32]:
    """What a liar sends: far away, a copy, nearly a copy, turned round, or nothing."""
    copied = rows[rng.randrange(len(rows))]
    ends = np.array([-(2**31), 2**31 - 1, 0], dtype=np.int32)
    return rng.choice(
        [
            numbers.choice(ends, rows.shape[1]),
            copied.copy(),
            copied ^ numbers.integers(0, 2, len(copied)).astype(np.int32),
            np.clip(-4 * copied.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32),
            np.zeros_like(copied),
        ]
    )


def plugins(rng: random.Random, m: int, pivot: NodeId) -> tuple[Any, ...]:
    """Up to three wrappers and a rule for ``m`` updates, each with the most liars or fewer."""

    def some(fewest: int, each: int) -> int:
        return rng.randint(0, max(0, (m - fewest) // each))

    bound = rng.choice([2.0**-12, 0.5, 100.0])
    half = some(1, 2)
    wrappers = [Nnm(f=half), Arc(f=half), Clipping(bound=bound)]
    rules: list[object] = [
        Mean(unprotected=True),
        Median(f=half),
        TrimmedMean(f=half),
        Meamed(f=half),
        Krum(f=some(3, 2)),
        Krum(f=(few := some(3, 2)), select=rng.randint(1, m - few)),
        Bulyan(f=some(3, 4)),
        # Exact, and the search may be long: a budget that is spent is refused on both ways alike.
        Mda(f=half, budget=200),
        GeometricMedian(f=half, iterations=rng.choice([1, 8])),
        GeometricMedian(f=some(4, 6), weighted=True, weight_limit=2.0, iterations=4),
        CentredClipping(f=half, radius=bound, iterations=rng.choice([1, 3]), history=False),
        Caf(f=some(1, 5)),
        Monna(f=half, pivot=pivot.hex()),
    ]
    rule = rng.choice([it for it in rules if fits(it, m)])
    return (*rng.sample(wrappers, rng.choice([0, 0, 1, 1, 2, 3])), rule)


def fits(plugin: Any, m: int) -> bool:
    fewest: int = plugin.claims.needs.min_updates
    return fewest <= m


# ── the data path ─────────────────────────────────────────────────────────────────────────────────


def ended(merge: Any) -> str:
    """The digest of the model, or why there is none."""
    try:
        return model_digest(merge(), 1).hex()
    except QresError as error:
        return error.code


def by_committees(drawn: Drawn, *, again: bool = True) -> Vector:
    """The decided set as committees merge it: of proven bytes, phase by phase.

    ``again``: whether products are computed again after a wrapper.
    """
    n, d = drawn.vectors.shape
    plan = ShardPlan.of(drawn.head, drawn.members, drawn.byzantine, d, shards=drawn.shards)
    cuts = [plan.cut(drawn.vectors[index]) for index in drawn.present]
    whole, parts = drawn.updates(drawn.present), list[Updates]()
    for place in range(len(plan)):
        for cut in cuts:
            assert proves_leaf(cut.root, cut.leaves[place], place, len(plan), cut.path(place))
        rows = np.stack([plan.unpack(place, cut.shards[place]) for cut in cuts])
        parts.append(Updates(rows, whole.senders, whole.weights))
    swarm = SwarmConfig(name="drawn", nodes=n, byzantine=0, quorum=1)
    enabled = [enable(it, f"plugin_{place}") for place, it in enumerate(drawn.plugins)]
    kernel = Kernel(enabled, swarm, solution=Solution((), ()))
    info, sums = make_round_info(d, nodes=n), list[NDArray[Any]]()
    while True:
        found = [
            shard_result(kernel, part, info, sums, plan.bounds(place)[0])
            for place, part in enumerate(parts)
        ]
        if len(sums) == len(kernel.by_products):
            return plan.joined(found)
        sums.append(summed_products(found))
        while not again and len(sums) < len(kernel.by_products):
            sums.append(sums[0])


def as_whole(drawn: Drawn, of: Sequence[int]) -> Vector:
    return merged(drawn.plugins, drawn.updates(of), make_round_info(drawn.vectors.shape[1]))


@pytest.mark.parametrize("first", range(0, ROUNDS, 20))
def test_committees_merge_to_what_a_node_merges_alone(first: int) -> None:
    for seed in range(first, min(first + 20, ROUNDS)):
        drawn = Drawn.of(seed)
        expected = ended(lambda drawn=drawn: as_whole(drawn, drawn.present))
        assert ended(lambda drawn=drawn: by_committees(drawn)) == expected, (seed, drawn.plugins)


def test_with_the_products_of_updates_as_they_came_other_models_would_be_made() -> None:
    """Control: what a wrapper hands on has products of its own."""
    drawn = [it for it in map(Drawn.of, range(60)) if len(it.plugins) > 2]
    assert len(drawn) > 10
    wrong = [
        ended(lambda it=it: by_committees(it, again=False))
        != ended(lambda it=it: as_whole(it, it.present))
        for it in drawn
    ]
    assert sum(wrong) > len(drawn) // 4


def test_the_draws_have_every_rule_and_most_of_them_make_a_model() -> None:
    draws = [Drawn.of(seed) for seed in range(400)]
    rules = {type(drawn.plugins[-1]).__name__ for drawn in draws}
    assert len(rules) == 11
    chains = {tuple(type(it).__name__ for it in drawn.plugins[:-1]) for drawn in draws}
    assert len(chains) == 1 + 3 + 6 + 6  # wrappers in every order
    assert {len(drawn.members) for drawn in draws} == set(range(5, 61))
    made = [ended(lambda it=it: as_whole(it, it.present)) for it in draws[:40]]
    assert sum(not code.startswith("QRES") for code in made) > 30


# ── whole swarms ──────────────────────────────────────────────────────────────────────────────────


def suits(drawn: Drawn) -> bool:
    """Whether the plugins keep what a swarm promises: f liars, and quorums without f members."""
    promise, quorum = drawn.byzantine, len(drawn.members) - drawn.byzantine
    stated = [plugin.claims for plugin in drawn.plugins]
    return all(
        claims.needs.min_updates <= quorum
        and (claims.tolerates is None or claims.tolerates >= promise)
        for claims in stated
    )


def tables(drawn: Drawn) -> tuple[dict[str, Installed], dict[str, Mapping[str, object]], str]:
    """The plugins under names of a file, with their options; and the rule's."""
    installed: dict[str, Installed] = {}
    options: dict[str, Mapping[str, object]] = {}
    for place, plugin in enumerate(drawn.plugins):
        name = f"drawn_{place}"
        installed[name] = Installed.local(name, type(plugin))
        fields = attrs.fields_dict(type(plugin))
        options[name] = {field: getattr(plugin, field) for field, it in fields.items() if it.init}
    return installed, options, list(options)[-1]


@pytest.mark.parametrize("seed", range(SWARMS))
def test_a_whole_swarm_makes_the_models_that_a_node_makes_alone(
    harness: ModuleType, seed: int
) -> None:
    """With members that send nothing, and liars that say nothing of what they merge."""
    draws = (Drawn.of(number, most=12) for number in itertools.count(10_000 * seed))
    drawn = next(filter(suits, draws))
    n, d = drawn.vectors.shape
    installed, options, rule = tables(drawn)

    def train(index: int, _info: RoundInfo) -> Update | None:
        if index not in drawn.present:
            return None
        return Update(drawn.vectors[index], weight=int(drawn.weights[index]))

    def silenced(message: Any) -> Any:
        mute = message.sender in drawn.liars and message.kind in {SHARD_MERGED, RESULT}
        return () if mute else None

    net = harness.Net(
        n,
        byzantine=drawn.byzantine,
        initial=[0] * d,
        aggregate=rule,
        plugins=options,
        installed=installed,
        options={"aggregation": "sharded", "weight_cap": 5},
        train=train,
        rule=silenced,
    )
    net.start()
    honest = [index for index in range(n) if index not in drawn.liars]
    assert net.run(until=lambda: all(net.nodes[index].ended for index in honest))
    for index in honest:
        event = net.nodes[index].ended[0]
        members = [net.index_of[member] for member in event.outcome.members]
        if event.outcome.status is RoundStatus.CLOSED:
            expected = as_whole(drawn, members)
            assert event.merged.tolist() == expected.tolist()
        else:
            assert event.outcome.status is RoundStatus.VOID
            assert ended(lambda of=members: as_whole(drawn, of)) == event.outcome.code
