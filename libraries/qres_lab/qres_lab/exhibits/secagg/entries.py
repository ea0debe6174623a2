"""For the attack gallery: one update out of two sums, and one out of two survivor sets.

The other exhibits are in :mod:`qres_lab.exhibits.secagg`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.keys import KeyPair
from qres_secagg.messages import Kind, decode_unmask
from qres_secagg.parameters import HONEST_LEAST
from qres_secagg.permission import Classes
from qres_secagg.shamir import combine, encode

from qres_core import NodeId
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.dealers import DEALERS
from qres_lab.exhibits.secagg.groups import GROUPS
from qres_lab.exhibits.secagg.heights import HEIGHTS
from qres_lab.exhibits.secagg.left_out import LEFT_OUT
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_lab.exhibits.secagg.swarm import (
    DIMENSION,
    LIMIT,
    MEASURE,
    UNIT,
    ExhibitSwarm,
    Vectors,
    cosine,
    session_of,
)

_VICTIM: Final = 9
_NODES: Final = 10


class _Credulous(SessionMessages):
    """A board for which one statement is a quorum."""

    @property
    def quorum(self) -> int:
        """Quorum of one: whatever anybody says is agreed."""
        return 1


def _swarm(
    number: int = 1,
    *,
    threshold: int = 7,
    corrupt: int = 2,
    board: type[SessionMessages] = SessionMessages,
) -> ExhibitSwarm:
    return ExhibitSwarm(session_of(_NODES, number, t=threshold, corrupt=corrupt), board=board)


# ── two rounds ────────────────────────────────────────────────────────────────────────────────


def _updates(seed: int, moved: float) -> tuple[Vectors, Vectors]:
    """Updates of two rounds: a common part, each node's own, and what changed in between."""
    rng = np.random.Generator(np.random.PCG64(seed))
    common = rng.normal(size=DIMENSION)
    own = rng.normal(size=(_NODES, DIMENSION))
    rounds: list[Vectors] = []
    for _round in range(2):
        rows = common + own + moved * rng.normal(size=own.shape)
        rows *= 0.1 * UNIT
        rounds.append({rank: row.astype(np.int32) for rank, row in enumerate(rows)})
    return rounds[0], rounds[1]


def _intersected(
    setting: GallerySetting, defence: str, *, moved: float, guarded: bool, control: bool = False
) -> GalleryOutcome:
    """All in the first sum, all but the victim in the second; the attacker takes the difference."""
    first, second = _updates(setting.seed, moved)
    swarm, two = _swarm(1), _swarm(2)
    swarm.until_masked(first)
    total = swarm.total(range(_NODES))
    survivors = [rank for rank in range(_NODES) if rank != _VICTIM]
    if guarded:
        parameters, roster = two.session.parameters, two.session.roster
        classes = Classes.told_apart([roster], parameters.corrupt + HONEST_LEAST)
        asked = frozenset(roster[rank] for rank in survivors)
        if classes.permitted(asked, [roster], parameters.min_survivors) != asked:
            return GalleryOutcome.judged(
                defence,
                MEASURE,
                0.0,
                LIMIT,
                detected=(Reason.ON_RECORD.value,),
                reason="nobody votes for the second set: it is without one node of a recorded one, "
                f"and {int(classes.least)} must be gone at once",
            )
    two.until_masked(second)
    mean = total / _NODES
    rest = total - two.total(survivors) - mean
    return GalleryOutcome.judged(
        defence,
        MEASURE,
        round(cosine(rest, first[_VICTIM] - mean), 6),
        LIMIT,
        control=control,
        reason=f"the others' updates changed by {moved:g} of a node's own part between the rounds; "
        "the two sums are right, and their difference is the victim",
    )


def _plain(setting: GallerySetting) -> GalleryOutcome:
    first, _second = _updates(setting.seed, 0.0)
    found = cosine(first[_VICTIM], first[_VICTIM])
    return GalleryOutcome.judged(
        "nothing", MEASURE, round(found, 6), LIMIT, control=True, reason="updates are in the open"
    )


def _unrecorded(setting: GallerySetting) -> GalleryOutcome:
    name = "secure aggregation without a record"
    return _intersected(setting, name, moved=0.0, guarded=False, control=True)


def _same(setting: GallerySetting) -> GalleryOutcome:
    return _intersected(setting, "secure aggregation, one model", moved=0.0, guarded=True)


def _near(setting: GallerySetting) -> GalleryOutcome:
    name = "secure aggregation, next model, updates that move little"
    return _intersected(setting, name, moved=0.1, guarded=False)


def _far(setting: GallerySetting) -> GalleryOutcome:
    name = "secure aggregation, next model, updates that move much"
    return _intersected(setting, name, moved=2.0, guarded=False)


