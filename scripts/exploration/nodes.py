"""One node of the exploration: its states, and every step that the real engine can take from one.

A node is kept as what binds it and what it said (:class:`Local`). What it merely heard is left out,
and is told anew before each step. The steps are found by asking the engine: it is put into the
state, told one :class:`Batch`, and read again. Nothing here knows the rules of the engine.

Why that leaves no run out:

- *Batches.* A rule of the engine reads the node's own state, one tally of votes, one proposal, and
  whether a value is here. Rules are enabled by messages and never disabled. So if a rule fires in a
  real run, it also fires when the engine was told only what this rule reads of what it was told
  there, and no rule that goes first fires instead. A batch is any selection of the votes of one
  tally that were sent, with any words of the liar, at most one proposal, and at most one time-out
  or claim. Two rules read more. Leaving a round at once reads two tallies; it has the effect of the
  time-out of that round. A proposer learns from all tallies as it enters a round; it can learn from
  those up to its round before, and later ones are told in the same batch as the news that others
  are ahead.
- *Forgetting.* What was sent stays sent, and can be told again. That the liar may say something
  else the next time only adds runs.
- *Who is ahead.* A node may be told at any time that others are in any round. This only adds runs,
  too: rounds may be entered at any time without harm. It makes the round of a node, as far as it
  did not vote in it, invisible to the others.
- *Restarts.* A node that restarts is where it was after its highest vote. What it did since then
  was seen by nobody, but for a proposal. So the same run without it is a run as well, and no state
  is new but those of a proposer that proposes twice. Both is looked at: each restart must end in a
  state that was reached without one, or return to its round, perhaps with another proposal.
- *Promises.* With claims, a node may prevote in the first round after it left it. The others may be
  told this vote earlier than it is cast: the node promises it, and is then held to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from qres_core.swarm.consensus import engine as consensus
from qres_core.swarm.consensus.votes import Action, Lock, Propose, Step, Vote

HONEST: Final = 3
LIAR: Final = 3
STRANGER: Final = 4
BYZANTINE: Final = 1
WITNESSES: Final = 2
"""Honest nodes in every quorum of three."""
A: Final = b"A"
B: Final = b"B"
PREVOTE: Final = Step.PREVOTE
PRECOMMIT: Final = Step.PRECOMMIT

Said: TypeAlias = tuple[int, int, bytes | None]
"""Round, step and value of a vote."""
Slot: TypeAlias = tuple[int, int]
"""Round and step of votes."""
Offer: TypeAlias = tuple[int, bytes, int]
"""Round, value and valid round of a proposal."""


@attrs.frozen
class Instance:
    """What is explored."""

    name: str
    proposers: tuple[int, ...]  # of each attempt: an honest node or the liar
    claims: bool = False
    accepted: tuple[bytes, ...] = (A, B)  # what honest nodes accept and claim
    fresh: tuple[bytes, ...] = (A, B, A)  # what each honest node proposes
    engine: type[consensus.Consensus[int]] = consensus.Consensus

    @property
    def attempts(self) -> int:
        """Rounds in which nodes act."""
        return len(self.proposers)

    @property
    def alike(self) -> bool:
        """Whether no honest node proposes: then they differ in their states only."""
        return set(self.proposers) == {LIAR}

    @property
    def mirrored(self) -> bool:
        """Whether the two values may change places."""
        return self.alike and self.accepted == (A, B)

    def proposer(self, number: int) -> int:
        """Who proposes."""
        return self.proposers[number - 1] if number <= len(self.proposers) else LIAR

    def proposes_after(self, role: int, number: int) -> bool:
        """Whether a node proposes in a later round."""
        return role in self.proposers[number:]


@attrs.frozen
class Local:
    """A node between two steps."""

    role: int
    round: int = 0
    step: int = 0
    lock: Lock | None = None
    valid: Lock | None = None
    decided: bytes | None = None
    own: tuple[Said, ...] = ()  # what it knows to have voted
    said: tuple[Said, ...] = ()  # what others can hear: the same, and a promise
    offers: tuple[Offer, ...] = ()  # what it proposed

    @property
    def place(self) -> Slot:
        """How far it is."""
        return self.round, self.step

    def votes(self, slot: Slot) -> tuple[bytes | None, ...]:
        """What it voted in a step of a round: once, unless a guard is missing."""
        return tuple(value for number, step, value in self.said if (number, step) == slot)

    def mirror(self) -> Local:
        """The same with the values in each other's place."""
        return attrs.evolve(
            self,
            lock=_mirror_lock(self.lock),
            valid=_mirror_lock(self.valid),
            decided=_other(self.decided),
            own=_mirror_votes(self.own),
            said=_mirror_votes(self.said),
        )


