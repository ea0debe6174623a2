"""Divide and conquer: drop what sticks out along the direction of greatest variance."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import (
    Rows,
    check_finite,
    check_rows,
    dominant_eigenvector,
    mean_of,
    squared_distances,
    sweep,
)

from qres_core import (
    Claims,
    Needs,
    RoundInfo,
    Updates,
    Vector,
    Visibility,
    hookimpl,
    options,
    vector_digest,
)
from qres_core.errors import ValueRefusedError
from qres_robust_stats.coefficients import as_floats, centred_gram
from qres_robust_stats.preconditions import check_enough, check_visible

COORDINATES: Final = 10_000
SEED_BYTES: Final = 32


def dnc(
    vectors: Rows,
    f: int,
    *,
    filter: float = 1.0,  # noqa: A002 - the paper's name
    iterations: int = 1,
    coordinates: int = COORDINATES,
    seed: bytes = bytes(SEED_BYTES),
) -> Rows:
    """Average the vectors that no iteration finds among the most deviating.

    Each iteration looks at a random set of coordinates, scores every vector by its squared
    projection on the direction in which the vectors vary most there, and drops the
    ``ceil(filter f)`` highest; of equal scores the later rows.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, ``n >= 2 f + 1``; not changed.
        f: vectors that may be anything.
        filter: above 0; the paper's ``c``.
        iterations: 1 or more.
        coordinates: how many are looked at, 1 or more; all if there are not more.
        seed: 32 bytes that decide which; nobody should know them while vectors can still be
            chosen.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. For int32 all steps are specified: the
        same bits everywhere.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 1``, or if no vector is left; QRES-E501 to
            QRES-E503 for values, shape or dtype.
        OptionError: QRES-E105, an option is not as stated.

    Complexity:
        ``iterations`` times the pairwise distances on ``coordinates`` columns, a copy of those, and
        a dominant eigenvector of an ``(n, n)`` matrix.

    Source:
        Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
        Defenses for Federated Learning", NDSS 2021, algorithm 2.

    Example:
        >>> dnc(np.array([[0], [2], [4], [900]], dtype=np.int32), 1).tolist()
        [2]
    """
    options.whole(0).check("f", f)
    options.whole(1).check("iterations", iterations)
    options.whole(1).check("coordinates", coordinates)
    options.real(above=0).check("filter", filter)
    rows = check_rows(vectors)
    n, d = rows.shape
    check_enough("dnc", n, f, 2 * f + 1, "2 f + 1")
    check_finite(rows)
    dropped: set[int] = set()
    count = _dropped_each(filter, f)
    for iteration in range(iterations if count else 0):
        columns = sample(seed, iteration, d, coordinates)
        seen = rows if columns is None else rows[:, columns]
        dropped |= set(_ranking(seen)[: min(count, n)])
    kept = [row for row in range(n) if row not in dropped]
    if not kept:
        raise ValueRefusedError.of(
            "QRES-E505",
            "vectors",
            f"all of n = {n} vectors were dropped: ceil(filter f) = {count} in each of "
            f"{iterations} iterations",
            "lower filter or iterations, or give more vectors",
        )
    return mean_of(rows, kept)


def sample(seed: bytes, iteration: int, d: int, count: int) -> NDArray[np.intp] | None:
    """Choose coordinates, the same for the same arguments on every machine.

    SHAKE-256 of a domain, the seed and the iteration gives 64-bit little-endian numbers. Those from
    the greatest multiple of ``d`` up are passed over, the rest taken modulo ``d``, and the first
    ``count`` distinct ones are chosen.

    Args:
        seed: 32 bytes.
        iteration: from 0.
        d: how many coordinates there are.
        count: how many are wanted, 1 or more.

    Returns:
        intp, shape ``(count,)``, ascending; or ``None`` for all, where ``count >= d``.

    Raises:
        ValueError: the seed is of another length.

    Example:
        >>> sample(bytes(32), 0, 10, 3).tolist()
        [2, 4, 8]
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"seed must have {SEED_BYTES} bytes, got {len(seed)}")
    if count >= d:
        return None
    source = hashlib.shake_256(
        b"qres/dnc/coordinates/v1\0" + seed + iteration.to_bytes(8, "little")
    )
    wanted = 2 * count
    while True:
        numbers = np.frombuffer(source.digest(8 * wanted), dtype="<u8")
        fair = numbers[numbers < 2**64 // d * d] if 2**64 % d else numbers
        places = (fair % np.uint64(d)).astype(np.intp)
        _, first = np.unique(places, return_index=True)
        if len(first) >= count:
            return np.sort(places[np.sort(first)[:count]])
        wanted *= 2


def _dropped_each(share: float, f: int) -> int:
    """``ceil(share f)``; a product beyond float64 is more rows than there can be."""
    return math.ceil(min(share * f, 2.0**53))


@attrs.frozen
class Dnc:
    """Divide and conquer: average what does not stick out along the direction of greatest variance.

    It was built against attacks that shift all liars one way, and no worst case is proven: liars
    that stick out in different directions can hide behind the one that sticks out most, and
    ``iterations`` helps only where coordinates are sampled. So it promises to withstand one liar,
    whatever ``f`` is; with more, wrap it in a clipping plugin and test it against the attacks.

    The coordinates depend on the round and on every bit of the updates, so no sender knows them
    before the others have sent. The last to send can try several updates, as with any public seed.
    Weights have no part in it.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates.
        filter: ``ceil(filter f)`` updates are dropped in each iteration; above 0.
        iterations: 1 or more; only what all of them keep is averaged.
        coordinates: how many are looked at in each, 1 or more.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity: see :func:`dnc`; and a SHA-256 of the updates.

    Source:
        Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
        Defenses for Federated Learning", NDSS 2021, algorithm 2.

    Example:
        >>> from qres_lab.testing import make_round_info
        >>> rows = np.array([[0], [2], [4], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(4))
        >>> updates = Updates(rows, senders, np.ones(4, dtype=np.int64))
        >>> Dnc(f=1).aggregate(updates, make_round_info(1)).tolist()
        [2]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates"))
    filter: float = attrs.field(
        default=1.0,
        validator=options.real(above=0),
        metadata={"help": "ceil(filter f) updates are dropped in each iteration."},
    )
    iterations: int = attrs.field(
        default=1,
        validator=options.whole(1),
        metadata={
            "help": "Iterations, each with its own sample of coordinates; an update that any "
            "of them drops is left out."
        },
    )
    coordinates: int = attrs.field(
        default=COORDINATES,
        validator=options.whole(1),
        metadata={"help": "Coordinates in the sample of an iteration."},
    )

    @property
    def claims(self) -> Claims:
        """Single updates, enough that not all are dropped; and one liar, however many are dropped.

        Two that stick out in different directions need not both be dropped.
        """
        notice = (
            "dnc has no proven worst case: several liars that stick out in different directions "
            "can hide one behind another"
        )
        return Claims(
            tolerates=min(self.f, 1),
            needs=Needs(visibility=Visibility.GROUP, min_updates=self._fewest),
            notices=(notice,) if self.f >= 2 else (),
        )

    def kappa_bound(self, n: int) -> float:  # noqa: ARG002 - there is none for any n
        """No ``kappa`` of (f, kappa)-robustness is known."""
        return math.inf

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the mean of the updates that are kept; the choice of coordinates is the round's.

        Raises QRES-E505 if nothing is left.
        """
        check_visible("dnc", updates)
        merged: NDArray[Any] = dnc(
            updates.vectors,
            self.f,
            filter=self.filter,
            iterations=self.iterations,
            coordinates=self.coordinates,
            seed=_seed(updates, round_info),
        )
        return merged

    @property
    def _fewest(self) -> int:
        return max(2 * self.f, self.iterations * _dropped_each(self.filter, self.f)) + 1


def _ranking(rows: Rows) -> list[int]:
    """Rows numbers by falling score, of equal scores the later first."""
    n = len(rows)
    shares = np.full(n, 1.0 / n)
    gram = centred_gram(as_floats(squared_distances(rows)), shares)
    # Projected, not read off the eigenvector's entries: beside a far liar's those are too coarse to
    # tell the others apart.
    vector = dominant_eigenvector(gram).astype(np.float64)
    scores = np.abs(sweep(gram, vector)).tolist()
    return sorted(range(n), key=lambda row: (scores[row], row), reverse=True)


def _seed(updates: Updates, round_info: RoundInfo) -> bytes:
    digest = hashlib.sha256(b"qres/dnc/seed/v1\0" + round_info.swarm.encode() + b"\0")
    digest.update(round_info.number.to_bytes(8, "little") + round_info.model_digest)
    for sender, row in zip(updates.senders, updates.vectors, strict=True):
        digest.update(sender + vector_digest(row))
    return digest.digest()
