"""What a node remembers over restarts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from qres_secagg.store import FILE, KEPT_ROUNDS, SessionStore

from qres_core import stores
from qres_core.dialogues import MAX_VOID_SETS
from qres_core.errors import RoundError

NODE = b"n" * 32


def opened(folder: Path | None, swarm: str = "s", node: bytes = NODE) -> SessionStore:
    """The store of a folder; a new one where there is none."""
    if folder is not None and not SessionStore.exists(folder):
        return SessionStore.begin(folder, swarm=swarm, node_id=node)
    return SessionStore(folder, swarm=swarm, node_id=node)


def test_a_session_is_taken_once_also_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path / "deep" / "er")
    assert store.take(b"a" * 32, 1)
    assert not store.take(b"a" * 32, 1)
    assert store.take(b"b" * 32, 1)
    store.close()
    again = opened(tmp_path / "deep" / "er")
    assert not again.take(b"a" * 32, 1)
    assert again.take(b"c" * 32, 2)


def test_it_is_on_the_disk_before_the_call_returns(tmp_path: Path) -> None:
    """Killed at once: the file is copied while the store is still open."""
    store = opened(tmp_path / "a")
    store.take(b"a" * 32, 1)
    copied = tmp_path / "b"
    copied.mkdir()
    for part in (tmp_path / "a").iterdir():
        shutil.copy(part, copied)
    again = opened(copied)
    assert not again.take(b"a" * 32, 1)


def test_old_rounds_are_used_up_all_together(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.take(b"a" * 32, 5)
    assert store.take(b"b" * 32, KEPT_ROUNDS + 10)
    assert not store.take(b"a" * 32, 5)
    assert not store.take(b"z" * 32, 10)  # never seen, and refused: it may have been
    assert store.take(b"z" * 32, 11)
    assert store._db.execute("SELECT count(*) FROM used").fetchone() == (2,)


def test_a_weight_is_kept_for_a_model_also_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.weight_for(b"a" * 32, 5) == 5
    assert store.weight_for(b"a" * 32, 7) == 5
    copied = tmp_path / "killed"
    copied.mkdir()
    for part in tmp_path.glob(f"{FILE}*"):
        shutil.copy(part, copied)
    for again in (store, opened(copied)):
        assert again.weight_for(b"a" * 32, 7) == 5
        assert again.weight_for(b"b" * 32, 7) == 7
        assert again._db.execute("SELECT count(*) FROM counted").fetchone() == (1,)


@pytest.mark.claim("C-secagg-11")
def test_no_set_is_stated_unless_the_one_before_is_on_record(tmp_path: Path) -> None:
    a, b, c, m, other = (letter * 32 for letter in (b"a", b"b", b"c", b"m", b"o"))
    store = opened(tmp_path)

    def states(step: int, model: bytes, record: bytes, chosen: bytes) -> bool:
        return store.states(step, model, record, chosen)

    assert states(4, m, b"", a)
    assert states(4, m, b"", a)  # in another round of the height, or a history that is the same
    assert not states(4, m, b"", b)
    assert not states(4, m, c, b)
    assert states(4, m, a, b)
    for record in (b"", a, b, b + a, a + c):
        assert not states(4, m, record, c), record
    store.close()
    store = opened(tmp_path)  # it is on the disk
    assert not states(4, m, a, c)
    assert states(4, m, a + c + b, c)
    assert not states(3, other, b"", a)  # a model of before
    assert not states(4, other, b"", a)  # another one of this step
    assert states(5, other, b"", a)
    assert not states(4, m, a + c + b + c, a)


def test_a_set_that_came_to_a_full_record_is_on_none(tmp_path: Path) -> None:
    store = opened(tmp_path)
    full = b"".join(bytes([index]) * 32 for index in range(MAX_VOID_SETS))
    assert store.states(1, b"m" * 32, full[32:], b"x" * 32)
    assert not store.states(1, b"m" * 32, full[32:] + full[:32], b"y" * 32)
    assert store.states(1, b"m" * 32, full[32:] + b"x" * 32, b"y" * 32)
    assert store.states(1, b"m" * 32, full[32:] + b"x" * 32, b"z" * 32)


def test_in_memory_where_nothing_may_be_kept() -> None:
    history = opened(None).of_round(3)
    assert history.begin(b"a" * 32)
    assert not history.begin(b"a" * 32)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    opened(tmp_path / "made").close()
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "made" / FILE).stat().st_mode) == 0o600


def test_one_that_is_missing_is_not_begun_by_opening_it(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="there is no such file") as caught:
        SessionStore(tmp_path, swarm="s", node_id=NODE)
    assert caught.value.code == "QRES-E602"
    assert not list(tmp_path.iterdir())


def test_one_that_is_there_is_not_begun_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.take(b"a" * 32, 1)
    store.close()
    with pytest.raises(RoundError) as caught:
        SessionStore.begin(tmp_path, swarm="s", node_id=NODE)
    assert caught.value.code == "QRES-E602"
    assert not opened(tmp_path).take(b"a" * 32, 1)
    assert {path.name for path in tmp_path.iterdir()} <= {FILE, f"{FILE}-wal"}


def test_its_name_appears_with_the_whole_of_it_and_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    link, sync = os.link, stores.sync_folder

    def linked(new: str, path: Path) -> None:
        with closing(sqlite3.connect(new)) as db:
            assert db.execute("SELECT node FROM owner").fetchall() == [(NODE,)]
        steps.append("link")
        link(new, path)

    def synced(folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} == {FILE}
        steps.append("sync")
        sync(folder)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr("qres_core.contract.stores.database.sync_folder", synced)
    opened(tmp_path).close()
    assert steps == ["link", "sync"]


@pytest.mark.parametrize("log", ["-journal", "-wal"])
def test_what_is_left_of_a_removed_store_is_not_rolled_back_into_a_new_one(
    tmp_path: Path, log: str
) -> None:
    (tmp_path / f"{FILE}{log}").write_bytes(os.urandom(2048))
    for begin in (opened, lambda folder: SessionStore.begin(folder, swarm="s", node_id=NODE)):
        with pytest.raises(RoundError) as caught:
            begin(tmp_path)
        assert caught.value.code == "QRES-E602"
    (tmp_path / f"{FILE}{log}").unlink()
    assert opened(tmp_path).take(b"a" * 32, 1)  # control


@pytest.mark.parametrize(
    "what", ["garbage", "other", "cut", "empty", "swarm", "node", "version", "open"]
)
def test_what_is_not_its_own_whole_store_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE
    store = opened(tmp_path)
    store._db.execute("BEGIN")  # one wait for the disk, not two hundred
    for i in range(200):
        store._db.execute("INSERT INTO used VALUES (?, ?)", (bytes([i]) * 32, i))
    store._db.execute("COMMIT")
    if what != "open":
        store.close()
    if what == "garbage":
        path.write_bytes(os.urandom(8192))
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "other":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE notes (text)")
        db.close()
    elif what == "version":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 9")
        db.close()
    swarm = "t" if what == "swarm" else "s"
    node = b"m" * 32 if what == "node" else NODE
    with pytest.raises(RoundError) as caught:
        opened(tmp_path, swarm, node)
    assert caught.value.code == "QRES-E602"


def test_one_of_before_the_record_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("CREATE TABLE spent (name BLOB PRIMARY KEY, round INTEGER NOT NULL)")
        db.execute("PRAGMA user_version = 1")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(RoundError, match="version 1; this qres-secagg reads version 3") as caught:
        opened(tmp_path)
    assert "begin a new swarm, in which every node has a new folder" in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RoundError) as caught:
        opened(tmp_path / "file" / "folder")
    assert caught.value.code == "QRES-E602"
