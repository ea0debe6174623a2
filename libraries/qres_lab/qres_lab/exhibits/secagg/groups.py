"""Two colluders in a group: they keep others out of it and take their own inputs out of its sum.

Which members share a group is drawn. Attackers that may fail a round and have it drawn again wait
until the draw puts their victim between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from qres_secagg.graph import beacon, split, topology
from qres_secagg.plugin import Secagg
from qres_secagg.sizing import sized

from qres_core.errors import CompatibilityError
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.swarm import DIMENSION, ExhibitSwarm, session_of, updates

_NODES: Final = 20
_GROUP: Final = 5
_COLLUDERS: Final = 2
_READ: Final = "updates that colluders read"


def _attempt(setting: GallerySetting, corrupt: int, out: int) -> tuple[bool, int]:
    """Tell if an update was read, and how many of others were left in the colluders' sum.

    ``out``: members of their group that they keep out.
    """
    session = session_of(_NODES, corrupt=corrupt, t=12, group_size=_GROUP, summands=_NODES)
    swarm = ExhibitSwarm(session)
    group: Sequence[int] = swarm.boards[0].topology.groups[0]
    ours, kept = group[:_COLLUDERS], group[: len(group) - out]
    vectors = updates(setting.seed, _NODES)
    swarm.until_masked({i: row for i, row in vectors.items() if i in kept or i not in group})
    swarm.open(list(swarm.masked))
    others = kept[_COLLUDERS:]
    for found in swarm.sums(seen_by=ours[0]):
        if found.group == 0:
            mine = np.sum([vectors[rank] for rank in ours], axis=0, dtype=np.int64)
            rest = found.total - mine
            read = len(others) == 1 and bool(np.array_equal(rest, vectors[others[0]]))
            return read, len(others)
    return False, 0


def _colluding(setting: GallerySetting, defence: str, corrupt: int) -> GalleryOutcome:
    found = [_attempt(setting, corrupt, out) for out in range(_GROUP - _COLLUDERS)]
    left = sorted({others for _read, others in found if others})
    return GalleryOutcome.judged(
        defence,
        _READ,
        float(sum(read for read, _others in found)),
        0.0,
        control=not corrupt,
        reason=(
            f"two of a group of {_GROUP} keep up to {_GROUP - _COLLUDERS - 1} of it out; sums that "
            f"were opened hold {' or '.join(map(str, left))} inputs of others"
        ),
    )


def _unplanned(setting: GallerySetting) -> GalleryOutcome:
    return _colluding(setting, "nothing", 0)


def _planned(setting: GallerySetting) -> GalleryOutcome:
    return _colluding(setting, "secure aggregation, groups", _COLLUDERS)


def _refused(setting: GallerySetting) -> GalleryOutcome:
    """The numbers of the review: groups of four, of which three are enough, and two liars."""
    del setting
    name = "secure aggregation, groups of four"
    try:
        sized(Secagg(group_size=4, min_size=3), 40, _COLLUDERS, DIMENSION)
    except CompatibilityError as error:
        (problem,) = error.problems
        found = f"refused before it starts: {problem.code}"
        return GalleryOutcome.judged(
            name, _READ, 0.0, 0.0, detected=(found,), reason=f"{problem.where}: {problem.what}"
        )
    return GalleryOutcome.judged(name, _READ, 1.0, 0.0, reason="it would start")


# ── draws ─────────────────────────────────────────────────────────────────────────────────────

_SWARM: Final = 40
_DRAWS: Final = 1000
_SHARE: Final = "members that some draw puts into a group with both colluders"
_ONE_DRAW: Final = (_GROUP - _COLLUDERS) / (_SWARM - _COLLUDERS)
"""What a single draw can give them."""

Groups = Sequence[Sequence[int]]


def _met(draws: Iterable[Groups]) -> float:
    """The share of the others that share a group with both colluders in one of the draws."""
    ours = set(range(_COLLUDERS))
    met = {rank for groups in draws for group in groups if ours <= set(group) for rank in group}
    return len(met - ours) / (_SWARM - _COLLUDERS)


def _by_number() -> Iterator[Groups]:
    """Draws by the number of the round, as they once were."""
    for number in range(1, _DRAWS + 1):
        yield split(_SWARM, _GROUP, beacon(bytes(32), number.to_bytes(8, "little"), b"groups"))


def _by_model() -> Iterator[Groups]:
    for number in range(1, _DRAWS + 1):
        session = session_of(_SWARM, number, corrupt=_COLLUDERS, group_size=_GROUP)
        yield topology(session).groups


def _redrawn(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return GalleryOutcome.judged(
        "nothing",
        _SHARE,
        round(_met(_by_number()), 6),
        _ONE_DRAW,
        control=True,
        reason=f"{_DRAWS} rounds of one model, each with another draw",
    )


def _drawn_once(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return GalleryOutcome.judged(
        "secure aggregation, groups",
        _SHARE,
        round(_met(_by_model()), 6),
        _ONE_DRAW,
        reason=f"{_DRAWS} rounds of one model and one roster, all with the same draw",
    )


GROUPS: Final = (
    GalleryEntry(
        name="colluders_in_a_group",
        family=AttackFamily.PRIVACY,
        summary="two members of a group keep others out, and subtract their own inputs",
        aim="one update is left of the sum",
        plays={
            "nothing": _unplanned,
            "secure aggregation, groups": _planned,
            "secure aggregation, groups of four": _refused,
        },
    ),
    GalleryEntry(
        name="redraws",
        family=AttackFamily.PRIVACY,
        summary="let rounds fail until the draw of groups puts the victim between two colluders",
        aim="more members are met than one draw can give",
        plays={"nothing": _redrawn, "secure aggregation, groups": _drawn_once},
    ),
)
