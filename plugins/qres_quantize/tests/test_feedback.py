"""What rounding took away is neither lost nor added twice, whatever becomes of a contribution.

The law: of the contributions that were merged, what was sent and what is left over add up to the
updates. The oracle counts just that, and knows nothing of the plugin.
"""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_lab.testing import make_node_info, make_round_info
from qres_quantize import Quantize, feedback
from qres_quantize.feedback import FILE, KEPT, LeftOver, Sent

from qres_core import (
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    RoundStatus,
    Update,
    packing,
    stores,
)
from qres_core.errors import RoundError

SIZE = 300
ME, OTHER = bytes([1]) * 32, bytes([2]) * 32
Whole = NDArray[np.int64]


def node(node_id: bytes, folder: str | None) -> NodeInfo:
    return attrs.evolve(make_node_info(data_dir=folder), node_id=node_id, seed=3)


def named(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@attrs.define(eq=False)
class Ledger:
    """A swarm around one node, and what its merged contributions add up to."""

    folder: str | None = None
    bits: int = 2
    keeps_journal: bool = True
    number: int = 0
    height: int = 0
    step: int = 0
    made: list[tuple[int, Whole, Whole]] = attrs.field(factory=list)  # of the height
    owed: Whole = attrs.field(factory=lambda: np.zeros(SIZE, dtype=np.int64))
    decided: tuple[int, int, bytes] = (-1, 0, b"")  # height, round, head
    missed: int = 0  # heights in a row without this node
    left: int = 0  # contributions
    plugin: Quantize = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.plugin = Quantize(bits=self.bits)
        self.plugin.setup(node(ME, self.folder))

    def restart(self) -> None:
        """As after a kill: nothing is told of how rounds ended since the last one opened."""
        self.plugin.teardown()
        self.start()

    @property
    def info(self) -> RoundInfo:
        info = make_round_info(SIZE, number=self.number, model_digest=named(f"model {self.step}"))
        head = named(f"head {self.height}")
        return attrs.evolve(info, height=self.height, step=self.step, head=head)

    @property
    def own(self) -> OwnContributions:
        height, made_in, head = self.decided
        last = self.made[-1][0] if self.made else self.left
        journal = (b"j" * 16, self.left, last) if self.keeps_journal else (b"", 0, 0)
        return OwnContributions(
            *journal, height, made_in, head, silent_since=self.height - self.missed
        )

    def open(self) -> None:
        self.number += 1
        self.plugin.round_opened(self.info, self.own)

    def send(self, seed: int = 0) -> Whole:
        rng = np.random.default_rng(self.number * 1000 + seed)
        update = np.rint(rng.laplace(0, 5000, SIZE)).astype(np.int32)
        sent = self.plugin.privatize(Update(update, 1), self.info).vector.astype(np.int64)
        self.made.append((self.number, update.astype(np.int64), sent))
        self.left = self.number
        return sent

    def close(self, status: RoundStatus, *, members: tuple[bytes, ...], told: bool = True) -> None:
        info, model = self.info, named(f"model {self.step + (status is RoundStatus.CLOSED)}")
        if told:
            self.plugin.round_closed(Outcome(info, status, model, members))

    def end(self, event: str, *, told: bool = True, of: int = -1) -> None:
        """A round ends. ``of``: which of the height's contributions was decided."""
        if event == "aborted":
            self.close(RoundStatus.ABORTED, members=(), told=told)
            return
        status = RoundStatus.VOID if event == "void" else RoundStatus.CLOSED
        members = (OTHER,) if event == "left out" else (ME, OTHER)
        self.close(status, members=members, told=told)
        if event == "left out":
            self.missed += 1
        else:
            self.missed = 0
            self.decided = self.height, self.made[of][0], named(f"head {self.height}")
        if event == "merged":
            _number, update, sent = self.made[of]
            self.owed += update - sent
        self.height, self.step = self.height + 1, self.step + (status is RoundStatus.CLOSED)
        self.made.clear()

    @property
    def held(self) -> Whole:
        """What the plugin would add now."""
        self.open()
        return self.plugin._left.vector(SIZE).astype(np.int64)

    @property
    def holds(self) -> bool:
        """The law."""
        return bool(np.array_equal(self.held, self.owed))


ALWAYS, NEVER = st.sampled_from([True]), st.sampled_from([False])
EVENTS = ("merged", "void", "aborted", "left out")


def play(ledger: Ledger, events: list[tuple[str, bool, bool]]) -> None:
    for event, told, restarts in events:
        ledger.open()
        ledger.send()
        ledger.end(event, told=told)
        if restarts:
            ledger.restart()


@pytest.mark.claim("C-quantize-2")
@settings(deadline=None, max_examples=60)
@given(events=st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), NEVER), max_size=9))
def test_nothing_is_lost_or_added_twice(events: list[tuple[str, bool, bool]]) -> None:
    ledger = Ledger()
    play(ledger, events)
    assert ledger.holds


