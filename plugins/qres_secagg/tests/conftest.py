"""A swarm of the protocol's roles in one process, with an adversary between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg.aggregator import Aggregator, GroupSum
from qres_secagg.board import SessionMessages
from qres_secagg.chances import needed_inputs
from qres_secagg.client import Client, Masked, VolatileHistory
from qres_secagg.masks import Residues
from qres_secagg.messages import Kind
from qres_secagg.parameters import Parameters
from qres_secagg.session import Session

Tamper = Callable[[int, int, bytes], bytes | None]
"""From the ranks of sender and receiver and a body, the body that arrives, if any."""


def honest(_sender: int, _receiver: int, body: bytes) -> bytes | None:
    return body


def parameters(n: int = 8, **changes: Any) -> Parameters:
    """Complete graph, one group, a generous bound."""
    values: dict[str, Any] = {
        "dimension": 20,
        "k": n - 1,
        "t": n // 2 + 1,
        "acks": None,
        "corrupt": 0,
        "min_survivors": needed_inputs(changes.get("corrupt", 0)),
        "bound": 1 << 20,
        "summands": n,
    }
    values |= changes
    values["acks"] = values["acks"] or values["t"]
    return Parameters(**values)


def session(n: int = 8, *, number: int = 7, level: int = 0, **changes: Any) -> Session:
    roster = tuple(sorted(bytes([i]) * 32 for i in range(1, n + 1)))
    return Session("swarm", number, b"m" * 32, roster, parameters(n, **changes), level=level)


@attrs.define
class Swarm:
    """All nodes by rank, each with a board of its own."""

    session: Session
    histories: dict[int, VolatileHistory] = attrs.field(factory=dict)
    boards: dict[int, SessionMessages] = attrs.field(init=False, factory=dict)
    clients: dict[int, Client] = attrs.field(init=False, factory=dict)
    inputs: dict[int, np.ndarray] = attrs.field(init=False, factory=dict)
    masked: dict[int, Masked] = attrs.field(init=False, factory=dict)
    sent: dict[tuple[int, Kind], bytes] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        for rank, node in enumerate(self.session.roster):
            board = SessionMessages(self.session, node)
            history = self.histories.setdefault(rank, VolatileHistory())
            self.boards[rank] = board
            self.clients[rank] = Client(self.session, node, board, history)

    def node(self, rank: int) -> bytes:
        return self.session.roster[rank]

    @property
    def everybody(self) -> list[int]:
        return list(range(len(self.session.roster)))

    def send(self, kind: Kind, bodies: Mapping[int, bytes], tamper: Tamper = honest) -> None:
        for sender, body in bodies.items():
            self.sent[sender, kind] = body
            for receiver, board in self.boards.items():
                if receiver != sender:
                    arrived = tamper(sender, receiver, body)
                    if arrived is not None:
                        board.receive(self.node(sender), kind, arrived)

    def advertise(self, ranks: Collection[int] | None = None, tamper: Tamper = honest) -> None:
        ranks = self.everybody if ranks is None else ranks
        self.send(Kind.ADVERTISE, {i: self.clients[i].advertise() for i in ranks}, tamper)

    def share(self, ranks: Collection[int] | None = None, tamper: Tamper = honest) -> None:
        ranks = self.everybody if ranks is None else ranks
        self.send(Kind.SHARE, {i: self.clients[i].share() for i in ranks}, tamper)
        self.acknowledge(ranks)

    def acknowledge(self, ranks: Collection[int] | None = None, tamper: Tamper = honest) -> None:
        for rank in self.everybody if ranks is None else ranks:
            for kind, body in self.clients[rank].acknowledge():
                self.send(kind, {rank: body}, tamper)

    def list(self, leader: int = 0) -> bytes:
        """All nodes adopt the leader's list, those it names as clients."""
        body = self.boards[leader].compose()
        for rank in self.everybody:
            self.boards[rank].adopt(body)
            if rank in self.boards[rank].listed().members:
                self.clients[rank].adopt(body)
        return body

    def mask(
        self,
        ranks: Collection[int] | None = None,
        residues: Mapping[int, Mapping[str, Residues]] | None = None,
        vectors: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        limit = self.session.parameters.bound
        for rank in self.listed if ranks is None else ranks:
            draw = np.frombuffer(os.urandom(8 * self.session.parameters.dimension), np.uint64)
            spread = (draw % np.uint64(2 * limit + 1)).astype(np.int64) - limit
            vector = spread.astype(np.int32) if vectors is None else vectors[rank]
            self.inputs[rank] = vector
            beside = {} if residues is None else residues[rank]
            self.masked[rank] = self.clients[rank].mask(vector, beside)

    @property
    def listed(self) -> list[int]:
        return sorted(self.boards[0].listed().members)

    def digests(self, ranks: Collection[int]) -> dict[bytes, bytes]:
        return {self.node(rank): self.masked[rank].digest for rank in ranks}

    def state(
        self,
        survivors: Collection[int] | None = None,
        speakers: Collection[int] | None = None,
        tamper: Tamper = honest,
    ) -> None:
        survivors = list(self.masked) if survivors is None else survivors
        speakers = self.listed if speakers is None else speakers
        inputs = self.digests(survivors)
        bodies = {rank: self.clients[rank].state(inputs) for rank in speakers}
        self.send(Kind.STATEMENT, bodies, tamper)
        for rank in self.everybody:
            self.boards[rank].decide(inputs)

    def unmask(self, ranks: Collection[int] | None = None, tamper: Tamper = honest) -> None:
        ranks = self.listed if ranks is None else ranks
        self.send(Kind.UNMASK, {i: self.clients[i].unmask() for i in ranks}, tamper)

    def sums(self, rank: int = 0, **options: Any) -> tuple[GroupSum, ...]:
        """What a node computes."""
        aggregator = Aggregator(self.boards[rank], **options)
        for survivor in self.boards[rank].decided().survivors.digests:
            sent = self.masked[survivor]
            aggregator.add(self.node(survivor), sent.vector, sent.residues)
        return aggregator.finish()

    def plain(self, members: Collection[bytes]) -> np.ndarray:
        """The plain sum, modulo nothing."""
        ranks = [self.session.rank[node] for node in members]
        return np.sum([self.inputs[rank].astype(np.int64) for rank in ranks], axis=0)

    def until_masked(self) -> Swarm:
        self.advertise()
        self.share()
        self.list()
        self.mask()
        return self

    def run(self) -> Swarm:
        self.until_masked()
        self.state()
        self.unmask()
        return self


def chi_square(octets: bytes) -> float:
    """Of the bytes against uniform, in standard deviations from its mean of 255."""
    counts = np.bincount(np.frombuffer(octets, np.uint8), minlength=256)
    expected = len(octets) / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - 255) / np.sqrt(2 * 255)


@pytest.fixture(name="make_session")
def _make_session() -> Callable[..., Session]:
    return session


@pytest.fixture(name="make_parameters")
def _make_parameters() -> Callable[..., Parameters]:
    return parameters


@pytest.fixture(name="make_swarm")
def _make_swarm() -> Callable[..., Swarm]:
    """A swarm of a session; ``histories`` by rank where they outlive it."""

    def make(
        n: int = 8, *, histories: dict[int, VolatileHistory] | None = None, **changes: Any
    ) -> Swarm:
        return Swarm(session(n, **changes), {} if histories is None else histories)

    return make


@pytest.fixture(name="deviation")
def _deviation() -> Callable[[bytes], float]:
    return chi_square
