"""Buffers, precision, what travels, and the options of the loop."""

from __future__ import annotations

import json
from typing import Any

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import TorchTrainer  # noqa: E402
from small import (  # noqa: E402 - they need torch
    CLASSES,
    STEP,
    KnowsItsLoss,
    a_round,
    adam,
    blobs,
    loader,
    net,
    sgd,
    trainer,
)
from torch.utils.data import DataLoader  # noqa: E402

from qres_core import Update, Vector, fixed  # noqa: E402
from qres_core.errors import OptionError, ValueRefusedError  # noqa: E402

PARAMETERS = 6 * 8 + 8 + 2 * 8 + 8 * CLASSES + CLASSES  # of the net with batch norm


def fitted(item: TorchTrainer, vector: Vector, *, number: int = 1, scale: int = 0) -> Update:
    update = item.fit(vector, a_round(vector, number=number, scale=scale))
    assert update is not None
    return update


def running(item: TorchTrainer) -> dict[str, list[float]]:
    return {
        name: each.flatten().tolist()
        for name, each in item.load(item.vector()).named_buffers()
        if "running" in name
    }


# ── buffers ───────────────────────────────────────────────────────────────────────────────────


def test_buffers_are_refused_unless_one_says_what_becomes_of_them() -> None:
    with pytest.raises(OptionError) as caught:
        trainer(net(norm=True))
    (problem,) = caught.value.problems
    assert problem.where == "TorchTrainer.buffers"
    assert "1.running_mean, 1.running_var, 1.num_batches_tracked" in problem.what
    assert 'buffers="local"' in problem.fix
    assert 'buffers="average"' in problem.fix


def test_buffers_that_are_not_saved_begin_every_round_as_they_are_written() -> None:
    """They are part of the code; nodes that share a module must not hand them on."""

    class Counting(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x: Any) -> Any:
            self.seen += 1
            return self.inner(x) * self.seen

    module = Counting()
    first, second = trainer(module), trainer(module)
    vector = first.vector()
    np.testing.assert_array_equal(fitted(first, vector).vector, fitted(second, vector).vector)


def test_local_buffers_stay_with_their_node() -> None:
    shared = net(norm=True)
    near, far = loader(seed=1), loader(40, seed=5)
    items = [trainer(shared, part, buffers="local") for part in (near, far)]
    vector = items[0].vector()
    assert vector.size == PARAMETERS
    fresh = running(items[0])
    for item in items:
        fitted(item, vector)
    after = [running(item) for item in items]
    assert after[0] != after[1]
    assert fresh not in after
    # The loss by which a node judges is that of its own running means.
    alone = trainer(net(norm=True), far, buffers="local")
    fitted(alone, vector)
    info = a_round(vector)
    assert items[1].validate(vector, info) == alone.validate(vector, info)
    assert items[1].evaluate(vector, info) == alone.evaluate(vector, info)
    assert items[0].validate(vector, info) != alone.validate(vector, info)
    # A reference is never sent, and leaves them alone.
    items[0].reference(vector, info)
    assert running(items[0]) == after[0]


def test_averaged_buffers_travel_like_parameters() -> None:
    parts = [loader(seed=1), loader(seed=5)]
    items = [trainer(net(norm=True), part, buffers="average") for part in parts]
    vector = items[0].vector()
    assert vector.size == PARAMETERS + 2 * 8
    assert items[0].layout.travelling[-2:] == ("1.running_mean", "1.running_var")
    updates = [fixed.decode(fitted(item, vector).vector) for item in items]
    merged = fixed.encode(fixed.decode(vector) + np.mean(updates, axis=0)).vector
    expected = np.mean([item.layout.numbers(item.module)[-16:] for item in items], axis=0)
    np.testing.assert_allclose(fixed.decode(merged)[-16:], expected, atol=2 * STEP)
    for item in items:
        got = item.load(merged)[1]
        together = torch.cat([got.running_mean, got.running_var])
        np.testing.assert_allclose(together.numpy(), expected, atol=2 * STEP)


def test_a_merged_variance_is_not_negative() -> None:
    """Noise and liars may push it there, and a root would make every output NaN."""
    item = trainer(net(norm=True), buffers="average")
    model = item.vector().copy()
    model[-8:] = -1000
    assert float(item.load(model)[1].running_var.min()) == 0.0
    assert np.isfinite(item.validate(model, a_round(model)))


# ── a round again ─────────────────────────────────────────────────────────────────────────────


