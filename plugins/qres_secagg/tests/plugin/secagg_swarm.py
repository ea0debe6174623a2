"""Nodes with the plugin in one process, their messages carried and tampered with at will.

As the round machine does, the harness keeps what arrived and brings it to nodes that lack it, from
any node that holds it, while time passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import numpy as np
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import Secagg
from qres_secagg.attempts import Attempts
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.messages import Kind

from qres_core import (
    Accusation,
    Contribution,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
)
from qres_core.dialogues import DialogueMessage, Revelation, Send, VoidSet

Carry = Callable[[bytes, bytes, Send], Send | None]
"""From sender, receiver and what is sent: what arrives, if anything."""


Relay = Callable[[bytes, bytes, bytes, Send], bool]
"""Whether what one node holds reaches another that lacks it: holder, receiver, author, message."""
Held = dict[tuple[bytes, int, bytes], Send]
"""By author, step and body."""


def faithful(_sender: bytes, _receiver: bytes, send: Send) -> Send | None:
    return send


@attrs.frozen
class Earlier:
    """What was contributed to a round that ended without a decision."""

    info: RoundInfo
    sent: dict[bytes, Contribution]


@attrs.define
class PluginSwarm:
    """``n`` nodes; time stands still until :meth:`pass_time`."""

    n: int
    options: dict[str, Any] = attrs.field(factory=dict)
    byzantine: int = 0
    dimension: int = 17
    carry: Carry = faithful
    relay: Relay = lambda _holder, _receiver, _author, _send: True
    prepare: Callable[[PluginSwarm], None] = lambda _swarm: None
    folders: Mapping[bytes, str] | None = None
    number: int = attrs.field(init=False, default=0)
    now: float = attrs.field(init=False, default=1000.0)
    away: set[bytes] = attrs.field(init=False, factory=set)
    model: bytes = attrs.field(init=False, default=b"")  # empty: that of ``make_round_info``
    members: tuple[bytes, ...] = attrs.field(init=False, default=())  # empty: ``n`` nodes
    head: bytes = attrs.field(init=False, default=b"")  # empty: that of ``make_round_info``
    accused: list[tuple[bytes, str]] = attrs.field(init=False, factory=list)
    plugins: dict[bytes, Secagg] = attrs.field(init=False, factory=dict)
    dialogues: dict[bytes, SecaggDialogue] = attrs.field(init=False, factory=dict)
    rounds: dict[bytes, Attempts] = attrs.field(init=False, factory=dict)
    sent: dict[bytes, Contribution] = attrs.field(init=False, factory=dict)
    held: dict[int, dict[bytes, Held]] = attrs.field(init=False, factory=dict)
    origin: dict[bytes, int] = attrs.field(init=False, factory=dict)
    turn: int = attrs.field(init=False, default=0)
    height: int = attrs.field(init=False, default=0)
    step: int = attrs.field(init=False, default=0)
    void_sets: tuple[VoidSet, ...] = attrs.field(init=False, default=())
    mismatches: int = attrs.field(init=False, default=0)
    chosen: tuple[bytes, ...] = attrs.field(init=False, default=())  # who was decided on last
    info: RoundInfo = attrs.field(init=False)
    queue: deque[tuple[bytes, bytes, Send]] = attrs.field(init=False, factory=deque)

    def __attrs_post_init__(self) -> None:
        self._set_up(self.roster)

    def _set_up(self, nodes: Collection[bytes]) -> None:
        for node in nodes:
            self.plugins[node] = Secagg(**self.options)
            folder = None if self.folders is None else self.folders[node]
            self.plugins[node].setup(
                NodeInfo(node, "testing", self.roster, self.byzantine, data_dir=folder)
            )

    def change(self, members: Collection[bytes]) -> None:
        """From the next round on these are the members; who is new is set up."""
        self.members = tuple(sorted(members))
        self.n = len(self.members)
        self._set_up([node for node in self.members if node not in self.plugins])

    @property
    def roster(self) -> tuple[bytes, ...]:
        return self.members or make_node_ids(self.n)

    @property
    def leader(self) -> bytes:
        return self.roster[self.number % self.n]

    def others(self) -> list[bytes]:
        return [node for node in self.roster if node not in self.away]

    # ── time and messages ─────────────────────────────────────────────────────────────────────

    def emit(self, sender: bytes, sends: Collection[Send | Accusation]) -> None:
        for send in sends:
            if isinstance(send, Accusation):
                self.accused.append((send.subject, str(send.fact)))
                continue
            self._held(sender)[sender, send.step, send.body] = send
            for receiver in self.roster if send.to is None else (send.to,):
                if receiver != sender:
                    self.queue.append((sender, receiver, send))

    def deliver(self) -> None:
        while self.queue:
            sender, receiver, send = self.queue.popleft()
            if sender in self.away or receiver in self.away:
                continue
            arrived = self.carry(sender, receiver, send)
            if arrived is not None and receiver in self.rounds:
                self._arrive(sender, receiver, arrived, self.number)

    def _held(self, node: bytes, number: int | None = None) -> Held:
        return self.held.setdefault(number or self.number, {}).setdefault(node, {})

    def _arrive(self, author: bytes, receiver: bytes, send: Send, number: int) -> None:
        held, key = self._held(receiver, number), (author, send.step, send.body)
        if key not in held:
            held[key] = send
            message = DialogueMessage(author, send.step, send.body, send.to, number)
            self.emit(receiver, self.rounds[receiver].receive(message))

    def bring(self) -> None:
        """Every node gets from two others what they hold and it lacks."""
        self.turn += 2
        for index, node in enumerate(self.roster):
            holders = [self.roster[(index + self.turn + step) % self.n] for step in range(2)]
            for holder in holders:
                if {holder, node} <= set(self.others()) and node in self.rounds:
                    self._bring(holder, node)

    def _bring(self, holder: bytes, node: bytes) -> None:
        for number in {self.number, self.origin.get(node, self.number)}:
            for (author, _step, _body), send in list(self._held(holder, number).items()):
                wanted = holder != node and send.to in (None, node)
                if wanted and self.relay(holder, node, author, send):
                    self._arrive(author, node, send, number)

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(max(1, int(seconds / step))):
            self.now += step
            for node in self.others():
                if node in self.rounds:
                    self.emit(node, self.rounds[node].tick(self.now))
            self.deliver()
            self.bring()
            self.deliver()

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def open(self, *, seconds: float = 1.0) -> PluginSwarm:
        self.number += 1
        made = make_round_info(self.dimension, nodes=self.n, number=self.number)
        self.info = attrs.evolve(
            made,
            byzantine=self.byzantine,
            roster=self.roster,
            head=self.head or (self.height.to_bytes(32, "big") if self.height else made.head),
            height=self.height,
            step=self.step,
            void_sets=self.void_sets,
            mismatches=self.mismatches,
            model_digest=self.model or made.model_digest,
        )
        self.rounds, self.dialogues, self.sent, self.origin = {}, {}, {}, {}
        for node in self.others():
            opened = self.plugins[node].round_opened(self.info)
            assert isinstance(opened, Attempts)
            self.rounds[node], self.dialogues[node] = opened, opened.own
        self.prepare(self)
        for node, opened in self.rounds.items():
            self.emit(node, opened.start())
        self.deliver()
        self.pass_time(seconds)
        return self

    def ready(self) -> list[bytes]:
        return [node for node in self.others() if self.rounds[node].ready]

    def contribute(self, updates: Mapping[bytes, Update]) -> PluginSwarm:
        """Everybody in ``updates`` masks and sends."""
        for node, update in updates.items():
            self.publish(node, self.plugins[node].privatize(update, self.info))
        return self

    def publish(self, node: bytes, made: Update) -> None:
        self.sent[node] = Contribution(
            node, node[::-1], made.vector, made.weight, {}, made.companions
        )

    def decide(self, members: Collection[bytes] | None = None) -> PluginSwarm:
        for node in self.others():
            self.tell(node, members)
        self.deliver()
        return self

    def revealable(self, members: Collection[bytes] | None = None) -> tuple[bytes, ...]:
        """Whom the plugin would have revealed together of those that contributed."""
        chosen = tuple(sorted(self.sent if members is None else members))
        contributions = tuple(self.sent[node] for node in chosen)
        (found,) = {
            self.plugins[node].revealable(contributions, self.info) for node in self.others()
        }
        return found

    def abort(self) -> Earlier:
        """The round ends without a decision; what was sent in it may be decided on later."""
        made = Earlier(self.info, dict(self.sent))
        self._close(RoundStatus.ABORTED)
        return made

    def decide_earlier(self, made: Earlier, members: Collection[bytes] | None = None) -> None:
        """Everybody is told that a set of an earlier round was agreed on."""
        for node in self.others():
            self.tell_earlier(node, made, members)
        self.deliver()

    def tell_earlier(
        self, node: bytes, made: Earlier, members: Collection[bytes] | None = None
    ) -> None:
        chosen = self.chosen = tuple(sorted(made.sent if members is None else members))
        contributions = tuple(made.sent[item] for item in chosen)
        self.emit(node, self.rounds[node].decided(chosen, contributions, made.info))
        number = self.origin[node] = made.info.number
        for (author, step, body), send in list(self._held(node, number).items()):
            message = DialogueMessage(author, step, body, send.to, number)
            self.emit(node, self.rounds[node].receive(message))

    def tell(
        self,
        node: bytes,
        members: Collection[bytes] | None = None,
        instead: Mapping[bytes, Contribution] | None = None,
        info: RoundInfo | None = None,
    ) -> None:
        """Tell one node what was agreed; ``instead``, and of another round, if it is lied to."""
        chosen = self.chosen = tuple(sorted(self.sent if members is None else members))
        agreed = {**self.sent, **(instead or {})}
        contributions = tuple(agreed[item] for item in chosen)
        told = self.rounds[node].decided(chosen, contributions, info or self.info)
        self.emit(node, told)

    def reveal(
        self,
        node: bytes,
        members: Collection[bytes] | None = None,
        earlier: Earlier | None = None,
    ) -> Revelation:
        sent = self.sent if earlier is None else earlier.sent
        chosen = tuple(sorted(sent if members is None else members))
        contributions = tuple(sent[item] for item in chosen)
        masked = Updates(
            np.stack([contribution.vector for contribution in contributions]),
            chosen,
            np.array([contribution.weight for contribution in contributions], dtype=np.int64),
        )
        info = self.info if earlier is None else earlier.info
        return self.plugins[node].reveal(masked, contributions, info)

    def close(self, code: str = "") -> None:
        """The height ends: with a new model, or without one for the reason of that code."""
        self.height += 1
        if code:
            decided = VoidSet(self.roster, self.roster, self.chosen, self.mismatches)
            self.void_sets = tuple(dict.fromkeys((*self.void_sets, decided)))
            self.mismatches += code == "QRES-E508"
        else:
            self.void_sets, self.mismatches, self.step = (), 0, self.step + 1
        self._close(RoundStatus.VOID if code else RoundStatus.CLOSED, code)

    def _close(self, status: RoundStatus, code: str = "") -> None:
        for plugin in self.plugins.values():
            plugin.round_closed(Outcome(self.info, status, bytes(32), code=code))

    def finished(self) -> list[bytes]:
        return [node for node in self.others() if self.rounds[node].finished]

    def random_updates(
        self, seed: int = 0, *, limit: int = 1 << 18, nodes: Collection[bytes] | None = None
    ) -> dict[bytes, Update]:
        rng = np.random.default_rng((seed, self.number))
        return {
            node: Update(
                rng.integers(-limit, limit + 1, self.dimension, dtype=np.int32),
                weight=int(rng.integers(1, 50)),
            )
            for node in (self.ready() if nodes is None else nodes)
        }


def recorded(swarm: PluginSwarm, step: Kind) -> list[tuple[bytes, bytes]]:
    """Sender and body of every message of a kind that is sent from now on."""
    found: list[tuple[bytes, bytes]] = []

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        if send.step == step:
            found.append((sender, send.body))
        return send

    swarm.carry = carry
    return found


def plain_sum(updates: Mapping[bytes, Update], members: Collection[bytes]) -> np.ndarray:
    """The oracle: integers, added up."""
    return np.sum([updates[member].vector.astype(np.int64) for member in members], axis=0)


def half_even(total: np.ndarray, weight: int) -> np.ndarray:
    """The oracle: exact fractions, rounded half to even by Python."""
    from fractions import Fraction  # noqa: PLC0415

    return np.array([round(Fraction(int(number), weight)) for number in total])
