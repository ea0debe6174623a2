"""Plugins as somebody else would write them; checked by mypy and pyright in strict mode.

Only the public names of ``qres_core`` are imported. Every hook is implemented once, with the types
of its specification, so that a change of the contract that breaks its users shows here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import (
    ACCEPT,
    Accusation,
    Blame,
    Claims,
    Contribution,
    Envelope,
    Evidence,
    Fault,
    Needs,
    NodeId,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Standing,
    Update,
    Updates,
    Vector,
    Verdict,
    Visibility,
    fixed,
    hookimpl,
    reject,
)
from qres_core.claims import Hides, Verifies
from qres_core.dialogues import Dialogue, DialogueMessage, Send
from qres_core.errors import RoundError, TransportError, ValueRefusedError
from qres_core.training import HeldOut, Screening, Trainer
from qres_core.transport import (
    BlobRef,
    Delivery,
    Handler,
    LinkKeys,
    PeerChange,
    PeerInfo,
    Transport,
    TransportEvent,
    TransportLimits,
    TransportStats,
)


@attrs.frozen
class Median:
    """Coordinate-wise median, as short as a rule can be."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Merge by the median of each coordinate."""
        merged: Vector = np.median(updates.vectors, axis=0).astype(np.int32)
        return merged


@attrs.frozen
class KeepHeavy:
    """A wrapper that drops light updates."""

    least: int = 1

    @property
    def claims(self) -> Claims:
        """Single updates, and one of them at least."""
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=1)
        return Claims(tolerates=None, needs=needs)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Pass on the heavy rows."""
        heavy = np.flatnonzero(updates.weights >= self.least)
        if heavy.size == 0:
            raise ValueRefusedError.of(
                "QRES-E505", "keep_heavy", f"round {round_info.number} has no heavy update"
            )
        return proceed(updates.take(heavy))


@attrs.frozen
class NoWorse:
    """Judges by the node's own held-out examples."""

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut) -> Screening:
        """Leave out what doubles the loss, and let the rest count half."""
        limit = 2 * held_out.loss()
        pairs = zip(updates.senders, updates.vectors, strict=True)
        against = tuple(
            Accusation(sender, "harmful")
            for sender, row in pairs
            if held_out.loss_with(row) > limit
        )
        return Screening(against, dict.fromkeys(updates.senders, 2**31))

    @hookimpl
    def endorse(
        self, updates: Updates, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> Verdict:
        """Vote for what does not double the loss."""
        if held_out.loss_with(merged) <= 2 * held_out.loss():
            return ACCEPT
        return reject("worse" if len(updates) and round_info.number else "no-updates")


@attrs.frozen
class Mac:
    """A message authentication code under one key of the whole swarm."""

    key_hex: str

    def _tag(self, envelope: Envelope) -> bytes:
        return hmac.digest(bytes.fromhex(self.key_hex), envelope.signing_digest, "sha256")

    @hookimpl
    def identity(self, seed: bytes | None) -> NodeId:
        """Name the node after its key."""
        return hashlib.sha256(bytes.fromhex(self.key_hex) + (seed or b"")).digest()

    @hookimpl
    def key_index(self, node_id: NodeId) -> int:
        """Every node has its first key."""
        del node_id
        return 0

    @hookimpl
    def link_keys(self) -> LinkKeys:
        """Lend the transport a key."""

        def sign(statement: bytes) -> bytes:
            return hmac.digest(bytes.fromhex(self.key_hex), statement, "sha512")

        return LinkKeys(self.identity(None), sign, lambda node_id: node_id)

    @hookimpl
    def credential(self) -> bytes:
        """Show the hash of the name."""
        return hashlib.sha256(self.identity(None)).digest()

    @hookimpl
    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """Let in whoever shows the hash of its name."""
        if credential == hashlib.sha256(peer).digest():
            return ACCEPT
        return reject("no-credential")

    @hookimpl
    def approve(self, digest: bytes, approval: bytes, now: float) -> Verdict:
        """Accept what the shared key made of the change."""
        tag = hmac.digest(bytes.fromhex(self.key_hex), b"approve" + digest, "sha256")
        return ACCEPT if now >= 0 and tag == approval else reject("not-approved")

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        """Authenticate an outgoing message."""
        return self._tag(envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope, source: NodeId) -> Verdict:
        """Check an incoming message."""
        if len(source) == len(envelope.sender) and hmac.compare_digest(
            self._tag(envelope), envelope.auth.get("mac", b"")
        ):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


@attrs.define
class Increasing:
    """Sequence numbers that only grow."""

    _last: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int], init=False)

    @hookimpl
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        """Refuse what is old."""
        late = envelope.time_ms > now * 1000 + 60_000
        if late or envelope.sequence <= self._last.get(envelope.sender, -1):
            return reject(Fault.REPLAYED, blame=Blame.LINK)
        self._last[envelope.sender] = envelope.sequence
        return ACCEPT


