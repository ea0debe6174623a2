"""Of every listed node one secret, opened from the shares its holders give out.

Which one follows from the survivor set: the seed of a node that is in it, the mask key of one that
is not. A secret is compared with what its dealer committed to, on every node. Only where it differs
are its shares looked at one by one, each by itself: the wrong ones are left out and their holders
known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from qres_secagg.dealing import Dealing
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.keys import generated
from qres_secagg.messages import Advert, Shares, Unmask
from qres_secagg.session import Session
from qres_secagg.shamir import combine, decode, encode
from qres_secagg.sharing import Secret
from qres_secagg.survivors import Survivors


@attrs.frozen
class _Awaited:
    """A secret that is to be opened."""

    kind: Secret  # which of the dealer's two
    holders: frozenset[int]  # ranks of those it was dealt to, the dealer's among them
    # those that came, encoded, by the place of the holder
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
        self._liars: set[int] = set()  # places of holders that opened a wrong share
        # Around the circle: neighbours have most of their holders in common.
        self._ahead = {rank: step for step, rank in enumerate(topology.circle)}
        self._awaited: dict[int, _Awaited] = {}
        for rank in sorted(dealt, key=self._ahead.__getitem__):
            kind = self.wanted(rank)
            if kind is not None:
                holders = frozenset((rank, *dealt[rank].holders))
                self._awaited[rank] = _Awaited(kind, holders)
        self.missing = len(self._awaited)

    def wanted(self, rank: int) -> Secret | None:
        """Which of its two secrets a listed node has opened; none where its group is closed."""
        if self._group_of[rank] not in self.survivors.groups:
            return None
        return Secret.SEED if rank in self.survivors.digests else Secret.MASK_KEY

    def take(self, holder: int, unmask: Unmask) -> None:
        """Keep the shares of a holder; another set's are passed over. Once for a holder. O(k)."""
        if unmask.statement != self.survivors.statement:
            return
        awaited, place, enough = self._awaited, holder + 1, self._threshold
        for dealer, share in unmask.shares.items():
            item = awaited.get(dealer)
            if item is None or holder not in item.holders:
                self._blame(holder, Reason.FOREIGN_SHARE)
                continue
            item.shares[place] = share
            self.missing -= len(item.shares) == enough

    def open_all(self) -> bool:
        """Open every secret that the sum needs.

        Returns false where shares were wrong and more are needed: then some are ``missing`` again.
        Raises SecaggError: ``BAD_DEALER``, see :meth:`secret`.
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
        if rank in self._secrets:
            return self._secrets[rank]
        item = self._awaited.get(rank)
        if item is None or len(item.shares) < self._threshold:
            raise self._too_few(rank, item)
        secret = self._combined(rank, item)
        if not self._is_secret(rank, item.kind, secret):
            self._sort_out(rank, item)
            if len(item.shares) < self._threshold:
                self.missing += 1
                raise self._too_few(rank, item)
            secret = self._combined(rank, item)
            if not self._is_secret(rank, item.kind, secret):
                # What the shares give is the seed, though the dealer committed to another one. That
                # passes nowhere, so every node comes here.
                self._blame(rank, Reason.BAD_DEALER)
                if item.kind is Secret.MASK_KEY:
                    node = self._session.roster[rank]
                    raise SecaggError(Reason.BAD_DEALER, f"node {rank}", [node])
        self._secrets[rank] = secret
        return secret

    def _too_few(self, rank: int, item: _Awaited | None) -> SecaggError:
        here = 0 if item is None else len(item.shares)
        what = f"{here} shares of node {rank}, {self._threshold} are needed"
        return SecaggError(Reason.BELOW_THRESHOLD, what)

    def _dealing(self, rank: int) -> Dealing:
        return Dealing(self._session.sid, rank, self._adverts[rank], self._dealt[rank])

    def _sort_out(self, rank: int, item: _Awaited) -> None:
        """Drop the shares that are not those committed to. O(k t)."""
        dealing = self._dealing(rank)
        for place in list(item.shares):
            if not dealing.fits(item.kind, place - 1, item.shares[place]):
                del item.shares[place]
                self._liars.add(place)
                self._blame(place - 1, Reason.WRONG_SHARE)
        self._places = ()

    def _combined(self, rank: int, item: _Awaited) -> bytes:
        """What as many shares as the threshold give.

        Those of the last secret, if they fit: their coefficients are known. Else the places
        farthest ahead in the circle, which fit the most secrets to come. Holders that lied before
        come last.
        """
        shares = item.shares
        if not (self._places and all(place in shares for place in self._places)):
            size, start = len(self._ahead), self._ahead[rank]
            # From half the circle behind the dealer to half of it ahead; the farthest ahead first.
            around = sorted(
                shares,
                key=lambda place: (
                    place not in self._liars,
                    (self._ahead[place - 1] - start + size // 2) % size,
                ),
                reverse=True,
            )
            self._places = tuple(sorted(around[: self._threshold]))
        return encode(combine({place: decode(shares[place]) for place in self._places}))

    def _is_secret(self, rank: int, kind: Secret, secret: bytes) -> bool:
        if kind is Secret.SEED:
            return self._dealing(rank).is_seed(secret)
        number = decode(secret)
        return number > 0 and generated(number) == self._adverts[rank].mask
