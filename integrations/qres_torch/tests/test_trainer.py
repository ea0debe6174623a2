from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import TorchTrainer, draws  # noqa: E402
from small import (  # noqa: E402 - they need torch
    CLASSES,
    FEATURES,
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
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from qres_core import RoundInfo, fixed  # noqa: E402
from qres_core.errors import OptionError, ValueRefusedError  # noqa: E402
from qres_core.training import Reference, Trainer, Validator, partition  # noqa: E402


def test_it_judges_where_it_holds_examples_out_and_only_there() -> None:
    judging, other = trainer(), trainer(held_out=None)
    assert isinstance(judging, Trainer)
    assert isinstance(judging, Validator)
    assert isinstance(judging, Reference)
    assert isinstance(other, Trainer)
    assert not isinstance(other, Validator)
    assert not isinstance(other, Reference)
    assert other.evaluate(other.vector(), a_round(other.vector())) == {}


def test_a_mean_of_updates_is_federated_averaging_in_plain_torch() -> None:
    """Three nodes, two epochs of full batches: the mean of what torch trains is the mean here."""
    parts = [blobs(24, seed) for seed in range(3)]
    first = trainer().vector()
    updates = []
    for part in parts:
        whole = DataLoader(part, batch_size=24)
        updates.append(trainer(net(), whole, epochs=2).fit(first, a_round(first)))
    vectors = [fixed.decode(update.vector) for update in updates if update is not None]

    plain = []
    for part in parts:
        module = net()
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(
                torch.tensor(fixed.decode(first), dtype=torch.float32), module.parameters()
            )
        start = torch.nn.utils.parameters_to_vector(module.parameters()).detach().double()
        optimizer = sgd(module.parameters())
        x, y = part.tensors
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        end = torch.nn.utils.parameters_to_vector(module.parameters()).detach().double()
        plain.append((end - start).numpy())
    np.testing.assert_allclose(np.mean(vectors, 0), np.mean(plain, 0), atol=0.5 * STEP + 1e-9)
    assert np.abs(np.mean(plain, 0)).max() > 100 * STEP, "control: it trains"


def test_a_function_of_ones_own_is_the_loop_where_it_does_the_same() -> None:
    def mine(module: Any, batches: Any, round_info: Any) -> dict[str, float]:
        optimizer = adam(module.parameters())
        module.train()
        for x, y in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return {"round": float(round_info.number)}

    own = trainer(net(dropout=0.3), optimizer=None, train=mine)
    loop = trainer(net(dropout=0.3), optimizer=adam)
    first = own.vector()
    made, other = own.fit(first, a_round(first)), loop.fit(first, a_round(first))
    assert made is not None
    assert other is not None
    np.testing.assert_array_equal(made.vector, other.vector)
    assert made.vector.any()
    assert made.metrics == {"round": 1.0}
    assert other.metrics.keys() == {"loss"}
    assert made.weight == other.weight == 40
    info = a_round(first)
    np.testing.assert_array_equal(own.reference(first, info), loop.reference(first, info))


def test_an_update_depends_on_seed_node_and_round_alone() -> None:
    """Shuffles, dropout and a loader's own generator are drawn again; nothing else is disturbed."""
    first = trainer().vector()

    def made(*, number: int = 1, **options: Any) -> Any:
        own = torch.Generator()
        own.manual_seed(int(torch.randint(2**31, ())))
        item = trainer(net(dropout=0.5), loader(generator=own), **options)
        torch.manual_seed(int(np.random.default_rng().integers(2**31)))
        before = torch.get_rng_state().clone()
        update = item.fit(first, a_round(first, number=number))
        assert torch.equal(before, torch.get_rng_state())
        assert update is not None
        return update.vector

    again = made()
    np.testing.assert_array_equal(again, made())
    for other in (made(number=2), made(seed=1), made(index=1)):
        assert not np.array_equal(again, other)


@pytest.mark.claim("C-torch-1")
def test_nodes_may_share_one_module() -> None:
    shared = net(dropout=0.2)
    parts = [loader(seed=1), loader(seed=2)]
    together = [trainer(shared, part, index=i) for i, part in enumerate(parts)]
    apart = [trainer(net(dropout=0.2), part, index=i) for i, part in enumerate(parts)]
    vector = together[0].vector()
    for number in (1, 2):
        info = a_round(vector, number=number)
        for mine, other in zip(together, apart, strict=True):
            update, same = mine.fit(vector, info), other.fit(vector, info)
            assert update is not None
            assert same is not None
            np.testing.assert_array_equal(update.vector, same.vector)
            assert mine.evaluate(vector, info) == other.evaluate(vector, info)
            assert mine.validate(vector, info) == other.validate(vector, info)
        vector = fixed.add_saturating(vector, update.vector).vector


def test_validate_and_evaluate_are_the_mean_loss_and_the_share_that_is_right() -> None:
    item = trainer(held_out=loader(30, 1, batch_size=7), test=loader(50, 2, batch_size=9))
    vector = item.vector()
    info = a_round(vector)
    module = item.load(vector).eval()
    for found, n, seed in (
        ({"loss": item.validate(vector, info)}, 30, 1),
        (item.evaluate(vector, info), 50, 2),
    ):
        x, y = blobs(n, seed).tensors
        with torch.no_grad():
            scores = module(x)
        assert found["loss"] == pytest.approx(
            float(torch.nn.functional.cross_entropy(scores, y)), rel=1e-5
        )
        if "accuracy" in found:
            assert found["accuracy"] == float((scores.argmax(1) == y).double().mean())
    assert set(item.evaluate(vector, info)) == {"loss", "accuracy"}


def test_judging_leaves_the_module_alone_that_is_trained() -> None:
    """A node judges in one thread and trains in another."""
    seen: list[Any] = []

    def mine(module: Any, batches: Any, _info: Any) -> None:
        del batches
        before = [each.clone() for each in module.parameters()]
        seen.append(item.validate(item.vector() * 0, a_round(first)))
        assert all(map(torch.equal, before, module.parameters()))
        assert module.training

    item = trainer(optimizer=None, train=mine)
    first = item.vector()
    item.module.train()
    assert item.fit(first, a_round(first)) is not None
    assert seen == [pytest.approx(np.log(CLASSES), rel=1e-5)]


def test_a_batch_may_be_a_mapping_to_a_module_that_knows_its_loss() -> None:
    """As Hugging Face's models are."""

    x, y = blobs(16).tensors
    item = trainer(KnowsItsLoss(), [{"x": x, "labels": y}], held_out=[{"x": x, "labels": y}])
    other = trainer(net(), [(x, y)], held_out=[(x, y)])
    first = item.vector()
    made, same = item.fit(first, a_round(first)), other.fit(first, a_round(first))
    assert made is not None
    assert same is not None
    np.testing.assert_array_equal(made.vector, same.vector)
    assert made.weight == 16
    assert item.evaluate(first, a_round(first)) == {"loss": item.validate(first, a_round(first))}


def test_shares_of_a_data_set_of_torch_train() -> None:
    """A partition of one data set is the partition of its examples, whoever loads them."""
    data = blobs(40)
    labels = partition.labels_of(data)
    np.testing.assert_array_equal(labels, data.tensors[1].numpy())
    parts = partition.by_class(labels, 4, 2, 1)
    np.testing.assert_array_equal(
        partition.labels_of(torch.utils.data.Subset(data, parts[1].tolist())), labels[parts[1]]
    )
    x, y = data.tensors
    share = DataLoader(partition.Share(data, parts[1]), batch_size=8, shuffle=True)
    own = DataLoader(TensorDataset(x[parts[1]], y[parts[1]]), batch_size=8, shuffle=True)
    item, same = trainer(net(), share), trainer(net(), own)
    vector = item.vector()
    made, other = item.fit(vector, a_round(vector)), same.fit(vector, a_round(vector))
    assert made is not None
    assert other is not None
    np.testing.assert_array_equal(made.vector, other.vector)
    assert made.weight == len(parts[1])


def test_another_loss_has_no_accuracy() -> None:
    item = trainer(loss=lambda outputs, y: (outputs.sum(1) - y).square().mean())
    assert set(item.evaluate(item.vector(), a_round(item.vector()))) == {"loss"}


def test_a_node_without_examples_has_nothing_new() -> None:
    empty = DataLoader([], batch_size=4)
    item = trainer(net(), empty)
    assert item.fit(item.vector(), a_round(item.vector())) is None


def test_what_does_not_tell_its_length_counts_once() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(loader())

    item = trainer(net(), Stream())
    update = item.fit(item.vector(), a_round(item.vector()))
    assert update is not None
    assert update.weight == 1


def test_a_rounds_grid_is_followed() -> None:
    item = trainer()
    vectors = {scale: item.vector(scale) for scale in (0, -8)}
    coarse, fine = (
        item.fit(vector, a_round(vector, scale=scale)) for scale, vector in vectors.items()
    )
    assert coarse is not None
    assert fine is not None
    np.testing.assert_allclose(
        fixed.decode(coarse.vector), fixed.decode(fine.vector, scale=-8), atol=4 * STEP
    )


constant = torch.optim.lr_scheduler.ConstantLR


def test_other_vectors_and_diverged_training_are_refused_by_name() -> None:
    item = trainer(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30), epochs=3)
    first = item.vector()
    with pytest.raises(ValueRefusedError, match="QRES-E501"):
        item.fit(first, a_round(first))
    short = first[:-1].copy()
    for use in (item.fit, item.evaluate, item.validate, item.reference):
        with pytest.raises(ValueRefusedError, match="QRES-E502"):
            use(short, a_round(short))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"optimizer": None}, "optimizer"),
        ({"optimizer": adam(net().parameters())}, r"optimizer: is of the class AdamW, and each"),
        ({"schedule": constant(sgd(net().parameters()))}, r"schedule: is of the class ConstantLR"),
        ({"loss": 0.5}, r"loss: is of the class float, which"),
        ({"test": iter(loader())}, "test: can be gone through once"),
        ({"train": print}, "optimizer"),
        ({"train": print, "optimizer": None, "clip": 1.0}, "clip"),
        ({"train": print, "optimizer": None, "epochs": 2}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"clip": 0.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"proximal": -1.0}, "proximal"),
        ({"buffers": "drop"}, "buffers"),
        ({"select": "hed.*"}, "select"),
        ({"frozen": "alike"}, "frozen"),
        ({"global_momentum": 1.0}, "global_momentum"),
        ({"global_momentum": float("nan")}, "global_momentum"),
        ({"train": print, "optimizer": None, "global_momentum": 0.5}, "global_momentum"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError, match=rf"QRES-E105 TorchTrainer\.{where}"):
        TorchTrainer(net(), loader(), **({"optimizer": sgd} | options))


