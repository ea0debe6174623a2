"""Other nodes' progress: how far they are, who lags, and how one that lags catches up."""

from __future__ import annotations

import math
from typing import Final

from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.collecting import Collector
from qres_core.swarm.journal import JournalEntry
from qres_core.swarm.messages import (
    ATTESTATION,
    CERTIFICATE,
    CONTRIBUTION,
    DIALOGUE,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    SNAPSHOT,
    SYNC,
    Certificate,
    Handover,
    Snapshot,
    decode_sync,
    encode_sync,
)
from qres_core.swarm.outbox import Speaker
from qres_core.swarm.vouching import Vouchers

PAST_MODELS: Final = 64
"""Past models for which the certificate is kept, to help nodes that lag."""


class CatchingUp:
    """A node's past, which helps others, and its signs of being behind them."""

    def __init__(self, speaker: Speaker, vouchers: Vouchers, collector: Collector) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._vouchers, self._collector = speaker, vouchers, collector
        self.past: dict[bytes, tuple[int, bytes]] = {}  # by model: round and bytes of what ended it
        self.ahead: dict[NodeId, float] = {}  # peers with a model unknown here, and since when
        self._helped: dict[NodeId, tuple[float, bytes]] = {}
        self._asked: dict[NodeId, float] = {}
        self._looked = -math.inf
        self._left_behind = math.inf  # since when others have merged what this node could not

    # ── the past ──────────────────────────────────────────────────────────────────────────────

    def remember(self, parent: bytes, certificate: Certificate) -> None:
        """Keep what led on from a model, for the last :data:`PAST_MODELS` of them."""
        self.past[parent] = (certificate.round, certificate.to_bytes())
        while len(self.past) > PAST_MODELS:
            oldest = next(iter(self.past))
            del self.past[oldest]
            self._vouchers.forget(oldest)

    def restore(self, record: JournalEntry) -> bytes:
        """Take back from the journal what made the node's model; the digest of the one before.

        Raises RoundError: QRES-E602 for a record that cannot be read.
        """
        try:
            kept = Handover.from_bytes(record.head, len(self._context.roster))
            self._collector.restore_past(kept.parent, record.messages)
        except WireError as error:
            what = "the record of the model's contributions cannot be read"
            raise RoundError.of("QRES-E602", "journal.handover", what) from error
        self.remember(kept.parent, kept.certificate)
        self._vouchers.made(kept.parent, self._position.model_digest)
        return kept.parent

    # ── behind ────────────────────────────────────────────────────────────────────────────────

    def saw_other_model(self, peer: NodeId, now: float) -> None:
        """A peer speaks of a model that is unknown here: it may be ahead, or lying."""
        self.ahead.setdefault(peer, now)

    def moved_on(self) -> None:
        """This node has a new model: whoever was ahead may be no more."""
        self.ahead = {}
        self._left_behind = math.inf

    @property
    def _patience(self) -> float:
        return self._context.swarm.vote_timeout / 2

    def due(self) -> float:
        """When :meth:`ask_if_behind` may have a reason to ask, seconds; never, without one."""
        if not self.ahead:
            return math.inf
        return max(min(self.ahead.values()), self._looked) + self._patience

    def ask_if_behind(self, now: float, *, decided: bool) -> None:
        """Others have a model this node does not: ask one of them, if it lasts.

        Args:
            now: this node's clock, seconds.
            decided: whether the node has the set that leads on from its model, and waits for its
                dialogues to finish. Others may be a moment faster; if they stay so, a dialogue will
                not finish any more: those it needs have closed the round.
        """
        if now < self._looked + self._patience:
            return
        vouchers = self._vouchers.proving(self._position.model_digest)
        peers = {voucher.sender for voucher in vouchers}
        if decided:
            self._left_behind = min(self._left_behind, now) if peers else math.inf
            if now < self._left_behind + self._patience:
                return
        else:
            peers.update(
                item for item, since in self.ahead.items() if now >= since + self._patience
            )
        peers.discard(self._context.node_id)
        if not peers:
            return
        self._looked = now
        # Each in turn: the first to speak of an unknown model may be a liar.
        peer = min(peers, key=lambda peer: (self._asked.get(peer, -math.inf), peer))
        if now >= self._asked.get(peer, -math.inf) + self._context.swarm.vote_timeout:
            self._asked[peer] = now
            self._speaker.send(peer, self._speaker.make(SYNC, encode_sync(decided=decided), now))

    # ── helping ───────────────────────────────────────────────────────────────────────────────

    def help_if_past(self, envelope: Envelope, now: float) -> bool:
        """Whether a message is about a model that this node left; its sender is then helped.

        Unless it is of a round before the model was left: its sender may just not have heard yet.
        """
        past = self.past.get(envelope.head)
        if past is None:
            return False
        if envelope.round > past[0]:  # it went on without what was decided
            self.help(envelope, now)
        return True

    def help(self, envelope: Envelope, now: float) -> None:
        """Give a node that lags the certificate it missed, or a snapshot.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        decided = envelope.kind == SYNC and decode_sync(envelope.payload)
        peer, parent = envelope.sender, envelope.head
        position = self._position
        helped, certified = self._helped.get(peer, (-math.inf, b""))
        if parent == position.model_digest or now - helped < self._context.swarm.vote_timeout:
            return
        vouchers = self._vouchers.proving(position.parent)
        certify = parent in self.past and self._collector.has_past(parent)
        if vouchers and (decided or not certify or certified == parent):
            # Also where the certificate was no help: a dialogue of that round is over.
            self._helped[peer] = (now, b"")
            parent, kind = position.parent, SNAPSHOT
            payload = Snapshot(position.step, position.model, vouchers).to_bytes()
        elif certify:
            self._helped[peer] = (now, parent)
            kind, payload = CERTIFICATE, self.past[parent][1]
        else:
            return
        self._speaker.send(peer, self._speaker.make(kind, payload, now, model=parent))


MAX_EARLY: Final = 8
"""Messages of a sender that are kept because they are of a round this node has not reached."""
_OF_A_ROUND: Final = frozenset({CONTRIBUTION, ATTESTATION, PROPOSAL, PREVOTE, PRECOMMIT})
"""What only a node says that has begun the round; it asks and answers before, too."""


class Pace:
    """The rounds of the other nodes."""

    def __init__(self) -> None:
        self._highest: dict[NodeId, tuple[int, bytes]] = {}  # round, and the model it is about
        self._ahead: dict[bytes, list[int]] = {}  # of those that hold a model, descending; a cache
        self._begun: dict[NodeId, tuple[int, bytes]] = {}
        self.early: dict[NodeId, list[Envelope]] = {}

    def heard(self, envelope: Envelope) -> None:
        """Note which round its sender has reached, and from which model."""
        if envelope.round > self._highest.get(envelope.sender, (0, b""))[0]:
            self._highest[envelope.sender] = envelope.round, envelope.head
            self._ahead.clear()
        if envelope.kind in _OF_A_ROUND or envelope.kind.startswith(DIALOGUE):
            said = envelope.round, envelope.head
            if said[0] > self._begun.get(envelope.sender, (0, b""))[0]:
                self._begun[envelope.sender] = said

    def begun(self, number: int, model: bytes) -> int:
        """How many others have begun a round, or one past it, from this model."""
        return sum(
            1 for highest, held in self._begun.values() if highest >= number and held == model
        )

    def others_in(self, number: int) -> int:
        """How many others are known to be in a round or past it, with whatever model."""
        return sum(1 for highest, _model in self._highest.values() if highest >= number)

    def reached_by_more_than(self, few: int, model: bytes) -> int:
        """The highest round that more than so many others have reached; 0 if there is none.

        Only of those that hold this model: nodes that went on to another one are not overtaken by
        going on to their round, but by taking their model.
        """
        if model not in self._ahead:
            rounds = (highest for highest, held in self._highest.values() if held == model)
            self._ahead = {model: sorted(rounds, reverse=True)}
        ahead = self._ahead[model]
        return ahead[few] if len(ahead) > few else 0

    def keep(self, envelope: Envelope, dimension: int) -> None:
        """Keep a message until a round opens.

        Bounded in number and size: a sender far ahead cannot make this node hold more than a few
        updates of ``dimension`` coordinates.
        """
        kept = self.early.setdefault(envelope.sender, [])
        if len(kept) < MAX_EARLY and len(envelope.payload) <= 8 * dimension + 2**20:
            kept.append(envelope)

    def take(self) -> list[Envelope]:
        """The messages kept, in their order for each sender; none is left."""
        early, self.early = self.early, {}
        return [envelope for messages in early.values() for envelope in messages]
