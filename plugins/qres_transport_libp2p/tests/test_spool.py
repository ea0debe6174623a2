"""The folder of blobs does not grow with the heights that a swarm decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qres_transport_libp2p.blobs import Blobs
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.store import KEPT_HEIGHTS, SharedBlobStore

from qres_core import BlobRef

SIZE = 1000
ROOM = 2**30


def publish(store: SharedBlobStore, data: bytes) -> BlobRef:
    ref = BlobRef.of(data)
    with store.filling(ref):
        store.put(ref, 0, data)
    return ref


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def content(height: int) -> bytes:
    return height.to_bytes(4, "big") * (SIZE // 4)


@pytest.mark.parametrize("pruned", [True, False])
def test_what_is_held_is_bounded_by_heights(tmp_path: Path, *, pruned: bool) -> None:
    store, most, heights = SharedBlobStore(tmp_path, ROOM), 0, 1000
    for height in range(1, heights + 1):
        if pruned:
            store.enter(height)
        publish(store, content(height))
        if height % 50 == 0 or height < 50:
            most = max(most, on_disk(tmp_path))
            assert store.used == on_disk(tmp_path)
    # Control: nobody tells the height, and all of it stays until the room is full.
    assert most == SIZE * (KEPT_HEIGHTS + 1 if pruned else heights)


def test_what_is_asked_for_or_sent_again_stays(tmp_path: Path) -> None:
    store = SharedBlobStore(tmp_path, ROOM)
    store.enter(1)
    asked, sent, left = (publish(store, content(number)) for number in (1, 2, 3))
    for height in range(2, 10 * KEPT_HEIGHTS):
        store.enter(height)
        if height % KEPT_HEIGHTS == 0:
            assert store.chunk(asked.root, 0) == content(1)
            publish(store, content(2))
    assert store.whole(asked.root)
    assert store.whole(sent.root)
    assert not store.whole(left.root)


def test_what_is_published_again_is_held_anew(tmp_path: Path) -> None:
    """Its announcement is on its way; the control is published once."""
    store = SharedBlobStore(tmp_path, 3 * SIZE)
    sessions: Any = SimpleNamespace(serve=lambda *_arguments: None)
    blobs = Blobs(sessions, Libp2pOptions(), store)
    store.enter(1)
    again, left = BlobRef.of(content(1)), BlobRef.of(content(2))
    blobs.publish(again, content(1))
    blobs.publish(left, content(2))
    store.enter(1 + KEPT_HEIGHTS)
    blobs.publish(again, content(1))
    publish(store, content(3))
    publish(store, content(4))
    assert (store.whole(again.root), store.whole(left.root)) == (True, False), "the room was full"
    store.enter(2 + KEPT_HEIGHTS)
    assert store.whole(again.root)
    store.enter(2 + 2 * KEPT_HEIGHTS)
    assert not store.whole(again.root)


def test_what_is_being_fetched_is_not_dropped(tmp_path: Path) -> None:
    store, ref = SharedBlobStore(tmp_path, ROOM), BlobRef.of(content(1))
    store.enter(1)
    with store.filling(ref):
        store.enter(1000)
        store.put(ref, 0, content(1))
    assert store.whole(ref.root)
    store.enter(1001)
    assert not store.whole(ref.root)


def test_what_a_node_finds_after_a_restart_is_kept_as_long_as_what_is_new(tmp_path: Path) -> None:
    ref = publish(SharedBlobStore(tmp_path, ROOM), content(1))
    store = SharedBlobStore(tmp_path, ROOM)
    store.enter(500)
    assert store.whole(ref.root)
    store.enter(500 + KEPT_HEIGHTS)
    assert store.whole(ref.root)
    store.enter(501 + KEPT_HEIGHTS)
    assert not store.whole(ref.root)
    assert on_disk(tmp_path) == 0
