"""Blobs: what the store keeps, and how a pull gets past holders that fail."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.builtin.blobs import Ask, BlobStore, pull
from qres_core.contract.transport import CHUNK
from qres_core.errors import TransportError
from qres_core.transport import BlobRef

GOOD, BAD, SLOW, AWAY, HALF = (bytes([letter]) * 32 for letter in b"gbsah")
DATA = bytes(range(256)) * (5 * CHUNK // 512)  # two and a half chunks
REF = BlobRef.of(DATA)


def put(store: BlobStore, data: bytes) -> bytes:
    ref = BlobRef.of(data)
    store.put(ref, data)
    return ref.root


def test_the_store_keeps_the_newest_whatever_is_asked_for() -> None:
    store = BlobStore(10)
    first, second = put(store, b"1" * 4), put(store, b"2" * 4)
    assert store.get(first) == b"1111"
    third = put(store, b"3" * 4)
    assert (store.get(first), store.get(second), store.get(third)) == (None, b"2222", b"3333")
    put(store, b"2222")  # again: newest now
    put(store, b"4" * 4)
    assert store.get(third) is None
    assert store.get(second) == b"2222"
    put(store, b"5" * 10)
    assert store.get(second) is None
    with pytest.raises(TransportError, match="QRES-E901"):
        put(store, b"6" * 11)
    store.clear()
    assert store.get(BlobRef.of(b"5" * 10).root) is None
    put(store, b"7" * 10)


@given(sizes=st.lists(st.integers(1, 20), max_size=30))
def test_the_store_never_holds_more_than_its_limit(sizes: list[int]) -> None:
    store, roots = BlobStore(20), {}
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        roots[put(store, data)] = size
        held = sum(size for root, size in roots.items() if store.get(root) is not None)
        assert held <= 20
        assert store.get(BlobRef.of(data).root) == data


def test_chunks_are_those_of_the_reference() -> None:
    store = BlobStore(2**24)
    store.put(REF, DATA)
    chunks = [store.chunk(REF.root, index) for index in range(3)]
    assert b"".join(chunk or b"" for chunk in chunks) == DATA
    assert [store.chunk(REF.root, index) for index in (-1, 3)] == [None, None]
    assert store.chunk(b"?" * 32, 0) is None


pytestmark = pytest.mark.usefixtures("virtual_time")


def world(asked: list[tuple[bytes, int]]) -> Ask:
    async def ask(holder: bytes, index: int) -> bytes:
        asked.append((holder, index))
        await anyio.lowlevel.checkpoint()
        chunk = DATA[index * CHUNK : (index + 1) * CHUNK]
        if holder == AWAY or (holder == HALF and index == 2):
            raise TransportError.of("QRES-E904", "test", "away")
        if holder == SLOW:
            await anyio.sleep_forever()
        return chunk[:-1] + b"?" if holder == BAD else chunk

    return ask


def pulled(
    *holders: bytes, within: float = 5, on_bad: Callable[[bytes, str], None] = lambda *_: None
) -> list[tuple[bytes, int]]:
    asked: list[tuple[bytes, int]] = []

    async def main() -> None:
        with anyio.fail_after(5):
            assert await pull(REF, holders, world(asked), within, on_bad) == DATA

    anyio.run(main)
    return asked


def test_every_chunk_is_asked_for_once() -> None:
    assert sorted(pulled(GOOD)) == [(GOOD, 0), (GOOD, 1), (GOOD, 2)]


def test_the_next_holder_goes_on_with_what_is_missing() -> None:
    assert [item for item in pulled(HALF, GOOD) if item[0] == GOOD] == [(GOOD, 2)]


def test_failing_holders_are_passed_over_and_the_liar_is_named() -> None:
    blamed: list[bytes] = []
    pulled(AWAY, BAD, SLOW, GOOD, within=1, on_bad=lambda who, _what: blamed.append(who))
    assert blamed == [BAD]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_chunk_is_as_long_as_the_announcement_says(size: int) -> None:
    """A liar could else announce one byte by the hash of as many as it likes."""

    async def ask(_holder: bytes, _index: int) -> bytes:
        return b"ab"

    async def main() -> bytes:
        ref = BlobRef(size, BlobRef.of(b"ab").chunks)
        return await pull(ref, (GOOD,), ask, 1.0)

    if size == 2:  # the control
        assert anyio.run(main) == b"ab"
        return
    with pytest.raises(TransportError, match="QRES-E906"):
        anyio.run(main)


@pytest.mark.parametrize(
    ("holders", "code"),
    [
        ((), "QRES-E904"),
        ((AWAY,), "QRES-E904"),
        ((AWAY, SLOW), "QRES-E905"),
        ((SLOW, BAD, AWAY), "QRES-E906"),
    ],
)
def test_when_nobody_gives_it_the_reason_is_named(holders: tuple[bytes, ...], code: str) -> None:
    with pytest.raises(TransportError, match=code):
        pulled(*holders, within=0.2)