@attrs.define
class ThreeStrikes:
    """A node with three facts against it is banned."""

    _strikes: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int], init=False)

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        """Full standing, or none."""
        return Standing(banned=self._strikes.get(sender, 0) >= 3)

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        """Count what speaks against a node."""
        if evidence.against:
            self._strikes[evidence.subject] = self._strikes.get(evidence.subject, 0) + 1


@attrs.frozen
class Clip:
    """Clips every coordinate before it leaves, and proves by a checksum what left."""

    bound: int

    @property
    def claims(self) -> Claims:
        """It hides nothing, and every node comes to the same verdict."""
        hides = Hides(leaves=Visibility.INDIVIDUAL)
        return Claims(tolerates=None, hides=hides, verifies=Verifies(transferable=True))

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Clip."""
        if update.vector.size != round_info.dimension:
            raise ValueRefusedError.of("QRES-E502", "update", f"{update.vector.size}")
        return attrs.evolve(update, vector=np.clip(update.vector, -self.bound, self.bound))

    @hookimpl
    def revealable(self, contributions: tuple[Contribution, ...]) -> tuple[NodeId, ...]:
        """All together."""
        return tuple(item.sender for item in contributions)

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        """Nothing was hidden."""
        if updates.opened is None:
            return updates
        return attrs.evolve(updates, vectors=updates.opened.astype(np.int32), opened=None)

    @hookimpl
    def reveal_shard(self, updates: Updates, start: int) -> NDArray[np.int64]:
        """Nothing was hidden in a range either."""
        assert start >= 0
        return updates.vectors.astype(np.int64)

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """A checksum bound to the round."""
        return hashlib.sha256(round_info.model_digest + update.vector.tobytes()).digest()

    @hookimpl
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        """Check the checksum."""
        body = round_info.model_digest + contribution.vector.tobytes()
        if contribution.proofs.get("clip") == hashlib.sha256(body).digest():
            return ACCEPT
        return reject("bad-proof", blame=Blame.SENDER)

    @hookimpl
    def verify_shard(self, shard: Vector, start: int) -> Verdict:
        """Nothing is proved about ranges."""
        return ACCEPT if start + shard.size else reject("empty")

    @hookimpl
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> list[Verdict]:
        """Check them one by one."""
        return [self.verify(contribution, round_info) for contribution in contributions]


@attrs.define
class Hello:
    """A dialogue: everybody greets everybody."""

    missing: set[NodeId]
    ready: bool = True

    @property
    def finished(self) -> bool:
        """True when all have greeted."""
        return not self.missing

    def start(self) -> Sequence[Send]:
        """Greet."""
        return [Send(b"hello")]

    def receive(self, message: DialogueMessage) -> Sequence[Send]:
        """Take a greeting, and answer the first of it."""
        if message.sender not in self.missing or message.step != 0:
            return []
        self.missing.discard(message.sender)
        return [Send(b"hello to you", step=1, to=message.sender)]

    def tick(self, now: float) -> Sequence[Send]:
        """Nothing happens with time."""
        return [] if now >= 0 else self.start()

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send]:
        """Wait only for members."""
        if round_info.number and len(contributions) == len(members):
            self.missing.intersection_update(members)
        return []


class Loopback:
    """A transport that hears itself."""

    def __init__(self, link: NodeId) -> None:
        """Nothing was sent yet."""
        self._link = link
        self._frames: list[bytes] = []
        self._blobs: dict[bytes, bytes] = {}
        self._handlers: dict[str, Handler] = {}

    @property
    def limits(self) -> TransportLimits:
        """Small."""
        return TransportLimits(frame=2**10, request=2**10, blob=2**20)

    async def start(self) -> None:
        """Nothing to connect."""

    async def broadcast(self, frame: bytes) -> None:
        """Keep the frame."""
        if len(frame) > self.limits.frame:
            raise TransportError.of("QRES-E901", "loopback", f"{len(frame)} bytes")
        self._frames.append(frame)

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Keep the frame if it is for this node."""
        if to == self._link:
            await self.broadcast(frame)

    async def receive(self) -> Delivery:
        """The oldest frame."""
        if not self._frames:
            raise RoundError.of("QRES-E603", "loopback", "nothing was sent")
        return Delivery(self._link, self._frames.pop(0))

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Answer oneself."""
        if to != self._link or within <= 0:
            raise TransportError.of("QRES-E904", "loopback", to.hex())
        return await self._handlers[protocol](self._link, data)

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer requests of a protocol."""
        self._handlers[protocol] = handler

    async def publish_blob(self, data: bytes) -> BlobRef:
        """Keep the blob."""
        ref = BlobRef.of(data)
        self._blobs[ref.root] = data
        return ref

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """The blob, if it was published."""
        if self._link not in holders or ref.root not in self._blobs:
            raise TransportError.of("QRES-E904", "loopback", f"asked {len(holders)} in {within} s")
        return self._blobs[ref.root]

    def peers(self) -> Sequence[PeerInfo]:
        """Oneself."""
        return (PeerInfo(self._link, "here", 0.0),)

    async def event(self) -> TransportEvent:
        """Oneself is up."""
        return TransportEvent(PeerChange.UP, self._link)

    def stats(self) -> TransportStats:
        """The frames that wait."""
        return TransportStats(frames_sent=len(self._frames))

    async def aclose(self) -> None:
        """Forget the frames."""
        self._frames.clear()


