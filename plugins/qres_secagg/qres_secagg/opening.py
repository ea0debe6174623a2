"""Of every listed node one secret, opened from the shares its holders give out.

Which one follows from the survivor set: the seed of a node that is in it, the mask key of one that
is not. A secret is compared with what its dealer committed to, on every node. Only where it differs
are its shares looked at one by one, each by itself: the wrong ones are left out and their holders
known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import mul

import numpy as np

from qres_secagg.dealing import Dealing
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.keys import generated
from qres_secagg.messages import Advert, Shares, Unmask
from qres_secagg.session import Session
from qres_secagg.shamir import ORDER, decode, encode, lagrange
from qres_secagg.sharing import Secret
from qres_secagg.survivors import Survivors


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
        keys: of the masks that are left in the sum of a group, with their signs, by group; what
            sums them finds them once.
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
        self.keys: dict[int, list[tuple[bytes, int]]] = {}
        self._session, self._group_of = session, topology.group_of
        self._adverts, self._dealt, self._blame = adverts, dealt, blame
        self._threshold = session.parameters.t
        self._secrets: dict[int, bytes] = {}
        self._answers: dict[int, Mapping[int, bytes]] = {}  # by holder, its shares by dealer
        self._counts = np.zeros(len(session.roster), np.int64)  # of them, by dealer
        self._chosen: tuple[int, ...] = ()  # holders whose shares were combined last
        self._factors: tuple[int, ...] = ()  # of their shares
        self._liars: set[int] = set()  # holders that opened a wrong share
        # Around the circle: neighbours have most of their holders in common.
        self._ahead = {rank: step for step, rank in enumerate(topology.circle)}
        kinds = {rank: self.wanted(rank) for rank in sorted(dealt, key=self._ahead.__getitem__)}
        self._awaited = {rank: kind for rank, kind in kinds.items() if kind is not None}
        self._all = np.fromiter(self._awaited, np.intp)
        # Dealers that dealt to some of their neighbours only, and to whom.
        self._partial = {
            rank: frozenset((rank, *dealt[rank].holders))
            for rank in self._awaited
            if dealt[rank].holders != topology.holders[rank]
        }

    @property
    def missing(self) -> int:
        """Nodes whose secret cannot be opened yet; 0 when the sum can be. O(n)."""
        return int(np.count_nonzero(self._counts[self._all] < self._threshold))

    def wanted(self, rank: int) -> Secret | None:
        """Secret of a listed node that is opened, of its two; none where its group is closed."""
        if self._group_of[rank] not in self.survivors.groups:
            return None
        return Secret.SEED if rank in self.survivors.digests else Secret.MASK_KEY

    def take(self, holder: int, unmask: Unmask) -> None:
        """Keep the shares of a holder, and of those no foreign ones.

        Once for a holder, with shares of itself and its neighbours alone. What is for another set
        is passed over. O(k).
        """
        if unmask.statement != self.survivors.statement:
            return
        shares: Mapping[int, bytes] = unmask.shares
        foreign = {
            dealer
            for dealer in shares.keys() & self._partial.keys()
            if holder not in self._partial[dealer]
        }
        if foreign or not shares.keys() <= self._awaited.keys():
            self._blame(holder, Reason.FOREIGN_SHARE)
            own = (shares.keys() & self._awaited.keys()) - foreign
            shares = {dealer: shares[dealer] for dealer in own}
        self._answers[holder] = shares
        self._counts[np.fromiter(shares, np.intp, len(shares))] += 1

    def open_all(self) -> bool:
        """Open every secret that the sum needs.

        Returns false where some are ``missing``, perhaps because shares were wrong. Raises
        SecaggError: ``BAD_DEALER``, see :meth:`secret`.
        """
        if self.missing:
            return False
        for rank in self._awaited:
            try:
                self.secret(rank)
            except SecaggError as error:
                if error.reason is not Reason.BELOW_THRESHOLD:
                    raise
        return not self.missing

    def secret(self, rank: int) -> bytes:
        """The opened secret of a listed node, checked against what its dealer committed to.

        Returns:
            32 bytes, of the kind :meth:`wanted` says; the same on every node that gets one.

        Raises:
            SecaggError: ``BELOW_THRESHOLD``, too few shares that are right; ``BAD_DEALER``, shares
                that are right do not give the key the dealer advertised, although enough holders
                found them to fit: see :mod:`qres_secagg.dealing` for how unlikely that is.

        Complexity: O(t) where the last secret was opened by holders this one has as well, else
            O(t**2); a hash for a seed and a multiplication in the group for a key. Where a holder
            lied, O(k t) once more.
        """
        if rank not in self._secrets:
            kind = self._awaited.get(rank)
            if kind is None:
                raise SecaggError(Reason.BELOW_THRESHOLD, f"no secret of node {rank} is opened")
            secret = self._combined(rank)
            if not self._is_secret(rank, kind, secret):
                self._sort_out(rank, kind)
                secret = self._combined(rank)
                if not self._is_secret(rank, kind, secret):
                    self._condemn(rank, kind)
            self._secrets[rank] = secret
        return self._secrets[rank]

    def _condemn(self, rank: int, kind: Secret) -> None:
        """A dealer whose shares, each of them right, give another secret than it committed to.

        What they give is its seed all the same. The one committed to passes on no node, as it is
        not on the polynomial, so every node comes here. A mask key must be the advertised one.
        """
        self._blame(rank, Reason.BAD_DEALER)
        if kind is Secret.MASK_KEY:
            node = self._session.roster[rank]
            raise SecaggError(Reason.BAD_DEALER, f"node {rank}", [node])

    def _dealing(self, rank: int) -> Dealing:
        return Dealing(self._session.sid, rank, self._adverts[rank], self._dealt[rank])

    def _holders(self, rank: int) -> list[int]:
        """Holders that opened a share of a dealer."""
        around = (rank, *self._dealt[rank].holders)
        return [holder for holder in around if rank in self._answers.get(holder, ())]

    def _sort_out(self, rank: int, kind: Secret) -> None:
        """Drop the shares that are not those committed to. O(k t)."""
        dealing = self._dealing(rank)
        for holder in self._holders(rank):
            answer = self._answers[holder]
            if not dealing.fits(kind, holder, answer[rank]):
                self._answers[holder] = {
                    dealer: share for dealer, share in answer.items() if dealer != rank
                }
                self._counts[rank] -= 1
                self._liars.add(holder)
                self._blame(holder, Reason.WRONG_SHARE)
        self._chosen = ()

    def _combined(self, rank: int) -> bytes:
        """Combine as many shares as the threshold.

        Those of the holders that were chosen last, if they have some of this dealer: their
        coefficients are known. Raises as :meth:`secret`.
        """
        answers = self._answers
        try:
            shares = [answers[holder][rank] for holder in self._chosen]
        except KeyError:
            shares = []
        if not shares:
            self._choose(rank)
            shares = [answers[holder][rank] for holder in self._chosen]
        numbers = [int.from_bytes(share, "little") for share in shares]
        return encode(sum(map(mul, self._factors, numbers)) % ORDER)

    def _choose(self, rank: int) -> None:
        """Choose holders: those farthest ahead in the circle, who fit the most secrets to come.

        Holders that lied before come last.
        """
        size, start = len(self._ahead), self._ahead[rank]
        # From half the circle behind the dealer to half of it ahead.
        around = sorted(
            self._holders(rank),
            key=lambda holder: (
                holder in self._liars,
                (start - self._ahead[holder] + size // 2) % size,
            ),
        )
        if len(around) < self._threshold:
            what = f"{len(around)} shares of node {rank}, {self._threshold} are needed"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        self._chosen = tuple(sorted(around[: self._threshold]))
        self._factors = lagrange(tuple(holder + 1 for holder in self._chosen))

    def _is_secret(self, rank: int, kind: Secret, secret: bytes) -> bool:
        if kind is Secret.SEED:
            return self._dealing(rank).is_seed(secret)
        number = decode(secret)
        return number > 0 and generated(number) == self._adverts[rank].mask
