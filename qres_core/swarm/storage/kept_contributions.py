"""The contributions a node holds, by what they say.

A liar may send different contributions to different nodes, so a node keeps the first of each sender
and, beside it, those that a proposed set names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.companion import Companion
from qres_core.contract.types import (
    FULL_STANDING,
    MAX_WEIGHT,
    Contribution,
    NodeId,
    Updates,
)
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.messages import CandidateSet, Member

MAX_PER_SENDER: Final = 3


class HeldElsewhere(Protocol):
    """Place of the numbers of a contribution, if not in memory."""

    def rows(self, start: int, stop: int) -> NDArray[np.int32]:
        """A range of them, int32."""
        ...


@attrs.frozen(eq=False)
class Held:
    """A contribution and the message it came in."""

    contribution: Contribution
    envelope: Envelope
    file: HeldElsewhere | None = None

    @property
    def octets(self) -> int:
        """Bytes that it takes in memory: where the rest lies elsewhere, those beside the vector."""
        made = self.contribution
        beside = sum(len(proof) for proof in made.proofs.values())
        beside += sum(len(companion.body) for companion in made.companions.values())
        if self.file is not None:
            return beside
        return beside + made.vector.nbytes + len(self.envelope.payload)


class Gathering:
    """Contributions made for one model."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Held] = {}
        self._first: dict[tuple[int, NodeId], bytes] = {}
        self._count: dict[NodeId, int] = {}
        # the first of each sender by round: as they came, and by sender once that is asked for
        self._firsts: dict[int, dict[NodeId, Held]] = {}
        self._of_round: dict[int, dict[NodeId, Held]] = {}
        self._asked: CandidateSet | None = None  # of which _lacking was missing when last asked
        self._lacking: list[Member] = []

    def add(self, held: Held, *, named: bool = False) -> bool:
        """Keep a contribution. False if its sender made another for the same round before.

        Of one sender at most :data:`MAX_PER_SENDER` are kept, and those ``named`` by a set: a liar
        that sends many must not keep a node from holding the one that was agreed on.
        """
        contribution = held.contribution
        key = (held.envelope.round, contribution.sender)
        first = self._first.setdefault(key, contribution.digest)
        if contribution.digest not in self._by_digest:
            count = self._count.get(contribution.sender, 0)
            if count >= MAX_PER_SENDER and not named:
                return False
            self._count[contribution.sender] = count + 1
            self._by_digest[contribution.digest] = held
        if first == contribution.digest:
            number, kept = held.envelope.round, self._by_digest[first]
            self._firsts.setdefault(number, {})[contribution.sender] = kept
            self._of_round.pop(number, None)
        return first == contribution.digest

    @property
    def octets(self) -> int:
        """Bytes of the contributions in memory."""
        return sum(held.octets for held in self._by_digest.values())

    def keep_only(self, digests: Iterable[bytes]) -> None:
        """Forget all but the named contributions: a new round begins for the same model."""
        wanted = set(digests)
        self._by_digest = {k: held for k, held in self._by_digest.items() if k in wanted}
        self._count = {held.contribution.sender: 1 for held in self._by_digest.values()}
        self._first, self._firsts, self._of_round = {}, {}, {}
        self._asked = None

    def made_in(self, most: int, *, chosen: Callable[[int], bool]) -> set[bytes]:
        """Digests of the contributions to the newest rounds that are chosen, so many at most."""
        rounds = {held.envelope.round for held in self._by_digest.values()}
        newest = sorted(filter(chosen, rounds), reverse=True)[:most]
        return {key for key, held in self._by_digest.items() if held.envelope.round in newest}

    def after(self, count: int) -> list[bytes]:
        """Digests of the contributions here, in the order they came, but for the first ones."""
        if count >= len(self._by_digest):  # most often
            return []
        return list(islice(self._by_digest, count, None))

    def get(self, digest: bytes) -> Held | None:
        """The contribution of that digest."""
        return self._by_digest.get(digest)

    def missing(self, candidate: CandidateSet) -> list[bytes]:
        """Digests of members not held.

        A member that names another sender's contribution, or one of another round, counts as not
        held: a proposer could else give one vector the weight of many.

        Complexity: asked again about the same set, O(members missing before): what is held stays.
        """
        if self._asked is not candidate:
            self._asked, self._lacking = candidate, list(candidate.members)
        self._lacking = [m for m in self._lacking if not self._holds(m, candidate.origin)]
        return [member.digest for member in self._lacking]

    def _holds(self, member: Member, origin: int) -> bool:
        held = self._by_digest.get(member.digest)
        return held is not None and (held.envelope.sender, held.envelope.round) == (
            member.sender,
            origin,
        )

    def of_round(self, round_number: int) -> Mapping[NodeId, Held]:
        """The first contribution of each sender in the round, by sender, ascending."""
        found = self._of_round.get(round_number)
        if found is None:
            firsts = self.firsts(round_number)
            found = self._of_round[round_number] = {it: firsts[it] for it in sorted(firsts)}
        return found

    def firsts(self, round_number: int) -> Mapping[NodeId, Held]:
        """As :meth:`of_round`, in the order they came: O(1)."""
        return self._firsts.get(round_number, {})

    def senders(self, round_number: int) -> set[NodeId]:
        """Senders of contributions to the round."""
        return {sender for number, sender in self._first if number == round_number}

    def contributions(self, members: Sequence[Member]) -> tuple[Contribution, ...]:
        """The members' contributions as they were sent, in the members' order."""
        return tuple(self._by_digest[member.digest].contribution for member in members)

    def weights(self, members: Sequence[Member], weight_cap: int) -> NDArray[np.int64]:
        """Weights of the members' updates, int64, in the members' order.

        The weight is the capped claim; where any standing is below full, claims are multiplied by
        standings, all on one power-of-two scale, so that the result depends on the set alone.
        """
        held = [self._by_digest[member.digest] for member in members]
        claims = [min(item.contribution.weight, weight_cap) for item in held]
        if any(member.standing != FULL_STANDING for member in members):
            most = weight_cap * FULL_STANDING
            shift = max(0, (most - 1).bit_length() - (MAX_WEIGHT - 1).bit_length())
            claims = [
                max(1, claim * member.standing >> shift)
                for claim, member in zip(claims, members, strict=True)
            ]
        return np.array(claims, dtype=np.int64)

    def rows(self, members: Sequence[Member], start: int, stop: int) -> NDArray[np.int32]:
        """A range of the members' coordinates, int32, shape ``(n, stop - start)``."""
        made = np.empty((len(members), stop - start), dtype=np.int32)
        for row, member in zip(made, members, strict=True):
            held = self._by_digest[member.digest]
            if held.file is None:
                row[:] = held.contribution.vector[start:stop]
            else:
                row[:] = held.file.rows(start, stop)
        return made

    def stack(self, members: Sequence[Member], weight_cap: int) -> Updates:
        """The members' updates with their :meth:`weights`, ascending by sender."""
        held = [self._by_digest[member.digest] for member in members]
        return Updates(
            np.stack([item.contribution.vector for item in held]),
            tuple(member.sender for member in members),
            self.weights(members, weight_cap),
            companions=_beside([item.contribution for item in held]),
        )

    def unseen(self, members: Sequence[Member], weight_cap: int) -> Updates:
        """As :meth:`stack`, with a single zero in the place of each vector."""
        made = self.contributions(members)
        return Updates(
            np.zeros((len(made), 1), dtype=np.int32),
            tuple(member.sender for member in members),
            self.weights(members, weight_cap),
            companions=_beside(made),
        )


def _beside(made: Sequence[Contribution]) -> dict[str, tuple[Companion, ...]]:
    """The companions that every contribution has, by plugin. The plugin judges what lacks one."""
    names = set(made[0].companions).intersection(*(item.companions for item in made[1:]))
    return {name: tuple(item.companions[name] for item in made) for name in sorted(names)}
