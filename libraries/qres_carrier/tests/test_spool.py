"""The folder of blobs does not grow with the heights that a swarm decides."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import pytest
from qres_carrier import KEPT_HEIGHTS, SharedBlobStore
from qres_carrier import store as module

from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef

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


@pytest.mark.parametrize("on_files", [True, False])
def test_chunks_come_in_any_order_and_out_as_the_blob(tmp_path: Path, *, on_files: bool) -> None:
    data = bytes(range(256)) * (CHUNK // 200)
    ref, store = BlobRef.of(data), SharedBlobStore(tmp_path if on_files else None, ROOM)
    with store.filling(ref):
        assert store.read(ref) is None
        for index in reversed(range(len(ref.chunks))):
            assert store.chunk(ref.root, index) is None
            store.put(ref, index, data[index * CHUNK : (index + 1) * CHUNK])
            assert store.chunk(ref.root, index) is not None
        store.put(ref, 0, b"a second time")  # a whole blob takes nothing more
    with store.filling(ref):
        pass  # what is here already is kept
    assert store.read(ref) == data
    assert store.chunk(bytes(32), 0) is None


def test_what_did_not_come_whole_is_continued(tmp_path: Path) -> None:
    data = bytes(CHUNK) + bytes([1]) * CHUNK
    store, ref = SharedBlobStore(tmp_path, ROOM), BlobRef.of(data)
    with store.filling(ref):
        store.put(ref, 0, data[:CHUNK])
    assert store.read(ref) is None
    for again in (store, SharedBlobStore(tmp_path, ROOM)):  # later, and after a restart
        with again.filling(ref):
            assert again.held(ref) == {0}
    with again.filling(ref):
        again.put(ref, 1, data[CHUNK:])
    assert again.read(ref) == data
    with again.filling(BlobRef.of(bytes([2]) * CHUNK)):
        pass  # nothing of it came
    assert again.used == len(data)


@pytest.mark.parametrize("on_files", [True, False])
def test_a_blob_that_is_published_while_it_is_fetched_stays(
    tmp_path: Path, *, on_files: bool
) -> None:
    """Whoever names it first and never sends it had it lost, and its room with it."""
    store, ref = SharedBlobStore(tmp_path if on_files else None, ROOM), BlobRef.of(content(1))
    with store.filling(ref):
        assert publish(store, content(1)) == ref
    assert (store.read(ref), store.used) == (content(1), SIZE)


def test_of_two_fetches_of_a_blob_one_may_fail(tmp_path: Path) -> None:
    data = bytes(range(256)) * (CHUNK // 200)
    store, ref = SharedBlobStore(tmp_path, ROOM), BlobRef.of(data)
    with store.filling(ref):
        store.put(ref, 0, data[:CHUNK])
        with store.filling(ref):
            assert store.used == ref.size
        assert store.chunk(ref.root, 0) == data[:CHUNK]
        store.put(ref, 1, data[CHUNK:])
    assert (store.read(ref), store.used) == (data, ref.size)


def test_the_least_recently_used_makes_room_and_what_is_pinned_does_not() -> None:
    store = SharedBlobStore(None, 2 * SIZE)
    first, second = (publish(store, content(number)) for number in (1, 2))
    assert store.chunk(first.root, 0) is not None  # used now
    third = publish(store, content(3))
    assert [store.whole(ref.root) for ref in (first, second, third)] == [True, False, True]
    with pytest.raises(TransportError, match="QRES-E901"), store.filling(BlobRef.of(bytes(5000))):
        pass
    with store.filling(first), store.filling(third):
        refused = store.filling(BlobRef.of(content(4)))
        with pytest.raises(TransportError, match="QRES-E902"), refused:
            pass


def test_what_was_changed_or_deleted_from_outside_is_dropped(tmp_path: Path) -> None:
    store = SharedBlobStore(tmp_path, ROOM)
    changed, deleted = (publish(store, content(number)) for number in (1, 2))
    (tmp_path / changed.root.hex()).write_bytes(bytes(SIZE))
    (tmp_path / deleted.root.hex()).unlink()
    assert store.read(changed, check=False) == bytes(SIZE)  # the control: nobody looks
    assert store.read(changed) is None
    assert store.read(deleted) is None
    assert store.used == 0


def test_a_start_keeps_blobs_and_nothing_else(tmp_path: Path) -> None:
    ref = publish(SharedBlobStore(tmp_path, ROOM), content(1))
    for name in ("00.part", "notes.txt", "00"):
        (tmp_path / name).write_bytes(b"rest")
    store = SharedBlobStore(tmp_path, ROOM)
    assert (store.read(ref), store.used) == (content(1), SIZE)
    assert not (tmp_path / "00.part").exists()


LARGE = b"".join(bytes([number]) * CHUNK for number in range(4))


class Coming:
    """Blobs of four chunks that come, in a room for a few of them; at times that the test says."""

    def __init__(self, room: int) -> None:
        self.now = 0.0
        self.store = SharedBlobStore(None, room * len(LARGE), lambda: self.now)
        self.stack = ExitStack()

    def begin(self, number: int) -> BlobRef:
        ref = BlobRef.of(LARGE[:-1] + bytes([number]))
        self.stack.enter_context(self.store.filling(ref, fetched=True))
        return ref

    def chunks(self, ref: BlobRef, *indices: int) -> bool:
        return all(self.store.put(ref, index, bytes(CHUNK)) for index in indices)


@pytest.mark.claim("C-libp2p-6")
@pytest.mark.control("C-libp2p-6")
@pytest.mark.parametrize("guarded", [True, False])
def test_blobs_that_come_a_byte_at_a_time_do_not_hold_all_the_room(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Liars give true chunks so slowly that their pulls live for ever; the control lets them."""
    if not guarded:
        monkeypatch.setattr(module, "FAR_SLOWER", math.inf)
        monkeypatch.setattr(module, "SLOW_SECONDS", math.inf)
    coming = Coming(4)
    with coming.stack:
        first = coming.begin(0)
        coming.now = 1.0
        assert coming.chunks(first, 0, 1, 2, 3)  # an honest blob, whole in a second
        liars = [coming.begin(number) for number in range(1, 4)]
        coming.now = 60.0
        assert coming.chunks(liars[0], 0)
        assert coming.chunks(liars[1], 0, 1)
        coming.store.discard(first.root)
        honest = coming.begin(9)
        coming.now = 61.0
        assert coming.chunks(honest, 0)
        if not guarded:
            with pytest.raises(TransportError, match="QRES-E902"):
                coming.begin(10)
            return
        other = coming.begin(10)  # in the place of the slowest, which gave nothing
        assert not coming.chunks(liars[2], 0)
        assert coming.chunks(liars[0], 1)
        coming.begin(11)
        assert not coming.chunks(liars[0], 2)  # and of the next one, once it is needed
        assert coming.chunks(honest, 1, 2, 3)
        assert coming.chunks(other, 0)
        assert coming.store.used <= 4 * len(LARGE)


