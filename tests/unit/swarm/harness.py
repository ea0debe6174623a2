"""A swarm of round machines in one process, with every message in the test's hands.

Time is virtual. A :data:`Rule` sees each message on its way from one node to another and says what
arrives, and when: nothing, the frame later, the frame twice, another frame. Nodes have keys of
their own, so that what one signs no other can.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_lab.testing import make_node_ids

from qres_core import (
    ACCEPT,
    Accusation,
    Blame,
    Claims,
    Contribution,
    Envelope,
    Evidence,
    Fault,
    NodeId,
    NodeInfo,
    Outcome,
    Reads,
    RoundInfo,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    model_digest,
    reject,
)
from qres_core.builtin.mean import Mean, weighted_mean
from qres_core.builtin.memory import Memory
from qres_core.claims import Verifies
from qres_core.contract import canonical
from qres_core.dialogues import Dialogue, VoidSet
from qres_core.errors import RoundError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.effects import (
    Diverged,
    Effect,
    RoundEnded,
)
from qres_core.swarm.context.lateness import Lateness
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    Certificate,
    ContributionBody,
    Proposal,
    contribution_digest,
    decode_vote,
    encode_vote,
)
from qres_core.swarm.ledger.roster import Action, RosterChange
from qres_core.swarm.machine.resuming import known_roster
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.members.pending_changes import PendingChanges
from qres_core.swarm.runtime.driver import Driver, Ports
from qres_core.swarm.storage.journal import SEQUENCE_BLOCK, JournalEntry, Resume
from qres_core.training import HeldOut, Screening

NAME = "ward"
DIMENSION = 3
START = 1000.0
DELAY = 0.01
TRAINING = 0.05
DEADLINE = 1.0
VOTE_TIMEOUT = 0.5
MAX_EVENTS = 60_000


# ── toy plugins ───────────────────────────────────────────────────────────────────────────────────


def sign(node_id: NodeId, envelope: Envelope) -> Envelope:
    """The envelope with the tag that only ``node_id`` is supposed to make."""
    key = hashlib.sha256(b"key" + node_id).digest()
    return envelope.with_auth({"mac": hmac.digest(key, envelope.signing_digest, "sha256")})


@attrs.define
class Mac:
    """Each node has a key; the toy's verifiers are trusted with all keys."""

    _own: NodeId = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return sign(self._own, envelope).auth["mac"]

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        expected = sign(envelope.sender, envelope).auth["mac"]
        if hmac.compare_digest(expected, envelope.auth.get("mac", b"")):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


@attrs.define
class Fresh:
    """Every sequence number of a sender once, in any order."""

    _seen: set[tuple[NodeId, int]] = attrs.field(factory=set, init=False)

    @hookimpl
    def replay_check(self, envelope: Envelope) -> Verdict:
        key = envelope.sender, envelope.sequence
        if key in self._seen:
            return reject(Fault.REPLAYED, blame=Blame.LINK)
        self._seen.add(key)
        return ACCEPT


@attrs.define
class Witness:
    """Writes down what the life-cycle and evidence hooks are told."""

    opened: list[RoundInfo] = attrs.field(factory=list, init=False)
    closed: list[Outcome] = attrs.field(factory=list, init=False)
    evidence: list[Evidence] = attrs.field(factory=list, init=False)
    order: list[tuple[str, int]] = attrs.field(factory=list, init=False)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        self.opened.append(round_info)
        self.order.append(("opened", round_info.number))

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        self.closed.append(outcome)
        self.order.append(("closed", outcome.round_info.number))

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.evidence.append(evidence)


@attrs.define
class FlippedMean(Mean):
    """The mean with the lowest bit of the first coordinate flipped: a broken machine."""

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        merged = weighted_mean(updates.vectors, updates.weights).copy()
        merged[0] ^= 1
        return merged


@attrs.frozen
class Nearest:
    """The update with the least sum of squared distances to the others; of equal ones the first."""

    claims: ClassVar[Claims] = Claims(tolerates=None, reads=Reads.PRODUCTS)

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> int:
        distances = [
            sum((a - b) ** 2 for other in rows for a, b in zip(row, other, strict=True))
            for row in rows
        ]
        return distances.index(min(distances))

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        products = updates.products
        if products is None:
            chosen = self.of(updates.vectors.tolist())
        else:
            n = len(updates)
            sums = [n * products[i, i] - 2 * products[i].sum() for i in range(n)]
            chosen = sums.index(min(sums))
        row: Vector = updates.vectors[chosen]
        return row


