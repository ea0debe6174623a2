"""The gate before everything: Noise alone, and only with keys of the roster."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as Noise

from qres_transport_libp2p.endings import watch


class GatedNoise(Noise):
    """Noise that hangs up on keys it does not know, before a muxer or a stream exists.

    libp2p 0.8.1 can gate by address only.

    Args:
        keys: this node's key pair.
        known: whether a PeerId may go on.
        refused: told of every PeerId that may not.
    """

    def __init__(
        self, keys: KeyPair, known: Callable[[ID], bool], refused: Callable[[ID], None]
    ) -> None:
        super().__init__(keys, noise_privkey=create_new_key_pair().private_key)
        self._known = known
        self._refused = refused

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Answer a handshake. Raises HandshakeFailure for a stranger."""
        watch(conn)
        return await self._admit(await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Begin a handshake. Raises HandshakeFailure for a stranger."""
        watch(conn)
        return await self._admit(await super().secure_outbound(conn, peer_id))

    async def _admit(self, conn: ISecureConn) -> ISecureConn:
        peer = conn.get_remote_peer()
        if not self._known(peer):
            self._refused(peer)
            await conn.close()
            what = "no key of the roster"
            raise HandshakeFailure(what)
        return conn


def noise_only(
    keys: KeyPair, known: Callable[[ID], bool], refused: Callable[[ID], None]
) -> Mapping[TProtocol, ISecureTransport]:
    """What the host offers: this and nothing else, above all not plaintext, which is a default."""
    return {PROTOCOL_ID: GatedNoise(keys, known, refused)}