def _other(value: bytes | None) -> bytes | None:
    return {A: B, B: A, None: None}[value]


def _mirror_lock(lock: Lock | None) -> Lock | None:
    return None if lock is None else Lock(B if lock.value == A else A, lock.round)


def _mirror_votes(votes: tuple[Said, ...]) -> tuple[Said, ...]:
    return _ordered((number, step, _other(value)) for number, step, value in votes)


def _ordered(votes: Iterator[Said] | set[Said]) -> tuple[Said, ...]:
    return tuple(sorted(votes, key=lambda vote: (vote[0], vote[1], vote[2] or b"")))


@attrs.frozen
class Batch:
    """What the engine is told before it is read again."""

    here: bool = True  # whether the contents of values are here
    offer: Offer | None = None
    slot: Slot = (0, 0)
    votes: tuple[tuple[int, bytes | None], ...] = ()  # voter and value
    ahead: int = 0  # a round that others are in
    proof: bytes | None = None
    expire: Step | None = None
    stale: bool = False  # the time of the round before
    claim: bytes | None = None
    restart: bool = False

    def __str__(self) -> str:
        """In a few words."""
        number, step = self.slot
        words: list[str] = []
        if self.offer:
            words.append(f"proposal r{self.offer[0]} {_text(self.offer[1])} vr{self.offer[2]}")
        if self.votes or self.proof:
            kind = "precommits" if step == PRECOMMIT else "prevotes"
            told = [f"{_name(voter)}:{_text(value)}" for voter, value in self.votes]
            quoted = [f"quoted quorum {_text(self.proof)}"] if self.proof else []
            words.append(f"{kind} r{number} {' '.join(told + quoted)}")
        words += [f"others are in r{self.ahead}"] if self.ahead else []
        words += [] if self.expire is None else [f"{self.expire.name.lower()} times out"]
        words += [f"claims {_text(self.claim)}"] if self.claim else []
        words += ["restarts"] if self.restart else []
        words += [] if self.here else ["(values not here)"]
        return ", ".join(words) or "nothing"


def _text(value: bytes | None) -> str:
    return "nil" if value is None else value.decode()


def _name(voter: int) -> str:
    return "liar" if voter == LIAR else f"n{voter}"


@attrs.frozen
class After:
    """A step that was taken."""

    local: Local
    level: Slot  # how far the node is, or what it heard of
    label: str
    broken: str = ""  # the invariant that the step itself breaks


def _noise(me: int, value: bytes) -> tuple[tuple[int, bytes | None], ...]:
    """The liar's vote, and with it what must not count: more of it, a stranger's, and a forgery."""
    other = B if value == A else A
    return ((LIAR, value), (LIAR, value), (LIAR, other), (STRANGER, value), (me, value))


