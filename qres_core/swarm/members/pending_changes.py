"""Changes of the members that wait at a node until a set carries them.

Operators hand them over as files: ``roster/`` in the node's folder holds one for each change, and
the node reads it again when a round begins. Nothing else is trusted about a file: only authentic
signatures of members are kept, and a change is proposed once enough of them are there.

The node keeps the roster of now beside them, in ``roster/members``, for the operators' commands.
What the node itself goes by is in its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import (
    ConfigError,
    QresError,
    RosterError,
    RoundError,
    WireError,
)
from qres_core.contract.stores import make_folder, read_file, replace_file
from qres_core.contract.stores.system import alone_in
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.roster import (
    MAX_CHANGE_BYTES,
    MAX_MEMBERS,
    Roster,
    RosterChange,
    authorised,
)

FOLDER: Final = "roster"
"""In a node's folder: pending changes, and the roster of now."""
CURRENT: Final = "members"
"""In that folder: the swarm's name and the roster of now."""
SUFFIX: Final = ".change"
MAX_PENDING: Final = 64
"""Changes that a node keeps; what comes beyond them is left out until some of them are void."""
MAX_FILES: Final = 256
"""Files that a node looks at."""
_MAX_CURRENT: Final = 32 * MAX_MEMBERS + 1024

Authentic = Callable[[Envelope], bool]
"""Whether a quoted message was made by its sender."""
Approved = Callable[[bytes, bytes], bool]
"""Whether the swarm's authority signed a digest with these bytes."""
_Stamp = tuple[int, int, int, int]


@attrs.define(eq=False)
class PendingChanges:
    """Changes of one roster that wait, with the authentic signatures of its members."""

    swarm: str  # the swarm's name
    roster: Roster  # that of now
    # why an operator's file is not taken, by its name; for the log and the status
    problems: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _held: dict[bytes, RosterChange] = attrs.field(factory=dict[bytes, RosterChange], init=False)
    # by change, what stands in its copies for an approval; who approved is asked at the end
    _approvals: dict[bytes, list[bytes]] = attrs.field(factory=dict[bytes, list[bytes]], init=False)

    @property
    def waiting(self) -> tuple[RosterChange, ...]:
        """Waiting changes, ascending by digest."""
        return tuple(self._held[digest] for digest in sorted(self._held))

    def offer(self, change: RosterChange, authentic: Authentic) -> None:
        """Take a change, or its further signatures.

        Raises RosterError: QRES-E607 for a change of another swarm or roster, an impossible one,
        and one too many.

        Complexity: a call of ``authentic`` for each member that signed.
        """
        if change.swarm != self.swarm:
            what = f"it is of the swarm {change.swarm!r}, and this is {self.swarm!r}"
            raise RosterError.of("QRES-E607", "change.swarm", what, "take the file of this swarm")
        self.roster.after(change)
        held = self._held.get(change.digest)
        if held is None and len(self._held) >= MAX_PENDING:
            what = f"{MAX_PENDING} changes wait already"
            fix = "remove files of changes that nobody wants any more"
            raise RosterError.of("QRES-E607", "change", what, fix)
        approvals = self._approvals.setdefault(change.digest, [])
        if change.approval and change.approval not in approvals:
            approvals.append(change.approval)
        fresh = change.of_members(self.roster, authentic)
        self._held[change.digest] = fresh if held is None else merged(fresh, held)

    def ready(
        self,
        authentic: Authentic,
        approved: Approved | None = None,
        possible: Callable[[RosterChange], bool] | None = None,
    ) -> RosterChange | None:
        """The change to propose: of those that are authorised now, the first by digest.

        Signatures are checked again: a key may have been replaced since.

        Args:
            authentic: as for :func:`~qres_core.swarm.ledger.roster.authorised`.
            approved: the same.
            possible: whether others would take a change; one that they would refuse must not keep
                the next from being proposed. ``None``: every change.
        """
        for change in self.waiting:
            if possible is not None and not possible(change):
                continue
            for copy in self._copies(change) if approved is not None else (change,):
                if authorised(copy, self.roster, self.swarm, authentic, approved):
                    return copy
        return None

    def _copies(self, change: RosterChange) -> Iterator[RosterChange]:
        """The change with each approval: a forged one does not take the place of a true one."""
        yield change
        for approval in self._approvals.get(change.digest, ()):
            if approval != change.approval:
                yield attrs.evolve(change, approval=approval)

    def facts(self) -> dict[str, object]:
        """The roster of now and what waits, for the status; ready for JSON."""
        return {
            "epoch": self.roster.epoch,
            "digest": self.roster.digest.hex(),
            "threshold": self.roster.threshold,
            "waiting": [
                {
                    "action": change.action,
                    "member": change.member.hex(),
                    "successor": None if change.successor is None else change.successor.hex(),
                    "signed": len(change.signatures),
                    "approved": bool(change.approval),
                }
                for change in self.waiting
            ],
            "problems": dict(self.problems),
        }

    def refresh(self, authentic: Authentic) -> None:
        """Look for what operators handed over since; here nobody can."""

    def _forget(self) -> None:
        self._held.clear()
        self._approvals.clear()

    def settle(self, roster: Roster) -> None:
        """The roster is another one now: what waited for the last one is void."""
        if roster.digest != self.roster.digest:
            self.roster = roster
            self._forget()


