"""What the plugin says of a configuration in which its watch would judge the wrong vectors."""

from __future__ import annotations

import attrs
import pytest
from qres_reputation import Reputation

from qres_core import Surroundings, Visibility

FITS = Surroundings(nodes=5, byzantine=1, quorum=4)
ALTERED = attrs.evolve(FITS, altered_by=("nnm", "clipping"))


def test_each_wrapper_that_alters_updates_before_the_watch_is_named() -> None:
    found = list(Reputation(outlier_rounds=3).check(ALTERED))
    assert [problem.code for problem in found] == ["QRES-E303", "QRES-E303"]
    for problem, name in zip(found, ALTERED.altered_by, strict=True):
        assert problem.where == "plugins.reputation.outlier_rounds"
        assert f"plugins.{name} makes of updates" in problem.what
        assert f"put [plugins.reputation] before [plugins.{name}]" in problem.fix


@pytest.mark.parametrize(
    ("rounds", "around"),
    [
        (3, FITS),
        (0, ALTERED),  # no watch
        (3, attrs.evolve(ALTERED, visibility=Visibility.GROUP)),  # nothing to watch
    ],
)
def test_without_a_watch_or_an_alteration_there_is_no_problem(
    rounds: int, around: Surroundings
) -> None:
    assert list(Reputation(outlier_rounds=rounds).check(around)) == []