@attrs.frozen
class Tamed:
    """A wrapper: the longest update counts half, towards zero; of equally long ones the first."""

    claims: ClassVar[Claims] = Claims(tolerates=None, reads=Reads.PRODUCTS)

    @staticmethod
    def of(rows: NDArray[np.int32], longest: int) -> NDArray[np.int32]:
        changed = rows.copy()
        changed[longest] = np.trunc(rows[longest] / 2).astype(np.int32)
        return changed

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        longest = int(np.argmax(updates.inner_products().diagonal()))
        return proceed(attrs.evolve(updates, vectors=self.of(updates.vectors, longest)))


@attrs.frozen
class Uneven:
    """A wrapper that breaks its word: it leaves out rows by what a range of coordinates has."""

    claims: ClassVar[Claims] = Claims(tolerates=None, reads=Reads.COORDINATES)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        return proceed(updates.take(np.flatnonzero(updates.vectors[:, 0] >= 0)))


@attrs.frozen
class Twice:
    """A wrapper that comes to the rule as often as it is told."""

    claims: ClassVar[Claims] = Claims(tolerates=None, reads=Reads.COORDINATES)

    times: int = 2

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        found: Vector = updates.vectors[0]
        for _ in range(self.times):
            found = proceed(updates)
        return found


@attrs.define
class Checksum:
    """Proves that the vector is small and bound to the model."""

    name: ClassVar[str] = "checksum"
    checked: int = attrs.field(init=False, default=0)

    claims: ClassVar[Claims] = Claims(tolerates=None)

    @staticmethod
    def of(vector: Vector, model: bytes) -> bytes:
        return hashlib.sha256(model + vector.tobytes()).digest()

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        return self.of(update.vector, round_info.model_digest)

    @hookimpl
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        self.checked += 1
        expected = self.of(contribution.vector, round_info.model_digest)
        if contribution.proofs.get(self.name) == expected:
            return ACCEPT
        return reject("bad-proof", blame=Blame.SENDER)


@attrs.define
class Bulk(Checksum):
    """The same, and checks many at once."""

    name: ClassVar[str] = "bulk"
    claims: ClassVar[Claims] = Claims(tolerates=None, verifies=Verifies(transferable=True))
    sizes: list[int] = attrs.field(init=False, factory=list[int])

    @hookimpl
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> list[Verdict]:
        self.sizes.append(len(contributions))
        return [self.verify(contribution, round_info) for contribution in contributions]


