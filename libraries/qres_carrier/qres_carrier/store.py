"""Blobs this node has, whole or in part: in files, or in memory for a node without a folder."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef

KEPT_HEIGHTS: Final = 8
"""Heights after which a blob that nobody asked for is dropped: what is sent again is held anew."""
SLOW_SECONDS: Final = 10.0
"""Seconds after which a blob that is being fetched may have to make room for another."""
FAR_SLOWER: Final = 8.0
"""How many times as fast others come then."""
DISPLACED: Final = "its room was needed for blobs that come faster"
UNWRITTEN: Final = "the folder of blobs cannot be written"
_PARTIAL: Final = ".part"


@attrs.define(eq=False)
class _Blob:
    size: int
    path: Path | None
    memory: dict[int, bytes] = attrs.field(factory=dict[int, bytes])
    held: set[int] | None = None
    """Chunks of a blob that is not whole; ``None`` for one that is."""
    checked: bool = True
    """Whether it is known which chunks are there: of what a restart found, it is not."""
    pins: int = 0
    since: float = 0.0
    """When it was pinned, where it was not before: seconds of the store's clock."""
    gained: int = 0
    """Bytes that came since then."""
    fetched: bool = False
    """Whether it comes from others."""
    height: int = 0
    """Of the node when the blob was last used."""

    def rate(self, now: float) -> float:
        """Bytes a second that come of it."""
        return self.gained / max(now - self.since, 1e-3)