def test_a_round_that_is_trained_again_begins_from_what_was_before_it() -> None:
    def fresh() -> TorchTrainer:
        return trainer(net(norm=True), optimizer=adam, buffers="local", keep_optimizer=True)

    item, other = fresh(), fresh()
    vector = item.vector()
    fitted(item, vector)
    fitted(other, vector)
    again = fitted(item, vector, number=2)
    kept = item.remember()
    np.testing.assert_array_equal(again.vector, fitted(item, vector, number=2).vector)
    np.testing.assert_array_equal(again.vector, fitted(other, vector, number=2).vector)
    third = fitted(item, vector, number=3)

    back = fresh()
    back.recall(kept)
    assert back.remember() == kept
    np.testing.assert_array_equal(again.vector, fitted(back, vector, number=2).vector)
    np.testing.assert_array_equal(third.vector, fitted(back, vector, number=3).vector)
    forgetful = fresh()
    assert not np.array_equal(third.vector, fitted(forgetful, vector, number=3).vector)


def test_an_optimiser_that_stays_goes_on_as_in_plain_torch() -> None:
    """Two rounds of one node that is alone are two epochs of torch."""
    whole = DataLoader(blobs(24), batch_size=24)

    def momentum(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    item = trainer(
        net().double(), [tuple(_doubled(whole))], optimizer=momentum, keep_optimizer=True
    )
    scale = -12
    vector = item.vector(scale)
    module = net().double()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            torch.tensor(fixed.decode(vector, scale=scale)), module.parameters()
        )
    optimizer = momentum(module.parameters())
    x, y = _doubled(whole)
    for number in (1, 2, 3):
        change = fitted(item, vector, number=number, scale=scale).vector
        vector = fixed.add_saturating(vector, change).vector
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    plain = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    np.testing.assert_allclose(fixed.decode(vector, scale=scale), plain, atol=1e-7)


def _doubled(whole: Any) -> Any:
    x, y = whole.dataset.tensors
    return x.double(), y


def test_there_is_nothing_to_keep_by_default() -> None:
    item = trainer()
    fitted(item, item.vector())
    assert item.remember() == b""
    item.recall(b"")
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        item.recall(b"something")


def test_what_another_trainer_kept_is_refused() -> None:
    options = {"optimizer": adam, "buffers": "local", "keep_optimizer": True}
    item = trainer(net(norm=True), **options)
    fitted(item, item.vector())
    kept = item.remember()
    size = int.from_bytes(kept[:8], "little")
    header = json.loads(kept[8 : 8 + size])
    facts = json.loads(header["__metadata__"]["qres"])
    changed = []
    for key, value in (("form", "other"), ("number", -1), ("number", "2"), ("plain", 3)):
        told = {**header, "__metadata__": {"qres": json.dumps({**facts, key: value})}}
        text = json.dumps(told).encode()
        changed.append(len(text).to_bytes(8, "little") + text + kept[8 + size :])
    for spoiled in (*changed, kept[:-1], kept[:7], b"", b"\xff" * 40, kept[:8] + b"{" * size):
        with pytest.raises(ValueRefusedError, match="QRES-E506"):
            item.recall(spoiled)
    assert item.remember() == kept
    wider = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9))
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        trainer(wider, **options).recall(kept)


def test_an_optimiser_with_a_state_that_cannot_be_kept_is_named() -> None:
    class Strange(torch.optim.SGD):  # type: ignore[misc,name-defined]
        def step(self) -> None:
            super().step()
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["history"] = ["x"]

    item = trainer(optimizer=lambda parameters: Strange(parameters, lr=0.1), keep_optimizer=True)
    with pytest.raises(OptionError, match=r"keep_optimizer: Strange keeps a list as 'history'"):
        fitted(item, item.vector())


# ── what travels ──────────────────────────────────────────────────────────────────────────────


def test_only_what_is_selected_travels_and_trains() -> None:
    def frozen() -> Any:
        module = net()
        module[0].weight.requires_grad_(requires_grad=False)
        return module

    free = trainer(frozen())
    assert free.layout.travelling == ("0.bias", "3.weight", "3.bias")
    everything = trainer(frozen(), select="all")
    assert everything.layout.travelling == ("0.weight", "0.bias", "3.weight", "3.bias")
    change = fitted(everything, everything.vector()).vector
    assert not change[:48].any(), "a frozen parameter travels and does not move"
    # What is frozen and does not travel is not rounded to the grid: a step or two of difference.
    alone = fitted(free, trainer(frozen()).vector()).vector
    np.testing.assert_allclose(change[48:], alone, atol=3)

    head = trainer(net(), select=("3.*", "0.b*"))
    assert head.layout.travelling == ("0.bias", "3.weight", "3.bias")
    before = head.module[0].weight.clone()
    np.testing.assert_array_equal(alone, fitted(head, head.vector()).vector)
    assert torch.equal(before, head.module[0].weight)


