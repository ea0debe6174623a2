"""One other node: its sessions, and whether there is a link to it.

A link is up once each end has admitted the other and has proved that it is there now: it answered
what the other drew just before. What a hub kept back, or sends again, cannot do that.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
from qres_carrier import TokenBucket

from qres_core import NodeId
from qres_transport_grpc.seal import SealedSession

CANDIDATES: Final = 4
"""Sessions of a node that have not proved to be there, at most, for each hub that brings them."""
NONCE_BYTES: Final = 16


@attrs.define(eq=False)
class Candidate:
    """A session, and how far its two ends have come."""

    session: SealedSession
    judgements: TokenBucket  # credentials that it may show
    nonce: bytes = b""  # what the other end has to repeat
    drawn: float = 0.0  # when that was drawn, seconds of the loop's clock
    told: float = 0.0  # when this node's credential was shown last
    pinged: float = 0.0  # when it was asked last whether it is there
    proved: bool = False  # it repeated the nonce and admits this node
    proof: float = -math.inf  # when it did so last
    admitted: bool = False  # this node admits it
    heard: float = -math.inf  # when something it sealed came last
    judging: bool = False
    judged: float = -math.inf  # when it was asked last whether this node admits it
    credential: bytes = b""  # what was judged then
    # that brought a greeting of it, and not CANDIDATES of other sessions since; by digest
    hubs: set[str] = attrs.field(factory=set[str])

    def draw(self, now: float) -> None:
        """A new nonce."""
        self.nonce, self.drawn = secrets.token_bytes(NONCE_BYTES), now


@attrs.define(eq=False)
class HubBudget:
    """Budget of one hub in the name of one node: no hub uses up what another one may."""

    greetings: TokenBucket  # before any signature is checked
    replies: TokenBucket


@attrs.define(eq=False)
class Acquaintance:
    """Knowledge of this node about another member."""

    node: NodeId
    now: Callable[[], float]  # seconds
    link: Candidate | None = None  # the session that was up last, or is
    up: bool = False
    since: float = 0.0  # seconds since 1970
    shown: float = 0.0  # when this node was admitted last, seconds of the loop's clock
    candidates: OrderedDict[bytes, Candidate] = attrs.field(
        factory=OrderedDict[bytes, Candidate]
    )  # by session, those that came later than the link, in that order
    session: bytes = b""  # the newest session it was seen with, to quote
    failures: int = 0
    next_greeting: float = 0.0
    budgets: dict[str, HubBudget] = attrs.field(factory=dict[str, HubBudget])  # by hub's digest
    via: dict[object, float] = attrs.field(factory=dict[object, float])  # hubs, when last heard

    def budget(self, hub: str) -> HubBudget:
        """Budget left to a hub, named by the digest of its certificate, as in all that follows."""
        if hub not in self.budgets:
            greetings = TokenBucket(5.0, 20, clock=self.now)
            replies = TokenBucket(2.0, 6, clock=self.now)
            self.budgets[hub] = HubBudget(greetings, replies)
        return self.budgets[hub]

    def knows(self, session: bytes) -> Candidate | None:
        """The candidate, or the link, of a session."""
        if self.link is not None and self.link.session.theirs.session == session:
            return self.link
        return self.candidates.get(session)

    def named(self, name: bytes) -> Candidate | None:
        """The candidate, or the link, whose messages bear this name."""
        return next((item for item in self.all() if item.session.name == name), None)

    def all(self) -> list[Candidate]:
        """The link, up or not, and the candidates."""
        return [*([] if self.link is None else [self.link]), *self.candidates.values()]

    def holds(self, candidate: Candidate) -> bool:
        """True if a session was not forgotten since; it may have been made anew, with its keys."""
        return self.knows(candidate.session.theirs.session) is candidate

    def add(self, session: SealedSession, hub: str) -> Candidate:
        """A new candidate that a hub brought."""
        made = Candidate(session, TokenBucket(5.0, 10, clock=self.now))
        self.candidates[session.theirs.session] = made
        self.bring(made, hub)
        return made

    def bring(self, candidate: Candidate, hub: str) -> None:
        """A hub brought a session: the oldest of those it brought before make room.

        One that another hub brought too stays, as one of that hub's. The link is never forgotten
        for one: it knows what has come.
        """
        if candidate is self.link:
            return
        candidate.hubs.add(hub)
        others = [it for it in self.candidates.values() if hub in it.hubs and it is not candidate]
        for item in others[: max(0, len(others) + 1 - CANDIDATES)]:
            item.hubs.discard(hub)
            if not item.hubs:
                del self.candidates[item.session.theirs.session]

    def promote(self, candidate: Candidate) -> bool:
        """The candidate is the link; whether it takes the place of another session.

        Candidates that came before it are gone: whoever is there now began after they ended. A
        later one may still prove to be there, and then takes the place.
        """
        if candidate is self.link:
            return False
        other, self.link = self.link, candidate
        while self.candidates:
            _session, item = self.candidates.popitem(last=False)
            if item is candidate:
                break
        return other is not None
