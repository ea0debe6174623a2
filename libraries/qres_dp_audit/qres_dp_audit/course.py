"""A random course of rounds: all that the plugin does in it, compared with the reference.

Nodes send, send again, sit heights out, start again, and are killed while they draw noise. In some
courses three of them have the same data, one in another swarm. In the end an older ledger is put
back. The operating system's random bytes are those of the setting's seed, so that a course replays.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import (
    Companion,
    NodeId,
    NodeInfo,
    OwnContributions,
    RoundInfo,
    Surroundings,
    Update,
    Updates,
    Vector,
    Visibility,
    vector_digest,
)
from qres_core.errors import QresError
from qres_core.training import RecordClip, by_record
from qres_dp_audit import reference
from qres_dp_audit.draw import Claim
from qres_dp_audit.reference import Integers

SMALL: Final = 1e-4
CLOSE: Final = 1e-6
"""Of an epsilon: both sides compute it in floating point."""
_SWARM: Final = "audit"
_KEY: Final = 32
_TURNS: Final = 14
_WRONG_MOST: Final = 5  # a course that went wrong so often tells no more


class Killed(BaseException):
    """The process ends here."""


class SystemBytes:
    """Bytes of the operating system: the same for the same seed, and remembered."""

    def __init__(self, seed: object) -> None:
        self._source = random.Random(f"bytes {seed}")  # noqa: S311 - a course must replay
        self.given: list[bytes] = []
        self.kills = False

    def __call__(self, size: int) -> bytes:
        """As ``os.urandom``. Raises Killed: at a key, where that was asked for."""
        if self.kills and size == _KEY:
            self.kills = False
            raise Killed
        self.given.append(self._source.randbytes(size))
        return self.given[-1]


@contextlib.contextmanager
def same_randomness(seed: object) -> Generator[SystemBytes]:
    """The operating system gives the same bytes in every such block with the same seed."""
    source = SystemBytes(seed)
    with mock.patch.object(os, "urandom", source):
        yield source


class Examples:
    """A trainer whose examples ask for the steps that they are."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.rows = rows

    def records(self) -> int:
        """Number of records."""
        return len(self.rows)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[NDArray[np.float64]]:
        """All at once."""
        del vector, round_info
        yield self.rows

    def fit(self, vector: Vector, round_info: RoundInfo) -> Any:
        """Never called."""
        raise NotImplementedError

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> dict[str, float]:
        """Nothing."""
        del vector, round_info
        return {}


@attrs.frozen
class Entry:
    """Knowledge of the reference about a charge."""

    z: float  # noise multiplier
    content: bytes  # digest of what left; empty where nothing did
    place: tuple[str, int]  # swarm and height
    node: NodeId


@attrs.define(eq=False)
class Player:
    """A node: its plugin, and what the reference knows of it."""

    node: NodeId
    swarm: str
    folder: Path | None
    book: list[Entry]  # of its ledger, which others may share
    plugin: Any = None
    own: dict[int, Integers] = attrs.field(factory=dict[int, Integers])  # its last updates, by step
    read: int = 0  # entries that it has read
    sent: int = 0  # in how many rounds
    last: int = 0  # the number of the last of them
    starts: bool = False  # again, and did not hear of a round yet
    waits: bool = False  # for the next round

    @property
    def known(self) -> OwnContributions:
        """Knowledge of its journal."""
        name = sha256(self.node).digest()[:16] if self.folder else b""
        return OwnContributions(name, self.sent, self.last)


