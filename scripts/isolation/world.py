"""Plays a swarm with an adversary, as a seed decides, and finds how few honest inputs it isolates.

Every node is the plugin itself with its dialogues. What the round machine does for them is played
here: time, messages, and which set was agreed on. That is stricter than the machine, and never
kinder: the adversary carries the messages, and agreement gives it all that fits into a certificate.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

import attrs
import numpy as np
from qres_lab.testing import make_node_ids
from qres_secagg import Secagg

from isolation import algebra, product
from isolation.adversary import Adversary, View
from isolation.product import Recorder, Step
from isolation.setting import Setting
from qres_core import Contribution, NodeId, NodeInfo, Outcome, RoundInfo, RoundStatus, Update
from qres_core.dialogues import MAX_VOID_SETS, DialogueMessage, Send, VoidSet
from qres_core.errors import QresError

DIMENSION = 3
PATIENCE = 2.0
OBSERVERS = 2
"""Honest nodes that get the opened shares of others; to all others they make no difference."""


@attrs.frozen
class Found:
    """How a run ended."""

    setting: Setting
    isolated: algebra.Isolated | None
    parity: algebra.Isolated | None  # the same modulo 2, see `algebra`
    sessions: int
    sums: int  # independent ones that the adversary has, of groups, parts or all
    story: tuple[str, ...]

    @property
    def least(self) -> int:
        """How many honest inputs a combination isolates at least; 0: no sum is open."""
        return 0 if self.isolated is None else self.isolated.size

    @property
    def told(self) -> str:
        """In words."""
        if self.isolated is None:
            return "no sum is open"
        least = "" if self.isolated.exact else "at least 2 and at most "
        named = sorted(self.isolated.inputs, key=repr)[:8]  # ranks
        return f"a combination isolates {least}{self.least}: {named}"


@attrs.define
class Earlier:
    """A round of this height that ended without a decision."""

    info: RoundInfo
    sent: dict[NodeId, Contribution]
    chosen: frozenset[int]


Told = Callable[[str], None]


@attrs.define
class World:
    """A swarm in one process."""

    setting: Setting
    tell: Told = lambda _line: None
    recorder: Recorder = attrs.field(init=False, factory=Recorder)
    rng: random.Random = attrs.field(init=False)
    roster: tuple[NodeId, ...] = attrs.field(init=False)
    plugins: dict[int, Secagg] = attrs.field(init=False, factory=dict[int, Secagg])
    inputs: dict[int, Update] = attrs.field(init=False, factory=dict[int, Update])
    adversary: Adversary = attrs.field(init=False)
    story: list[str] = attrs.field(init=False, factory=list[str])
    away: set[int] = attrs.field(init=False, factory=set[int])
    now: float = attrs.field(init=False, default=1000.0)
    number: int = attrs.field(init=False, default=0)
    height: int = attrs.field(init=False, default=0)
    digest: bytes = attrs.field(init=False)
    # of the model, as the head has them
    record: list[VoidSet] = attrs.field(init=False, factory=list[VoidSet])
    mismatches: int = attrs.field(init=False, default=0)
    info: RoundInfo = attrs.field(init=False)
    dialogues: dict[int, product.Attempts] = attrs.field(init=False, factory=dict)
    sent: dict[NodeId, Contribution] = attrs.field(init=False, factory=dict)
    earlier: list[Earlier] = attrs.field(init=False, factory=list[Earlier])
    queue: deque[tuple[int, int, Send]] = attrs.field(init=False, factory=deque)
    said: dict[tuple[int, int, bytes], tuple[Send, set[int]]] = attrs.field(
        init=False, factory=dict
    )
    # whom messages of a sender in a step do not reach, and who is told which survivor set
    withheld: dict[tuple[int, int], frozenset[int]] = attrs.field(init=False, factory=dict)
    sides: tuple[frozenset[int], ...] = attrs.field(init=False, default=())

    def __attrs_post_init__(self) -> None:
        setting = self.setting
        self.rng = random.Random(setting.seed + 1_000_003)  # noqa: S311 - a seed decides
        self.roster = make_node_ids(setting.nodes)
        self.digest = self.rng.randbytes(32)
        draw = np.random.default_rng(setting.seed)
        for rank, node in enumerate(self.roster):
            self.plugins[rank] = Secagg(**setting.options, patience=PATIENCE)
            self.plugins[rank].setup(
                NodeInfo(node, "isolation", self.roster, setting.byzantine, data_dir=None)
            )
            vector = draw.integers(-1000, 1001, DIMENSION, dtype=np.int32)
            self.inputs[rank] = Update(vector)
        self.adversary = Adversary(self.rng, frozenset())

    # ── the whole run ─────────────────────────────────────────────────────────────────────────

    def play(self) -> Found:
        """All heights of the model, and what the adversary has in the end."""
        with self.recorder.running(), product.leading(self._corrupt_nodes, self._listed):
            for _ in range(self.setting.heights):
                self._height()
        for plugin in self.plugins.values():
            plugin.teardown()
        corrupt = {self.roster[rank] for rank in self.adversary.corrupt}
        equations = list(self.recorder.transcript.equations(corrupt))
        vectors = algebra.revealed(equations)
        return Found(
            setting=self.setting,
            isolated=self._named(algebra.isolated(equations)),
            parity=self._named(algebra.isolated(equations, 2)),
            sessions=len(self.recorder.sessions),
            sums=0 if vectors is None else algebra.rank(vectors),
            story=tuple(self.story),
        )

    def _named(self, found: algebra.Isolated | None) -> algebra.Isolated | None:
        """The inputs by rank."""
        if found is None:
            return None
        ranks = frozenset(self.roster.index(node) for node, _ in found.inputs)
        return attrs.evolve(found, inputs=ranks)

    def _nodes(self, ranks: Collection[int]) -> tuple[NodeId, ...]:
        return tuple(self.roster[rank] for rank in sorted(ranks))

    def _note(self, line: str) -> None:
        self.story.append(line)
        self.tell(line)

    def _corrupt_nodes(self) -> set[NodeId]:
        return {self.roster[rank] for rank in self.adversary.corrupt}

    def _height(self) -> None:
        """Rounds without a decision, then one with it, and an outcome without a new model."""
        self.earlier = []
        for _ in range(self.rng.choice((0, 0, 0, 1, 2))):
            if self._round():
                self._abort()
            else:
                self._close(RoundStatus.ABORTED)
        if not self._round():
            self._close(RoundStatus.ABORTED)
            return
        if self.earlier and self.rng.random() < 0.5:
            made = self.rng.choice(self.earlier)
            self._note(f"  the set of round {made.info.number} is decided")
            self._decide(made.chosen, made)
        elif self.rng.random() < 0.15:
            self._split()
        else:
            chosen = self._propose()
            if chosen is None:
                self._close(RoundStatus.ABORTED)
                return
            self._decide(chosen)
        self._pass_time(2)
        self._close(RoundStatus.VOID)

    def _close(self, status: RoundStatus) -> None:
        code = self.rng.choice(("QRES-E508", "QRES-E507")) if status is RoundStatus.VOID else ""
        members: tuple[NodeId, ...] = ()
        if status is RoundStatus.VOID:
            members = self._nodes(self.adversary.opened[-1])
            noted = VoidSet(self.roster, self.roster, members, min(self.mismatches, 16))
            if noted not in self.record and len(self.record) < MAX_VOID_SETS:
                self.record.append(noted)
            self.mismatches += code == "QRES-E508"
            self.height += 1
        outcome = Outcome(self.info, status, self.digest, members=members, code=code)
        for plugin in self.plugins.values():
            plugin.round_closed(outcome)

    def _abort(self) -> None:
        """The round ends without a decision; its set may be decided later."""
        chosen = self._propose()
        if chosen is not None:
            self._note(f"  round {self.info.number} ends without a decision")
            self.earlier.append(Earlier(self.info, dict(self.sent), chosen))
        self._close(RoundStatus.ABORTED)

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def _round(self) -> bool:
        """Up to the contributions; whether there are enough for a set."""
        rng, size = self.rng, self.setting.nodes
        self.away = set()
        self.sent, self.said, self.withheld, self.sides = {}, {}, {}, ()
        self.number += 1
        if self.adversary.corrupt and rng.random() < 0.5:
            while self.number % size not in self.adversary.corrupt:
                self.number += 1
        head = hashlib.sha256(self.digest + bytes([self.height])).digest()
        self.info = RoundInfo(
            swarm="isolation",
            number=self.number,
            model_digest=self.digest,
            dimension=DIMENSION,
            scale=0,
            roster=self.roster,
            quorum=self.setting.quorum,
            byzantine=self.setting.byzantine,
            height=self.height,
            head=head,
            void_sets=tuple(self.record),
            mismatches=min(self.mismatches, 16),
        )
        self.dialogues = {}
        for rank in range(size):
            self.dialogues[rank] = self.plugins[rank].round_opened(self.info)
        if not self.story:
            self._settle()
        self._lose(0.2)
        for rank, dialogue in self.dialogues.items():
            if rank not in self.away:
                self._emit(rank, dialogue.start())
        self._deliver()
        self._lose(0.2)
        self._pass_time(5)
        self._lose(0.4)
        for rank, dialogue in self.dialogues.items():
            if rank not in self.away and dialogue.ready:
                with suppress(QresError):  # it sits the round out, and says why
                    self._publish(rank, self.plugins[rank].privatize(self.inputs[rank], self.info))
        self._note(
            f"round {self.number} of height {self.height}: {len(self.sent)} contribute, "
            f"{'corrupt' if self.number % size in self.adversary.corrupt else 'honest'} leader, "
            f"{len(self.away)} away"
        )
        return len(self.sent) >= self.setting.quorum

    def _settle(self) -> None:
        """Who is corrupt, once the graphs of the model are known."""
        setting, rng = self.setting, self.rng
        view = self._view()
        if setting.placed:
            corrupt = Adversary.placed(rng, view, setting.corrupt)
        else:
            corrupt = frozenset(rng.sample(range(setting.nodes), setting.corrupt))
        self.adversary = Adversary(rng, corrupt)
        self._note(f"corrupt: {sorted(corrupt)}")

    def _view(self) -> View:
        graphs = next(iter(self.dialogues.values())).own.board.topology
        for dialogue in self.dialogues.values():
            if dialogue.own.board.listing is not None:
                graphs = dialogue.own.board.topology
        present = self._ranks(self.sent)
        numbers = self.dialogues[0].own.session.parameters
        return View(
            peers=graphs.peers,
            groups=graphs.groups,
            circle=graphs.circle,
            degree=max(len(near) for near in graphs.holders),
            least=numbers.min_survivors,
            present=present,
            permitted=self._ranks(self._revealable(self._nodes(present))) if present else present,
        )

    def _lose(self, often: float) -> None:
        """Honest nodes that fail here; mostly no more than were planned for."""
        if self.rng.random() < often:
            limit = self.setting.dropped * self.rng.choice((1, 1, 1, 2))
            room = max(0, limit - len(self.away))
            there = self.adversary.honest(set(range(self.setting.nodes)) - self.away)
            self.away.update(there[: self.rng.randint(0, room)])

    def _publish(self, rank: int, made: Update) -> None:
        node = self.roster[rank]
        self.sent[node] = Contribution(
            node, node[::-1], made.vector, made.weight, {}, made.companions
        )

    def _listed(self, board: product.SessionMessages, complete: list[int]) -> list[int]:
        """In which order a corrupt leader leaves nodes out of its list."""
        rng, adversary = self.rng, self.adversary
        there = adversary.honest(complete)
        if not there or rng.random() < 0.5:
            return []
        self.adversary.victim = victim = rng.choice(there)
        near = set(board.topology.peers[victim])
        if rng.random() < 0.5:
            return [rank for rank in there if rank in near][: rng.randint(0, 40)]
        return there[: rng.randint(0, 1 + self.setting.dropped)]

    # ── messages and time ─────────────────────────────────────────────────────────────────────

    def _emit(self, sender: int, sends: Collection[object]) -> None:
        for made in sends:
            if isinstance(made, Send):
                send = self._spoilt(sender, made)
                key = (sender, send.step, send.body)
                self.said.setdefault(key, (send, {sender}))
                for receiver in self._receivers(sender, send):
                    self.queue.append((sender, receiver, send))
                if send.step == Step.LIST:
                    self._tell_another_list(sender, send)

    def _tell_another_list(self, sender: int, send: Send) -> None:
        """A corrupt leader may tell some nodes a list that leaves out one node more."""
        rng, honest = self.rng, self.adversary.honest(range(self.setting.nodes))
        if sender not in self.adversary.corrupt or rng.random() >= 0.2:
            return
        other = Send(product.another_list(send.body, honest[0]), send.step, send.to)
        self.said[sender, other.step, other.body] = (other, {sender})
        many = rng.randint(0, len(honest))
        self.queue.extendleft((sender, receiver, other) for receiver in honest[:many])

    def _spoilt(self, sender: int, send: Send) -> Send:
        """What a corrupt dealer says in place of shares that fit, at times."""
        if sender not in self.adversary.corrupt or send.step != Step.SHARE:
            return send
        if self.rng.random() >= 0.15:
            return send
        place = self.rng.randrange(len(send.body) // 2, len(send.body))
        body = bytearray(send.body)
        body[place] ^= 1
        return Send(bytes(body), send.step, send.to)

    def _receivers(self, sender: int, send: Send) -> Iterator[int]:
        """Whom a message reaches at once."""
        rng, corrupt = self.rng, self.adversary.corrupt
        everybody = [rank for rank in range(self.setting.nodes) if rank != sender]
        if send.step == Step.UNMASK:
            yield from everybody[:OBSERVERS]
            return
        withheld = self.withheld.get((sender, send.step))
        if withheld is None:
            out: frozenset[int] = frozenset()
            if sender in corrupt and rng.random() < 0.15:
                out = self._kept_from(everybody)
            withheld = self.withheld[sender, send.step] = out
        for receiver in everybody:
            if receiver in withheld or self._apart(sender, receiver, send.step):
                continue
            if sender in corrupt or not self.setting.loss or rng.random() >= self.setting.loss:
                yield receiver

    def _kept_from(self, everybody: list[int]) -> frozenset[int]:
        """To whom a corrupt node says nothing: all but the leader, every third, or some."""
        rng = self.rng
        leader = self.number % self.setting.nodes
        kind = rng.random()
        if kind < 0.3:
            return frozenset(everybody) - {leader}
        if kind < 0.6:
            return frozenset(everybody[:: rng.randint(2, 4)])
        return frozenset(rng.sample(everybody, rng.randint(1, max(1, len(everybody) // 3))))

    def _apart(self, sender: int, receiver: int, step: int) -> bool:
        """Whether two honest nodes are on two sides, when there are two survivor sets."""
        if not self.sides or step != Step.STATEMENT:
            return False
        return not any(sender in side and receiver in side for side in self.sides)

    def _deliver(self) -> None:
        while self.queue:
            sender, receiver, send = self.queue.popleft()
            if sender not in self.away or sender in self.adversary.corrupt:
                self._arrive(sender, receiver, send)

    def _arrive(self, author: int, receiver: int, send: Send) -> None:
        if receiver in self.away:
            return
        reached = self.said[author, send.step, send.body][1]
        if receiver in reached:
            return
        reached.add(receiver)
        message = DialogueMessage(
            self.roster[author], send.step, send.body, send.to, self.info.number
        )
        self._emit(receiver, self.dialogues[receiver].receive(message))

    def _pass_time(self, steps: int) -> None:
        """One patience a step; honest nodes hand on what they hold, where they do."""
        for _ in range(steps):
            self.now += PATIENCE
            for rank, dialogue in self.dialogues.items():
                if rank not in self.away:
                    self._emit(rank, dialogue.tick(self.now))
            self._deliver()
            if self.setting.relayed:
                self._hand_on()

    def _hand_on(self) -> None:
        everybody = set(range(self.setting.nodes)) - self.away
        honest = everybody - self.adversary.corrupt
        for (author, step, _body), (send, reached) in list(self.said.items()):
            if step != Step.UNMASK and reached & honest - {author}:
                for receiver in sorted(everybody - reached):
                    if not self._apart(author, receiver, step):
                        self._arrive(author, receiver, send)
        self._deliver()

    # ── sets ──────────────────────────────────────────────────────────────────────────────────

    def _board(self) -> product.SessionMessages | None:
        """Of a node that adopted the list: what everybody knows."""
        boards = (dialogue.own.board for dialogue in self.dialogues.values())
        return next((board for board in boards if board.listing is not None), None)

    def _propose(self) -> frozenset[int] | None:
        """The set that a proposer, mostly a corrupt one, brings through."""
        board = self._board()
        if board is None:
            return None
        made = self._ranks(self.sent)

        def fits(ranks: Collection[int]) -> bool:
            if len(ranks) < self.setting.quorum or not set(ranks) <= made:
                return False
            nodes = self._nodes(ranks)
            if not product.fits(board, [self.sent[node] for node in nodes]):
                return False
            return self._revealable(nodes) == nodes

        if self.rng.random() < 0.15:  # an honest proposer
            chosen = self._ranks(self._revealable(self._nodes(made)))
            self._note(f"  honest: {len(chosen)} of {len(made)}")
            return chosen if fits(chosen) else None

        name, chosen = self.adversary.choose(self._view(), fits, self.setting.plan)
        if chosen is not None:
            self._note(f"  {name}: {len(chosen)} of {len(made)}; victim {self.adversary.victim}")
        else:
            self._note(f"  {name}: no set is taken")
        return chosen

    def _revealable(self, nodes: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """What an honest node would have revealed of what these sent."""
        judge = next(rank for rank in range(self.setting.nodes) if rank in self._judges())
        return product.revealable(
            self.plugins[judge], tuple(self.sent[node] for node in nodes), self.info
        )

    def _judges(self) -> set[int]:
        """Honest nodes that adopted the list, and any honest node where there is none."""
        honest = set(range(self.setting.nodes)) - self.adversary.corrupt - self.away
        listed = {rank for rank in honest if self.dialogues[rank].own.board.listing is not None}
        return listed or honest

    def _ranks(self, nodes: Collection[NodeId]) -> frozenset[int]:
        return frozenset(rank for rank, node in enumerate(self.roster) if node in nodes)

    def _decide(self, chosen: frozenset[int], made: Earlier | None = None) -> None:
        """All nodes are told that a set was agreed on."""
        for rank in self.dialogues:
            if rank not in self.away:
                self._tell(rank, chosen, made)
        self._deliver()
        self.adversary.opened.append(chosen)

    def _tell(self, rank: int, chosen: frozenset[int], made: Earlier | None = None) -> None:
        members = self._nodes(chosen)
        sent, info = (self.sent, self.info) if made is None else (made.sent, made.info)
        told = self.dialogues[rank].decided(members, tuple(sent[node] for node in members), info)
        self._emit(rank, told)

    def _split(self) -> None:
        """Half of the honest nodes are told one set, half another; corrupt ones state both."""
        first, second = self._propose(), self._propose()
        if first is None or second is None:
            self.adversary.opened.append(first or second or frozenset())
            return
        honest = self.adversary.honest(range(self.setting.nodes))
        middle = self.rng.randint(0, len(honest))
        halves = (frozenset(honest[:middle]), frozenset(honest[middle:]))
        self.sides = tuple(half | self.adversary.corrupt for half in halves)
        self._note(f"  two sets: for {len(halves[0])} and {len(halves[1])} honest nodes")
        for half, chosen in zip(halves, (first, second), strict=True):
            bodies: list[Send] = []
            for rank in sorted(half - self.away):
                self._tell(rank, chosen)
            bodies = [send for sender, _to, send in self.queue if sender in half]
            stated = [send for send in bodies if send.step == Step.STATEMENT]
            for send in stated[:1]:
                for liar in sorted(self.adversary.corrupt):
                    self.said.setdefault((liar, send.step, send.body), (send, {liar}))
                    self.queue.extend((liar, receiver, send) for receiver in sorted(half))
        self._deliver()
        sid = self.dialogues[0].own.session.sid
        stated = {
            rank: self.recorder.stated[sid, node]
            for rank, node in enumerate(self.roster)
            if rank not in self.adversary.corrupt and (sid, node) in self.recorder.stated
        }
        if len(set(stated.values())) > 1:
            raise AssertionError("honest nodes opened shares for two survivor sets")
        opened = [
            chosen
            for half, chosen in zip(halves, (first, second), strict=True)
            if half & stated.keys()
        ]
        self.adversary.opened.append(opened[0] if opened else self.rng.choice((first, second)))


def play(setting: Setting, tell: Told = lambda _line: None) -> Found:
    """Play a setting."""
    with product.computed_once():
        return World(setting, tell).play()
