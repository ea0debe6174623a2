"""A rule with a mistake in it ends a simulation by name, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import numpy as np
import pytest

from qres_core import Claims, Needs, Updates, Vector, Visibility, hookimpl
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.errors import PluginError, RoundError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.guard import EndedError, guarded
from qres_core.lab import recorder
from qres_core.lab.events import MAX_ABORTED, EventEngine
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate

Mistake: TypeAlias = Callable[[np.ndarray[Any, Any]], Any]


def played(mistake: Mistake, rounds: int = 8, engine: str = "events") -> SimulationResult:
    """A swarm of four with a median that makes a mistake."""

    @attrs.frozen
    class Wrong:
        claims = Claims(tolerates=1, needs=Needs(visibility=Visibility.INDIVIDUAL, min_updates=3))

        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            """Merge."""
            result: Vector = mistake(np.median(updates.vectors, axis=0))
            return result

    raw: dict[str, Any] = {
        "swarm": {"name": "x", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True},
        "plugins": {"memory": {}, "wrong": {}},
        "trainer": {"task": {"name": "quadratic", "dimension": 7}},
    }
    config: Config = parse(raw, source="x", sections=SECTIONS)
    installed = {**scan(), "wrong": Installed.local("wrong", Wrong)}
    return simulate(config, Scenario(rounds=rounds, seed=1, engine=engine), installed=installed)


def right(merged: np.ndarray[Any, Any]) -> Vector:
    result: Vector = np.rint(merged).astype(np.int32)
    return result


def drawn(merged: np.ndarray[Any, Any]) -> Vector:
    return right(merged + np.random.default_rng().normal(size=merged.shape) * 1000)


def test_a_rule_that_is_right_makes_all_models() -> None:
    """The control of all of these."""
    assert len(played(right, rounds=2).closed) == 2


def test_a_rule_that_draws_ends_the_simulation_by_name() -> None:
    with pytest.raises(
        RoundError,
        match=r"QRES-E601 plugins\.wrong: nodes \d and \d merged the same set to "
        r"different models: plugins\.wrong is not deterministic",
    ):
        played(drawn)


def test_without_that_comparison_it_gives_up_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the nodes cannot agree, and a bound on their attempts ends it."""
    monkeypatch.setattr(EventEngine, "_other_than_before", lambda *_arguments: None)
    result = played(drawn)
    assert not result.closed
    assert f"{MAX_ABORTED} attempts to agree" in result.notices[0]


@pytest.mark.parametrize("engine", ["events", "vectorised"])
@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (lambda merged: merged, "expected int32, got float64"),
        (lambda merged: right(merged)[:-1], "7"),
        (lambda _merged: None, "plugins.wrong.aggregate"),
    ],
)
def test_a_void_round_says_which_hook_returned_what(
    mistake: Mistake, what: str, engine: str
) -> None:
    """It is over after three rounds: the others would end alike."""
    result = played(mistake, engine=engine)
    assert len(result.rounds) == recorder.ALIKE
    for record in result.rounds:
        assert record.void
        assert "(QRES-E702): plugins.wrong.aggregate: " in record.reason
        assert what in record.reason
    assert "stopped after 3 rounds that ended alike" in result.notices[0]
    assert result.rounds[0].reason in result.notices[0]


def test_what_may_pass_is_played_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that raises may work another time. The control plays all rounds of the other fault."""

    def raises(_merged: object) -> Vector:
        raise ValueError("not today")

    result = played(raises, rounds=5)
    assert len(result.rounds) == MAX_ABORTED
    assert "plugins.wrong.aggregate: ValueError: not today" in result.rounds[0].reason
    monkeypatch.setattr(recorder, "WRONG_RESULT", "never")
    assert len(played(lambda merged: merged).rounds) == MAX_ABORTED


# ── what would end the process ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
def test_a_rule_that_would_end_the_process_is_named(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(_merged: object) -> Vector:
        raise error

    name = type(error).__name__
    result = played(ends, rounds=1)
    assert f"(QRES-E701): plugins.wrong.aggregate: EndedError: raised {name}" in (
        result.rounds[0].reason
    )
    monkeypatch.setattr("qres_core.kernel.calls.guarded", lambda call: call)
    with pytest.raises(type(error)):  # the control: it passes through everything
        played(ends, rounds=1)


def test_ctrl_c_is_no_fault_of_a_plugin() -> None:
    def interrupted(_merged: object) -> Vector:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(interrupted, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted)(None)


def test_a_guarded_call_passes_on_what_it_gives_and_raises() -> None:
    assert guarded(max)(1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)()

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(EndedError, match="raised SystemExit: 3, which would end the process"):
        guarded(leave)()


def test_a_method_beside_the_claims_cannot_end_the_process() -> None:
    @attrs.frozen
    class Leaving:
        @hookimpl
        def teardown(self) -> None:
            """Do nothing."""

        def check(self, around: object) -> object:
            """Leave."""
            del around
            raise SystemExit(3)

    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.leaving: 'check' raised SystemExit"):
        enable(Leaving(), "leaving").check(None)  # type: ignore[arg-type]


def test_claims_cannot_end_the_process() -> None:
    @attrs.frozen
    class Leaving:
        @property
        def claims(self) -> Claims:
            """Leave."""
            raise SystemExit(3)

        @hookimpl
        def teardown(self) -> None:
            """Do nothing."""

    with pytest.raises(PluginError, match=r"QRES-E210.*'claims' raised SystemExit"):
        enable(Leaving(), "leaving")
