"""A rule or wrapper is never called with fewer updates than it claims to need."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info, make_updates, merged

from qres_core import Claims, Needs, Reads, Updates, Vector, hookimpl
from qres_core.errors import ValueRefusedError
from qres_core.kernel import merging

INFO = make_round_info(2)


@attrs.frozen
class FallsBackToMean:
    """A rule of four updates that would merge fewer by a weaker rule."""

    claims = Claims(tolerates=1, needs=Needs(min_updates=4), reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors.mean(axis=0).astype(np.int32)


@attrs.frozen
class Halves:
    """A wrapper of two updates that hands on one of two."""

    claims = Claims(tolerates=None, needs=Needs(min_updates=2), reads=Reads.COORDINATES)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        return proceed(
            attrs.evolve(
                updates,
                vectors=updates.vectors[::2],
                senders=updates.senders[::2],
                weights=updates.weights[::2],
                members=updates.members[::2],
            )
        )


CASES = {
    "a rule": ((FallsBackToMean(),), 3, "plugin_0"),
    "a rule behind a wrapper": ((Halves(), FallsBackToMean()), 6, "plugin_1"),
    "a wrapper": ((Halves(), FallsBackToMean()), 1, "plugin_0"),
}


@pytest.mark.parametrize("shards", [None, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_too_few_are_refused_before_the_call(
    case: str, shards: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins, count, name = CASES[case]
    updates = make_updates(np.arange(2 * count).reshape(count, 2))
    with pytest.raises(ValueRefusedError, match=f"QRES-E505 plugins.{name}: n = ") as refused:
        merged(plugins, updates, INFO, shards=shards)
    assert "raise swarm.quorum to " in refused.value.problems[0].fix
    monkeypatch.setattr(merging, "check_enough", lambda *_: None)  # the control: a weaker rule
    assert merged(plugins, updates, INFO, shards=shards).shape == (2,)


def test_just_enough_are_merged() -> None:
    assert merged([FallsBackToMean()], make_updates(np.zeros((4, 2), int)), INFO).tolist() == [0, 0]
    eight = make_updates(np.zeros((8, 2), int))
    assert merged([Halves(), FallsBackToMean()], eight, INFO).tolist() == [0, 0]