@attrs.define
class Talk:
    """Opens the dialogue that the test has put in :attr:`script`, by node."""

    script: ClassVar[Callable[[NodeId, RoundInfo], Dialogue | None] | None] = None
    dialogues: list[Any] = attrs.field(factory=list, init=False)
    calls: list[tuple[str, bool, bool]] = attrs.field(factory=list, init=False)
    _own: NodeId = attrs.field(default=b"", init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue | None:
        script = type(self).script
        assert script is not None
        dialogue = script(self._own, round_info)
        self.dialogues.append(dialogue)
        return dialogue

    @hookimpl
    def privatize(self, update: Update) -> Update:
        dialogue = self.dialogues[-1]
        self.calls.append(("privatize", dialogue.ready, dialogue.finished))
        return update

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        dialogue = self.dialogues[-1]
        self.calls.append(("reveal", dialogue.ready, dialogue.finished))
        return updates


Senders = tuple[NodeId, ...]


@attrs.define
class Opener:
    """Has revealed what the test's script allows, and reveals what it does not refuse."""

    allows: ClassVar[Callable[[NodeId, Senders, RoundInfo], Senders] | None] = None
    refuses: ClassVar[Callable[[Senders, RoundInfo], str] | None] = None
    told: dict[int, tuple[VoidSet, ...]] = attrs.field(factory=dict, init=False)  # by height
    _own: NodeId = attrs.field(default=b"", init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        self.told[round_info.height] = round_info.void_sets

    @hookimpl
    def revealable(self, contributions: tuple[Contribution, ...], round_info: RoundInfo) -> Senders:
        senders = tuple(item.sender for item in contributions)
        script = type(self).allows
        return senders if script is None else script(self._own, senders, round_info)

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates:
        script = type(self).refuses
        senders = tuple(item.sender for item in contributions)
        code = "" if script is None else script(senders, round_info)
        if code:
            raise RoundError.of(code, "opener", "refused")
        return updates


@attrs.frozen
class Judge:
    """A trainer's half that judges: held-out loss of a model, by node."""

    loss: Callable[[int, Vector], float]
    index: int

    def validate(self, vector: Vector) -> float:
        return self.loss(self.index, vector)


@attrs.define
class Critic:
    """Leaves out, and votes against, what makes the held-out loss positive."""

    judged: list[str] = attrs.field(factory=list, init=False)
    _merged: list[list[int]] = attrs.field(factory=list, init=False)  # what it checked
    broken: str = ""
    share: int | None = None
    screens: bool = True  # whether it asks the trainer when it screens

    def _raise(self, hook: str) -> None:
        self.judged.append(hook)
        if self.broken == hook:
            raise ZeroDivisionError(hook)

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut) -> Screening:
        self._raise("screen")
        against = tuple(
            Accusation(sender, "harmful")
            for sender, row in zip(updates.senders, updates.vectors, strict=True)
            if self.screens and held_out.loss_with(row) > 0
        )
        first = updates.senders[0]
        shares = {} if self.share is None else {first: self.share}
        return Screening(against, shares, self._check)

    def _check(self, merged: Vector) -> None:
        self._merged.append(merged.tolist())
        self._raise("check")

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        self._raise("endorse")
        return reject("worse") if held_out.loss_with(merged) > 0 else ACCEPT


INSTALLED = {
    name: Installed.local(name, factory)
    for name, factory in {
        "memory": Memory,
        "mac": Mac,
        "fresh": Fresh,
        "witness": Witness,
        "mean": Mean,
        "nearest": Nearest,
        "tamed": Tamed,
        "uneven": Uneven,
        "twice": Twice,
        "checksum": Checksum,
        "bulk": Bulk,
        "talk": Talk,
        "opener": Opener,
        "critic": Critic,
    }.items()
}


# ── memory that survives ──────────────────────────────────────────────────────────────────────────


@attrs.define
class Notebook:
    """A journal whose entries outlive the machine that made them."""

    folder: None = None
    model: Vector | None = None
    head: Head | None = None
    links: tuple[Link, ...] = ()
    settings: bytes = b""
    lock: JournalEntry | None = None
    chosen: JournalEntry | None = None
    outcome_lock: bytes | None = None
    made: Vector | None = None
    votes: list[tuple[int, str, bytes | None]] = attrs.field(factory=list)
    ballots: dict[tuple[int, str], bytes] = attrs.field(factory=dict)
    models: dict[int, bytes] = attrs.field(factory=dict)
    heads: dict[int, bytes] = attrs.field(factory=dict)
    sets: dict[int, bytes] = attrs.field(factory=dict)
    next_sequence: int = 0
    initial: Vector | None = None

    @property
    def step(self) -> int:
        return 0 if self.head is None else self.head.step

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, head: Head, settings: bytes) -> bytes:
        if self.head is None:
            self.head, self.settings = head, settings
        return self.settings

    def resume(self) -> Resume | None:
        assert self.head is not None
        model = self.initial if self.model is None else self.model
        assert model is not None
        last = max((number for number, _kind, _choice in self.votes), default=0)
        if not last and self.model is None and not self.links:
            return None
        said = tuple((number, kind, choice) for (number, kind), choice in self.ballots.items())
        attempt = max((number for number, _kind in self.ballots), default=0)
        return Resume(
            self.head, model, self.links, last, self.lock, self.chosen, attempt, said,
            self.outcome_lock, self.made,
        )  # fmt: skip

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        if kind.startswith("outcome/"):
            assert choice is not None
            assert self.ballots.setdefault((round_number, kind), choice) == choice
        else:
            last = self.votes[-1][0] if self.votes else 0
            assert round_number >= last, f"a {kind} of round {round_number} after one of {last}"
            said = {choice for number, of, choice in self.votes if (number, of) == (last, kind)}
            assert round_number > last or said <= {choice}, f"a second {kind} of round {last}"
            self.votes.append((round_number, kind, choice))

    def record_lock(self, lock: JournalEntry | None) -> None:
        self.lock = lock

    def record_outcome_lock(self, lock: bytes) -> None:
        self.outcome_lock = lock

    def record_chosen(self, chosen: JournalEntry) -> None:
        self.chosen = chosen
        assert self.head is not None
        certificate = Certificate.from_bytes(chosen.head, len(self.head.roster))
        name = certificate.candidate.digest(self.head.digest)
        assert self.sets.setdefault(self.head.height, name) == name

    def record_made(self, model: Vector) -> None:
        self.made = model

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        self.head = head = links[-1].next
        assert self.heads.setdefault(head.height, head.digest) == head.digest
        if model is not None:
            assert model_digest(model, head.step) == head.model
            assert self.models.setdefault(head.step, head.model) == head.model
            self.model = model
        kept = (link for link in self.links if link.chosen.change is not None)
        self.links = (*kept, *links)
        self.lock = self.chosen = self.outcome_lock = self.made = None
        self.ballots = {}

    def contributions(self) -> tuple[bytes, int, int]:
        rounds = {number for number, kind, _choice in self.votes if kind == "contribution"}
        return bytes(16), len(rounds), max(rounds, default=0)

    def reserve_sequence(self) -> int:
        first = self.next_sequence
        self.next_sequence += SEQUENCE_BLOCK
        return first


