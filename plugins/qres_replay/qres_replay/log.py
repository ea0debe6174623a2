"""Is SQLite's write-ahead log whole?

SQLite reads the log up to the first frame that does not check and takes what comes after for the
remains of a write that was cut short. For a database that is right. Here it would mean that a
damaged or emptied log silently takes back messages that were accepted.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8I")  # magic, format, page size, checkpoint, 2 salts, 2 checksums
_FRAME: Final = struct.Struct(">6I")  # page, size of the database if a commit, 2 salts, 2 checksums
_WORDS: Final = {0x377F0682: struct.Struct("<2I"), 0x377F0683: struct.Struct(">2I")}


def _checksum(words: struct.Struct, data: memoryview, first: int, second: int) -> tuple[int, int]:
    for item, other in words.iter_unpack(data):
        first = (first + item + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def log_is_whole(path: Path) -> bool:
    """True if a write-ahead log holds complete transactions, at least one, and nothing else.

    The store empties its log at every checkpoint, so there are never frames of an earlier cycle
    behind the current ones.

    Args:
        path: the ``-wal`` file; no process writes it.

    Returns:
        False also for a log that is missing, empty or cannot be read.

    Complexity: O(size of the file), which the store keeps to some MiB.

    Source: "WAL-mode File Format", sections 1 to 4, of the SQLite documentation.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return False
    if len(data) < _HEADER.size:
        return False
    magic, _format, page, _cycle, *salts_and_sums = _HEADER.unpack_from(data)
    words = _WORDS.get(magic)
    frame = _FRAME.size + page
    frames, rest = divmod(len(data) - _HEADER.size, frame)
    if words is None or page % 8 or not frames or rest:
        return False
    salts = salts_and_sums[:2]
    sums = _checksum(words, data[: _HEADER.size - 8], 0, 0)
    if list(sums) != salts_and_sums[2:]:
        return False
    commit = 0
    for start in range(_HEADER.size, len(data), frame):
        _number, commit, *rest_of_head = _FRAME.unpack_from(data, start)
        sums = _checksum(words, data[start : start + 8], *sums)
        sums = _checksum(words, data[start + _FRAME.size : start + frame], *sums)
        if rest_of_head != [*salts, *sums]:
            return False
    return commit != 0
