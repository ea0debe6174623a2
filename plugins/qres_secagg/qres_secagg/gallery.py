"""For the attack gallery: one update out of two sums, and one out of two survivor sets."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting, NodeId
from qres_secagg.aggregator import Aggregator
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, Masked, VolatileHistory
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.keys import KeyPair, pair_key, self_key
from qres_secagg.masks import apply
from qres_secagg.messages import Kind, decode_unmask
from qres_secagg.parameters import HONEST_LEAST, Parameters
from qres_secagg.permission import Classes
from qres_secagg.session import Session
from qres_secagg.shamir import combine, encode

_DIMENSION: Final = 256
_UNIT: Final = 2**16
_VICTIM: Final = 9
_NODES: Final = 10
_MEASURE: Final = "cosine of what was reconstructed and the victim's update"
_LIMIT: Final = 0.5

Vectors = Mapping[int, NDArray[np.int32]]


class _Credulous(SessionMessages):
    """A board for which one statement is a quorum."""

    @property
    def quorum(self) -> int:
        """Whatever anybody says is agreed."""
        return 1


class _Swarm:
    """All nodes of a session, and whoever carries their messages."""

    def __init__(
        self,
        number: int,
        *,
        threshold: int = 7,
        corrupt: int = 2,
        board: type[SessionMessages] = SessionMessages,
    ) -> None:
        roster = tuple(
            sorted(NodeId(hashlib.sha256(b"gallery" + bytes([n])).digest()) for n in range(_NODES))
        )
        parameters = Parameters(
            dimension=_DIMENSION,
            k=_NODES - 1,
            t=threshold,
            acks=threshold + corrupt,
            corrupt=corrupt,
            min_survivors=4,
            bound=8 * _UNIT,
            summands=_NODES,
        )
        self.session = Session("gallery", number, bytes(32), roster, parameters)
        self.boards = {rank: board(self.session, node) for rank, node in enumerate(roster)}
        self.clients = {
            rank: Client(self.session, node, self.boards[rank], VolatileHistory())
            for rank, node in enumerate(roster)
        }
        self.masked: dict[int, Masked] = {}

    def send(self, kind: Kind, bodies: Mapping[int, bytes], to: Collection[int] = ()) -> None:
        for rank, body in bodies.items():
            for receiver in to or self.boards:
                if receiver != rank:
                    self.boards[receiver].receive(self.session.roster[rank], kind, body)

    def until_masked(self, vectors: Vectors) -> None:
        """Everybody's masked input is with everybody."""
        self.send(Kind.ADVERTISE, {i: client.advertise() for i, client in self.clients.items()})
        self.send(Kind.SHARE, {i: client.share() for i, client in self.clients.items()})
        for rank, client in self.clients.items():
            for kind, body in client.acknowledge():
                self.send(kind, {rank: body})
        listing = self.boards[0].compose()
        for rank, client in self.clients.items():
            self.boards[rank].adopt(listing)
            client.adopt(listing)
        self.masked = {rank: self.clients[rank].mask(row) for rank, row in vectors.items()}

    def digests(self, ranks: Collection[int]) -> dict[NodeId, bytes]:
        return {self.session.roster[rank]: self.masked[rank].digest for rank in ranks}

    def total(self, survivors: Collection[int]) -> NDArray[np.int64]:
        """The sum of the survivors' inputs, as every node computes it."""
        inputs = self.digests(survivors)
        self.send(Kind.STATEMENT, {i: client.state(inputs) for i, client in self.clients.items()})
        for board in self.boards.values():
            board.decide(inputs)
        self.send(Kind.UNMASK, {i: client.unmask() for i, client in self.clients.items()})
        adder = Aggregator(self.boards[0])
        for rank in survivors:
            adder.add(self.session.roster[rank], self.masked[rank].vector)
        return adder.finish()[0].total


# ── two rounds ────────────────────────────────────────────────────────────────────────────────


def _updates(seed: int, moved: float) -> tuple[Vectors, Vectors]:
    """Updates of two rounds: a common part, each node's own, and what changed in between."""
    rng = np.random.Generator(np.random.PCG64(seed))
    common = rng.normal(size=_DIMENSION)
    own = rng.normal(size=(_NODES, _DIMENSION))
    rounds: list[Vectors] = []
    for _round in range(2):
        rows = common + own + moved * rng.normal(size=own.shape)
        rows *= 0.1 * _UNIT
        rounds.append({rank: row.astype(np.int32) for rank, row in enumerate(rows)})
    return rounds[0], rounds[1]


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    left, right = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0


def _intersected(
    setting: GallerySetting, defence: str, *, moved: float, guarded: bool, control: bool = False
) -> GalleryOutcome:
    """All in the first sum, all but the victim in the second; the attacker takes the difference."""
    first, second = _updates(setting.seed, moved)
    swarm, two = _Swarm(1), _Swarm(2)
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
                _MEASURE,
                0.0,
                _LIMIT,
                detected=(Reason.ON_RECORD.value,),
                reason="nobody votes for the second set: it is without one node of a recorded one, "
                f"and {int(classes.least)} must be gone at once",
            )
    two.until_masked(second)
    mean = total / _NODES
    rest = total - two.total(survivors) - mean
    return GalleryOutcome.judged(
        defence,
        _MEASURE,
        round(_cosine(rest, first[_VICTIM] - mean), 6),
        _LIMIT,
        control=control,
        reason=f"the others' updates changed by {moved:g} of a node's own part between the rounds; "
        "the two sums are right, and their difference is the victim",
    )


def _plain(setting: GallerySetting) -> GalleryOutcome:
    first, _second = _updates(setting.seed, 0.0)
    found = _cosine(first[_VICTIM], first[_VICTIM])
    return GalleryOutcome.judged(
        "nothing", _MEASURE, round(found, 6), _LIMIT, control=True, reason="updates are in the open"
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


def _opened(swarm: _Swarm, inputs: Mapping[NodeId, bytes], half: Collection[int]) -> dict[int, int]:
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


def _alone(swarm: _Swarm, seed: int, secret: int) -> NDArray[np.int32]:
    """The victim's update, from its masked one and both of its secrets."""
    board, sid = swarm.boards[0], swarm.session.sid
    values = swarm.masked[_VICTIM].vector.copy()
    me, pair = swarm.session.roster[_VICTIM], KeyPair(secret)
    keys = [(self_key(encode(seed), sid, me), -1)]
    for other in board.partners(_VICTIM):
        public, name = board.advert(other).mask, swarm.session.roster[other]
        key = pair_key(pair.exchange(public), sid, (me, pair.public), (name, public))
        keys.append((key, -1 if other > _VICTIM else 1))
    apply(values, keys)
    return values.view(np.int32)


def _split(
    setting: GallerySetting,
    defence: str,
    *,
    threshold: int,
    corrupt: int,
    board: type[SessionMessages],
) -> GalleryOutcome:
    vectors, _second = _updates(setting.seed, 0.0)
    swarm = _Swarm(1, threshold=threshold, corrupt=corrupt, board=board)
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
        found = _cosine(_alone(swarm, secrets_[0], secrets_[1]), vectors[_VICTIM])
    return GalleryOutcome.judged(
        defence,
        _MEASURE,
        round(found, 6),
        _LIMIT,
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
)
"""Entry point of the group ``qres.gallery``."""
