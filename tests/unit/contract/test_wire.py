"""The envelope: what it accepts, what its digest covers, what damage does to it."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Envelope, canonical
from qres_core.contract import wire
from qres_core.errors import WireError

CAP = 2**20
U63 = 2**63 - 1
thorough = settings(deadline=None, max_examples=200)

ALPHABET = "ABCXYZabcxyz0123456789"
names = st.builds(str.__add__, st.sampled_from(ALPHABET), st.text(ALPHABET + "._/-", max_size=63))
numbers = st.integers(0, U63)
octets32 = st.binary(min_size=32, max_size=32)
auths = st.dictionaries(names, st.binary(max_size=80), max_size=8)
envelopes = st.builds(
    Envelope,
    names,
    names,
    numbers,
    octets32,
    octets32,
    numbers,
    numbers,
    st.binary(max_size=99),
    auths,
)

SAMPLE = Envelope(
    swarm="ward-7",
    kind="contribution",
    round=5,
    head=b"\x11" * 32,
    sender=b"\x22" * 32,
    sequence=1000,
    time_ms=1_700_000_000_000,
    payload=b"hello",
    auth={"ed25519": b"\x33" * 4},
)
COVERED: dict[str, Any] = {
    "swarm": "ward-8",
    "kind": "choice/proposal",
    "round": 6,
    "head": b"\x12" * 32,
    "sender": b"\x23" * 32,
    "sequence": 1001,
    "time_ms": 1_700_000_000_001,
    "payload": b"hellp",
}
FIELDS = ("version", *list(COVERED)[:7], "payload_digest", "payload", "auth")


def table(envelope: Envelope) -> dict[int, Any]:
    return dict(cbor2.loads(envelope.to_bytes()))


def frame(fields: Mapping[Any, Any]) -> bytes:
    return cbor2.dumps(dict(fields), canonical=True)


def refusal(data: bytes, *, max_bytes: int = CAP) -> tuple[str, str]:
    with pytest.raises(WireError) as caught:
        Envelope.from_bytes(data, max_bytes=max_bytes)
    return caught.value.code, caught.value.problems[0].where


def parts(envelope: Envelope) -> tuple[object, ...]:
    values = (getattr(envelope, field.name) for field in attrs.fields(Envelope))
    return tuple(
        dict(cast("Mapping[str, bytes]", value)) if isinstance(value, Mapping) else value
        for value in values
    )


# ── round trip and digest ─────────────────────────────────────────────────────────────────────


@thorough
@given(envelopes)
def test_an_envelope_comes_back_as_it_was_sent(envelope: Envelope) -> None:
    data = envelope.to_bytes()
    again = Envelope.from_bytes(data, max_bytes=len(data))
    assert parts(again) == parts(envelope)
    assert again.to_bytes() == data
    assert again.signing_digest == envelope.signing_digest
    assert again.payload_digest == hashlib.sha256(envelope.payload).digest()


def test_the_signing_digest_is_the_one_computed_by_hand() -> None:
    body = (
        b"\x89"  # array of 9
        b"\x03"  # version 3
        b"\x66ward-7"
        b"\x6ccontribution"
        b"\x05"
        b"\x58\x20" + b"\x11" * 32 + b"\x58\x20" + b"\x22" * 32 + b"\x19\x03\xe8"  # 1000
        b"\x1b\x00\x00\x01\x8b\xcf\xe5\x68\x00"  # 1700000000000
        b"\x58\x20" + hashlib.sha256(b"hello").digest()
    )
    assert SAMPLE.signing_digest == hashlib.sha256(b"qres/envelope/v3\0" + body).digest()
    assert SAMPLE.signing_digest.hex() == (
        "c50fba86ebb9cea18924be722c1c9f555bfb29836728e29dc85627fe067d7f6e"
    )


def test_the_frame_is_the_one_written_by_hand() -> None:
    assert SAMPLE.to_bytes() == (
        b"\xab\x00\x03\x01\x66ward-7\x02\x6ccontribution\x03\x05"
        b"\x04\x58\x20" + b"\x11" * 32 + b"\x05\x58\x20" + b"\x22" * 32 + b"\x06\x19\x03\xe8"
        b"\x07\x1b\x00\x00\x01\x8b\xcf\xe5\x68\x00"
        b"\x08\x58\x20" + hashlib.sha256(b"hello").digest() + b"\x09\x45hello"
        b"\x0a\xa1\x67ed25519\x44\x33\x33\x33\x33"
    )


@pytest.mark.parametrize("field", COVERED)
def test_the_signing_digest_covers_every_field(field: str) -> None:
    other = attrs.evolve(SAMPLE, **{field: COVERED[field]})
    assert other.signing_digest != SAMPLE.signing_digest


@given(auths)
def test_the_signing_digest_does_not_cover_the_authenticators(auth: dict[str, bytes]) -> None:
    signed = SAMPLE.with_auth(auth)
    assert signed.signing_digest == SAMPLE.signing_digest
    assert dict(signed.auth) == auth
    assert dict(SAMPLE.auth) == {"ed25519": b"\x33" * 4}


@thorough
@given(envelopes, envelopes, st.sets(st.sampled_from([*COVERED, "auth"])))
def test_two_messages_share_a_digest_only_if_they_are_one(
    left: Envelope, right: Envelope, changed: set[str]
) -> None:
    mixed = attrs.evolve(left, **{field: getattr(right, field) for field in changed})
    for other in (mixed, right):
        one_message = parts(left.with_auth({})) == parts(other.with_auth({}))
        assert (left.signing_digest == other.signing_digest) == one_message


def test_fields_that_run_into_each_other_have_different_digests() -> None:
    shifted: list[dict[str, Any]] = [
        {"swarm": "ab", "kind": "c"},
        {"swarm": "a", "kind": "bc"},
        {"swarm": "c", "kind": "ab"},
        {"round": 1, "sequence": 2},
        {"round": 2, "sequence": 1},
        {"sequence": 1, "time_ms": 2},
        {"sequence": 2, "time_ms": 1},
        {"head": b"\x22" * 32, "sender": b"\x11" * 32},
        {"payload": b""},
        {"payload": hashlib.sha256(b"hello").digest()},
        {},
    ]
    digests = {attrs.evolve(SAMPLE, **change).signing_digest for change in shifted}
    assert len(digests) == len(shifted)


def test_an_envelope_does_not_change_after_it_was_made() -> None:
    auth = {"a": b"1"}
    envelope = attrs.evolve(SAMPLE, auth=auth)
    auth["a"] = b"2"
    auth["b"] = b"3"
    assert dict(envelope.auth) == {"a": b"1"}
    for made in (envelope, Envelope.from_bytes(envelope.to_bytes(), max_bytes=CAP)):
        with pytest.raises(TypeError):
            made.auth["a"] = b"2"  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            made.round = 9  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# ── one field wrong at a time ─────────────────────────────────────────────────────────────────

BAD_NAMES = (
    "", " ", ".a", "/a", "-a", "_a", "a b", "a\n", "a\0", "\u00e4", "a\u0131", "a" * 65,
    b"a", 1, None, True,
)  # fmt: skip
BAD_NUMBERS = (-1, 2**63, 2**64 - 1, True, False, 1.0, "1", b"1", None, [1])
BAD_OCTETS32 = (b"", b"x" * 31, b"x" * 33, "x" * 32, None, 0, list(b"x" * 32))
BAD_AUTHS: tuple[Any, ...] = (
    None,
    [],
    "ab",
    b"ab",
    7,
    {f"p{n}": b"" for n in range(9)},
    {"a": b"x" * 4097},
    {"a": "text"},
    {"a": None},
    {"a": 1},
    {"a": [b"x"]},
    {"a b": b""},
    {"": b""},
    {"a" * 65: b""},
    {b"a": b""},
    {1: b""},
)
WRONG: list[tuple[str, Any]] = [
    *(("swarm", value) for value in BAD_NAMES),
    *(("kind", value) for value in BAD_NAMES),
    *(("round", value) for value in BAD_NUMBERS),
    *(("sequence", value) for value in BAD_NUMBERS),
    *(("time_ms", value) for value in BAD_NUMBERS),
    *(("head", value) for value in BAD_OCTETS32),
    *(("sender", value) for value in BAD_OCTETS32),
    *(("payload", value) for value in ("text", None, 1, [b"x"])),
    *(("auth", value) for value in BAD_AUTHS),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(WireError) as caught:
        attrs.evolve(SAMPLE, **{field: value})
    problem = caught.value.problems[0]
    assert (problem.code, problem.where) == ("QRES-E404", f"envelope.{field}")


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_in_a_frame_is_refused_by_name(field: str, value: Any) -> None:
    fields = table(SAMPLE) | {FIELDS.index(field): value}
    outside_the_data_model = isinstance(value, float)
    expected = (
        ("QRES-E403", "frame") if outside_the_data_model else ("QRES-E404", f"envelope.{field}")
    )
    assert refusal(frame(fields)) == expected


@pytest.mark.parametrize("value", [bytearray(b"x" * 32), memoryview(b"x" * 32)])
def test_octets_that_can_change_are_refused(value: Any) -> None:
    for field in ("head", "sender", "payload"):
        with pytest.raises(WireError, match=rf"envelope\.{field}"):
            attrs.evolve(SAMPLE, **{field: value})
    with pytest.raises(WireError, match=r"envelope\.auth"):
        attrs.evolve(SAMPLE, auth={"a": value})


def test_values_at_the_limits_are_accepted() -> None:
    wide = attrs.evolve(
        SAMPLE,
        swarm="a" * 64,
        kind="dialogue/secagg/1._-",
        round=U63,
        sequence=U63,
        time_ms=U63,
        payload=b"",
        auth=MappingProxyType({f"{n}{'p' * 63}": b"x" * 4096 for n in range(8)}),
    )
    assert parts(Envelope.from_bytes(wide.to_bytes(), max_bytes=CAP)) == parts(wide)
    zero = attrs.evolve(SAMPLE, swarm="a", kind="0", round=0, sequence=0, time_ms=0, auth={})
    assert parts(Envelope.from_bytes(zero.to_bytes(), max_bytes=CAP)) == parts(zero)


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65535, 65536, 10**6])
def test_the_stated_overhead_is_never_exceeded(size: int) -> None:
    largest = attrs.evolve(
        SAMPLE,
        swarm="s" * 64,
        kind="k" * 64,
        round=U63,
        sequence=U63,
        time_ms=U63,
        payload=b"x" * size,
        auth={f"{n}{'p' * 63}": b"x" * 4096 for n in range(8)},
    )
    assert len(largest.to_bytes()) - size <= wire.ENVELOPE_OVERHEAD


# ── frames of another shape ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_key_is_refused(field: str) -> None:
    fields = table(SAMPLE)
    del fields[FIELDS.index(field)]
    assert refusal(frame(fields)) == ("QRES-E402", "envelope")


def test_a_frame_does_not_grow_in_memory() -> None:
    """Anybody sends frames, and a list of empty lists takes 72 bytes for each byte of a frame."""
    size = 2**19
    bomb = b"\x9a" + size.to_bytes(4, "big") + b"\x80" * size
    assert len(canonical.loads(bomb, max_bytes=CAP)) == size, "control: it is well formed"
    whole = frame(table(SAMPLE) | {9: 0})
    at = whole.index(b"\x09\x00\x0a") + 1
    for data in (bomb, whole[:at] + bomb + whole[at + 1 :]):
        tracemalloc.start()
        try:
            assert refusal(data)[0] == "QRES-E402"
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * size


@pytest.mark.parametrize("key", [11, 23, 2**63, -1, "swarm", "0", b"\0", b""])
def test_another_key_is_refused(key: object) -> None:
    assert refusal(frame(table(SAMPLE) | {key: 0})) == ("QRES-E402", "envelope")
    renamed = {key if number == 9 else number: value for number, value in table(SAMPLE).items()}
    assert refusal(frame(renamed)) == ("QRES-E402", "envelope")


@pytest.mark.parametrize("key", [False, True, None])
def test_a_key_that_only_equals_the_number_is_refused(key: object) -> None:
    fields = {key if number == (key or 0) else number: v for number, v in table(SAMPLE).items()}
    assert refusal(frame(fields)) == ("QRES-E403", "frame")


@pytest.mark.parametrize("field", range(11))
@pytest.mark.parametrize("other", range(11))
def test_two_fields_in_each_others_place_are_refused(field: int, other: int) -> None:
    # Two valid names, numbers or digests may change places: that is another message.
    fields = table(SAMPLE)
    fields[field], fields[other] = fields[other], fields[field]
    try:
        swapped = Envelope.from_bytes(frame(fields), max_bytes=CAP)
    except WireError:
        return
    if field == other:
        assert parts(swapped) == parts(SAMPLE)
    else:
        assert swapped.signing_digest != SAMPLE.signing_digest
        assert {field, other} in ({1, 2}, {3, 6}, {3, 7}, {6, 7}, {4, 5})


@pytest.mark.parametrize("value", [[], list(range(11)), b"", "", 0, None, True, {}])
def test_a_frame_that_is_no_envelope_is_refused(value: object) -> None:
    assert refusal(cbor2.dumps(value, canonical=True)) == ("QRES-E402", "envelope")


@pytest.mark.parametrize("version", [0, 1, 2, 4, -1, 2**63, "1", b"\1", None, True, [1]])
def test_another_version_is_refused(version: object) -> None:
    assert refusal(frame(table(SAMPLE) | {0: version})) == ("QRES-E406", "envelope.version")


def test_a_payload_that_is_not_the_one_named_is_refused() -> None:
    assert refusal(frame(table(SAMPLE) | {9: b"hellp"})) == ("QRES-E405", "envelope.payload")
    assert refusal(frame(table(SAMPLE) | {8: b"\0" * 32})) == ("QRES-E405", "envelope.payload")
    assert refusal(frame(table(SAMPLE) | {8: b""})) == ("QRES-E405", "envelope.payload")


@pytest.mark.parametrize("digest", [None, 1, "x" * 32, [], {}])
def test_a_payload_digest_of_another_type_is_refused(digest: object) -> None:
    expected = ("QRES-E404", "envelope.payload_digest")
    assert refusal(frame(table(SAMPLE) | {8: digest})) == expected


def test_the_size_limit_is_exact_and_comes_first() -> None:
    data = SAMPLE.to_bytes()
    assert parts(Envelope.from_bytes(data, max_bytes=len(data))) == parts(SAMPLE)
    assert refusal(data, max_bytes=len(data) - 1) == ("QRES-E401", "frame")
    assert refusal(b"\xff" * 10, max_bytes=9) == ("QRES-E401", "frame")


def test_keys_in_another_order_are_refused() -> None:
    fields = table(SAMPLE)
    backwards = {key: fields[key] for key in sorted(fields, reverse=True)}
    assert refusal(cbor2.dumps(backwards)) == ("QRES-E403", "frame")


# ── damage ────────────────────────────────────────────────────────────────────────────────────


def check_damage(data: bytes, original: Envelope) -> bool:
    """Damaged bytes are refused with a WireError, or are another message or other authenticators.

    Returns:
        true if they were read.
    """
    try:
        read = Envelope.from_bytes(data, max_bytes=CAP)
    except WireError:
        return False
    assert read.to_bytes() == data
    if data != original.to_bytes():
        same_message = read.signing_digest == original.signing_digest
        assert not (same_message and read.auth == original.auth)
    return True


def test_every_single_bit_matters() -> None:
    data = SAMPLE.to_bytes()
    read = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        read += check_damage(bytes(flipped), SAMPLE)
    assert read > 8 * (32 + 32 + 4)  # digest, sender and authenticator stay well formed


def test_every_cut_is_refused() -> None:
    data = SAMPLE.to_bytes()
    for size in range(len(data)):
        assert refusal(data[:size])[0] == "QRES-E402"


@given(st.binary(min_size=1, max_size=20))
def test_bytes_after_the_frame_are_refused(tail: bytes) -> None:
    with pytest.raises(WireError):
        Envelope.from_bytes(SAMPLE.to_bytes() + tail, max_bytes=CAP)


@pytest.mark.claim("C-wire-1")
@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_a_wire_error(data: bytes) -> None:
    assert not check_damage(data, SAMPLE)


@thorough
@given(envelopes, st.data())
def test_a_spliced_frame_raises_nothing_but_a_wire_error(
    envelope: Envelope, data: st.DataObject
) -> None:
    item, two = SAMPLE.to_bytes(), envelope.to_bytes()
    cut = data.draw(st.integers(0, len(item)))
    resume = data.draw(st.integers(0, len(two)))
    spliced = item[:cut] + two[resume:]
    if spliced != two:
        check_damage(spliced, SAMPLE)


def test_five_thousand_damaged_frames() -> None:
    rng = random.Random(5)
    data = SAMPLE.to_bytes()
    for _ in range(5_000):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged))
            match rng.randrange(4):
                case 0:
                    damaged[at] = rng.randrange(256)
                case 1:
                    del damaged[at : at + rng.randrange(1, 12)]
                case 2:
                    damaged[at:at] = rng.randbytes(rng.randrange(1, 6))
                case _:
                    damaged[at:at] = data[at : at + rng.randrange(1, 40)]
        check_damage(bytes(damaged), SAMPLE)


@pytest.mark.claim("C-wire-1")
@thorough
@given(
    st.integers(0, 10),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**64), 2**64 - 1)
        | st.binary(max_size=40)
        | st.text(max_size=70),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=6,
    ),
)
def test_a_field_of_any_value_raises_nothing_but_a_wire_error(field: int, value: object) -> None:
    check_damage(frame(table(SAMPLE) | {field: value}), SAMPLE)