# ── two survivor sets ─────────────────────────────────────────────────────────────────────────

_COLLUDERS: Final = frozenset({0, 1})


def _twin(client: Client) -> Client:
    """A colluder that plays both halves; no honest node has a copy."""
    twin = copy.copy(client)
    twin.board = copy.copy(client.board)
    twin.board.opening = None
    for name in ("_statements", "_unmasks"):
        setattr(twin.board, name, dict(getattr(client.board, name)))
    twin._held = dict(client._held)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return twin


def _opened(
    swarm: ExhibitSwarm, inputs: Mapping[NodeId, bytes], half: Collection[int]
) -> dict[int, int]:
    """Shares of the victim that half of the nodes open for the set they are told."""
    clients = {
        rank: _twin(swarm.clients[rank]) if rank in _COLLUDERS else swarm.clients[rank]
        for rank in half
    }
    stated = {rank: client.state(inputs) for rank, client in clients.items()}
    for client in clients.values():
        for rank, body in stated.items():
            client.board.receive(swarm.session.roster[rank], Kind.STATEMENT, body)
    shares: dict[int, int] = {}
    for rank, client in clients.items():
        try:
            held = decode_unmask(client.unmask())[1].shares
        except SecaggError:
            continue
        if _VICTIM in held:
            shares[rank + 1] = int.from_bytes(held[_VICTIM], "little")
    return shares


def _split(
    setting: GallerySetting,
    defence: str,
    *,
    threshold: int,
    corrupt: int,
    board: type[SessionMessages],
) -> GalleryOutcome:
    vectors, _second = _updates(setting.seed, 0.0)
    swarm = _swarm(threshold=threshold, corrupt=corrupt, board=board)
    swarm.until_masked(vectors)
    honest = [rank for rank in range(_NODES) if rank not in _COLLUDERS]
    alive = swarm.digests(range(_NODES))
    dead = swarm.digests([rank for rank in range(_NODES) if rank != _VICTIM])
    first = _opened(swarm, alive, {*honest[::2], *_COLLUDERS})
    second = _opened(swarm, dead, {*honest[1::2], *_COLLUDERS})
    found = 0.0
    secrets_ = [
        combine(dict(list(shares.items())[:threshold])) if len(shares) >= threshold else None
        for shares in (first, second)
    ]
    if secrets_[0] is not None and secrets_[1] is not None:
        both = Spoils({_VICTIM: encode(secrets_[0])}, {_VICTIM: KeyPair(secrets_[1])})
        read = unmasked(swarm.boards[0], swarm.rings([_VICTIM]), both)
        found = cosine(read, vectors[_VICTIM])
    return GalleryOutcome.judged(
        defence,
        MEASURE,
        round(found, 6),
        LIMIT,
        control=board is _Credulous and corrupt == 0,
        detected=("no quorum of statements for either set",) if not first and not second else (),
        reason=f"{len(first)} and {len(second)} shares of the victim's two secrets were opened, "
        f"{threshold} open one",
    )


def _no_check(setting: GallerySetting) -> GalleryOutcome:
    return _split(setting, "nothing", threshold=6, corrupt=0, board=_Credulous)


def _threshold_only(setting: GallerySetting) -> GalleryOutcome:
    return _split(setting, "threshold alone", threshold=7, corrupt=2, board=_Credulous)


def _both(setting: GallerySetting) -> GalleryOutcome:
    return _split(setting, "secure aggregation", threshold=7, corrupt=2, board=SessionMessages)


def _full(setting: GallerySetting) -> GalleryOutcome:
    return _split(setting, "full, one sum", threshold=7, corrupt=2, board=SessionMessages)


ENTRIES: Final = (
    GalleryEntry(
        name="two_rounds",
        family=AttackFamily.PRIVACY,
        summary="subtract the sum of a round without the victim from that of one with it",
        aim="the difference points along the victim's own part (cosine above a half)",
        plays={
            "nothing": _plain,
            "secure aggregation without a record": _unrecorded,
            "secure aggregation, one model": _same,
            "secure aggregation, next model, updates that move little": _near,
            "secure aggregation, next model, updates that move much": _far,
        },
    ),
    GalleryEntry(
        name="aggregator_equivocation",
        family=AttackFamily.PRIVACY,
        summary="tell half of the nodes that the victim is there and half that it is gone",
        aim="both of the victim's secrets are opened, and with them its update",
        plays={
            "nothing": _no_check,
            "threshold alone": _threshold_only,
            "secure aggregation": _both,
            "full, one sum": _full,
        },
    ),
    HEIGHTS,
    LEFT_OUT,
    *DEALERS,
    *GROUPS,
)
