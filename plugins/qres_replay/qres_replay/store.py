"""The store of a real node: what was seen survives the process exactly and the power safely.

``replay.sqlite`` holds a row per sender and a few facts about the whole, each with its SHA-256.

*Killed process.* Every accepted message is a commit of its own in SQLite's write-ahead log before
the hook returns. ``synchronous=NORMAL`` leaves it to the kernel when that reaches the disk, and the
kernel outlives the process.

*Power loss.* It may take the last commits with it. Therefore no message is accepted whose time is
beyond a *ceiling* that is in the database file and synced. After a start of the machine that was
not preceded by an orderly stop, the ceilings become *floors*: what has a time up to the floor may
have been accepted before, and is refused. The same is done when the log is damaged.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from qres_core import NodeId, RoundError, WireError, canonical
from qres_replay.log import log_is_whole
from qres_replay.window import Sender, Window

FILE: Final = "replay.sqlite"
MARKER: Final = "replay.initialised"
"""Beside the store, so that a store that was deleted is missed."""
APPLICATION_ID: Final = 0x51525250
SCHEMA_VERSION: Final = 1
LEAD_MS: Final = 5000
"""How far a ceiling is raised beyond the message that needs it, milliseconds."""
CHECKPOINT_EVERY: Final = 1024
"""Accepted messages after which the log is written back, so that it stays small."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_MOST: Final = 2**63 - 1
_NEW: Final = f"{FILE}.new-"
_PAGE: Final = 1024  # a commit writes the pages it touched: small rows, small pages
_NUMBERS: Final = struct.Struct(">3q")
_SAVE: Final = "UPDATE sender SET high = ?, seen = ?, ceiling = ?, floor = ?, digest = ? WHERE id=?"
_KEEP: Final = (
    "bring the folder back as it was, or move it away and join under a new identity: "
    "a node that forgot what it saw would take it again"
)