# ── the network ───────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Message:
    """A frame on its way."""

    sender: int
    receiver: int
    envelope: Envelope
    frame: bytes
    now: float

    @property
    def kind(self) -> str:
        return self.envelope.kind

    @property
    def round(self) -> int:
        return self.envelope.round


Arrivals = Sequence[tuple[float, bytes]]


class Patient(Lateness):
    """Waits for everybody."""

    def look(self, *_here: object) -> bool:
        return False


Rule = Callable[[Message], Arrivals | None]
"""What arrives of a message and after how long; ``None`` for the usual."""
Training = Callable[[int, RoundInfo], Update | None]


def distinct_update(index: int, info: RoundInfo) -> Update:
    """An update that differs by node and by round."""
    values = [(index + 1) * 1000, info.number * 7, index * index]
    return Update(np.array(values, dtype=np.int32))


@attrs.define(eq=False)
class Node:
    """One node; ``driver`` is ``None`` for a puppet that only the test speaks for."""

    index: int
    node_id: NodeId
    notebook: Notebook
    driver: Driver | None = None
    changes: PendingChanges | None = None
    effects: list[Effect] = attrs.field(factory=list)
    made_at: dict[int, float] = attrs.field(factory=dict)
    life: int = 0
    started: bool = False

    @property
    def machine(self) -> RoundMachine | None:
        return None if self.driver is None else self.driver.machine

    def plugin(self, name: str) -> Any:
        assert self.machine is not None
        kernel = self.machine.kernel
        return next(plugin.instance for plugin in kernel.enabled if plugin.name == name)

    @property
    def witness(self) -> Witness:
        found = self.plugin("witness")
        assert isinstance(found, Witness)
        return found

    @property
    def ended(self) -> list[RoundEnded]:
        return [effect for effect in self.effects if isinstance(effect, RoundEnded)]

    @property
    def diverged(self) -> list[Diverged]:
        return [effect for effect in self.effects if isinstance(effect, Diverged)]

    @property
    def refused(self) -> Counter[str]:
        assert self.machine is not None
        return self.machine.kernel.rejections


class Noting(Driver):
    """Notes what its machine wanted."""

    def __init__(self, machine: RoundMachine, ports: Ports, node: Node, net: Net) -> None:
        super().__init__(machine, ports)
        self.node, self.net = node, net

    def carry_out(self, effects: Sequence[Effect]) -> None:
        self.node.effects.extend(effects)
        super().carry_out(effects)
        self.node.made_at.setdefault(self.machine.step, self.net.now)


