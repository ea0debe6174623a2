"""Public validation: what harms the examples all nodes hold is merged by none."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_info, make_updates
from qres_validation import PublicValidation

from qres_core import Claims, Needs, Surroundings, Vector, Visibility, hookimpl
from qres_core.attacks.scenario import SECTIONS
from qres_core.errors import ValueRefusedError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut

MODEL = np.zeros(2, dtype=np.int32)


def held_out(*losses: float) -> HeldOut:
    """Losses as they are asked for: with the update first, then without."""
    asked = iter(losses)
    return HeldOut(MODEL, lambda _model: next(asked))


def merged(plugin: PublicValidation, judge: HeldOut | None) -> Vector:
    updates = make_updates([[1, 2], [3, 4]], visibility=Visibility.SUM)
    return plugin.wrap_aggregate(lambda inner: inner.vectors[0], updates, judge)


def test_what_is_no_worse_than_the_tolerance_passes_unchanged() -> None:
    assert merged(PublicValidation(tolerance=0.1), held_out(1.1, 1.0)).tolist() == [1, 2]


@pytest.mark.parametrize("loss", [1.11, float("inf"), float("nan")])
def test_what_is_worse_is_refused(loss: float) -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 .* worse on the public examples"):
        merged(PublicValidation(tolerance=0.1), held_out(loss, 1.0))


def test_without_examples_nothing_passes() -> None:
    with pytest.raises(ValueRefusedError, match="no public examples"):
        merged(PublicValidation(), None)
    (problem,) = PublicValidation().preflight(make_node_info())
    assert problem.code == "QRES-E311"
    assert not tuple(PublicValidation().preflight(attrs.evolve(make_node_info(), validates=True)))


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf"), True])
def test_options_out_of_range(tolerance: Any) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        PublicValidation(tolerance=tolerance)


@pytest.mark.claim("C-validation-7")
def test_it_works_where_only_the_sum_is_seen() -> None:
    assert PublicValidation().claims.needs == Needs(visibility=Visibility.SUM)


def test_it_is_refused_behind_a_wrapper_that_may_change_what_was_judged() -> None:
    around = Surroundings(nodes=4, byzantine=1, quorum=3)
    assert not list(PublicValidation().check(around))
    (problem,) = PublicValidation().check(attrs.evolve(around, altered_by=("clipping",)))
    assert (problem.code, problem.where) == ("QRES-E303", "plugins.public_validation")
    assert "before [plugins.clipping]" in problem.fix


@attrs.define
class Turncoat:
    """A rule that merges the opposite of the mean from its third round on."""

    rounds: int = attrs.field(default=0, init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Any) -> Vector:
        self.rounds += 1
        mean = updates.vectors.mean(axis=0)
        return (mean if self.rounds <= 2 else -8 * mean).astype(np.int32)


@pytest.mark.claim("C-validation-7")
@pytest.mark.control("C-validation-7")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_swarm_keeps_the_model_it_has_when_the_merged_one_is_worse(
    guarded: bool,  # noqa: FBT001 - the two arms of one experiment
) -> None:
    plugins: dict[str, Any] = {"memory": {}, "turncoat": {}}
    if guarded:
        plugins = {"memory": {}, "public_validation": {}, "turncoat": {}}
    task = {"name": "digits", "held_out": 40, "same_held_out": True}
    config = parse(
        {
            "swarm": {"name": "ward", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True},
            "plugins": plugins,
            "simulation": {"rounds": 3},
            "trainer": {"task": task},
        },
        source="swarm.toml",
        sections=SECTIONS,
    )
    installed = {**scan(), "turncoat": Installed.local("turncoat", Turncoat)}
    result = simulate(config, config.sections["simulation"], installed=installed)
    assert result.unanimous
    assert len(result.closed) == (2 if guarded else 3)
    accuracy = result.final("accuracy")
    assert accuracy is not None
    assert (accuracy > 0.6) is guarded
    if guarded:
        assert any("QRES-E507" in item.reason for item in result.rounds)