def boot_id() -> str:
    """Names the running of the machine, or is empty where the system has no name for it."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _fact_digest(name: str, value: bytes) -> bytes:
    return hashlib.sha256(b"qres/replay/fact/v1\0" + name.encode() + b"\0" + value).digest()


def _row_digest(node: NodeId, numbers: tuple[int, int, int], seen: bytes) -> bytes:
    head = b"qres/replay/sender/v1\0" + node + _NUMBERS.pack(*numbers)
    return hashlib.sha256(head + seen).digest()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


class Store:
    """Durable memory of the senders of one node's roster; one process at a time.

    A new store is made where there never was one (folder 0700 if it has to be made, files 0600).

    Args:
        folder: the node's own folder.
        swarm: name of the swarm; the store is bound to it.
        node_id: this node's identity, 32 bytes; bound too.
        roster: identities of all nodes. Who joined since the last run is added; who left is kept,
            so that coming back makes nobody new.
        window: size of the windows; may differ from that of the last run.

    Attributes:
        senders: what is known of every node of the roster, by identity.

    Raises:
        RoundError: QRES-E602 when the store is damaged, gone, of another swarm, node or version,
            open elsewhere, or cannot be made. :meth:`record` and :meth:`close` raise it when the
            disk does not take what must be kept.

    Complexity: opening reads and writes one row per sender; :meth:`record` is O(window) with one
    commit, and syncs the disk once every few seconds and every :data:`CHECKPOINT_EVERY` messages.
    """

    def __init__(
        self, folder: Path, *, swarm: str, node_id: NodeId, roster: Sequence[NodeId], window: int
    ) -> None:
        self._path = folder / FILE
        self._marker = folder / MARKER
        self._log = folder / f"{FILE}-wal"
        self._boot = boot_id()
        self._since_checkpoint = 0
        self._shared = -1
        self._members: list[NodeId] = []
        self._rows: dict[NodeId, int] = {}
        self.senders: dict[NodeId, Sender] = {}
        try:
            if not self._path.exists():
                self._create([swarm, node_id], window)
            whole = log_is_whole(self._log)
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        except OSError as error:
            raise self._unusable(error.strerror or str(error), "name another folder") from error
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error
        try:
            with self._refusing():
                self._lock()
                self._check_owner([swarm, node_id])
                self._load(roster, window, whole=whole)
        except BaseException:
            self._db.close()
            raise

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _create(self, identity: list[Any], window: int) -> None:
        if self._marker.exists():
            raise self._unusable(f"it was here, as {MARKER} shows, and is missing")
        if self._log.exists():
            raise self._unusable("it is missing and its write-ahead log is not")
        folder = self._path.parent
        _make_folder(folder)
        handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute(f"PRAGMA page_size={_PAGE}")
                db.execute("BEGIN")
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                db.execute(
                    "CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL, "
                    "digest BLOB NOT NULL)"
                )
                db.execute(
                    "CREATE TABLE sender (id INTEGER PRIMARY KEY, high INTEGER NOT NULL, "
                    "seen BLOB NOT NULL, ceiling INTEGER NOT NULL, floor INTEGER NOT NULL, "
                    "digest BLOB NOT NULL)"
                )
                self._write(db, "identity", identity)
                self._write(db, "members", [])
                self._write(db, "state", ["", True, -1, window])
                db.execute("COMMIT")
            # The name appears with the whole store behind it or not at all, and never over another
            # process's: a file that is there and empty was cut short.
            with suppress(FileExistsError):
                os.link(name, self._path)
        finally:
            Path(name).unlink(missing_ok=True)
        _sync_folder(folder)

    def _lock(self) -> None:
        # Before the first access, so that the lock is held from there until `close`.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        if self._one("PRAGMA application_id") != APPLICATION_ID:
            raise self._unusable("not a replay store of QRES")
        version = self._one("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            what = f"version {version}; this qres-replay reads version {SCHEMA_VERSION}"
            raise self._unusable(what, "run the qres-replay that wrote it")
        if self._one("PRAGMA journal_mode=WAL") != "wal":
            raise self._unusable("no write-ahead log in this folder", "use a local disk")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
        self._db.execute("PRAGMA checkpoint_fullfsync=ON")
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("COMMIT")
        if self._one("PRAGMA quick_check") != "ok":
            raise self._unusable("the file is damaged")

    def _check_owner(self, identity: list[Any]) -> None:
        for mine, theirs, name in zip(
            identity, self._read("identity"), ("swarm", "node"), strict=True
        ):
            if mine != theirs:
                what = f"it belongs to another {name}"
                if name == "swarm":
                    what += f", {theirs!r}"
                fix = "give every node of every swarm its own node.data_dir"
                raise self._unusable(what, fix)

    def _load(self, roster: Sequence[NodeId], window: int, *, whole: bool) -> None:
        boot, stopped, self._shared, size = self._read("state")
        self._members = self._read("members")
        # Stopped in order, or killed while the machine ran on and with the log as it was left.
        exact = stopped or (boot == self._boot != "" and whole)
        for row, node in enumerate(self._members):
            sender = self._sender(row, node, size)
            if not exact:
                sender.floor = max(sender.floor, sender.ceiling, self._shared)
            sender.window = sender.window.resized(window)
            self._rows[node], self.senders[node] = row, sender
        if self._one("SELECT count(*) FROM sender") != len(self._members):
            raise self._unusable("it holds senders nobody knows")
        for node in sorted(set(roster) - set(self._members)):
            self._rows[node] = len(self._members)
            self._members.append(node)
            self.senders[node] = Sender(node, Window(window))
        self._begin(window)
        self.senders = {node: self.senders[node] for node in roster}
        with suppress(FileExistsError):
            os.close(os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            _sync_folder(self._path.parent)
        for leftover in self._path.parent.glob(f"{_NEW}*"):  # of a node killed in its creation
            leftover.unlink(missing_ok=True)

    def _begin(self, window: int) -> None:
        """Make what was loaded durable, with the mark that this run has not stopped in order."""
        self._size = window
        self._db.execute("BEGIN IMMEDIATE")
        self._write(self._db, "members", self._members)
        self._write_state(stopped=False)
        self._db.executemany(
            "INSERT OR IGNORE INTO sender VALUES (?, -1, x'', -1, -1, x'')",
            ((row,) for row in range(len(self._members))),
        )
        for sender in self.senders.values():
            self._save(sender, sender.window.high, sender.window.seen)
        self._db.execute("COMMIT")
        self._checkpoint()
        # From here on the log is never empty: one that is was cut by somebody.
        self._write_state(stopped=False)

    # ── what SQLite holds ─────────────────────────────────────────────────────────────────────

    def _unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        return RoundError.of("QRES-E602", str(self._path), what, fix)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Turn what SQLite and the disk say into the named error."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                fix = "stop the other process; a node runs once"
                raise self._unusable("another process has it open", fix) from error
            raise self._unusable(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # of damaged text in its message
            raise self._unusable(str(error)) from error
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    def _one(self, query: str, *values: object) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    @staticmethod
    def _write(db: sqlite3.Connection, name: str, fact: object) -> None:
        value = canonical.dumps(fact)
        db.execute("REPLACE INTO fact VALUES (?, ?, ?)", (name, value, _fact_digest(name, value)))

    def _read(self, name: str) -> Any:
        query = "SELECT value, digest FROM fact WHERE name = ?"
        value, digest = self._db.execute(query, (name,)).fetchone() or (None, None)
        if type(value) is not bytes or _fact_digest(name, value) != digest:
            raise self._unusable(f"the record {name!r} is damaged")
        try:
            return canonical.loads(value, max_bytes=len(value))
        except WireError as error:
            raise self._unusable(f"the record {name!r} cannot be read") from error

    def _write_state(self, *, stopped: bool) -> None:
        self._write(self._db, "state", [self._boot, stopped, self._shared, self._size])

    def _sender(self, row: int, node: NodeId, size: int) -> Sender:
        query = "SELECT high, seen, ceiling, floor, digest FROM sender WHERE id = ?"
        found = self._db.execute(query, (row,)).fetchone()
        if found is None or [type(part) for part in found] != [int, bytes, int, int, bytes]:
            raise self._unusable(f"the record of sender {node.hex()[:16]} is damaged")
        high, seen, ceiling, floor, digest = found
        if _row_digest(node, (high, ceiling, floor), seen) != digest:
            raise self._unusable(f"the record of sender {node.hex()[:16]} is damaged")
        return Sender(node, Window(size, high, int.from_bytes(seen, "big")), ceiling, floor)

    def _save(self, sender: Sender, high: int, seen: int) -> None:
        octets = seen.to_bytes((self._size + 7) // 8, "big")
        numbers = high, sender.ceiling, sender.floor
        digest = _row_digest(sender.node, numbers, octets)
        row = self._rows[sender.node]
        self._db.execute(_SAVE, (high, octets, sender.ceiling, sender.floor, digest, row))

    def _checkpoint(self) -> None:
        """Sync the log, write it back into the file, sync that, and empty the log."""
        busy = self._one("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy != 0:
            raise self._unusable("another process has it open")
        self._since_checkpoint = 0

    # ── keeping ───────────────────────────────────────────────────────────────────────────────

    def record(self, sender: Sender, high: int, seen: int, *, time_ms: int, now_ms: int) -> None:
        """Keep what is seen of a sender, before its message is accepted.

        Args:
            sender: one of :attr:`senders`.
            high: its window with the message, as :meth:`Window.after` gives it; kept, and not yet
                put into ``sender``.
            seen: as ``high``.
            time_ms: time of the message.
            now_ms: this node's clock.
        """
        with self._refusing():
            if time_ms > self._shared and time_ms > sender.ceiling:
                self._raise_ceiling(sender, time_ms, now_ms)
            elif self._since_checkpoint >= CHECKPOINT_EVERY:
                self._checkpoint()
            self._save(sender, high, seen)
        self._since_checkpoint += 1

    def _raise_ceiling(self, sender: Sender, time_ms: int, now_ms: int) -> None:
        """Put a ceiling over a message's time, and return when it is on the disk.

        All senders whose clocks are right share one, which so costs one sync every few seconds. A
        sender that is ahead has its own, or it would shut out the others after a power loss. That
        one is raised by as much as the sender is ahead: ever later times double the distance each
        time, and cannot force a sync for every message.
        """
        ahead = time_ms - now_ms
        ceiling = min(time_ms + max(LEAD_MS, ahead), _MOST)
        before = self._shared, sender.ceiling
        try:
            if ahead <= LEAD_MS:
                self._shared = ceiling
                self._write_state(stopped=False)
            else:
                sender.ceiling = ceiling
                self._save(sender, sender.window.high, sender.window.seen)
            self._checkpoint()
        except BaseException:
            self._shared, sender.ceiling = before
            raise

    def close(self) -> None:
        """Stop in order: the next start knows all, whatever happens to the machine."""
        try:
            with self._refusing():
                self._write_state(stopped=True)
                self._checkpoint()
        finally:
            self._db.close()
