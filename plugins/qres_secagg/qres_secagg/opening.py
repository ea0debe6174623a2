"""Of every listed node one secret, opened from the shares its holders give out.

Which one follows from the survivor set: the seed of a node that is in it, the mask key of one that
is not. Every share is compared with what its dealer committed to, on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.keys import X25519Pair
from qres_secagg.messages import Advert, Shares, Unmask
from qres_secagg.session import Session
from qres_secagg.shamir import combine
from qres_secagg.sharing import (
    Secret,
    commitment_head,
    commitment_holder,
    committed,
    seed_commitment,
)
from qres_secagg.survivors import Survivors

MAX_SUBSETS: Final = 16
"""Sets of holders that are tried where shares of a dealer do not belong together."""


@attrs.frozen
class _Awaited:
    """A secret that is to be opened."""

    kind: Secret  # which of the dealer's two
    head: bytes  # see :func:`qres_secagg.sharing.commitment_head`
    promised: dict[int, bytes]  # the commitments, by rank of the holder
    # those that came and are right, encoded, by the place of the holder
    shares: dict[int, bytes] = attrs.field(factory=dict[int, bytes])


class OpenedShares:
    """The opened shares of a session whose survivor set is decided.

    Args:
        session: the session.
        topology: its graphs.
        adverts: of the listed nodes, by rank.
        dealt: what they dealt.
        survivors: the set.
        blame: told of faults, with the rank of whose they are.

    Attributes:
        survivors: the set.
        missing: nodes whose secret cannot be opened yet; 0 when the sum can be.
    """

    def __init__(
        self,
        session: Session,
        topology: Topology,
        adverts: Mapping[int, Advert],
        dealt: Mapping[int, Shares],
        survivors: Survivors,
        blame: Callable[[int, Reason], None],
    ) -> None:
        self.survivors = survivors
        self._session, self._group_of = session, topology.group_of
        self._adverts, self._dealt, self._blame = adverts, dealt, blame
        self._threshold = session.parameters.t
        self._secrets: dict[int, bytes] = {}
        self._places: tuple[int, ...] = ()  # of the shares that were combined last
        self._awaited: dict[int, _Awaited] = {}
        # Around the circle: neighbours have most of their holders in common.
        self._ahead = {rank: step for step, rank in enumerate(topology.circle)}
        for rank in sorted(dealt, key=self._ahead.__getitem__):
            kind = self.wanted(rank)
            if kind is not None:
                head = commitment_head(session.sid, kind, rank)
                self._awaited[rank] = _Awaited(kind, head, dealt[rank].promises(rank, kind))
        self.missing = len(self._awaited)

    def wanted(self, rank: int) -> Secret | None:
        """Which of its two secrets a listed node has opened; none where its group is closed."""
        if self._group_of[rank] not in self.survivors.groups:
            return None
        return Secret.SEED if rank in self.survivors.digests else Secret.MASK_KEY

    def take(self, holder: int, unmask: Unmask) -> None:
        """Check the shares of a holder and keep the right ones; another set's are passed over.

        Once for a holder.

        Complexity: a hash for each share.
        """
        if unmask.statement != self.survivors.statement:
            return
        awaited, place = self._awaited, commitment_holder(holder)
        for dealer, share in unmask.shares.items():
            item = awaited.get(dealer)
            promised = None if item is None else item.promised.get(holder)
            if item is None or promised is None:
                self._blame(holder, Reason.FOREIGN_SHARE)
            elif promised != committed(item.head, place, share):
                self._blame(holder, Reason.WRONG_SHARE)
            else:
                item.shares[holder + 1] = share
                self.missing -= len(item.shares) == self._threshold

    def open_all(self) -> None:
        """Open every secret that the sum needs. Raises as :meth:`secret`."""
        for rank in self._awaited:
            self.secret(rank)

    def secret(self, rank: int) -> bytes:
        """The opened secret of a listed node, checked against what its dealer committed to.

        Returns:
            32 bytes, of the kind :meth:`wanted` says; the same on every node that gets one.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few shares; ``BAD_DEALER``, no set of shares that
                was tried gives the secret: each is the one committed to, so the dealer lied.

        Complexity: O(t) where the last secret was opened by holders this one has as well, else
            O(t**2).
        """
        if rank in self._secrets:
            return self._secrets[rank]
        event = self._awaited.get(rank)
        shares = {} if event is None else event.shares
        if event is None or len(shares) < self._threshold:
            what = f"{len(shares)} shares of node {rank}, {self._threshold} are needed"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        for places in self._subsets(rank, shares):
            secret = combine({place: int.from_bytes(shares[place], "little") for place in places})
            if secret is not None and self._is_secret(rank, event.kind, secret):
                self._secrets[rank], self._places = secret, places
                return secret
            self._blame(rank, Reason.BAD_DEALER)
        node = self._session.roster[rank]
        raise SecaggError(Reason.BAD_DEALER, f"node {rank}", [node])

    def _subsets(self, rank: int, shares: Mapping[int, bytes]) -> Iterator[tuple[int, ...]]:
        """Sets of places to try, each as large as the threshold.

        The first is that of the last secret, if it fits: its coefficients are known. Then come the
        places farthest ahead in the circle, which fit the most secrets to come.
        """
        if self._places and all(place in shares for place in self._places):
            yield self._places
        size, start = len(self._ahead), self._ahead[rank]
        # From half the circle behind the dealer to half of it ahead; the farthest ahead first.
        around = sorted(
            shares,
            key=lambda place: (self._ahead[place - 1] - start + size // 2) % size,
            reverse=True,
        )
        for first in range(min(MAX_SUBSETS, len(around))):
            yield tuple(sorted((around[first:] + around[:first])[: self._threshold]))

    def _is_secret(self, rank: int, kind: Secret, secret: bytes) -> bool:
        if kind is Secret.SEED:
            return seed_commitment(self._session.sid, rank, secret) == self._dealt[rank].seed
        return X25519Pair(secret).public == self._adverts[rank].mask
