"""Members of a swarm, and changes of them while it runs.

A :class:`Roster` is a value that every message's head holds: the members, f, the quorum, and the
*epoch*, the number of changes since the first roster. A :class:`RosterChange` leads from one
roster to the next. The members of the old one decide it, as part of a set, and it holds from the
next height.

The rule by which f and the quorum follow is short:

- **f stays.** It is a promise that the aggregation rule and its options were chosen for. A larger
  one would promise more than they hold, and a smaller one is weaker than what the operators asked
  for. A change that leaves n < 3 f + 1 is refused.
- **n - quorum stays**: as many members may be away as before.

A change names the digest of the roster that it applies to. The epoch is part of that digest, so no
two rosters of a swarm have one digest, even if their members are the same, and a change that was
applied and undone never applies again.

To *rotate* gives a member's seat to another identity, most often the same operator's new key. The
successor has its own sequence numbers: a thief of the old key cannot use up those of the new one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import RosterError
from qres_core.contract.types import DIGEST_BYTES, NODE_ID_BYTES, NodeId
from qres_core.contract.wire import MAX_AUTHENTICATOR, Envelope
from qres_core.swarm.ledger.fields import Fields

RULE: Final = 1
"""Of how f and the quorum follow from n. It is part of the digest: nodes with another rule have
another head."""
MAX_MEMBERS: Final = 4096
MAX_CHANGE_BYTES: Final = 2**22
"""Of an encoded change with its signatures."""
MAX_SIGNED_BYTES: Final = 2**16
"""Of a signed message that is quoted in a change."""
CHANGE: Final = "roster/change"
"""Kind of the messages with which members sign a change. They are quoted, never sent alone."""
Action = Literal["add", "remove", "rotate"]
ACTIONS: Final[tuple[Action, ...]] = ("add", "remove", "rotate")
Authority = Literal["members", "ca"]

_ROSTER_DOMAIN: Final = b"qres/roster/v1\0"
_CHANGE_DOMAIN: Final = b"qres/roster-change/v1\0"
_U63: Final = 2**63 - 1
_MAX_ITEMS: Final = 64 + MAX_MEMBERS


_FIELDS: Final = Fields()
_bad, _list, _octets, _number = _FIELDS.bad, _FIELDS.listed, _FIELDS.octets, _FIELDS.number


@attrs.frozen(slots=False)
class Roster:
    """The members of a swarm for as long as no change is decided.

    Attributes:
        members: their identities, ascending and distinct, 1 to 4096.
        byzantine: the fault bound f; n >= 3 f + 1.
        quorum: fewest contributions of a set, 1..n.
        epoch: number of changes since the first roster, 0..2**63-1.

    Raises:
        WireError: QRES-E404 names the field.
    """

    members: tuple[NodeId, ...]
    byzantine: int
    quorum: int
    epoch: int = 0

    def __attrs_post_init__(self) -> None:
        members = self.members
        if type(members) is not tuple or not 1 <= len(members) <= MAX_MEMBERS:
            raise _bad("roster.members", f"expected 1..{MAX_MEMBERS} identities")
        for member in members:
            _octets(member, NODE_ID_BYTES, "roster.members")
        if any(a >= b for a, b in pairwise(members)):
            raise _bad("roster.members", "expected distinct identities, ascending")
        _number(self.byzantine, 0, (len(members) - 1) // 3, "roster.byzantine")
        _number(self.quorum, 1, len(members), "roster.quorum")
        _number(self.epoch, 0, _U63, "roster.epoch")

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, node_id: object) -> bool:
        if type(node_id) is not bytes:
            return False
        place = bisect_left(self.members, node_id)
        return place < len(self.members) and self.members[place] == node_id

    def rank(self, node_id: NodeId) -> int:
        """A member's place, from 0. Raises ValueError for who is no member. O(log n)."""
        if node_id not in self:
            msg = f"{node_id.hex()} is no member"
            raise ValueError(msg)
        return bisect_left(self.members, node_id)

    @property
    def threshold(self) -> int:
        """Votes that decide: ``⌊(n + f) / 2⌋ + 1``; two such groups share an honest member."""
        return (len(self.members) + self.byzantine) // 2 + 1

    @cached_property
    def digest(self) -> bytes:
        """Names the roster and the rule by which it changes; 32 bytes. O(n), once."""
        return hashlib.sha256(_ROSTER_DOMAIN + canonical.dumps(self.raw())).digest()

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return [RULE, b"".join(self.members), self.byzantine, self.quorum, self.epoch]

    @classmethod
    def from_raw(cls, value: object) -> Roster:
        """From plain data.

        Raises WireError: QRES-E404 for anything that is no roster, or one with another rule.
        """
        rule, joined, byzantine, quorum, epoch = _list(value, 5, "roster")
        if type(rule) is not int or rule != RULE:
            raise _bad("roster.rule", f"this node follows rule {RULE}")
        if type(joined) is not bytes or len(joined) % NODE_ID_BYTES:
            raise _bad("roster.members", f"expected identities of {NODE_ID_BYTES} bytes, joined")
        if len(joined) > MAX_MEMBERS * NODE_ID_BYTES:
            raise _bad("roster.members", f"expected 1..{MAX_MEMBERS} identities")
        starts = range(0, len(joined), NODE_ID_BYTES)
        members = tuple(joined[start : start + NODE_ID_BYTES] for start in starts)
        return cls(members, byzantine, quorum, epoch)

    def change(
        self, swarm: str, action: Action, member: NodeId, successor: NodeId | None = None
    ) -> RosterChange:
        """The change of this roster that nobody has signed yet. It may be impossible."""
        return RosterChange(swarm, self.epoch, self.digest, action, member, successor)

    def after(self, change: RosterChange) -> Roster:
        """The roster that a change leads to. Whether it is authorised is another question.

        Raises RosterError: QRES-E607 for a change of another roster, an unknown member, one who is
        a member already, and numbers that cannot hold.
        """
        if change.roster != self.digest:
            what = f"it is for roster {change.epoch}, {change.roster.hex()[:16]}"
            what += f", and this is roster {self.epoch}, {self.digest.hex()[:16]}"
            raise _refused("change.roster", what, "make it again for the roster of now")
        if change.action == "add":
            self._must_be_new(change.member, "change.member")
            return self._with({*self.members, change.member})
        if change.member not in self:
            what = f"{change.member.hex()} is no member"
            raise _refused("change.member", what, "`qres roster show` lists the members")
        kept = {*self.members} - {change.member}
        if change.successor is None:
            return self._with(kept)
        self._must_be_new(change.successor, "change.successor")
        return self._with({*kept, change.successor})

    def _must_be_new(self, node_id: NodeId, field: str) -> None:
        if node_id in self:
            what = f"{node_id.hex()} is a member already"
            raise _refused(field, what, "`qres roster show` lists the members")

    def _with(self, members: set[NodeId]) -> Roster:
        n, away = len(members), len(self.members) - self.quorum
        if n > MAX_MEMBERS:
            what = f"a roster has at most {MAX_MEMBERS} members"
            raise _refused("roster.members", what, "remove a member first")
        if n < 3 * self.byzantine + 1:
            least = 3 * self.byzantine + 1
            what = f"{n} members cannot agree with {self.byzantine} liars among them"
            fix = f"add a member first: there must be {least} at least"
            raise _refused("roster.byzantine", what, fix)
        if n - away < 1:
            what = f"{away} members may be away, and {n} are left"
            raise _refused("roster.quorum", what, "add a member first")
        if self.epoch == _U63:
            raise _refused("roster.epoch", "the roster changed too often", "begin a new swarm")
        return Roster(tuple(sorted(members)), self.byzantine, n - away, self.epoch + 1)


