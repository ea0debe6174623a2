"""For the attack gallery: proofs of what is not so, and an aggregator that adds something."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_zk.group import ORDER
from qres_zk.judging import NAME
from qres_zk.plugin import Zk

from qres_core import (
    ACCEPT,
    Companion,
    Contribution,
    NodeId,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    Visibility,
)
from qres_core.errors import QresError
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting

_NODES: Final = 5
_DIMENSION: Final = 50
_BOUND: Final = 10.0
_ROSTER: Final = tuple(
    sorted(NodeId(hashlib.sha256(b"gallery" + bytes([n])).digest()) for n in range(_NODES))
)


def _round(number: int = 1) -> RoundInfo:
    return RoundInfo("gallery", number, bytes(32), _DIMENSION, 0, _ROSTER, _NODES - 1, byzantine=1)


def _plugin(node: int, visibility: Visibility = Visibility.INDIVIDUAL, bound: float = _BOUND) -> Zk:
    made = Zk(bound=bound)
    made.setup(NodeInfo(_ROSTER[node], "gallery", _ROSTER, byzantine=1, visibility=visibility))
    return made


def _vector(seed: int, norm: float) -> NDArray[np.int32]:
    drawn = np.random.Generator(np.random.PCG64(seed)).normal(size=_DIMENSION)
    return np.trunc(drawn / np.linalg.norm(drawn) * norm * 2**16).astype(np.int32)


def _send(node: int, norm: float, number: int = 1, bound: float = _BOUND) -> Contribution:
    made, info = _plugin(node, bound=bound), _round(number)
    made.round_opened(info)
    private = made.privatize(Update(_vector(node, norm)), info)
    proofs = {NAME: made.prove(private, info)}
    return Contribution(_ROSTER[node], bytes(32), private.vector, 1, proofs, private.companions)


def _cheats() -> Iterator[tuple[str, Contribution]]:
    """Contributions of one node whose vectors or proofs are not what they claim to be."""
    honest = _send(0, 1.0)
    boosted = (honest.vector.astype(np.int64) * 1000).astype(np.int32)
    proof = honest.proofs[NAME]
    yield "a boosted vector with the proof of the short one", attrs.evolve(honest, vector=boosted)
    yield "no proof", attrs.evolve(honest, vector=boosted, proofs={})
    yield "a proof for another bound", _send(0, 200.0, bound=1000.0)
    yield "a proof of an earlier round", _send(0, 1.0, 2)
    yield "another node's contribution", attrs.evolve(_send(1, 1.0), sender=_ROSTER[0])
    for place in (8, 40, len(proof) // 2, len(proof) - 1):
        changed = proof[:place] + bytes([proof[place] ^ 1]) + proof[place + 1 :]
        yield f"a proof with byte {place} changed", attrs.evolve(honest, proofs={NAME: changed})
    yield "a proof cut short", attrs.evolve(honest, proofs={NAME: proof[:-1]})
    yield "blinds of nobody", attrs.evolve(honest, companions={})


_MEASURE: Final = "false contributions accepted"


def _bad_nothing(setting: GallerySetting) -> GalleryOutcome:
    del setting
    total = sum(1 for _cheat in _cheats())
    return GalleryOutcome.judged(
        "nothing", _MEASURE, float(total), 0.0, control=True, reason="no proof is required"
    )


def _bad(defence: str, visibility: Visibility) -> GalleryOutcome:
    judge, info = _plugin(2, visibility), _round()
    hidden = visibility is not Visibility.INDIVIDUAL
    accepted: list[str] = []
    reasons: list[str] = []
    tried = 0
    for name, cheat in _cheats():
        tried += 1
        verdict = judge.verify(cheat, info)
        if verdict is ACCEPT:
            accepted.append(name)
        else:
            reasons.append(str(verdict.reason))
    if hidden and accepted:  # the vector is masked: what was not seen now shows in the sum
        shown = [_send(node, 1.0) for node in range(1, _NODES)]
        late = [name for name, cheat in _cheats() if name in accepted and _sums((cheat, *shown))]
        reasons += ["sum not the one committed to"] * (len(accepted) - len(late))
        accepted = late
    found = tuple(f"refused: {why} ({reasons.count(why)})" for why in sorted(set(reasons)))
    return GalleryOutcome.judged(
        defence,
        _MEASURE,
        float(len(accepted)),
        0.0,
        detected=found,
        reason=f"{len(accepted)} of {tried}" + (f": {', '.join(accepted)}" if accepted else ""),
    )


def _bad_zk(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return _bad("norm proof", Visibility.INDIVIDUAL)


def _bad_full(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return _bad("full, one sum", Visibility.SUM)


# ── sums ──────────────────────────────────────────────────────────────────────────────────────


def _added(sent: Sequence[Contribution]) -> Updates:
    """Result of contributions of which only the sum is revealed."""
    total = np.sum([frame.vector.astype(np.int64) for frame in sent], axis=0)[None]
    columns = zip(*(_blinds(frame) for frame in sent), strict=True)
    return Updates(
        np.rint(total / len(sent)).astype(np.int32),
        (min(frame.sender for frame in sent),),
        np.array([len(sent)], dtype=np.int64),
        Visibility.SUM,
        members=(tuple(sorted({frame.sender for frame in sent})),),
        sums=total,
        companions={NAME: (Companion.of([sum(column) % ORDER for column in columns], ORDER),)},
    )


def _blinds(contribution: Contribution) -> tuple[int, ...]:
    rows = _send(2, 1.0).companions[NAME].residues()
    companion = contribution.companions.get(NAME)
    return tuple(0 for _ in rows) if companion is None else companion.residues()


def _sums(sent: tuple[Contribution, ...], updates: Updates | None = None) -> bool:
    """True if a node takes the sum for the sum of what was committed to."""
    ordered = tuple(sorted(sent, key=lambda frame: frame.sender))
    judge = _plugin(2, Visibility.SUM)
    try:
        judge.reveal(_added(ordered) if updates is None else updates, ordered, _round())
    except QresError:
        return False
    return True


def _lies() -> Iterator[tuple[str, Updates]]:
    sent = tuple(_send(node, 1.0) for node in range(_NODES))
    true = _added(sent)
    assert true.sums is not None  # noqa: S101 - made above
    moved = true.sums.copy()
    moved[0, 0] += 1
    yield "one coordinate, one step of the grid", attrs.evolve(true, sums=moved)
    yield "everything negated", attrs.evolve(true, sums=-true.sums)
    yield "a member left out", _relabelled(_added(sent[:-1]), true)
    yield "a member counted twice", _relabelled(_added((*sent, sent[0])), true)
    yield "blinds left out", attrs.evolve(true, companions={})


def _relabelled(false: Updates, true: Updates) -> Updates:
    return attrs.evolve(false, members=true.members)


_LYING: Final = "false sums accepted"


def _lying_nothing(setting: GallerySetting) -> GalleryOutcome:
    del setting
    total = sum(1 for _lie in _lies())
    return GalleryOutcome.judged(
        "nothing",
        _LYING,
        float(total),
        0.0,
        control=True,
        reason="the summing node is trusted, like a server",
    )


def _lying(defence: str) -> GalleryOutcome:
    sent = tuple(_send(node, 1.0) for node in range(_NODES))
    taken = [name for name, lie in _lies() if _sums(sent, lie)]
    if not _sums(sent):
        taken.append("(the true sum is refused)")
    return GalleryOutcome.judged(
        defence,
        _LYING,
        float(len(taken)),
        0.0,
        detected=("sum not the one committed to (QRES-E508)",),
        reason="; ".join(taken) or "the round is aborted, and the model stays as it was",
    )


def _lying_zk(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return _lying("norm proof")


def _lying_full(setting: GallerySetting) -> GalleryOutcome:
    del setting
    return _lying("full, one sum")


ENTRIES: Final = (
    GalleryEntry(
        name="bad_proofs",
        family=AttackFamily.INTEGRITY,
        summary="contributions whose proof is of something else, of another time, or damaged",
        aim="one of them is accepted",
        plays={"nothing": _bad_nothing, "norm proof": _bad_zk, "full, one sum": _bad_full},
    ),
    GalleryEntry(
        name="lying_aggregator",
        family=AttackFamily.INTEGRITY,
        summary="a sum that is not the sum of the contributions",
        aim="one of the false sums is accepted",
        plays={"nothing": _lying_nothing, "norm proof": _lying_zk, "full, one sum": _lying_full},
    ),
)
