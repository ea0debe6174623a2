"""Contributions that wait until their proofs are checked: by this node, or by others for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import attrs

from qres_core.contract import canonical
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import ACCEPT
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import committee_size
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.times import Times
from qres_core.swarm.ledger.messages import ATTESTATION, decode_attestation
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER, Held

TOGETHER: Final = 32
"""Contributions that are checked together at most: with more, little is saved and much is late."""


class Admit(Protocol):
    """Fate of a contribution whose proof is good."""

    def __call__(self, held: Held, *, named: bool) -> None:
        """Keep it; ``named`` if a set names it."""
        ...


class Checks:
    """Every proof is checked by this node, many together where that is cheaper."""

    def __init__(self, speaker: Speaker, admit: Admit) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._outlet = speaker, speaker.outlet
        self._admit = admit
        self.waiting: dict[bytes, Held] = {}  # by digest, in the order they came

    # ── what waits ────────────────────────────────────────────────────────────────────────────

    def __contains__(self, digest: object) -> bool:
        return digest in self.waiting

    def __len__(self) -> int:
        return len(self.waiting)

    def senders(self) -> set[NodeId]:
        """Senders whose contributions wait."""
        return {held.envelope.sender for held in self.waiting.values()}

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins: what no set names is dropped, and had no effect."""
        if not self.waiting.keys().isdisjoint(named):
            self.check(named)
        self.waiting.clear()

    def clear(self) -> None:
        """The node has another model than these contributions are for."""
        self.waiting.clear()

    # ── what happens to it ────────────────────────────────────────────────────────────────────

    def take(self, held: Held, *, named: bool) -> None:
        """A contribution came.

        ``held``: it, of this round or named; ``named``: whether a set names it: then nothing is
        gained by waiting.
        """
        digest = held.contribution.digest
        self.waiting[digest] = held
        may_wait = self._context.kernel.has("verify_all") and not named
        if not may_wait or len(self.waiting) >= TOGETHER or len(self._of(held)) > 1:
            self.check({digest} if named else ())

    def advance(
        self, now: float, times: Times, named: Collection[bytes], *, all_here: Callable[[], bool]
    ) -> None:
        """Check what must not wait longer, because something is about to depend on it.

        ``now``: this node's clock, seconds; ``named``: digests of the contributions that a set
        names; ``all_here``: whether no contribution is still to come.
        """
        if named or now >= times.propose or all_here():
            self.check(named)

    def decided(self, named: Iterable[bytes]) -> None:
        """A quorum decided on a set: it is merged whatever this node makes of a proof."""
        for digest in named:
            held = self.waiting.pop(digest, None)
            if held is not None:
                self._admit(held, named=True)

    def due(self, times: Times) -> float:
        """Time of the next reason to call :meth:`advance`, seconds, beside the time to propose."""
        del times
        return math.inf

    def lend(self, digests: Collection[bytes]) -> Mapping[bytes, Held]:
        """Give nothing to a peer that asks for a waiting contribution, but check it now."""
        if not self.waiting.keys().isdisjoint(digests):
            self.check()
        return {}

    def attested(self, envelope: Envelope) -> bool:
        """Take others' word for proofs; whether this node does.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        del envelope
        return False

    def check(
        self, named: Collection[bytes] = (), only: Iterable[bytes] | None = None
    ) -> list[bytes]:
        """Check proofs, and keep or refuse what they came with.

        ``named``: digests of the contributions that a set names; ``only``: digests of those to
        check, all that wait if not given. Returns the digests of those with good proofs.
        """
        chosen = list(self.waiting) if only is None else [item for item in only if item in self]
        waiting = [self.waiting.pop(digest) for digest in chosen]
        good: list[bytes] = []
        for number in sorted({held.envelope.round for held in waiting}):
            info = attrs.evolve(self._position.info, number=number)
            batch = [held for held in waiting if held.envelope.round == number]
            made = [held.contribution for held in batch]
            for held, (verdict, plugin) in zip(
                batch, self._context.kernel.verify_all(made, info), strict=True
            ):
                if verdict is ACCEPT:
                    good.append(held.contribution.digest)
                    self._admit(held, named=held.contribution.digest in named)
                else:
                    self._outlet.refuse(held.envelope, verdict.reason, verdict.blame, plugin)
        return good

    def _of(self, held: Held) -> list[bytes]:
        """Waiting contributions of one sender."""
        sender = held.envelope.sender
        return [waiter for waiter, held in self.waiting.items() if held.envelope.sender == sender]


class CommitteeChecks(Checks):
    """This node checks the proofs it is in charge of; for the others, its peers' word is enough.

    What is not attested by the time that a set is proposed, it checks itself: checkers that are
    silent cost time, and nothing else.
    """

    def __init__(self, speaker: Speaker, admit: Admit) -> None:
        super().__init__(speaker, admit)
        self._attestations = self._of_head()
        self._charges: frozenset[NodeId] = frozenset()
        self._here: set[NodeId] = set()  # who contributed to the round
        self._named_at = math.inf

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins, with other committees; the members may be others, too."""
        self.check(named)
        self._attestations = self._of_head()
        self._attestations.open_round(self._position.number)
        drawn = self._context.drawn(self._position.number)  # nobody else contributes
        self._charges = self._attestations.charges(self._context.node_id) & drawn
        self._here = set()
        self._named_at = math.inf

    def _of_head(self) -> Attestations:
        return Attestations(self._context.roster, self._context.byzantine, MAX_PER_SENDER)

    def clear(self) -> None:
        """The node has another model: what nobody attested and no set held may be a bad proof."""
        self.check()

    def take(self, held: Held, *, named: bool) -> None:
        """A contribution came; attested or not, and checked at once only if it is a second one."""
        sender, digest = held.envelope.sender, held.contribution.digest
        current = held.envelope.round == self._position.number
        if current:
            self._here.add(sender)  # also if others attested it first: no more is to be waited for
        if current and self._attestations.suffice(sender, digest):
            self._admit(held, named=named)
            return
        self.waiting[digest] = held
        several = self._of(held)
        if not current or len(several) > 1:
            self.check({digest} if named else (), only=several)

    def advance(
        self, now: float, times: Times, named: Collection[bytes], *, all_here: Callable[[], bool]
    ) -> None:
        """Check what this node is in charge of, and what nobody attested in time."""
        del all_here  # that its own charges are here is enough
        mine = self._mine()
        if mine and (now >= times.attest or len(mine) >= TOGETHER or self._charges_are_here()):
            good = self.check(named, only=mine)
            if good:
                self._speaker.say(ATTESTATION, canonical.dumps(good), now)
        if not self.waiting.keys().isdisjoint(named):
            self._named_at = min(self._named_at, now)
        if now >= times.propose:
            self.check(named)
        elif now >= self._patience():
            self.check(named, only=named)
            self._named_at = math.inf  # what a set names later is waited for anew

    def due(self, times: Times) -> float:
        """Time at which this node waits no longer for more to check, or for others to attest."""
        return min(times.attest if self._mine() else math.inf, self._patience())

    def lend(self, digests: Collection[bytes]) -> Mapping[bytes, Held]:
        """Give waiting contributions: a peer that asks checks them; their authors answer for it."""
        return {digest: self.waiting[digest] for digest in digests if digest in self.waiting}

    def attested(self, envelope: Envelope) -> bool:
        """Keep what more than ``f`` checkers attest now.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        digests = decode_attestation(envelope.payload, self._attestations.most)
        for digest in self._attestations.take(envelope.sender, digests):
            held = self.waiting.get(digest)
            if held is not None and self._attestations.suffice(held.envelope.sender, digest):
                del self.waiting[digest]
                self._admit(held, named=False)
        return True

    def _mine(self) -> list[bytes]:
        """Contributions that wait for this node to check and attest them."""
        return [
            digest for digest, held in self.waiting.items() if held.envelope.sender in self._charges
        ]

    def _patience(self) -> float:
        """Time at which this node checks a set's contributions, attested by others or not."""
        return self._named_at + self._context.swarm.vote_timeout / 4 if self.waiting else math.inf

    def _charges_are_here(self) -> bool:
        kernel = self._context.kernel
        return all(
            charge in self._here or kernel.standing(charge).banned for charge in self._charges
        )


