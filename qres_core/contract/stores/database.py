"""One SQLite file of one node: for its owner alone, on the disk at every commit, never half made.

The policy, the same for every store:

- The file has mode 0600 and a new folder 0700. A file that others may read or write is refused.
- Its name appears with the whole first content behind it, synced, or not at all.
- A commit is on the disk when it returns: write-ahead log, ``synchronous=FULL``, ``fullfsync``
  (macOS, past the drive's own cache). In the other journal modes of SQLite a commit can be undone
  by a power loss under that setting.
- One process has it open, and another is refused at once. A store that is for several waits
  :data:`BUSY_SECONDS` for the others.
- Opening checks the kind, the version and every page and index of the file.
- A file that is removed or replaced while it is open takes no more commits, and one that is missing
  while its log is still there is not begun anew.
- Whatever goes wrong is QRES-E602. Nothing is repaired.

What is lost with a log that is deleted after a crash cannot be noticed here: a store that cannot
bear that keeps a second witness.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import attrs

from qres_core.contract.errors import RoundError
from qres_core.contract.stores.files import (
    beside,
    clear_leftovers,
    make_folder,
    refuse_loose,
)
from qres_core.contract.stores.system import create_now, sync_folder

BUSY_SECONDS: Final = 5.0
"""How long a shared store waits for another process, seconds."""
LOGS: Final = ("-wal", "-journal")
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""The second of a shared store, which cannot be opened without room for an index."""
_MAKE_ROOM: Final = "make room on its disk; nothing that it holds is lost"
_REFUSED: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What SQLite and the disk raise; the last of damaged text, in a row or in a message of SQLite."""
_OPEN: Final[list[tuple[int, int]]] = []
"""Files that this process has open, by device and number; see :func:`is_open_here`."""


def is_open_here(path: Path) -> bool:
    """True if this process has the store of that file open.

    Whoever opens such a file by hand and closes it again takes SQLite's locks from the whole
    process, as POSIX has it.

    Raises:
        OSError: it cannot be looked at.
    """
    found = path.stat()
    return (found.st_dev, found.st_ino) in _OPEN


@attrs.frozen(kw_only=True)
class StoreKind:
    """Marks that tell one store from all others.

    Attributes:
        file: name of the file in the node's folder.
        name: what it is, with its article, for errors: ``"a replay store of QRES"``.
        application_id: number in the file's header that marks the kind, 32 bits.
        version: of the schema, in the header too.
        reader: the distribution that reads it, for errors.
        remedy: what an operator does about a file that is damaged or gone.
        instead: what an operator may do about a file of another version, beside running the
            reader that wrote it; empty for nothing.
        shared: whether several processes may have it open at once, as a node and a command.
        page_bytes: size of a page, or ``None`` for what SQLite takes.
    """

    file: str
    name: str
    application_id: int
    version: int
    reader: str
    remedy: str
    instead: str = ""
    shared: bool = False
    page_bytes: int | None = None


class PrivateDatabase:
    """An open store. Made by :meth:`open`, :meth:`create` and :meth:`in_memory`.

    SQL goes through :meth:`execute`, :meth:`row`, :meth:`rows` and :meth:`one`, which raise the
    named error; changes of more than one statement are made in a :meth:`transaction`.

    Attributes:
        path: the file; ``:memory:`` where there is none.
        created: whether this opening made it. A store that was lost is new too: whoever knows how
            old the swarm is decides whether it may be (``round_info.step``).
    """

    def __init__(self, connection: sqlite3.Connection, kind: StoreKind, path: Path) -> None:
        self.path = path
        self.created = False
        self._kind = kind
        self._inode: tuple[int, int] | None = None
        self._connection = connection
        # Also where nobody closes it, as in an experiment that is given up.
        self._close = weakref.finalize(self, connection.close)
        self._forget: Callable[[], object] = bool

    @classmethod
    def open(
        cls, folder: Path, kind: StoreKind, fill: Callable[[Self], None] | None = None
    ) -> Self:
        """Open a store and check it.

        Args:
            folder: the node's own folder.
            kind: what the store must be.
            fill: lays out a new one, in one transaction; left out, the store must exist.

        Raises:
            RoundError: QRES-E602 when it is missing (or only its log is there), damaged, of another
                kind or version, open to others than its owner, in use elsewhere, or cannot be made.

        Complexity: O(size of the file).
        """
        path = folder / kind.file
        try:
            missing = not path.exists()
            # Asked again: another process may just have made both.
            if missing and cls.exists(folder, kind) and not path.exists():
                what = "the file is missing and its write-ahead log is not"
                raise _unusable(kind, path, what)
            created = missing and fill is not None and cls._make(path, kind, fill)
            if not path.is_file():
                what = "not a file" if path.exists() else "there is no such file"
                raise _unusable(kind, path, what)
            found = path.stat()
            uri = f"{path.resolve().as_uri()}?mode=rw"  # never makes an empty one
            self = cls(_connect(uri, BUSY_SECONDS if kind.shared else 0), kind, path)
        except _REFUSED as error:
            raise _named(kind, path, error, "name another folder") from error
        self.created = created
        self._inode = (found.st_dev, found.st_ino)
        _OPEN.append(self._inode)
        self._forget = weakref.finalize(self, _OPEN.remove, self._inode)
        try:
            self._check()
            clear_leftovers(path)  # of a process killed while it made this one
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _named(kind, path, error) from error
            raise
        return self

    @classmethod
    def create(cls, folder: Path, kind: StoreKind, fill: Callable[[Self], None]) -> Self:
        """Make a store where there is none, and open it.

        Raises:
            RoundError: QRES-E602 as :meth:`open`, and where there is one.
        """
        path, what, fix = folder / kind.file, "there is one already", "name another folder"
        if path.exists():
            raise _unusable(kind, path, what, fix)
        self = cls.open(folder, kind, fill)
        if not self.created:  # another process was faster
            self.close()
            raise _unusable(kind, path, what, fix)
        return self

    @classmethod
    def in_memory(cls, kind: StoreKind, fill: Callable[[Self], None]) -> Self:
        """A store that ends with the process, where a node has no folder."""
        self = cls(_connect(":memory:", 0), kind, Path(":memory:"))
        self.created = True
        with self.transaction():
            fill(self)
        return self

    @staticmethod
    def exists(folder: Path, kind: StoreKind) -> bool:
        """True if there is a store, in whatever state, or the log of one."""
        return any((folder / f"{kind.file}{tail}").exists() for tail in ("", *LOGS))

    # ── making and checking ───────────────────────────────────────────────────────────────────

    @classmethod
    def _make(cls, path: Path, kind: StoreKind, fill: Callable[[Self], None]) -> bool:
        """Make the file, whole from the moment it has its name; false if another was faster."""
        make_folder(path.parent)
        new = beside(path)
        # Made here and not by SQLite, so that nobody else can ever read it.
        os.close(create_now(new))
        try:
            with closing(cls(_connect(str(new), 0), kind, path)) as database:
                database._lay_out(fill)  # noqa: SLF001 - of this class
            os.link(new, path)  # never over another process's, as a rename would be
        except (OSError, RoundError):
            if path.exists():  # and its maker may have cleared ours away
                return False
            raise
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def _lay_out(self, fill: Callable[[Self], None]) -> None:
        if self._kind.page_bytes is not None:
            self.execute(f"PRAGMA page_size={self._kind.page_bytes}")
        self._be_durable()
        self.execute("BEGIN IMMEDIATE")
        self.execute(f"PRAGMA application_id={self._kind.application_id}")
        self.execute(f"PRAGMA user_version={self._kind.version}")
        fill(self)
        self.execute("COMMIT")
        self._log_ahead()

    def _be_durable(self) -> None:
        self.execute("PRAGMA synchronous=FULL")
        self.execute("PRAGMA fullfsync=ON")

    def _log_ahead(self) -> None:
        if self.one("PRAGMA journal_mode=WAL") != "wal":
            raise self.unusable("no write-ahead log in this folder", "use a local disk")

    def _check(self) -> None:
        kind = self._kind
        if not kind.shared:
            # Before the first access, so that the lock is held from there until `close`.
            self.execute("PRAGMA locking_mode=EXCLUSIVE")
        if self.one("PRAGMA application_id") != kind.application_id:
            raise self.unusable(f"not {kind.name}")
        version = self.one("PRAGMA user_version")
        if version != kind.version:
            what = f"version {version}; this {kind.reader} reads version {kind.version}"
            fix = f"run the {kind.reader} that wrote it"
            raise self.unusable(what, f"{fix}, or {kind.instead}" if kind.instead else fix)
        refuse_loose(self.path)
        self._be_durable()
        self._log_ahead()
        if not kind.shared:
            self.execute("BEGIN EXCLUSIVE")
            self.execute("COMMIT")
        # Not `quick_check`, which reads no index: a row that an index does not know could be
        # written twice.
        if self.one("PRAGMA integrity_check") != "ok":
            raise self.unusable("the file is damaged")
        self.expect_in_place()

    # ── SQL ───────────────────────────────────────────────────────────────────────────────────

    def execute(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement; outside a transaction it is one of its own.

        Raises:
            RoundError: QRES-E602.
        """
        try:
            return self._connection.execute(query, values)
        except _REFUSED as error:
            raise _named(self._kind, self.path, error) from error

    def execute_many(self, query: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for every row of values.

        Raises:
            RoundError: QRES-E602.
        """
        try:
            self._connection.executemany(query, rows)
        except _REFUSED as error:
            raise _named(self._kind, self.path, error) from error

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            RoundError: QRES-E602.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except _REFUSED as error:
            raise _named(self._kind, self.path, error) from error

    def row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        """The first row of a query, or ``None``.

        Raises:
            RoundError: QRES-E602.
        """
        try:
            row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        except _REFUSED as error:
            raise _named(self._kind, self.path, error) from error
        return row

    def one(self, query: str, *values: object) -> Any:
        """The first value of the first row, or ``None`` where there is no row.

        Raises:
            RoundError: QRES-E602.
        """
        row = self.row(query, *values)
        return None if row is None else row[0]

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Hold the write lock; all is on the disk when the block ends, or nothing is.

        Raises:
            RoundError: QRES-E602, also when the file is no longer where it was.
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.expect_in_place()
            self.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def one_state(self) -> Generator[None]:
        """See one state of the store in every query of the block; in a transaction, that one's.

        Raises:
            RoundError: QRES-E602.
        """
        self.one("SELECT 1")  # refuses a store that was closed
        own = not self._connection.in_transaction
        if own:
            self.execute("BEGIN")
        try:
            yield
        finally:
            if own:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def empty_log(self) -> None:
        """Leave nothing in the log, so that what was overwritten is in no file any more.

        Until then the log has what a commit replaced, and the file may have it too. With
        ``PRAGMA secure_delete=ON``, what is deleted is overwritten. While another process reads
        the store, the log stays: it is waited for, up to ``BUSY_SECONDS``. If it reads for longer,
        the log is emptied by the next call, or goes when the last process closes the store.

        Raises:
            RoundError: QRES-E602.

        Complexity: O(size of the log).
        """
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def expect_in_place(self) -> None:
        """Refuse to go on with a file that was removed or replaced: nobody would find it again.

        :meth:`transaction` does this; for single statements whoever runs them does.

        Raises:
            RoundError: QRES-E602.

        Complexity: O(1), one system call.
        """
        if self._inode is None:
            return
        try:
            found = self.path.stat()
        except OSError as error:
            raise self.unusable("the file was removed while it was open") from error
        if (found.st_dev, found.st_ino) != self._inode or not stat.S_ISREG(found.st_mode):
            raise self.unusable("the file was replaced while it was open")

    def expect_owner(self, **pairs: tuple[object, object]) -> None:
        """Refuse the store unless it is this node's.

        Args:
            pairs: by what they are (``swarm``, ``node``): what is mine, and what the store says.

        Raises:
            RoundError: QRES-E602.
        """
        for name, (mine, theirs) in pairs.items():
            if mine != theirs:
                what = f"it belongs to another {name.replace('_', ' ')}"
                if isinstance(theirs, str):
                    what += f", {theirs!r}"
                fix = "give every node of every swarm its own node.data_dir"
                raise self.unusable(what, fix)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._close()
        self._forget()

    # ── refusing ──────────────────────────────────────────────────────────────────────────────

    def unusable(self, what: str, fix: str | None = None) -> RoundError:
        """The error that refuses this store.

        Args:
            what: is wrong with it.
            fix: left out, the remedy of its kind.
        """
        return _unusable(self._kind, self.path, what, fix)


def _connect(name: str, timeout: float) -> sqlite3.Connection:
    # The finalizer runs in whatever thread lets go of the last reference.
    return sqlite3.connect(
        name,
        uri=name.startswith("file:"),
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _unusable(kind: StoreKind, path: Path, what: str, fix: str | None = None) -> RoundError:
    return RoundError.of("QRES-E602", str(path), what, fix or kind.remedy)


def _named(kind: StoreKind, path: Path, error: Exception, fix: str | None = None) -> RoundError:
    """Error that SQLite or the disk raised, as the named one."""
    if isinstance(error, OSError):
        fix = _MAKE_ROOM if error.errno in _NO_ROOM else fix
        return _unusable(kind, path, error.strerror or str(error), fix)
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _BUSY:
        return _busy(kind, path)
    return _unusable(kind, path, str(error), _MAKE_ROOM if code in _FULL else None)


def _busy(kind: StoreKind, path: Path) -> RoundError:
    if kind.shared:
        what = f"another process kept it locked for {BUSY_SECONDS:g} seconds"
        return _unusable(kind, path, what, "end that process")
    fix = "stop the other process; a node runs once"
    return _unusable(kind, path, "another process has it open", fix)
