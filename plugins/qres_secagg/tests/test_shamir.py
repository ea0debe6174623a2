from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from qres_secagg.shamir import ORDER, combine, decode, encode, lagrange, polynomial, value


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


def test_the_field_is_that_of_the_exponents_of_the_group() -> None:
    assert prime(ORDER)
    base = bindings.crypto_scalarmult_ed25519_base_noclamp(encode(1))
    assert bindings.crypto_core_ed25519_is_valid_point(base)
    back = bindings.crypto_scalarmult_ed25519_noclamp(encode(ORDER - 1), base)
    assert back == bytes([*base[:31], base[31] ^ 0x80])  # the inverse, so the order divides ORDER


secrets_ = st.integers(0, ORDER - 1)


@given(secrets_, st.integers(2, 6), st.integers(0, 3))
def test_any_threshold_of_shares_gives_the_secret(secret: int, t: int, spare: int) -> None:
    coefficients = polynomial(secret, t)
    assert len(coefficients) == t
    shares = {place: value(coefficients, place) for place in range(3, 3 + t + spare)}
    for chosen in combinations(shares, t):
        assert combine({place: shares[place] for place in chosen}) == secret


@given(st.lists(secrets_, min_size=1, max_size=6), st.integers(0, 70_000))
def test_a_value_is_the_sum_of_powers(coefficients: list[int], place: int) -> None:
    expected = sum(item * place**i for i, item in enumerate(coefficients))
    assert value(coefficients, place) == expected % ORDER


@given(secrets_)
def test_scalars_have_one_encoding(scalar: int) -> None:
    assert decode(encode(scalar)) == scalar
    assert encode(scalar) == bytes((scalar >> 8 * i) & 0xFF for i in range(32))


@given(st.lists(st.integers(0, ORDER - 1), min_size=1, max_size=6), st.data())
def test_coefficients_are_those_of_the_polynomial(
    coefficients: list[int], data: st.DataObject
) -> None:
    places = data.draw(
        st.lists(
            st.integers(1, 70_000),
            min_size=len(coefficients),
            max_size=len(coefficients),
            unique=True,
        )
    )
    values = [sum(c * x**i for i, c in enumerate(coefficients)) for x in places]
    total = sum(a * b for a, b in zip(lagrange(tuple(places)), values, strict=True))
    assert total % ORDER == coefficients[0]


def test_one_share_less_fits_every_secret() -> None:
    coefficients = polynomial(7, 3)
    known = {place: value(coefficients, place) for place in (1, 2)}
    for guess in (0, 1, ORDER // 2):
        # A polynomial through both shares and the guess exists, so the shares exclude nothing.
        third = deal_through({0: guess, **known}, 3)
        assert combine({**known, 3: third}) == guess


def deal_through(points: dict[int, int], place: int) -> int:
    """Value at a place of the polynomial through the points."""
    total = 0
    for x, y in points.items():
        term = y
        for other in points:
            if other != x:
                term = term * (place - other) * pow(x - other, -1, ORDER) % ORDER
        total += term
    return total % ORDER
