from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.messages import (
    DECODERS,
    MAX_BYTES,
    Advert,
    Deal,
    Kind,
    Listing,
    Shares,
    Unmask,
    body_hash,
    decode_advert,
    decode_listing,
    decode_shares,
    decode_statement,
    decode_unmask,
    encode_advert,
    encode_listing,
    encode_shares,
    encode_statement,
    encode_unmask,
)
from qres_secagg.shamir import PRIME

from qres_core import WireError

ENCODERS = {
    Kind.ADVERTISE: encode_advert,
    Kind.SHARE: encode_shares,
    Kind.LIST: encode_listing,
    Kind.STATEMENT: encode_statement,
    Kind.UNMASK: encode_unmask,
}
hashes = st.binary(min_size=32, max_size=32)
ranks = st.integers(0, 65_535)
deals = st.builds(Deal, hashes, hashes, st.binary(min_size=82, max_size=82))
opened = st.integers(0, PRIME - 1).map(lambda share: share.to_bytes(33, "little"))
VALUES = {
    Kind.ADVERTISE: st.builds(Advert, hashes, hashes),
    Kind.SHARE: st.builds(
        Shares.of, hashes, st.tuples(hashes, hashes), st.dictionaries(ranks, deals, max_size=4)
    ),
    Kind.LIST: st.builds(
        Listing,
        st.integers(0, 16),
        st.dictionaries(ranks, st.tuples(hashes, hashes), max_size=4),
    ),
    Kind.STATEMENT: hashes,
    Kind.UNMASK: st.builds(Unmask, hashes, st.dictionaries(ranks, opened, max_size=4)),
}


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data(), sid=hashes)
def test_every_value_comes_back(kind: Kind, data: st.DataObject, sid: bytes) -> None:
    value = data.draw(VALUES[kind])
    body = ENCODERS[kind](sid, value)
    assert len(body) <= MAX_BYTES[kind]
    assert DECODERS[kind](body) == (sid, value)


def changed(data: st.DataObject, body: bytes) -> bytes:
    """A body with some bytes another, more, or fewer."""
    place = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 3))
    return body[:place] + data.draw(st.binary(max_size=3)) + body[place + cut :]


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_any_bytes_are_one_value_or_a_named_error(kind: Kind, data: st.DataObject) -> None:
    body = ENCODERS[kind](bytes(32), data.draw(VALUES[kind]))
    body = data.draw(st.one_of(st.binary(max_size=300), st.just(changed(data, body))))
    try:
        sid, value = DECODERS[kind](body)
    except WireError as error:
        assert error.code in {"QRES-E401", "QRES-E402", "QRES-E404"}  # noqa: PT017
    else:
        assert ENCODERS[kind](sid, value) == body


@pytest.mark.parametrize("kind", Kind)
def test_bodies_that_are_too_long_are_not_parsed(kind: Kind) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](bytes(MAX_BYTES[kind] + 1))
    assert caught.value.code == "QRES-E401"


def test_lists_ascend() -> None:
    share = bytes(33)
    body = encode_unmask(bytes(32), Unmask(bytes(32), {1: share, 2: share}))
    for first, second in ((2, 1), (1, 1)):
        swapped = bytearray(body)
        swapped[66], swapped[66 + 35] = first, second
        with pytest.raises(WireError, match="ascend"):
            decode_unmask(bytes(swapped))


def test_numbers_outside_their_range_are_refused() -> None:
    body = encode_unmask(bytes(32), Unmask(bytes(32), {1: PRIME.to_bytes(33, "little")}))
    with pytest.raises(WireError, match="outside the field"):
        decode_unmask(body)
    with pytest.raises(WireError, match="level 17"):
        decode_listing(bytes(32) + bytes([17]) + bytes(2))


def test_truncated_bodies_are_refused() -> None:
    for decode in (decode_advert, decode_shares, decode_listing, decode_statement, decode_unmask):
        with pytest.raises(WireError) as caught:
            decode(bytes(33))
        assert caught.value.code == "QRES-E402"


def test_the_hash_of_a_body_is_also_that_of_its_kind() -> None:
    assert len({body_hash(kind, b"body") for kind in Kind}) == len(Kind)


def test_a_deal_is_found_by_its_holder() -> None:
    deal = Deal(b"a" * 32, b"b" * 32, b"c" * 82)
    shares = Shares.of(bytes(32), (bytes(32), bytes(32)), {3: deal, 9: deal})
    assert shares.deal(3) == shares.deal(9) == deal
    assert shares.deal(0) is shares.deal(5) is shares.deal(10) is None
