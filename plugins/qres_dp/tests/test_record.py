"""Records: what is written is what is read, and anything else is one named error."""

from __future__ import annotations

import hashlib
import hmac
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_dp.ledger.record import MAX_BODY, Charge, LedgerEntry, genesis

from qres_core import NodeId, canonical
from qres_core.errors import QresError, WireError

KEY = bytes(range(32))

CHARGE = Charge(
    swarm="lab",
    node=NodeId(bytes(range(32))),
    journal=bytes(range(16)),
    height=2,
    round=3,
    head=bytes(range(32)),
    mode="local",
    relation="replace-one",
    unit="node",
    noise_multiplier=1.25,
    sampling_rate=1.0,
    bound=65536,
    scale=-4,
    dimension=650,
    nodes=10,
    honest=1,
    units=3,
    stream=bytes(32),
    row=7,
    content=bytes(range(32)),
)
RECORD = LedgerEntry(7, CHARGE, epsilon=0.5, delta=1e-5, budget=2.0, previous=bytes(32))

reals = st.floats(0, 1e300, exclude_min=True)
charges = st.builds(
    Charge,
    swarm=st.text(max_size=64),
    node=st.binary(min_size=32, max_size=32).map(NodeId),
    journal=st.sampled_from([b"", bytes(16)]),
    height=st.integers(0, 2**40),
    round=st.integers(1, 2**40),
    head=st.sampled_from([b"", bytes(32)]),
    mode=st.sampled_from(["local", "distributed"]),
    relation=st.sampled_from(["add-remove", "replace-one"]),
    unit=st.sampled_from(["node", "record"]),
    noise_multiplier=reals,
    sampling_rate=st.floats(0, 1, exclude_min=True),
    bound=st.integers(1, 2**40),
    scale=st.integers(-32, 32),
    dimension=st.integers(1, 2**31 - 1),
    nodes=st.integers(1, 2**16),
    honest=st.integers(1, 2**16),
    units=st.integers(1, 2**24),
    stream=st.sampled_from([b"", bytes(32)]),
    row=st.integers(0, 2**20),
    content=st.binary(min_size=32, max_size=32),
    votes=st.just(0.0) | reals,
)
records = st.builds(
    LedgerEntry,
    index=st.integers(1, 2**40),
    charge=charges,
    epsilon=reals,
    delta=reals,
    budget=reals,
    previous=st.binary(min_size=32, max_size=32),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: LedgerEntry) -> None:
    body = record.to_bytes()
    assert len(body) <= MAX_BODY
    assert LedgerEntry.from_bytes(body) == record


@given(records, st.data())
def test_no_changed_byte_keeps_the_tag(record: LedgerEntry, data: st.DataObject) -> None:
    body = bytearray(record.to_bytes())
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        other = LedgerEntry.from_bytes(bytes(body))
    except WireError:
        return
    assert other != record
    assert other.tag(KEY) != record.tag(KEY)


@given(records)
def test_the_tag_is_that_of_rfc_2104_and_of_the_key(record: LedgerEntry) -> None:
    body = b"qres/dp/ledger/v2\0" + record.to_bytes()
    assert record.tag(KEY) == hmac.new(KEY, body, hashlib.sha256).digest()
    assert record.tag(KEY) != record.tag(bytes(32))


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda b: RECORD.to_bytes()[:-8] + b))
def test_any_bytes_are_a_record_or_one_named_error(body: bytes) -> None:
    try:
        record = LedgerEntry.from_bytes(body)
    except QresError as error:
        assert type(error) is WireError  # noqa: PT017
    else:
        assert record.to_bytes() == body


@pytest.mark.parametrize(
    "change",
    [
        {"round": "3"},
        {"content": bytes(31)},
        {"node": bytes(31)},
        {"head": "3"},
        {"unit": b"node"},
        {"row": 1.0},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"mode": 3},
    ],
)
def test_a_charge_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    odd = attrs.evolve(RECORD, charge=attrs.evolve(CHARGE, **change))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="QRES-E404"):
        LedgerEntry.from_bytes(odd.to_bytes())


@pytest.mark.parametrize(
    "change",
    [
        {"index": 0},
        {"index": -1},
        {"index": 2**62},
        {"index": True},
        {"index": "7"},
        {"previous": bytes(31)},
        {"previous": "p" * 32},
        {"epsilon": -1.0},
        {"budget": math.nan},
        {"delta": math.inf},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    odd = attrs.evolve(RECORD, **change)  # type: ignore[arg-type]
    with pytest.raises(WireError, match="QRES-E404"):
        LedgerEntry.from_bytes(odd.to_bytes())


def test_a_record_of_nothing_spent_is_a_record() -> None:
    free = attrs.evolve(RECORD, epsilon=0.0)
    assert LedgerEntry.from_bytes(free.to_bytes()) == free


def test_a_number_has_one_encoding() -> None:
    body = RECORD.to_bytes()
    assert b"\x740x1.4000000000000p+0" in body  # 1.25
    other = body.replace(b"\x740x1.4000000000000p+0", b"\x740x2.8000000000000p-1")
    with pytest.raises(WireError, match="QRES-E404"):
        LedgerEntry.from_bytes(other)


def test_a_number_that_is_no_text_is_refused() -> None:
    parts = canonical.loads(RECORD.to_bytes(), max_bytes=MAX_BODY)
    parts[2][0] = 1
    with pytest.raises(WireError, match="QRES-E404 record: a number is not text"):
        LedgerEntry.from_bytes(canonical.dumps(parts))


def test_what_is_too_long_is_not_parsed() -> None:
    with pytest.raises(WireError, match="QRES-E401"):
        LedgerEntry.from_bytes(bytes(MAX_BODY + 1))


def test_chains_of_other_owners_begin_otherwise() -> None:
    owners = [
        ("lab", bytes(32), "add-remove", "node"),
        ("bal", bytes(32), "add-remove", "node"),
        ("lab", bytes(31) + b"1", "add-remove", "node"),
        ("lab", bytes(32), "replace-one", "node"),
        ("lab", bytes(32), "add-remove", "record"),
        ("", b"", "add-remove", "node"),
    ]
    assert len({genesis(key, owner) for owner in owners for key in (KEY, bytes(32))}) == 12


def test_a_charge_without_a_vote_is_written_as_before_there_were_any() -> None:
    plain, voted = RECORD, attrs.evolve(RECORD, charge=attrs.evolve(CHARGE, votes=2.5))
    fields = [canonical.loads(item.to_bytes(), max_bytes=MAX_BODY)[1] for item in (plain, voted)]
    assert fields[1] == [*fields[0], (2.5).hex()]
    longer = canonical.loads(plain.to_bytes(), max_bytes=MAX_BODY)
    longer[1].append((0.0).hex())
    with pytest.raises(WireError):
        LedgerEntry.from_bytes(canonical.dumps(longer))