class Node:
    """Asks the engine what can happen next."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.asked = 0
        self._slots: list[Slot] = [
            (number, step)
            for number in range(1, instance.attempts + 1)
            for step in (int(PREVOTE), int(PRECOMMIT))
        ]

    def first(self, role: int) -> Local:
        """A node that just began."""
        engine = self._engine(role)
        actions = engine.start()
        return self._read(Local(role), engine, actions)

    def slots(self, local: Local) -> Sequence[Slot]:
        """Whose votes can matter to it."""
        return () if local.decided is not None else self._slots

    def alone(self, local: Local, offers: tuple[Offer, ...]) -> Iterator[After]:
        """Every step that needs nobody's votes; ``offers``: what honest proposers said."""
        if local.decided is not None:
            return
        last = self.instance.attempts
        for number in range(local.round + 1, last + 1):
            yield from self._try(local, Batch(ahead=number))
        for step in Step:
            yield from self._try(local, Batch(expire=step))
            yield from self._try(local, Batch(expire=step, stale=True))
        for offer in self._offers(local, offers):
            yield from self._both(local, Batch(offer=offer))
        if self.instance.claims:
            for value in self.instance.accepted:
                yield from self._try(local, Batch(claim=value))
            yield from self._promise(local)
        yield from self._try(local, Batch(restart=True, ahead=local.round))
        yield from (after for after in self._try(local, Batch(restart=True)) if after.broken)

    def told(
        self,
        local: Local,
        slot: Slot,
        heard: tuple[tuple[bytes | None, ...], tuple[bytes | None, ...]],
        offers: tuple[Offer, ...],
    ) -> Iterator[After]:
        """Every step that votes of one slot can lead to; ``heard``: those of honest nodes."""
        number, step = slot
        sent = [*local.votes(slot), *heard[0], *heard[1]]
        contents = list(self._contents(local, slot, heard))
        contents += [
            Batch(slot=slot, proof=value) for value in (A, B) if sent.count(value) >= WITNESSES
        ]
        named: list[Offer] = []
        if step == PREVOTE:
            named = [offer for offer in self._offers(local, offers) if offer[2] == number]
        later = range(max(number, local.round + 1), self.instance.attempts + 1)
        for content in contents:
            yield from self._both(local, content, sent)
            if slot == (local.round, PRECOMMIT):
                late = attrs.evolve(content, expire=Step.PRECOMMIT)
                yield from self._both(local, late, sent)
            for offer in named:
                yield from self._both(local, attrs.evolve(content, offer=offer), sent)
            for ahead in later if number > local.round else ():
                yield from self._both(local, attrs.evolve(content, ahead=ahead), sent)

    def restarted(self, local: Local) -> After | None:
        """Where a node is after a restart, told nothing."""
        for after in self._try(local, Batch(restart=True)):
            return after
        return None

    def hurried(self, local: Local, number: int) -> Local:
        """A node that was told only that others are in a round."""
        for after in self._try(local, Batch(ahead=number)):
            return after.local
        return local

    # ── what can be said ──────────────────────────────────────────────────────────────────────

    def _offers(self, local: Local, offers: tuple[Offer, ...]) -> list[Offer]:
        """Proposals for the round that it is in."""
        number = local.round
        if self.instance.proposer(number) == LIAR:
            return [(number, value, valid) for value in (A, B) for valid in range(number)]
        return [offer for offer in (*offers, *local.offers) if offer[0] == number]

    def _contents(
        self,
        local: Local,
        slot: Slot,
        heard: tuple[tuple[bytes | None, ...], tuple[bytes | None, ...]],
    ) -> Iterator[Batch]:
        others = [number for number in range(HONEST) if number != local.role]
        choices = [
            [(), *(((voter, value),) for value in values)]
            for voter, values in zip(others, heard, strict=True)
        ]
        lies = [(), ((LIAR, None),), *(_noise(local.role, value) for value in (A, B))]
        for picked in itertools.product(*choices, lies):
            votes = tuple(itertools.chain.from_iterable(picked))
            if votes:
                yield Batch(slot=slot, votes=votes)

    def _promise(self, local: Local) -> Iterator[After]:
        """The vote that a claim makes after the first round is over."""
        slot = (1, int(PREVOTE))
        if local.place == (1, 0) and not local.votes(slot):
            for value in self.instance.accepted:
                said = _ordered({*local.said, (*slot, value)})
                label = f"will claim {_text(value)} when the first round is over"
                yield After(attrs.evolve(local, said=said), slot, label)

    # ── asking the engine ─────────────────────────────────────────────────────────────────────

    def _engine(self, role: int) -> consensus.Consensus[int]:
        instance = self.instance
        return instance.engine(
            role, range(HONEST + 1), BYZANTINE, instance.proposer, claims=instance.claims
        )

    def thaw(self, local: Local) -> consensus.Consensus[int]:
        """The engine in a state, having heard nothing."""
        engine = self._engine(local.role)
        engine.round, engine.step = local.round, Step(local.step)
        engine.lock, engine.valid = local.lock, local.valid
        for number, step, value in local.own:
            engine._own[number, Step(step)] = value  # noqa: SLF001 - a state is put in, and read
            engine._tally(number, Step(step)).add(local.role, value)  # noqa: SLF001
        return engine

    def _restart(self, local: Local, actions: list[Action]) -> consensus.Consensus[int]:
        engine = self._engine(local.role)
        # Claims may be written down last, and then the shell begins where the last vote was.
        late = self.instance.claims and (1, int(PREVOTE)) in {vote[:2] for vote in local.own}
        number = 1 if late else max((number for number, *_ in local.own), default=1)
        engine.restore(local.lock, None, [(r, Step(s), v) for r, s, v in local.own])
        actions += engine.start(number)
        return engine

    def _both(
        self, local: Local, batch: Batch, sent: Sequence[bytes | None] = ()
    ) -> Iterator[After]:
        """With the values here, and without them: that enables no more than with them."""
        moved = False
        for after in self._try(local, batch, sent):
            moved = True
            yield after
        if moved:
            yield from self._try(local, attrs.evolve(batch, here=False), sent)

    def _try(
        self, local: Local, batch: Batch, sent: Sequence[bytes | None] = ()
    ) -> Iterator[After]:
        self.asked += 1
        actions: list[Action] = []
        engine = self._restart(local, actions) if batch.restart else self.thaw(local)
        if batch.here:
            for value in (A, B):
                actions += engine.judge(value, accepted=value in self.instance.accepted)
        number, step = batch.slot
        for voter, vote in batch.votes:
            engine.vote(Step(step), number, voter, vote)
        if batch.proof is not None:
            engine.prove(Step(step), number, batch.proof)
        if batch.ahead:
            for voter in range(HONEST + 1):
                engine.see(voter, batch.ahead)
        if batch.offer is not None:
            actions += engine.propose(*batch.offer)
        actions += engine.advance()
        if batch.expire is not None:
            actions += engine.expire(batch.expire, engine.round - batch.stale)
        if batch.claim is not None:
            actions += engine.claim(batch.claim)
        after = self._read(local, engine, actions)
        if after.round > self.instance.attempts:
            return
        if len(local.said) > len(local.own) and _votes_twice(after):
            return  # it broke its promise: this is no run
        broken = _broken(self.instance, local, after, actions, batch, sent)
        after = self._plain(after)
        if after != local or broken:
            level = max(after.place, batch.slot, local.place)
            yield After(after, level, str(batch), broken)

    def _read(
        self, before: Local, engine: consensus.Consensus[int], actions: list[Action]
    ) -> Local:
        said, offers = set(before.said), set(before.offers)
        for action in actions:
            if isinstance(action, Vote):
                said.add((action.round, int(action.step), action.value))
            if isinstance(action, Propose) and action.round <= self.instance.attempts:
                again = action.again
                fresh = (action.round, self.instance.fresh[before.role], 0)
                offers.add(fresh if again is None else (action.round, again.value, again.round))
        return Local(
            before.role,
            engine.round,
            int(engine.step),
            engine.lock,
            engine.valid,
            None if engine.decided is None else engine.decided.value,
            _ordered((*slot, value) for slot, value in engine._own.items()),  # noqa: SLF001
            _ordered(said),
            tuple(sorted(offers)),
        )

    def _plain(self, after: Local) -> Local:
        """Without what can change nothing any more.

        What is valid decides what is proposed, and nothing else. Who decided does nothing more.
        """
        if after.decided is not None:
            return Local(after.role, decided=after.decided, said=after.said, offers=after.offers)
        if not self.instance.proposes_after(after.role, after.round):
            return attrs.evolve(after, valid=after.lock)
        return after