def test_on_a_line_on_which_all_come_slowly_none_makes_room() -> None:
    coming = Coming(3)
    with coming.stack:
        refs = [coming.begin(number) for number in range(3)]
        for index in range(3):
            coming.now += 30.0
            assert all(coming.chunks(ref, index) for ref in refs)
            with pytest.raises(TransportError, match="QRES-E902"):
                coming.begin(9)


def test_what_this_node_publishes_is_no_measure() -> None:
    coming = Coming(2)
    with coming.stack:
        publish(coming.store, content(1))
        coming.now = 30.0
        ref = coming.begin(1)
        coming.now = 60.0
        coming.begin(2)
        with pytest.raises(TransportError, match="QRES-E902"):
            coming.begin(3)
        assert coming.chunks(ref, 0)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_large_blobs_that_are_named_and_never_come_hold_no_room(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Liars name as much as a message may hold, which is more than honest nodes send."""
    if not guarded:
        monkeypatch.setattr(SharedBlobStore, "_larger", lambda _store, _size: [])
    store = SharedBlobStore(None, 8 * CHUNK)
    with ExitStack() as stack:
        liars = [BlobRef(4 * CHUNK, (bytes([number]) * 32,) * 4) for number in range(2)]
        for ref in liars:
            stack.enter_context(store.filling(ref, fetched=True))
        honest = [BlobRef.of(bytes([number]) * CHUNK) for number in range(3)]
        if not guarded:
            with pytest.raises(TransportError, match="QRES-E902"):
                publish(store, bytes(CHUNK))
            return
        for number, ref in enumerate(honest):
            stack.enter_context(store.filling(ref, fetched=True))
            assert store.put(ref, 0, bytes([number]) * CHUNK)
        publish(store, bytes(range(256)) * (CHUNK // 256))
        assert all(store.whole(ref.root) for ref in honest)
        assert not store.put(liars[0], 0, bytes(CHUNK)), "the first of them made room"
        assert store.put(liars[1], 0, bytes(CHUNK)), "there is room for the other"


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    store, ref = SharedBlobStore(folder, ROOM), BlobRef.of(content(1))
    with store.filling(ref):
        (folder / (ref.root.hex() + ".part")).unlink()  # a cleaner came
        assert not store.put(ref, 0, content(1))
    assert store.used == 0
    folder.rmdir()
    with pytest.raises(TransportError, match="QRES-E902"), store.filling(ref):
        pass
    assert store.used == 0
