"""Shamir's secret sharing over the scalars of Ed25519's group, in Python integers.

The field is that of the exponents of the group, so that a secret key is a secret and what is shared
can be compared with a public key. Below about 300 bits plain integers beat other representations in
Python (a call costs more than a product).

Not constant in time: a share is computed from secrets on the node that owns them, and whoever can
time that to the microsecond is on the same machine.

Source: A. Shamir, "How to Share a Secret", CACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import mul
from typing import Final

from qres_secagg.draws import below

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Order of the group, a prime (RFC 8032, section 5.1)."""
SCALAR_BYTES: Final = 32


def encode(scalar: int) -> bytes:
    """A number below :data:`ORDER`; 32 bytes, little-endian."""
    return scalar.to_bytes(SCALAR_BYTES, "little")


def decode(octets: bytes) -> int:
    """The number behind :func:`encode`; not checked against the order."""
    return int.from_bytes(octets, "little")


def polynomial(secret: int, threshold: int) -> list[int]:
    """Coefficients of a random polynomial of degree ``threshold - 1``, constant term first.

    ``secret``: the constant term, below :data:`ORDER`. As many of its values as ``threshold`` give
    the secret, fewer tell nothing.
    """
    return [secret, *(below(ORDER) for _ in range(threshold - 1))]


def value(coefficients: Sequence[int], place: int) -> int:
    """The polynomial at a place. O(t): 8 us for 64 coefficients."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * place + coefficient) % ORDER
    return total


@lru_cache(maxsize=512)
def lagrange(places: tuple[int, ...]) -> tuple[int, ...]:
    """Coefficients that take shares at ``places`` to the polynomial's value at 0.

    One inversion for all (Montgomery's trick). Cached, as many secrets are opened by one set of
    holders. O(t**2).
    """
    product = 1
    for place in places:
        product = product * place % ORDER
    denominators: list[int] = []
    for i, place in enumerate(places):
        found = place
        for j, other in enumerate(places):
            if i != j:
                found = found * (other - place) % ORDER
        denominators.append(found)
    prefix = [1]
    for found in denominators:
        prefix.append(prefix[-1] * found % ORDER)
    inverse = pow(prefix[-1], -1, ORDER)
    factors = [0] * len(places)
    for i in range(len(places) - 1, -1, -1):
        factors[i] = product * (inverse * prefix[i] % ORDER) % ORDER
        inverse = inverse * denominators[i] % ORDER
    return tuple(factors)


def combine(shares: Mapping[int, int]) -> int:
    """The secret behind shares.

    ``shares``: value by place; as many as the threshold, all are used. Returns a number below
    :data:`ORDER`. O(t) once the coefficients are cached.
    """
    places = tuple(sorted(shares))
    products: Iterable[int] = map(mul, lagrange(places), map(shares.__getitem__, places))
    return sum(products) % ORDER