@pytest.mark.claim("C-quantize-2")
@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), st.booleans()), max_size=6))
def test_nor_by_a_node_that_is_killed_between_rounds(
    events: list[tuple[str, bool, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        play(ledger, events)
        assert ledger.holds
        ledger.plugin.teardown()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), ALWAYS, NEVER), min_size=1, max_size=8))
def test_nor_without_a_journal(events: list[tuple[str, bool, bool]]) -> None:
    ledger = Ledger(keeps_journal=False)
    play(ledger, events)
    assert ledger.holds


@pytest.mark.control("C-quantize-2")
def test_without_looking_at_what_became_of_it_the_law_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: who takes each contribution for merged, or none."""
    for event, answer in (("void", True), ("left out", True), ("merged", False)):
        monkeypatch.setattr(Quantize, "_is_merged", lambda *_args, answer=answer: answer)
        ledger = Ledger()
        play(ledger, [("merged", True, False), (event, True, False)])
        assert not ledger.holds, event
        monkeypatch.undo()
        ledger = Ledger()
        play(ledger, [("merged", True, False), (event, True, False)])
        assert ledger.holds


@pytest.mark.claim("C-quantize-2")
@pytest.mark.parametrize("told", ["told", "not told"])
@pytest.mark.parametrize("which", range(KEPT))
def test_of_several_contributions_the_one_that_was_decided_counts(which: int, told: str) -> None:
    """Rounds were aborted after a set of an earlier one was locked."""
    ledger = Ledger()
    play(ledger, [("merged", True, False)])
    for _ in range(KEPT - 1):
        ledger.open()
        ledger.send()
        ledger.end("aborted")
    ledger.open()
    ledger.send()
    ledger.end("merged", of=which, told=told == "told")
    assert ledger.holds


def test_a_contribution_that_is_no_longer_kept_leaves_nothing_over() -> None:
    """Liars that abort rounds make a node hold no more than a few vectors."""
    ledger = Ledger()
    for _ in range(KEPT + 5):
        ledger.open()
        ledger.send()
        ledger.end("aborted")
        left = ledger.plugin._left
        assert len(left.sent) <= KEPT
        assert len(left._packed) <= KEPT + 1
    ledger.open()
    ledger.send()
    ledger.end("merged", of=0)
    assert not ledger.held.any()


def test_the_same_round_again_replaces_what_was_not_sent() -> None:
    """Killed between rounding and the journal, a node trains and rounds again."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        play(ledger, [("merged", True, False)])
        ledger.open()
        first = ledger.send()
        ledger.made.pop()
        ledger.restart()
        ledger.plugin.round_opened(ledger.info, ledger.own)
        assert np.array_equal(ledger.send(), first), "the same update gives the same numbers"
        ledger.made.pop()
        assert not np.array_equal(ledger.send(seed=1), first)
        ledger.end("merged")
        assert ledger.holds
        ledger.plugin.teardown()