def test_what_cannot_travel_is_named() -> None:
    module = net()
    with pytest.raises(OptionError, match=r"no parameter is called 'hed\.\*'.*0\.weight, 0\.bias"):
        trainer(module, select=("3.*", "hed.*"))
    with pytest.raises(OptionError, match="no parameter of the module travels"):
        trainer(module.requires_grad_(requires_grad=False))
    module.register_parameter(
        "phase", torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64), requires_grad=True)
    )
    with pytest.raises(OptionError, match=r"phase holds torch\.complex64"):
        trainer(module, select="phase")


@pytest.mark.claim("C-torch-2")
def test_what_does_not_travel_has_a_digest_by_which_nodes_compare_it() -> None:
    def headed(**options: Any) -> TorchTrainer:
        return trainer(net(), select="3.*", **options)

    item = headed()
    digest = item.base_digest()
    assert len(digest) == 32
    fitted(item, item.vector())
    assert trainer(item.module, select="3.*").base_digest() == digest, "training leaves it alone"
    assert headed().base_digest() == digest
    assert trainer().base_digest() == b"", "all of it travels"
    other = net()
    with torch.no_grad():
        other[0].weight[0, 0] += 2.0**-20  # what no grid of updates would show
    assert trainer(other, select="3.*").base_digest() != digest
    assert trainer(net(), select="3.b*").base_digest() != digest
    assert trainer(net().half(), select="3.*").base_digest() != digest
    assert headed(frozen="any").base_digest() == b""
    # What travels may differ: nodes are told apart by the model that they begin with.
    free = net()
    with torch.no_grad():
        free[3].weight.zero_()
    assert trainer(free, select="3.*").base_digest() == digest


def test_only_the_adapters_of_lora_travel() -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    settings = peft.LoraConfig(r=2, target_modules=["0", "3"], lora_alpha=4, lora_dropout=0.1)
    torch.manual_seed(0)
    item = trainer(peft.get_peft_model(net(), settings), optimizer=adam, epochs=3)
    assert all(".lora_" in name for name in item.layout.travelling)
    assert item.layout.size == 2 * (6 + 8) + 2 * (8 + CLASSES)
    vector = item.vector()
    base = {
        name: each.clone() for name, each in item.module.state_dict().items() if "lora_" not in name
    }
    update = fitted(item, vector)
    assert update.vector.any()
    after = item.module.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in base.items())
    merged = fixed.add_saturating(vector, update.vector).vector
    info = a_round(vector)
    assert item.evaluate(merged, info)["loss"] < item.evaluate(vector, info)["loss"]