def read_change(path: Path) -> RosterChange:
    """Read a change from a file. Who signed it is not checked.

    Raises ConfigError: QRES-E101 for what cannot be read or is too large. Raises WireError:
    QRES-E401 to QRES-E406 for what is no change.
    """
    return RosterChange.from_bytes(read_file(path, MAX_CHANGE_BYTES))


def hand_over(home: Path, change: RosterChange) -> Path:
    """Put a change into a node's folder, with the signatures of the file that may be there.

    ``home``: the node's folder. Returns the file. Raises RoundError: QRES-E602 when the disk does
    not take it. Raises ConfigError and WireError as :func:`read_change` for the file that is there.
    """
    path = home / FOLDER / f"{change.digest.hex()}{SUFFIX}"
    _make(path.parent)
    with alone_in(path.parent):  # of two operators at once, neither replaces what the other signed
        if path.exists():
            change = merged(change, read_change(path))
        replace_file(path, change.to_bytes())
    return path


def merged(fresh: RosterChange, held: RosterChange) -> RosterChange:
    """A change with what both copies have. What is in both is the fresh copy's."""
    approval = fresh.approval or held.approval
    return attrs.evolve(fresh.signed(held.signatures), approval=approval)


def write_members(home: Path, swarm: str, roster: Roster) -> None:
    """Keep the roster of now in a node's folder, for operators.

    Raises RoundError: QRES-E602 when the disk does not take it.
    """
    path = home / FOLDER / CURRENT
    _make(path.parent)
    replace_file(path, canonical.dumps([swarm, roster.raw()]))


def read_members(home: Path, swarm: str) -> Roster | None:
    """The roster that a node kept for operators; ``None`` where no node ran in the folder yet.

    Raises RoundError: QRES-E602 for a file that is damaged or of another swarm.
    """
    path = home / FOLDER / CURRENT
    if not path.exists():
        return None
    try:
        value = canonical.loads(read_file(path, _MAX_CURRENT), max_bytes=_MAX_CURRENT)
        if canonical.is_list(value) and len(value) == 2 and value[0] == swarm:
            return Roster.from_raw(value[1])
        what = "is not the roster of this swarm"
    except (ConfigError, WireError) as error:
        what = error.problems[0].what
    fix = "start the node: it writes the file again"
    raise RoundError.of("QRES-E602", str(path), what, fix)


def _make(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        what = error.strerror or str(error)
        raise RoundError.of("QRES-E602", str(folder), what, "give the node a folder") from error


def change_files(home: Path) -> list[Path]:
    """The files of changes in a node's folder, by name, at most :data:`MAX_FILES`."""
    try:
        return sorted((home / FOLDER).glob(f"*{SUFFIX}"))[:MAX_FILES]
    except OSError:
        return []


def _stamp(path: Path) -> _Stamp | None:
    """Marks that change when a file does; ``None`` for one that is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


@attrs.define(eq=False)
class RosterFolder(PendingChanges):
    """The pending changes in a node's folder, which operators fill.

    Files are the truth: one that is taken away is no longer proposed. The node removes a file when
    its change is void, and leaves what it cannot read.

    Args:
        swarm: the swarm's name.
        roster: that of now, as far as it is known; nothing is written before :meth:`settle`.
        home: the node's folder; ``roster/`` in it is made.
    """

    home: Path
    _seen: dict[str, _Stamp] = attrs.field(factory=dict[str, _Stamp], init=False)
    _written: bytes = attrs.field(default=b"", init=False)  # digest of the roster in the folder

    def refresh(self, authentic: Authentic) -> None:
        """Read the files again if any of them is new, other or gone. Refuses none with an error.

        All are read at the next look too if the system kept one of them from being read.
        """
        found = {
            path: stamp for path in change_files(self.home) if (stamp := _stamp(path)) is not None
        }
        seen = {path.name: stamp for path, stamp in found.items()}
        if seen == self._seen:
            return
        self._seen = seen
        self._forget()
        self.problems.clear()
        for path in found:
            try:
                self._take(path, authentic)
            except (QresError, OSError) as error:
                self.problems[path.name] = str(error)
                if isinstance(error, OSError) or isinstance(error.__cause__, OSError):
                    del seen[path.name]  # the next look finds it new: what is in it did not show

    def _take(self, path: Path, authentic: Authentic) -> None:
        change = read_change(path)
        if change.swarm == self.swarm and change.epoch < self.roster.epoch:
            path.unlink(missing_ok=True)  # decided, or never to be
        elif change.swarm == self.swarm and change.epoch > self.roster.epoch:
            what = f"it is for roster {change.epoch}, and this node knows {self.roster.epoch}"
            self.problems[path.name] = f"{what}: it waits until the node has caught up"
        else:
            self.offer(change, authentic)

    def settle(self, roster: Roster) -> None:
        """The roster of now: void files go at the next look, and operators see the new one.

        Raises RoundError: QRES-E602 when the disk does not take the roster.
        """
        if roster.digest == self._written:
            return
        super().settle(roster)
        write_members(self.home, self.swarm, roster)
        self._written = roster.digest
        self._seen.clear()
