"""Private stores: whole, durable, for one owner, and refused by name in every other state."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import pytest

from qres_core.contract.stores import (
    Facts,
    PrivateDatabase,
    StoreKind,
    clear_leftovers,
    create_file,
    database,
    files,
    make_folder,
    refuse_loose,
    replace_file,
)
from qres_core.errors import LabError, RoundError

KIND = StoreKind(
    file="notes.sqlite",
    name="a store of notes",
    application_id=0x4E4F5445,
    version=3,
    reader="qres-notes",
    remedy="bring it back",
)
SHARED = attrs.evolve(KIND, shared=True)
KINDS = pytest.mark.parametrize("kind", [KIND, SHARED], ids=["exclusive", "shared"])
posix = pytest.mark.skipif(os.name != "posix", reason="modes and limits are POSIX")


def fill(store: PrivateDatabase) -> None:
    store.execute("CREATE TABLE note (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    store.execute("CREATE INDEX by_body ON note (body)")


def opened(folder: Path, kind: StoreKind = KIND) -> PrivateDatabase:
    return PrivateDatabase.open(folder, kind, fill)


def note(store: PrivateDatabase, number: int, body: bytes = b"body") -> None:
    with store.transaction():
        store.execute("INSERT INTO note VALUES (?, ?)", (number, body))


def notes(folder: Path, kind: StoreKind = KIND) -> list[int]:
    with closing(PrivateDatabase.open(folder, kind)) as store:
        return [row[0] for row in store.rows("SELECT number FROM note ORDER BY number")]


def refused(action: Callable[[], object], what: str, folder: Path) -> RoundError:
    with pytest.raises(RoundError, match=what or None) as caught:
        action()
    (problem,) = caught.value.problems
    assert problem.code == "QRES-E602"
    assert problem.where == str(folder / KIND.file)
    assert problem.fix
    return caught.value


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with a store of a hundred notes, closed."""
    with closing(opened(tmp_path)) as store, store.transaction():
        store.execute_many("INSERT INTO note VALUES (?, ?)", [(n, bytes(80)) for n in range(100)])
    return tmp_path


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """As a user whom modes hold back: root is told ``folder`` is his and put aside."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# ── making ────────────────────────────────────────────────────────────────────────────────────


@KINDS
def test_created_tells_a_new_store_from_one_that_was_there(tmp_path: Path, kind: StoreKind) -> None:
    for expected in (True, False):
        with closing(opened(tmp_path, kind)) as store:
            assert store.created is expected
    (tmp_path / kind.file).unlink()
    with closing(opened(tmp_path, kind)) as store:
        assert store.created  # and nobody but its user knows that one was lost


@posix
@KINDS
def test_folder_file_and_logs_are_the_owners_alone(tmp_path: Path, kind: StoreKind) -> None:
    old = os.umask(0)
    try:
        with closing(opened(tmp_path / "a" / "b", kind)) as store:
            note(store, 1)
            found = list((tmp_path / "a" / "b").iterdir())
            assert {item.name for item in found} >= {kind.file, f"{kind.file}-wal"}
            assert {stat.S_IMODE(item.stat().st_mode) for item in found} == {0o600}
    finally:
        os.umask(old)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@KINDS
def test_the_policy_is_the_one_written_down(tmp_path: Path, kind: StoreKind) -> None:
    with closing(opened(tmp_path, kind)) as store:
        assert store.one("PRAGMA journal_mode") == "wal"
        assert store.one("PRAGMA synchronous") == 2  # FULL; only a power loss would show it
        assert store.one("PRAGMA fullfsync") == 1
        assert store.one("PRAGMA busy_timeout") == (5000 if kind.shared else 0)


def test_a_page_size_is_kept(tmp_path: Path) -> None:
    with closing(opened(tmp_path, attrs.evolve(KIND, page_bytes=1024))) as store:
        assert store.one("PRAGMA page_size") == 1024


def test_its_name_appears_with_the_whole_of_it_and_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    link, sync = os.link, files.sync_folder

    def linked(new: Path, path: Path) -> None:
        with closing(sqlite3.connect(new)) as db:
            assert db.execute("SELECT count(*) FROM note").fetchall() == [(0,)]
            assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
        steps.append("link")
        link(new, path)

    def synced(folder: Path) -> None:
        assert [path.name for path in folder.iterdir()] == [KIND.file]
        steps.append("sync")
        sync(folder)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(database, "sync_folder", synced)
    opened(tmp_path).close()
    assert steps == ["link", "sync"]


def test_a_store_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def bad(store: PrivateDatabase) -> None:
        fill(store)
        store.execute("CREATE TABLE note (again)")

    refused(lambda: PrivateDatabase.open(tmp_path, KIND, bad), "already exists", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_creation_left_is_cleared_away(tmp_path: Path) -> None:
    for tail in ("", "-journal"):
        (tmp_path / f"{KIND.file}.new-abc{tail}").write_bytes(b"half")
    opened(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [KIND.file]


def test_a_new_one_is_never_made_over_one_that_is_there(kept: Path) -> None:
    def create() -> PrivateDatabase:
        return PrivateDatabase.create(kept, KIND, fill)

    refused(create, "there is one already", kept)
    assert len(notes(kept)) == 100
    (kept / KIND.file).unlink()
    create().close()  # control
    assert notes(kept) == []


@pytest.mark.parametrize("tail", ["-wal", "-journal"])
def test_a_log_without_its_file_is_not_begun_anew(tmp_path: Path, tail: str) -> None:
    left = tmp_path / f"{KIND.file}{tail}"
    left.write_bytes(os.urandom(2048))
    assert PrivateDatabase.exists(tmp_path, KIND)
    for begin in (opened, lambda folder: PrivateDatabase.open(folder, KIND)):
        refused(lambda begin=begin: begin(tmp_path), "its write-ahead log is not", tmp_path)  # type: ignore[misc]
    assert [path.name for path in tmp_path.iterdir()] == [left.name]
    left.unlink()
    opened(tmp_path).close()  # control


def test_a_missing_one_is_not_made_by_who_expects_it(tmp_path: Path) -> None:
    assert not PrivateDatabase.exists(tmp_path, KIND)
    refused(lambda: PrivateDatabase.open(tmp_path, KIND), "there is no such file", tmp_path)
    assert not list(tmp_path.iterdir())


def test_in_memory() -> None:
    with closing(PrivateDatabase.in_memory(KIND, fill)) as store:
        assert store.created
        note(store, 1)
        assert store.rows("SELECT number FROM note") == [(1,)]
        assert store.row("SELECT number FROM note WHERE number = ?", 2) is None
        assert store.one("SELECT number FROM note WHERE number = ?", 2) is None


# ── what is refused ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_a_torn_file_is_refused_and_left_alone(kept: Path, share: float) -> None:
    whole = (kept / KIND.file).read_bytes()
    torn = whole[: int(len(whole) * share)]
    (kept / KIND.file).write_bytes(torn)
    refused(lambda: opened(kept), "", kept)
    assert (kept / KIND.file).read_bytes() == torn
    (kept / KIND.file).write_bytes(whole)
    assert len(notes(kept)) == 100  # control


def test_a_row_that_an_index_does_not_know_is_damage(kept: Path) -> None:
    entry = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'by_body'"
    with closing(sqlite3.connect(kept / KIND.file, isolation_level=None)) as db:
        row = db.execute(entry).fetchone()
        db.execute("PRAGMA writable_schema=ON")
        db.execute("DELETE FROM sqlite_schema WHERE name = 'by_body'")
    with closing(sqlite3.connect(kept / KIND.file, isolation_level=None)) as db:
        db.execute("UPDATE note SET body = x'00' WHERE number = 7")
        db.execute("PRAGMA writable_schema=ON")
        db.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
    with closing(sqlite3.connect(kept / KIND.file)) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)  # which is not enough
    refused(lambda: opened(kept), "the file is damaged", kept)


@pytest.mark.parametrize("content", [b"garbage" * 2000, b"", b"x"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KIND.file).write_bytes(content)
    (tmp_path / KIND.file).chmod(0o600)
    refused(lambda: opened(tmp_path), "", tmp_path)
    assert (tmp_path / KIND.file).read_bytes() == content


@pytest.mark.parametrize(
    ("header", "what", "fix"),
    [
        ("application_id = 7", "not a store of notes", "bring it back"),
        ("user_version = 4", "version 4; this qres-notes reads version 3", "run the qres-notes"),
        ("user_version = 2", "version 2; this qres-notes reads version 3", "run the qres-notes"),
    ],
)
def test_another_kind_or_version_is_refused(kept: Path, header: str, what: str, fix: str) -> None:
    with closing(sqlite3.connect(kept / KIND.file)) as db:
        db.execute(f"PRAGMA {header}")
    before = (kept / KIND.file).read_bytes()
    assert fix in str(refused(lambda: opened(kept), what, kept))
    assert (kept / KIND.file).read_bytes() == before


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660])
def test_a_file_that_others_may_use_is_refused(kept: Path, mode: int) -> None:
    (kept / KIND.file).chmod(mode)
    error = refused(lambda: opened(kept), f"mode {mode:04o}: others than the owner", kept)
    assert "chmod 600" in str(error)
    (kept / KIND.file).chmod(0o600)
    assert len(notes(kept)) == 100  # control


@posix
@KINDS
def test_a_folder_that_is_read_only_is_refused(kind: StoreKind) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qres-stores-"))
    try:
        with nobody(folder):
            folder.chmod(0o500)
            refused(lambda: opened(folder, kind), "Permission denied", folder)
            folder.chmod(0o700)
            opened(folder, kind).close()  # control
            folder.chmod(0o500)
            refused(lambda: opened(folder, kind), "", folder)
            folder.chmod(0o700)
            assert notes(folder, kind) == []
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "data", tmp_path / "file" / "a" / "b"):
        refused(lambda folder=folder: opened(folder), "", folder)  # type: ignore[misc]


def test_a_store_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / KIND.file).mkdir()
    refused(lambda: opened(tmp_path), "not a file", tmp_path)


def test_a_file_system_without_logs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PrivateDatabase.one

    def item(self: PrivateDatabase, query: str, *values: object) -> object:
        return "delete" if query == "PRAGMA journal_mode=WAL" else original(self, query, *values)

    monkeypatch.setattr(PrivateDatabase, "one", item)
    refused(lambda: opened(tmp_path), "no write-ahead log in this folder", tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_owner_is_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as store:
        store.expect_owner(swarm=("s", "s"), initial_model=(b"1", b"1"))
        for pair, what in (
            ({"swarm": ("s", "t")}, "another swarm, 't'"),
            ({"initial_model": (b"1", b"2")}, "another initial model"),
        ):
            refused(lambda pair=pair: store.expect_owner(**pair), what, tmp_path)  # type: ignore[misc]


# ── commits ───────────────────────────────────────────────────────────────────────────────────


@KINDS
def test_a_commit_is_in_a_copy_made_when_it_returns(tmp_path: Path, kind: StoreKind) -> None:
    with closing(opened(tmp_path / "live", kind)) as store:
        for number in range(5):
            note(store, number)
            shutil.copytree(tmp_path / "live", tmp_path / "image")
            assert notes(tmp_path / "image", kind) == list(range(number + 1))
            shutil.rmtree(tmp_path / "image")


def test_a_transaction_that_fails_changes_nothing(kept: Path) -> None:
    with closing(opened(kept)) as store:
        for error in (KeyError, OSError):

            def fails(error: type[Exception] = error) -> None:
                with store.transaction():
                    store.execute("DELETE FROM note")
                    raise error

            with pytest.raises(error):
                fails()
        refused(lambda: note(store, 7), "UNIQUE", kept)
        note(store, 100)
    assert len(notes(kept)) == 101


def test_without_room_the_remedy_is_room_and_nothing_is_lost(kept: Path) -> None:
    with closing(opened(kept)) as store:
        pages = store.one("PRAGMA page_count")
        store.execute(f"PRAGMA max_page_count = {pages}")
        error = refused(lambda: note(store, 100, bytes(1 << 16)), "full", kept)
        assert "make room" in str(error)
        assert KIND.remedy not in str(error)  # moving a whole store away would lose what it holds
        store.execute(f"PRAGMA max_page_count = {pages + 100}")  # control: there is room
        note(store, 100, bytes(1 << 16))
    assert len(notes(kept)) == 101


@posix
def test_a_shared_store_without_room_for_its_index_asks_for_room(tmp_path: Path) -> None:
    import resource  # noqa: PLC0415 - POSIX

    with closing(opened(tmp_path, SHARED)) as store:
        note(store, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the index has 32 KiB
    try:
        error = refused(lambda: notes(tmp_path, SHARED), "disk I/O error", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in str(error)
    assert notes(tmp_path, SHARED) == [1]  # control: there is room, and nothing is lost


@KINDS
@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_is_gone_takes_no_more_commits(
    tmp_path: Path, kind: StoreKind, what: str
) -> None:
    with closing(opened(tmp_path, kind)) as store:
        note(store, 1)  # control
        path = tmp_path / kind.file
        path.rename(tmp_path / "away")
        if what == "replaced":
            shutil.copyfile(tmp_path / "away", path)
        refused(lambda: note(store, 2), f"the file was {what} while it was open", tmp_path)
        (tmp_path / "away").rename(path)
        note(store, 3)  # control: back where it was
    assert notes(tmp_path, kind) == [1, 3]


def test_one_state_holds_while_others_write(tmp_path: Path) -> None:
    with closing(opened(tmp_path, SHARED)) as store, closing(opened(tmp_path, SHARED)) as other:
        count = "SELECT count(*) FROM note"
        with store.one_state():
            assert store.one(count) == 0
            note(other, 1)
            assert store.one(count) == 0
        assert store.one(count) == 1
        with store.transaction(), store.one_state():  # that of the transaction
            store.execute("DELETE FROM note")
            assert store.one(count) == 0
        assert other.one(count) == 0


def test_a_closed_store_says_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.close()
    store.close()
    refused(lambda: note(store, 1), "closed", tmp_path)
    refused(lambda: store.one("SELECT 1"), "closed", tmp_path)


# ── several at once ───────────────────────────────────────────────────────────────────────────


def test_a_second_one_is_refused_at_once_until_the_first_is_gone(kept: Path) -> None:
    with closing(opened(kept)):
        error = refused(lambda: opened(kept), "another process has it open", kept)
        assert "a node runs once" in str(error)
    opened(kept).close()


def test_a_shared_one_waits_and_then_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.02)
    with closing(opened(tmp_path, SHARED)) as store, closing(opened(tmp_path, SHARED)) as other:
        with other.transaction():
            refused(lambda: note(store, 1), "kept it locked for 0.02 seconds", tmp_path)
        note(store, 1)  # control


WORKER = """
import sys
from pathlib import Path
import attrs
from qres_core.errors import QresError
from qres_core.contract.stores import PrivateDatabase, StoreKind, database

