"""Merging as committees do, with rules and wrappers of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info, make_updates, merged

from qres_core import Claims, Reads, Updates, Vector, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.errors import HookError

INFO = make_round_info(6)


def drawn(seed: int) -> Updates:
    return make_updates(np.random.default_rng(seed).integers(-1000, 1000, (5, 6)))


@attrs.define
class Looks:
    """A wrapper that merges each coordinate by itself, and notes what it is given."""

    claims = Claims(tolerates=None, reads=Reads.COORDINATES)
    seen: list[Updates] = attrs.field(factory=list[Updates], init=False)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        self.seen.append(updates)
        return proceed(updates)


@pytest.mark.parametrize("shards", [1, 2, 5, 6])
def test_chains_of_both_kinds_give_the_whole_in_any_number_of_shards(
    harness: ModuleType, shards: int
) -> None:
    tamed, nearest, even = harness.Tamed(), harness.Nearest(), Mean(unprotected=True)
    chains: list[list[Any]] = [
        [even],
        [nearest],
        [tamed, even],
        [tamed, nearest],
        [tamed, tamed, nearest],
        [Looks(), tamed, Looks(), nearest],
    ]
    for seed in range(10):
        updates = drawn(seed)
        for plugins in chains:
            whole = merged(plugins, updates, INFO).tolist()
            assert merged(plugins, updates, INFO, shards=shards).tolist() == whole


def test_only_who_looks_at_products_is_given_any(harness: ModuleType) -> None:
    before, after = Looks(), Looks()
    plugins = [before, harness.Tamed(), after, Mean(unprotected=True)]
    merged(plugins, drawn(1), INFO, shards=2)
    assert len(before.seen) == 2 * 2  # ranges, in two phases
    assert len(after.seen) == 2
    assert all(updates.products is None for updates in (*before.seen, *after.seen))


@pytest.mark.parametrize("times", [0, 2])
def test_a_wrapper_that_comes_to_the_rule_not_just_once_is_refused(
    harness: ModuleType, times: int
) -> None:
    plugins = [harness.Twice(times), harness.Nearest()]
    merged(plugins, drawn(1), INFO)
    with pytest.raises(HookError, match="call proceed once") as caught:
        merged(plugins, drawn(1), INFO, shards=2)
    assert caught.value.code == "QRES-E702"
    assert "aggregate" in str(caught.value)