@pytest.mark.parametrize(
    ("given", "said"), [(torch.nn.Linear, "the class Linear"), ("net", "of the class str")]
)
def test_what_is_no_module_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(OptionError, match=rf"TorchTrainer\.module: is no torch.* but {said} "):
        TorchTrainer(given, loader(), optimizer=sgd)


def test_a_training_that_diverged_spoils_no_later_round() -> None:
    """Neither the optimiser's state nor running means keep what it came to."""
    rates = {1: 0.05, 2: 1e30, 3: 0.05}

    def made() -> TorchTrainer:
        def make(parameters: Any) -> Any:
            return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)

        def schedule(optimizer: Any, round_info: RoundInfo) -> Any:
            optimizer.param_groups[0]["lr"] = rates[round_info.number]
            return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

        options = {"buffers": "local", "keep_optimizer": True}
        return trainer(net(norm=True), optimizer=make, schedule=schedule, epochs=3, **options)

    item, other = made(), made()
    vector = item.vector()
    for each in (item, other):
        each.fit(vector, a_round(vector, number=1))
    kept = item.remember()
    with pytest.raises(ValueRefusedError, match="QRES-E501"):
        item.fit(vector, a_round(vector, number=2))
    after, expected = (each.fit(vector, a_round(vector, number=3)) for each in (item, other))
    assert after is not None
    assert expected is not None
    assert np.array_equal(after.vector, expected.vector)
    assert kept != item.remember()
    assert all(torch.isfinite(each).all() for each in item.load(vector).buffers())