def test_heights_that_a_node_went_over_at_once_add_nothing_twice() -> None:
    """Nobody knows whether its contribution made a model: it counts as merged."""
    ledger = Ledger()
    play(ledger, [("merged", True, False)])
    ledger.open()
    ledger.send()
    _number, update, sent = ledger.made[-1]
    ledger.height, ledger.step, ledger.missed = ledger.height + 90, ledger.step + 80, 64
    ledger.made.clear()
    ledger.owed += update - sent
    ledger.decided = (-1, 0, b"")
    assert ledger.holds


@pytest.mark.claim("C-quantize-2")
def test_no_model_since_is_known_not_to_have_merged() -> None:
    ledger = Ledger()
    play(ledger, [("merged", True, False)])
    ledger.open()
    ledger.send()
    ledger.height, ledger.missed = ledger.height + 90, 64
    ledger.made.clear()
    ledger.decided = (-1, 0, b"")
    assert ledger.holds


@pytest.mark.claim("C-quantize-2")
@pytest.mark.control("C-quantize-5")
def test_a_store_that_is_older_than_the_journal_leaves_nothing_over(tmp_path: Path) -> None:
    """A liar with an old copy of the folder, or a backup: what it holds was added since."""
    ledger = Ledger(str(tmp_path))
    play(ledger, [("merged", True, False)])
    ledger.plugin.teardown()
    old = (tmp_path / FILE).read_bytes()
    ledger.start()
    play(ledger, [("merged", True, False)] * 2)
    ledger.plugin.teardown()
    (tmp_path / FILE).write_bytes(old)
    ledger.start()
    assert not ledger.held.any()
    (tmp_path / FILE).write_bytes(old)
    ledger.plugin.teardown()
    # The control: without the journal and the chain the old rest is added again.
    ledger.keeps_journal, ledger.decided = False, (-1, 0, b"")
    (tmp_path / FILE).write_bytes(old)
    ledger.start()
    assert ledger.held.any()
    ledger.plugin.teardown()


def set_back(ledger: Ledger, folder: Path, octets: bytes) -> None:
    ledger.plugin.teardown()
    (folder / FILE).write_bytes(octets)
    ledger.start()


@pytest.mark.parametrize("trains_first", [False, True])
def test_a_folder_that_is_older_as_a_whole_leaves_nothing_over(
    tmp_path: Path, *, trains_first: bool
) -> None:
    """Of a backup the journal is as old as the store. The chain tells what was merged since.

    ``trains_first``: it goes on where it was, before the others tell it how far they are.
    """
    ledger = Ledger(str(tmp_path))
    play(ledger, [("merged", True, False)] * 2)
    ledger.open()
    ledger.plugin.teardown()
    old, before = (tmp_path / FILE).read_bytes(), attrs.asdict(ledger, recurse=False)
    ledger.start()
    play(ledger, [("merged", True, False)] * 3)
    now = {name: getattr(ledger, name) for name in ("height", "step", "decided", "number")}
    set_back(ledger, tmp_path, old)
    ledger.left = before["left"]
    if trains_first:
        ledger.height, ledger.step = before["height"], before["step"]
        ledger.decided, ledger.number = before["decided"], before["number"]
        ledger.open()
        ledger.send()
        ledger.left = ledger.number
        ledger.made.clear()
    for name, value in now.items():
        setattr(ledger, name, value)
    assert not ledger.held.any()
    ledger.owed[:] = 0  # what was left over of those contributions is lost, and not added twice
    play(ledger, [("merged", True, False)] * 2)
    assert ledger.holds
    ledger.plugin.teardown()


@pytest.mark.claim("C-quantize-2")
@pytest.mark.parametrize("is_settled", [False, True])
def test_a_history_that_begins_anew_leaves_nothing_over(
    tmp_path: Path, *, is_settled: bool
) -> None:
    """The journal was moved away, or the training begins again from the first model.

    The last contribution may have been merged, and the node does not know of it: what was left over
    before would be added again.
    """
    ledger = Ledger(str(tmp_path))
    play(ledger, [("merged", True, False)] * 3)
    if is_settled:
        assert ledger.held.any(), "control: there is something to add"
    ledger.number, ledger.height, ledger.step = 0, 0, 0
    ledger.decided, ledger.left = (-1, 0, b""), 0
    ledger.restart()
    assert not ledger.held.any()
    ledger.owed[:] = 0
    play(ledger, [("merged", True, True)] * 2)
    assert ledger.holds
    ledger.plugin.teardown()


