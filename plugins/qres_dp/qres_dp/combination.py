"""Which options go together: what is refused from the options alone, before there is a swarm.

All refusals are QRES-E314 with the option at fault.
"""

from __future__ import annotations

from typing import NoReturn

from qres_core import CompatibilityError
from qres_dp.modes import EXCLUDES, Mode, Unit


def _refuse(option: str, what: str, fix: str) -> NoReturn:
    raise CompatibilityError.of("QRES-E314", f"plugins.dp.{option}", what, fix)


def _check_mode(mode: Mode, option: str, fix: str) -> None:
    why = EXCLUDES[mode].get(option)
    if why is not None:
        _refuse(option, why, fix)


def units_of(unit: Unit, records: int) -> int:
    """The most units of a node. ``records``: the option, 0 where it is not set."""
    if (unit is Unit.RECORD) != (records > 0):
        what = "records is to be set with unit record, to 1 or more, and with no other"
        fix = "the most examples that a node may have, the same number on all nodes"
        _refuse("records", what, fix)
    return max(1, records)


def check_sampling(mode: Mode, rate: float, *, sampled: bool, unit: Unit = Unit.NODE) -> None:
    """Sampling amplifies where nobody sees who takes part, and each unit has its own coin.

    ``rate``: the option ``sampling_rate``; ``sampled``: whether ``sampling`` is ``poisson``.
    """
    if sampled and unit is Unit.RECORD:
        what = "a node's coin is one for all its records, and the account is for a coin each"
        _refuse("sampling", what, 'sampling = "none"')
    if sampled:
        _check_mode(mode, "sampling", 'sampling = "none"')
    elif rate != 1.0:
        _refuse(
            "sampling", "sampling_rate is an option of sampling poisson", 'sampling = "poisson"'
        )


def check_honest(mode: Mode, honest: int) -> None:
    """Shares are counted on in mode distributed, where there are any."""
    if (mode is Mode.DISTRIBUTED) != (honest > 0):
        what = "honest is to be set in mode distributed, to 1 or more, and in no other"
        fix = "honest = swarm.quorum - max(1, swarm.byzantine), or with groups the least group"
        _refuse("honest", what, fix)


def check_quantile(
    mode: Mode, quantile: float, *, unit: Unit = Unit.NODE, sampled: bool, correlated: bool
) -> None:
    """A clip follows a quantile where all nodes vote, and all see the same noised sum of votes.

    ``quantile``: the option, 0 where it is not set; ``sampled``, ``correlated``: the options
    ``sampling`` and ``noise``.
    """
    if not quantile:
        return
    fix = "adaptive_quantile = 0: the clip stays where it is"
    if unit is Unit.RECORD:
        what = "nodes would vote on the lengths of their updates, and the clip is one of records"
        _refuse("adaptive_quantile", what, fix)
    _check_mode(mode, "adaptive_quantile", fix)
    if sampled:
        what = "nodes that lose their coin contribute zeros, which fit into every clip"
        _refuse("adaptive_quantile", what, f'sampling = "none", or {fix}')
    if correlated:
        what = "a row of correlated noise holds updates of several rounds, under one clip"
        _refuse("adaptive_quantile", what, f'noise = "independent", or {fix}')


def check_separation(separation: int) -> None:
    """Independent noise has no separation."""
    if separation != 1:
        what = "separation is an option of noise correlated"
        _refuse("separation", what, 'noise = "correlated"')


def check_correlated(mode: Mode, *, epsilon: float, rounds: int, sampled: bool) -> None:
    """Correlated noise is accounted for as one stream, which has an end.

    ``epsilon``: the option, 0 where it is not set; ``sampled``: whether nodes are sampled.
    """
    if mode is Mode.LOCAL:
        what = "correlated noise in mode local is gone: it learned next to nothing with nodes as "
        what += "the unit, and its file of keys opened all updates of a node"
        fix = 'noise = "independent", best with unit = "record"; or mode = "distributed"'
        _refuse("noise", what, fix)
    if sampled:
        what = "correlated noise is accounted for without sampling"
        _refuse("noise", what, 'noise = "independent"')
    if not (epsilon and rounds):
        what = "a stream of correlated noise has an end: its rounds and its epsilon must be set"
        _refuse("noise", what, "set epsilon and rounds")
