"""Combinations of options: some are refused from the options alone, before there is a swarm.

All refusals are QRES-E314 with the option at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from qres_core.errors import CompatibilityError
from qres_dp.modes import Mode, Unit

_VOTES: Final = (
    "is gone: among fewer than a thousand nodes a clip that follows votes cost accuracy",
    "leave it out: the clip stays where it is; choose a short one, clip = ...",
)
_SAMPLING: Final = (
    "is gone: at an equal budget, sampled nodes cost accuracy",
    "leave it out: every node contributes its update to every round",
)
GONE: Final[Mapping[str, tuple[str, str]]] = {
    "adaptive_quantile": _VOTES,
    "adaptive_rate": _VOTES,
    "sampling": _SAMPLING,
    "sampling_rate": _SAMPLING,
}
"""Options that there were once: what became of each, and what to use instead."""


def _refuse(option: str, what: str, fix: str) -> NoReturn:
    raise CompatibilityError.of("QRES-E314", f"plugins.dp.{option}", what, fix)


def units_of(unit: Unit, records: int) -> int:
    """The most units of a node. ``records``: the option, 0 where it is not set."""
    if (unit is Unit.RECORD) != (records > 0):
        what = "records is to be set with unit record, to 1 or more, and with no other"
        fix = "the most examples that a node may have, the same number on all nodes"
        _refuse("records", what, fix)
    return max(1, records)


def check_honest(mode: Mode, honest: int) -> None:
    """Shares are counted on in mode distributed, where there are any."""
    if (mode is Mode.DISTRIBUTED) != (honest > 0):
        what = "honest is to be set in mode distributed, to 1 or more, and in no other"
        fix = "honest = swarm.quorum - max(1, swarm.byzantine), or with groups the least group"
        _refuse("honest", what, fix)


def check_separation(separation: int) -> None:
    """Independent noise has no separation."""
    if separation != 1:
        what = "separation is an option of noise correlated"
        _refuse("separation", what, 'noise = "correlated"')


def check_correlated(mode: Mode, *, epsilon: float, rounds: int) -> None:
    """Correlated noise is accounted for as one stream, which has an end.

    ``epsilon``: the option, 0 where it is not set.
    """
    if mode is Mode.LOCAL:
        what = "correlated noise in mode local is gone: it learned next to nothing with nodes as "
        what += "the unit, and its file of keys opened all updates of a node"
        fix = 'noise = "independent", best with unit = "record"; or mode = "distributed"'
        _refuse("noise", what, fix)
    if not (epsilon and rounds):
        what = "a stream of correlated noise has an end: its rounds and its epsilon must be set"
        _refuse("noise", what, "set epsilon and rounds")
