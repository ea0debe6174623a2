"""What the trainer claims, against modules that try to break it. Each claim has a control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import TorchTrainer  # noqa: E402
from qres_torch import trainer as trainer_module  # noqa: E402
from small import CLASSES, FEATURES, a_round, adam, blobs, loader, net, trainer  # noqa: E402
from torch.utils.data import DataLoader, Subset  # noqa: E402

from qres_core import Vector, fixed  # noqa: E402
from qres_core.errors import OptionError  # noqa: E402
from qres_core.training import RecordClip, by_record  # noqa: E402


class Keeping(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Goes on from what it kept of the batch before, outside its buffers, and rebinds a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.cell, self.out = torch.nn.RNNCell(FEATURES, 5), torch.nn.Linear(5, CLASSES)
        self.norm, self.dropout = torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.3)
        self.kept = torch.zeros(1, 5)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.seen = self.seen + len(x)
        kept = self.cell(x, self.kept.expand(len(x), 5))
        self.kept = kept[:1].detach()
        return self.out(self.dropout(self.norm(4.0 * kept))) * (1 + 0.1 * (self.calls % 3))


OPTIONS: dict[str, Any] = {
    "buffers": "local",
    "optimizer": adam,
    "keep_optimizer": True,
    "global_momentum": 0.5,
}


def keeping(module: Any, index: int) -> TorchTrainer:
    return trainer(module, loader(24, 20 + index), index=index, **OPTIONS)


def played(items: list[TorchTrainer], *, break_after: int = 0) -> list[list[int]]:
    """The updates of some rounds, all nodes from the models of the first."""
    vector, made = items[0].vector(), list[list[int]]()
    for step in range(4):
        if step and step == break_after:
            kept = [item.remember() for item in items]
            items = [keeping(Keeping(), index) for index in range(len(items))]
            for item, memory in zip(items, kept, strict=True):
                item.recall(memory)
        info = attrs.evolve(a_round(vector, number=step + 1), step=step, height=step)
        updates = [item.fit(vector, info) for item in items]
        for item in items:
            item.validate(vector, info)
            item.evaluate(vector, info)
            item.reference(vector, info)
        made += [update.vector.tolist() for update in updates if update is not None]
        first = updates[0]
        assert first is not None
        vector = fixed.add_saturating(vector, first.vector).vector
    return made


def apart() -> list[TorchTrainer]:
    return [keeping(Keeping(), index) for index in range(3)]


def together() -> list[TorchTrainer]:
    module = Keeping()
    return [keeping(module, index) for index in range(3)]


@pytest.mark.claim("C-torch-1")
def test_nodes_that_share_a_module_train_as_nodes_that_do_not() -> None:
    assert played(together()) == played(apart())


def test_a_trainer_that_goes_on_makes_the_same_updates() -> None:
    assert played(together(), break_after=2) == played(together())


@pytest.mark.control("C-torch-1")
def test_without_a_copy_a_module_s_attributes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of both."""
    plain = played(apart())
    monkeypatch.setattr(trainer_module, "alone", lambda module: module)
    assert played(together()) != plain
    assert played(together(), break_after=2) != played(together())


def test_a_module_that_cannot_be_copied_is_named() -> None:
    module = net()
    module.cache = module[0].weight * 2  # no leaf
    with pytest.raises(OptionError, match=r"module: cannot be copied"):
        trainer(module)


@pytest.mark.parametrize("layer", ["BatchNorm1d", "InstanceNorm1d", "SyncBatchNorm"])
def test_no_kind_of_buffer_is_taken_silently(layer: str) -> None:
    options = {"track_running_stats": True} if layer == "InstanceNorm1d" else {}
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), getattr(torch.nn, layer)(4, **options))
    with pytest.raises(OptionError, match="buffers"):
        trainer(module)
    assert trainer(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))), "control"


# ── single examples ───────────────────────────────────────────────────────────────────────────


def moved(data: Any, absent: int, *, batched: bool = False) -> float:
    """How far the update moves without an example, in bounds."""
    without = Subset(data, [at for at in range(len(data)) if at != absent])
    clip, sums = RecordClip(0.01, 50), list[Vector]()
    for part in (data, without):
        module = torch.nn.Sequential(net(dropout=0.5), torch.nn.Linear(CLASSES, CLASSES))
        item = trainer(module, DataLoader(part, batch_size=4), per_example=5.0)
        vector = item.vector()
        source = Batched(item) if batched else item
        update = by_record(source, clip).fit(vector, a_round(vector))
        assert update is not None
        sums.append(update.vector)
    difference = sums[0].astype(object) - sums[1].astype(object)
    return float(difference @ difference) ** 0.5 / clip.steps(0)


@attrs.frozen
class Batched:
    """Clips the mean of a batch, as a loop that knows no single example would."""

    inner: TorchTrainer

    def fit(self, vector: Vector, round_info: Any) -> Any:
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector, round_info: Any) -> Any:
        return self.inner.evaluate(vector, round_info)

    def records(self) -> int:
        return self.inner.records()

    def record_steps(self, vector: Vector, round_info: Any) -> Iterator[Any]:
        rows = np.concatenate(list(self.inner.record_steps(vector, round_info)))
        for first in range(0, len(rows), 4):
            part = rows[first : first + 4]
            yield np.repeat(part.mean(axis=0, keepdims=True), len(part), axis=0)


@pytest.mark.parametrize("absent", [0, 5, 11])
def test_without_an_example_an_update_moves_by_at_most_the_clip(absent: int) -> None:
    assert 0.0 < moved(blobs(12), absent) <= 1.0


def test_where_batches_are_clipped_it_moves_by_more() -> None:
    """The control: each example of a batch carries the others."""
    assert max(moved(blobs(12), absent, batched=True) for absent in (0, 5)) > 1.0