class Net:
    """A swarm.

    Args:
        nodes: how many.
        byzantine: the promise ``f``.
        quorum: contributions a round needs; ``nodes - byzantine`` if left out.
        puppets: indices without a machine.
        rule: what the network does to messages.
        train: updates by node and round; ``None`` sits out.
        plugins: further plugin tables, by name.
        broken: indices of nodes that compute the mean wrong.
        aggregate: name of the rule.
        options: further keys of ``[swarm]``.
        validate: held-out loss of a model by node, for plugins that judge.
        members: how many of the nodes are the first members, all if left out; others may join.
        initial: the first model.
        installed: plugins beside those of this module.

    ``judging``: seconds that a trainer takes to judge a model; ``None``: the machine waits for it,
    and it takes no time.
    """

    judging: float | None = None

    def __init__(  # noqa: PLR0913 - what a test does not care about has a default
        self,
        nodes: int,
        *,
        byzantine: int = 0,
        quorum: int | None = None,
        puppets: Sequence[int] = (),
        rule: Rule | None = None,
        train: Training = distinct_update,
        plugins: Mapping[str, Mapping[str, Any]] | None = None,
        broken: Sequence[int] = (),
        aggregate: str = "mean",
        options: Mapping[str, Any] | None = None,
        validate: Callable[[int, Vector], float] | None = None,
        members: int | None = None,
        initial: Sequence[int] = (10, 20, 30),
        installed: Mapping[str, Installed] | None = None,
    ) -> None:
        self.ids = make_node_ids(nodes)
        nodes = nodes if members is None else members
        self.first = self.ids[:nodes]
        self.index_of = {node_id: index for index, node_id in enumerate(self.ids)}
        self.rule, self.train, self.validate = rule, train, validate
        self.f = byzantine
        self.plugins, self.broken = dict(plugins or {}), tuple(broken)
        self.aggregate, self.installed = aggregate, {**INSTALLED, **(installed or {})}
        self.raw_swarm: dict[str, Any] = {
            "name": NAME,
            "nodes": nodes,
            "byzantine": byzantine,
            "quorum": nodes - byzantine if quorum is None else quorum,
            "deadline": DEADLINE,
            "vote_timeout": VOTE_TIMEOUT,
            **(options or {}),
        }
        self.initial = np.array(initial, dtype=np.int32)
        self.now = START
        self.events: list[tuple[float, int, int, int, str, Any]] = []
        self.count = 0
        self.sent: list[Message] = []
        self.down: set[int] = set()
        self.hung: set[int] = set()  # nodes whose trainers do not come back from judging
        self.forged = 1 << 40
        self.nodes = [Node(i, node_id, Notebook()) for i, node_id in enumerate(self.ids)]
        for node in self.nodes:
            node.notebook.initial = self.initial
            if node.index not in puppets:
                self.remake(node)

    def remake(self, node: Node) -> None:
        """Give a node a new machine, which reads its notebook."""
        ports = Ports(
            broadcast=partial(self._broadcast, node),
            send=lambda to, frame: self._carry(node, self.nodes[self.index_of[to]], frame),
            train=lambda wanted: self._later(TRAINING, node, "train", wanted.round_info),
            ask=lambda asked: self._later(self.judging or 0.0, node, "judge", asked),
            wake=lambda due: self._push(max(due, self.now), node.index, "tick"),
        )
        node.driver = Noting(self._machine(node), ports, node, self)

    def _machine(self, node: Node) -> RoundMachine:
        tables: dict[str, Mapping[str, Any]] = {
            "memory": {},
            "mac": {},
            "fresh": {},
            "witness": {},
            **self.plugins,
        }
        if self.aggregate not in tables:
            tables[self.aggregate] = {"unprotected": True} if self.aggregate == "mean" else {}
        # The same name and options: the settings that nodes share do not show it.
        flipped = {"mean": Installed.local("mean", FlippedMean)}
        installed = {**self.installed, **(flipped if node.index in self.broken else {})}
        config = parse({"swarm": self.raw_swarm, "plugins": tables}, source="test")
        kernel = Kernel.from_config(config, installed=installed)
        judge = None if self.validate is None else Judge(self.validate, node.index)
        info = NodeInfo(
            node.node_id, NAME, self.first, byzantine=self.f, validates=judge is not None
        )
        kernel.setup(info)
        swarm = config.swarm
        if node.changes is None:
            node.changes = PendingChanges(NAME, known_roster(self.first, swarm))
        machine = RoundMachine(
            node.node_id,
            self.first,
            kernel,
            swarm,
            self.initial,
            node.notebook,
            judge,
            node.changes,
        )
        machine.opinions.apart = self.judging is not None
        return machine

    # ── members ───────────────────────────────────────────────────────────────────────────────

    def change(
        self,
        action: Action,
        member: int,
        successor: int | None = None,
        *,
        signers: Sequence[int] = (),
        known_to: int = 0,
    ) -> RosterChange:
        """A change of the roster that a node knows, signed by some."""
        heir = None if successor is None else self.ids[successor]
        roster = self.machine(known_to).head.roster
        change = roster.change(NAME, action, self.ids[member], heir)
        time_ms = int(self.now * 1000)
        return change.signed(
            sign(self.ids[index], change.statement(self.ids[index], time_ms)) for index in signers
        )

    def hand_over(self, change: RosterChange, to: Sequence[int]) -> None:
        """Give a change to some nodes, as their operators do."""
        for index in to:
            waiting = self.nodes[index].changes
            assert waiting is not None
            waiting.offer(change, lambda _signed: True)

    def wait_for_all(self) -> None:
        """No node proposes before all are here, or the deadline is."""
        for node in self.live:
            assert node.machine is not None
            node.machine._context.lateness = Patient(DEADLINE)

    # ── shorthand ─────────────────────────────────────────────────────────────────────────────

    def machine(self, index: int) -> RoundMachine:
        machine = self.nodes[index].machine
        assert machine is not None
        return machine

    @property
    def live(self) -> list[Node]:
        return [node for node in self.nodes if node.machine is not None]

    def steps(self, indices: Sequence[int] | None = None) -> list[int]:
        chosen = range(len(self.nodes)) if indices is None else indices
        return [self.machine(i).step for i in chosen if self.nodes[i].machine is not None]

    def digests(self, indices: Sequence[int] | None = None) -> set[bytes]:
        chosen = range(len(self.nodes)) if indices is None else indices
        return {self.machine(i).model_digest for i in chosen if self.nodes[i].machine is not None}

    def forks(self, honest: Sequence[int] | None = None) -> dict[int, set[bytes]]:
        """Steps at which honest nodes made different models, with the models; empty is good.

        Nor may they have decided different sets, or gone to different heads: that is asserted.
        """
        assert not self._different([node.notebook.sets for node in self._of(honest)])
        assert not self._different([node.notebook.heads for node in self._of(honest)])
        return self._different([node.notebook.models for node in self._of(honest)])

    def splits(self, honest: Sequence[int] | None = None) -> dict[int, set[bytes]]:
        """Heights at which honest nodes decided different sets, with the sets."""
        return self._different([node.notebook.sets for node in self._of(honest)])

    def _of(self, indices: Sequence[int] | None) -> list[Node]:
        return self.nodes if indices is None else [self.nodes[index] for index in indices]

    @staticmethod
    def _different(records: Sequence[Mapping[int, bytes]]) -> dict[int, set[bytes]]:
        made: dict[int, set[bytes]] = {}
        for record in records:
            for number, digest in record.items():
                made.setdefault(number, set()).add(digest)
        return {number: digests for number, digests in made.items() if len(digests) > 1}

    # ── what a liar can do: it signs with its own key only ────────────────────────────────────

    def forge(
        self,
        index: int,
        kind: str,
        payload: bytes,
        *,
        number: int,
        model: bytes,
        key: int | None = None,
        swarm: str = NAME,
    ) -> Envelope:
        """A message of node ``index``, signed with the key of ``key`` (its own if left out)."""
        self.forged += 1
        envelope = Envelope(
            swarm, kind, number, model, self.ids[index], self.forged, int(self.now * 1000), payload
        )
        return sign(self.ids[index if key is None else key], envelope)

    def inject(
        self, envelope: Envelope, to: Sequence[int], *, link: int | None = None, delay: float = 0.0
    ) -> None:
        """Put a message on the wire to some nodes, past every rule."""
        origin = self.index_of[envelope.sender] if link is None else link
        for receiver in to:
            self._push(
                self.now + delay, receiver, "deliver", (self.ids[origin], envelope.to_bytes())
            )

    def vote(
        self, index: int, kind: str, choice: bytes | None, *, number: int, model: bytes
    ) -> Envelope:
        return self.forge(index, kind, encode_vote(choice), number=number, model=model)

    # ── running ───────────────────────────────────────────────────────────────────────────────

    def _push(self, time: float, index: int, what: str, data: object = None) -> None:
        self.count += 1
        life = self.nodes[index].life
        heapq.heappush(self.events, (time, self.count, index, life, what, data))

    def start(self, indices: Sequence[int] | None = None) -> None:
        for node in self.live if indices is None else [self.nodes[i] for i in indices]:
            assert node.driver is not None
            node.started = True
            node.driver.start(self.now)

    def restart(self, index: int) -> None:
        """Kill a node; a new machine reads its notebook."""
        node = self.nodes[index]
        node.life += 1
        self.remake(node)
        assert node.driver is not None
        node.driver.start(self.now)

    def run(
        self, *, seconds: float = 60.0, until: Callable[[], bool] | None = None, events: int = 0
    ) -> bool:
        """Run on; true if ``until`` came true. Bounded in virtual time and in events."""
        end = self.now + seconds
        left = events or MAX_EVENTS
        while self.events and self.events[0][0] <= end:
            if until is not None and until():
                return True
            left -= 1
            assert left, "livelock: too many events"
            self.now, _order, index, life, what, data = heapq.heappop(self.events)
            self._handle(self.nodes[index], life, what, data)
        self.now = end if until is None or not until() else self.now
        return until is not None and until()

    def _handle(self, node: Node, life: int, what: str, data: Any) -> None:
        driver = node.driver
        if driver is None or not node.started:
            return
        machine = driver.machine
        if node.index in self.down:
            if what != "deliver":
                self._push(self.now + 0.1, node.index, what, data)
            return
        if what == "deliver":
            link, frame = data
            driver.receive(frame, link, self.now)
        elif life != node.life:
            return
        elif what == "tick":
            is_due = self.now >= driver.due
            driver.tick(self.now)
            assert not is_due or machine.next_tick > self.now, "a tick in the past would spin"
        elif what == "judge":
            if node.index in self.hung:
                return
            data.run()
            driver.carry_out(machine.answered(data, self.now))
        else:
            info: RoundInfo = data
            made = self.train(node.index, info)
            driver.trained(info, "no data" if made is None else made, self.now)

    def apply(self, node: Node, effects: Sequence[Effect]) -> None:
        assert node.driver is not None
        node.driver.carry_out(effects)

    def _later(self, seconds: float, node: Node, what: str, data: object) -> None:
        self._push(self.now + seconds, node.index, what, data)

    def _broadcast(self, sender: Node, frame: bytes) -> None:
        for other in self.nodes:
            if other is not sender:
                self._carry(sender, other, frame)

    def _carry(self, sender: Node, receiver: Node, frame: bytes) -> None:
        envelope = Envelope.from_bytes(frame, max_bytes=2**26)
        message = Message(sender.index, receiver.index, envelope, frame, self.now)
        self.sent.append(message)
        arrivals = self.rule(message) if self.rule is not None else None
        for delay, octets in [(DELAY, frame)] if arrivals is None else arrivals:
            self._push(self.now + delay, receiver.index, "deliver", (sender.node_id, octets))


