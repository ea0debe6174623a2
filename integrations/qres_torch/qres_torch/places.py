"""Examples of its data set that a loader gives.

Where single examples are hidden, an example that is counted must be one that is stepped over, and
both must be the node's own. A sampler says which ones these are, and only some samplers say it
exactly: the others are refused by name.
"""

from __future__ import annotations

import operator
from typing import Any, Final

from qres_core.errors import OptionError
from qres_core.training import partition
from qres_torch import draws
from qres_torch.border import torch
from qres_torch.layout import refused
from qres_torch.loop import is_row, length_of

_SHARE: Final = (
    "give the loader torch.utils.data.Subset(dataset, indices) with the node's own examples, and "
    "no sampler"
)


def places(loader: Any) -> list[int]:
    """The places in its data set of the examples that a loader gives, ascending, each once.

    Taken are a ``DataLoader`` that shuffles or not, one with ``SubsetRandomSampler``, and one whose
    sampler, or batches, are lists of places. Whatever leaves out examples by chance, or by a rule
    that is not known here, is refused: what is counted could differ from what is trained on. How
    many examples make a batch does not matter.

    Raises OptionError: QRES-E105, which names the sampler. O(n log n).
    """
    loader = draws.bare(loader)
    data = torch.utils.data
    ordinary = isinstance(loader, data.DataLoader)
    if not ordinary or type(loader).__iter__ is not data.DataLoader.__iter__:
        what = "needs single examples, and the batches are of no DataLoader"
        raise refused("per_example", what, "give the trainer a DataLoader")
    size = _size(loader.dataset)
    sampler = loader.batch_sampler
    if type(sampler) is data.BatchSampler:
        if sampler.drop_last:
            what = "drop_last leaves other examples out in each pass, and here every one counts"
            fix = "leave drop_last out: single examples are not taken in batches"
            raise refused("train_loader", what, fix)
        sampler = sampler.sampler
    elif sampler is None:
        what = "has batch_size=None, so what its data set gives by number are batches"
        raise refused("train_loader", what, "give a data set of single examples, and a batch_size")
    elif isinstance(sampler, (list, tuple)) and all(map(is_row, sampler)):
        sampler = [each for batch in sampler for each in batch]
    else:
        raise _unknown(sampler, "batch_sampler")
    taken = sorted(set(_named(sampler)))
    if taken and not (taken[0] >= 0 and taken[-1] < size):
        odd = taken[0] if taken[0] < 0 else taken[-1]
        what = f"its {type(sampler).__name__} names place {odd}, and there are {size} examples"
        raise refused("train_loader", what, f"name places from 0 to {size - 1}")
    _each_once(loader.dataset, taken)
    return taken


def count(loader: Any) -> int:
    """Number of examples that a pass over a loader steps over, and 1 where nothing tells."""
    loader = draws.bare(loader)
    if is_row(loader):
        return sum(map(length_of, loader))
    try:
        batches: Any = getattr(loader, "batch_sampler", None)
        if is_row(batches):
            return sum(map(len, batches))
        listed = type(batches) is torch.utils.data.BatchSampler
        if not listed or isinstance(loader.dataset, torch.utils.data.IterableDataset):
            return len(loader.dataset)
        whole = len(batches.sampler)
    except (AttributeError, TypeError):
        return 1
    return whole - whole % batches.batch_size if batches.drop_last else whole


def _size(dataset: Any) -> int:
    """Number of places of a data set. Raises OptionError: QRES-E105 for one without places."""
    if not isinstance(dataset, torch.utils.data.IterableDataset):
        try:
            return len(dataset)
        except TypeError:
            pass
    what = f"its data set is a {type(dataset).__name__}, which has no examples by number"
    raise refused("train_loader", what, "give a data set with a length, whose examples are in it")


def _named(sampler: Any) -> list[int]:
    """The places that a sampler can give. Raises OptionError: QRES-E105 if it cannot be told."""
    data = torch.utils.data
    if type(sampler) is data.SequentialSampler:
        return list(range(len(sampler.data_source)))
    if type(sampler) is data.RandomSampler:
        whole = len(sampler.data_source)
        if sampler.replacement or sampler.num_samples != whole:
            what = "its RandomSampler gives another part of the examples in each pass"
            raise refused("train_loader", what, "leave replacement and num_samples out")
        return list(range(whole))
    given: Any = sampler.indices if type(sampler) is data.SubsetRandomSampler else sampler
    if type(sampler) is data.SubsetRandomSampler or isinstance(sampler, (list, tuple, range)):
        try:
            return [operator.index(given[at]) for at in range(len(given))]
        except TypeError as error:
            what = f"its {type(sampler).__name__} names what is no place: {error}"
            raise refused("train_loader", what, "name places by whole numbers") from error
    raise _unknown(sampler, "sampler")


def _unknown(sampler: Any, kind: str) -> OptionError:
    what = (
        f"its {kind} is a {type(sampler).__name__}, which does not say once and for all which "
        "examples are this node's"
    )
    return refused("train_loader", what, _SHARE)


def _each_once(dataset: Any, taken: list[int]) -> None:
    """Refuse a part of a data set that has an example twice. Raises OptionError: QRES-E105."""
    while isinstance(dataset, (torch.utils.data.Subset, partition.Share)):
        size = _size(dataset.dataset)
        # A place below 0 counts from the end: it may be an example that has another name too.
        taken = [at % size for at in (operator.index(dataset.indices[each]) for each in taken)]
        if len(set(taken)) < len(taken):
            what = f"its {type(dataset).__name__} has an example twice, which would count as two"
            raise refused("train_loader", what, "name each place once")
        dataset = dataset.dataset
