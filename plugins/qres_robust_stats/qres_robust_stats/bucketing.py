"""Bucketing: random groups of updates are averaged before the rule sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_finite, check_rows, mean_of

from qres_core import Claims, Needs, RoundInfo, Updates, Vector, Visibility, hookimpl, options
from qres_core.claims import Wraps
from qres_core.errors import ValueRefusedError
from qres_robust_stats.preconditions import check_visible

_TAG: Final = b"qres/bucketing/v1\0"
_WORD: Final = 8
_MAX_WEIGHT: Final = 2**30


def bucketing(vectors: Rows, size: int, seed: bytes) -> NDArray[Any]:
    """Average random buckets of vectors.

    Args:
        vectors: shape ``(n, d)``, at least one row: int32 (exact, means rounded half to even),
            float32 or float64. Not changed.
        size: vectors in a bucket, 1 or more; the last bucket may have fewer.
        seed: what the buckets are drawn from, see :func:`buckets`.

    Returns:
        shape ``(ceil(n / size), d)``, the same dtype, new memory: the means, in the order of
        :func:`buckets`.

    Raises:
        OptionError: QRES-E105, ``size`` is not an integer or is less than 1.
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503, QRES-E505.

    Complexity:
        ``O(n d)``; the result is ``1 / size`` of the input.

    Example:
        >>> rows = np.array([[0], [2], [4], [6]], dtype=np.int32)
        >>> bucketing(rows, 2, b"seed").tolist()
        [[2], [4]]
    """
    check_finite(check_rows(vectors))
    chosen = buckets(len(vectors), size, seed)
    result = np.empty((len(chosen), vectors.shape[1]), dtype=vectors.dtype)
    for row, members in enumerate(chosen):
        result[row] = mean_of(vectors, members)
    return result


def buckets(n: int, size: int, seed: bytes) -> list[list[int]]:
    """Draw the buckets: a random permutation, cut into runs of ``size``.

    The permutation is the Fisher-Yates shuffle of ``0 .. n - 1``: for ``i`` from ``n - 1`` down to
    1, entry ``i`` is exchanged with entry ``j``, ``j`` drawn evenly from ``0 .. i``. To draw below
    ``m``, take the next number of the stream until one is below the greatest multiple of ``m``
    that does not exceed ``2**64``, and reduce it modulo ``m``. The stream is SHA-256 of ``seed``
    followed by a counter from 0 (8 bytes, little-endian), each digest read as four little-endian
    64-bit numbers.

    Args:
        n: rows, 1 or more.
        size: rows in a bucket, 1 or more; the last run of the permutation may be shorter.
        seed: any bytes.

    Returns:
        the buckets, each in ascending order, ordered by their least row.

    Raises:
        OptionError: QRES-E105, ``size`` is not an integer or is less than 1.

    Example:
        >>> buckets(5, 2, b"seed")
        [[0, 2], [1, 4], [3]]
    """
    options.whole(1).check("size", size)
    order = list(range(n))
    numbers = _numbers(seed)
    for i in range(n - 1, 0, -1):
        j = _below(i + 1, numbers)
        order[i], order[j] = order[j], order[i]
    return sorted(sorted(order[start : start + size]) for start in range(0, n, size))


def round_seed(updates: Updates, round_info: RoundInfo) -> bytes:
    """Hash the round and everything that was agreed in it.

    SHA-256 over the tag ``qres/bucketing/v1`` and a zero byte; the swarm's name in UTF-8, preceded
    by its length; the round number; the model digest; ``n`` and ``d``; for each update its sender,
    preceded by its length, and its weight; and last all vectors as little-endian int32. Numbers are
    8 bytes, little-endian. Returns 32 bytes, the same on every node.
    """
    digest = hashlib.sha256(_TAG)
    name = round_info.swarm.encode()
    digest.update(_number(len(name)) + name + _number(round_info.number))
    digest.update(round_info.model_digest)
    digest.update(_number(len(updates)) + _number(updates.dimension))
    for sender, weight in zip(updates.senders, updates.weights.tolist(), strict=True):
        digest.update(_number(len(sender)) + sender + _number(weight))
    digest.update(np.ascontiguousarray(updates.vectors, dtype="<i4").data)
    return digest.digest()


def summed(weights: NDArray[np.int64], chosen: list[list[int]]) -> NDArray[np.int64]:
    """Add up the weights in each bucket.

    If a sum exceeds ``2**30``, all are halved, rounding down, as often as it takes; none goes below
    1. So they stay in proportion, as far as integers allow.

    Args:
        weights: int64, shape ``(n,)``, each 1..2**30.
        chosen: the buckets.

    Returns:
        int64, one for each bucket, each 1..2**30.

    Example:
        >>> summed(np.array([1, 2, 4, 8]), [[0, 3], [1, 2]]).tolist()
        [9, 6]
    """
    sums = [int(weights[members].sum()) for members in chosen]
    shift = 0
    while max(sums) >> shift > _MAX_WEIGHT:
        shift += 1
    return np.array([max(1, total >> shift) for total in sums], dtype=np.int64)


def _number(value: int) -> bytes:
    return value.to_bytes(_WORD, "little")


def _numbers(seed: bytes) -> Iterator[int]:
    counter = 0
    while True:
        block = hashlib.sha256(seed + _number(counter)).digest()
        for start in range(0, len(block), _WORD):
            yield int.from_bytes(block[start : start + _WORD], "little")
        counter += 1


def _below(count: int, numbers: Iterator[int]) -> int:
    # A remainder of all numbers would favour the small ones.
    limit = 2**64 // count * count
    return next(number for number in numbers if number < limit) % count


@attrs.frozen
class Bucketing:
    """Bucketing: shuffle the updates, average buckets of ``size``, hand the means to the rule.

    Where nodes' data differ, means of a few updates differ less than single updates, and the rule
    can tell them better from lies. A bucket with one liar in it is a lie: ``f`` liars spoil up to
    ``f`` of the ``ceil(n / size)`` buckets, so the rule behind needs a bound ``f`` of the same
    value and as many *buckets* as it otherwise needs updates. ``swarm.quorum`` should be ``size``
    times what the rule asks for; a round with too few buckets is refused by the rule.

    The shuffle is drawn from SHA-256 of the round and of every agreed update with its sender and
    weight (:func:`round_seed`, :func:`buckets`): it is the same on all nodes, and unknown to
    everybody until the set is agreed. That is less than a random beacon. A liar who sees the honest
    updates before sending its own can try variants of its update, one hash of all updates each, and
    send the one whose buckets suit it best, say with all liars in honest buckets that matter, or
    all in one bucket; and whoever proposes the set can choose among sets in the same way. Neither
    spoils more than ``f`` buckets. What rests on ``f`` bad buckets at any place, the robustness of
    the rule behind, therefore holds; what rests on chance, the reduced spread of the honest means,
    holds for the best of the tries.

    The mean in a bucket has no weights, as in the paper. A bucket's sender is its least sender, its
    weight the sum of its members' weights, all halved as often as it takes to stay within
    ``2**30``.

    Attributes:
        f: updates that may be anything, 0 or more.
        size: updates in a bucket, 1 or more; the last bucket may have fewer. The round needs
            ``2 f size + 1`` updates, so that fewer than half of the buckets are spoilt.

    Raises:
        OptionError: QRES-E105, an option is not an integer or is too small; the message names it.

    Complexity:
        one read of the input, one hash of it, ``n d / size`` int32 of memory.

    Source:
        Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
        ICLR 2022, algorithm 1: if the rule behind is robust to a share ``delta_max`` of liars, the
        whole is to ``delta_max / size``. The variance of the honest means is ``1 / size`` of that
        of the updates.

    Example:
        >>> from qres_lab.testing import make_round_info, make_updates
        >>> updates = make_updates([[0], [2], [4], [6], [8], [10]])
        >>> rule = lambda merged: merged.vectors[0]
        >>> Bucketing(f=1, size=2).wrap_aggregate(rule, updates, make_round_info()).tolist()
        [5]
    """

    f: int = attrs.field(**options.liars("2 f size + 1 updates"))
    size: int = attrs.field(
        default=2,
        validator=options.whole(1),
        metadata={
            "help": "Updates that are averaged in a bucket. The rule gets ceil(n / size) means."
        },
    )

    @property
    def claims(self) -> Claims:
        """Single updates, so many that fewer than half of the buckets hold a liar."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=self._fewest)
        return Claims(tolerates=self.f, needs=needs, wraps=Wraps(merges=self.size))

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Merge the means of the buckets. The round's name, number and model enter the draw.

        Raises QRES-E505 if the rule behind needs more buckets.
        """
        check_visible("bucketing", updates)
        seed = round_seed(updates, round_info)
        chosen = buckets(len(updates), self.size, seed)
        means = Updates(
            bucketing(updates.vectors, self.size, seed),
            tuple(updates.senders[members[0]] for members in chosen),
            summed(updates.weights, chosen),
            updates.visibility,
            tuple(
                tuple(sorted(member for row in members for member in updates.members[row]))
                for members in chosen
            ),
        )
        try:
            return proceed(means)
        except ValueRefusedError as error:
            if error.code != "QRES-E505":
                raise
            made = f"bucketing made {len(means)} of {len(updates)}"
            fix = f"raise swarm.quorum to {self.size} times that, or lower plugins.bucketing.size"
            raise ValueRefusedError(
                attrs.evolve(problem, what=f"{problem.what}; {made}", fix=fix)
                for problem in error.problems
            ) from error

    @property
    def _fewest(self) -> int:
        return 2 * self.f * self.size + 1
