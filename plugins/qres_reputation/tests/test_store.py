"""What is kept over a restart, and what is refused."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids
from qres_reputation import Reputation
from qres_reputation.record import Conduct
from qres_reputation.rules import Belief
from qres_reputation.store import FILE, ConductStore

from qres_core import NodeInfo, Updates
from qres_core.errors import RoundError

NodeMaker = Callable[..., Any]


@pytest.fixture
def history(node: NodeMaker, spread: Callable[..., Updates], tmp_path: Path) -> Any:
    """A node with scores, a ban and a streak on disk, stopped."""
    item = node(str(tmp_path), punish=0.2)
    for _ in range(3):
        item.play(item.roster[1:], spread(7, [5]))
    item.open()
    item.against(item.roster[2])
    item.against(item.roster[2], "zk:bad-proof")
    item.contributed(item.roster[1])
    item.close()
    item.plugin.teardown()
    return item


@pytest.mark.control("C-reputation-11")
def test_a_restart_forgets_nothing(history: Any, node: NodeMaker, tmp_path: Path) -> None:
    again = node(str(tmp_path), punish=0.2)
    assert again.state() == history.state()
    assert again.banned(again.roster[2])
    assert again.streak(again.roster[5]) == 3
    again.plugin.teardown()


@pytest.mark.claim("C-trust-11")
@pytest.mark.parametrize("rule", ["additive", "beta", "ema"])
def test_a_fault_is_on_disk_before_observe_returns(
    node: NodeMaker, tmp_path: Path, rule: str
) -> None:
    item = node(str(tmp_path / "node"), rule=rule)
    item.play(item.roster)
    item.open()
    for number in range(4):
        item.against(item.roster[3], f"crash:fault-{number}")
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "node", copy)  # as a crash leaves it: nothing closed
        again = node(str(copy), rule=rule)
        assert again.state() == item.state()
        again.plugin.teardown()
    item.plugin.teardown()


@pytest.mark.control("C-reputation-11", "C-trust-11")
def test_control_a_fault_that_is_not_written_at_once_is_forgotten(
    node: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = node(str(tmp_path / "node"))
    item.play(item.roster)
    item.open()
    with monkeypatch.context() as patch:
        patch.setattr(ConductStore, "put", lambda *_: None)
        item.against(item.roster[3], "crash:fault")
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    again = node(str(tmp_path / "copy"))
    assert again.state() != item.state()
    again.plugin.teardown()
    item.plugin.teardown()


def test_only_the_owner_can_read_it(node: NodeMaker, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    item = node(str(folder))
    item.play(item.roster)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [FILE, f"{FILE}-shm", f"{FILE}-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    item.plugin.teardown()


def test_leftovers_of_a_killed_creation_are_removed(node: NodeMaker, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new-abc").write_bytes(b"half a store")
    node(str(tmp_path)).plugin.teardown()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# ── another node, another roster, other options ───────────────────────────────────────────────────


def refused(data_dir: Path, message: str, **changes: Any) -> None:
    roster = make_node_ids(7)
    info = NodeInfo(roster[0], "lab", roster, data_dir=str(data_dir))
    with pytest.raises(RoundError, match=message) as caught:
        Reputation(punish=0.2).setup(attrs.evolve(info, **changes))
    (problem,) = caught.value.problems
    assert problem.code == "QRES-E602"
    assert problem.where == str(data_dir / FILE)
    assert problem.fix


@pytest.mark.claim("C-reputation-11")
@pytest.mark.usefixtures("history")
def test_the_file_of_another_node_or_swarm_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "belongs to another swarm", swarm="other")
    refused(tmp_path, "belongs to another node", node_id=make_node_ids(7)[1])


@pytest.mark.usefixtures("history")
def test_a_changed_roster_keeps_bans(tmp_path: Path) -> None:
    old = make_node_ids(7)
    new = tuple(sorted([*(n for n in old if n != old[2]), b"\1" * 32]))
    plugin = Reputation(punish=0.2)
    plugin.setup(NodeInfo(old[0], "lab", new, data_dir=str(tmp_path)))
    assert plugin._ledger.records.keys() == set(new)
    assert plugin._ledger.records[b"\1" * 32].belief.score == 500_000
    plugin.teardown()
    plugin.setup(NodeInfo(old[0], "lab", old, data_dir=str(tmp_path)))
    assert plugin.reputation(old[2]).banned
    plugin.teardown()


@pytest.mark.parametrize("rule", ["beta", "ema"])
def test_another_rule_takes_over_scores_and_bans(
    history: Any, node: NodeMaker, tmp_path: Path, rule: str
) -> None:
    again = node(str(tmp_path), rule=rule)
    for member in history.roster:
        assert again.state()[member].until == history.state()[member].until
        assert 0 <= again.score(member) - history.score(member) <= 2
    again.plugin.teardown()
    once_more = node(str(tmp_path), rule=rule)
    assert once_more.state() == again.state()
    # And the evidence goes with the score: the next act moves it from where it is.
    low = again.roster[5]
    once_more.open()
    once_more.against(low)
    assert again.score(low) * 0.7 < once_more.score(low) < again.score(low)
    once_more.plugin.teardown()


# ── damage ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-reputation-11")
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@example(place=0.2421875, flip=128)  # in the text of the schema: SQLite's report does not decode
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_flipped_byte_is_refused_or_without_effect(
    history: Any, node: NodeMaker, tmp_path: Path, place: float, flip: int
) -> None:
    octets = bytearray((tmp_path / FILE).read_bytes())
    octets[int(place * len(octets))] ^= flip
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(tmp_path / FILE, folder)  # with its mode
    (folder / FILE).write_bytes(octets)
    try:
        again = node(str(folder), punish=0.2)
    except RoundError as error:
        assert error.code == "QRES-E602"  # noqa: PT017 - both outcomes are right
    else:
        assert again.state() == history.state()
        again.plugin.teardown()


@pytest.mark.claim("C-reputation-11")
@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("length", [0, 1, 100, 4096, 5000])
def test_a_shortened_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:length])
    refused(tmp_path, "QRES-E602")


@pytest.mark.claim("C-reputation-11")
@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        ("UPDATE node SET until = 0", "record of node [0-9a-f]{16} is damaged"),
        ("UPDATE node SET score = 1000000", "record of node [0-9a-f]{16} is damaged"),
        ("UPDATE node SET score = 'high'", "record of a node is damaged"),
        ("UPDATE node SET id = 'me' WHERE score < 200000", "record of a node is damaged"),
        ("DELETE FROM node WHERE until > 0", "6 nodes where 7 were written"),
        ("DELETE FROM node", "0 nodes where 7 were written"),
        ("DELETE FROM fact WHERE name = 'round'", "record 'round' is damaged"),
        ("UPDATE fact SET value = x'f6' WHERE name = 'settings'", "record 'settings' is damaged"),
        ("DELETE FROM fact WHERE name = 'identity'", "record 'identity' is damaged"),
        ("DROP TABLE node", "no such table"),
        ("PRAGMA user_version=2", "version 2; this qres-reputation reads version 1"),
        ("PRAGMA application_id=7", "not a reputation store of QRES"),
    ],
)
def test_tampering_is_refused(tmp_path: Path, tampering: str, message: str) -> None:
    db = sqlite3.connect(tmp_path / FILE)
    db.execute(tampering)
    db.commit()
    db.close()
    refused(tmp_path, message)


@pytest.mark.usefixtures("history")
def test_a_well_made_fact_that_cannot_be_is_refused(tmp_path: Path) -> None:
    store = ConductStore(tmp_path)
    row = ("round", b"\xff", store._facts.digest("round", b"\xff"))
    store._db.execute("REPLACE INTO fact VALUES (?, ?, ?)", row)
    store.close()
    refused(tmp_path, "cannot be read")


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    "conduct",
    [
        Conduct(Belief(2_000_000)),
        Conduct(Belief(-1)),
        Conduct(Belief(1, good=-1)),
        Conduct(Belief(1, bad=-1)),
        Conduct(Belief(1), until=-2),
        Conduct(Belief(1), streak=-1),
    ],
)
def test_a_well_made_record_that_cannot_be_is_refused(tmp_path: Path, conduct: Conduct) -> None:
    store = ConductStore(tmp_path)
    with store.transaction():
        store.put({make_node_ids(7)[1]: conduct})
    store.close()
    refused(tmp_path, "makes no sense")


def test_a_lost_file_is_not_begun_anew_over_its_log(history: Any, tmp_path: Path) -> None:
    del history
    (tmp_path / f"{FILE}-wal").write_bytes(b"")
    (tmp_path / FILE).unlink()
    refused(tmp_path, "the file is missing and its write-ahead log is not")


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "data", "Not a directory")


@pytest.mark.usefixtures("history")
def test_a_file_locked_for_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qres_core.contract.stores.database.BUSY_SECONDS", 0.01)
    db = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    refused(tmp_path, "another process kept it locked")
    db.close()


def test_a_disk_that_refuses_stops_the_node_and_changes_nothing(
    node: NodeMaker, tmp_path: Path
) -> None:
    item = node(str(tmp_path))
    item.play(item.roster)
    before = item.state()
    item.open()
    item.plugin._ledger._store._db.execute("PRAGMA query_only=ON")
    with pytest.raises(RoundError, match="readonly") as caught:
        item.against(item.roster[1])
    assert caught.value.code == "QRES-E602"
    assert item.state() == before
    item.plugin.teardown()
    with pytest.raises(RoundError, match="closed database"):
        item.plugin.reputation(item.roster[1])


def test_a_row_that_vanishes_under_a_running_node_is_refused(
    node: NodeMaker, tmp_path: Path
) -> None:
    item = node(str(tmp_path))
    other = ConductStore(tmp_path)
    with other.transaction():
        other._db.execute("DELETE FROM node WHERE id = ?", (item.roster[1],))
        other.put({})
    other.close()
    with pytest.raises(RoundError, match="1 nodes of the roster are gone"):
        item.plugin.reputation(item.roster[2])
    item.plugin.teardown()


def test_commits_wait_for_the_disk(node: NodeMaker, tmp_path: Path) -> None:
    # No kill shows this, only a power loss would: 2 is FULL.
    item = node(str(tmp_path))
    assert item.plugin._ledger._store._db.one("PRAGMA synchronous") == 2
    assert item.plugin._ledger._store._db.one("PRAGMA journal_mode") == "wal"
    item.plugin.teardown()


def test_weights_stay_until_the_next_round_opens_also_with_a_store(
    node: NodeMaker, tmp_path: Path
) -> None:
    item = node(str(tmp_path), exponent=1, influence_cap=1.0)
    item.open()
    before = [item.plugin.reputation(member) for member in item.roster]
    item.against(item.roster[2])
    assert item.score(item.roster[2]) < item.score(item.roster[1])
    assert [item.plugin.reputation(member) for member in item.roster] == before
    item.close()
    item.open()
    after = [item.plugin.reputation(member) for member in item.roster]
    assert after[2].weight < before[2].weight
    item.plugin.teardown()