def test_generators_are_put_back_though_trainings_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node judges in one thread and trains in another."""
    waits, leave, inside = threading.Event(), threading.Event(), threading.Event()
    turn, module = draws._TURN, net()

    class Turn:
        def __enter__(self) -> None:
            if inside.is_set():
                waits.set()
            turn.acquire()

        def __exit__(self, *_: object) -> None:
            turn.release()

    def first() -> None:
        with draws.drawn_by(1, module, None):
            inside.set()
            assert leave.wait(600)

    def second() -> None:
        with draws.drawn_by(2, module, None):
            pass

    monkeypatch.setattr(draws, "_TURN", Turn())
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 - what is tested
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    threads = [threading.Thread(target=each) for each in (first, second)]
    threads[0].start()
    assert inside.wait(600)
    threads[1].start()
    assert waits.wait(600)
    leave.set()
    for thread in threads:
        thread.join(600)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_the_vector_is_the_parameters_in_their_order() -> None:
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight[:] = torch.tensor([[0.5, -1.5]])
        module.bias[:] = 2.0
    item = trainer(module)
    assert fixed.decode(item.vector()).tolist() == [0.5, -1.5, 2.0]
    assert fixed.decode(item.vector(2), scale=2).tolist() == [0.5, -1.5, 2.0]
    assert item.layout.travelling == ("weight", "bias")
    assert trainer().layout.size == FEATURES * 8 + 8 + 8 * CLASSES + CLASSES