class Course:
    """One course. ``folder``: an empty one, for the nodes' state."""

    def __init__(self, package: ModuleType, claim: Claim, folder: Path) -> None:
        self.package, self.claim, self.setting = package, claim, claim.setting
        self.chance = random.Random(f"course {self.setting.seed}")  # noqa: S311 - likewise
        self.numbers = np.random.default_rng(self.setting.seed)
        self.compared, self.wrong = 0, list[str]()
        self.number, self.height, self.step = 1, 0, 0
        self.is_over = False
        self.stormy = False  # nodes start again, and are killed; then comes a time without
        seed, table = self.setting.seed, self.setting.table
        ids = sorted(sha256(b"%d %d" % (seed, i)).digest() for i in range(self.setting.nodes))
        self.roster = tuple(map(NodeId, ids))
        self.budget = table.get("epsilon") or reference.epsilon_of(
            math.sqrt(table["rounds"]) / table["noise_multiplier"], table["delta"]
        )
        self.data = folder / "data" if self.setting.shared else None
        single, places = list[Entry](), [(0, _SWARM), (1, _SWARM)]
        if self.data:
            places.append((2, "other"))
        self.players = [
            Player(
                self.roster[i],
                swarm,
                folder / f"{i}" if self.setting.durable else None,
                single if self.data else [],
            )
            for i, swarm in places
        ]

    # ── the plugin ────────────────────────────────────────────────────────────────────────────

    def start(self, player: Player) -> None:
        """Begin a node, or begin it again."""
        setting, table = self.setting, dict(self.setting.table)
        if self.data:
            table["dataset"] = str(self.data)
        player.plugin = self.package.Dp(**table)
        records = RecordClip(setting.table["clip"], setting.records) if setting.records else None
        self.equal("records", player.plugin.claims.needs.records, records)
        info = NodeInfo(
            player.node,
            player.swarm,
            self.roster,
            byzantine=setting.byzantine,
            data_dir=str(player.folder) if player.folder else None,
            clipped=records,
            colluding=setting.colluding,
        )
        player.plugin.setup(info)
        player.starts = True

    def info(self, player: Player) -> RoundInfo:
        """The round that is open."""
        setting = self.setting
        return RoundInfo(
            player.swarm,
            self.number,
            bytes(32),
            setting.dimension,
            setting.scale,
            self.roster,
            setting.quorum,
            byzantine=setting.byzantine,
            step=self.step,
            height=self.height,
            head=sha256(b"%d" % self.height).digest(),
        )

    def equal(self, what: str, found: object, expected: object) -> None:
        """Compare."""
        self.compared += 1
        if found != expected:
            self.wrong.append(f"round {self.number}: {what} is {found}, expected {expected}")

    def refused(
        self,
        what: str,
        call: Callable[[], object],
        codes: Collection[str],
        allowed: Collection[str] = (),
    ) -> Any:
        """Result of a call; it must be refused for one of the reasons, if there are any.

        ``allowed``: reasons for which it may be.
        """
        made, found = None, ""
        try:
            made = call()
        except QresError as error:
            found = error.problems[0].code
        wanted = " or ".join(sorted(codes)) or "nothing"
        self.equal(
            what,
            f"{found or 'nothing'}",
            found if found and found in {*codes, *allowed} else wanted,
        )
        return made

    def spent(self, book: Sequence[Entry], *more: float) -> float:
        """The epsilon of all entries, and more of them."""
        mu = math.sqrt(sum(z**-2.0 for z in (*(entry.z for entry in book), *more)))
        return reference.epsilon_of(mu, self.setting.table["delta"])

    def booked(self, player: Player) -> None:
        """Compare what a plugin says was spent with the reference."""
        told, spent = player.plugin.status(), self.spent(player.book)
        player.read = len(player.book)
        self.equal("the ledger's releases", told["releases"], len(player.book))
        near = spent * (1 - CLOSE) <= told["epsilon"] <= spent * (1 + CLOSE) + SMALL
        self.equal("the epsilon spent", told["epsilon"], told["epsilon"] if near else spent)

    # ── the rounds ────────────────────────────────────────────────────────────────────────────

    def play(self) -> None:
        """All of it."""
        setting, chance = self.setting, self.chance
        turns = 4 if setting.kind == "long" else _TURNS
        with same_randomness(setting.seed) as source:
            for player in self.players:
                self.start(player)
            before: Path | None = None
            known, calm = 0, chance.randint(2, turns // 2)
            for turn in range(turns):
                self.stormy = setting.durable and turn < calm
                if setting.durable and turn == calm:
                    before, known = self.copied(), self.players[0].sent
                rounds = [(player, self.opened(player)) for player in self.players]
                for player, info in rounds:
                    self.turn(player, info, source)
                if self.is_over or len(self.wrong) > _WRONG_MOST:
                    break
                kind = chance.choice(("round", "round", "round", "attempt", "void"))
                self.number += 1
                self.height += kind != "attempt"
                self.step += kind == "round"
            if not setting.seen:
                self.sums(self.players[0])
            self.claimed(self.players[0])
            for player in self.players:
                player.plugin.teardown()
            if before is not None and not self.wrong:
                self.set_back(before, known)
                self.read()  # which renews an anchor that is behind

    def opened(self, player: Player) -> RoundInfo:
        """A round begins for a node."""
        if self.stormy and self.chance.random() < 0.2:
            player.plugin.teardown()
            self.start(player)
        info = self.info(player)
        player.plugin.round_opened(info, player.known)
        player.waits = player.starts and self.setting.seen and player.sent > 0
        player.starts = False
        self.booked(player)
        return info

    def turn(self, player: Player, info: RoundInfo, source: SystemBytes) -> None:
        """Send as a node does in a round."""
        for _ in range(self.chance.choice((0, 1, 1, 1, 1, 2))):
            if self.stormy and self.chance.random() < 0.3:
                self.killed(player, info, source)
                return
            if not self.is_over:  # it hangs on the last digit whether a release was refused
                self.release(player, info, source)

    def update(self, player: Player, info: RoundInfo) -> Vector:
        """Update that a faulty plugin would get wrong."""
        size, bound, numbers = info.dimension, self.setting.bound, self.numbers
        if self.setting.records:
            return self.of_records(player, info)
        kind = self.chance.randrange(6)
        if kind == 0:  # squares that wrap
            full = np.full(size, -(2**31), dtype=np.int64)
        elif kind == 1:
            full = numbers.integers(-(2**31), 2**31, size)
        elif kind == 2:  # all alike: the worst for clipping by parts or by coordinate
            full = np.full(size, 10 * bound // math.isqrt(size), dtype=np.int64)
        elif kind == 3:
            full = np.zeros(size, dtype=np.int64)
            full[self.chance.randrange(size)] = bound + self.chance.randint(-1, 1)
        else:  # inside the ball, and a little outside
            width = self.chance.choice((0.5, 1.5)) * bound / math.sqrt(size)
            full = np.rint(numbers.normal(0.0, width, size)).astype(np.int64)
        held: Vector = np.clip(full, -(2**31), reference.LIMIT).astype(np.int32)
        return held

    def of_records(self, player: Player, info: RoundInfo) -> Vector:
        """The sum of examples' steps; one example moves it by no more than the plan says."""
        setting, size = self.setting, info.dimension
        count = self.chance.randint(1, min(setting.records, 4))
        clip = setting.table["clip"]
        rows = self.numbers.normal(size=(count, size))
        rows *= clip * self.chance.choice((0.5, 1.0001, 1e6)) / np.linalg.norm(rows[0])
        other = rows[1:] if setting.apart == 1 else np.vstack([-rows[:1], rows[1:]])
        asked, model = player.plugin.claims.needs.records, np.zeros(size, np.int32)
        made = [by_record(Examples(part), asked).fit(model, info) for part in (rows, other)]
        vectors = [item.vector.astype(np.int64) for item in made if item is not None]
        moved, most = reference.square(vectors[0] - vectors[1]), setting.apart * setting.bound
        self.equal("an example's move", moved, min(moved, most**2))
        found: Vector = vectors[0].astype(np.int32)
        return found

    def expected(self, player: Player, vector: Vector) -> tuple[float, dict[int, Integers]]:
        """The noise multiplier that a release is charged with, and updates that are kept for it."""
        setting, table = self.setting, self.setting.table
        short = reference.clipped(vector, max(1, setting.records) * setting.bound)
        if not setting.encoded:
            return self.claim.multiplier(), {self.step: short}
        apart = [abs(self.step - item) for item in player.own if item != self.step]
        carries = reference.is_turn(player.node, self.step, table["separation"])
        carries = carries and all(lag >= table["separation"] for lag in apart)
        own = {k: v for k, v in player.own.items() if 0 < self.step - k < table["band"]}
        if carries:
            own[self.step] = short
        return self.claim.multiplier(reference.reach(own, self.step, table["band"])), own

    def reasons(self, player: Player, z: float, book: Sequence[Entry]) -> set[str]:
        """Reasons why a release is refused, with these entries in the ledger."""
        setting, place, found = self.setting, (player.swarm, self.height), set[str]()
        if player.waits:
            found.add("QRES-E507")
        others = (entry.node != player.node for entry in book if entry.place == place)
        if not setting.seen and any(others):
            found.add("QRES-E507")  # the same data twice in a sum
        used = setting.encoded and self.step >= setting.table["rounds"]
        if used or self.spent(book, z) > self.budget * (1.0 + 2 * CLOSE) + SMALL:
            found.add("QRES-E509")
        return found

    def last(self, player: Player, z: float, reasons: Collection[str]) -> bool:
        """True if a release spends the budget to the last, as far as floating point can tell."""
        left = self.budget - self.spent(player.book, z)
        return not reasons and left < 2 * CLOSE * self.budget + SMALL

    def release(self, player: Player, info: RoundInfo, source: SystemBytes) -> None:
        """One release: what leaves is the clipped update and the noise of a fresh key."""
        vector, weight = self.update(player, info), self.chance.randint(1, 99)
        z, own = self.expected(player, vector)
        reasons = self.reasons(player, z, player.book)
        source.given.clear()
        beside = Update(vector, weight, companions={"other": Companion(b"x")})
        self.refused("a companion", lambda: player.plugin.privatize(beside, info), {"QRES-E314"})
        if not self.reasons(player, z, player.book[: player.read]):
            # It is kept, and others' charges are read, before those may refuse it.
            player.own, player.read = own, len(player.book)
        is_last = self.last(player, z, reasons)
        send = lambda: player.plugin.privatize(Update(vector, weight), info)  # noqa: E731 - short
        made = self.refused("a release", send, reasons, {"QRES-E509"} if is_last else ())
        if made is None:
            self.is_over = is_last
            return
        setting = self.setting
        known = (
            own[self.step]
            if not setting.encoded
            else reference.row(own, self.step, setting.table["band"], info.dimension)
        )
        left = made.vector.astype(np.int64)
        self.equal("what leaves", self.explained(left, known, source.given), "explained")
        self.equal("the weight", (made.weight, len(made.companions)), (1, 0))
        self.enter(player, z, vector_digest(made.vector))
        player.sent += player.last != self.number
        player.last = self.number
        self.booked(player)

    def enter(self, player: Player, z: float, content: bytes) -> None:
        """A charge."""
        player.book.append(Entry(z, content, (player.swarm, self.height), player.node))

    def explained(self, left: Integers, known: Integers, given: list[bytes]) -> str:
        """Compare what left with what is known and the noise of a key that was just drawn."""
        best = left.size
        for key in given:
            if len(key) == _KEY:
                noise = reference.noise(self.claim.share, left.size, key)
                held = np.clip(known + noise, -reference.LIMIT, reference.LIMIT)
                best = min(best, int((held != left).sum()))
        return f"off in {best} of {left.size} coordinates" if best else "explained"

    # ── what goes wrong in between ────────────────────────────────────────────────────────────

    def killed(self, player: Player, info: RoundInfo, source: SystemBytes) -> None:
        """Its process ends while it draws noise, and the node starts again."""
        vector = self.update(player, info)
        z, own = self.expected(player, vector)
        source.kills = True
        try:
            player.plugin.privatize(Update(vector), info)
        except Killed:
            player.own = own  # it was kept before
        except QresError:
            pass  # nothing was drawn
        source.kills = False
        player.plugin.teardown()
        self.start(player)
        if player.plugin.status()["releases"] == len(player.book) + 1:
            self.enter(player, z, b"")
        player.plugin.round_opened(info, player.known)
        player.waits = self.setting.seen and player.sent > 0
        player.starts = False
        self.booked(player)

    @property
    def place(self) -> Path:
        """The folder of the first node's ledger."""
        return self.data or self.players[0].folder or Path()

    def copied(self) -> Path:
        """A copy of the ledger's folder, while all nodes start again."""
        for player in self.players:
            player.plugin.teardown()
        copy = self.place.with_name("copy")
        shutil.copytree(self.place, copy)
        for player in self.players:
            self.start(player)
        return copy

    def read(self) -> None:
        """Compare what ``qres dp ledger`` reads from the disk with what left."""
        out, book = io.StringIO(), self.players[0].book
        with contextlib.redirect_stdout(out):
            words = [str(self.place), "--json"]
            self.package.cli.ledger_command.main(words, standalone_mode=False)
        rows = json.loads(out.getvalue())["records"]
        self.equal("the number of rows", len(rows), len(book))
        for row, entry in zip(rows, book, strict=False):
            told = row["noise_multiplier"]
            self.equal("a charge", told, told if told <= entry.z * (1 + CLOSE) else entry.z)
            if entry.content:
                self.equal("its content", row["content"], entry.content.hex())

    def set_back(self, before: Path, known: int) -> None:
        """An older ledger is put back, with and without its anchor; both must be refused."""
        player, copies = self.players[0], {path.name for path in before.iterdir()}
        number = len(player.book)
        old = before / "dp-ledger.sqlite"
        if "dp-ledger.sqlite" not in copies or known == player.sent:
            return
        kept = self.place.with_name("kept")
        shutil.copytree(self.place, kept)
        shutil.copy(old, self.place / old.name)
        self.refused(f"a ledger cut short of {number}", lambda: self.start(player), {"QRES-E602"})
        player.plugin.teardown()
        shutil.rmtree(self.place)
        shutil.copytree(before, self.place)
        self.start(player)
        opened = lambda: player.plugin.round_opened(self.info(player), player.known)  # noqa: E731 - short
        self.refused("an older ledger", opened, {"QRES-E602"})
        player.plugin.teardown()
        shutil.rmtree(self.place)
        shutil.copytree(kept, self.place)

    # ── what must be refused ──────────────────────────────────────────────────────────────────

    def sums(self, player: Player) -> None:
        """A sum of too few nodes: too few shares of noise are in it."""
        setting, info = self.setting, self.info(player)
        enough = setting.honest + setting.watchers

        def seen(count: int) -> Updates:
            members = self.roster[:count]
            total: Vector = np.zeros((1, setting.dimension), dtype=np.int32)
            weights = np.array([count], dtype=np.int64)
            return Updates(total, members[:1], weights, members=(members,))

        for count in range(1, setting.nodes + 1):
            codes = {"QRES-E505"} if count < enough else set[str]()
            reveal = functools.partial(player.plugin.reveal, seen(count), (), info)
            self.refused(f"a sum of {count} nodes", reveal, codes)

    def claimed(self, player: Player) -> None:
        """Test the refusals of the check before the start."""
        setting = self.setting
        around = Surroundings(
            nodes=setting.nodes,
            byzantine=setting.byzantine,
            quorum=setting.quorum,
            scale=setting.scale,
            dimension=setting.dimension,
            visibility=Visibility.SUM,
            members=setting.quorum,
            colluders=max(setting.watchers, setting.byzantine),
        )
        few = attrs.evolve(around, members=setting.honest + setting.watchers - 1)
        ask: dict[str, tuple[Surroundings, bool]] = {
            "the swarm": (around, False),
            "swarm.until": (attrs.evolve(around, until="accuracy >= 0.9"), True),
            "a companion": (attrs.evolve(around, companions=("other",)), True),
        }
        if not setting.seen:
            ask["too few members"] = few, True
        for what, (asked, wrong) in ask.items():
            problems = [p for p in player.plugin.check(asked) if not isinstance(p, str)]
            self.equal(f"whether {what} is refused", bool(problems), wrong)
