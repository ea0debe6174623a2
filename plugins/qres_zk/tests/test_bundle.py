"""Any bytes are a bundle or a named error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qres_zk import norm
from qres_zk.bundle import ProofBundle, commitments
from qres_zk.group import encode
from qres_zk.pedersen import commit
from qres_zk.statement import HEADER_BYTES, Context, NormStatement

from qres_core.errors import WireError

SMALL = NormStatement(64, 2**16)
CONTEXT = Context("lab", b"n" * 32, 7, b"m" * 32, b"r" * 32)
HONEST = norm.prove(SMALL, CONTEXT, commit(SMALL, np.arange(64, dtype=np.int32)))[1].to_bytes()
CODES = {"QRES-E401", "QRES-E402", "QRES-E404", "QRES-E406"}


def decoded(data: bytes) -> ProofBundle | None:
    try:
        return ProofBundle.from_bytes(data, SMALL)
    except WireError as error:
        if error.code not in CODES:
            raise
        return None


def test_there_and_back() -> None:
    bundle = decoded(HONEST)
    assert bundle is not None
    assert bundle.to_bytes() == HONEST
    assert encode(commitments(HONEST, SMALL)) == bundle.cut(0, SMALL.rows)


@pytest.mark.claim("C-zk-2")
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"QZKP")
def test_arbitrary_bytes(data: bytes) -> None:
    assert decoded(data) is None
    assert decoded(data + HONEST[len(data) :]) is None or data == HONEST[: len(data)]


@pytest.mark.claim("C-zk-2")
@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(HONEST) - 1), st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_decode_to_themselves_or_not_at_all(place: int, data: bytes) -> None:
    changed = (HONEST[:place] + data + HONEST[place + len(data) :])[: len(HONEST)]
    bundle = decoded(changed)
    if bundle is not None:
        assert bundle.to_bytes() == changed
        try:
            norm.verify(SMALL, CONTEXT, bundle)
        except WireError:
            assert changed != HONEST
        else:
            assert changed == HONEST


@pytest.mark.parametrize("cut", [1, 31, 32, 33, 1000])
def test_too_short_and_too_long(cut: int) -> None:
    assert decoded(HONEST[:-cut]) is None
    with pytest.raises(WireError, match="QRES-E401"):
        ProofBundle.from_bytes(HONEST + bytes(cut), SMALL)


def test_size_is_looked_at_before_anything_else() -> None:
    with pytest.raises(WireError, match="QRES-E401"):
        ProofBundle.from_bytes(bytes(2**24), SMALL)


@pytest.mark.parametrize(
    ("place", "code"), [(0, "QRES-E402"), (4, "QRES-E406"), (5, "QRES-E406"), (7, "QRES-E406")]
)
def test_magic_version_and_suite(place: int, code: str) -> None:
    changed = bytearray(HONEST)
    changed[place] ^= 1
    with pytest.raises(WireError, match=code):
        ProofBundle.from_bytes(bytes(changed), SMALL)


def test_a_masked_sum_out_of_range() -> None:
    place = HEADER_BYTES + 32 * SMALL.points + 15
    changed = HONEST[:place] + b"\xff" + HONEST[place + 1 :]
    with pytest.raises(WireError, match=r"proof\.masked"):
        ProofBundle.from_bytes(changed, SMALL)
    just = HONEST[: place - 15] + ((1 << SMALL.mask_bits) - 1).to_bytes(16, "little")
    assert decoded(just + HONEST[place + 1 :]) is not None


def test_another_statement_reads_nothing_of_it() -> None:
    for other in (
        NormStatement(64, 2**16, k=512),
        NormStatement(1000, 2**16),
        NormStatement(3, 2**16),
    ):
        with pytest.raises(WireError):
            ProofBundle.from_bytes(HONEST, other)
