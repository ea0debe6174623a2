"""Weights in and out, the grid that is proposed, and the commands for both."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from click.testing import CliRunner  # noqa: E402
from qres_torch import load_weights, propose_scale, save_weights  # noqa: E402
from qres_torch.border import imported  # noqa: E402
from qres_torch.cli import command  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from small import a_round, net, trainer  # noqa: E402

from qres_core import fixed  # noqa: E402
from qres_core.errors import ConfigError, LabError, ModelError, ValueRefusedError  # noqa: E402
from qres_core.swarm.storage.model_file import SwarmModel  # noqa: E402

CONFIG = """
[swarm]
name = "net"
nodes = 4
byzantine = 1
quorum = 3
scale = {scale}

[trainer]
entry = "{entry}"
momentum = 0.5
"""
MAKE = f"""
import sys

sys.path.append({str(Path(__file__).parent)!r})
import small


def make(index, seed, scale, rate=0.1, pooled=False):
    trainer = small.trainer(
        small.net(norm=True),
        held_out=small.loader(8, 1),
        pooled=pooled,
        buffers="average",
        optimizer=lambda parameters: small.torch.optim.SGD(parameters, lr=rate),
    )
    return trainer, trainer.vector(scale)
"""


def configured(folder: Path, entry: str = "own:make", scale: int = 0) -> Path:
    (folder / "own.py").write_text(MAKE)
    sys.modules.pop("own", None)
    sys.path[:] = [each for each in sys.path if "test_" not in each]
    path = folder / "net.toml"
    path.write_text(CONFIG.format(entry=entry, scale=scale))
    return path


def told(*words: object) -> Any:
    return CliRunner().invoke(command, [str(word) for word in words])


# ── weights ───────────────────────────────────────────────────────────────────────────────────


def test_weights_go_out_and_come_in_under_their_own_names(tmp_path: Path) -> None:
    module = net(norm=True)
    module[0].to(torch.bfloat16)
    save_weights(module, tmp_path / "a.safetensors")
    state = module.state_dict()
    assert set(load_file(tmp_path / "a.safetensors")) == set(state)
    other = net(norm=True)
    other[0].to(torch.bfloat16)
    with torch.no_grad():
        for each in other.state_dict().values():
            each.zero_()
    assert load_weights(other, str(tmp_path / "a.safetensors")) is other
    assert all(torch.equal(state[name], each) for name, each in other.state_dict().items())
    with pytest.raises(LabError, match="QRES-E803"):
        save_weights(module, tmp_path / "a.safetensors")


def test_a_folder_may_hold_the_weights_in_parts(tmp_path: Path) -> None:
    state = net().state_dict()
    names = sorted(state)
    for part, some in enumerate((names[:1], names[1:])):
        save_file({name: state[name] + 1 for name in some}, tmp_path / f"{part}.safetensors")
    (tmp_path / "config.json").write_text("{}")
    loaded = load_weights(net(), tmp_path).state_dict()
    assert all(torch.equal(loaded[name], state[name] + 1) for name in names)


def test_tied_weights_are_written_once_and_read_for_both(tmp_path: Path) -> None:
    def tied() -> Any:
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    module = tied()
    save_weights(module, tmp_path / "tied.safetensors")
    assert set(load_file(tmp_path / "tied.safetensors")) == {"0.weight", "0.bias", "1.bias"}
    again = load_weights(tied(), tmp_path / "tied.safetensors")
    assert torch.equal(again[1].weight, module[1].weight)


def test_weights_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    state = net().state_dict()
    before = {name: each.clone() for name, each in state.items()}
    path = tmp_path / "w.safetensors"
    module = net()

    def refused(found: dict[str, Any], what: str) -> None:
        save_file(found, path)
        with pytest.raises(ModelError, match=f"QRES-E605.*{what}"):
            load_weights(module, path)
        assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())

    bigger = {**state, "0.bias": torch.zeros(9)}
    refused(bigger, r"other shapes than the module: 0\.bias")
    refused({"0.bias": torch.ones(8)}, r"lacks: 0\.weight, 3\.weight, 3\.bias")
    refused({**state, "head.bias": torch.ones(8)}, r"the module has not: head\.bias")
    for content in (b"", b"x" * 100, b"\xff" * 8):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="QRES-E605"):
            load_weights(module, path)
    with pytest.raises(ModelError, match="QRES-E605"):
        load_weights(module, tmp_path / "none.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no safetensors file"):
        load_weights(module, tmp_path / "empty")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(kind: Any, tmp_path: Path) -> None:
    """Quantised weights under the names and shapes of the module's, say."""
    state = net().state_dict()
    path, module = tmp_path / "w.safetensors", net()
    save_file({name: torch.ones(each.shape, dtype=kind) for name, each in state.items()}, path)
    with pytest.raises(ModelError, match=r"QRES-E605.*another kind than the module: 0\.weight"):
        load_weights(module, path)
    assert all(torch.equal(each, state[name]) for name, each in module.state_dict().items())
    save_file({name: each.to(torch.float16) for name, each in state.items()}, path)
    assert torch.equal(load_weights(module, path)[0].bias, state["0.bias"].half().float())