@attrs.define
class Host:
    """Life cycle, a dialogue and the transport."""

    closed: int = attrs.field(default=0, init=False)
    _node: NodeInfo | None = attrs.field(default=None, init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Remember the node."""
        self._node = node_info

    @hookimpl
    def teardown(self) -> None:
        """Forget it."""
        self._node = None

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue | None:
        """Greet where there is somebody to greet."""
        return Hello(set(round_info.roster)) if len(round_info.roster) > 1 else None

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Count the rounds that closed."""
        self.closed += outcome.status is RoundStatus.CLOSED

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """How many rounds closed."""
        return {"closed": self.closed}

    @hookimpl
    def transport(self, node_info: NodeInfo, link_keys: LinkKeys | None) -> Transport:
        """The loopback."""
        del link_keys
        return Loopback(node_info.node_id)


@attrs.frozen(eq=False)
class Mean:
    """A trainer: the mean of local numbers."""

    target: NDArray[np.float64]

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Go half way to the target."""
        here = fixed.decode(vector, scale=round_info.scale)
        encoded = fixed.encode((self.target - here) / 2, scale=round_info.scale)
        return Update(encoded.vector, weight=self.target.size, saturated=encoded.saturated)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Distance to the target."""
        return {"distance": float(np.linalg.norm(fixed.decode(vector) - self.target))}


def protocols(node: NodeId, target: NDArray[np.float64]) -> tuple[Dialogue, Transport, Trainer]:
    """The type checkers hold each of these against its protocol."""
    return Hello({node}), Loopback(node), Mean(target)
