"""Other nodes' progress: how far they are, who lags, and how one that lags catches up.

A node that lags is given links: of each height that changed the members, and the last one. With
them it knows the head of now and the digest of its model, and fetches the model by that digest from
anybody. The same way leads a newcomer from the first members to the present ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import RoundError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId, Vector, model_digest
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import ENVELOPE_OVERHEAD, Envelope
from qres_core.swarm.context.effects import Diverged
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import Answers
from qres_core.swarm.ledger.chain import (
    MAX_LINKS,
    Authentic,
    Link,
    NodeHistory,
    decode_links,
    encode_links,
    follow,
)
from qres_core.swarm.ledger.messages import (
    FETCH_MODEL,
    HOLDING,
    LINKS,
    MODEL,
    SYNC,
    decode_fetch_model,
    decode_model,
    decode_sync,
    encode_holding,
    encode_model,
    encode_sync,
)
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.members.other_history import Apart

OTHER_MEMBERS: Final = (
    "the history begins with other members than this node knows; swarm.roster of a new node is "
    "that of the first members, without the node"
)
"""What the log says of links that this node cannot follow."""
_LIST_BYTES: Final = 9
"""Most bytes of the head of an encoded list."""


@attrs.frozen(eq=False)
class Ahead:
    """Way of the swarm without this node, as is proven."""

    links: tuple[Link, ...]  # those that changed the members since, and the last
    told_by: NodeId

    @property
    def last(self) -> Link:
        """The last of them."""
        return self.links[-1]


def longest_ago(peers: Iterable[NodeId], asked: Mapping[NodeId, float]) -> NodeId:
    """Peer that was asked longest ago, or never."""
    return min(peers, key=lambda peer: (asked.get(peer, -math.inf), peer))


class CatchingUp:
    """A node's signs of being behind others, and its help for those behind it."""

    def __init__(self, speaker: Speaker, history: NodeHistory) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._outlet = speaker, speaker.outlet
        self._history = history  # the machine moves it on
        self.pending: Ahead | None = None  # proven, and its model is not here
        self.held: dict[bytes, Vector] = {}  # models by digest that may be needed at this height
        self.diverged = False
        self._ahead: dict[NodeId, float] = {}  # peers with an unknown head, and since when
        self._helped: dict[NodeId, tuple[float, int]] = {}  # when, and up to which epoch
        self._asked: dict[NodeId, float] = {}
        self._fetching: dict[bytes, dict[NodeId, float]] = {}  # who was asked for a model, and when
        self._answers = Answers(self._patience)
        self._liars: set[NodeId] = set()
        # who showed this node links to a head of which it is no member, and to none of which it is
        self.told_removed_by: set[NodeId] = set()
        self.apart = Apart(speaker)
        self._looked = -math.inf
        self._moved = -math.inf
        self._doubts_until = -math.inf

    @property
    def _patience(self) -> float:
        return self._context.swarm.vote_timeout / 2

    def moved_on(self, now: float) -> None:
        """This node is at another head; what it needed at the last one is void."""
        self.pending = None
        self.held = {}
        self._ahead = {}
        self._fetching = {}
        self._liars = set()
        self.apart.moved_on()
        if self._context.is_member:
            self.told_removed_by = set()
        self._answers = Answers(self._patience)
        self._moved = now

    def saw_other_head(self, peer: NodeId, now: float) -> None:
        """A peer speaks of a head that is unknown here: it may be ahead, or lying."""
        self._ahead.setdefault(peer, now)

    def doubt(self, now: float, until: float) -> None:
        """Ask the members of now for a while, one after the other, whether they are further."""
        self._looked, self._doubts_until = now, until

    def due(self) -> float:
        """Time of a possible reason to call :meth:`ask_if_behind`, seconds; never, without one."""
        doubts = self._looked + self._patience <= self._doubts_until
        if not self._ahead and self.pending is None and not doubts:
            return math.inf
        since = min(self._ahead.values(), default=-math.inf)
        return max(since, self._looked) + self._patience

    def ask_if_behind(self, now: float, wanted: bytes | None) -> None:
        """Others have a head this node does not: ask one of them, if it lasts.

        ``wanted``: digest of a model that this node needs at its own height.
        """
        if now < self._looked + self._patience:
            return
        pending = self.pending
        model = wanted if pending is None else pending.last.next.model
        ahead = {peer for peer, since in self._ahead.items() if now >= since + self._patience}
        peers = set(ahead)
        doubts = now <= self._doubts_until
        if model is not None or doubts:
            peers.update(self._holders())
        peers.discard(self._context.node_id)
        if not peers:
            return
        self._looked = now
        # Each in turn: the first to speak of an unknown head may be a liar.
        peer = longest_ago(peers, self._asked)
        if now < self._asked.get(peer, -math.inf) + self._context.swarm.vote_timeout:
            return
        self._asked[peer] = now
        if model is not None and not self._comes(model, now):
            # In turns of their own: else a pause could fall on a liar's turn each time.
            self.fetch_model(model, longest_ago(peers, self._fetching.get(model, {})), now)
        if pending is not None or model is None or doubts or peer in ahead:
            self._speaker.send(peer, self._speaker.make(SYNC, self._where(), now))

    def _holders(self) -> tuple[NodeId, ...]:
        """Peers that may hold the model that is needed, of those that this node can reach."""
        here = self._context.roster
        if self.pending is None:
            return here
        after = self.pending.last.next.roster
        return tuple(peer for peer in here if peer in after) or after.members

    def _where(self) -> bytes:
        head = self._context.head if self.pending is None else self.pending.last.next
        return encode_sync(self._context.head.height, head.roster.epoch)

    def fetch_model(self, model: bytes, holder: NodeId, now: float) -> None:
        """Ask a node for a model by its digest."""
        self._fetching.setdefault(model, {})[holder] = now
        self._speaker.send(holder, self._speaker.make(FETCH_MODEL, canonical.dumps(model), now))

    def _comes(self, model: bytes, now: float) -> bool:
        """True if a model seems to be on its way, not for too long: a second one would delay it."""
        asked, arriving = self._fetching.get(model, {}), self._context.arriving()
        patience = self._context.waits.patience(self._context.swarm.vote_timeout)
        return any(now < at + patience for peer, at in asked.items() if peer in arriving)

    def take_links(self, envelope: Envelope, now: float) -> Ahead | None:
        """News for this node that links prove.

        Raises WireError: QRES-E401 to QRES-E406.
        """
        sender, head = envelope.sender, self._context.head
        if sender in self._liars:
            return None
        links = decode_links(envelope.payload)
        known = self.pending.links if self.pending is not None else ()
        roster = known[-1].next.roster if known else head.roster
        if links[0].head.roster.digest == head.roster.digest:
            known, roster = (), head.roster
        if links[-1].head.height + 1 <= self._proven_height:
            self._compare(links[-1], envelope, now)
            return None
        if any(
            (link.head.swarm, link.head.settings) != (head.swarm, head.settings) for link in links
        ):
            return None  # of another history; who tells of it says what differs
        # An answer may be late: this node knows some changes by now that it still tells of. Only
        # the first ones are left out: how far the last one leads was looked at above.
        since = roster.epoch
        links = tuple(dropwhile(lambda link: link.head.roster.epoch < since, links)) or links
        if links[0].head.roster.digest != roster.digest:  # the members it was told of may be wrong
            self._outlet.refuse(envelope, Fault.UNPROVEN_LINK, Blame.NOBODY, detail=OTHER_MEMBERS)
            return None
        proven = follow(roster, links, self._authentic(now))
        if not proven:
            self._unproven(envelope)
            return None
        kept = (link for link in known if link.changes_members)
        self.pending = Ahead((*kept, *proven), sender)
        if self._context.node_id in self.pending.last.next.roster:
            self.told_removed_by = set()
        else:
            self.told_removed_by.add(sender)
        return self.pending

    @property
    def _proven_height(self) -> int:
        """Height of the swarm, for all that is proven here. What tells of less is no news."""
        height = self._context.head.height
        return height if self.pending is None else max(height, self.pending.last.next.height)

    def _unproven(self, envelope: Envelope) -> None:
        """Each check costs a signature for each vote: who lied is not listened to at this head."""
        self._liars.add(envelope.sender)
        self._outlet.refuse(envelope, Fault.UNPROVEN_LINK, Blame.SENDER)

    def _authentic(self, now: float) -> Authentic:
        return lambda vote, members: self._context.kernel.authentic(vote, now, members)

    def _compare(self, link: Link, envelope: Envelope, now: float) -> None:
        """Compare a link with the proven ones: if one contradicts, more than ``f`` nodes lie."""
        told: tuple[Link, ...] = () if self.pending is None else self.pending.links
        known = {item.head.digest: item for item in told} | self._history.recent
        own = known.get(link.head.digest)
        if own is None:
            return
        if own.decision == link.decision:
            here = (told[-1].next if told else self._context.head).roster
            if self._context.node_id not in here and self._context.node_id not in own.next.roster:
                self.told_removed_by.add(envelope.sender)
        elif link.holds(self._authentic(now)):
            self.diverge(link, "this node and others have proof of different decisions")
        else:
            self._unproven(envelope)

    def diverge(self, link: Link, what: str) -> None:
        """The node must stop."""
        fix = "compare software and plugin versions, then restart from another node's model"
        error = RoundError.of("QRES-E601", f"height {link.head.height}", what, fix)
        models = (self._context.head.model,) if self._history.recent.get(link.head.digest) else ()
        self._outlet.put(Diverged(error, frozenset(models)))
        self.diverged = True

    def take_model(self, envelope: Envelope, wanted: bytes | None) -> bool:
        """Keep a model that was asked for; whether it is one.

        Raises WireError: QRES-E404.
        """
        steps = dict[bytes, int]()
        if self.pending is not None:
            steps[self.pending.last.next.model] = self.pending.last.next.step
        if wanted is not None:
            steps[wanted] = self._context.head.step + 1
        if all(model in self.held for model in steps):
            return False
        vector = decode_model(envelope.payload, int(self._position.model.size))
        for model, step in steps.items():
            if model_digest(vector, step) == model:
                self.held[model] = vector
                return True
        return False

    # ── helping ───────────────────────────────────────────────────────────────────────────────

    def help_if_past(self, envelope: Envelope, now: float) -> bool:
        """True if a message is about a head that this node left; its sender is then helped.

        Not at once after the node left it: its sender may just not have heard yet.
        """
        if envelope.head not in self._history.recent:
            return False
        if now >= self._moved + self._patience:
            self._help(envelope.sender, self._history.recent[envelope.head].head.roster.epoch, now)
        return True

    def say_where(self, now: float) -> None:
        """Tell all in which round this node is. It holds nothing of that, so nobody answers."""
        self._speaker.broadcast(HOLDING, encode_holding(()), now)

    def answer_sync(self, envelope: Envelope, now: float) -> None:
        """Give a node that asks what it missed. Raises WireError: QRES-E401 to QRES-E404."""
        height, epoch = decode_sync(envelope.payload)
        if height < self._context.head.height:
            self._help(envelope.sender, epoch, now)
        elif envelope.head not in (self._context.head.digest, *self._history.recent):
            self.apart.say_head(envelope.sender, now)

    def _help(self, peer: NodeId, epoch: int, now: float) -> None:
        last = self._history.last
        since, reached = self._helped.get(peer, (-math.inf, 0))
        soon = now < since + self._context.swarm.vote_timeout
        # Who was given a part of the links may ask for the next one at once, and for no other.
        if last is None or (soon and not reached <= epoch < self._context.head.roster.epoch):
            return
        links = [link for link in self._history.links[:-1] if link.head.roster.epoch >= epoch]
        told = self._tell(peer, [*links, last], now)
        self._helped[peer] = now, told.next.roster.epoch

    def _tell(self, peer: NodeId, links: Sequence[Link], now: float) -> Link:
        """Give a node the first of some links; the last that it is given."""
        told = self._first_of(links)
        self._speaker.send(peer, self._speaker.make(LINKS, encode_links(told), now))
        return told[-1]

    def _first_of(self, links: Sequence[Link]) -> Sequence[Link]:
        """As many as one message holds, one at least; who is given them asks for the rest."""
        room = self._context.swarm.max_message_bytes - ENVELOPE_OVERHEAD - _LIST_BYTES
        for place, link in enumerate(links[:MAX_LINKS]):
            room -= len(link.to_bytes())
            if room < 0:
                return links[: max(place, 1)]
        return links[:MAX_LINKS]

    def tell_removed(self, before: Roster, now: float) -> None:
        """Tell those that are no members any more how it came: nobody hears them from now on."""
        last, after = self._history.last, self._context.head.roster
        if last is None:
            return
        earlier = self._history.links[:-1]
        links = [link for link in earlier if link.head.roster.epoch >= before.epoch]
        for peer in sorted({*before.members}.difference(after.members, [self._context.node_id])):
            self._tell(peer, [*links, last], now)

    def answer_model(
        self, envelope: Envelope, now: float, found: Callable[[bytes], Vector | None]
    ) -> None:
        """Send a peer the model that it asks for; ``found``: those of this node, by digest.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        model = decode_fetch_model(envelope.payload)
        vector, peer = found(model), envelope.sender
        if vector is None:
            self.help_if_past(envelope, now)
        elif self._answers.due((peer, model), now):
            answer = self._speaker.make(MODEL, encode_model(vector), now, head=envelope.head)
            self._speaker.send(peer, answer)
