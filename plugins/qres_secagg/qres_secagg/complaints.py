"""A dealer whose shares for a holder do not fit, shown to everybody.

Only dealer and holder know the key of a seal. The holder lays open the point from which that key
comes, ``K = c D`` for its secret channel key ``c`` and the dealer's public one ``D``, and proves
that it is that point. Then anybody opens the seal and compares the shares with what the dealer
committed to. Nothing else is sealed under that point but what the holder dealt to the liar.

A complaint over shares that fit proves that the complainer lies, as an honest node knows better.
Where a dealer says that it sealed under another key than the holder's that is known here, one of
the two said two things, and it is open which.

Source: D. Chaum, T. P. Pedersen, "Wallet Databases with Observers", CRYPTO 1992 (equality of two
logarithms), made non-interactive by a hash.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from nacl import bindings
from nacl.exceptions import RuntimeError as SodiumError

from qres_secagg.dealing import Dealing
from qres_secagg.failure import SecaggError
from qres_secagg.keys import KeyPair, generated, multiply, random_scalar, seal_key
from qres_secagg.messages import Complaint
from qres_secagg.session import Session
from qres_secagg.shamir import ORDER, decode, encode
from qres_secagg.sharing import Secret, key_tag, unseal

_LABEL: Final = b"qres-secagg/1 complaint"


def opened(
    session: Session, dealing: Dealing, holder: int, channel: bytes, secret: bytes
) -> tuple[bytes, bytes] | None:
    """The shares dealt to a holder, of the seed and of the mask key, if they fit.

    Args:
        session: the session.
        dealing: the dealer's.
        holder: rank of the holder.
        channel: its channel key.
        secret: what that key and the dealer's have in common, 32 bytes.

    Returns:
        32 bytes each; ``None`` where nothing was dealt to the holder, the seal does not open, a
        share is not on its polynomial or the mask key is not proved.

    Complexity: O(t), and 0.1 ms for the proof.
    """
    found = dealing.shares.deal(holder)
    if found is None or not dealing.proved:
        return None
    dealer = session.roster[dealing.dealer], dealing.advert.channel
    key = seal_key(secret, session.sid, dealer, (session.roster[holder], channel))
    shares = unseal(key, session.sid, found.sealed)
    if shares is None:
        return None
    fit = (dealing.fits(kind, holder, share) for kind, share in zip(Secret, shares, strict=True))
    return shares if all(fit) else None


def _challenge(sid: bytes, holder: int, complaint: Complaint, *points: bytes) -> int:
    where = struct.pack("<HH", holder, complaint.dealer)
    hashes = complaint.shares + complaint.advert + complaint.own_advert
    parts = (_LABEL, sid, where, hashes, complaint.secret, *points)
    return decode(hashlib.sha512(b"".join(parts)).digest()) % ORDER


def complain(
    session: Session,
    holder: int,
    pair: KeyPair,
    against: Dealing,
    hashes: tuple[bytes, bytes, bytes],
) -> Complaint:
    """A holder's complaint about a dealing.

    ``holder``: its rank; ``pair``: its channel keys; ``hashes``: of the dealer's shares, of its
    advert and of the holder's own. Raises SecaggError: ``BAD_KEY``, the dealer's key is no key.
    """
    theirs = against.advert.channel
    bare = Complaint(against.dealer, *hashes, pair.exchange(theirs), b"", b"")
    draw = random_scalar()
    points = pair.public, theirs, generated(draw), multiply(draw, theirs)
    challenge = _challenge(session.sid, holder, bare, *points)
    response = (draw + challenge * pair.secret) % ORDER
    return Complaint(against.dealer, *hashes, bare.secret, encode(challenge), encode(response))


def proves_point(
    sid: bytes, holder: int, channel: bytes, against: Dealing, complaint: Complaint
) -> bool:
    """True if the point a complaint lays open is the one that both keys have in common. 0.5 ms."""
    theirs = against.advert.channel
    challenge, response = decode(complaint.challenge), decode(complaint.response)
    if not (0 < challenge < ORDER and 0 < response < ORDER):
        return False
    try:
        first = bindings.crypto_core_ed25519_sub(generated(response), multiply(challenge, channel))
        second = bindings.crypto_core_ed25519_sub(
            multiply(response, theirs), multiply(challenge, complaint.secret)
        )
    except (SecaggError, SodiumError):
        return False
    return challenge == _challenge(sid, holder, complaint, channel, theirs, first, second)


def dealer_lied(
    session: Session, holder: int, channel: bytes, against: Dealing, complaint: Complaint
) -> bool | None:
    """True if a complaint proves that the dealer lied; else its author did.

    Args:
        session: the session.
        holder: rank of the complainer.
        channel: the complainer's channel key, of the advert that the complaint names.
        against: the dealing, of the messages that the complaint names.
        complaint: not trusted.

    Returns:
        ``None`` where neither is proved: the dealer sealed under another key of the complainer.
        The same on every node that knows the named messages.
    """
    found = against.shares.deal(holder)
    if found is None:
        return False
    if found.key != key_tag(channel):
        return None
    if not proves_point(session.sid, holder, channel, against, complaint):
        return False
    return opened(session, against, holder, channel, complaint.secret) is None
