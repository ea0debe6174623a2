"""Record of a model: the sets that were decided for it at heights that made no new one.

A plugin that opens sums of decided sets must know which were opened before, and know it as all
others do. A set that was decided may have been opened, whatever became of it; a set that was not
decided was not. So the head holds the sets that were decided at void heights since its model was
made. Nodes that caught up, were restarted or joined have it from there.

The record is bounded: a set that is on it already is not noted again, and neither are those that
come after :data:`~qres_core.contract.rounds.MAX_VOID_SETS`. Members may change in between. Then the
sets are those of other rosters, which follow from the present one by undoing the changes. A member
that was there before comes back by ``add`` alone, under its own name: in another's seat it would be
two members under one name, and whoever judges by names would take the one for the other. If it then
rotates its key, the sets of before it left name it by the new one as well: else it would be one
member in some sets and another in the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import RosterError
from qres_core.contract.rounds import MAX_VOID_SETS, VoidSet
from qres_core.contract.types import NODE_ID_BYTES, NodeId
from qres_core.swarm.ledger.fields import Fields
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.ledger.roster import RosterChange

MISMATCH: Final = "QRES-E508"
"""Code of a height without a model because a sum was not what its members committed to."""
MAX_MISMATCHES: Final = 16
MAX_CHANGES: Final = 16
"""Changes of the members while there is one model."""

_FIELDS: Final = Fields("payload.head.")
_bad, _octets, _number = _FIELDS.bad, _FIELDS.octets, _FIELDS.number
Members = tuple[NodeId, ...]


@attrs.frozen
class Record:
    """The sets that were decided for the model of a head. As :meth:`raw` says if decoded."""

    mismatches: int = 0  # void heights with that code, up to MAX_MISMATCHES
    # For each roster since the model was made, the first one first: the sets that it decided. Of
    # each a byte with the mismatches before it, and a bit for each member, the first one lowest.
    sets: tuple[tuple[bytes, ...], ...] = ((),)
    # between two of those rosters: who went and who came, empty for nobody
    changes: tuple[tuple[bytes, bytes], ...] = ()

    def after(
        self,
        members: Members,
        senders: Collection[NodeId],
        result: Void,
        change: RosterChange | None,
    ) -> Record:
        """The record after a void height.

        ``members``: of the height; ``senders``: of its set; ``change``: what it changed about the
        members, which :meth:`must_take` lets pass.
        """
        marks = bytearray(-(-len(members) // 8))
        for rank, member in enumerate(members):
            marks[rank // 8] |= (member in senders) << rank % 8
        noted = bytes([self.mismatches, *marks])
        *before, now = self.sets
        if noted not in now and sum(map(len, self.sets)) < MAX_VOID_SETS:
            now = (*now, noted)
        mismatches = min(self.mismatches + (result.code == MISMATCH), MAX_MISMATCHES)
        if change is None:
            return Record(mismatches, (*before, now), self.changes)
        gone = b"" if change.action == "add" else change.member
        came = change.member if change.action == "add" else change.successor or b""
        return Record(mismatches, (*before, now, ()), (*self.changes, (gone, came)))

    @property
    def _left(self) -> frozenset[NodeId]:
        """Identities that were members since the model was made, and gave up their seats."""
        return frozenset(gone for gone, _came in self.changes if gone)

    def must_take(self, change: RosterChange) -> None:
        """Raise RosterError: QRES-E607 for a change that must wait for a new model.

        That is one after :data:`MAX_CHANGES`, and one that gives a seat to an identity that had
        another seat since the model was made.
        """
        fix = "make the change again when the swarm has a new model"
        if len(self.changes) >= MAX_CHANGES:
            what = f"the members changed {MAX_CHANGES} times since the last model"
            raise RosterError.of("QRES-E607", f"change.{change.action}", what, fix)
        if change.successor is not None and change.successor in self._left:
            what = f"{change.successor.hex()} had another seat since the last model"
            raise RosterError.of("QRES-E607", "change.successor", what, f"add it, or {fix}")

    def void_sets(self, members: Members) -> tuple[VoidSet, ...]:
        """The sets with their rosters, in the order of their heights.

        ``members``: of the head. O(n) for each set and change.
        """
        found: list[VoidSet] = []
        names = {member: member for member in members}  # of each member then, that of now
        back: dict[NodeId, NodeId] = {}  # the same of who was added again later
        for place in range(len(self.sets) - 1, -1, -1):
            roster = tuple(sorted(names))
            now = tuple(names[member] for member in roster)
            for noted in reversed(self.sets[place]):
                senders = tuple(m for rank, m in enumerate(roster) if _is_marked(noted, rank))
                found.append(VoidSet(roster, now, senders, noted[0]))
            if place:
                gone, came = self.changes[place - 1]
                if came:
                    back[came] = names.pop(came)
                if gone:
                    names[gone] = back.pop(came or gone, gone)
        return tuple(reversed(found))

    def raw(self) -> list[Any]:
        """Plain data for the codecs: mismatches, sets; who went, who came, sets; and so on.

        The sets of a roster are joined.
        """
        raw: list[Any] = [self.mismatches, b"".join(self.sets[0])]
        for (gone, came), noted in zip(self.changes, self.sets[1:], strict=True):
            raw += [gone, came, b"".join(noted)]
        return raw

    @classmethod
    def from_raw(cls, value: object, members: Members) -> Record:
        """From plain data. ``members``: of the head. Raises WireError: QRES-E404."""
        if not canonical.is_list(value) or len(value) % 3 != 2 or len(value) > 2 + 3 * MAX_CHANGES:
            raise _bad(
                "record", f"expected a list of 2 and 3 more for each of {MAX_CHANGES} changes"
            )
        mismatches = _number(value[0], 0, MAX_MISMATCHES, "record.mismatches")
        sets: list[tuple[bytes, ...]] = []
        changes: list[tuple[bytes, bytes]] = []
        there, left = set(members), MAX_VOID_SETS
        for start in range(len(value) - 1, 0, -3):
            sets.append(_split(value[start], len(there), left, mismatches))
            left -= len(sets[-1])
            if start > 1:
                changes.append(_undone(value[start - 2], value[start - 1], there))
        changes.reverse()
        away: set[NodeId] = set()
        for gone, came in changes:
            if gone and came in away:
                raise _bad("record.changes", "expected successors that had no seat before")
            away.update([gone] if gone else [])
        return cls(mismatches, tuple(reversed(sets)), tuple(changes))


EMPTY: Final = Record()
"""That of a new model."""


def _is_marked(noted: bytes, rank: int) -> bool:
    return bool(noted[1 + rank // 8] >> rank % 8 & 1)


def _split(joined: object, nodes: int, most: int, mismatches: int) -> tuple[bytes, ...]:
    size = 1 + -(-nodes // 8)
    if type(joined) is not bytes or len(joined) % size or len(joined) > most * size:
        raise _bad("record.sets", f"expected at most {most} sets of {size} bytes, joined")
    noted = tuple(joined[start : start + size] for start in range(0, len(joined), size))
    for item in noted:
        marks = int.from_bytes(item[1:], "little")
        if not 0 < marks < 1 << nodes or item[0] > mismatches:
            raise _bad("record.sets", "expected members, and mismatches that were before")
    if len(set(noted)) < len(noted):
        raise _bad("record.sets", "expected distinct sets")
    return noted


def _undone(gone: object, came: object, there: set[NodeId]) -> tuple[bytes, bytes]:
    """A change, checked; the members ``there`` become those before it."""
    for name in (gone, came):
        if name != b"":
            _octets(name, NODE_ID_BYTES, "record.changes")
    if type(gone) is not bytes or type(came) is not bytes or not (gone or came):
        raise _bad("record.changes", "expected who went or who came")
    if (came and came not in there) or gone in there:
        raise _bad("record.changes", "expected changes that lead to the members of the head")
    there.discard(came)
    if gone:
        there.add(gone)
    if not there:
        raise _bad("record.changes", "expected members before each change")
    return gone, came
