"""Announcements: one encoding, and no bytes that do more than be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_envelope

from qres_core import canonical
from qres_core.contract.transport import CHUNK
from qres_core.errors import WireError
from qres_core.swarm.runtime.carrier import Announce, announce_bytes, announces
from qres_core.transport import BlobRef

LIMIT = 64 * 2**20
hashes = st.binary(min_size=32, max_size=32)


@st.composite
def announcements(draw: st.DrawFn) -> Announce:
    size = draw(st.integers(1, 8 * CHUNK))
    count = -(-size // CHUNK)
    chunks = draw(st.lists(hashes, min_size=count, max_size=count))
    return Announce(BlobRef(size, tuple(chunks)), draw(st.booleans()))


@given(announce=announcements())
def test_an_announcement_survives_the_wire(announce: Announce) -> None:
    frame = announce.to_bytes()
    assert announces(frame)
    assert len(frame) <= announce_bytes(announce.ref.size)
    assert Announce.from_bytes(frame, max_bytes=LIMIT) == announce


def test_the_largest_announcement_is_within_what_was_allowed_for_it() -> None:
    for size in (1, CHUNK, CHUNK + 1, LIMIT, 2**40):
        count = -(-size // CHUNK)
        if count <= 4096:
            announce = Announce(BlobRef(size, (b"h" * 32,) * count), private=True)
            assert len(announce.to_bytes()) <= announce_bytes(size)


def test_a_message_is_no_announcement() -> None:
    frame = make_envelope().to_bytes()
    assert not announces(frame)
    assert not announces(b"")
    with pytest.raises(WireError, match="QRES-E402"):
        Announce.from_bytes(frame, max_bytes=LIMIT)


@given(
    frame=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda tail: b"\0" + tail),
        st.recursive(
            st.one_of(st.integers(-(2**63), 2**64 - 1), st.binary(max_size=70), st.none()),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=6,
        ).map(lambda value: b"\1" + canonical.dumps(value)),
    )
)
def test_whatever_the_bytes_there_is_an_announcement_or_a_wire_error(frame: bytes) -> None:
    try:
        from_byte = Announce.from_bytes(frame, max_bytes=LIMIT)
    except WireError:
        return
    assert from_byte.to_bytes() == frame


@given(announce=announcements(), data=st.data())
def test_every_changed_byte_names_another_blob_or_is_refused(
    announce: Announce, data: st.DataObject
) -> None:
    frame = bytearray(announce.to_bytes())
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = Announce.from_bytes(bytes(frame), max_bytes=LIMIT)
    except WireError:
        return
    assert other != announce


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([4 * CHUNK + 1, b"h" * 128], "QRES-E401"),
        ([CHUNK, b"h" * 64], "QRES-E404"),
        ([CHUNK, b"h" * 31], "QRES-E404"),
        ([CHUNK, b""], "QRES-E404"),
        ([0, b""], "QRES-E404"),
        ([-1, b""], "QRES-E404"),
        ([True, b"h" * 32], "QRES-E404"),
        ([1, "h" * 32], "QRES-E404"),
        ([1, b"h" * 32, 0], "QRES-E404"),
        ([1], "QRES-E404"),
        ({0: 1, 1: b"h" * 32}, "QRES-E404"),
        (None, "QRES-E404"),
        ([1, b"h" * 1024], "QRES-E401"),
    ],
)
def test_what_is_wrong_is_named(body: object, code: str) -> None:
    with pytest.raises(WireError, match=code):
        Announce.from_bytes(b"\0" + canonical.dumps(body), max_bytes=4 * CHUNK)
