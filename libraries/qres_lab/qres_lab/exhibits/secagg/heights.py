"""Heights that end without a model by an adversary that has seen a sum and asks for another.

One of the colluders spoils the round once everything is open: the model stays, and so do honest
updates of a trainer that draws no lots. Then the two of them are the next set's only absentees
beside the victim.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from qres_secagg.failure import Reason
from qres_secagg.parameters import Parameters
from qres_secagg.permission import Permission
from qres_secagg.session import Session

from qres_core import RoundInfo
from qres_core.dialogues import VoidSet
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.swarm import ExhibitSwarm, session_of, updates

_NODES: Final = 14
_COLLUDERS: Final = (0, 1)
_VICTIM: Final = 9
_READ: Final = "sets whose sum shows the victim's update"


def _height(session: Session) -> Permission:
    """Record after the set of all was decided, and no model came of it."""
    roster = session.roster

    def numbers(_nodes: int) -> Parameters:
        return session.parameters

    def finest(_nodes: int) -> int:
        return 0

    info = RoundInfo(
        session.swarm,
        2,
        session.model_digest,
        session.parameters.dimension,
        0,
        roster,
        len(roster) // 2 + 1,
        byzantine=len(_COLLUDERS),
        void_sets=(VoidSet(roster, roster, roster),),
    )
    return Permission(info, numbers, finest)


def _play(setting: GallerySetting, defence: str, *, recorded: bool) -> GalleryOutcome:
    vectors = updates(setting.seed, _NODES)
    first = ExhibitSwarm(session_of(_NODES, 1, corrupt=len(_COLLUDERS), t=9))
    first.until_masked(vectors)
    total = first.total(range(_NODES))
    height, read, asked = _height(first.session), 0, 0
    for gone in range(len(_COLLUDERS) + 1):
        out = {_VICTIM, *_COLLUDERS[:gone]}
        kept = [rank for rank in range(_NODES) if rank not in out]
        asked += 1
        if recorded and not height.permits([first.session.roster[rank] for rank in kept]):
            continue
        then = ExhibitSwarm(session_of(_NODES, 2, corrupt=len(_COLLUDERS), t=9))
        then.until_masked(vectors)
        rest = total - then.total(kept)
        for rank in _COLLUDERS[:gone]:
            rest = rest - vectors[rank]
        read += bool(np.array_equal(rest, vectors[_VICTIM]))
    few = "one to three members" if read else f"fewer than {int(height.classes.least)} members"
    return GalleryOutcome.judged(
        defence,
        _READ,
        float(read),
        0.0,
        control=not recorded,
        detected=(f"{Reason.ON_RECORD.value} (every node)",) if recorded and not read else (),
        reason=f"{asked} sets were asked for after the set of all; each leaves out {few} of it",
    )


def _forgotten(setting: GallerySetting) -> GalleryOutcome:
    return _play(setting, "nothing", recorded=False)


def _recorded(setting: GallerySetting) -> GalleryOutcome:
    return _play(setting, "secure aggregation", recorded=True)


HEIGHTS: Final = GalleryEntry(
    name="abort_after_opening",
    family=AttackFamily.PRIVACY,
    summary="spoil a round when its sum is open, and have another sum of the same model opened",
    aim="the difference of the two sums, less the colluders' inputs, is one update",
    plays={"nothing": _forgotten, "secure aggregation": _recorded},
)
