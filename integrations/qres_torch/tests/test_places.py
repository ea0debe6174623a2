"""A node's examples are what its sampler gives, and a sampler that does not say it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from qres_torch import records  # noqa: E402
from qres_torch import trainer as trainer_module  # noqa: E402
from qres_torch.places import count, places  # noqa: E402
from small import a_round, blobs, net, trainer  # noqa: E402
from torch.utils.data import (  # noqa: E402
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler  # noqa: E402

from qres_core.errors import OptionError  # noqa: E402
from qres_core.training import RecordClip, by_record, partition  # noqa: E402

NODES, EXAMPLES = 4, 16
CLIP = RecordClip(0.05, EXAMPLES)


def moved_sum(gone: int) -> tuple[float, list[int]]:
    """How far the sum of four nodes moves without an example, in clips; the weights of ``fit``.

    A sampler deals the nodes one data set.
    """
    whole, weights, sums = blobs(EXAMPLES), list[int](), list[Any]()
    for kept in (list(range(EXAMPLES)), [at for at in range(EXAMPLES) if at != gone]):
        data: Any = Subset(whole, kept)
        total = np.zeros(1, dtype=object)
        for node in range(NODES):
            mine = [kept.index(at) for at in range(node, EXAMPLES, NODES) if at in kept]
            batches = DataLoader(data, batch_size=3, sampler=SubsetRandomSampler(mine))
            item = trainer(net(), batches, held_out=None, per_example=5.0, index=node)
            vector = item.vector()
            plain = item.fit(vector, a_round(vector))
            update = by_record(item, CLIP).fit(vector, a_round(vector))
            assert plain is not None
            assert update is not None
            weights.append(plain.weight)
            total = total + update.vector.astype(object)
        sums.append(total)
    difference = sums[0] - sums[1]
    return float(difference @ difference) ** 0.5 / CLIP.steps(0), weights


@pytest.mark.claim("C-torch-3")
def test_where_samplers_deal_one_data_set_an_example_counts_for_one_clip() -> None:
    moved, weights = moved_sum(gone=0)
    assert 0.9 < moved <= 1.0
    assert weights == [4, 4, 4, 4, 3, 4, 4, 4]


@pytest.mark.control("C-torch-3")
def test_with_all_places_of_the_data_set_it_counts_for_one_of_each_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def everything(loader: Any) -> list[int]:
        return list(range(len(loader.dataset)))

    monkeypatch.setattr(records, "places", everything)
    monkeypatch.setattr(trainer_module.places, "places", everything)
    assert moved_sum(gone=0)[0] > 3.9


DATA = blobs(10)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, range(10)),
        ({"shuffle": True}, range(10)),
        ({"sampler": SequentialSampler(range(7))}, range(7)),
        ({"sampler": RandomSampler(range(6))}, range(6)),
        ({"sampler": SubsetRandomSampler([5, 2, 2, 9])}, [2, 5, 9]),
        ({"sampler": SubsetRandomSampler(torch.tensor([3, 1]))}, [1, 3]),
        ({"sampler": [4, 0, 4]}, [0, 4]),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler([8, 1]), 2, drop_last=False)}, [1, 8]),
        ({"batch_sampler": [[3, 1], [2]]}, [1, 2, 3]),
    ],
    ids=str,
)
def test_places_are_those_that_a_pass_gives(options: dict[str, Any], expected: Any) -> None:
    """The oracle is the loader itself: which examples a pass of it yields."""
    loader = DataLoader(DATA, **options)
    assert places(loader) == list(expected)
    seen = {tuple(row) for x, _y in loader for row in x.tolist()}
    assert seen == {tuple(DATA[at][0].tolist()) for at in expected}
    assert count(loader) == sum(len(y) for _x, y in loader)
    resident = trainer(net(), loader, resident=True, per_example=1.0)
    assert resident.records() == len(seen)


class Stream(IterableDataset):  # type: ignore[misc,name-defined]
    def __iter__(self) -> Any:
        return iter(list(DATA))


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return len(DATA)


class WithoutLength(Dataset):  # type: ignore[misc,name-defined]
    def __getitem__(self, number: int) -> Any:
        return DATA[number]


class Odd(SequentialSampler):  # type: ignore[misc,name-defined]
    """Gives what its class does not say."""

    def __iter__(self) -> Any:
        return iter([0, 0, 1])


class OddBatches(BatchSampler):  # type: ignore[misc,name-defined]
    def __iter__(self) -> Any:
        return iter([[0, 0, 1]])


class OddLoader(DataLoader):  # type: ignore[misc,name-defined]
    def __iter__(self) -> Any:
        return iter([DATA[:2], DATA[:2]])


def one_of_two(**options: Any) -> Any:
    return DistributedSampler(DATA, num_replicas=2, rank=0, **options)


@pytest.mark.parametrize(
    ("loader", "what"),
    [
        (DataLoader(Stream(), batch_size=4), "data set is a Stream"),
        (DataLoader(StreamWithLength(), batch_size=4), "data set is a StreamWithLength"),
        (DataLoader(WithoutLength(), sampler=[0, 1]), "data set is a WithoutLength"),
        (DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 10, 5)), "a WeightedRandomSampler"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), "another part"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=3)), "another part"),
        (DataLoader(DATA, sampler=one_of_two()), "a DistributedSampler"),
        (DataLoader(DATA, sampler=one_of_two(shuffle=False)), "a DistributedSampler"),
        (DataLoader(DATA, sampler=Odd(DATA)), "sampler is a Odd"),
        (DataLoader(DATA, batch_sampler=OddBatches([0], 2, drop_last=False)), "is a OddBatches"),
        (DataLoader(DATA, batch_size=4, drop_last=True), "drop_last leaves"),
        (DataLoader(DATA, batch_size=None), "batch_size=None"),
        (DataLoader(DATA, sampler=[0, 10]), "place 10, and there are 10"),
        (DataLoader(DATA, sampler=SubsetRandomSampler([9, -1])), "place -1"),
        (DataLoader(DATA, sampler=SubsetRandomSampler(["a"])), "no place"),
        (DataLoader(Subset(DATA, [0, 1, 0])), "Subset has an example twice"),
        (DataLoader(Subset(Subset(DATA, [9, -1]), [0, 1])), "Subset has an example twice"),
        (DataLoader(partition.Share(DATA, np.array([2, 2]))), "Share has an example twice"),
        (OddLoader(DATA), "of no DataLoader"),
        ([DATA[:4]], "of no DataLoader"),
    ],
)
def test_what_does_not_say_whose_examples_they_are_is_refused_by_name(
    loader: Any, what: str
) -> None:
    item = trainer(net(), loader, per_example=1.0)
    with pytest.raises(OptionError, match=rf"QRES-E105 TorchTrainer\..*{what}") as refusal:
        by_record(item, CLIP)
    assert refusal.value.problems[0].fix, "it says what to do"
    with pytest.raises(OptionError):
        next(item.record_steps(item.vector(), a_round(item.vector())))


@pytest.mark.parametrize(
    ("loader", "weight"),
    [
        (DataLoader(DATA, batch_size=4, drop_last=True), 8),
        (DataLoader(DATA, batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 5)), 5),
        (DataLoader(DATA, batch_size=4, sampler=one_of_two()), 5),
        (DataLoader(StreamWithLength(), batch_size=4), 10),
        (DataLoader(Stream(), batch_size=4), 1),
    ],
)
def test_an_ordinary_update_weighs_what_a_pass_steps_over(loader: Any, weight: int) -> None:
    """All of these may be trained with; a stream that tells no length weighs 1."""
    item = trainer(net(), loader, held_out=None)
    update = item.fit(item.vector(), a_round(item.vector()))
    assert update is not None
    assert update.weight == weight


def test_fewer_examples_than_a_batch_that_is_dropped_are_none() -> None:
    item = trainer(net(), DataLoader(DATA, batch_size=11, drop_last=True))
    assert item.fit(item.vector(), a_round(item.vector())) is None
