"""The swarm of a setting, played on a virtual clock until it is healed and goes on, or fails."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import shutil
import tempfile
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import attrs
import numpy as np
from qres_pki import Pki

from qres_core import (
    Envelope,
    Evidence,
    Fault,
    NodeId,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    canonical,
    model_digest,
)
from qres_core.errors import QresError
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.lab.clock import EPOCH
from qres_core.swarm.context.effects import (
    Diverged,
    Refused,
    Removed,
    RoundEnded,
    SatOut,
    Train,
)
from qres_core.swarm.context.times import MAX_BACKOFF
from qres_core.swarm.ledger.chain import Head, decode_links
from qres_core.swarm.ledger.messages import LINKS
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.machine.rounds import round_machine
from qres_core.swarm.members.pending_changes import PendingChanges
from qres_core.swarm.runtime.driver import Driver, Ports, Told
from qres_core.swarm.storage.journal import SqliteJournal
from swarm_simulation.journals import BrokenPromiseError, Fuse, KilledError, Notebook
from swarm_simulation.liars import KEPT, Liar
from swarm_simulation.nodes import Node, Timeline
from swarm_simulation.setting import NAME, Setting, Shift
from swarm_simulation.stack import Examples, drawn_secrets

MORE: Final = 3
"""Heights that every honest node must add after the swarm is healed."""
MOST_EVENTS: Final = 400_000
"""More than that without an end is a livelock."""
DELAY: Final = 0.01
PROMISES: Final = ("contribution", "choice/proposal", "choice/prevote", "choice/precommit")
"""What a message's kind ends with of which a node says one for a head and a round."""
Story = Callable[[str], None]


_decode = Envelope.from_bytes


@lru_cache(maxsize=4096)
def opened(frame: bytes, *, max_bytes: int = 2**26) -> Envelope:
    """What a frame holds. Nodes may share it, for it never changes; to decode it once is faster."""
    return _decode(frame, max_bytes=max_bytes)


@lru_cache(maxsize=4096)
def members_after(payload: bytes) -> Roster:
    """Who are members after links. Many nodes are told the same."""
    return decode_links(payload)[-1].next.roster


class ViolationError(Exception):
    """What must hold does not."""


def watch(kernel: Kernel, against: Callable[[Evidence], None]) -> None:
    """Tell what a kernel holds against others, before its plugins are told."""

    def noted(evidence: Evidence) -> list[object]:
        if evidence.against:
            against(evidence)
        return []

    calls = kernel.calls
    observers = (("simulation", noted), *calls.by_hook["observe"])
    calls.by_hook = {**calls.by_hook, "observe": observers}


