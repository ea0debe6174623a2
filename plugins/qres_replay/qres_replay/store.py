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
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from qres_core import NodeId, stores
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
_DOMAIN: Final = b"qres/replay/fact/v1"
KIND: Final = stores.StoreKind(
    file=FILE,
    name="a replay store of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-replay",
    remedy="bring the folder back as it was, or move it away and join under a new identity: "
    "a node that forgot what it saw would take it again",
    page_bytes=1024,  # a commit writes the pages it touched: small rows, small pages
)
_NUMBERS: Final = struct.Struct(">3q")
_SAVE: Final = "UPDATE sender SET high = ?, seen = ?, ceiling = ?, floor = ?, digest = ? WHERE id=?"


def boot_id() -> str:
    """Names the running of the machine, or is empty where the system has no name for it."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _row_digest(node: NodeId, numbers: tuple[int, int, int], seen: bytes) -> bytes:
    head = b"qres/replay/sender/v1\0" + node + _NUMBERS.pack(*numbers)
    return hashlib.sha256(head + seen).digest()


class WindowStore:
    """Durable memory of the senders of one node's swarm; one process at a time.

    A new store is made where there never was one (folder 0700 if it has to be made, files 0600).

    Args:
        folder: the node's own folder.
        swarm: name of the swarm; the store is bound to it.
        node_id: this node's identity, 32 bytes; bound too.
        roster: identities of the members. Who joined since the last run is added; who left is
            kept, so that coming back makes nobody new.
        window: size of the windows; may differ from that of the last run.

    Attributes:
        senders: what is known of every member, by identity.

    Raises:
        RoundError: QRES-E602 when the store is damaged, gone, of another swarm, node or version,
            open elsewhere, or cannot be made. :meth:`record`, :meth:`admit` and :meth:`close` raise
            it when the disk does not take what must be kept.

    Complexity: opening reads and writes one row per sender; :meth:`record` is O(window) with one
    commit, and syncs the disk once every few seconds and every :data:`CHECKPOINT_EVERY` messages.
    """

    def __init__(
        self, folder: Path, *, swarm: str, node_id: NodeId, roster: Sequence[NodeId], window: int
    ) -> None:
        self._marker = folder / MARKER
        self._boot = boot_id()
        self._since_checkpoint = 0
        self._shared = -1
        self._members: list[NodeId] = []  # all there ever were, by row
        self._rows: dict[NodeId, int] = {}
        self._known: dict[NodeId, Sender] = {}  # of all there ever were
        self.senders: dict[NodeId, Sender] = {}

        def fill(database: stores.PrivateDatabase) -> None:
            if self._marker.exists():
                raise database.unusable(f"it was here, as {MARKER} shows, and is missing")
            database.execute(
                "CREATE TABLE sender (id INTEGER PRIMARY KEY, high INTEGER NOT NULL, "
                "seen BLOB NOT NULL, ceiling INTEGER NOT NULL, floor INTEGER NOT NULL, "
                "digest BLOB NOT NULL)"
            )
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("identity", [swarm, node_id])
            facts.write("members", [])
            facts.write("state", ["", True, -1, window])

        whole = log_is_whole(folder / f"{FILE}-wal")  # before SQLite reads and changes it
        self._db = stores.PrivateDatabase.open(folder, KIND, fill)
        self._facts = stores.Facts(self._db, _DOMAIN)
        try:
            # Ceilings make up for what a power loss takes; see above.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            found = self._facts.read("identity")
            self._db.expect_owner(swarm=(swarm, found[0]), node=(node_id, found[1]))
            self._load(roster, window, whole=whole)
        except BaseException:
            self._db.close()
            raise

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _load(self, roster: Sequence[NodeId], window: int, *, whole: bool) -> None:
        boot, stopped, self._shared, size = self._facts.read("state")
        self._members = self._facts.read("members")
        # Stopped in order, or killed while the machine ran on and with the log as it was left.
        exact = stopped or (boot == self._boot != "" and whole)
        for row, node in enumerate(self._members):
            sender = self._sender(row, node, size)
            if not exact:
                sender.floor = max(sender.floor, sender.ceiling, self._shared)
            sender.window = sender.window.resized(window)
            self._rows[node], self._known[node] = row, sender
        if self._db.one("SELECT count(*) FROM sender") != len(self._members):
            raise self._db.unusable("it holds unknown senders")
        for node in sorted(set(roster) - set(self._members)):
            self._rows[node] = len(self._members)
            self._members.append(node)
            self._known[node] = Sender(node, Window(window))
        self._begin(window)
        self.senders = {node: self._known[node] for node in roster}
        if not self._marker.exists():
            stores.replace_file(self._marker, b"")

    def _begin(self, window: int) -> None:
        """Make what was loaded durable, with the mark that this run has not stopped in order."""
        self._size = window
        with self._db.transaction():
            self._facts.write("members", self._members)
            self._write_state(stopped=False)
            self._insert(range(len(self._members)))
            for sender in self._known.values():
                self._save(sender, sender.window.high, sender.window.seen)
        self._checkpoint()
        # From here on the log is never empty: one that is was cut by somebody.
        self._write_state(stopped=False)

    def admit(self, roster: Sequence[NodeId]) -> dict[NodeId, Sender]:
        """Change the members, durably before this returns; :attr:`senders` are theirs from now on.

        Who was a member before goes on with what is known of it. Raises RoundError: QRES-E602; then
        the senders stay as they were.
        """
        new = sorted(set(roster) - self._known.keys())
        if new:
            self._db.expect_in_place()
            self._remember(new)
            # A power loss must not take a member whose messages were accepted.
            self._since_checkpoint = CHECKPOINT_EVERY
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._checkpoint()
            self._write_state(stopped=False)  # the log is never empty
        self.senders = {node: self._known[node] for node in roster}
        return self.senders

    def _remember(self, new: Sequence[NodeId]) -> None:
        members, first = [*self._members, *new], len(self._members)
        fresh = {node: Sender(node, Window(self._size)) for node in new}
        before = self._rows
        self._rows = {**before, **{node: first + at for at, node in enumerate(new)}}
        try:
            with self._db.transaction():
                self._facts.write("members", members)
                self._insert(range(first, len(members)))
                for sender in fresh.values():
                    self._save(sender, sender.window.high, sender.window.seen)
        except BaseException:
            self._rows = before
            raise
        self._members = members
        self._known.update(fresh)

    # ── what SQLite holds ─────────────────────────────────────────────────────────────────────

    def _insert(self, rows: Iterable[int]) -> None:
        query = "INSERT OR IGNORE INTO sender VALUES (?, -1, x'', -1, -1, x'')"
        self._db.execute_many(query, [(row,) for row in rows])

    def _write_state(self, *, stopped: bool) -> None:
        self._facts.write("state", [self._boot, stopped, self._shared, self._size])

    def _sender(self, row: int, node: NodeId, size: int) -> Sender:
        query = "SELECT high, seen, ceiling, floor, digest FROM sender WHERE id = ?"
        found = self._db.row(query, row)
        if found is None or [type(part) for part in found] != [int, bytes, int, int, bytes]:
            raise self._db.unusable(f"the record of sender {node.hex()[:16]} is damaged")
        high, seen, ceiling, floor, digest = found
        if _row_digest(node, (high, ceiling, floor), seen) != digest:
            raise self._db.unusable(f"the record of sender {node.hex()[:16]} is damaged")
        return Sender(node, Window(size, high, int.from_bytes(seen, "big")), ceiling, floor)

    def _save(self, sender: Sender, high: int, seen: int) -> None:
        octets = seen.to_bytes((self._size + 7) // 8, "big")
        numbers = high, sender.ceiling, sender.floor
        digest = _row_digest(sender.node, numbers, octets)
        row = self._rows[sender.node]
        self._db.execute(_SAVE, (high, octets, sender.ceiling, sender.floor, digest, row))

    def _checkpoint(self) -> None:
        """Sync the log, write it back into the file, sync that, and empty the log."""
        busy = self._db.one("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy != 0:
            raise self._db.unusable("another process has it open")
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
        self._db.expect_in_place()
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
            self._write_state(stopped=True)
            self._checkpoint()
        finally:
            self._db.close()
