"""Transports: what counts as one."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.contract.transport import CHUNK
from qres_core.errors import ValueRefusedError
from qres_core.transport import BlobRef, Delivery, Transport

ASYNCHRONOUS = (
    "start",
    "broadcast",
    "send",
    "receive",
    "request",
    "publish_blob",
    "fetch_blob",
    "event",
    "aclose",
)
METHODS = (*ASYNCHRONOUS, "limits", "handle", "peers", "stats")


async def nothing(*_: object) -> None:
    """Do nothing."""


def test_a_class_with_every_method_is_a_transport(third_party: ModuleType) -> None:
    assert isinstance(third_party.Loopback(b"\1" * 32), Transport)
    whole: Any = type("Whole", (), dict.fromkeys(METHODS, nothing))
    assert isinstance(whole(), Transport)


@pytest.mark.parametrize("missing", METHODS)
def test_a_class_without_one_method_is_none(missing: str) -> None:
    partial: Any = type("Partial", (), {name: nothing for name in METHODS if name != missing})
    assert not isinstance(partial(), Transport)


@pytest.mark.parametrize("other", [None, object(), [], b"", METHODS])
def test_other_objects_are_no_transports(other: object) -> None:
    assert not isinstance(other, Transport)


def test_what_may_wait_is_asynchronous_and_nothing_else() -> None:
    found = {name for name in METHODS if inspect.iscoroutinefunction(getattr(Transport, name))}
    assert found == set(ASYNCHRONOUS)
    assert set(METHODS) == {name for name in vars(Transport) if not name.startswith("_")}


def test_a_delivery_cannot_be_changed() -> None:
    delivery = Delivery(b"\1" * 32, b"frame")
    for field in attrs.fields(Delivery):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(delivery, field.name, b"")


# ── blobs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_the_chunks_of_a_blob_cover_it(size: int) -> None:
    ref = BlobRef.of(bytes(size))
    lengths = [ref.length(index) for index in range(len(ref.chunks))]
    assert sum(lengths) == ref.size == size
    assert lengths[:-1] == [CHUNK] * (len(lengths) - 1)


@given(first=st.binary(min_size=1, max_size=40), second=st.binary(min_size=1, max_size=40))
def test_a_root_names_one_blob(first: bytes, second: bytes) -> None:
    assert (BlobRef.of(first).root == BlobRef.of(second).root) == (first == second)
    assert BlobRef.of(bytearray(first)) == BlobRef.of(first)


def test_the_root_binds_size_and_hashes() -> None:
    item, two = b"1" * 32, b"2" * 32
    refs = [
        BlobRef(1, (item,)),
        BlobRef(2, (item,)),
        BlobRef(1, (two,)),
        BlobRef(CHUNK + 1, (item, two)),
        BlobRef(CHUNK + 1, (two, item)),
        BlobRef(CHUNK + 2, (item, two)),
    ]
    assert len({ref.root for ref in refs}) == len(refs)


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, ()), (-1, ()), (1, ()), (1, (b"h" * 32,) * 2), (CHUNK + 1, (b"h" * 32,)), (1, (b"h",))],
)
def test_what_names_no_blob_is_refused(size: int, chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        BlobRef(size, chunks)


def test_no_bytes_are_no_blob() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        BlobRef.of(b"")
