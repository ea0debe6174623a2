"""Candidates that a proposer's held-out examples speak against, within a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import attrs
import numpy as np

from qres_core import RoundInfo, Updates
from qres_core.training import HeldOut


@attrs.frozen
class ScreeningBudget:
    """Cost that one round's screening may have."""

    candidates: int  # most updates that are tried
    seconds: float  # time after which no further one is tried
    clock: Callable[[], float]  # seconds, never going back


def sample(updates: Updates, count: int, round_info: RoundInfo) -> list[int]:
    """Choose which rows to try, another choice each round; all of them if they are few enough.

    Each row is ranked by SHA-256 of the round, the sender and what it sent: nobody is always, and
    nobody never, among those tried.

    Args:
        updates: int32, shape ``(n, d)``.
        count: how many to choose.
        round_info: the round.

    Returns:
        at most ``count`` distinct row indices, in order of rank.

    Complexity: O(n d).
    """
    place = b"qres/validation/sample/v1\0" + round_info.model_digest
    place += round_info.number.to_bytes(8, "little")

    def rank(row: int) -> bytes:
        vector = np.ascontiguousarray(updates.vectors[row], dtype="<i4")
        return hashlib.sha256(place + updates.senders[row] + vector.tobytes()).digest()

    rows = range(len(updates))
    return list(rows) if len(updates) <= count else sorted(rows, key=rank)[:count]


def losses(
    updates: Updates, rows: list[int], held_out: HeldOut, budget: ScreeningBudget
) -> dict[int, float]:
    """Try updates one by one on the held-out examples until the time is up.

    ``updates``: int32, shape ``(n, d)``; ``budget``: its ``seconds`` count from the call. Returns
    loss of the round's model plus the update, by row; fewer than asked for if time ran out.
    """
    end = budget.clock() + budget.seconds
    found: dict[int, float] = {}
    for row in rows:
        if budget.clock() >= end:
            break
        found[row] = held_out.loss_with(updates.vectors[row])
    return found


def harmful(found: dict[int, float], limit: float, most: int) -> list[int]:
    """The rows whose loss is above the limit, at most so many, the worst first."""
    worst = sorted((row for row in found if found[row] > limit), key=lambda row: (-found[row], row))
    return worst[: max(0, most)]
