"""Steps of single examples, for plugins that hide them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import TorchTrainer  # noqa: E402
from small import (  # noqa: E402 - they need torch
    CLASSES,
    FEATURES,
    KnowsItsLoss,
    a_round,
    blobs,
    loader,
    net,
    sgd,
    trainer,
)
from torch.utils.data import DataLoader, Subset, TensorDataset  # noqa: E402

from qres_core import fixed  # noqa: E402
from qres_core.errors import OptionError  # noqa: E402
from qres_core.training import RecordClip, RecordTrainer, by_record  # noqa: E402


def rows(item: TorchTrainer, *, number: int = 1) -> Any:
    vector = item.vector()
    return np.concatenate(list(item.record_steps(vector, a_round(vector, number=number))))


def test_steps_of_examples_add_up_to_the_gradient() -> None:
    item = trainer(per_example=0.25)
    assert isinstance(item, RecordTrainer)
    assert item.records() == 40
    made = rows(item)
    assert made.shape == (40, item.layout.size)
    module = item.load(item.vector())
    x, y = blobs(40).tensors
    torch.nn.functional.cross_entropy(module(x), y, reduction="sum").backward()
    whole = torch.cat([each.grad.flatten() for each in module.parameters()]).numpy()
    np.testing.assert_allclose(made.sum(axis=0), -0.25 * whole, atol=1e-5)
    assert all(row.any() for row in made)


def test_another_example_leaves_the_steps_of_the_others_alone() -> None:
    """To the bit, with dropout: the promise that a privacy of records rests on."""
    data = blobs(9)
    without = Subset(data, [0, 1, 2, 4, 5, 6, 7, 8])
    both = [
        rows(
            trainer(net(dropout=0.5), DataLoader(part, batch_size=4, shuffle=True), per_example=1.0)
        )
        for part in (data, without)
    ]
    np.testing.assert_array_equal(np.delete(both[0], 3, axis=0), both[1])
    again = trainer(net(dropout=0.5), DataLoader(data), per_example=1.0)
    assert not np.array_equal(rows(again), rows(again, number=2)), "control: dropout is drawn"


class Recurrent(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Goes on from what it kept of the pass before, outside its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = torch.nn.RNNCell(FEATURES, 5), torch.nn.Linear(5, CLASSES)
        self.kept = torch.zeros(1, 5)

    def forward(self, x: Any) -> Any:
        kept = self.cell(x, self.kept.expand(len(x), 5))
        self.kept = kept[:1].detach()
        return self.out(4.0 * kept)


def layers_with(name: str) -> Any:
    torch.manual_seed(3)
    if name == "spectral norm":  # each pass in training changes its buffers
        normed = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(FEATURES, 8))
        return torch.nn.Sequential(normed, torch.nn.Tanh(), torch.nn.Linear(8, CLASSES))
    return Recurrent() if name == "recurrent" else net().to(getattr(torch, name))


@pytest.mark.parametrize("name", ["float64", "bfloat16", "spectral norm", "recurrent"])
def test_no_kind_of_module_carries_an_example_on_to_the_others(name: str) -> None:
    """To the bit, and a sum of clipped steps moves by at most the clip."""
    x, y = blobs(12).tensors
    data = TensorDataset(x.to(getattr(torch, name, torch.float32)), y)
    without = Subset(data, [at for at in range(12) if at != 3])
    clip, found, sums = RecordClip(0.01, 50), [], []
    for part in (data, without):
        options: dict[str, Any] = {"held_out": None, "buffers": "local", "per_example": 5.0}
        item = trainer(layers_with(name), DataLoader(part, batch_size=4), **options)
        found.append(rows(item))
        update = by_record(item, clip).fit(item.vector(), a_round(item.vector()))
        assert update is not None
        sums.append(update.vector.astype(object))
    np.testing.assert_array_equal(np.delete(found[0], 3, axis=0), found[1])
    difference = sums[0] - sums[1]
    assert 0.0 < float(difference @ difference) ** 0.5 / clip.steps(0) <= 1.0


@pytest.mark.parametrize("name", ["spectral norm", "recurrent"])
def test_a_module_that_is_shared_by_the_examples_carries_them_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without copies, what an example leaves in the module is seen by the next."""
    x, y = blobs(12).tensors
    options: dict[str, Any] = {"held_out": None, "buffers": "local", "per_example": 5.0}
    item = trainer(layers_with(name), DataLoader(TensorDataset(x, y)), **options)
    apart = rows(item)
    monkeypatch.setattr("qres_torch.records.alone", lambda module: module)
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor, **_options: tensor)
    together = rows(item)
    np.testing.assert_array_equal(apart[0], together[0])
    assert not np.array_equal(apart[1:], together[1:])


