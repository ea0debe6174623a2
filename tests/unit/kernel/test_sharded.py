"""The facade in sharded rounds: what is called with shards, and what is called with no update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.testing import make_node_ids, make_round_info, make_updates

from qres_core import (
    ACCEPT,
    Claims,
    Contribution,
    Reads,
    RoundInfo,
    Update,
    Updates,
    Vector,
    Verdict,
    Visibility,
    hookimpl,
    options,
    reject,
)
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.claims import Hides, Privatizes
from qres_core.errors import HookError, PluginError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel

INFO = make_round_info(6)
IDS = make_node_ids(3)
SHARD = make_updates([[1, 2], [3, 4], [5, 9]])
UNSEEN = make_updates([[0], [0], [0]])
MADE = tuple(
    Contribution(node, bytes(32), np.zeros(1, dtype=np.int32), 1, root=b"r" * 32) for node in IDS
)
SUMS = np.int64([[9, 15]])


def kernel(*plugins: object) -> Kernel:
    """The plugins of a swarm, by the lower case of their classes' names."""
    swarm = SwarmConfig(name="s", nodes=3, byzantine=0, quorum=3, insecure=True)
    named = {type(plugin).__name__.lower(): plugin for plugin in plugins}
    parts = {"memory": Memory(), **named, "mean": Mean(unprotected=True)}
    return Kernel([enable(plugin, name) for name, plugin in parts.items()], swarm)


@attrs.frozen
class HidesAll:
    """Opens what a test gives it."""

    gives: Any = attrs.field(default=None, metadata=options.local("sums"))
    claims = Claims(tolerates=None, hides=Hides(Visibility.SUM))

    @hookimpl
    def privatize(self, update: Update) -> Update:
        return update

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        assert updates.opened is not None
        return updates

    @hookimpl
    def reveal_shard(self, updates: Updates, start: int, round_info: RoundInfo) -> Any:
        assert (updates.dimension, start, round_info.dimension) == (2, 4, 6)
        return self.gives


def test_the_plugin_that_hides_opens_the_sums_of_a_shard() -> None:
    made = kernel(HidesAll(SUMS))
    assert made.opens_shards
    assert made.reveal_shard(SHARD, MADE, 4, INFO) is SUMS
    # It need not look at shards one by one, and any cut will do.
    assert made.verify_shard(MADE[0], SHARD.vectors[0], 4, INFO) == (ACCEPT, "")
    assert made.shard_run(6) == 1
    assert not kernel().opens_shards


@pytest.mark.parametrize(
    "given", [None, [[9, 15]], np.int32([[9, 15]]), np.int64([[9, 15, 1]]), np.int64([9, 15])]
)
def test_what_are_no_sums_of_the_shard_names_the_plugin(given: object) -> None:
    with pytest.raises(HookError, match=r"QRES-E702 plugins.hidesall.reveal_shard") as caught:
        kernel(HidesAll(given)).reveal_shard(SHARD, MADE, 4, INFO)
    assert "sums of the shard, int64" in str(caught.value)


@attrs.frozen
class Steps:
    """Halves what was merged, and hands on the updates or copies of them."""

    copies: bool = False
    claims = Claims(tolerates=None, reads=Reads.NOTHING)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        assert round_info.dimension == 6
        return proceed(attrs.evolve(updates) if self.copies else updates) // np.int32(2)


@attrs.frozen
class Doubles:
    """Doubles each coordinate of each update."""

    claims = Claims(tolerates=None, reads=Reads.COORDINATES)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        return proceed(attrs.evolve(updates, vectors=2 * updates.vectors))


def test_wrappers_that_do_not_look_are_called_with_what_the_others_made_of_shards() -> None:
    made = kernel(Steps(), Doubles())
    of_shard = made.aggregate_shard(SHARD, attrs.evolve(INFO, dimension=2))
    assert of_shard.tolist() == [6, 10]
    merged = np.int32([6, 10, 6, 10, 6, 10])
    assert made.wrap_merged(merged, UNSEEN, INFO).tolist() == [3, 5, 3, 5, 3, 5]


def test_a_wrapper_that_looks_after_all_names_itself() -> None:
    made = kernel(Steps(copies=True))
    with pytest.raises(HookError, match="updates that it claims not to look at") as caught:
        made.wrap_merged(np.zeros(6, dtype=np.int32), UNSEEN, INFO)
    assert caught.value.problems[0].where == "plugins.steps.wrap_aggregate"


@attrs.frozen
class Reveals:
    """Gives back the updates, or others."""

    changes: bool = False
    claims = Claims(tolerates=None, reads=Reads.NOTHING, privatizes=Privatizes(reveals=False))

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        return attrs.evolve(updates) if self.changes else updates


def test_reveal_is_called_without_vectors_and_may_change_nothing() -> None:
    kernel(Reveals()).check_unseen(UNSEEN, MADE, INFO)
    with pytest.raises(HookError, match="QRES-E702"):
        kernel(Reveals(changes=True)).check_unseen(UNSEEN, MADE, INFO)


@attrs.frozen
class Checks:
    """Refuses shards that begin with a one."""

    run: Any = 3
    claims = Claims(tolerates=None, reads=Reads.NOTHING)

    def shard_run(self, dimension: int) -> Any:
        return self.run if dimension else 1

    @hookimpl
    def verify(self) -> Verdict:
        return ACCEPT

    @hookimpl
    def verify_shard(self, shard: NDArray[np.int32], start: int) -> Verdict:
        return reject("begins") if shard[0] == 1 else ACCEPT if start < 6 else reject("beyond")


@attrs.frozen
class Halves(Checks):
    """Wants pairs."""

    run: Any = 2


def test_every_plugin_must_accept_a_shard_and_has_its_runs_kept() -> None:
    made = kernel(Checks(), Halves())
    assert made.shard_run(6) == 6  # both runs of three and of two
    assert made.verify_shard(MADE[0], np.int32([2, 3]), 0, INFO) == (ACCEPT, "")
    verdict, by = made.verify_shard(MADE[0], np.int32([1, 3]), 0, INFO)
    assert (verdict.reason, by) == ("begins", "checks")


@pytest.mark.parametrize("run", [0, 1.5, None, "3"])
def test_a_run_that_is_no_number_of_coordinates_is_refused_before_the_start(run: object) -> None:
    made = kernel(Checks(run))
    made.fit(6)
    sharded = attrs.evolve(made.swarm, aggregation="sharded", insecure=True)
    with pytest.raises(PluginError, match=r"QRES-E206 plugins.checks: 'shard_run' returned"):
        Kernel(made.enabled, sharded, solution=made.solution).shard_run(6)
