from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.shamir import PRIME, combine, deal, lagrange


def prime(number: int) -> bool:
    """Miller and Rabin, 40 bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in random.Random(1).sample(range(2, 10**6), 40):
        value = pow(base, odd, number)
        if value not in (1, number - 1) and all(
            (value := value * value % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def test_the_field_is_one_and_holds_32_bytes() -> None:
    assert prime(PRIME)
    assert PRIME > 2**256 - 1


@given(st.binary(min_size=32, max_size=32), st.integers(2, 6), st.integers(0, 3))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, t: int, spare: int) -> None:
    places = list(range(3, 3 + t + spare))
    shares = dict(zip(places, deal(secret, t, places), strict=True))
    for chosen in combinations(places, t):
        assert combine({place: shares[place] for place in chosen}) == secret


@given(st.lists(st.integers(0, PRIME - 1), min_size=1, max_size=6), st.data())
def test_coefficients_are_those_of_the_polynomial(
    polynomial: list[int], data: st.DataObject
) -> None:
    places = data.draw(
        st.lists(
            st.integers(1, 70_000), min_size=len(polynomial), max_size=len(polynomial), unique=True
        )
    )
    values = [sum(c * x**i for i, c in enumerate(polynomial)) for x in places]
    total = sum(a * b for a, b in zip(lagrange(tuple(places)), values, strict=True))
    assert total % PRIME == polynomial[0]


def test_one_share_less_fits_every_secret() -> None:
    places, t = [1, 2, 3], 3
    known = dict(zip(places, deal(b"s" * 32, t, places), strict=True))
    del known[3]
    for guess in (0, 1, PRIME // 2):
        # A polynomial through both shares and the guess exists, so the shares exclude nothing.
        third = deal_through({0: guess, **known}, 3)
        assert combine({**known, 3: third}) == guess.to_bytes(32, "little")


def deal_through(points: dict[int, int], place: int) -> int:
    """Value at a place of the polynomial through the points."""
    total = 0
    for x, y in points.items():
        term = y
        for other in points:
            if other != x:
                term = term * (place - other) * pow(x - other, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_a_value_that_is_no_secret_is_none() -> None:
    assert combine({1: 2**256, 2: 2**256}) is None