def test_a_killed_node_that_goes_through_earlier_rounds_of_its_height_keeps_the_rest(
    tmp_path: Path,
) -> None:
    """It was killed after rounding, and before the journal had the contribution."""
    ledger = Ledger(str(tmp_path))
    play(ledger, [("merged", True, False), ("aborted", True, False), ("aborted", True, False)])
    ledger.open()
    ledger.send()
    del ledger.made[1:]
    ledger.number = ledger.left = 2
    ledger.restart()
    ledger.open()
    ledger.made.clear()
    ledger.send()
    ledger.end("merged")
    assert ledger.holds
    ledger.plugin.teardown()


def test_a_model_of_another_size_begins_with_nothing() -> None:
    ledger = Ledger()
    play(ledger, [("merged", True, False)])
    left = ledger.plugin._left
    assert left.vector(SIZE).any() or ledger.held.any()
    assert not left.vector(SIZE + 1).any()
    left.sends(make_round_info(9), np.ones(9, dtype=np.int32))
    assert not left.vector(SIZE).any()


# ── the file ──────────────────────────────────────────────────────────────────────────────────────


def stored(folder: Path) -> LeftOver:
    return LeftOver.open(node(ME, str(folder)))


@pytest.mark.claim("C-quantize-5")
def test_the_file_is_for_its_owner_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    left = stored(tmp_path)
    rest = np.arange(-150, 150, dtype=np.int32)
    left.sends(make_round_info(SIZE, number=7), rest)
    left.settle(left.sent[0])
    left.close()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    again = stored(tmp_path)
    assert np.array_equal(again.vector(SIZE), rest)
    assert again.key == left.key
    assert again.last_round == 7
    again.close()


def test_two_nodes_have_two_keys(tmp_path: Path) -> None:
    keys = set()
    for name in "ab":
        (tmp_path / name).mkdir(mode=0o700)
        left = stored(tmp_path / name)
        keys.add(left.key)
        left.close()
    keys.add(LeftOver.open(make_node_info(data_dir=None)).key)
    assert len(keys) == 3


def test_vectors_that_do_not_count_are_not_kept(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    play(ledger, [("merged", True, False)] * 6 + [("aborted", True, False)])
    ledger.plugin.teardown()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        names = [row[0] for row in database.execute("SELECT name FROM fact")]
    assert sum(name.startswith("vector") for name in names) == 4  # sizes and pieces of two


def test_long_vectors_lie_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.Facts, "PIECE", 100)
    left = stored(tmp_path)
    rest = np.arange(SIZE, dtype=np.int32) * 999
    left.sends(make_round_info(SIZE), rest)
    assert len(packing.pack(rest)) > 300
    left.settle(left.sent[0])
    left.close()
    again = stored(tmp_path)
    assert np.array_equal(again.vector(SIZE), rest)
    again.close()


def test_the_file_of_another_node_or_swarm_is_refused(tmp_path: Path) -> None:
    stored(tmp_path).close()
    for other in (
        node(OTHER, str(tmp_path)),
        attrs.evolve(node(ME, str(tmp_path)), swarm="other"),
    ):
        with pytest.raises(RoundError, match="QRES-E602"):
            LeftOver.open(other)
    stored(tmp_path).close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", b"short"),
        ("key", 7),
        ("state", 7),
        ("state", [1, 2, 3]),
        ("state", [0, 1, 0, 0, [[1, 2]]]),
        ("state", ["0", 1, 0, 0, []]),
        ("state", [1, 2, 0, -3, []]),
        ("vector 1", -1),
        ("vector 1", 10**9),
        ("vector 1 0", 7),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    left = stored(tmp_path)
    left.sends(make_round_info(SIZE), np.arange(SIZE, dtype=np.int32))
    left.settle(left.sent[0])
    database = left._database
    assert database is not None
    stores.Facts(database, feedback._DOMAIN).write(name, value)
    left.close()
    with pytest.raises(RoundError, match="QRES-E602"):
        stored(tmp_path).vector(SIZE)


