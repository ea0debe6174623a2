"""A stream of random bytes: AES-256 in counter mode, a pure function of a 32-byte key.

A release of noise has a key of its own, drawn from the operating system and used once. Whoever
knows the key can make the same noise again, on any machine; nobody else can tell the stream from
random bytes without breaking AES. The privacy of what is released rests on that assumption
(computational differential privacy, Mironov et al., CRYPTO 2009).
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError

KEY_BYTES: Final = 32
REKEY_BYTES: Final = 2**30
"""After so many bytes the stream goes on under a key taken from itself."""

_ZEROS: Final = np.zeros(2**18, dtype=np.uint8)  # stays in the second-level cache
_ZEROS.flags.writeable = False


def fresh_key() -> bytes:
    """32 bytes from the operating system, for one release."""
    return os.urandom(KEY_BYTES)


class Keystream:
    """The stream of one key.

    A stream belongs to the process that made it: a fork would give parent and child the same
    noise, and the difference of their releases would have none.

    Args:
        key: 32 bytes.
        rekey_bytes: bytes after which the stream changes its key; part of what defines the
            stream, and another value is for tests.

    Raises:
        ValueRefusedError: QRES-E507 for a key of another length; from every method in a process
            that was forked since.
    """

    def __init__(self, key: bytes, *, rekey_bytes: int = REKEY_BYTES) -> None:
        if type(key) is not bytes or len(key) != KEY_BYTES:
            raise ValueRefusedError.of("QRES-E507", "key", f"expected {KEY_BYTES} bytes")
        self._process = os.getpid()
        self._rekey_bytes = rekey_bytes
        self._start(key)

    def _start(self, key: bytes) -> None:
        # Every key is used for one stream only, so the counter may start at zero.
        self._cipher: Any = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._left = self._rekey_bytes

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Overwrite bytes with the next ones of the stream.

        Args:
            out: uint8, shape ``(m,)``, C-contiguous.

        Raises:
            ValueRefusedError: QRES-E507 in a forked process.

        Complexity: O(m), several gigabytes a second where the processor has AES.
        """
        if os.getpid() != self._process:
            what = "the key was made in another process, which may draw the same noise"
            raise ValueRefusedError.of("QRES-E507", "key", what, "draw a fresh key after a fork")
        view, done, size = out.data, 0, out.size
        while done < size:
            if self._left == 0:
                self._start(self._cipher.update(bytes(KEY_BYTES)))
            part = min(size - done, self._left, _ZEROS.size)
            self._cipher.update_into(_ZEROS[:part].data, view[done : done + part])
            self._left -= part
            done += part

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``8 * count`` bytes as little-endian words, uint64, shape ``(count,)``."""
        octets = np.empty(8 * count, dtype=np.uint8)
        self.fill(octets)
        return octets.view("<u8").astype(np.uint64, copy=False)

    def bits(self, count: int) -> int:
        """A uniform integer of ``count`` bits, a multiple of eight."""
        octets = np.empty(count // 8, dtype=np.uint8)
        self.fill(octets)
        return int.from_bytes(octets.tobytes(), "little")