def committees(
    roster: Sequence[NodeId], byzantine: int, number: int
) -> dict[NodeId, frozenset[NodeId]]:
    """The nodes that check each sender's proof in a round, :func:`committee_size` of them.

    Nobody is in its own committee but a node alone, and everybody is in equally many. O(n f). The
    roster ascends.
    """
    others = len(roster) - 1
    if others < 1:
        return {sender: frozenset(roster) for sender in roster}
    size = committee_size(len(roster), byzantine)
    start = number * size
    return {
        sender: frozenset(
            roster[(rank + 1 + (start + step) % others) % len(roster)] for step in range(size)
        )
        for rank, sender in enumerate(roster)
    }


class Attestations:
    """Attestations of a round. Of one node are counted ``most`` for each sender it checks."""

    def __init__(self, roster: Sequence[NodeId], byzantine: int, most: int) -> None:
        self._roster, self._byzantine = roster, byzantine
        # of one node, of all senders: more than an honest one has
        self.most = most * committee_size(len(roster), byzantine)
        self.open_round(0)

    def open_round(self, number: int) -> None:
        """A round begins: what was attested before counts no more."""
        self._committees = committees(self._roster, self._byzantine, number)
        self._counted = Counter[NodeId]()
        self._attestors: dict[bytes, set[NodeId]] = {}

    def charges(self, checker: NodeId) -> frozenset[NodeId]:
        """Senders whose proofs a node checks. O(n)."""
        return frozenset(
            sender for sender, checkers in self._committees.items() if checker in checkers
        )

    def take(self, attestor: NodeId, digests: Iterable[bytes]) -> list[bytes]:
        """Count what a node attests; those digests that it had not attested before.

        ``digests``: of the contributions whose proofs it checked.
        """
        new: list[bytes] = []
        for digest in digests:
            if attestor in self._attestors.get(digest, ()) or self._counted[attestor] >= self.most:
                continue
            self._counted[attestor] += 1
            self._attestors.setdefault(digest, set()).add(attestor)
            new.append(digest)
        return new

    def suffice(self, sender: NodeId, digest: bytes) -> bool:
        """True if more than ``f`` of a sender's committee attest its contribution."""
        attestors = self._attestors.get(digest)
        if attestors is None:
            return False
        return len(attestors & self._committees[sender]) > self._byzantine
