"""A proposer that leaves members out that are alive: all neighbours of one node.

They count as gone, so that their mask keys are opened to everybody, and the victim's seed is opened
as well: nothing is left of its mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
from qres_secagg.board import SessionMessages
from qres_secagg.failure import SecaggError
from qres_secagg.parameters import choose
from qres_secagg.survivors import Survivors

from qres_core import NodeId
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_lab.exhibits.secagg.swarm import (
    LIMIT,
    MEASURE,
    ExhibitSwarm,
    cosine,
    session_of,
    updates,
)

_NODES: Final = 70
_CORRUPT: Final = 7
_VICTIM: Final = 7


class OwnNeighbours(SessionMessages):
    """A board that looks at nobody's neighbours, as if every node looked at its own alone."""

    def survivors(self, inputs: Mapping[NodeId, bytes]) -> Survivors:
        """Any set that is large enough."""
        whole, n = self.topology, len(self.session.roster)
        near = tuple(tuple(j for j in range(n) if j != i) for i in range(n))
        self.topology = attrs.evolve(whole, peers=near, complete=True)
        try:
            return super().survivors(inputs)
        finally:
            self.topology = whole


def _play(setting: GallerySetting, defence: str, board: type[SessionMessages]) -> GalleryOutcome:
    plan = choose(_NODES, _CORRUPT, _CORRUPT)
    vectors = updates(setting.seed, _NODES)
    session = session_of(_NODES, k=plan.k, t=plan.t, acks=plan.acks, corrupt=_CORRUPT)
    swarm = ExhibitSwarm(session, board=board, hand_on=False)
    swarm.until_masked(vectors)
    near = set(swarm.boards[0].topology.peers[_VICTIM])
    kept = [rank for rank in range(_NODES) if rank not in near]
    # The victim would refuse, whatever the others do. It is not asked.
    others = [rank for rank in range(_NODES) if rank != _VICTIM]
    control = board is OwnNeighbours
    shown = f"the {len(near)} nodes that the victim masks against are left out of a set of {_NODES}"
    try:
        swarm.open(kept, others)
    except SecaggError as error:
        return GalleryOutcome.judged(
            defence,
            MEASURE,
            0.0,
            LIMIT,
            control=control,
            detected=(f"{error.reason.value} (every node)",),
            reason=f"{shown}; no node states that set, so nothing is opened",
        )
    bystander = swarm.boards[0]
    read = unmasked(bystander, swarm.rings([_VICTIM]), Spoils.opened(bystander))
    found = round(cosine(read, vectors[_VICTIM]), 6)
    reason = f"{shown}; whoever hears the opened shares reads its update"
    return GalleryOutcome.judged(defence, MEASURE, found, LIMIT, control=control, reason=reason)


def _unguarded(setting: GallerySetting) -> GalleryOutcome:
    return _play(setting, "nothing", OwnNeighbours)


def _guarded(setting: GallerySetting) -> GalleryOutcome:
    return _play(setting, "secure aggregation", SessionMessages)


LEFT_OUT: Final = GalleryEntry(
    name="left_out",
    family=AttackFamily.PRIVACY,
    summary="propose a set without the neighbours of the victim, which are all alive",
    aim="the victim's mask comes off, and its update is read (cosine above a half)",
    plays={"nothing": _unguarded, "secure aggregation": _guarded},
)