def _votes_twice(local: Local) -> bool:
    slots = [vote[:2] for vote in local.said]
    return len(set(slots)) < len(slots)


def _broken(
    instance: Instance,
    before: Local,
    after: Local,
    actions: list[Action],
    batch: Batch,
    sent: Sequence[bytes | None],
) -> str:
    """The first invariant that a step breaks, or nothing."""
    if _votes_twice(after):
        return "no double vote"
    checks = (
        _broken_memory(before, after, batch),
        _broken_lock(before, after, batch, sent),
        _broken_decision(instance, after, batch, sent),
        *(_broken_vote(instance, before, after, action, batch) for action in actions),
    )
    return next(filter(None, checks), "")


def _broken_memory(before: Local, after: Local, batch: Batch) -> str:
    if not set(before.own) <= set(after.own):
        return "no vote is forgotten"
    if batch.restart and after.round < max((number for number, *_ in after.own), default=0):
        return "no restart goes back behind a vote"
    return ""


def _broken_lock(before: Local, after: Local, batch: Batch, sent: Sequence[bytes | None]) -> str:
    lock, valid = after.lock, after.valid
    if lock != before.lock:
        if lock is None or (before.lock and lock.round < before.lock.round):
            return "a lock never gets older"
        if not _has_quorum(lock, batch, sent):
            return "a lock has a quorum"
    if valid is not None and valid not in (before.valid, lock):
        if before.valid and valid.round < before.valid.round:
            return "what is valid never gets older"
        if not _has_quorum(valid, batch, sent):
            return "what is valid has a quorum"
    if (lock.round if lock else 0) > (valid.round if valid else 0):
        return "what is valid is no older than the lock"
    return ""


def _has_quorum(lock: Lock, batch: Batch, sent: Sequence[bytes | None]) -> bool:
    return batch.slot == (lock.round, PREVOTE) and sent.count(lock.value) >= WITNESSES


def _broken_decision(
    instance: Instance, after: Local, batch: Batch, sent: Sequence[bytes | None]
) -> str:
    if after.decided is None:
        return ""
    if after.decided not in instance.accepted:
        return "validity"
    if not batch.here:
        return "what is decided is here"
    quorum = batch.slot[1] == PRECOMMIT and sent.count(after.decided) >= WITNESSES
    return "" if quorum else "a decision has a quorum"


def _broken_vote(
    instance: Instance, before: Local, after: Local, action: Action, batch: Batch
) -> str:
    if not isinstance(action, Vote):
        return ""
    late = instance.claims and (action.round, action.step) == (1, PREVOTE)
    if action.round < before.round and not late:
        return "no vote in a round that was left"
    if action.step is PRECOMMIT and action.value is not None:
        if after.lock != Lock(action.value, action.round):
            return "a precommit is a lock"
        return "" if batch.here else "what is locked is here"
    return ""
