"""Endings of the connection under a link, which libp2p tells nobody above it."""

from __future__ import annotations

from typing import Any, Final

from libp2p.abc import IMuxedConn, IRawConnection
from libp2p.io.exceptions import ConnectionClosedError, IOException

from qres_core.transport import LinkReason

_NAME: Final = "qres_ending"


def watch(conn: IRawConnection) -> None:
    """Remember how a connection ends: what its reads come to, from its first byte on."""
    raw: Any = conn
    read = raw.read

    async def watched(n: int | None = None) -> bytes:
        try:
            data: bytes = await read(n)
        except (ConnectionClosedError, IOException, OSError):
            _note(raw, LinkReason.RESET)
            raise
        if not data and n != 0:
            _note(raw, LinkReason.CLOSED_BY_PEER if _is_open(raw) else LinkReason.CLOSED_HERE)
        return data

    raw.read = watched


def ending(muxed: IMuxedConn) -> LinkReason:
    """Reason why a connection that is over ended, unless this node knows why it closed it.

    Where its bytes do not tell, the peer took leave in yamux's own words.
    """
    try:
        untyped: Any = muxed
        raw: Any = untyped.secured_conn.conn.read_writer.read_write_closer
    except AttributeError:
        return LinkReason.CLOSED_BY_PEER
    found: LinkReason = getattr(raw, _NAME, LinkReason.CLOSED_BY_PEER)
    return found


def _note(raw: Any, reason: LinkReason) -> None:
    if not hasattr(raw, _NAME):
        setattr(raw, _NAME, reason)


def _is_open(raw: Any) -> bool:
    """True if this end has not closed it: a read of what was closed here is empty too."""
    try:
        return bool(raw.stream.stream.socket.fileno() >= 0)
    except AttributeError:
        return False