def test_frozen_parameters_have_no_step_and_what_a_module_keeps_is_not_seen_by_the_next() -> None:
    class Counting(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.inner[0].weight.requires_grad_(requires_grad=False)
            self.register_buffer("seen", torch.ones(()))
            self.calls = 1.0

        def forward(self, x: Any) -> Any:
            scores = self.inner(x) * self.seen.clone() * self.calls
            self.seen += 1
            self.calls += 1
            return scores

    options: dict[str, Any] = {"select": "all", "buffers": "local", "per_example": 1.0}
    made = rows(trainer(Counting(), DataLoader(blobs(5)), **options))
    assert not made[:, :48].any()
    plain = rows(trainer(net(), DataLoader(blobs(5)), per_example=1.0))
    np.testing.assert_allclose(made[:, 48:], plain[:, 48:], atol=1e-6)


def test_a_plugin_that_clips_examples_gets_their_sum() -> None:
    item = trainer(per_example=0.1)
    vector = item.vector()
    clip = RecordClip(bound=0.05, most=100)
    update = by_record(item, clip).fit(vector, a_round(vector))
    assert update is not None
    made = rows(item)
    lengths = np.linalg.norm(made, axis=1, keepdims=True)
    expected = (made * np.minimum(1.0, 0.05 / lengths)).sum(axis=0)
    np.testing.assert_allclose(fixed.decode(update.vector), expected, atol=40 * 2.0**-16)
    assert (lengths > 0.05).any()


def test_batches_that_are_mappings_have_single_examples_too() -> None:
    x, y = blobs(6).tensors
    data = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    made = rows(trainer(KnowsItsLoss(), DataLoader(data), held_out=None, per_example=1.0))
    plain = rows(trainer(net(), DataLoader(blobs(6)), per_example=1.0))
    np.testing.assert_allclose(made, plain, atol=1e-6)
    assert CLASSES == 4


@pytest.mark.parametrize(
    ("module", "options", "what"),
    [
        (net(), {}, "is not given"),
        (net(), {"optimizer": None, "train": print, "per_example": 1.0}, "is not given"),
        (net(norm=True), {"buffers": "local", "per_example": 1.0}, "1 is a BatchNorm1d"),
    ],
)
def test_what_has_no_single_steps_is_named(module: Any, options: Any, what: str) -> None:
    item = TorchTrainer(module, loader(), **({"optimizer": sgd} | options))
    with pytest.raises(OptionError, match=rf"per_example: .*{what}"):
        item.records()


def test_batches_alone_and_travelling_buffers_have_none() -> None:
    with pytest.raises(OptionError, match="no DataLoader"):
        trainer(net(), [tuple(blobs(8).tensors)], per_example=1.0).records()
    module = net()
    module.register_buffer("mean", torch.zeros(3))
    with pytest.raises(OptionError, match="buffers travel"):
        trainer(module, buffers="average", per_example=1.0).records()
    with pytest.raises(OptionError, match=r"per_example: is -1\.0"):
        trainer(per_example=-1.0)
