"""Small versions of ``scripts/full_stack.py``: the whole stack, dropouts and hostile plugins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import attrs
import numpy as np
import pytest
from qres_lab.testing.builders import make_round_info
from qres_zk import norm, pedersen
from qres_zk.bundle import ProofBundle
from qres_zk.statement import Context, NormStatement

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.errors import LabError, ValueRefusedError
from qres_core.kernel.config import load
from qres_core.lab.simulator import simulate

ROOT = Path(__file__).parents[2]


def _script() -> ModuleType:
    path = ROOT / "scripts" / "full_stack.py"
    spec = importlib.util.spec_from_file_location("full_stack", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["full_stack"] = module
    spec.loader.exec_module(module)
    return module


stack = _script()


@pytest.mark.claim("C-composition-7")
@pytest.mark.long
def test_groups_and_a_median_stand_a_liar_and_dropouts() -> None:
    verdict = stack.run(stack.groups(16), rounds=2, seed=1)
    assert verdict.stack.unanimous
    assert len(verdict.stack.closed) == 2
    assert verdict.lost <= 10.0  # of two rounds; the bounds of the script are those of twelve
    (fate,) = verdict.stack.fates
    assert fate.merged >= 1  # what it sends is within its proof, so nothing speaks against it
    assert not fate.against
    assert verdict.stack.rounds[-1].banned_honest == 0


@pytest.mark.long
def test_the_sharded_stack_makes_the_same_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, proofs, groups and a liar that masks another vector; keys and proofs differ."""
    monkeypatch.setattr(stack, "DROPOUT", 0.0)
    setting = attrs.evolve(stack.groups(16), hostile=(stack.Swapping,))
    whole, sharded = (
        stack.attacked(item, rounds=2, seed=3) for item in (setting, stack.sharded(setting))
    )
    assert sharded.unanimous
    assert len(sharded.closed) == 2
    assert sharded.model_digests == whole.model_digests
    assert [r.model_digest for r in sharded.rounds] == [r.model_digest for r in whole.rounds]
    assert (
        sharded.rounds[-1].plugins["zk"]["sums_failed"]
        == (whole.rounds[-1].plugins["zk"]["sums_failed"])
    )
    assert sharded.final("accuracy") == whole.final("accuracy") > 0.4


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "fact"),
    [(stack.Swapping, "zk:another-vector-than-committed"), (stack.Unproved, "zk:malformed-proof")],
)
def test_who_lies_about_a_proof_is_found(kind: type, fact: str) -> None:
    setting = attrs.evolve(stack.groups(16), hostile=(kind,))
    result = stack.attacked(setting, rounds=2, seed=3)
    assert result.unanimous
    assert result.rounds[-1].banned_honest == 0
    (fate,) = result.fates
    if kind is stack.Unproved:
        assert fate.merged == 0
        assert fate.against[fact] >= 2
    else:
        assert set(fate.against) <= {fact}
    assert result.final("accuracy") > 0.7


@pytest.mark.claim("C-composition-7")
@pytest.mark.long
def test_one_sum_and_a_mean_stand_a_fifth_of_liars_within_their_proofs() -> None:
    setting = stack.one_sum(15)
    result = stack.attacked(setting, rounds=2, seed=0)
    assert result.unanimous
    assert [fate.against for fate in result.fates] == [{}, {}, {}]
    assert all(fate.merged for fate in result.fates)
    assert result.final("accuracy") > 0.4


@pytest.mark.long
def test_noise_on_top_runs_in_the_vectorised_engine() -> None:
    setting = stack.private(24, rounds=1)
    result = stack.attacked(setting, rounds=1, seed=0)
    (record,) = result.rounds
    assert record.accepted or "worse on the public examples" in record.reason
    assert record.epsilon is not None
    assert 0 < record.epsilon < stack.EPSILON
    assert record.plugins["secagg"]["rounds_opened"] == 1
    assert record.plugins["zk"]["sums_failed"] == 0


@pytest.mark.control("C-composition-7")
def test_a_liar_reaches_no_farther_than_its_proof() -> None:
    """Positive control: a hostile prover gets above the honest bound, and not above the other."""
    honest = NormStatement(650, bound=50_000, k=512)
    context = Context.of(bytes(32), make_round_info(650))
    vector = np.ones(650, dtype=np.int32)
    long, too_long = (stack.stretched(vector, int(reach * honest.bound)) for reach in (1.15, 1.8))
    assert float(np.linalg.norm(long)) > 1.14 * honest.bound
    _made, bundle = norm.prove(stack.lenient(honest), context, pedersen.commit(honest, long))
    norm.verify(honest, context, ProofBundle.from_bytes(bundle.to_bytes(), honest))
    with pytest.raises(ValueRefusedError, match="attempts failed"):
        norm.prove(stack.lenient(honest), context, pedersen.commit(honest, too_long))


def test_verdicts_that_are_shared_change_nothing() -> None:
    config = load(ROOT / "examples" / "zk.toml", sections=SECTIONS)
    scenario = attrs.evolve(config.sections["simulation"], rounds=2)
    plain = simulate(config, scenario)
    shared = simulate(config, attrs.evolve(scenario, once=("zk.verify",)))
    assert shared.model_digests == plain.model_digests
    assert [item.rejected for item in shared.rounds] == [item.rejected for item in plain.rounds]
    plugins = [run.rounds[-1].plugins["zk"] for run in (plain, shared)]
    checked = [float(str(plugin["proofs_accepted"])) for plugin in plugins]
    assert checked[1] < checked[0]


@pytest.mark.parametrize("named", ["zk", "zk.reveal", "krum.verify"])
def test_what_cannot_be_shared_is_refused(named: str) -> None:
    config = load(ROOT / "examples" / "zk.toml", sections=SECTIONS)
    with pytest.raises(LabError, match=r"QRES-E105 simulation\.once"):
        simulate(config, Scenario(rounds=1, once=(named,)))
