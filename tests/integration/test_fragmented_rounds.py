"""Rounds that cover fragments of the model in turn: what they merge, what they cost, who agrees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from qres_core import Claims, RoundInfo, Updates, Vector, fixed, hookimpl, model_digest
from qres_core.attacks.scenario import Scenario
from qres_core.contract import packing
from qres_core.errors import ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.context.position import round_info
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.training.tasks import TaskConfig, make_task, trained

DIMENSION: Final = 50
TASK: Final = TaskConfig(name="quadratic", dimension=DIMENSION)
NODES: Final = 5


def config(plugins: Mapping[str, Mapping[str, Any]] | None = None, **swarm: Any) -> Config:
    tables = {
        "name": "parts",
        "nodes": NODES,
        "byzantine": 1,
        "quorum": NODES,
        "deadline": 2.0,
        "vote_timeout": 1.0,
        "fragments": 4,
        **swarm,
    }
    chosen = {"trimmed_mean": {"f": 1}} if plugins is None else plugins
    every = {"memory": {}, "ed25519": {}, "replay": {}, **chosen}
    return parse({"swarm": tables, "plugins": every}, source="test")


def played(swarm: Config, rounds: int = 6, **scenario: Any) -> SimulationResult:
    return simulate(swarm, Scenario(rounds=rounds, **scenario), task=TASK)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the vectors in contributions, as they are decoded."""
    found: list[int] = []
    plain = ContributionBody.from_bytes.__func__  # type: ignore[attr-defined]

    def noted(cls: type[ContributionBody], payload: bytes, dimension: int) -> ContributionBody:
        body: ContributionBody = plain(cls, payload, dimension)
        found.append(body.vector.size)
        return body

    monkeypatch.setattr(ContributionBody, "from_bytes", classmethod(noted))
    return found


def by_hand(rounds: int, count: int) -> list[str]:
    """The models of a swarm whose rule is the mean, computed here without any machine."""
    task, model, digests = make_task(TASK, nodes=NODES, seed=0), None, list[str]()
    model = task.initial
    swarm = config({"mean": {"unprotected": True}}, fragments=count, byzantine=0).swarm
    for step in range(rounds):
        start, stop = step % count * DIMENSION // count, (step % count + 1) * DIMENSION // count
        info = RoundInfo(swarm.name, step + 1, b"", DIMENSION, 0, (), NODES, step=step)
        made = [trained(trainer, model, info)[0].vector for trainer in task.trainers]
        rows = np.stack(made)[:, start:stop].astype(np.int64)
        mean = np.rint(rows.sum(axis=0) / NODES).astype(np.int32)  # half to even
        change = np.zeros(DIMENSION, dtype=np.int32)
        change[start:stop] = mean
        model = fixed.add_saturating(model, change).vector
        digests.append(model_digest(model, step + 1).hex())
    return digests


@pytest.mark.parametrize("count", [1, 3, 4, DIMENSION])
@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_the_models_are_those_that_are_computed_by_hand(count: int, engine: str) -> None:
    swarm = config({"mean": {"unprotected": True}}, fragments=count, byzantine=0)
    result = played(swarm, engine=engine)
    assert result.unanimous
    assert [record.model_digest for record in result.rounds] == by_hand(6, count)


def test_contributions_carry_the_fragment_alone(sizes: list[int]) -> None:
    played(config(), rounds=4, engine="events")
    assert set(sizes) == {12, 13}  # of 50 coordinates in 4 parts
    assert max(map(packing.most_bytes, sizes)) < packing.most_bytes(DIMENSION) / 3
    sizes.clear()
    played(config(fragments=1), rounds=1, engine="events")  # the control
    assert set(sizes) == {DIMENSION}


PAIRS: Final[Mapping[str, Mapping[str, Any]]] = {
    "krum": {"f": 1},
    "geometric_median": {"f": 1},
    "median": {"f": 1},
    "centred_clipping": {"f": 1, "radius": 1.0, "history": False},
}


@pytest.mark.parametrize("rule", PAIRS)
def test_both_engines_agree_under_attack(rule: str) -> None:
    swarm = config({rule: PAIRS[rule]})
    attacked = {"attack": "sign_flip", "attackers": 1}
    nodes, observer = (
        played(swarm, engine=engine, **attacked) for engine in ("events", "vectorised")
    )
    assert nodes.unanimous
    assert len(nodes.closed) == 6
    assert {*nodes.model_digests, *observer.model_digests} == {nodes.model_digests[0]}


def test_sharded_rounds_of_fragments_give_the_same_bits() -> None:
    whole, sharded = (played(config(aggregation=how)) for how in ("everyone", "sharded"))
    assert len(sharded.closed) == 6
    assert [each.model_digest for each in sharded.rounds] == [
        each.model_digest for each in whole.rounds
    ]


@pytest.mark.parametrize("fragments", [1, 4])
@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_a_range_of_coordinates_at_a_time_gives_the_same_bits(engine: str, fragments: int) -> None:
    rule = {"median": {"f": 1}}
    plain = played(config(rule, fragments=fragments), rounds=3, engine=engine)
    ranged = played(config(rule, fragments=fragments, memory=2000), rounds=3, engine=engine)
    assert [each.model_digest for each in ranged.closed] == [
        each.model_digest for each in plain.closed
    ]
    assert len(ranged.closed) == 3


@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_a_resumed_simulation_goes_on_with_the_right_fragment(engine: str, tmp_path: Path) -> None:
    scene, swarm = Scenario(rounds=7, engine=engine), config({"median": {"f": 1}})
    whole = simulate(swarm, scene, task=TASK)
    first = attrs.evolve(scene, rounds=3)
    simulate(swarm, first, task=TASK, save=tmp_path / "kept")
    rest = simulate(swarm, scene, task=TASK, resume=tmp_path / "kept")
    assert [each.model_digest for each in rest.rounds] == [
        each.model_digest for each in whole.rounds
    ]


# ── heights without a model ───────────────────────────────────────────────────────────────────


_TURNS: Final[dict[int, int]] = {}
"""The fragment that was merged, by height."""


@attrs.define
class RefusesOften:
    """A rule that cannot merge in most heights; it notes which fragments it merged."""

    claims = Claims(tolerates=None, averages=True, by_fragments=True)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        assert round_info.fragment is not None
        if round_info.height % 4 != 3:
            raise ValueRefusedError.of("QRES-E507", "plugins.often", "not at this height")
        _TURNS[round_info.height] = round_info.fragment.index
        return updates.vectors[0]


def turns(engine: str) -> list[int]:
    swarm, installed = config({"often": {}}, byzantine=0), scan()
    often = Installed.local("often", RefusesOften)
    _TURNS.clear()
    simulate(
        swarm,
        Scenario(rounds=16, engine=engine),
        task=TASK,
        installed={**installed, "often": often},
    )
    return [index for _height, index in sorted(_TURNS.items())]


@pytest.mark.parametrize("engine", ["vectorised", "events"])
def test_heights_without_a_model_starve_no_fragment(engine: str) -> None:
    """Whoever can spoil all heights but one in four does not choose the fragment that is merged."""
    assert turns(engine)[:4] == [0, 1, 2, 3]


def test_by_heights_one_fragment_alone_would_be_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_height(*arguments: Any) -> RoundInfo:
        info = round_info(*arguments)
        assert info.fragment is not None
        part = attrs.evolve(info.fragment, index=info.height % 4)
        return attrs.evolve(info, fragment=part, dimension=part.dimension)

    monkeypatch.setattr("qres_lab.vectorised.round_info", by_height)
    assert set(turns("vectorised")) == {3}