kind = StoreKind(file="notes.sqlite", name="a store of notes", application_id=0x4E4F5445, version=3,
                 reader="qres-notes", remedy="bring it back", shared=sys.argv[2] == "shared")
sql = "CREATE TABLE note (number INTEGER, body BLOB)"
database.BUSY_SECONDS = 600.0  # however slow the disk is
sys.stdin.readline()
for number in range(30):
    folder = Path(sys.argv[1], str(number))
    try:
        store = PrivateDatabase.open(folder, kind, lambda store: store.execute(sql))
    except QresError as error:
        print(error.problems[0].code, error.problems[0].what, sep="\\t", flush=True)
        continue
    with store.transaction():
        store.execute("INSERT INTO note VALUES (?, x'')", (number,))
    store.close()
    print("created" if store.created else "found", flush=True)
"""


@pytest.mark.parametrize("how", ["exclusive", "shared"])
def test_processes_that_open_it_at_once_make_one(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), how]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=900)[0].splitlines() for worker in workers]
    for number, outcomes in enumerate(zip(*said, strict=True)):
        assert outcomes.count("created") <= 1, outcomes
        refusals = {outcome for outcome in outcomes if outcome.startswith("QRES")}
        if how == "shared":
            assert not refusals
            assert outcomes.count("created") == 1
        assert refusals <= {"QRES-E602\tanother process has it open"}
        kind = SHARED if how == "shared" else KIND
        assert len(notes(tmp_path / str(number), kind)) == 3 - sum(
            outcome.startswith("QRES") for outcome in outcomes
        )
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == [KIND.file]


# ── facts ─────────────────────────────────────────────────────────────────────────────────────


def test_facts_are_kept_and_damage_is_told(tmp_path: Path) -> None:
    def lay_out(store: PrivateDatabase) -> None:
        facts = Facts(store, b"notes/v1")
        facts.lay_out()
        facts.write("list", [1, b"two", None])
        facts.write("other", 3)

    with closing(PrivateDatabase.open(tmp_path, KIND, lay_out)) as store:
        facts = Facts(store, b"notes/v1")
        assert facts.read("list") == [1, b"two", None]
        facts.write("list", "new")
        assert facts.read("list") == "new"
        refused(lambda: facts.read("missing"), "record 'missing' is damaged", tmp_path)
        foreign = Facts(store, b"notes/v2")
        refused(lambda: foreign.read("list"), "record 'list' is damaged", tmp_path)
        store.execute("REPLACE INTO fact SELECT 'list', value, digest FROM fact WHERE name='other'")
        refused(lambda: facts.read("list"), "record 'list' is damaged", tmp_path)
        row = ("list", b"\xff", facts.digest("list", b"\xff"))
        store.execute("REPLACE INTO fact VALUES (?, ?, ?)", row)
        refused(lambda: facts.read("list"), "record 'list' cannot be read", tmp_path)


# ── small files ───────────────────────────────────────────────────────────────────────────────


@posix
def test_files_are_written_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_file(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LabError, match="QRES-E803"):
        create_file(path, b"newer")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(RoundError, match="mode 0644"):
        refuse_loose(path)
    path.chmod(0o600)
    refuse_loose(path)  # control
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_new_file_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stick has none, and people carry models on it."""

    def refused(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "new"
    create_file(path, b"old")
    with pytest.raises(LabError, match="QRES-E803"):
        create_file(path, b"newer")
    assert path.read_bytes() == b"old"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LabError, match="QRES-E803"):
        create_file(tmp_path / "link", b"newer")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "link"}
    with pytest.raises(RoundError, match="QRES-E602"):
        create_file(tmp_path / "none" / "new", b"x")


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(os, "fsync", fails)
        else:
            patch.setattr(Path, "replace", fails)
        with pytest.raises(RoundError, match="No space left") as caught:
            replace_file(path, b"new")
    assert caught.value.code == "QRES-E602"
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    replace_file(path, b"new")  # control
    assert path.read_bytes() == b"new"


