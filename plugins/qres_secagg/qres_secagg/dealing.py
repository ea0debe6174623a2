"""Verifiable dealing: a holder knows before anything is masked that its shares fit.

A dealer shares a secret ``f(0)`` by a polynomial ``f`` and blinds it by another one, ``r``. It
commits to ``f(i)`` and ``r(i)`` for every holder ``i`` by a hash. A challenge ``d`` follows from
all commitments, and the dealer publishes the polynomial ``z = r + d f``. Whoever sees ``f(i)``, the
holder when it is dealt and everybody when it is opened, computes ``r(i) = z(i) - d f(i)`` and looks
whether the hash is the one committed to.

What is behind the hashes was fixed before the challenge. If values of ``t + 1`` holders lie on no
polynomial of degree ``t - 1``, all of them pass for one challenge in 2**252. So shares that pass
belong together, whichever ``t`` of them are opened. A dealer that may try ``m`` challenges and
choose ``t + 1`` of ``h`` holders succeeds with probability ``m C(h, t + 1) / 2**252`` at most.
``z`` shows nothing of ``f``, as ``r`` is uniform.

The seed is committed to in the same way, as if it were the share at place 0: where the shares give
it, it is known to be right by one hash. The mask key is the dealer's public key as well. Its
challenge is that of an Ed25519 signature of the dealing under that key, with the nonce ``r(0)``. So
``z(0)`` completes the signature, and what checks it is ``z(0) G = R + d f(0) G``.

The dealing is signed under the channel key as well. A dealer that advertised ``D = V + a G``, with
``V`` the channel key of another, would learn from complaints ``c D`` what ``V`` and the holders
have in common, and so all shares that the other dealt.

Source: K. Baghery, "Pi: A Unified Framework for Computational Verifiable Secret Sharing", ePrint
2023/1669, with RFC 8032 for the proof of the public key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import attrs

from qres_secagg.keys import KeyPair, generated, random_scalar, signed
from qres_secagg.messages import Advert, Deal, Shares
from qres_secagg.shamir import ORDER, SCALAR_BYTES, decode, encode, polynomial, value
from qres_secagg.sharing import Secret, commitment, seed_commitment

_LABEL: Final = {
    Secret.SEED: b"qres-secagg/1 seed dealt",
    Secret.MASK_KEY: b"qres-secagg/1 mask key dealt",
}
_CHANNEL: Final = b"qres-secagg/1 channel key owned"


def _transcript(sid: bytes, dealer: int, advert: Advert, shares: Shares) -> bytes:
    """All that a dealer is bound to before it knows a challenge; 32 bytes."""
    head = sid + struct.pack("<H", dealer) + advert.channel + advert.mask
    return hashlib.sha256(b"qres-secagg/1 dealing" + head + shares.promised).digest()


def _seed_challenge(transcript: bytes) -> int:
    digest = hashlib.sha512(_LABEL[Secret.SEED] + transcript).digest()
    return decode(digest) % ORDER


def _mask_challenge(point: bytes, public: bytes, transcript: bytes) -> int:
    """The challenge of an Ed25519 signature (RFC 8032, section 5.1.6)."""
    digest = hashlib.sha512(point + public + _LABEL[Secret.MASK_KEY] + transcript).digest()
    return decode(digest) % ORDER


@attrs.frozen(slots=False)
class Dealing:
    """Dealing of a dealer, as everybody sees it."""

    sid: bytes  # the session's
    dealer: int  # its rank
    advert: Advert  # its keys
    shares: Shares  # its message

    @cached_property
    def _transcript(self) -> bytes:
        return _transcript(self.sid, self.dealer, self.advert, self.shares)

    @cached_property
    def _seed_proof(self) -> tuple[int, Sequence[int]]:
        return _seed_challenge(self._transcript), _numbers(self.shares.seed_response)

    @cached_property
    def _mask_proof(self) -> tuple[int, Sequence[int]]:
        challenge = _mask_challenge(self.shares.nonce, self.advert.mask, self._transcript)
        return challenge, _numbers(self.shares.mask_response)

    @cached_property
    def proved(self) -> bool:
        """True if it shared out the secret of the mask key it advertised. 0.1 ms, once."""
        message = _LABEL[Secret.MASK_KEY] + self._transcript
        signature = self.shares.nonce + self.shares.mask_response[:SCALAR_BYTES]
        return signed(signature, message, self.advert.mask)

    @cached_property
    def owns_channel(self) -> bool:
        """True if the dealer knows the secret of the channel key it advertised. 0.1 ms, once.

        Else what a complaint lays open could be a secret of somebody else.
        """
        message = _CHANNEL + self._transcript
        return signed(self.shares.ownership, message, self.advert.channel)

    def is_seed(self, seed: bytes) -> bool:
        """True if it is the seed committed to, and lies on the polynomial. 4 us."""
        first = decode(self.shares.seed_response[:SCALAR_BYTES])
        blind = (first - _seed_challenge(self._transcript) * decode(seed)) % ORDER
        return self.shares.seed == seed_commitment(self.sid, self.dealer, seed, encode(blind))

    def fits(self, kind: Secret, holder: int, share: bytes) -> bool:
        """True if a share is the one dealt to a holder, by rank, and lies on the polynomial.

        Complexity: O(t); 10 us for a threshold of 64.
        """
        promised, number = self.shares.promise(self.dealer, kind, holder), decode(share)
        if promised is None or number >= ORDER:
            return False
        challenge, response = self._seed_proof if kind is Secret.SEED else self._mask_proof
        blind = (value(response, holder + 1) - challenge * number) % ORDER
        found = commitment(self.sid, kind, self.dealer, holder, share, encode(blind))
        return found == promised


def _numbers(response: bytes) -> tuple[int, ...]:
    return tuple(
        decode(response[at : at + SCALAR_BYTES]) for at in range(0, len(response), SCALAR_BYTES)
    )


@attrs.frozen
class _Polynomials:
    """A secret, shared out."""

    secret: Sequence[int]  # coefficients, the secret first
    blind: Sequence[int]

    @classmethod
    def of(cls, secret: int, threshold: int) -> _Polynomials:
        return cls(polynomial(secret, threshold), polynomial(random_scalar(), threshold))

    def response(self, challenge: int) -> bytes:
        pairs = zip(self.blind, self.secret, strict=True)
        return b"".join(encode((blind + challenge * item) % ORDER) for blind, item in pairs)


@attrs.frozen
class Dealt:
    """Shares of a dealer for a holder, before they are sealed; 32 bytes each."""

    seed: bytes
    mask: bytes
    seed_promise: bytes
    mask_promise: bytes

    @property
    def promises(self) -> tuple[bytes, bytes]:
        """The two commitments."""
        return self.seed_promise, self.mask_promise


class Dealer:
    """Shares out the two secrets of a node.

    Args:
        sid: the session's.
        rank: of the dealer.
        threshold: how many shares give a secret.
        secrets: both.
    """

    def __init__(
        self, sid: bytes, rank: int, threshold: int, secrets: Mapping[Secret, int]
    ) -> None:
        self._sid, self._rank = sid, rank
        self._made = {kind: _Polynomials.of(secrets[kind], threshold) for kind in Secret}

    def deal(self, holder: int) -> Dealt:
        """Share of a holder, by rank. O(t)."""
        place = holder + 1
        shares = tuple(encode(value(made.secret, place)) for made in self._made.values())
        blinds = tuple(encode(value(made.blind, place)) for made in self._made.values())
        promises = tuple(
            commitment(self._sid, kind, self._rank, holder, share, blind)
            for kind, share, blind in zip(self._made, shares, blinds, strict=True)
        )
        return Dealt(*shares, *promises)

    def message(
        self, advert: Advert, channel: KeyPair, own: Dealt, deals: Mapping[int, Deal]
    ) -> Shares:
        """The message with all shares, proved.

        ``advert``: the dealer's keys; ``channel``: the first of them with its secret; ``own``: what
        it holds itself; ``deals``: by rank of the holder. O(k t).
        """
        made = self._made[Secret.SEED]
        seed = seed_commitment(self._sid, self._rank, encode(made.secret[0]), encode(made.blind[0]))
        nonce = generated(self._made[Secret.MASK_KEY].blind[0])
        bare = Shares.of(seed, own.promises, deals, nonce=nonce)
        transcript = _transcript(self._sid, self._rank, advert, bare)
        first = _seed_challenge(transcript)
        second = _mask_challenge(nonce, advert.mask, transcript)
        return attrs.evolve(
            bare,
            seed_response=self._made[Secret.SEED].response(first),
            mask_response=self._made[Secret.MASK_KEY].response(second),
            ownership=channel.sign(_CHANNEL + transcript),
        )
