"""Streams with deadlines: whole reads, whole writes, and one kind of error for whatever breaks.

Blocks on a stream are a length in 4 bytes, big-endian, and that many bytes. A deadline runs only
while something is awaited, so a reader that waits for the next block may wait longer than one that
waits for the rest of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import ClassVar, Final

from libp2p.abc import INetStream

from qres_core.transport import LinkReason
from qres_transport_libp2p.clock import patience

_HEAD: Final = 4
_SLICE: Final = 2**18
"""Most bytes taken from a stream at a time."""


class BrokenStreamError(Exception):
    """The stream, or the connection under it, ended before it should."""


class SilentPeerError(BrokenStreamError):
    """The other end let a deadline pass."""


class SlowPeerError(SilentPeerError):
    """The other end went on for as long as it may, and did not end."""


class BadBytesError(BrokenStreamError):
    """The other end broke the protocol."""

    reason: ClassVar[LinkReason] = LinkReason.BROKE_PROTOCOL


class TooManyBytesError(BadBytesError):
    """The other end sends more than it may."""

    reason = LinkReason.OVERRAN


class Wire:
    """One stream.

    Args:
        stream: open.
        patience: seconds that one read or write may take.
    """

    def __init__(self, stream: INetStream, patience: float) -> None:
        self.stream = stream
        self._patience = patience

    async def exactly(
        self,
        size: int,
        first: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> bytes:
        """``size`` bytes; the first may take ``first`` seconds where that is given.

        ``progress``: told whenever something came, and how many bytes.

        Every read that brings something starts the patience anew, but the whole takes at most ten
        times that: a neighbour that sends a byte at a time does not hold a place for long. Raises
        SilentPeerError: not in time, SlowPeerError if something came all the time. Raises
        BrokenStreamError: the stream ended.
        """
        wait = self._patience if first is None else first
        told = progress or _nobody
        data = await self._some(size, wait)
        told(len(data))
        if len(data) == size:
            return data
        parts = bytearray(data)
        with patience(10 * self._patience) as whole:
            while len(parts) < size:
                more = await self._some(min(size - len(parts), _SLICE), self._patience)
                told(len(more))
                parts += more
        if whole.cancelled_caught:
            raise SlowPeerError
        return bytes(parts)

    async def _some(self, size: int, wait: float) -> bytes:
        data = b""
        try:
            with patience(wait) as scope:
                data = await self.stream.read(size)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BrokenStreamError(what) from error
        if scope.cancelled_caught:
            raise SilentPeerError
        if not data:
            what = "the stream ended"
            raise BrokenStreamError(what)
        return data

    async def block(
        self,
        limit: int,
        first: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> bytes:
        """The next block.

        ``first``: seconds to wait for its first byte. ``progress``: told whenever some of what it
        holds came, and how many bytes. Raises TooManyBytesError: larger than allowed. Raises
        SilentPeerError, BrokenStreamError: as :meth:`exactly`.
        """
        size = int.from_bytes(await self.exactly(_HEAD, first), "big")
        if size > limit:
            what = f"a block of {size} bytes, at most {limit} are allowed"
            raise TooManyBytesError(what)
        return await self.exactly(size, progress=progress) if size else b""

    async def write(self, data: bytes) -> None:
        """Send bytes; ten times the patience for all of them.

        Raises SilentPeerError: not in time. Raises BrokenStreamError: the stream ended.
        """
        try:
            with patience(10 * self._patience) as scope:
                await self.stream.write(data)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BrokenStreamError(what) from error
        if scope.cancelled_caught:
            raise SilentPeerError

    async def send(self, data: bytes, before: bytes = b"") -> None:
        """Send a block, after some other bytes. Raises as :meth:`write`."""
        await self.write(before + len(data).to_bytes(_HEAD, "big") + data)


def _nobody(_came: int) -> None:
    """Nobody is told."""


async def reset(stream: INetStream) -> None:
    """Reset a stream, whatever state it is in; also while cancelled."""
    with patience(2.0, shield=True), suppress(Exception):  # there is nothing left to reset
        await stream.reset()


@asynccontextmanager
async def closing(stream: INetStream) -> AsyncGenerator[None]:
    """Close a stream after use, and reset it where its use failed or was cancelled."""
    try:
        yield
    except BaseException:
        await reset(stream)
        raise
    with patience(2.0) as scope:
        try:
            await stream.close()
        except Exception:  # noqa: BLE001 - what was to be sent is sent
            scope.cancel()
    if scope.cancelled_caught or scope.cancel_called:
        await reset(stream)
