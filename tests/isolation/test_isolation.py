"""No combination of what an adversary sees of secure aggregation isolates a single honest input.

A part of what `make isolation` plays. Each control takes one guard out, and then a single one is
isolated.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from isolation import algebra
from isolation.__main__ import LEAST, first_isolated, one_seed
from isolation.nodes import play_nodes
from isolation.setting import draw
from isolation.switches import ALL
from isolation.world import World, play
from qres_secagg.masks import apply

from qres_core.errors import RoundError

SMALL = (8, 16)


@pytest.mark.claim("C-secagg-26")
def test_two_honest_inputs_stay_together_or_more() -> None:
    played = [one_seed(seed, SMALL) for seed in range(6)]
    assert [item.failure for item in played] == [""] * len(played)
    assert sum(item.least >= LEAST for item in played) > len(played) // 2, "sums were opened"


@pytest.mark.long
def test_two_honest_inputs_stay_together_or_more_in_larger_swarms() -> None:
    played = [one_seed(seed, (8, 64)) for seed in range(100, 112)]
    assert [(item.seed, item.failure) for item in played if item.failure] == []
    assert sum(item.sums > 1 for item in played) > len(played) // 4, "several for one model"
    assert all(item.exact for item in played)


@pytest.mark.control("C-secagg-26")
@pytest.mark.parametrize(
    ("guard", "seeds"),
    [
        ("record", range(4)),
        ("honest", range(4)),
        pytest.param("neighbours", range(4), marks=pytest.mark.long),
        pytest.param("draws", range(20), marks=pytest.mark.long),
        pytest.param("cuts", range(8, 20), marks=pytest.mark.long),
    ],
)
def test_without_a_guard_a_single_input_is_isolated(guard: str, seeds: range) -> None:
    assert first_isolated(guard, seeds) is not None


@pytest.mark.long
def test_sums_of_parts_are_not_open_where_they_would_lay_one_input_open() -> None:
    """The seeds with which the control without that guard does."""
    assert all(play(ALL["cuts"].drawn(seed)).least != 1 for seed in range(7, 10))


def test_the_guards_are_those_of_the_product() -> None:
    for switch in ALL.values():
        with switch.off():
            pass


def test_a_seed_plays_the_same_again() -> None:
    setting = draw(11, fewest=8, most=12)
    first, second = play(setting), play(setting)
    assert first == second
    assert first.story


@attrs.define
class Watched(World):
    """One round, of which an honest node opens the sums as the round machine has it do."""

    rows: list[frozenset[int]] = attrs.field(init=False, factory=list)  # honest members of each sum

    def _height(self) -> None:
        chosen = self._propose() if self._round() else None
        if chosen is None:
            return
        self._decide(chosen)
        self._pass_time(2)
        node = self.plugins[min(set(range(self.setting.nodes)) - self.away)]
        sent = tuple(self.sent[member] for member in self._nodes(chosen))
        updates: Any = SimpleNamespace(opened=None)  # masked, and not looked at
        with suppress(RoundError):  # not opened
            opened = node.reveal(updates, sent, self.info).updates
            self.rows = [self._ranks(sums) - self.adversary.corrupt for sums in opened.members]

    def known(self, members: Collection[int]) -> tuple[Any, Any]:
        """What is left of their masked inputs without the masks that count as known; the inputs."""
        corrupt, recorder = self._corrupt_nodes(), self.recorder
        honest = [row for row in recorder.transcript.rows if row.node not in corrupt]
        total, plain = np.zeros(3, np.uint32), np.zeros(3, np.int64)
        for row, equation in zip(honest, recorder.transcript.equations(corrupt), strict=True):
            if self.roster.index(row.node) in members:
                sent, masked = recorder.vectors[row.session, row.node]
                unknown = {key for key, _ in equation.masks}
                masks = [(row.key, 1), *((key, sign) for _, key, sign in row.pairs)]
                values = masked.copy()
                apply(values, [(key, -sign) for key, sign in masks if key not in unknown])
                total += values
                plain += sent
        return total.view(np.int32), plain


def test_the_checker_finds_open_what_the_product_opens_and_reads_it() -> None:
    """In groups and in one sum: the same members, and what is left is the sum of their inputs."""
    compared = 0
    for seed in range(10):
        setting = attrs.evolve(draw(seed, fewest=8, most=16), heights=1, loss=0.0)
        world = Watched(setting)
        world.play()
        corrupt = world._corrupt_nodes()
        vectors = algebra.revealed(list(world.recorder.transcript.equations(corrupt)))
        assert vectors is not None
        found = [world._ranks([node for node, _ in vector]) for vector in vectors]
        if world.rows:
            compared += 1
            assert sorted(map(sorted, found)) == sorted(map(sorted, world.rows))
        for members in found:
            total, plain = world.known(members)
            assert np.array_equal(total, plain)
    assert compared >= 3


@pytest.mark.long
@pytest.mark.parametrize("aggregation", ["everyone", "sharded"])
@pytest.mark.parametrize("seed", range(4))
def test_whole_nodes_keep_two_honest_inputs_together_or_more(seed: int, aggregation: str) -> None:
    played = play_nodes(seed, aggregation)
    assert played.least >= LEAST
    assert played.voided
    assert played.repeated, "the trainer sends the same again while the model stays"


@pytest.mark.control("C-secagg-13")
@pytest.mark.long
@pytest.mark.parametrize("aggregation", ["everyone", "sharded"])
def test_control_without_the_record_whole_nodes_lay_one_open(aggregation: str) -> None:
    with ALL["record"].off():
        assert any(play_nodes(seed, aggregation).least == 1 for seed in range(8))
