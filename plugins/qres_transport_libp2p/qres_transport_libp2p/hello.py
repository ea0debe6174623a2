"""The first exchange on a connection: swarm, boot nonce and credential, in both directions.

Whoever dialled speaks first. Nothing else is served on a connection before both ends admitted each
other, and they do so again from time to time: credentials expire and are revoked.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from qres_carrier import SenderBuckets, TokenBucket

from qres_core import Fault, NodeId, Verdict, canonical
from qres_core.errors import WireError
from qres_core.transport import LinkReason
from qres_transport_libp2p.caller import Caller
from qres_transport_libp2p.clock import patience
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.wire import (
    BadBytesError,
    BrokenStreamError,
    SilentPeerError,
    Wire,
    closing,
    reset,
)
from qres_transport_libp2p.yamux import whole

PROTOCOL: Final = TProtocol("/qres/hello/1")
MAX_BYTES: Final = 8192
NONCE_BYTES: Final = 16
VERSION: Final = 1
WELCOME: Final = b"\1"
REFUSED: Final = b"\0"
LINGER_SECONDS: Final = 3.0
"""How long who is refused has to read that, and to hang up itself."""
HELLOS_PER_SECOND: Final = 10.0
"""That a peer may say, on average, over all its connections; each is asked of all plugins."""
HELLOS_BURST: Final = 30
TOO_OFTEN: Final = "hello: too often"
LASTING: Final = frozenset({str(Fault.BANNED), "certificate-revoked", "not-a-member"})
"""Why a node is rejected whatever it shows: these are asked for before it may say hello."""

_LOG: Final = logging.getLogger(__name__)


@attrs.frozen
class Hello:
    """Hello of one end."""

    swarm: str  # its swarm's name
    nonce: bytes  # 16 bytes, drawn when the node started
    credential: bytes  # what its plugins show; may be empty

    def dumps(self) -> bytes:
        """Canonical CBOR."""
        return canonical.dumps([VERSION, self.swarm, self.nonce, self.credential])

    @classmethod
    def loads(cls, data: bytes) -> Hello:
        """Read one. Raises BadBytesError."""
        try:
            version, swarm, nonce, credential = canonical.loads(data, max_bytes=MAX_BYTES)
        except (WireError, ValueError, TypeError) as error:
            what = "no hello"
            raise BadBytesError(what) from error
        right = type(swarm) is str and type(nonce) is bytes and type(credential) is bytes
        if version != VERSION or not right or len(nonce) != NONCE_BYTES:
            what = "a hello of another version or form"
            raise BadBytesError(what)
        return cls(swarm, nonce, credential)


@attrs.define(eq=False)
class Greeter:
    """Says hello, answers it, and decides."""

    swarm: str  # this node's
    admission: Callable[[NodeId, bytes], Verdict]  # asked about every peer, in the caller's thread
    credential: Callable[[], bytes]  # what to show, asked each time, in the caller's thread
    caller: Caller  # that thread
    options: Libp2pOptions  # deadlines
    nonce: bytes = attrs.field(factory=lambda: secrets.token_bytes(NONCE_BYTES))  # of this start
    sessions: Sessions = attrs.field(init=False)
    _hellos: SenderBuckets = attrs.field(init=False)
    # what each node showed last; of members alone, so it is bounded
    _shown: dict[NodeId, bytes] = attrs.field(factory=dict[NodeId, bytes])

    def __attrs_post_init__(self) -> None:
        self._hellos = SenderBuckets(
            lambda: TokenBucket(HELLOS_PER_SECOND, HELLOS_BURST, clock=trio.current_time)
        )

    def attach(self, sessions: Sessions) -> None:
        """Answer hellos on the host of these sessions."""
        self.sessions = sessions
        sessions.host.set_stream_handler(PROTOCOL, self._answer)

    async def bars(self, node: NodeId, within: float) -> str:
        """Reason why a member may not even say hello, or nothing.

        Asked with what it showed last: what was revoked since then does not get this far again.
        ``within``: seconds to wait for the answer; a node that does not give it bars everybody.
        """
        shown = self._shown.get(node, b"")
        try:
            verdict = await self.caller.ask(lambda: self.admission(node, shown), within)
        except TimeoutError:
            return "this node is busy"
        except Exception as error:  # noqa: BLE001 - as in _judge
            return f"admission failed: {type(error).__name__}: {error}"
        return verdict.reason if not verdict.accepted and verdict.reason in LASTING else ""

    async def greet(self, link: PeerConnection) -> None:
        """Greet a new connection if this end made it, else wait for the other's hello."""
        conn: Any = link.conn
        if conn.direction.name == "OUTBOUND":
            if not await self._hello_until_heard(link):
                await self.sessions.give_up(link, "no hello in time")
        elif not await link.wait(2 * self._allowed(link)):
            await self.sessions.give_up(link, "no hello")

    def _allowed(self, link: PeerConnection) -> float:
        return self.options.hello_seconds * self.sessions.stretch.of(link.peer)

    async def _hello_until_heard(self, link: PeerConnection) -> bool:
        with patience(self._allowed(link)):
            while not link.over:
                try:
                    await self.hello(link)
                except BrokenStreamError:  # the muxer may not be ready yet
                    await trio.sleep(0.2)
                else:
                    return True
        return link.over

    async def hello(self, link: PeerConnection) -> None:
        """One exchange, as the one who asks; also to be admitted again.

        Raises BrokenStreamError: it did not take place.
        """
        mine = await self._mine()
        stream = await self._open(link)
        try:
            async with closing(stream):
                wire = Wire(stream, self.options.hello_seconds)
                await wire.send(mine.dumps())
                verdict = await wire.exactly(1)
                if verdict != WELCOME:
                    self.sessions.refuse(link, "the other end refused us", ours=False)
                    return
                theirs = Hello.loads(await wire.block(MAX_BYTES))
            if why := await self._judge(link, theirs):
                self.sessions.refuse(link, why)
            else:
                self.sessions.admit(link, theirs.nonce)
        except BadBytesError as error:
            self.sessions.bad(link, str(error), f"malformed: {PROTOCOL}", error.reason)

    async def _open(self, link: PeerConnection) -> INetStream:
        """A stream over this connection and no other, which ``host.new_stream`` cannot promise."""
        host: Any = self.sessions.host
        conn: INetConn | None = link.conn
        if conn is None:
            what = "not connected"
            raise BrokenStreamError(what)
        stream: INetStream | None = None
        try:
            with trio.fail_after(self.options.hello_seconds):
                stream = await whole(conn.new_stream)
                client = host.multiselect_client
                communicator = MultiselectCommunicator(stream)
                limit = max(1, int(self.options.hello_seconds))
                await client.select_one_of([PROTOCOL], communicator, limit)
        except BaseException as error:
            if stream is not None:
                await reset(stream)
            if not isinstance(error, Exception):
                raise
            what = f"{type(error).__name__}: {error}"
            raise BrokenStreamError(what) from error
        return stream

    async def _answer(self, stream: INetStream) -> None:
        try:
            link = self.sessions.link(stream.muxed_conn)
            if not self._hellos.of(link.peer).take():
                self.sessions.bad(link, TOO_OFTEN, TOO_OFTEN, LinkReason.OVERRAN)
                await reset(stream)
                return
            wire = Wire(stream, self.options.hello_seconds)
            try:
                async with closing(stream):
                    theirs = Hello.loads(await wire.block(MAX_BYTES))
                    if why := await self._judge(link, theirs):
                        # Before the other end knows: it hangs up, and that is no reason.
                        self.sessions.refuse(link, why, linger=LINGER_SECONDS)
                        await wire.write(REFUSED)
                        return
                    await wire.send((await self._mine()).dumps(), before=WELCOME)
                    self.sessions.admit(link, theirs.nonce)
            except BadBytesError as error:
                self.sessions.bad(link, str(error), f"malformed: {PROTOCOL}", error.reason)
            except BrokenStreamError:
                pass
        except Exception:  # noqa: BLE001 - one stream must not end the others
            _LOG.exception("answering a hello")

    async def _mine(self) -> Hello:
        try:
            shown = await self.caller.ask(self.credential, self.options.hello_seconds)
        except Exception as error:
            what = f"no credential to show: {type(error).__name__}: {error}"
            raise BrokenStreamError(what) from error
        return Hello(self.swarm, self.nonce, shown)

    async def _judge(self, link: PeerConnection, theirs: Hello) -> str:
        """Reason not to admit, or nothing."""
        if theirs.swarm != self.swarm:
            return "of another swarm"
        self._shown[link.node] = theirs.credential
        try:
            verdict = await self.caller.ask(
                lambda: self.admission(link.node, theirs.credential), self.options.hello_seconds
            )
        except TimeoutError as error:  # the node computes; that is nobody's fault
            raise SilentPeerError from error
        except Exception as error:  # noqa: BLE001 - whoever cannot be judged is not admitted
            return f"admission failed: {type(error).__name__}: {error}"
        return "" if verdict.accepted else verdict.reason or "not admitted"
