"""The gate before everything: Noise alone, and only with keys that may go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as Noise

from qres_transport_libp2p.endings import watch
from qres_transport_libp2p.slots import NAMED, CountedSocket

Judge = Callable[[CountedSocket, ID], Awaitable[str]]
"""Why a key may not go on over a socket, or nothing."""


class GatedNoise(Noise):
    """Noise that hangs up on keys that may not go on, before a muxer or a stream exists.

    libp2p 0.8.1 can gate by address only.

    Args:
        keys: this node's key pair.
        judge: asked about every key that is proved, in both directions.
    """

    def __init__(self, keys: KeyPair, judge: Judge) -> None:
        super().__init__(keys, noise_privkey=create_new_key_pair().private_key)
        self._judge = judge

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Answer a handshake. Raises HandshakeFailure for whoever may not go on."""
        watch(conn)
        under: Any = conn
        if isinstance(under.stream, CountedSocket):
            under.stream.advance(NAMED)
        return await self._admit(conn, await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Begin a handshake. Raises HandshakeFailure for whoever may not go on."""
        watch(conn)
        return await self._admit(conn, await super().secure_outbound(conn, peer_id))

    async def _admit(self, raw: IRawConnection, conn: ISecureConn) -> ISecureConn:
        under: Any = raw
        try:
            why = await self._judge(under.stream, conn.get_remote_peer())
        except BaseException:
            await conn.close()
            raise
        if why:
            await conn.close()
            raise HandshakeFailure(why)
        return conn


def noise_only(keys: KeyPair, judge: Judge) -> Mapping[TProtocol, ISecureTransport]:
    """Offer of the host: this and nothing else, above all not plaintext, which is a default."""
    return {PROTOCOL_ID: GatedNoise(keys, judge)}