def test_a_name_in_two_files_of_a_folder_is_refused(tmp_path: Path) -> None:
    """Two variants of one model lie side by side: nobody knows which is meant."""
    state = net().state_dict()
    save_file(state, tmp_path / "model.fp16.safetensors")
    save_file({name: each + 1 for name, each in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"QRES-E605.*in several files: "):
        load_weights(net(), tmp_path)
    assert load_weights(net(), tmp_path / "model.safetensors") is not None


def test_weights_that_fit_nowhere_are_refused_even_in_part(tmp_path: Path) -> None:
    save_file({"model.0.bias": torch.ones(8)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"QRES-E605.*no name of the module, which has: 0\.weight"):
        load_weights(net(), tmp_path / "w.safetensors", partial=True)


def test_a_view_of_a_weight_does_not_stand_for_it(tmp_path: Path) -> None:
    class Viewed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = torch.nn.Parameter(torch.arange(10.0))
            self.register_buffer("head", self.whole.detach()[:3])

    save_file({"head": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"QRES-E605.*lacks: whole"):
        load_weights(Viewed(), tmp_path / "w.safetensors")
    save_weights(Viewed(), tmp_path / "both.safetensors")
    assert set(load_file(tmp_path / "both.safetensors")) == {"whole", "head"}


def test_a_part_is_taken_where_one_asks_for_it(tmp_path: Path) -> None:
    save_file({"0.bias": torch.ones(8), "old.head": torch.ones(1)}, tmp_path / "w.safetensors")
    module = load_weights(net(), tmp_path / "w.safetensors", partial=True)
    assert torch.equal(module[0].bias, torch.ones(8))
    assert torch.equal(module[3].weight, net()[3].weight)


# ── the model of a swarm ──────────────────────────────────────────────────────────────────────


def test_a_swarms_model_becomes_a_state_dict(tmp_path: Path) -> None:
    config = configured(tmp_path)
    item = trainer(net(norm=True), buffers="average")
    vector = fixed.encode(np.abs(item.layout.numbers(item.module)) + 0.25, scale=-3).vector
    SwarmModel("net", 7, -3, vector).save(tmp_path / "model.npz")
    out = tmp_path / "net.safetensors"
    done = told("export", config, tmp_path / "model.npz", out)
    assert done.exit_code == 0, done.output
    assert done.output == f"{out}: model 7 of net\n"
    expected = item.load(vector, -3).state_dict()
    found = load_file(out)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], each) for name, each in expected.items())
    assert torch.equal(load_weights(net(norm=True), out)[1].running_var, found["1.running_var"])


def test_models_and_trainers_of_another_kind_are_refused(tmp_path: Path) -> None:
    config = configured(tmp_path)
    (tmp_path / "other.py").write_text(
        "import numpy as np\nclass T:\n    fit = evaluate = id\n\n"
        "def make():\n    return T(), np.zeros(3, np.int32)\n"
    )
    SwarmModel("net", 1, 0, np.zeros(3, dtype=np.int32)).save(tmp_path / "model.npz")
    out = tmp_path / "net.safetensors"
    short = told("export", config, tmp_path / "model.npz", out)
    assert isinstance(short.exception, ValueRefusedError)
    other = told("export", configured(tmp_path, "other:make"), tmp_path / "model.npz", out)
    assert isinstance(other.exception, ConfigError)
    assert "QRES-E104" in str(other.exception)
    (tmp_path / "model.npz").write_bytes(b"no model")
    spoiled = told("export", config, tmp_path / "model.npz", out)
    assert isinstance(spoiled.exception, ModelError)
    assert not out.exists()


# ── the grid ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [1e-1, 1e-4, 1e-6])
def test_the_grid_that_is_proposed_keeps_what_training_changes(rate: float) -> None:
    def fresh() -> Any:
        return trainer(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate))

    item = fresh()
    before = item.layout.numbers(item.module)
    proposal = propose_scale(item)
    np.testing.assert_array_equal(item.layout.numbers(item.module), before)
    # The oracle: what an honest round loses on that grid, and on the coarsest that loses most.
    vector = fresh().vector(proposal.scale)
    update = fresh().fit(vector, a_round(vector, scale=proposal.scale))
    lost = np.count_nonzero(update.vector == 0) / update.vector.size
    assert update.saturated == 0
    assert lost == pytest.approx(proposal.lost(proposal.scale), abs=0.05)
    assert proposal.holds(proposal.scale)
    room = np.abs(vector.astype(np.int64)).max()
    assert 4 * room <= fixed.LIMIT
    assert 16 <= proposal.middling / 2.0 ** (proposal.scale - 16) < 32
    assert proposal.lost(proposal.scale) < 0.1
    assert proposal.lost(proposal.scale + 20) > 0.9