# ── precision ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_any_precision_are_those_of_the_grid_rounded(kind: str) -> None:
    real = getattr(torch, kind)

    class Casting(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = net().to(real)

        def forward(self, x: Any) -> Any:
            return self.inner(x.to(real)).float()

    item = trainer(Casting())
    vector = item.vector()
    rng = np.random.default_rng(0)
    between = (vector + rng.integers(-3, 4, vector.size)).astype(np.int32)
    item.load(between)
    expected = torch.tensor(fixed.decode(between)).to(real).double().numpy()
    np.testing.assert_array_equal(item.layout.numbers(item.module), expected)
    update = fitted(item, between)
    # What rounding to the precision changed is no training: the update starts from it.
    moved = item.layout.numbers(item.module) - expected
    np.testing.assert_allclose(fixed.decode(update.vector), moved, atol=0.5 * STEP)
    assert np.abs(moved).max() > 10 * STEP
    assert np.isfinite(item.validate(between, a_round(between)))


def test_mixed_precision_trains_nearly_as_float32() -> None:
    plain, mixed = trainer(), trainer(autocast=torch.bfloat16)
    vector = plain.vector()
    made, other = (fixed.decode(fitted(item, vector).vector) for item in (plain, mixed))
    assert not np.array_equal(made, other)
    assert np.dot(made, other) > 0.99 * np.linalg.norm(made) * np.linalg.norm(other)
    assert mixed.module[0].weight.dtype == torch.float32


# ── the loop ──────────────────────────────────────────────────────────────────────────────────


def test_clipping_bounds_a_step() -> None:
    whole = DataLoader(blobs(24), batch_size=24)
    item = trainer(net(), whole, clip=0.01)
    vector = item.vector()
    change = fixed.decode(fitted(item, vector).vector)
    assert np.linalg.norm(change) == pytest.approx(0.1 * 0.01, abs=10 * STEP)
    free = fixed.decode(fitted(trainer(net(), whole), vector).vector)
    assert np.linalg.norm(free) > 0.01


def test_a_large_mu_holds_the_model_near_that_of_the_round() -> None:
    item, held = trainer(epochs=5), trainer(epochs=5, proximal=5.0)
    vector = item.vector()
    free, near = (np.linalg.norm(fitted(each, vector).vector) for each in (item, held))
    assert near < 0.5 * free
    # A single step begins at the round's model, where nothing pulls.
    whole = DataLoader(blobs(24), batch_size=24)
    once, same = trainer(net(), whole), trainer(net(), whole, proximal=5.0)
    vector = once.vector()
    np.testing.assert_array_equal(fitted(once, vector).vector, fitted(same, vector).vector)


def test_a_proximal_step_is_that_of_the_paper() -> None:
    """Two full-batch steps by hand: the second gradient gets ``mu (w - w_round)``."""
    part = blobs(24)
    item = trainer(net(), [tuple(part.tensors)], epochs=2, proximal=0.5)
    vector = item.vector()
    module = net()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            torch.tensor(fixed.decode(vector), dtype=torch.float32), module.parameters()
        )
    start = [each.detach().clone() for each in module.parameters()]
    x, y = part.tensors
    for _ in range(2):
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        pull = sum(
            (w - w0).square().sum() for w, w0 in zip(module.parameters(), start, strict=True)
        )
        (loss + 0.25 * pull).backward()
        with torch.no_grad():
            for each in module.parameters():
                each.sub_(each.grad, alpha=0.1)
    ends = torch.cat([each.detach().flatten() for each in module.parameters()])
    moved = ends - torch.cat([each.flatten() for each in start])
    change = fixed.decode(fitted(item, vector).vector)
    np.testing.assert_allclose(change, moved.numpy(), atol=STEP)


def test_global_momentum_is_that_of_the_paper() -> None:
    """FedCM by hand, in plain torch: ``w -= lr (1 - b) g``, then ``b / k`` of the swarm's step."""
    part, share, scale = blobs(24), 0.75, -12
    x, y = part.tensors
    batches = [(x[:12].double(), y[:12]), (x[12:].double(), y[12:])]
    item = trainer(net().double(), batches, epochs=2, global_momentum=share)
    models = [item.vector(scale)]
    models.append(models[0] + np.int32(50_000))
    for step, model in enumerate(models):
        info = attrs.evolve(a_round(model, number=step + 1, scale=scale), step=step, height=step)
        update = item.fit(model, info)
    assert update is not None
    module = net().double()
    start = torch.tensor(fixed.decode(models[1], scale=scale))
    way = start - torch.tensor(fixed.decode(models[0], scale=scale))
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(start, module.parameters())
    for a, b in batches * 2:
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(a), b).backward()
        flat = torch.cat([each.grad.flatten() for each in module.parameters()])
        now = torch.nn.utils.parameters_to_vector(module.parameters())
        with torch.no_grad():
            moved = now - 0.1 * (1 - share) * flat + share / 4 * way
            torch.nn.utils.vector_to_parameters(moved, module.parameters())
    end = torch.nn.utils.parameters_to_vector(module.parameters())
    found = fixed.decode(update.vector, scale=scale)
    np.testing.assert_allclose(found, (end - start).detach().numpy(), atol=1e-7)
    assert np.abs(found).max() > 1e-3


def test_global_momentum_goes_on_after_a_break_and_leaves_frozen_parameters_alone() -> None:
    def fresh() -> TorchTrainer:
        module = net()
        module[0].bias.requires_grad_(requires_grad=False)
        return trainer(module, optimizer=adam, select="all", global_momentum=0.9)

    item, back, forgetful = fresh(), fresh(), fresh()
    first = item.vector()
    second = first + np.int32(2000)
    fitted(item, first)
    back.recall(item.remember())
    info = attrs.evolve(a_round(second, number=2), step=1, height=1)
    made, again, without = (each.fit(second, info) for each in (item, back, forgetful))
    assert made is not None
    assert again is not None
    assert without is not None
    np.testing.assert_array_equal(made.vector, again.vector)
    assert not np.array_equal(made.vector, without.vector), "control"
    assert not made.vector[48:56].any()
    along = float(np.mean(made.vector[:48] - without.vector[:48]))
    assert along == pytest.approx(0.9 * 2000, rel=0.5)


