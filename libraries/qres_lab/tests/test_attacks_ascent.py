"""Attacks that follow the gradient of the harm they want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.attacks.ascent import TRIES, Ascent, Steady

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks import ATTACKS, Attack, AttackContext, Forgery, make_attack, register
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig, make_task

Rows = NDArray[np.int32]
WIDTH, LIARS = 200, 4
AXES = np.random.default_rng(5).normal(size=(2, WIDTH))
"""The directions in which the loss of the first and of the second class rises."""


def honest_rows() -> Rows:
    rng = np.random.default_rng(1)
    return np.rint(1e4 * (1.0 + 0.3 * rng.normal(size=(10, WIDTH)))).astype(np.int32)


def examined(merged: Vector, label: int | None) -> tuple[float, NDArray[np.float64]] | None:
    """Losses that rise along one direction each; the whole is their mean."""
    if label is None:
        slope = AXES.mean(axis=0)
    elif label < len(AXES):
        slope = AXES[label]
    else:
        return None
    return float(merged @ slope), slope


def loss(merged: Vector) -> float:
    return float(merged @ AXES.mean(axis=0))


def merge(rows: Rows, forged: Rows) -> Vector | None:
    """Ten shares of which four are the liars'; refuses what is far from the honest mean."""
    made = np.rint(0.6 * rows.mean(axis=0) + 0.4 * forged.mean(axis=0)).astype(np.int32)
    far = np.linalg.norm(made - rows.mean(axis=0)) > 1.5e5
    return None if far else made


def context(**known: Any) -> AttackContext:
    """Of the first of four liars among fourteen nodes."""
    rows, ids = honest_rows(), tuple(bytes([index]) * 32 for index in range(14))
    info = RoundInfo("a", 1, b"m" * 32, WIDTH, 0, ids, 10, LIARS, head=b"h" * 32)
    made = AttackContext(
        info,
        np.zeros(WIDTH, dtype=np.int32),
        Update(rows[0]),
        rows,
        LIARS,
        0,
        np.random.default_rng(0),
        lambda forged: merge(rows, forged),
        loss=loss,
    )
    return attrs.evolve(made, **known)


def outcome(attack: Attack, seen: AttackContext) -> Vector:
    """What the swarm makes of the round."""
    (forged,) = attack.forge(seen)
    row = np.frombuffer(forged.octets, dtype="<i4").astype(np.int32)
    made = merge(seen.honest, np.tile(row, (LIARS, 1)))
    assert made is not None
    return made


@pytest.mark.claim("C-attack-7")
@pytest.mark.control("C-attack-7")
def test_with_the_gradient_it_does_more_harm_than_a_search_without() -> None:
    with_it = loss(outcome(make_attack("ascent"), context(examined=examined)))
    # The controls: the same search without the gradient, and the search of a dozen directions.
    blind = loss(outcome(make_attack("ascent"), context()))
    searched = loss(outcome(make_attack("searched"), context(examined=examined)))
    assert with_it - blind > 3 * abs(blind - loss(honest_rows().mean(axis=0).astype(np.int32)))
    assert with_it > max(blind, searched) + 1e4


@pytest.mark.claim("C-attack-7")
def test_one_class_alone_suffers_and_which_one_is_kept() -> None:
    attack = make_attack("one_class", 1.0)
    made = outcome(attack, context(examined=examined))
    all_of_it = outcome(make_attack("ascent"), context(examined=examined))
    assert made @ AXES[1] > all_of_it @ AXES[1] + 1e4
    assert made @ AXES[0] < all_of_it @ AXES[0]
    # Left out, it is the class that the honest mean serves worst, in all rounds to come.
    attack = make_attack("one_class")
    worst = int(np.argmax(AXES @ honest_rows().mean(axis=0)))
    first = outcome(attack, context(examined=examined))
    assert first @ AXES[worst] > all_of_it @ AXES[worst]

    def turned(merged: Vector, label: int | None) -> tuple[float, NDArray[np.float64]] | None:
        found = examined(merged, label)
        if found is None or label == worst:
            return found
        return found[0] + 1e9, found[1]

    again = outcome(attack, context(examined=turned))
    assert again @ AXES[worst] > all_of_it @ AXES[worst]


