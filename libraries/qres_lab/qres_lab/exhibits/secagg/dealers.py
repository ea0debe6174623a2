"""Liars while keys and shares are exchanged: who says them to some, and who deals what is none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, Phase
from qres_secagg.dealing import Dealer
from qres_secagg.failure import SecaggError
from qres_secagg.keys import random_scalar
from qres_secagg.messages import (
    Advert,
    Complaint,
    Deal,
    Kind,
    encode_shares,
    shares_hash,
)
from qres_secagg.shamir import encode
from qres_secagg.sharing import SEALED_BYTES, Secret, key_tag

from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_lab.exhibits.secagg.swarm import ExhibitSwarm, Reaches, session_of, updates

_NODES: Final = 10
_THRESHOLD: Final = 6
_LEADER: Final = 0
_LIAR: Final = 2


class BelievesDealers(SessionMessages):
    """A board for which a dealer needs nobody's word, and no complaint counts."""

    def _unchecked(self, members: Mapping[int, tuple[bytes, bytes]]) -> list[int]:
        del members
        return []

    def _on_complaint(self, rank: int, complaint: Complaint) -> None:
        del rank, complaint


# ── withholding ───────────────────────────────────────────────────────────────────────────────


def _kept_out(board: type[SessionMessages], told: Collection[int], *, hand_on: bool) -> float:
    """The share of honest nodes that cannot mask."""

    def reaches(sender: int, receiver: int) -> bool:
        return sender != _LIAR or receiver in told

    heard: Reaches = reaches
    session = session_of(_NODES, t=_THRESHOLD, corrupt=1)
    swarm = ExhibitSwarm(session, board=board, reaches=heard, hand_on=hand_on)
    swarm.until_listed(leader=_LEADER)
    honest = [rank for rank in range(_NODES) if rank != _LIAR]
    inside = set(swarm.taking_part)
    return sum(rank not in inside for rank in honest) / len(honest)


_SOME: Final = tuple(rank for rank in range(_NODES) if rank % 3 != 1)
_OUT: Final = "honest nodes that cannot take part"


def _withheld(setting: GallerySetting) -> GalleryOutcome:
    del setting
    found = _kept_out(BelievesDealers, [_LEADER], hand_on=False)
    reason = "the leader lists what it alone was told, and nobody else can follow it"
    return GalleryOutcome.judged("nothing", _OUT, round(found, 6), 0.0, control=True, reason=reason)


def _withheld_acks(setting: GallerySetting) -> GalleryOutcome:
    del setting
    found = _kept_out(SessionMessages, [_LEADER], hand_on=False)
    reason = "too few say that its shares fit, so the leader leaves it out"
    return GalleryOutcome.judged("acks alone", _OUT, round(found, 6), 0.0, reason=reason)


def _withheld_all(setting: GallerySetting) -> GalleryOutcome:
    del setting
    found = max(
        _kept_out(SessionMessages, told, hand_on=True) for told in ([_LEADER], _SOME, range(_NODES))
    )
    reason = "told the leader alone, or all but every third: the others hand on what it said"
    return GalleryOutcome.judged("secure aggregation", _OUT, round(found, 6), 0.0, reason=reason)


# ── bad dealers ───────────────────────────────────────────────────────────────────────────────


class BadDealer(Client):
    """Deals as it should, but for what it seals: garbage. It remembers the seed of its own mask."""

    kept: bytes = b""
    """The seed, 32 bytes."""

    def share(self) -> bytes:
        """Deal garbage, well proved and signed."""
        assert self._channel is not None  # noqa: S101 - made with the advert
        assert self._mask is not None  # noqa: S101 - made with the advert
        sid, seed = self.session.sid, random_scalar()
        secrets = {Secret.SEED: seed, Secret.MASK_KEY: self._mask.secret}
        dealer = Dealer(sid, self._rank, self.session.parameters.t, secrets)
        own = dealer.deal(self._rank)
        deals = {
            rank: Deal(*dealer.deal(rank).promises, key_tag(public), bytes(SEALED_BYTES))
            for rank, (public, _secret) in self._holders_keys().items()
        }
        advert = Advert(self._channel.public, self._mask.public)
        shares = dealer.message(advert, self._channel, own, deals)
        self._held[self._rank] = own.seed, own.mask
        self._seed = self.kept = encode(seed)
        self.phase = Phase.SHARED
        self._own.append(shares_hash(sid, shares))
        return self._post(Kind.SHARE, encode_shares(sid, shares))


_ALONE: Final = "sums that the liar opens and nobody else"


def _dealt(setting: GallerySetting, defence: str, board: type[SessionMessages]) -> GalleryOutcome:
    vectors = updates(setting.seed, _NODES)
    session = session_of(_NODES, t=_THRESHOLD, corrupt=1)
    swarm = ExhibitSwarm(session, board=board, clients={_LIAR: BadDealer})
    swarm.until_masked(vectors)
    swarm.open(list(swarm.masked))
    true = np.sum([vectors[rank] for rank in swarm.masked], axis=0, dtype=np.int64)
    try:
        honest = bool(np.array_equal(swarm.sums()[0].total, true))
    except SecaggError:
        honest = False
    liar = swarm.clients[_LIAR]
    own = Spoils({_LIAR: liar.kept if isinstance(liar, BadDealer) else b""})
    seen = swarm.boards[_LIAR]
    read = unmasked(seen, swarm.rings(swarm.masked), Spoils.opened(seen) | own)
    alone = bool(np.array_equal(read, true)) and not honest
    faults = {fault.reason.value for fault in swarm.boards[_LEADER].drain()}
    return GalleryOutcome.judged(
        defence,
        _ALONE,
        float(alone),
        0.0,
        control=board is BelievesDealers,
        detected=tuple(f"{fault} (every node)" for fault in sorted(faults)),
        reason=(
            f"{len(swarm.masked)} of {_NODES} masked; "
            + ("all of them can open the sum" if honest else "no honest node can open the sum")
        ),
    )


def _believed(setting: GallerySetting) -> GalleryOutcome:
    return _dealt(setting, "nothing", BelievesDealers)


def _checked(setting: GallerySetting) -> GalleryOutcome:
    return _dealt(setting, "secure aggregation", SessionMessages)


DEALERS: Final = (
    GalleryEntry(
        name="withholding",
        family=AttackFamily.PROTOCOL,
        summary="say keys and shares to some nodes only",
        aim="an honest node cannot take part",
        plays={
            "nothing": _withheld,
            "acks alone": _withheld_acks,
            "secure aggregation": _withheld_all,
        },
    ),
    GalleryEntry(
        name="bad_dealer",
        family=AttackFamily.PRIVACY,
        summary="seal garbage for everybody instead of shares of the own seed, and mask with it",
        aim="the round fails for all, and the liar alone has its sum",
        plays={"nothing": _believed, "secure aggregation": _checked},
    ),
)
