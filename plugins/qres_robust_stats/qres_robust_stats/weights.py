"""Bounds of weights in a rule that must withstand liars.

A weight is what a sender says of itself (its examples, capped by ``swarm.weight_cap``) times its
standing. A rule that outvotes ``f`` liars by number does not outvote them by weight unless weights
are held near each other, which is what this module does, in integers and in proportions: all
weights times any factor give the same result.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError

_DENOMINATOR: Final = 1000
_LARGEST: Final = 2**30


def as_limit(weight_limit: float) -> Fraction:
    """Read the option ``weight_limit`` as a fraction.

    Args:
        weight_limit: 1 or more.

    Returns:
        the nearest fraction with a denominator of at most 1000, so that products with weights
        stay small integers.

    Example:
        >>> as_limit(1.1)
        Fraction(11, 10)
    """
    return Fraction(weight_limit).limit_denominator(_DENOMINATOR)


def fewest_weighted(f: int, limit: Fraction) -> int:
    """Count the updates with which no weights whatever give ``f`` senders half of all weight.

    With ``m`` the lower median weight, ``n // 2 + 1`` of the updates weigh ``m`` or more, and none
    counts more than ``limit m``. So ``f`` senders have at most ``f limit m``, and the others have
    more than ``(n // 2 + 1 - f) m`` if there are any below the median. The first stays below the
    second for ``n // 2 >= f (limit + 1) - 1``.

    Args:
        f: senders that may lie, 0 or more.
        limit: a sender counts at most this many times the lower median weight.

    Returns:
        the least such ``n``, never less than ``2 f + 1``.

    Example:
        >>> [fewest_weighted(f, Fraction(2)) for f in range(4)]
        [1, 4, 10, 16]
    """
    half = f * (limit + 1) - 1
    return max(2 * f + 1, 2 * -(-half.numerator // half.denominator))


def capped(weights: NDArray[np.int64], limit: Fraction) -> NDArray[np.int64]:
    """Hold every weight to ``limit`` times the lower median weight.

    Args:
        weights: int64, shape ``(n,)``, each 1..2**30; not changed.
        limit: 1 or more, with a denominator of at most 1000.

    Returns:
        int64, shape ``(n,)``, new memory: the capped weights times the denominator of ``limit``,
        exact, each 1..1000 * 2**30.

    Raises:
        ValueRefusedError: QRES-E506 for weights of another type or out of range.

    Example:
        >>> capped(np.array([1, 2, 900]), Fraction(3, 2)).tolist()
        [2, 4, 6]
    """
    claims = check_weights(weights, len(weights)).tolist()
    most = sorted(claims)[(len(claims) - 1) // 2] * limit.numerator
    return np.array([min(claim * limit.denominator, most) for claim in claims], dtype=np.int64)


def refuse_heavy(weights: NDArray[np.int64], f: int) -> None:
    """Refuse weights of which ``f`` senders hold half or more.

    Args:
        weights: int64, shape ``(n,)``, positive; as they will count.
        f: senders that may lie, 0 or more.

    Raises:
        ValueRefusedError: QRES-E505 naming the share; ``f`` liars could then place the result
            anywhere.

    Example:
        >>> refuse_heavy(np.array([1, 1, 2]), 0)
        >>> refuse_heavy(np.array([1, 1, 2]), 1)
        Traceback (most recent call last):
        qres_core.contract.errors.ValueRefusedError: QRES-E505 weights: the 1 heaviest of 3 \
senders hold 2 of 4, half of all weight or more (lower weight_limit, or swarm.weight_cap, \
or raise the number of updates)
    """
    ordered = sorted(weights.tolist(), reverse=True)
    held, total = sum(ordered[:f]), sum(ordered)
    if f and 2 * held >= total:
        raise ValueRefusedError.of(
            "QRES-E505",
            "weights",
            f"the {f} heaviest of {len(ordered)} senders hold {held} of {total}, "
            "half of all weight or more",
            "lower weight_limit, or swarm.weight_cap, or raise the number of updates",
        )


def check_weights(weights: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the weights if there is one for each of ``n`` vectors, in range.

    Raises ValueRefusedError: QRES-E506 for weights of another type, shape or range.
    """
    found: object = getattr(weights, "dtype", type(weights).__name__)
    shape: object = getattr(weights, "shape", None)
    if found != np.int64 or shape != (n,):
        what = f"expected int64 of shape ({n},), got {found} of shape {shape}"
        raise ValueRefusedError.of("QRES-E506", "weights", what)
    if int(weights.min()) < 1 or int(weights.max()) > _DENOMINATOR * _LARGEST:
        raise ValueRefusedError.of("QRES-E506", "weights", f"must be in 1..{_DENOMINATOR} * 2**30")
    return weights
