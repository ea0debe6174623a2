"""Answers of holders to their shares: acks, and complaints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, KeysView, Mapping

import numpy as np
from numpy.typing import NDArray

from qres_secagg.complaints import dealer_lied
from qres_secagg.dealing import Dealing
from qres_secagg.failure import Reason
from qres_secagg.messages import ACKED, MAX_VARIANTS, Ack, Advert, Complaint, Shares, ack_tag
from qres_secagg.session import Session


class Acks:
    """Acks: the dealers whose shares each holder found to fit.

    Args:
        nodes: size of the roster.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._records: dict[int, bytes] = {}  # by rank of who says so, no two alike
        self._counts: Counter[int] = Counter()  # of messages

    @property
    def holders(self) -> KeysView[int]:
        """Ranks of who said anything."""
        return self._records.keys()

    def take(self, holder: int, ack: Ack) -> None:
        """Note what a holder says.

        Of a dealer it may say several things. All are kept, so that nodes that heard the same count
        the same, in whatever order it came. A list names one of them, so it counts once.
        """
        known = self._records.get(holder)
        self._counts[holder] += 1
        if known is None:
            self._records[holder] = ack.records
        elif self._counts[holder] <= MAX_VARIANTS:
            said = [*_records(known), *_records(ack.records)]
            self._records[holder] = b"".join(dict.fromkeys(said))

    def right(
        self, members: Mapping[int, tuple[bytes, bytes]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Nodes of a list by the dealers whose shares they found to fit, beside their own.

        ``members``: by rank, the hashes of its advert and its shares. Returns ranks of dealers, and
        of the holders that say so, int64 of one shape. O(n k), without a loop over it.
        """
        said = {rank: self._records[rank] for rank in members if rank in self._records}
        found = np.frombuffer(b"".join(said.values()), ACKED)
        sizes = [len(octets) // ACKED.itemsize for octets in said.values()]
        holders = np.repeat(np.fromiter(said, np.intp, len(said)), sizes)
        expected = np.zeros(self._nodes, ACKED["tag"])
        listed = np.zeros(self._nodes, bool)
        for rank, hashes in members.items():
            expected[rank], listed[rank] = ack_tag(*hashes), True
        dealers = found["dealer"].astype(np.intp)
        right = listed[dealers] & (expected[dealers] == found["tag"])
        return dealers[right], holders[right]

    def count(self, members: Mapping[int, tuple[bytes, bytes]]) -> NDArray[np.int64]:
        """Numbers of a list's nodes that found each one's shares to fit, itself among them.

        ``members``: as for :meth:`right`. Returns int64, shape ``(nodes,)``. O(n k).
        """
        dealers, _holders = self.right(members)
        counts = np.bincount(dealers, minlength=self._nodes)
        counts[np.fromiter(members, np.intp, len(members))] += 1
        return counts


def _records(octets: bytes) -> Iterator[bytes]:
    size = ACKED.itemsize
    return (octets[start : start + size] for start in range(0, len(octets), size))


class Complaints:
    """Complaints of holders, and which dealers they prove to have lied.

    Args:
        session: the session.

    Complaints about a dealer that is convicted are not looked at, nor those of an author that lied
    in one: a hundred holders of a bad dealer, or one liar, would cost every node much time.

    Attributes:
        convicted: those dealers, by rank.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._said: set[tuple[int, int]] = set()  # ranks of author and dealer
        self._open: dict[int, list[Complaint]] = {}  # not judged yet, by rank of the author
        self._false: set[int] = set()  # authors that lied
        self.convicted: set[int] = set()

    def take(self, author: int, complaint: Complaint) -> bool:
        """Keep a complaint; false for one that will not be looked at.

        That is another one of the same author about the same dealer, too.
        """
        key = author, complaint.dealer
        new = not (key in self._said or self._settled(*key))
        if new:
            self._said.add(key)
            self._open.setdefault(author, []).append(complaint)
        return new

    def _settled(self, author: int, dealer: int) -> bool:
        return author in self._false or dealer in self.convicted

    def judge(
        self,
        rank: int,
        adverts: Mapping[int, Mapping[bytes, Advert]],
        shares: Mapping[int, Mapping[bytes, Shares]],
    ) -> Iterator[tuple[int, Reason]]:
        """Judge the complaints of a node and about it, as far as the messages they name are here.

        ``rank``: of a node of which a message came; ``adverts`` and ``shares``: those that are
        here, by rank and hash. Yields who lied, by rank, and about what. 0.7 ms for each complaint.
        """
        for author, waiting in self._open.items():
            for complaint in list(waiting):
                dealer = complaint.dealer
                own = adverts.get(author, {}).get(complaint.own_advert)
                advert = adverts.get(dealer, {}).get(complaint.advert)
                dealt = shares.get(dealer, {}).get(complaint.shares)
                if self._settled(author, dealer):
                    waiting.remove(complaint)
                elif rank in {author, dealer} and own and advert and dealt:
                    waiting.remove(complaint)
                    against = Dealing(self._session.sid, dealer, advert, dealt)
                    lied = dealer_lied(self._session, author, own.channel, against, complaint)
                    if lied:
                        self.convicted.add(dealer)
                        yield dealer, Reason.BAD_SHARES
                    elif lied is not None:
                        self._false.add(author)
                        yield author, Reason.FALSE_COMPLAINT
