"""Plugins of the simulation: cheap where real ones are dear, and difficult on purpose."""

from __future__ import annotations

import hashlib
import hmac
import random
import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final
from unittest import mock

import attrs

from qres_core import (
    ACCEPT,
    Accusation,
    Blame,
    Claims,
    Contribution,
    Envelope,
    NodeId,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.claims import Verifies, Wraps
from qres_core.dialogues import Dialogue, DialogueMessage, Send
from qres_core.errors import ValueRefusedError
from qres_core.kernel.discovery import Installed, scan
from qres_core.training import HeldOut


def chance(*words: object) -> float:
    """A number of 0..1 that follows from words: the same on every node that knows them."""
    octets = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(octets[:6], "big") / 2**48


@attrs.define
class Tag:
    """Signs as a node would; those who check are trusted with all keys. Far cheaper than curves."""

    _own: NodeId = attrs.field(default=b"", init=False)

    @staticmethod
    def of(node_id: NodeId, envelope: Envelope) -> bytes:
        """What only the node is supposed to make."""
        return hmac.digest(node_id, envelope.signing_digest, "sha256")

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Learn whose key this is."""
        self._own = node_info.node_id

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        """Sign."""
        return self.of(self._own, envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        """Check."""
        if self.of(envelope.sender, envelope) == envelope.auth.get("tag", b""):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


@attrs.define
class Moody:
    """Refuses some sets, breaks over others, and over some on single nodes only.

    ``refuses``, ``breaks``: shares of the sets that no node merges; ``lame``: share of the sets
    that a node does not merge, though others do.
    """

    refuses: float = 0.0
    breaks: float = 0.0
    lame: float = 0.0
    _own: NodeId = attrs.field(default=b"", init=False)

    claims = Claims(tolerates=None, wraps=Wraps(alters=False))

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Learn which node this is."""
        self._own = node_info.node_id

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        """Merge, or do not."""
        rows = updates.vectors.tobytes()
        if chance("refuses", rows) < self.refuses:
            raise ValueRefusedError.of("QRES-E507", "plugins.moody", "the set is refused")
        if chance("breaks", rows) < self.breaks:
            raise ZeroDivisionError("the set is too much")
        if chance("lame", self._own, rows) < self.lame:
            raise ArithmeticError("the set is too much here")
        return proceed(updates)


@attrs.define
class Critic:
    """Votes against some results, each node against others.

    ``against``: share of the results that a node does not endorse.
    """

    against: float = 0.1
    _own: NodeId = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Learn which node this is."""
        self._own = node_info.node_id

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        """Endorse, or do not."""
        del held_out
        if chance("critic", self._own, merged.tobytes()) < self.against:
            return reject("not-liked")
        return ACCEPT


@attrs.frozen
class Examples:
    """A trainer's half that judges, so that plugins that endorse are asked."""

    def validate(self, vector: Vector) -> float:
        """Loss of a model: always the same."""
        del vector
        return 1.0


@attrs.define
class Prover:
    """Proves that a vector is bound to the model, and that it is not too long."""

    name: ClassVar[str] = "prover"
    claims: ClassVar[Claims] = Claims(tolerates=None, verifies=Verifies(transferable=True))

    @staticmethod
    def of(vector: Vector, model: bytes) -> bytes:
        """The proof."""
        return hashlib.sha256(model + vector.tobytes()).digest()

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """Prove."""
        return self.of(update.vector, round_info.model_digest)

    @hookimpl
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        """Check."""
        expected = self.of(contribution.vector, round_info.model_digest)
        if contribution.proofs.get(self.name) == expected:
            return ACCEPT
        return reject("bad-proof", blame=Blame.SENDER)

    @hookimpl
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> list[Verdict]:
        """Check many."""
        return [self.verify(contribution, round_info) for contribution in contributions]


@attrs.define(eq=False)
class Talk:
    """A conversation: everybody opens a share; ``need`` shares finish it, where it finishes."""

    own: NodeId
    need: int
    stuck: bool  # it never finishes here, and opens nothing
    broken: bool  # it raises at what it hears
    heard: set[NodeId] = attrs.field(factory=set)
    opened: set[NodeId] = attrs.field(factory=set)
    agreed: bool = False

    @property
    def ready(self) -> bool:
        """Whether enough said hello."""
        return len(self.heard) + 1 >= self.need

    @property
    def finished(self) -> bool:
        """Whether enough opened."""
        return self.agreed and not self.stuck and len(self.opened) + 1 >= self.need

    def start(self) -> Sequence[Send | Accusation]:
        """Say hello."""
        return [Send(b"hello")]

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """Note who spoke."""
        (self.opened if message.step else self.heard).add(message.sender)
        if self.broken and len(self.heard) == 1:
            raise RuntimeError("lost the thread")
        return ()

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """Nothing depends on the time."""
        del now
        return ()

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send | Accusation]:
        """Open the share."""
        del members, contributions, round_info
        self.agreed = True
        return () if self.stuck else [Send(b"share", step=1)]


@attrs.define
class Chatty:
    """Holds a conversation in every round; on some nodes it does not finish.

    ``stuck``: share of the rounds in which it does not finish on a node; ``broken``: share of those
    in which it raises.
    """

    stuck: float = 0.0
    broken: float = 0.0
    _node: NodeInfo | None = attrs.field(default=None, init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Learn which node this is."""
        self._node = node_info

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue | None:
        """Begin to talk."""
        node = self._node
        if node is None:
            return None
        rolled = chance("chatty", node.node_id, round_info.number, round_info.model_digest)
        need = len(round_info.roster) - round_info.byzantine
        return Talk(
            node.node_id, need, rolled < self.stuck, self.stuck <= rolled < self.stuck + self.broken
        )


_OWN: Final[dict[str, type[Any]]] = {
    "tag": Tag,
    "moody": Moody,
    "critic": Critic,
    "prover": Prover,
    "chatty": Chatty,
}


def installed() -> dict[str, Installed]:
    """The plugins that are installed, and those of the simulation."""
    return {**scan(), **{name: Installed.local(name, kind) for name, kind in _OWN.items()}}


@contextmanager
def drawn_secrets(seed: int) -> Generator[None]:
    """Have secure aggregation draw its secrets from a seed, or no run of it would replay."""
    rng = random.Random(f"secrets {seed}")  # noqa: S311 - a seed decides
    with mock.patch.object(secrets, "randbelow", rng.randrange):
        yield
