"""Links to all members, over whatever hubs there are; all of it runs in the transport's thread.

What one node seals for another begins with a byte that says what it is:

==========  ===========================================================================
credential  16 bytes to repeat, and what the sender's plugins show
verdict     the 16 bytes of the other, and whether it is admitted
bye         the sender leaves; and why
ping, pong  whether the other is there
frame       see ``frames.py``; as receipts
ask, answer see ``exchanges.py``
==========  ===========================================================================
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from qres_carrier import Tally

from qres_core import NODE_ID_BYTES, NodeId, NodeInfo
from qres_core.transport import LinkKeys, LinkReason, PeerChange, PeerInfo, TransportEvent
from qres_transport_grpc.admission import Gatekeeper
from qres_transport_grpc.lines import HubLines
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import NONCE_BYTES, Acquaintance, Candidate
from qres_transport_grpc.seal import GREETS, NAME_BYTES, SEALED, SealedSession, StartKey
from qres_transport_grpc.turns import Turns
from qres_transport_grpc.uplink import Uplink
from qres_transport_grpc.wire import SESSION_BYTES, BadMessageError, Greeting, HubPlace

CREDENTIAL, VERDICT, BYE, PING, PONG, FRAME, RECEIPT, ASK, ANSWER = range(1, 10)
CREDENTIAL_BYTES: Final = 8192
BYE_BYTES: Final = 64
NOT_ADMITTED: Final = b"not admitted"
SILENCES: Final = 3
DOUBLINGS: Final = 4
TICK_SECONDS: Final = 0.1
FAREWELL_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 0.2
"""A credential is not shown again within this time: greetings come over several hubs at once."""
_WAY: Final = "over a hub"


class GrpcNetwork:
    """Keeps links to all members.

    Args:
        info: who this node is, and the roster.
        keys: to prove that, and to know the others by.
        options: limits.
        gate: what this node shows and whom it admits.
        tally: counts.
        tell: takes events.
    """

    def __init__(
        self,
        info: NodeInfo,
        keys: LinkKeys,
        options: GrpcOptions,
        gate: Gatekeeper,
        tally: Tally,
        tell: Callable[[TransportEvent], object],
    ) -> None:
        self._info, self._keys, self._options = info, keys, options
        self._gate, self._tell = gate, tell
        self.tally = tally
        self._takers: dict[int, Callable[[Acquaintance, bytes], None]] = {}
        self._losers: list[Callable[[NodeId], None]] = []
        self.peers: dict[NodeId, Acquaintance] = {}
        self._parted: dict[NodeId, Acquaintance] = {}
        self.infos: tuple[PeerInfo, ...] = ()
        self._turns = Turns(self._idles, self._send_turn)
        self.lines = HubLines(info, keys, options, self._take, self._tell_of_hub, self._turns.go_on)
        self._key = StartKey()
        session = secrets.token_bytes(SESSION_BYTES)
        self._mine = Greeting(info.swarm, info.node_id, session, self._key.public, b"")
        self._greetings: dict[bytes, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._members: frozenset[NodeId] = frozenset()

    # ── the whole ─────────────────────────────────────────────────────────────────────────────

    async def begin(self, roster: Iterable[NodeId], hubs: Sequence[str]) -> None:
        """Dial the hubs and look for the members."""
        self._loop = asyncio.get_running_loop()
        self.follow(roster)
        self.lines.aim(hubs)
        self.spawn(self._keep())

    def serve(
        self,
        takers: Mapping[int, Callable[[Acquaintance, bytes], None]],
        lost: Callable[[NodeId], None],
    ) -> None:
        """Name what takes messages of some kinds, and is told of links that are over."""
        self._takers.update(takers)
        self._losers.append(lost)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for as long as the transport runs."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def follow(self, roster: Iterable[NodeId]) -> None:
        """The members are these from now on."""
        self._members = frozenset(roster)
        for node in self._members - self.peers.keys() - {self._info.node_id}:
            back = node in self._parted
            self.peers[node] = (
                self._parted.pop(node) if back else Acquaintance(node, self._loop.time)
            )
        for node in self.peers.keys() - self._members:
            # Frames that say why may still be on their way.
            self._loop.call_later(FAREWELL_SECONDS, self._part, node)

    def _part(self, node: NodeId) -> None:
        peer = self.peers.get(node)
        if peer is not None and node not in self._members:
            self.say(peer, BYE, b"no member")
            self._down(peer, LinkReason.NO_MEMBER, "")
            # Should it come back, its session knows what has come already.
            self._parted[node] = self.peers.pop(node)

    async def end(self) -> None:
        """Say goodbye and close everything."""
        for peer in self.peers.values():
            self.say(peer, BYE, b"closed")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lines.end()
        for peer in self.peers.values():
            self._down(peer, LinkReason.CLOSED_HERE, "closed")

    async def _keep(self) -> None:
        """Greet who is missed, and ask the silent whether they are there."""
        while True:
            now = self._loop.time()
            for peer in list(self.peers.values()):
                self._tend(peer, now)
            await asyncio.sleep(min(TICK_SECONDS, self._options.reconnect_seconds))

    def _tend(self, peer: Acquaintance, now: float) -> None:
        link, options = peer.link, self._options
        if peer.up and link is not None:
            silent, unproved = now - link.heard, now - link.proof
            if silent > SILENCES * options.ping_seconds:
                self._down(peer, LinkReason.TIMED_OUT, "it is silent")
            elif unproved > SILENCES * options.readmit_seconds + options.hello_seconds:
                # A hub may deliver for hours what it kept of a node that is gone.
                self._down(peer, LinkReason.TIMED_OUT, "it repeats nothing any more")
            elif silent > options.ping_seconds and now - link.pinged > options.ping_seconds:
                link.pinged = now
                self._say(peer, link, PING)
            elif unproved > options.readmit_seconds and now - peer.shown > min(
                options.readmit_seconds, options.ping_seconds
            ):
                peer.shown = now
                self.spawn(self._show(peer, link))
            elif now - link.judged > options.readmit_seconds:  # it may never show itself again
                self.spawn(self._judge(peer, link, b"", link.credential))
        elif now >= peer.next_greeting:
            if any(now - item.heard < options.ping_seconds for item in peer.all()):
                peer.failures = 0  # it is there, and something was lost on the way
            pause = options.reconnect_seconds * 2 ** min(peer.failures, DOUBLINGS)
            peer.next_greeting, peer.failures = now + pause, peer.failures + 1
            self._greet(peer, peer.session)
            for candidate in peer.all():
                self.spawn(self._show(peer, candidate))

    def _tell_of_hub(self, place: HubPlace, reason: LinkReason | None, why: str) -> None:
        if reason is not None:
            detail = f"hub {place.address}: {why}"
            self._tell(TransportEvent(PeerChange.FAILED, None, detail, reason))
            return
        for peer in self.peers.values():  # a new way to all of them
            peer.failures, peer.next_greeting = 0, 0.0
        self._turns.go_on()

    def _take(self, uplink: Uplink, message: bytes) -> None:
        """Handle what a hub passed on."""
        peer = self.peers.get(message[:NODE_ID_BYTES])
        kind = message[NODE_ID_BYTES : NODE_ID_BYTES + 1]
        try:
            if peer is not None and kind == GREETS:
                self._greeted(peer, uplink, message[NODE_ID_BYTES + 1 :])
                return
            if peer is not None and kind == SEALED:
                self._sealed(peer, uplink, message[NODE_ID_BYTES:])
                return
        except BadMessageError:
            pass
        # The hub said who it is from, so that member is not to blame; a member may have sent it, so
        # the hub is not either. A hub that were hung up on for it could be taken from everybody.
        self.tally.spoilt("not sealed by a member")

    # ── sessions ──────────────────────────────────────────────────────────────────────────────

    def _greet(self, peer: Acquaintance, quoted: bytes) -> None:
        if quoted not in self._greetings:
            if len(self._greetings) > 4 * len(self.peers) + 16:
                self._greetings.clear()
            mine = attrs.evolve(self._mine, quoted=quoted)
            signed = attrs.evolve(mine, signature=self._keys.sign(mine.statement()))
            self._greetings[quoted] = signed.dumps()
        self.lines.pass_on(peer, GREETS + self._greetings[quoted])

    def _greeted(self, peer: Acquaintance, uplink: Uplink, data: bytes) -> None:
        if not peer.budget(uplink.place.digest).greetings.take():
            self.tally.drop("greetings: too fast")
            return
        theirs = Greeting.loads(data)
        try:
            key = Ed25519PublicKey.from_public_bytes(self._keys.key_of(peer.node))
            key.verify(theirs.signature, theirs.statement())
        except (InvalidSignature, KeyError, ValueError) as error:
            what = "a greeting that the member did not sign"
            raise BadMessageError(what) from error
        if theirs.node != peer.node:
            what = "another's greeting"
            raise BadMessageError(what)
        if theirs.swarm != self._info.swarm:
            self.tally.refuse("another swarm")
            return
        if theirs.quoted != self._mine.session:
            # Perhaps it does not know of this node's start; perhaps the hub kept this for years.
            peer.session = theirs.session
            if peer.budget(uplink.place.digest).replies.take():
                self._greet(peer, theirs.session)
            return
        candidate = peer.knows(theirs.session)
        if candidate is None:
            peer.session = theirs.session
            session = SealedSession(self._key, self._mine, theirs)
            candidate = peer.add(session, uplink.place.digest)
            peer.via[uplink] = self._loop.time()
            self._greet(peer, theirs.session)
        else:
            peer.bring(candidate, uplink.place.digest)
        self.spawn(self._show(peer, candidate))  # also where the link is up here: it is not there

    async def _show(self, peer: Acquaintance, candidate: Candidate) -> None:
        """Show this node's credential over a session."""
        now = self._loop.time()
        if candidate.nonce and now - candidate.told < AGAIN_SECONDS:
            return
        candidate.told = now
        shown = await self._gate.shows()
        if shown is None or len(shown) > CREDENTIAL_BYTES:
            return
        if not candidate.nonce or now - candidate.drawn > self._gate.patience:
            candidate.draw(now)
        self._say(peer, candidate, CREDENTIAL, candidate.nonce + shown)

    def _say(
        self,
        peer: Acquaintance,
        candidate: Candidate,
        kind: int,
        data: bytes = b"",
        attempt: int = 0,
    ) -> bool:
        if not peer.holds(candidate):  # forgotten while a plugin was asked
            return False  # one that was made anew has its key, and perhaps its next number
        sealed = candidate.session.seal(bytes([kind]) + data)
        return self.lines.pass_on(peer, sealed, attempt)

    def say(self, peer: Acquaintance, kind: int, data: bytes, attempt: int = 0) -> bool:
        """Seal something for a node that is linked; false where there is no link or no room."""
        return peer.up and peer.link is not None and self._say(peer, peer.link, kind, data, attempt)

    def say_in_turn(
        self,
        peer: Acquaintance,
        kind: int,
        number: bytes,
        make: Callable[[], bytes],
        attempt: int = 0,
    ) -> bool:
        """Seal something large once a line has room for it; false where too much waits.

        What is said again under a number while it waits is said once.
        """
        link = peer.link
        if not peer.up or link is None:
            return False

        def made() -> bytes:
            return bytes([kind]) + make() if peer.up and link is peer.link else b""

        return self._turns.put(peer.node, (kind, number), made, attempt)

    def _idles(self, to: NodeId, attempt: int) -> bool:
        peer = self.peers.get(to)
        return peer is not None and self.lines.idles(peer, attempt)

    def _send_turn(self, to: NodeId, attempt: int, words: bytes) -> None:
        peer = self.peers.get(to)
        if words and peer is not None:
            self.say(peer, words[0], words[1:], attempt)

    def _sealed(self, peer: Acquaintance, uplink: Uplink, message: bytes) -> None:
        candidate = peer.named(message[1 : 1 + NAME_BYTES])
        if candidate is None:
            self.tally.drop("of no session")
            # It may have kept a session that this node lost.
            if peer.budget(uplink.place.digest).replies.take():
                self._greet(peer, peer.session)
            return
        data = candidate.session.open(message)
        if data is None:  # a second copy, from another hub or the same
            return
        now = self._loop.time()
        peer.via[uplink] = candidate.heard = now
        kind, rest = data[0] if data else 0, data[1:]
        if kind == CREDENTIAL and NONCE_BYTES <= len(rest) <= NONCE_BYTES + CREDENTIAL_BYTES:
            if candidate.judgements.take():
                self.spawn(self._judge(peer, candidate, rest[:NONCE_BYTES], rest[NONCE_BYTES:]))
            else:
                self.tally.drop("credentials: too fast")
        elif kind == VERDICT and len(rest) == NONCE_BYTES + 1:
            self._judged(peer, candidate, rest[:NONCE_BYTES], admitted=rest[-1:] == b"\1")
        elif not (peer.up and candidate is peer.link):
            self.tally.drop("before admission")
        elif kind in self._takers:
            self._takers[kind](peer, rest)
        elif kind == PING and not rest:
            self._say(peer, candidate, PONG)
        elif kind == BYE and len(rest) <= BYE_BYTES:
            refused = rest == NOT_ADMITTED
            reason = LinkReason.REFUSED_BY_PEER if refused else LinkReason.CLOSED_BY_PEER
            self._down(peer, reason, "it does not admit this node" if refused else "it left")
        elif kind != PONG:
            self.blame(peer, "what no node sends")

    def blame(self, peer: Acquaintance, what: str) -> None:
        """A node itself broke the protocol: its seal proves that."""
        self.tally.spoilt("malformed: sealed")
        self._tell(TransportEvent(PeerChange.BAD, peer.node, what))
        self._down(peer, LinkReason.BROKE_PROTOCOL, what)

    async def _judge(
        self, peer: Acquaintance, candidate: Candidate, nonce: bytes, shown: bytes
    ) -> None:
        """Ask whether a node is admitted; it drew the nonce, or shows nothing now and drew none."""
        if candidate.judging:
            return
        candidate.judging, candidate.credential = True, shown
        candidate.judged = self._loop.time()
        why = await self._gate.bars(peer.node, shown)
        candidate.judging = False
        if why is None:
            return
        if nonce:
            self._say(peer, candidate, VERDICT, nonce + (b"\0" if why else b"\1"))
        elif why and candidate is peer.link:
            self.say(peer, BYE, NOT_ADMITTED)
        candidate.admitted = not why
        if why:
            self.tally.refuse("not admitted")
            if candidate is peer.link:  # an old session's credential says nothing of this one
                self._down(peer, LinkReason.REFUSED_HELLO, why)
            self._tell(TransportEvent(PeerChange.REFUSED, peer.node, why, LinkReason.REFUSED_HELLO))
        else:
            self._perhaps_up(peer, candidate)

    def _judged(
        self, peer: Acquaintance, candidate: Candidate, nonce: bytes, *, admitted: bool
    ) -> None:
        late = self._loop.time() - candidate.drawn > self._options.hello_seconds
        if not candidate.nonce or nonce != candidate.nonce or late:
            return
        candidate.nonce = b""
        candidate.proved, candidate.proof = admitted, self._loop.time()
        if admitted:
            self._perhaps_up(peer, candidate)
        elif peer.up and candidate is peer.link:
            self._down(peer, LinkReason.REFUSED_BY_PEER, "it does not admit this node any more")

    def _perhaps_up(self, peer: Acquaintance, candidate: Candidate) -> None:
        if not (candidate.proved and candidate.admitted and peer.holds(candidate)):
            return
        if peer.up and candidate is peer.link:
            return
        if peer.promote(candidate) and peer.up:
            self._down(peer, LinkReason.REPLACED, "it began anew")
        peer.up, peer.since, peer.failures = True, time.time(), 0
        peer.session, peer.shown = candidate.session.theirs.session, self._loop.time()
        candidate.heard = self._loop.time()
        self._count()
        self._tell(TransportEvent(PeerChange.UP, peer.node, _WAY))

    def _down(self, peer: Acquaintance, reason: LinkReason, why: str) -> None:
        """The link is over; its session stays, for it knows what has come."""
        if not peer.up:
            return
        peer.up = False
        for candidate in peer.all():  # whoever broke the protocol may be banned by now
            candidate.proved = candidate.admitted = False
        peer.next_greeting = self._loop.time() + self._options.reconnect_seconds
        self._count()
        self._tell(TransportEvent(PeerChange.DOWN, peer.node, why, reason))
        self._turns.drop(peer.node)
        for lost in self._losers:
            lost(peer.node)

    def _count(self) -> None:
        self.infos = tuple(
            PeerInfo(node, _WAY, peer.since) for node, peer in sorted(self.peers.items()) if peer.up
        )