def test_global_momentum_needs_the_number_of_steps() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(loader())

    with pytest.raises(OptionError, match=r"global_momentum: needs the number of steps"):
        trainer(net(), Stream(), global_momentum=0.5)


# ── examples on the device ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("own", [False, True])
def test_examples_that_are_moved_once_make_the_same_updates(*, own: bool) -> None:
    def made(*, resident: bool) -> TorchTrainer:
        options = {"generator": torch.Generator()} if own else {}
        batches = loader(40, batch_size=7, **options)
        return trainer(net(dropout=0.5), batches, epochs=2, resident=resident)

    item, plain = made(resident=True), made(resident=False)
    vector = item.vector()
    for number in (1, 2):
        mine, theirs = (fitted(each, vector, number=number) for each in (item, plain))
        np.testing.assert_array_equal(mine.vector, theirs.vector)
        assert mine.weight == theirs.weight == 40
    info = a_round(vector)
    assert item.evaluate(vector, info) == plain.evaluate(vector, info)
    assert item.validate(vector, info) == plain.validate(vector, info)


def test_a_data_set_is_asked_once_for_each_example() -> None:
    asked: list[int] = []

    class Counted(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return 12

        def __getitem__(self, at: int) -> Any:
            asked.append(at)
            x, y = blobs(12).tensors
            return {"x": x[at] + torch.rand(()), "labels": y[at]}

    def fresh() -> TorchTrainer:
        batches = DataLoader(Counted(), batch_size=4, shuffle=True)
        return trainer(KnowsItsLoss(), batches, held_out=None, resident=True, epochs=3)

    item = fresh()
    vector = item.vector()
    first, second = (fitted(item, vector, number=number) for number in (1, 2))
    assert sorted(asked) == list(range(12))
    assert not np.array_equal(first.vector, second.vector)
    later = fresh()  # what it does at random follows from the seed, not from the first round
    np.testing.assert_array_equal(fitted(later, vector, number=2).vector, second.vector)


def test_batches_may_be_held_and_what_has_no_examples_is_refused() -> None:
    batches = [tuple(part.tensors) for part in (blobs(8), blobs(8, 1))]
    item, plain = (trainer(net(), batches, resident=resident) for resident in (True, False))
    vector = item.vector()
    update = fitted(item, vector)
    np.testing.assert_array_equal(update.vector, fitted(plain, vector).vector)
    assert update.weight == 16
    with pytest.raises(OptionError, match=r"resident: train_loader has no examples by number"):
        trainer(net(), iter(batches), resident=True)
    named = DataLoader([{"x": torch.zeros(6), "name": "a"}] * 4, batch_size=2)
    item = trainer(KnowsItsLoss(), named, held_out=None, resident=True)
    with pytest.raises(OptionError, match=r"resident: the examples hold a str"):
        fitted(item, item.vector())


def test_a_schedule_steps_after_each_batch() -> None:
    seen: list[float] = []

    def schedule(optimizer: Any, round_info: Any) -> Any:
        def factor(step: int) -> float:
            seen.append(step)
            return float(step < 2) / round_info.number

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    item = trainer(schedule=schedule)
    vector = item.vector()
    change = fitted(item, vector).vector
    assert seen == [0, 1, 2, 3, 4, 5]
    # Half as far in the second round.
    short = [tuple(blobs(8).tensors)]
    once, twice = trainer(net(), short, schedule=schedule), trainer(net(), short, schedule=schedule)
    first = fixed.decode(fitted(once, vector, number=1).vector)
    second = fixed.decode(fitted(twice, vector, number=2).vector)
    np.testing.assert_allclose(second, first / 2, atol=2 * STEP)
    assert change.any()


def test_the_same_training_by_another_name_of_sgd() -> None:
    """The loop is the caller's: any optimiser, made anew each round."""
    made: list[Any] = []

    def counted(parameters: Any) -> Any:
        made.append(parameters)
        return sgd(parameters)

    item = trainer(optimizer=counted)
    vector = item.vector()
    np.testing.assert_array_equal(
        fitted(item, vector).vector, fitted(trainer(), trainer().vector()).vector
    )
    fitted(item, vector, number=2)
    assert len(made) == 2