def test_file_and_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(tmp_path / "file", b"1")
    create_file(tmp_path / "other", b"1")
    assert synced == [False, True] * 2 if os.name == "posix" else [False] * 2
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert synced == [True] * 2 if os.name == "posix" else []


def test_leftovers_are_those_of_one_file(tmp_path: Path) -> None:
    for name in ("file", "file.new-1", "other.new-1", "file.newer"):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other.new-1", "file.newer"}


# ── leaving nothing behind ────────────────────────────────────────────────────────────────────────


def left(folder: Path) -> bytes:
    """All bytes in a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@contextmanager
def overwritten_beside_a_reader(folder: Path) -> Iterator[tuple[PrivateDatabase, PrivateDatabase]]:
    """A store whose secret was overwritten while another connection still sees it; and that."""
    with closing(opened(folder, SHARED)) as store, closing(opened(folder, SHARED)) as other:
        store.execute("PRAGMA secure_delete=ON")
        store.execute("PRAGMA busy_timeout=0")  # nobody lets go meanwhile
        note(store, 1, b"the secret")
        with other.one_state():
            assert other.one("SELECT body FROM note") == b"the secret"
            with store.transaction():
                store.execute("UPDATE note SET body = x'00'")
            store.empty_log()
            assert other.one("SELECT body FROM note") == b"the secret", "it sees one state"
            assert b"the secret" in left(folder), "control: it is there as long as that is read"
        yield store, other


def test_a_log_is_emptied_once_nobody_reads_it_any_more(tmp_path: Path) -> None:
    with overwritten_beside_a_reader(tmp_path) as (store, _other):
        assert b"the secret" in left(tmp_path), "control: nothing empties it by itself"
        store.empty_log()
        assert b"the secret" not in left(tmp_path)
        assert store.one("SELECT body FROM note") == bytes(1)


def test_a_log_that_a_reader_kept_is_gone_with_the_last_that_closes_the_store(
    tmp_path: Path,
) -> None:
    with overwritten_beside_a_reader(tmp_path) as (store, other):
        store.close()
        assert b"the secret" in left(tmp_path), "control: the other has it open"
        other.close()
        assert b"the secret" not in left(tmp_path)


def test_a_log_is_waited_for_while_another_reads_it(tmp_path: Path) -> None:
    """What reads a little longer than the call begins does not keep the log."""
    with closing(opened(tmp_path, SHARED)) as store, closing(opened(tmp_path, SHARED)) as other:
        store.execute("PRAGMA secure_delete=ON")
        store.execute("PRAGMA busy_timeout=600000")
        note(store, 1, b"the secret")
        reads, over = threading.Event(), threading.Event()

        def read() -> None:
            with other.one_state():
                other.one("SELECT body FROM note")
                reads.set()
                over.wait()

        def empty() -> None:
            store.empty_log()

        reader, emptier = threading.Thread(target=read), threading.Thread(target=empty)
        reader.start()
        reads.wait()
        with store.transaction():
            store.execute("UPDATE note SET body = x'00'")
        emptier.start()
        emptier.join(0.05)
        assert emptier.is_alive()
        assert b"the secret" in left(tmp_path), "control"
        over.set()
        reader.join()
        emptier.join()
        assert b"the secret" not in left(tmp_path)