def test_a_record_that_rotted_is_refused(tmp_path: Path) -> None:
    left = stored(tmp_path)
    left.sends(make_round_info(SIZE), np.arange(SIZE, dtype=np.int32))
    left.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("UPDATE fact SET value = x'00' WHERE name = 'vector 1 0'")
        database.commit()
    with pytest.raises(RoundError, match="QRES-E602"):
        stored(tmp_path)


KILLED = """
import os, signal, sys
import attrs
import numpy as np
from qres_core import Update, stores
from qres_lab.testing import make_node_info, make_round_info
from qres_quantize import Quantize, feedback

folder, where = sys.argv[1:]
plugin = Quantize(bits=2)
plugin.setup(attrs.evolve(make_node_info(data_dir=folder), node_id=bytes([1]) * 32))
if where == "inside":
    write = stores.Facts.write
    def killing(self, name, fact):
        write(self, name, fact)
        if name == "state":
            os.kill(os.getpid(), signal.SIGKILL)
    stores.Facts.write = killing
update = np.arange(300, dtype=np.int32) * 777
sent = plugin.privatize(Update(update, 1), make_round_info(300, number=5)).vector
print(",".join(map(str, (update - sent).tolist())), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.claim("C-quantize-5")
@pytest.mark.parametrize("where", ["inside", "after"])
def test_a_killed_process_has_written_all_or_nothing(tmp_path: Path, where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(tmp_path), where],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = stored(tmp_path)
    if where == "inside":
        assert left.sent == ()
        assert done.stdout == ""
    else:
        (sent,) = left.sent
        assert sent == Sent.of(make_round_info(SIZE, number=5), sent.rest)
        left.settle(sent)
        assert left.vector(SIZE).tolist() == [int(number) for number in done.stdout.split(",")]
    left.close()


# ── in memory, for a simulation that goes on ─────────────────────────────────────────────────────


def filled() -> LeftOver:
    left = LeftOver(bytes(32))
    info = make_round_info(SIZE)
    left.sends(info, np.arange(SIZE, dtype=np.int32))
    left.settle(left.sent[-1])
    left.sends(attrs.evolve(info, number=info.number + 1), np.arange(SIZE, dtype=np.int32) + 1)
    return left


def test_what_is_told_is_taken_back() -> None:
    left, again = filled(), LeftOver(bytes(32))
    again.set_raw(left.raw())
    np.testing.assert_array_equal(again.vector(SIZE), np.arange(SIZE))
    assert again.raw() == left.raw()
    for each in (left, again):
        each.settle(each.sent[-1])
    np.testing.assert_array_equal(again.vector(SIZE), left.vector(SIZE))
    assert again.vector(SIZE)[0] == 1


def test_anything_else_is_refused() -> None:
    (rest, following, last, dimension, sent), names, packed = filled().raw()
    LeftOver(bytes(32)).set_raw(
        [[rest, following, last, dimension, sent], names, packed]
    )  # control
    for bad in (
        [["1", following, last, dimension, sent], names, packed],
        [[rest, following, last, dimension, [[*sent[0][:3], 7, sent[0][4]]]], names, packed],
        [[rest, following, last, dimension, [sent[0][:3]]], names, packed],
        [[rest, following, last, dimension, sent], names, ["x" for _ in packed]],
        [[rest, following, last, dimension, sent], names[:1], packed[:1]],
        [[rest, following, last, dimension, sent], names, packed[:1]],
        [],
        None,
    ):
        with pytest.raises((TypeError, ValueError)):
            LeftOver(bytes(32)).set_raw(bad)
