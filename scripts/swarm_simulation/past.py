"""What a liar keeps of the past, and what it makes of it for nodes that catch up.

It keeps true links, models and frames, in the order of their heights. Some of its lies are true
links and nothing else: old ones, a part of them, in another order or many times. Others have made
up links among them, with votes that it copied, or with its own vote for a roster that it made up.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
import numpy as np

from qres_core import Envelope, NodeId, Vector, canonical, model_digest
from qres_core.errors import QresError
from qres_core.kernel.settings import SharedSettings
from qres_core.swarm.ledger.chain import Head, Link, beginning, decode_links
from qres_core.swarm.ledger.messages import (
    OUTCOME_PRECOMMIT,
    encode_conclusion,
    encode_model,
    encode_sync,
)
from qres_core.swarm.ledger.results import Merged, Result, Void
from qres_core.swarm.ledger.roster import Roster, RosterChange

KEPT: Final = 48
"""True links, models and frames that are kept; of links those of changes for ever."""
SPOKEN: Final = ("links", "model", "head")
"""Kinds of messages of others that are kept to be said again."""
Make = Callable[[str, bytes, int, bytes], Envelope]
"""Sign a message: its kind, payload, round and head."""


class Past:
    """What a liar keeps of the past."""

    def __init__(self, rng: random.Random, own: NodeId, make: Make) -> None:
        self._rng, self._own, self._make = rng, own, make
        self._links: dict[int, Link] = {}  # by the height of the head
        self._models: dict[int, Vector] = {}  # by step
        # A lie that is known to be one ends what its node is believed: each liar has its own few.
        self._true_ways = rng.choice([[0], [0, 5], [5], rng.sample(range(7), 3), [*range(7)]])
        self._ways = rng.sample(range(6), rng.choice([1, 2, 6]))
        self.frames: deque[tuple[Envelope, bytes]] = deque(maxlen=KEPT)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._links)

    def keep(self, links: tuple[Link, ...], step: int, model: Vector) -> None:
        """What the liar's node has at a new head."""
        for link in links:
            self._links.setdefault(link.head.height, link)
        self._links = dict(sorted(self._links.items()))
        plain = [height for height, link in self._links.items() if not link.changes_members]
        for height in plain[:-KEPT]:
            del self._links[height]
        self._models[step] = model

    def hears(self, envelope: Envelope, frame: bytes) -> None:
        """A message that reached the liar's node, which may hold links that it can believe."""
        if envelope.kind not in SPOKEN:
            return
        self.frames.append((envelope, frame))
        if envelope.kind != "links":
            return
        known = {link.head.digest for link in self._links.values()}
        try:
            found = [link for link in decode_links(envelope.payload) if link.next.digest in known]
        except QresError:
            return
        for link in found:
            self._links.setdefault(link.head.height, link)

    # ── links ─────────────────────────────────────────────────────────────────────────────────

    def true_links(self, height: int) -> list[Link]:
        """True links in an order that misleads a node at a height; none, if none is known."""
        rng, known = self._rng, self._ordered()
        if not known:
            return []
        news = [link for link in known if link.head.height >= height][:2]
        changes = [link for link in known if link.changes_members]
        start, end = sorted(rng.choices(range(len(known) + 1), k=2))
        some = rng.choice(changes or known)
        misleads = (
            news[: rng.choice([1, 1, 1, 2])],  # the least that is news to it
            [rng.choice(known)],
            known[start:end],
            rng.sample(known, rng.randrange(1, len(known) + 1)),
            [some] * rng.choice([1, 2, 9]),
            changes[: rng.randrange(len(changes) + 1)],  # what a node is told that lags, but no end
            [*changes, rng.choice(known)],
        )
        return misleads[rng.choice(self._true_ways)] or known[:1]

    def mixed_links(self, height: int) -> list[Link]:
        """True links with made up ones among them; none, if none is known."""
        rng, links = self._rng, self.true_links(height)
        if not links:
            return []
        way, links = rng.choice(self._ways), links[:16]
        if way == 0:
            place = rng.randrange(len(links))
            links[place] = self._with_junk(links[place])
            return links
        if way == 1:
            return self._behind()
        for _link in range(rng.choice([1, 1, 2])):
            place = rng.choice([0, len(links), len(links), rng.randrange(len(links) + 1)])
            links.insert(place, self._made_up(way, rng.choice(self._ordered())))
        return links

    def _behind(self) -> list[Link]:
        """True links of the members of now and, behind them, one far ahead of earlier members."""
        rng, known = self._rng, self._ordered()
        epoch = known[-1].next.roster.epoch
        present = [link for link in known if link.head.roster.epoch == epoch]
        before = [link for link in known if link.head.roster.epoch < epoch]
        if not present or not before:
            return []
        start = rng.randrange(len(present))
        return [*present[start : start + rng.randrange(1, 4)], self._ahead(rng.choice(before))]

    def _ahead(self, link: Link) -> Link:
        height = self._rng.choice([10**6, link.head.height + self._rng.randrange(1, 20)])
        return attrs.evolve(link, head=attrs.evolve(link.head, height=height))

    def _ordered(self) -> list[Link]:
        return [self._links[height] for height in sorted(self._links)]

    def _made_up(self, way: int, link: Link) -> Link:
        """A link that nobody decided, like a true one but for its head, its members or its end."""
        rng, head = self._rng, link.head
        if way == 2:  # of another epoch
            epoch = rng.choice([0, head.roster.epoch + 1, max(head.roster.epoch - 1, 0)])
            other = rng.choice(self._ordered()).head.roster
            bent = attrs.evolve(rng.choice([head.roster, other]), epoch=epoch)
            ahead = rng.choice([0, 1, 10**6])
            return self._of(link, attrs.evolve(head, height=head.height + ahead), bent)
        if way == 3:  # signed by all members that the roster has: itself
            alone = Roster((self._own,), 0, 1, head.roster.epoch)
            return self._signed(self._of(link, head, alone))
        if way == 4:  # another end, of a model that it can give or nobody can
            step = head.step + 1
            last = self._models[max(self._models)] if self._models else np.zeros(1, np.int32)
            digest = rng.choice([rng.randbytes(32), model_digest(last, step)])
            ends: list[Result] = [Merged(digest), Void("QRES-E507")]
            return self._signed(attrs.evolve(link, result=rng.choice(ends)))
        return self._signed(self._ahead(link))

    @staticmethod
    def _of(link: Link, head: Head, roster: Roster) -> Link:
        """A link whose head has other members."""
        missed = bytes(len(roster))
        none = type(head.record)()
        head = attrs.evolve(head, roster=roster, bans=(), missed=missed, record=none, waiting=())
        chosen = attrs.evolve(link.chosen, evidence=(), change=None)
        return attrs.evolve(link, head=head, chosen=chosen)

    def _signed(self, link: Link) -> Link:
        """With its own vote beside those that were there."""
        about = encode_conclusion(link.decision)
        vote = self._make(OUTCOME_PRECOMMIT, about, link.round, link.head.digest)
        votes = {kept.sender: kept for kept in link.precommits} | {self._own: vote}
        chosen = [vote, *(kept for sender, kept in votes.items() if sender != self._own)]
        return attrs.evolve(link, precommits=tuple(chosen[: len(link.head.roster)]))

    def _with_junk(self, link: Link) -> Link:
        """A true link with votes beside those that decided it, and signatures on its change."""
        rng, votes = self._rng, list(link.precommits)
        room = len(link.head.roster) - len(votes)
        junk = self._make("x", rng.randbytes(64), 1, bytes(32))
        votes += [rng.choice([junk, votes[0]])] * max(room, 0)
        if rng.random() < 0.3:  # too few are left
            votes[0] = votes[-1]
        rng.shuffle(votes)
        change = link.chosen.change
        if change is not None and rng.random() < 0.5:
            change = self._signed_change(change)
        chosen = attrs.evolve(link.chosen, change=change)
        return attrs.evolve(link, chosen=chosen, precommits=tuple(votes))

    def _signed_change(self, change: RosterChange) -> RosterChange:
        junk = {"x": self._rng.randbytes(64)}
        return change.signed([change.statement(self._own, 0).with_auth(junk)])

    # ── other answers ─────────────────────────────────────────────────────────────────────────

    def model(self) -> bytes:
        """A model of another step, or one that nobody made."""
        vector = self._models[self._rng.choice(sorted(self._models))]
        if self._rng.random() < 0.3:
            vector = vector + np.int32(1)
        return encode_model(vector)

    def head(self, settings: SharedSettings, first_model: bytes) -> bytes:
        """A head of before, or of a swarm that began otherwise."""
        rng = self._rng
        head = rng.choice(self._ordered()).head
        if rng.random() < 0.5:
            first_model = rng.randbytes(32)
            common = beginning(settings.digest, first_model)
            head = attrs.evolve(head, height=10**6, settings=common, bans=(), waiting=())
        return canonical.dumps([head.raw(), settings.to_bytes(), first_model])

    def question(self, *, of_model: bool = False) -> tuple[str, bytes]:
        """A question of a node that lags, or of a model, if it may be; its kind first."""
        rng = self._rng
        if not of_model or rng.random() < 0.7:
            return "sync", encode_sync(rng.choice([0, 1, 10**6]), rng.choice([0, 0, 1, 2, 9]))
        digest = rng.choice([link.next.model for link in self._ordered()] or [bytes(32)])
        return "fetch-model", canonical.dumps(digest)