@pytest.mark.claim("C-attack-7")
def test_the_steady_attack_begins_with_what_it_won_and_with_the_signs_of_the_first_round() -> None:
    attack = Steady()
    outcome(attack, context(examined=examined))
    signs = np.sign(AXES.mean(axis=0))

    def flipped(_merged: Vector, _label: int | None) -> tuple[float, NDArray[np.float64]]:
        return 0.0, -signs

    won, turned = attack._held(context(examined=flipped))
    assert won.any()
    assert np.array_equal(turned, signs * np.abs(won))  # not those of the gradient as it is now
    outcome(attack, context(examined=examined))
    after, _signed = attack._held(context(examined=examined))
    assert won @ after > 0.5 * np.linalg.norm(won) * np.linalg.norm(after)


@pytest.mark.claim("C-attack-7")
@pytest.mark.control("C-attack-7")
def test_steady_counts_the_rounds_to_come() -> None:
    """A loss that falls before it rises: only who looks ahead goes there, ``ascent`` does not."""
    way = np.zeros(WIDTH)
    way[0] = 1.0

    def bent(merged: Vector, _label: int | None) -> tuple[float, NDArray[np.float64]]:
        along = float(merged[0]) / 1e4
        return (along - 2.0) ** 2, (2 * (along - 2.0)) * way

    attack = Steady()
    harm: Callable[[Vector], float] = attack._harm(context(examined=bent), np.zeros(WIDTH))
    step, none = np.zeros(WIDTH, dtype=np.int32), np.zeros(WIDTH, dtype=np.int32)
    step[0] = 10_000
    assert bent(step, None)[0] < bent(none, None)[0]
    assert harm(step) > harm(none)
    greedy: Callable[[Vector], float] = Ascent()._harm(context(examined=bent), np.zeros(WIDTH))
    assert greedy(step) < greedy(none)


@pytest.mark.parametrize("name", ["ascent", "one_class", "steady"])
def test_it_tries_sixty_lies_and_sends_something_although_all_are_refused(name: str) -> None:
    asked: list[int] = []

    def refused(rows: Rows) -> None:
        asked.append(len(rows))

    (sent,) = make_attack(name).forge(context(probe=refused, examined=examined))
    assert asked == [LIARS] * TRIES
    assert len(sent.octets) == 4 * WIDTH


# ── what the attackers are shown ──────────────────────────────────────────────────────────────


@register("looks", summary="a test's: keeps what it is shown", knowledge="everything")
@attrs.define(eq=False)
class Looks:
    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        SHOWN.append(context)
        return ()


ATTACKS.pop("looks")
SHOWN: list[AttackContext] = []


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> AttackContext:
    """The first attacker's context in the first round of the digits."""
    pytest.importorskip("sklearn")
    SHOWN.clear()

    def looks(_name: str, _strength: float | None) -> Attack:
        return Looks()

    monkeypatch.setattr("qres_core.lab.adversary.make_attack", looks)
    swarm = {"name": "g", "nodes": 7, "byzantine": 2, "quorum": 5, "insecure": True}
    config = parse({"swarm": swarm, "plugins": {"memory": {}, "median": {"f": 2}}}, source="g")
    task = make_task(TaskConfig(held_out=20, local_epochs=1), nodes=7, seed=3)
    scenario = Scenario(rounds=1, seed=3, attack="silent", attackers=2)
    simulate(config, scenario, task=task)
    return SHOWN[0]


def test_the_gradient_that_is_shown_is_that_of_the_loss_that_is_shown(
    shown: AttackContext,
) -> None:
    rng = np.random.default_rng(0)
    way = rng.normal(size=shown.model.size)
    step = np.rint(500 * way).astype(np.int32)
    for label in (None, 3):
        here = shown.examined(np.zeros_like(step), label)
        assert here is not None
        after, before = shown.examined(step, label), shown.examined(-step, label)
        assert after is not None
        assert before is not None
        slope = (after[0] - before[0]) / (2 * 500 / 2**16)
        assert slope == pytest.approx(float(here[1] @ way), rel=0.02, abs=1e-3)
    assert shown.examined(step, 10) is None
    losses = [shown.examined(step, label) for label in range(10)]
    assert shown.examined(step, None) is not None
    assert len({item[0] for item in losses if item}) == 10


def test_the_references_of_all_honest_nodes_are_shown(shown: AttackContext) -> None:
    references = shown.references()
    assert len(references) == len(shown.honest) == 5
    assert len({item.tobytes() for item in references}) == 5
    proposers = shown.reference()
    assert proposers is not None
    assert any(np.array_equal(item, proposers) for item in references)