@pytest.mark.parametrize("buffers", ["local", "average"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_as_before_the_grid_was_asked_for(buffers: str, *, fails: bool) -> None:
    def train(module: Any, batches: Any, _round_info: Any) -> None:
        with torch.no_grad():
            for x, _y in batches:
                module.train()(x)  # the running means move
            module[0].bias += 1.0
        if fails:
            raise RuntimeError("no more data")

    item = trainer(net(norm=True), buffers=buffers, optimizer=None, train=train)
    before = {name: each.clone() for name, each in item.module.state_dict().items()}
    with pytest.raises(RuntimeError) if fails else nullcontext():
        propose_scale(item)
    after = item.module.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_where_the_weights_leave_no_room_the_finest_grid_that_holds_them_is_proposed() -> None:
    module = net()
    with torch.no_grad():
        module[3].bias.fill_(3000.0)
    item = trainer(module, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-4))
    proposal = propose_scale(item)
    assert proposal.holds(proposal.scale)
    assert not proposal.holds(proposal.scale - 1)
    steps = np.abs(item.vector(proposal.scale).astype(np.int64)).max()
    assert fixed.LIMIT / 8 < steps <= fixed.LIMIT / 4


def test_a_trainer_that_changes_nothing_needs_no_other_grid() -> None:
    item = trainer(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    proposal = propose_scale(item)
    assert (proposal.scale, proposal.lost(0)) == (0, 0.0)
    still = torch.nn.Linear(6, 4, bias=False)
    torch.nn.init.zeros_(still.weight)
    assert propose_scale(trainer(still)).holds(-32)


def test_a_training_that_diverges_proposes_nothing() -> None:
    item = trainer(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30), epochs=3)
    with pytest.raises(ValueRefusedError, match="QRES-E501"):
        propose_scale(item)


def test_the_command_says_whether_the_grid_fits(tmp_path: Path) -> None:
    fits = told("scale", configured(tmp_path))
    assert (fits.exit_code, fits.output.splitlines()[-1]) == (0, "the grid fits")
    fine = ["--set", "trainer.options.rate=1e-5"]
    other = told("scale", configured(tmp_path), *fine)
    assert other.exit_code == 1
    report = json.loads(told("scale", configured(tmp_path), "--json", *fine).output)
    assert report["fits"] is False
    assert report["lost"] > 0.5 > report["lost_with_proposed"]
    proposed = report["proposed"]
    assert other.output.splitlines()[-1] == f"set swarm.scale = {proposed}, on every node"
    again = told("scale", configured(tmp_path, scale=proposed), *fine)
    assert (again.exit_code, again.output.splitlines()[-1]) == (0, "the grid fits")
    # A grid too fine for the weights does not fit either.
    narrow = told("scale", configured(tmp_path, scale=-16))
    assert narrow.exit_code == 1


def test_the_command_says_how_long_a_training_is_beside_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = ["--set", "trainer.options.pooled=true"]
    said = told("scale", configured(tmp_path), *pooled).output
    assert "times as long as the reference of held-out examples\n" in said
    assert json.loads(told("scale", configured(tmp_path), "--json").output)["reach"] < 2
    assert propose_scale(trainer(held_out=None)).reach is None
    # The control: a reference of one step, where a training takes five.
    monkeypatch.setattr("qres_torch.trainer._as_many", lambda held_out, _train_loader: held_out)
    assert json.loads(told("scale", configured(tmp_path), "--json").output)["reach"] > 2
    assert (
        "plugins.validated_mean.farthest = 0" in told("scale", configured(tmp_path), *pooled).output
    )
    assert "farthest" not in told("scale", configured(tmp_path)).output, "nobody is held to it"


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LabError, match=r"QRES-E802.*pip install torch"):
        imported("torch")


def test_names_are_found_late_and_no_others() -> None:
    import qres_torch  # noqa: PLC0415 - what is tested

    assert {getattr(qres_torch, name).__name__ for name in qres_torch.__all__} == set(
        qres_torch.__all__
    )
    with pytest.raises(AttributeError, match="has no attribute 'TorchTrainr'"):
        _ = qres_torch.TorchTrainr