def _refused(where: str, what: str, fix: str) -> RosterError:
    return RosterError.of("QRES-E607", where, what, fix)


def _said(message: Envelope) -> tuple[object, ...]:
    """All that is signed but who signed it and when."""
    head, number = message.head, message.sequence
    return message.swarm, message.kind, message.round, head, number, message.payload


def _frames(messages: tuple[Envelope, ...]) -> tuple[bytes, ...]:
    return tuple(message.to_bytes() for message in messages)


@attrs.frozen(slots=False)
class RosterChange:
    """One member more, one less, or another identity in a member's seat.

    Attributes:
        swarm: name of the swarm.
        epoch: the epoch of the roster that it applies to.
        roster: the digest of that roster, 32 bytes.
        action: ``"add"``, ``"remove"`` or ``"rotate"``.
        member: whom it adds, removes or replaces.
        successor: who takes the member's seat; ``None`` unless it rotates.
        signatures: messages of members that want it, ascending by sender, distinct. Whether they
            are authentic is not known yet.
        approval: what the swarm's authority signed, at most 4096 bytes; empty without one.

    Raises:
        WireError: QRES-E404 names the field.
    """

    swarm: str
    epoch: int
    roster: bytes
    action: Action
    member: NodeId
    successor: NodeId | None = None
    signatures: tuple[Envelope, ...] = attrs.field(default=(), eq=_frames)
    approval: bytes = b""

    def __attrs_post_init__(self) -> None:
        _number(self.epoch, 0, _U63, "change.epoch")
        _octets(self.roster, DIGEST_BYTES, "change.roster")
        if self.action not in ACTIONS:
            raise _bad("change.action", f"expected one of {', '.join(ACTIONS)}")
        _octets(self.member, NODE_ID_BYTES, "change.member")
        if self.action == "rotate":
            _octets(self.successor, NODE_ID_BYTES, "change.successor")
            if self.successor == self.member:
                raise _bad("change.successor", "it is the member itself")
        elif self.successor is not None:
            raise _bad("change.successor", "only a rotation names one")
        if type(self.approval) is not bytes or len(self.approval) > MAX_AUTHENTICATOR:
            raise _bad("change.approval", f"expected at most {MAX_AUTHENTICATOR} bytes")
        self._check_signatures()

    def _check_signatures(self) -> None:
        signatures = self.signatures
        if type(signatures) is not tuple or len(signatures) > MAX_MEMBERS:
            raise _bad("change.signatures", f"expected at most {MAX_MEMBERS}")
        stated = _said(self.statement(self.member, 0))
        if any(_said(signed) != stated for signed in signatures):
            raise _bad("change.signatures", "a signature of something else")
        if any(a.sender >= b.sender for a, b in pairwise(signatures)):
            raise _bad("change.signatures", "expected distinct senders, ascending")

    @cached_property
    def payload(self) -> bytes:
        """Bytes that are signed: the change without signatures and approval."""
        return canonical.dumps(self._body())

    @cached_property
    def digest(self) -> bytes:
        """Names the change, whoever signed it; what an authority approves. 32 bytes."""
        return hashlib.sha256(_CHANGE_DOMAIN + self.payload).digest()

    def statement(self, sender: NodeId, time_ms: int) -> Envelope:
        """The message with which a member signs the change, not signed yet.

        Its head is the digest of the roster: the change belongs to that and to no height. It is
        quoted and never delivered by itself, so its sequence number is 0.

        Raises WireError: QRES-E404 for a ``sender`` or ``time_ms`` that no message can have.
        """
        return Envelope(self.swarm, CHANGE, 0, self.roster, sender, 0, time_ms, self.payload)

    def signed(self, messages: Iterable[Envelope]) -> RosterChange:
        """The same change with further signatures. Of a sender's two, the one held first stays.

        Raises WireError: QRES-E404 for a signature of something else.
        """
        held: dict[NodeId, Envelope] = {}
        for message in (*self.signatures, *messages):
            held.setdefault(message.sender, message)
        return attrs.evolve(self, signatures=tuple(held[key] for key in sorted(held)))

    def of_members(self, roster: Roster, authentic: Callable[[Envelope], bool]) -> RosterChange:
        """The same change with the authentic signatures of members alone, the rest left out.

        Complexity: a signature check for each member that signed, at most n.
        """
        kept = (
            signed for signed in self.signatures if signed.sender in roster and authentic(signed)
        )
        return attrs.evolve(self, signatures=tuple(kept))

    def bare(self) -> RosterChange:
        """The same change without signatures and approval, which no digest covers."""
        if not self.signatures and not self.approval:
            return self
        return attrs.evolve(self, signatures=(), approval=b"")

    def renamed(self, node_id: NodeId) -> NodeId | None:
        """Name of a member after the change; ``None`` if it is removed.

        A ban and a count of missed sets follow the seat: nobody gets rid of them with a new key.
        """
        return self.successor if node_id == self.member and self.action != "add" else node_id

    def _body(self) -> list[Any]:
        return [self.swarm, self.epoch, self.roster, self.action, self.member, self.successor]

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return [*self._body(), list(_frames(self.signatures)), self.approval]

    @classmethod
    def from_raw(cls, value: object, most: int = MAX_MEMBERS) -> RosterChange:
        """From plain data. ``most``: signatures it may have, the members of the roster.

        Raises WireError: QRES-E401 to QRES-E406 for anything that is no change.

        Complexity: O(its bytes), about 50 microseconds a signature.
        """
        swarm, epoch, roster, action, member, successor, frames, approval = _list(
            value, 8, "change"
        )
        if not canonical.is_list(frames) or len(frames) > most:
            raise _bad("change.signatures", f"expected at most {most}")
        if any(type(frame) is not bytes for frame in frames):
            raise _bad("change.signatures", "expected encoded messages")
        signatures = tuple(Envelope.from_bytes(item, max_bytes=MAX_SIGNED_BYTES) for item in frames)
        return cls(swarm, epoch, roster, action, member, successor, signatures, approval)

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps(self.raw())

    @classmethod
    def from_bytes(cls, data: bytes) -> RosterChange:
        """Decode.

        Raises WireError: QRES-E401 to QRES-E406, whatever the bytes.
        """
        return cls.from_raw(canonical.loads(data, max_bytes=MAX_CHANGE_BYTES, max_items=_MAX_ITEMS))


def authorised(
    change: RosterChange,
    roster: Roster,
    swarm: str,
    authentic: Callable[[Envelope], bool],
    approved: Callable[[bytes, bytes], bool] | None = None,
) -> bool:
    """True if a change was wanted by those who may change this roster.

    It does not say that the change is possible: :meth:`Roster.after` does.

    Args:
        change: whose signatures are not checked yet.
        roster: the one of now; a change of another is not authorised.
        swarm: name of this swarm.
        authentic: whether a quoted message was made by its sender.
        approved: what ``kernel.authority`` gives: whether the authority signed a digest of 32 bytes
            with these bytes. ``None``: as many members must have signed as decide a vote.

    Complexity: at most n calls of ``authentic``; it stops at the threshold.
    """
    if (change.swarm, change.epoch, change.roster) != (swarm, roster.epoch, roster.digest):
        return False
    if approved is not None:
        return bool(change.approval) and approved(change.digest, change.approval)
    missing = roster.threshold
    candidates = [signed for signed in change.signatures if signed.sender in roster]
    for left, signed in zip(range(len(candidates), 0, -1), candidates, strict=True):
        if missing > left:
            return False
        missing -= authentic(signed)
        if missing == 0:
            return True
    return False
