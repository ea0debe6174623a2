from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.messages import (
    DECODERS,
    MAX_BYTES,
    MAX_LEADERS,
    Ack,
    Advert,
    Complaint,
    Deal,
    Kind,
    Listing,
    Shares,
    Skip,
    Unmask,
    body_hash,
    decode_advert,
    decode_listing,
    decode_shares,
    decode_statement,
    decode_unmask,
    encode_ack,
    encode_advert,
    encode_complaint,
    encode_listing,
    encode_shares,
    encode_skip,
    encode_statement,
    encode_unmask,
    shares_hash,
)
from qres_secagg.shamir import ORDER
from qres_secagg.sharing import Secret

from qres_core.errors import WireError

ENCODERS = {
    Kind.ADVERTISE: encode_advert,
    Kind.SHARE: encode_shares,
    Kind.LIST: encode_listing,
    Kind.STATEMENT: encode_statement,
    Kind.UNMASK: encode_unmask,
    Kind.ACK: encode_ack,
    Kind.COMPLAINT: encode_complaint,
    Kind.SKIP: encode_skip,
}
hashes = st.binary(min_size=32, max_size=32)
ranks = st.integers(0, 65_535)
tags = st.binary(min_size=16, max_size=16)
deals = st.builds(Deal, hashes, hashes, tags, st.binary(min_size=80, max_size=80))
opened = st.integers(0, ORDER - 1).map(lambda share: share.to_bytes(32, "little"))


@st.composite
def dealt(draw: st.DrawFn) -> Shares:
    own = draw(st.tuples(hashes, hashes))
    holders = draw(st.dictionaries(ranks, deals, max_size=4))
    bare = Shares.of(draw(hashes), own, holders, nonce=draw(hashes))
    size = 32 * draw(st.integers(0, 3))
    responses = (draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    return attrs.evolve(bare, seed_response=next(responses), mask_response=next(responses))


VALUES = {
    Kind.ADVERTISE: st.builds(Advert, hashes, hashes),
    Kind.SHARE: dealt(),
    Kind.LIST: st.builds(
        Listing,
        st.dictionaries(ranks, st.tuples(hashes, hashes), max_size=4),
    ),
    Kind.STATEMENT: hashes,
    Kind.UNMASK: st.builds(Unmask, hashes, st.dictionaries(ranks, opened, max_size=4)),
    Kind.ACK: st.builds(Ack.of, st.dictionaries(ranks, tags, max_size=4)),
    Kind.COMPLAINT: st.builds(Complaint, ranks, *[hashes] * 6),
    Kind.SKIP: st.builds(Skip, st.integers(1, MAX_LEADERS - 1)),
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
    share = bytes(32)
    body = encode_unmask(bytes(32), Unmask(bytes(32), {1: share, 2: share}))
    for first, second in ((2, 1), (1, 1)):
        swapped = bytearray(body)
        swapped[66], swapped[66 + 34] = first, second
        with pytest.raises(WireError, match="ascend"):
            decode_unmask(bytes(swapped))


def test_numbers_outside_their_range_are_refused() -> None:
    body = encode_unmask(bytes(32), Unmask(bytes(32), {1: ORDER.to_bytes(32, "little")}))
    with pytest.raises(WireError, match="outside the field"):
        decode_unmask(body)


def test_truncated_bodies_are_refused() -> None:
    for decode in (decode_advert, decode_shares, decode_listing, decode_statement, decode_unmask):
        with pytest.raises(WireError) as caught:
            decode(bytes(33))
        assert caught.value.code == "QRES-E402"


def test_the_hash_of_a_body_is_also_that_of_its_kind() -> None:
    assert len({body_hash(kind, b"body") for kind in Kind}) == len(Kind)


@given(st.lists(dealt(), min_size=2, max_size=2, unique=True), hashes)
def test_messages_of_shares_have_one_name_each(made: list[Shares], sid: bytes) -> None:
    first, second = made
    assert shares_hash(sid, first) != shares_hash(sid, second)
    assert shares_hash(sid, first) != shares_hash(bytes([sid[0] ^ 1]) + sid[1:], first)
    assert shares_hash(sid, first) == shares_hash(sid, decode_shares(encode_shares(sid, first))[1])


def test_a_deal_is_found_by_its_holder() -> None:
    deal = Deal(b"a" * 32, b"b" * 32, b"k" * 16, b"c" * 80)
    shares = Shares.of(bytes(32), (b"s" * 32, b"m" * 32), {3: deal, 9: deal}, nonce=bytes(32))
    assert shares.deal(3) == shares.deal(9) == deal
    assert shares.deal(0) is shares.deal(5) is shares.deal(10) is None
    assert shares.promise(1, Secret.SEED, 3) == b"a" * 32
    assert shares.promise(1, Secret.MASK_KEY, 9) == b"b" * 32
    assert shares.promise(1, Secret.SEED, 1) == b"s" * 32
    assert shares.promise(1, Secret.MASK_KEY, 1) == b"m" * 32
    assert shares.promise(1, Secret.SEED, 5) is None


def test_an_ack_says_what_it_is_of() -> None:
    ack = Ack.of({9: b"b" * 16, 3: b"a" * 16})
    assert ack.dealers == (3, 9)
    assert ack.records == b"\3\0" + b"a" * 16 + b"\t\0" + b"b" * 16


def test_shares_cut_anywhere_are_refused() -> None:
    deal = Deal(b"a" * 32, b"b" * 32, b"k" * 16, b"c" * 80)
    shares = Shares.of(bytes(32), (b"s" * 32, b"m" * 32), {3: deal}, nonce=bytes(32))
    whole = attrs.evolve(shares, seed_response=bytes(96), mask_response=bytes(96))
    body = encode_shares(bytes(32), whole)
    for size in range(len(body)):
        with pytest.raises(WireError, match="QRES-E402"):
            decode_shares(body[:size])


@pytest.mark.parametrize("leaders", [0, MAX_LEADERS, 65_535])
def test_more_leaders_than_there_may_be_are_not_skipped(leaders: int) -> None:
    with pytest.raises(WireError, match="QRES-E404"):
        DECODERS[Kind.SKIP](bytes(32) + leaders.to_bytes(2, "little"))
    for skipped in (1, MAX_LEADERS - 1):
        assert DECODERS[Kind.SKIP](bytes(32) + skipped.to_bytes(2, "little"))[1] == Skip(skipped)