def drop(**matching: object) -> Rule:
    """Drops the messages whose properties match: ``drop(kind="choice/prevote", receiver=2)``."""

    def rule(message: Message) -> Arrivals | None:
        for name, value in matching.items():
            found = getattr(message, name)
            if found not in value if isinstance(value, set | tuple | range) else found != value:
                return None
        return ()

    return rule


def chain(*rules: Rule) -> Rule:
    """The first rule that has something to say."""

    def rule(message: Message) -> Arrivals | None:
        for item in rules:
            arrivals = item(message)
            if arrivals is not None:
                return arrivals
        return None

    return rule


# ── random networks and random liars ──────────────────────────────────────────────────────────────

LIES = (
    "silent", "equivocate", "wild votes", "double votes", "split proposals", "attest all", "mixed",
)  # fmt: skip


class Chaos:
    """A rule made of chance: loss, delay, duplication, and liars with their own keys.

    Args:
        net: the swarm; its rule is to be this object.
        rng: decides everything.
        liars: how each lying node lies.
        heals: when loss, duplication and long delays end. Liars never heal.
    """

    def __init__(
        self, net: Net, rng: random.Random, liars: Mapping[int, str], *, heals: float
    ) -> None:
        self.net, self.rng, self.liars, self.heals = net, rng, liars, heals
        self.loss = rng.uniform(0.0, 0.2)
        self.duplication = rng.uniform(0.0, 0.2)
        self.spread = rng.choice([0.02, 0.2, 0.6])
        self.choices: list[bytes] = []
        self.made: list[bytes] = []
        self.cut = {
            frozenset(rng.sample(range(len(net.nodes)), 2)) for _ in range(rng.choice([0, 0, 1, 2]))
        }

    def __call__(self, message: Message) -> Arrivals | None:
        frames = [message.frame]
        if message.sender in self.liars:
            frames = self.lie(message, self.liars[message.sender])
        if message.now >= self.heals:
            return [(DELAY * self.rng.uniform(0.5, 1.5), frame) for frame in frames]
        if frozenset((message.sender, message.receiver)) in self.cut:
            return ()
        return [
            (self.rng.expovariate(1 / self.spread), frame)
            for frame in frames
            for _copy in range(1 + (self.rng.random() < self.duplication))
            if self.rng.random() >= self.loss
        ]

    def lie(self, message: Message, how: str) -> list[bytes]:  # noqa: PLR0911 - a lie each
        if how == "mixed":
            how = self.rng.choice(LIES[:-1])
        envelope = message.envelope
        if how == "silent":
            return []
        if envelope.kind == "contribution":
            self.made.append(contribution_digest(envelope))
        if envelope.kind == "attestation" and how == "attest all":
            digests = sorted(set(self.made[-2 * len(self.net.nodes) :]))
            return [self.again(envelope, canonical.dumps(digests))]
        if envelope.kind == "contribution" and how in ("equivocate", "attest all"):
            dimension = len(self.net.initial)
            body = ContributionBody.from_bytes(envelope.payload, dimension)
            vector = body.vector + np.int32(self.rng.randrange(4))
            payload = ContributionBody(body.weight, vector, body.proofs).to_bytes()
            return [self.again(envelope, payload)]
        if envelope.kind == "choice/proposal" and how in ("split proposals", "equivocate"):
            proposal = Proposal.from_bytes(envelope.payload, len(self.net.nodes))
            members = list(proposal.candidate.members)
            del members[self.rng.randrange(len(members))]
            if members:
                split = attrs.evolve(
                    proposal,
                    candidate=CandidateSet(proposal.candidate.origin, tuple(members)),
                    lock_round=0,
                    prevotes=(),
                )
                frames = [message.frame, self.again(envelope, split.to_bytes())]
                return [self.rng.choice(frames)]
        if envelope.kind in ("choice/prevote", "choice/precommit"):
            choice = decode_vote(envelope.payload)
            if choice is not None and choice not in self.choices:
                self.choices.append(choice)
            other = self.rng.choice([None, self.rng.randbytes(32), *self.choices[-4:]])
            if how == "wild votes":
                return [self.again(envelope, encode_vote(other))]
            if how == "double votes":
                pair = [message.frame, self.again(envelope, encode_vote(other))]
                self.rng.shuffle(pair)
                return pair
        return [message.frame]

    def again(self, envelope: Envelope, payload: bytes) -> bytes:
        """The liar's message with another payload, signed with the liar's own key."""
        index = self.net.index_of[envelope.sender]
        forged = self.net.forge(
            index, envelope.kind, payload, number=envelope.round, model=envelope.head
        )
        return forged.to_bytes()
