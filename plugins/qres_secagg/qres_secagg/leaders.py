"""Leaders in turn: the node that may list, and the list that counts.

A leader has a patience, from when the list could have come. Who took none of its lists by then
skips it, and takes none of it any more. The next leader's turn comes when a quorum has skipped it.
Then no quorum can state a set of its lists: the honest nodes that skipped it state none, and two
quorums have an honest node in common. So lists of two leaders never both come to a sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from qres_core import Contribution, NodeId
from qres_core.errors import WireError
from qres_secagg.failure import Reason
from qres_secagg.messages import MAX_LEADERS, Kind, Listing, body_hash, decode_listing
from qres_secagg.ring import masked_under
from qres_secagg.session import Session


@attrs.frozen
class ToldList:
    """A list as it came, perhaps not adopted yet."""

    turn: int  # leaders before its own
    body: bytes
    listing: Listing
    name: bytes  # see :func:`~qres_secagg.messages.body_hash`


class Leaders:
    """The leaders of a session, as one node sees them.

    Args:
        session: the session.
        patience: seconds that each has.

    Attributes:
        turn: leaders that a quorum skipped.
        due_at: when the list of that turn was seen to be due, seconds; ``None`` before.
        lists: the first that each leader told, by turn.
        bad: turns whose list nobody can adopt.
    """

    def __init__(self, session: Session, patience: float) -> None:
        self.turn = 0
        self.due_at: float | None = None
        self.lists: dict[int, ToldList] = {}
        self.bad: set[int] = set()
        self._session, self._patience = session, patience
        self._named: Counter[bytes] | None = None

    def who(self, turn: int) -> NodeId:
        """Nodes by turn: the one that may propose in the round, and then the next of the roster."""
        roster = self._session.roster
        return roster[(self._session.round + turn) % len(roster)]

    @property
    def is_last(self) -> bool:
        """True if no other leader's turn may come after this one."""
        return self.turn + 1 >= min(MAX_LEADERS, len(self._session.roster))

    def late(self, now: float) -> bool:
        """True if the leader has had its patience, or told a list that nobody can adopt."""
        waited = self.due_at is not None and now >= self.due_at + self._patience
        return waited or self.turn in self.bad

    def take(self, sender: NodeId, body: bytes) -> Reason | None:
        """Keep a list; what it proves against its sender. Raises ``WireError``."""
        session = self._session
        turn = (session.rank.get(sender, -1) - session.round) % len(session.roster)
        if sender not in session.rank or turn >= MAX_LEADERS:
            return Reason.BAD_LIST
        known = self.lists.get(turn)
        if known is not None:
            return Reason.EQUIVOCATION if body != known.body else None
        try:
            sid, listing = decode_listing(body)
        except WireError:
            self.bad.add(turn)
            raise
        if sid == session.sid:
            self.lists[turn] = ToldList(turn, body, listing, body_hash(Kind.LIST, body))
        return None

    def agreed(self, contributions: Iterable[Contribution]) -> None:
        """The set that is to be opened: the list that most of it was masked under counts."""
        self.named(masked_under(made.companions) for made in contributions)

    def named(self, lists: Iterable[bytes]) -> None:
        """As :meth:`agreed`, by the names of the lists that inputs were masked under."""
        self._named = Counter(lists)

    @property
    def chosen(self) -> ToldList | None:
        """The list that counts: that of the turn, until a set is agreed."""
        named = self._named
        if named is None:
            return self.lists.get(self.turn)
        known = (told for told in self.lists.values() if named[told.name])
        return max(known, key=lambda told: (named[told.name], told.turn), default=None)

    def has_changed(self, turn: int, adopted: bytes) -> bool:
        """True if the list that a node adopted counts no more.

        ``turn``: leaders that a quorum skipped; ``adopted``: the list's name.
        """
        if turn > self.turn:
            self.turn, self.due_at = turn, None
            return True
        return self._named is not None and self.chosen is not None and self.chosen.name != adopted