class SharedBlobStore:
    """Holds blobs until newer ones need their room, or the swarm has long gone on.

    Files are named by the blob's root. They are still there after a restart, also those that had
    not come whole: their chunks are checked when the rest is fetched. Nothing is synced: a blob can
    be fetched again, and whoever fetches checks.

    Blobs that are being fetched keep their room, so who gives many of them a byte at a time, or
    names large ones that it never gives, could hold all of it. Where no room is left, one that
    comes far slower than others loses its own, and then one that is larger than what needs room.

    Args:
        folder: where, or ``None`` for memory.
        room: bytes in all.
        clock: seconds.
    """

    def __init__(
        self, folder: Path | None, room: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._room = room
        self._clock = clock
        self._fastest = 0.0  # bytes a second that a blob was fetched at
        self._used = 0
        self._height = 0
        self._blobs: OrderedDict[bytes, _Blob] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._find(folder)

    @property
    def far_slower(self) -> float:
        """Bytes a second below which something comes far slower than a blob did before."""
        return self._fastest / FAR_SLOWER

    @property
    def used(self) -> int:
        """Bytes held, or kept free for what is being fetched."""
        return self._used

    def _find(self, folder: Path) -> None:
        found: list[tuple[float, bytes, int, Path]] = []
        for path in folder.iterdir():
            with contextlib.suppress(ValueError, OSError):
                root, info = bytes.fromhex(path.name.removesuffix(_PARTIAL)), path.stat()
                if len(root) == 32 and info.st_size:
                    found.append((info.st_mtime, root, info.st_size, path))
                    continue
            if path.suffix == _PARTIAL:
                path.unlink(missing_ok=True)
        for _time, root, size, path in sorted(found):
            in_part = path.suffix == _PARTIAL
            if root in self._blobs:  # whole and in part: a restart came between
                if in_part:
                    path.unlink(missing_ok=True)
                    continue
                self.discard(root)
            held: set[int] | None = set() if in_part else None
            self._blobs[root] = _Blob(size, path, held=held, checked=not in_part)
            self._used += size
        with contextlib.suppress(TransportError):
            self._make_room(0)

    def enter(self, height: int) -> None:
        """The node is at a height: drop what was last used :data:`KEPT_HEIGHTS` before it."""
        if self._height == 0:  # of those found in the folder, nobody knows
            for blob in self._blobs.values():
                blob.height = height
        self._height = height
        for root, blob in list(self._blobs.items()):
            if not blob.pins and blob.height + KEPT_HEIGHTS < height:
                self.discard(root)

    def _make_room(self, size: int) -> None:
        if size > self._room:
            what = f"{size} bytes, there is room for {self._room}"
            raise TransportError.of("QRES-E901", "blob", what)
        for root in [root for root, blob in self._blobs.items() if not blob.pins]:
            if self._used + size <= self._room:
                return
            self.discard(root)
        for yielding in (self._far_slower, partial(self._larger, size)):
            for root in yielding():
                if self._used + size <= self._room:
                    return
                self.discard(root)
        if self._used + size > self._room:
            what = "blobs that are being fetched take all the room"
            raise TransportError.of("QRES-E902", "blob", what)

    def _coming(self) -> dict[bytes, _Blob]:
        """Blobs that are being fetched and are not whole."""
        return {
            root: blob
            for root, blob in self._blobs.items()
            if blob.pins and blob.fetched and blob.held is not None
        }

    def _larger(self, size: int) -> list[bytes]:
        """Blobs that are being fetched and are larger than ``size``, the largest first.

        Of what honest nodes send together all has room, so whoever names more has it from nobody.
        """
        larger = {root: it.size for root, it in self._coming().items() if it.size > size > 0}
        return sorted(larger, key=larger.__getitem__, reverse=True)

    def _far_slower(self) -> list[bytes]:
        """Blobs that are being fetched and may have to make room, the slowest first."""
        now = self._clock()
        coming = {
            root: blob.rate(now)
            for root, blob in self._coming().items()
            if now - blob.since >= SLOW_SECONDS
        }
        fastest = max([self._fastest, *coming.values()])
        slow = [root for root, rate in coming.items() if rate * FAR_SLOWER < fastest]
        return sorted(slow, key=coming.__getitem__)

    def size(self, root: bytes) -> int:
        """Bytes of a blob that is here, whole or in part; 0 of one that is not."""
        blob = self._blobs.get(root)
        return 0 if blob is None else blob.size

    def whole(self, root: bytes) -> bool:
        """True if a blob is here, all of it."""
        blob = self._blobs.get(root)
        return blob is not None and blob.held is None

    @contextmanager
    def filling(self, ref: BlobRef, *, fetched: bool = False) -> Generator[None]:
        """Keep room for a blob while its chunks come.

        ``fetched``: from others; then it may lose its room where it comes far slower than others.

        Several may fill a blob at once. Chunks that came are kept for another try, until their room
        is needed. Raises TransportError: QRES-E901 if it never fits, QRES-E902 if it does not fit
        now.
        """
        if not self._resume(ref):
            self._make_room(ref.size)
            path = None
            if self._folder is not None:
                path = self._folder / (ref.root.hex() + _PARTIAL)
                try:
                    with path.open("wb") as file:
                        file.truncate(ref.size)
                except OSError as error:  # a full disk stops no node
                    raise TransportError.of("QRES-E902", "blob", str(error)) from error
            self._blobs[ref.root] = _Blob(ref.size, path, held=set())
            self._used += ref.size
        blob = self._blobs[ref.root]
        self._blobs.move_to_end(ref.root)
        blob.height = self._height
        if not blob.pins:
            blob.since, blob.gained, blob.fetched = self._clock(), 0, fetched
        blob.pins += 1
        try:
            yield
        finally:
            blob.pins -= 1
            mine = self._blobs.get(ref.root) is blob
            if mine and blob.held is not None and not blob.held and not blob.pins:
                self.discard(ref.root)

    def _resume(self, ref: BlobRef) -> bool:
        """True if a blob is here, whole or in part; what a restart found of it is looked at."""
        blob = self._blobs.get(ref.root)
        if blob is None or blob.size != ref.size:
            self.discard(ref.root)
            return False
        if not blob.checked and blob.held is not None and blob.path is not None:
            blob.checked = True
            with contextlib.suppress(OSError), blob.path.open("rb") as file:
                for index, digest in enumerate(ref.chunks):
                    if hashlib.sha256(file.read(CHUNK)).digest() == digest:
                        blob.held.add(index)
            if len(blob.held) == len(ref.chunks):
                self._complete(blob)
        return True

    def held(self, ref: BlobRef) -> frozenset[int]:
        """The chunks that are here of a blob that is being filled."""
        blob = self._blobs[ref.root]
        return frozenset(range(len(ref.chunks)) if blob.held is None else blob.held)

    def _complete(self, blob: _Blob) -> None:
        blob.held = None
        if blob.fetched:
            self._fastest = max(self._fastest, blob.rate(self._clock()))
        if blob.path is not None:
            blob.path = blob.path.replace(blob.path.with_suffix(""))

    def put(self, ref: BlobRef, index: int, data: bytes) -> bool:
        """Add a checked chunk of a blob that is being filled; the last one makes it whole.

        Returns false if the blob had to make room for others, or cannot be written.
        """
        blob = self._blobs.get(ref.root)
        if blob is None:
            return False
        if blob.held is None:
            return True
        try:
            self._write(blob, index, data)
            blob.held.add(index)
            blob.gained += len(data)
            if len(blob.held) == len(ref.chunks):
                self._complete(blob)
        except OSError:  # the disk is full, or somebody removed the file
            self.discard(ref.root)
            return False
        return True

    @staticmethod
    def _write(blob: _Blob, index: int, data: bytes) -> None:
        if blob.path is None:
            blob.memory[index] = data
            return
        with blob.path.open("r+b") as file:
            file.seek(index * CHUNK)
            file.write(data)

    def chunk(self, root: bytes, index: int) -> bytes | None:
        """A chunk, if it is here; the blob counts as used now."""
        blob = self._blobs.get(root)
        if blob is None or (blob.held is not None and index not in blob.held):
            return None
        self._blobs.move_to_end(root)
        blob.height = self._height
        if blob.path is None:
            return blob.memory.get(index)
        try:
            with blob.path.open("rb") as file:
                file.seek(index * CHUNK)
                return file.read(CHUNK) or None
        except OSError:  # deleted from outside
            return None

    def read(self, ref: BlobRef, *, check: bool = True) -> bytes | None:
        """A whole blob; one that is not what it should be is dropped.

        ``check``: false where the chunks have just been checked; then only the size is.
        """
        if not self.whole(ref.root):
            return None
        parts = [self.chunk(ref.root, index) or b"" for index in range(len(ref.chunks))]
        data = b"".join(parts)
        if len(data) == ref.size and (not check or BlobRef.of(data).root == ref.root):
            return data
        self.discard(ref.root)
        return None

    def discard(self, root: bytes) -> None:
        """Drop a blob."""
        blob = self._blobs.pop(root, None)
        if blob is not None:
            self._used -= blob.size
            if blob.path is not None:
                with contextlib.suppress(OSError):
                    blob.path.unlink()
