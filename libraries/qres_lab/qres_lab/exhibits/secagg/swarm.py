"""All roles of a session in one process, and the figures by which its exhibits are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from qres_secagg.aggregator import Aggregator, GroupSum
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, Masked, Phase, VolatileHistory
from qres_secagg.failure import SecaggError
from qres_secagg.messages import Kind
from qres_secagg.parameters import Parameters
from qres_secagg.session import Session

from qres_core import NodeId

DIMENSION: Final = 256
UNIT: Final = 2**16
MEASURE: Final = "cosine of what was reconstructed and the victim's update"
LIMIT: Final = 0.5

Vectors = Mapping[int, NDArray[np.int32]]
Reaches = Callable[[int, int], bool]
"""Whether what one node says reaches another, by rank."""


def everybody(_sender: int, _receiver: int) -> bool:
    """A network that loses nothing."""
    return True


def session_of(nodes: int, number: int = 1, **parameters: Any) -> Session:
    """A session of so many nodes: complete graph and one sum, but for what is given."""
    roster = tuple(
        sorted(NodeId(hashlib.sha256(b"gallery" + bytes([n])).digest()) for n in range(nodes))
    )
    given: dict[str, Any] = {"corrupt": 0, "t": nodes // 2 + 1, **parameters}
    values: dict[str, Any] = {
        "dimension": DIMENSION,
        "k": nodes - 1,
        "acks": given["t"] + given["corrupt"],
        "min_survivors": max(3, given["corrupt"] + 2),
        "bound": 8 * UNIT,
        "summands": nodes,
        **given,
    }
    return Session("gallery", number, bytes(32), roster, Parameters(**values))


class ExhibitSwarm:
    """All nodes of a session, and whoever carries their messages.

    Args:
        session: the session.
        board: what all nodes run as the public side, with or without its checks.
        clients: what single nodes run as the secret side, by rank.
        reaches: who hears whom while keys and shares are exchanged.
        hand_on: whether nodes then hand on what they heard, as the round machine does.
    """

    def __init__(
        self,
        session: Session,
        *,
        board: type[SessionMessages] = SessionMessages,
        clients: Mapping[int, type[Client]] | None = None,
        reaches: Reaches = everybody,
        hand_on: bool = True,
    ) -> None:
        kinds: Mapping[int, type[Client]] = clients or {}
        self.session, self._reaches, self._hand_on = session, reaches, hand_on
        self.boards = {rank: board(session, node) for rank, node in enumerate(session.roster)}
        self.clients = {
            rank: kinds.get(rank, Client)(session, node, self.boards[rank], VolatileHistory())
            for rank, node in enumerate(session.roster)
        }
        self.masked: dict[int, Masked] = {}

    def send(
        self, kind: Kind, bodies: Mapping[int, bytes], *, reaches: Reaches = everybody
    ) -> None:
        """Have messages of a kind, one a node, arrive at all others that they reach."""
        for rank, body in bodies.items():
            for receiver, board in self.boards.items():
                if receiver != rank and reaches(rank, receiver):
                    board.receive(self.session.roster[rank], kind, body)

    def _exchange(self, kind: Kind, bodies: Mapping[int, bytes]) -> None:
        self.send(kind, bodies, reaches=self._reaches)
        if self._hand_on:
            self.send(kind, bodies)

    def until_listed(self, *, leader: int = 0) -> None:
        """Keys and shares are exchanged and checked; who can, has adopted the leader's list.

        Raises SecaggError: ``BELOW_THRESHOLD``, the leader can list too few.
        """
        self._exchange(Kind.ADVERTISE, {i: self.clients[i].advertise() for i in self.clients})
        self._exchange(Kind.SHARE, {i: self.clients[i].share() for i in self.clients})
        for rank, client in self.clients.items():
            for kind, body in client.acknowledge():
                self._exchange(kind, {rank: body})
        listing = self.boards[leader].compose()
        for rank, client in self.clients.items():
            board = self.boards[rank]
            try:
                board.adopt(listing)
                if rank in board.listed().members:
                    client.adopt(listing)
            except SecaggError:  # it lacks what the list names, and sits the round out
                continue

    @property
    def taking_part(self) -> list[int]:
        """Ranks of the nodes that are listed and have stated nothing yet."""
        phases = (Phase.LISTED, Phase.MASKED)
        return [i for i, client in self.clients.items() if client.phase in phases]

    def until_masked(self, vectors: Vectors) -> None:
        """Everybody's masked input is with everybody, of those that are listed."""
        self.until_listed()
        ready = set(self.taking_part)
        self.masked = {i: self.clients[i].mask(row) for i, row in vectors.items() if i in ready}

    def digests(self, ranks: Iterable[int]) -> dict[NodeId, bytes]:
        """The masked inputs of some nodes, as a set that is agreed on names them."""
        return {self.session.roster[rank]: self.masked[rank].digest for rank in ranks}

    def rings(self, ranks: Iterable[int]) -> dict[int, NDArray[Any]]:
        """The masked inputs of some nodes."""
        return {rank: self.masked[rank].vector for rank in ranks}

    def open(self, survivors: Collection[int], speakers: Collection[int] | None = None) -> None:
        """A set is agreed on, stated and opened.

        ``speakers``: who states and opens, all that take part if left out. Raises SecaggError: a
        node refuses the set, or too few stated it.
        """
        said = self.taking_part if speakers is None else speakers
        inputs = self.digests(survivors)
        self.send(Kind.STATEMENT, {i: self.clients[i].state(inputs) for i in said})
        for board in self.boards.values():
            if board.listing is not None:
                board.decide(inputs)
        self.send(Kind.UNMASK, {i: self.clients[i].unmask() for i in said})

    def sums(self, *, seen_by: int = 0) -> tuple[GroupSum, ...]:
        """The opened sums, as a node computes them. Raises SecaggError: they cannot be opened."""
        board = self.boards[seen_by]
        adder = Aggregator(board)
        for rank in board.decided().survivors.digests:
            adder.add(self.session.roster[rank], self.masked[rank].vector)
        return adder.finish()

    def total(self, survivors: Collection[int]) -> NDArray[np.int64]:
        """The one sum of the survivors' inputs."""
        self.open(survivors)
        return self.sums()[0].total


def updates(seed: int, nodes: int) -> Vectors:
    """An update of each node: a common part, and its own."""
    rng = np.random.Generator(np.random.PCG64(seed))
    common = rng.normal(size=DIMENSION)
    rows = 0.1 * UNIT * (common + rng.normal(size=(nodes, DIMENSION)))
    return {rank: row.astype(np.int32) for rank, row in enumerate(rows)}


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of the angle between two vectors; 0 where one is zero."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0