class World:
    """A swarm being played. ``story`` takes a line for everything that happens."""

    def __init__(
        self, setting: Setting, installed: Mapping[str, Installed], story: Story | None = None
    ) -> None:
        self.setting, self.story = setting, story
        self.clock = Timeline()
        self.rng = random.Random(f"world {setting.seed}")  # noqa: S311 - a seed decides
        self.events = 0
        self.healed = False
        self.revoked: set[int] = set()
        self.counts: Counter[str] = Counter()
        self._installed = installed
        self._pristine: Kernel | None = None  # what all kernels are copied from
        self._folder: Path | None = None
        self._heads: dict[int, tuple[bytes, int]] = {}  # by height; who was first
        self._models: dict[int, tuple[bytes, int]] = {}  # by step
        # by node: what told it that it was removed
        self.told_removed: defaultdict[int, deque[tuple[Envelope, bytes]]] = defaultdict(
            lambda: deque(maxlen=KEPT)
        )
        self._slander = ""
        self._said: dict[tuple[Any, ...], bytes] = {}
        shape = random.Random(f"model {setting.seed}")  # noqa: S311 - a seed decides
        self.initial = np.array(
            [shape.randrange(-500, 500) for _x in range(setting.dimension)], dtype=np.int32
        )
        if setting.store == "sqlite" or setting.revocations:
            shared = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
            self._folder = Path(
                tempfile.mkdtemp(prefix="qres-", dir=shared if shared.is_dir() else None)
            )
        self.config = self._config([])
        self.nodes = self._made()
        self.ids = [node.node_id for node in self.nodes]
        self.first = tuple(self.ids[: setting.nodes])
        self.index_of = {node_id: index for index, node_id in enumerate(self.ids)}
        self.config, self._pristine = self._config(self.ids), None
        self.liars: dict[int, Liar] = {}
        for node in self.nodes:
            character = setting.liars.get(node.index)
            if character is not None:
                self.liars[node.index] = Liar(self, node.index, character)
        self.honest = [node for node in self.nodes if not node.lies]

    # ── making ────────────────────────────────────────────────────────────────────────────────

    def _config(self, ids: Sequence[NodeId]) -> Config:
        setting = self.setting
        tables = {name: dict(table) for name, table in setting.plugins.items()}
        known = [node_id.hex() for node_id in ids]
        if setting.monna:
            members = known[: setting.nodes] or ["00" * 32]
            tables["monna"]["pivot"] = members[setting.seed % len(members)]
        if "pki" in tables:
            tables["pki"]["members"] = known
        if not known:  # who they are is still to be found out
            tables.pop("pki", None)
        return parse({"swarm": dict(setting.swarm), "plugins": tables}, source="simulation")

    def _made(self) -> list[Node]:
        setting = self.setting
        found: list[tuple[NodeId, bytes]] = []
        for index in range(setting.nodes + setting.spares):
            key = hashlib.sha256(f"node {setting.seed} {index}".encode()).digest()
            named = "ed25519" in setting.plugins
            found.append((self._kernel(key)[1] if named else key, key))
        found.sort()
        nodes: list[Node] = []
        for index, (node_id, key) in enumerate(found):
            journal: Any = Notebook(self.initial)
            if self._folder is not None and setting.store == "sqlite":
                journal = SqliteJournal(
                    self._folder / str(index), swarm=NAME, node_id=node_id, initial=self.initial
                )
            nodes.append(
                Node(
                    index,
                    node_id,
                    key,
                    Fuse(journal),
                    setting.offsets[index],
                    setting.rates[index],
                    lies=index in setting.liars,
                )
            )
        return nodes

    def _data_dir(self, node: Node) -> str | None:
        if self._folder is None or self.setting.store != "sqlite":
            return None
        folder = self._folder / f"{node.index}-plugins"
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder)

    def _list_of(self, node: Node) -> str:
        """The file in which the node's operator lists whom to let in; empty without one."""
        if self._folder is None or not self.setting.revocations:
            return ""
        path = self._folder / f"{node.index}.list"
        if not path.exists():
            path.write_text("\n".join(node_id.hex() for node_id in self.ids))
        return str(path)

    def _revoke(self, node: Node, revoked: NodeId) -> None:
        self.tell(f"node {node.index} strikes {self.index_of[revoked]} off its list")
        path = Path(self._list_of(node))
        listed = [text for text in path.read_text().split() if text != revoked.hex()]
        path.write_text("\n".join(listed))

    def _kernel(self, key: bytes, node: Node | None = None) -> tuple[Kernel, NodeId]:
        """A kernel with plugins of its own, and whose it is."""
        if self._pristine is None:
            enabled = assemble(self.config, self._installed)
            self._pristine = Kernel(enabled, self.config.swarm)
        fresh: list[Enabled] = []
        for plugin in self._pristine.enabled:
            instance: Any = copy.deepcopy(plugin.instance)
            if node is not None and plugin.name == "pki" and self._list_of(node):
                instance = Pki(members_file=self._list_of(node), reload_seconds=0.0)
            if node is not None and plugin.name == "secagg" and self._is_new(node):
                instance = attrs.evolve(instance, new_store=True)
            fresh.append(attrs.evolve(plugin, instance=instance))
        solution = self._pristine.solution
        kernel = Kernel(fresh, self.config.swarm, solution=solution)
        return kernel, kernel.identity(key) or key

    def _is_new(self, node: Node) -> bool:
        """Whether the node comes to a swarm that has models behind it."""
        return node.index >= self.setting.nodes

    # ── living and dying ──────────────────────────────────────────────────────────────────────

    def born(self, node: Node) -> None:
        """Start a node from what its journal holds."""
        setting = self.setting
        kernel, _node_id = self._kernel(node.key, node)
        trainer = Examples() if "critic" in setting.plugins else object()
        info = NodeInfo(
            node.node_id,
            NAME,
            self.first,
            byzantine=setting.byzantine,
            data_dir=self._data_dir(node),
            seed=setting.seed,
            validates=isinstance(trainer, Examples),
        )
        kernel.setup(info)
        watch(kernel, partial(self._blamed, node))
        node.kernel = kernel
        if node.changes is None:
            swarm = self.config.swarm
            node.changes = PendingChanges(NAME, Roster(self.first, swarm.byzantine, swarm.quorum))
        try:
            machine = round_machine(
                info, kernel, self.config.swarm, self.initial, node.journal, trainer, node.changes
            )
        except KilledError:
            self.dies(node, 0.2)
            return
        node.driver = Driver(machine, self._around(node))
        self._call(node, node.driver.start)

    def _around(self, node: Node) -> Ports:
        """What does what a node wants done."""
        return Ports(
            broadcast=partial(self._send, node, None),
            send=partial(self._send, node),
            train=partial(self._begin, node),
            tell=partial(self._told, node),
            wake=partial(self._wake, node),
        )

    def dies(self, node: Node, away: float) -> None:
        """A node is gone at once, and is back after so many seconds."""
        self.tell(f"node {node.index} dies")
        self.counts["deaths"] += 1
        node.life += 1
        node.driver = None
        node.journal.writes = None
        if node.kernel is not None and self.setting.store == "sqlite":
            node.kernel.teardown()  # so that the next life can open what this one kept
        back = self.clock.now + away
        if not self.healed:
            back = min(back, EPOCH + self.setting.heals)
        self.clock.at(back, partial(self._reborn, node, node.life))

    def _reborn(self, node: Node, life: int) -> None:
        if node.life == life and node.machine is None:
            self.tell(f"node {node.index} is back")
            self.born(node)

    def _strike(self, node: Node, writes: int, away: float, *, before: bool) -> None:
        if node.machine is None:
            return
        if writes == 0:
            self.dies(node, away)
        else:
            node.journal.writes, node.journal.before = writes, before

    # ── playing ───────────────────────────────────────────────────────────────────────────────

    @property
    def seconds(self) -> float:
        """Virtual seconds since the beginning."""
        return self.clock.now - EPOCH

    @property
    def patience(self) -> float:
        """Virtual seconds in which every honest node must add :data:`MORE` heights.

        For each of them as many attempts as there are nodes, and two more, each as long as any.
        """
        swarm = self.config.swarm
        longest = swarm.deadline + 3 * MAX_BACKOFF * swarm.vote_timeout + swarm.interval
        return MORE * (self.setting.nodes + 2) * longest

    def play(self) -> None:
        """Play to the end. Raises ViolationError."""
        masked = "secagg" in self.setting.plugins
        secrets = drawn_secrets(self.setting.seed) if masked else nullcontext()
        with secrets, mock.patch.object(Envelope, "from_bytes", opened):
            self._play()

    def _play(self) -> None:
        setting = self.setting
        try:
            for node in self.nodes[: setting.nodes]:
                self.clock.after(self.rng.uniform(0, 0.2), partial(self.born, node))
            for item in setting.revocations:
                revoked = self.ids[item.node]
                self.revoked.add(item.node)
                for node in self.nodes:
                    if node.index != item.node:
                        at = EPOCH + self.rng.uniform(item.begins, item.ends)
                        self.clock.at(at, partial(self._revoke, node, revoked))
            for shift in setting.shifts:
                self.clock.at(EPOCH + shift.at, partial(self._shift, shift))
            for kill in setting.kills:
                strike = partial(
                    self._strike,
                    self.nodes[kill.node],
                    kill.writes,
                    kill.away,
                    before=kill.before,
                )
                self.clock.at(EPOCH + kill.at, strike)
            heals = EPOCH + setting.heals
            self._until(heals, lambda: False)
            self._heal()
            goal, models = self._top().height + MORE, self._top().step
            self.tell(f"healed; every honest node must reach {goal}")
            done = self._until(heals + self.patience, lambda: self._lowest() >= goal)
            if not done:
                self._stuck(goal)
            self._judge_bans()
            top = self._top()
            if setting.calm and top.step <= models:
                raise ViolationError(f"{MORE} heights after healing, and no model: {models} before")
            self.counts["heights"], self.counts["models"] = top.height, top.step
            self.counts["changes"], self.counts["bans"] = top.roster.epoch, len(top.bans)
        finally:
            if self._folder is not None:
                for node in self.nodes if setting.store == "sqlite" else ():
                    if node.kernel is not None:
                        node.kernel.teardown()
                    node.journal.close()
                shutil.rmtree(self._folder, ignore_errors=True)

    def _heal(self) -> None:
        self.healed = True
        self.clock.now = EPOCH + self.setting.heals
        for node in self.nodes:
            node.journal.writes = None
            if node.machine is None and node.kernel is not None:
                self._reborn(node, node.life)

    def _top(self) -> Head:
        """The head of the honest node that is furthest."""
        machines = [node.machine for node in self.honest if node.machine is not None]
        return max((machine.head for machine in machines), key=lambda head: head.height)

    def _needed(self) -> list[Node]:
        """The honest members of now: they must go on."""
        roster = self._top().roster
        return [
            node
            for node in self.honest
            if node.node_id in roster
            and node.index not in self.revoked
            and not node.seat_of_liar  # its seat may be banned
        ]

    def _lowest(self) -> int:
        """The height that all of them have reached; less while a change waits at one of them."""
        least = math.inf
        for node in self._needed():
            if node.machine is None or (node.changes is not None and node.changes.waiting):
                return -1
            least = min(least, node.machine.head.height)
        return int(least)

    # ── members ───────────────────────────────────────────────────────────────────────────────

    def _shift(self, shift: Shift) -> None:
        """Have the operators of the honest members sign a change, and give it to their nodes."""
        if not any(node.machine is not None for node in self.honest):
            self.clock.after(0.1, partial(self._shift, shift))
            return
        roster = self._top().roster
        if shift.action == "return" and self.ids[shift.who] in roster:  # not removed yet
            self.clock.after(0.1, partial(self._shift, shift))
            return
        spare = next((node for node in self.nodes[self.setting.nodes :] if not node.life), None)
        member = self.ids[shift.who]
        if shift.action == "remove":
            self.nodes[shift.who].returns = False
            change = roster.change(NAME, "remove", member)
        elif shift.action == "return":
            change = roster.change(NAME, "add", member)
        elif spare is None:
            return
        elif shift.action == "add":
            change = roster.change(NAME, "add", spare.node_id)
        else:
            change = roster.change(NAME, "rotate", member, spare.node_id)
            spare.seat_of_liar = self.nodes[self.index_of[member]].lies
        try:
            after = roster.after(change)
        except QresError as error:
            self.tell(f"no change: {error}")
            return
        kernels = [node.kernel for node in self.honest if node.kernel is not None]
        if kernels[0].refusals(after.members, after.byzantine, after.quorum):
            self.tell("no change: the plugins do not work with those members")
            return
        signers = [node for node in self._needed() if node.kernel is not None]
        if len(signers) < roster.threshold:  # a new member was not born yet: ask again
            self.clock.after(0.1, partial(self._shift, shift))
            return
        change = change.signed(self._signed(node, change) for node in signers)
        self.tell(f"{len(signers)} sign: {change.action} {self.index_of[change.member]}")
        if shift.action == "return":
            self.clock.after(self.rng.uniform(0, 2), partial(self._return, self.nodes[shift.who]))
        elif spare is not None and shift.action != "remove":
            spare.life = 1
            self.clock.after(self.rng.uniform(0, 2), partial(self.born, spare))
        for node in self.nodes:
            self.clock.after(self.rng.uniform(0, 1), partial(self._offer, node, change))

    def _return(self, node: Node) -> None:
        """The operator of a member that is added again starts it, if it stopped."""
        node.returns = True
        if node.removed:
            self._start_again(node)

    def _start_again(self, node: Node) -> None:
        self.tell(f"node {node.index} is started again")
        node.removed = False
        self.dies(node, 0.01)

    def _signed(self, node: Node, change: RosterChange) -> Envelope:
        assert node.kernel is not None  # noqa: S101 - asked for before
        now = node.clock(self.clock.now)
        return node.kernel.sign(change.statement(node.node_id, int(now * 1000)))

    def _offer(self, node: Node, change: RosterChange) -> None:
        """The operator's file: it stays in the folder of a node that is down or lags."""
        kernel, changes = node.kernel, node.changes
        if kernel is None or changes is None or change.epoch > changes.roster.epoch:
            runs = any(other.machine is not None for other in self.honest)
            if not runs or self._top().roster.epoch <= change.epoch:  # else decided, or never to be
                self.clock.after(0.5, partial(self._offer, node, change))
            return
        now = node.clock(self.clock.now)
        try:
            changes.offer(change, lambda signed: kernel.authentic(signed, now))
        except QresError as error:
            self.tell(f"node {node.index} does not take the change: {error}")

    # ── events ────────────────────────────────────────────────────────────────────────────────

    def _until(self, end: float, done: Callable[[], bool]) -> bool:
        while not done():
            if self.clock.next_at > end:
                return False
            self.events += 1
            if self.events > MOST_EVENTS:
                raise ViolationError(f"livelock: {MOST_EVENTS} events in {self.seconds:.1f} s")
            self.clock.advance()
        return True

    def _call(self, node: Node, method: Callable[..., None], *arguments: Any) -> None:
        """Have a node do something."""
        try:
            method(*arguments, node.clock(self.clock.now))
        except KilledError:
            self.dies(node, 0.05 + self.rng.expovariate(1.0))
            return
        except ViolationError:
            raise
        except BrokenPromiseError as error:
            raise ViolationError(f"node {node.index} breaks a promise: {error}") from error
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"node {node.index} raised {type(error).__name__}: {error}"
            place_of = f"{Path(where.filename).name}:{where.lineno}"
            raise ViolationError(f"{what} ({place_of})") from error
        self._notes_removal(node)
        self._check(node)

    def _wake(self, node: Node, due: float) -> None:
        """Have the node look at its clock when it matters."""
        at = max(node.when(due), self.clock.now) + 1e-6
        self.clock.at(at, partial(self._tick, node, node.life))

    def _tick(self, node: Node, life: int) -> None:
        driver = node.driver
        if driver is not None and life == node.life and node.clock(self.clock.now) >= driver.due:
            self._call(node, driver.tick)

    def _train(self, node: Node, life: int, info: RoundInfo) -> None:
        driver = node.driver
        if driver is not None and life == node.life:
            self._call(node, driver.trained, info, self._update(node.index, info))

    def _update(self, index: int, info: RoundInfo) -> Update:
        """What a node trains in a round."""
        values = random.Random(f"{index} {info.number} {info.model_digest.hex()}")  # noqa: S311
        vector = [values.randrange(-99, 100) for _x in range(self.setting.dimension)]
        return Update(np.array(vector, dtype=np.int32))

    # ── effects ───────────────────────────────────────────────────────────────────────────────

    def _begin(self, node: Node, wanted: Train) -> None:
        work = partial(self._train, node, node.life, wanted.round_info)
        self.clock.after(self.setting.training * self.rng.uniform(0.8, 1.2), work)

    def _told(self, node: Node, told: Told) -> None:
        match told:
            case RoundEnded():
                outcome, number = told.outcome, told.outcome.round_info.number
                self.counts[outcome.status.value] += 1
                self._check_merged(node, told)
                how = f"{outcome.status.value} {outcome.reason}"
                self.tell(f"node {node.index} ends round {number}: {how}, and is at {node.where}")
            case Diverged(error) if not node.lies:
                raise ViolationError(f"node {node.index} diverged: {error}")
            case Removed():
                self._notes_removal(node)
                node.removed = True
                self.tell(f"node {node.index} is no member from {told.height} on")
                self._judge_removal(node)
            case Refused():
                self.tell(
                    f"node {node.index} refuses {told.reason} of"
                    f" {self.index_of.get(told.sender or b'')} round {told.round}"
                )
            case SatOut():
                self.tell(f"node {node.index} sits out: {told.reason}")
            case _:
                pass

    def _send(self, node: Node, to: NodeId | None, frame: bytes) -> None:
        """Carry a frame to one node, or to all others."""
        envelope = opened(frame)
        others = (other for other in self.nodes if other is not node)
        receivers = others if to is None else (self.nodes[self.index_of[to]],)
        if not node.lies:
            self._promised(node, envelope)
            for other in receivers:
                if envelope.kind == LINKS and self._tells_removal(frame, other):
                    self.told_removed[other.index].append((envelope, frame))
                self.carry(node, other, frame, envelope)
            return
        for other in receivers:
            for delay, octets in self.liars[node.index].says(envelope, frame, other.index):
                self.carry(node, other, octets, envelope, late=delay)

    def carry(
        self, sender: Node, receiver: Node, frame: bytes, envelope: Envelope, late: float = 0.0
    ) -> None:
        """Put a frame on its way, or lose it. ``envelope``: what it was before any lie."""
        setting, rng, seconds = self.setting, self.rng, self.seconds
        arrive = partial(self._arrive, sender, receiver, frame)
        if self.healed:
            self.clock.after(late + DELAY * rng.uniform(0.5, 1.5), arrive)
            return
        for cut in setting.cuts:
            if cut.begins <= seconds < cut.ends and (sender.index in cut.side) != (
                receiver.index in cut.side
            ):
                if cut.holds:
                    self.clock.at(EPOCH + cut.ends + rng.uniform(0, 1), arrive)
                return
        for ambush in setting.ambushes:
            if (
                ambush.begins <= seconds < ambush.ends
                and receiver.index not in ambush.spared
                and envelope.kind.endswith(ambush.kind)
            ):
                if ambush.holds:
                    self.clock.at(EPOCH + setting.heals + rng.uniform(0, 1), arrive)
                return
        if rng.random() < setting.loss:
            return
        for _copy in range(2 if rng.random() < setting.duplication else 1):
            delay = DELAY / 2 + rng.expovariate(1 / setting.spread)
            self.clock.after(late + delay, arrive)

    def _arrive(self, sender: Node, receiver: Node, frame: bytes) -> None:
        driver = receiver.driver
        if driver is None:
            return
        if self.story is not None:
            self.tell(f"{sender.index} -> {receiver.index}: {_shown(frame)}")
        if receiver.lies:
            self.liars[receiver.index].hears(frame)
        elif not receiver.is_told:
            receiver.is_told = self._tells_removal(frame, receiver)
        self.counts["messages"] += 1
        self._call(receiver, driver.receive, frame, sender.node_id)

    # ── what must hold ────────────────────────────────────────────────────────────────────────

    def _check(self, node: Node) -> None:
        """Honest nodes are at one head in one height, have one model of one step, and no blame."""
        machine = node.machine
        if machine is None or node.lies:
            return
        if self._slander:
            raise ViolationError(self._slander)
        head = machine.head
        height_is_new, node.checked = head.height != node.checked, head.height
        for kind, known, number, digest in (
            ("head", self._heads, head.height, head.digest),
            ("model", self._models, machine.step, machine.model_digest),
        ):
            first, who = known.setdefault(number, (digest, node.index))
            if first != digest:
                what = f"fork: node {who} has {kind} {first.hex()[:8]} at {number}"
                raise ViolationError(f"{what}, node {node.index} has {digest.hex()[:8]}")
        if height_is_new and model_digest(machine.model, head.step) != head.model:
            raise ViolationError(f"node {node.index} holds another model than its head names")
        for banned in head.bans:
            node = self.nodes[self.index_of[banned]]
            if not node.lies and not node.seat_of_liar:
                raise ViolationError(f"honest node {self.index_of[banned]} is banned by agreement")

    def _check_merged(self, node: Node, ended: RoundEnded) -> None:
        """What committees merged is what merging the members' whole updates gives."""
        outcome, merged = ended.outcome, ended.merged
        sharded = self.setting.swarm.get("aggregation") == "sharded"
        if not sharded or node.lies or node.kernel is None or merged is None:
            return
        info = outcome.round_info
        ones = np.ones(len(outcome.members), dtype=np.int64)
        for origin in range(info.number, 0, -1):  # a set may be of an earlier round
            made = attrs.evolve(info, number=origin)
            rows = [self._update(self.index_of[who], made).vector for who in outcome.members]
            whole = node.kernel.aggregate(Updates(np.stack(rows), outcome.members, ones), made)
            if np.array_equal(whole, merged):
                self.counts["right models"] += 1
                return
        raise ViolationError(f"node {node.index} has a model that no set of updates merges to")

    def is_back(self, index: int) -> bool:
        """Whether an honest node that may have been removed runs, and is a member in truth."""
        node = self.nodes[index]
        is_honest = not node.lies and node.machine is not None
        return is_honest and node.node_id in self._top().roster

    def _tells_removal(self, frame: bytes, to: Node) -> bool:
        """Whether an honest node says that a node is no member, whoever carries its words.

        A liar may carry them long after they were true: of that a node cannot know.
        """
        try:
            envelope = opened(frame)
            if envelope.kind != LINKS:
                return False
            after = members_after(envelope.payload)
        except QresError:
            return False
        author = self.index_of.get(envelope.sender)
        return author is not None and not self.nodes[author].lies and to.node_id not in after

    def _notes_removal(self, node: Node) -> None:
        """Whether a node that hears that it was removed has been added again by then."""
        out = node.machine is not None and node.machine.is_out
        if out and not node.hears:
            node.was_back = self.is_back(node.index)
        node.hears = out

    def _judge_removal(self, node: Node) -> None:
        """Liars alone stop no member. Who is stopped in truth and wanted is started again."""
        assert node.machine is not None  # noqa: S101 - it stopped just now
        member = node.node_id in node.machine.head.roster and node.node_id in self._top().roster
        if not node.lies and not node.is_told and member:
            raise ViolationError(f"liars tell node {node.index} that it is removed, and it stops")
        self.counts["stopped in vain"] += node.was_back
        if node.returns:
            self.clock.after(0.5, partial(self._return, node))

    def _promised(self, node: Node, envelope: Envelope) -> None:
        """An honest node says one thing of which it may say one, also across restarts."""
        if not envelope.kind.endswith(PROMISES):
            return
        key = (node.index, envelope.kind, envelope.round, envelope.head)
        said = envelope.payload
        if envelope.kind.endswith("proposal"):  # it may quote other votes for the same
            said = canonical.dumps(canonical.loads(said, max_bytes=2**26)[0])
        if self._said.setdefault(key, said) != said:
            what = f"node {node.index} sends two {envelope.kind} messages of round {envelope.round}"
            raise ViolationError(what)

    def _blamed(self, node: Node, evidence: Evidence) -> None:
        subject = self.index_of.get(evidence.subject)
        if subject is None or self.nodes[subject].lies or node.lies:
            return
        fact = evidence.fact
        self.counts[f"blamed:{fact}"] += 1
        if isinstance(fact, Fault) and fact.transferable:
            self._slander = f"node {node.index} blames honest node {subject} for {fact}"

    def _judge_bans(self) -> None:
        for node in self._needed():
            kernel = node.kernel
            for other in self._needed():
                if kernel is not None and kernel.standing(other.node_id).banned:
                    raise ViolationError(f"node {node.index} bans honest node {other.index}")

    def _stuck(self, goal: int) -> None:
        where = ", ".join(f"{node.index}: {node.where}" for node in self._needed())
        what = f"no progress: {self.patience:.0f} s after healing not all are at {goal}"
        raise ViolationError(f"{what} ({where})")

    def tell(self, line: str) -> None:
        """Tell a line of the story."""
        if self.story is not None:
            self.story(f"{self.seconds:9.4f}  {line}")


def _shown(frame: bytes) -> str:
    try:
        envelope = opened(frame)
    except Exception as error:  # noqa: BLE001 - garbage is shown as such
        return f"{len(frame)} bytes, {error}"
    who, said = envelope.sender.hex()[:6], envelope.payload_digest.hex()[:6]
    where = f"round {envelope.round} head {envelope.head.hex()[:6]}"
    return f"{envelope.kind} {where} by {who} says {said}"
