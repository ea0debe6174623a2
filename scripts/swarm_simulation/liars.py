"""Liars: real nodes that a liar sits in, who changes what they say and adds messages of his own.

He hears what his node hears, has its key and no other, and is told nothing. Most lies know nothing
of what messages hold: they say again, to others or at another time, what was said before.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import attrs
import numpy as np

from qres_core import Envelope, canonical, model_digest
from qres_core.errors import QresError
from qres_core.swarm.ledger.chain import Head, Link, encode_links
from qres_core.swarm.ledger.messages import (
    CERTIFICATE,
    FETCHED,
    LINKS,
    PROPOSAL,
    CandidateSet,
    Certificate,
    ContributionBody,
    Member,
    OutcomeProposal,
    Proposal,
    contribution_digest,
    decode_conclusion,
    encode_conclusion,
)
from qres_core.swarm.ledger.results import Conclusion, Merged, Void
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import (
    HELD,
    PART,
    RESULT,
    ContributionHeader,
    MergedShard,
    ShardResult,
    decode_held,
    decode_shard_results,
    encode_held,
    encode_shard_results,
)
from swarm_simulation.nodes import Swarm
from swarm_simulation.past import Past
from swarm_simulation.setting import KEPT_WORDS, PAST, Character

VOTES: Final = ("prevote", "precommit")
ANSWERS: Final = (
    "fetched",
    "shard/part",
    "shard/held",
    "shard/merged",
    "shard/result",
    "certificate",
    "links",
    "model",
    "sync",
    "fetch-model",
    "relayed",
    "lock",
)
SHARDED: Final = {
    "shard/part": "serves some",
    "shard/held": "false holdings",
    "shard/merged": "false shards",
    "shard/result": "false shards",
}
"""By kind, the lie that is told in place of it."""
FALSE: Final = ("links", "model", "head", "sync")
"""Answers and questions about the past that a liar makes up."""
FORGOTTEN: Final = 15.0
"""Seconds after which nobody waits any more for a node that says nothing."""
ANSWER_PAUSE: Final = 0.1
"""Seconds in which a node is not misled again because it asks."""
STREAM_PAUSE: Final = 0.005
"""Seconds between two of many links that are told in a row."""
KEPT: Final = 400
Said = list[tuple[float, bytes]]
"""What leaves instead of a message: after how many seconds, and which frame."""


class Liar:
    """The liar in a node."""

    def __init__(self, world: Swarm, index: int, character: Character) -> None:
        self._world, self._index, self._character = world, index, character
        self._rng = random.Random(f"liar {world.setting.seed} {index}")  # noqa: S311
        self._nodes = world.setting.nodes + world.setting.spares
        self._heard: deque[tuple[Envelope, bytes]] = deque(maxlen=KEPT)
        self._payloads: dict[str, deque[Envelope]] = defaultdict(lambda: deque(maxlen=32))
        self._votes: dict[tuple[Any, ...], dict[bytes, Envelope]] = {}
        self._last_vote: dict[tuple[int, str], Envelope] = {}
        self._sets: dict[bytes, CandidateSet] = {}
        self._contributions: dict[bytes, Envelope] = {}
        self._heads: dict[bytes, Head] = {}
        self._few: dict[tuple[str, int], frozenset[int]] = {}
        self._past = Past(self._rng, world.nodes[index].node_id, self._make)
        # by node: the head that it spoke of last, and when
        self._at: dict[int, tuple[bytes, float]] = {}
        self._answered: dict[int, float] = {}  # by node: when
        self._streams = False
        self._unasked: Mapping[str, Callable[[], None]] = {
            "replay": self._replay,
            "again": self._again,
            "assemble": self._assemble,
            "push decided": self._push_decided,
            "private faults": self._private_faults,
            "garbage": self._garbage,
            **dict.fromkeys(PAST, self._feed),
            KEPT_WORDS: self._kept_words,
        }
        if any(lie in character.rates for lie in self._unasked):
            world.clock.after(0.1, self._act)

    def _does(self, lie: str) -> bool:
        rate = self._character.rates.get(lie, 0.0)
        return rate > 0.0 and self._rng.random() < rate

    # ── hearing ───────────────────────────────────────────────────────────────────────────────

    def hears(self, frame: bytes) -> None:
        """A frame reached the liar's node."""
        try:
            envelope = Envelope.from_bytes(frame, max_bytes=2**26)
        except QresError:
            return
        self._note(envelope, frame)
        self._past.hears(envelope, frame)
        victim = self._world.index_of.get(envelope.sender)
        if victim is None:
            return
        self._at[victim] = envelope.head, self._world.seconds
        told = [lie for lie in PAST if lie in self._character.rates]
        soon = self._world.seconds < self._answered.get(victim, -1.0) + ANSWER_PAUSE
        if told and not soon and envelope.kind in {"sync", "fetch-model"}:
            self._answered[victim] = self._world.seconds
            self._mislead(self._rng.choice(told), victim)

    def _note(self, envelope: Envelope, frame: bytes) -> None:
        kind, node = envelope.kind, self._world.nodes[self._index]
        machine = node.machine
        if machine is not None and machine.head.digest not in self._heads:
            self._heads[machine.head.digest] = machine.head
            kept = node.journal.resume()
            links = () if kept is None else kept.links
            self._past.keep(links, machine.step, machine.model)
        self._heard.append((envelope, frame))
        self._payloads[kind].append(envelope)
        if kind.endswith(VOTES):
            key = (kind, envelope.round, envelope.head, envelope.payload)
            self._votes.setdefault(key, {})[envelope.sender] = envelope
            self._last_vote[self._world.index_of.get(envelope.sender, -1), kind] = envelope
            if len(self._votes) > KEPT:
                del self._votes[next(iter(self._votes))]
        elif kind.startswith("choice/"):
            self._note_set(envelope)
        elif kind.endswith("contribution"):
            self._contributions[contribution_digest(envelope)] = envelope
            if len(self._contributions) > KEPT:
                del self._contributions[next(iter(self._contributions))]

    def _note_set(self, envelope: Envelope) -> None:
        try:
            candidate = Proposal.from_bytes(envelope.payload, self._nodes).candidate
        except QresError:
            return
        self._sets[candidate.digest(envelope.head)] = candidate

    # ── saying ────────────────────────────────────────────────────────────────────────────────

    def says(self, envelope: Envelope, frame: bytes, receiver: int) -> Said:
        """What goes to a receiver in place of a message of the liar's node."""
        if receiver == (self._index + 1) % self._nodes:  # once for each message, or nearly so
            self._note(envelope, frame)
        if self._does("silent") or self._does("withhold"):
            return []
        late = self._rng.expovariate(0.5) if self._does("late") else 0.0
        kind = envelope.kind
        if kind.endswith(VOTES):
            frames = self._vote(envelope, frame, receiver)
        elif kind.endswith("choice/proposal"):
            frames = self._proposal(envelope, frame)
        elif kind.endswith("contribution"):
            frames = self._contribution(envelope, frame)
        elif kind == "attestation" and self._does("attest all"):
            digests = sorted(self._contributions)[-2 * self._nodes :]
            frames = [self._mine(envelope, canonical.dumps(digests))] if digests else [frame]
        elif kind in SHARDED and envelope.head in self._heads and self._does(SHARDED[kind]):
            frames = self._sharded(envelope, receiver)
        elif kind in FALSE and self._does("false answers"):
            made = self._false(kind)
            frames = [frame if made is None else self._mine(envelope, made)]
        elif kind.endswith(ANSWERS) and self._does("wrong answers"):
            frames = [self._wrong(envelope)]
        else:
            frames = [frame]
        return [(late, item) for item in frames]

    def _vote(  # noqa: PLR0911 - a lie each
        self, envelope: Envelope, frame: bytes, receiver: int
    ) -> list[bytes]:
        rng, kind = self._rng, envelope.kind
        if self._does("no votes"):
            return []
        if "votes for few" in self._character.rates:
            few = self._few.setdefault(
                (kind, envelope.round),
                frozenset(rng.sample(range(self._nodes), rng.randrange(1, self._nodes))),
            )
            return [frame] if receiver in few else []
        if self._does("contrary"):
            return [self._mine(envelope, canonical.dumps(None))]
        if self._does("echoed votes"):
            theirs = self._last_vote.get((receiver, kind))
            if theirs is not None and theirs.round == envelope.round:
                return [self._mine(envelope, theirs.payload)]
        other = [canonical.dumps(None), *[item.payload for item in self._payloads[kind]][-6:]]
        decision = _decision(envelope.payload) if kind.startswith("outcome/") else None
        if decision is not None:
            void = Void(rng.choice(["QRES-E507", "QRES-E604", "QRES-E701"]))
            results: list[Merged | Void] = [void, Merged(rng.randbytes(32))]
            other.append(encode_conclusion(attrs.evolve(decision, result=rng.choice(results))))
            if self._does("other outcomes"):
                return [self._mine(envelope, other[-1])]
        else:
            other.append(canonical.dumps(rng.randbytes(32)))
        if self._does("wild votes"):
            return [self._mine(envelope, rng.choice(other))]
        if self._does("double votes"):
            pair = [frame, self._mine(envelope, rng.choice(other))]
            rng.shuffle(pair)
            return pair
        return [frame]

    def _proposal(self, envelope: Envelope, frame: bytes) -> list[bytes]:
        rng = self._rng
        if envelope.kind != PROPOSAL:
            return [self._wrong(envelope)] if self._does("two proposals") else [frame]
        proposal = Proposal.from_bytes(envelope.payload, self._nodes)
        members = list(proposal.candidate.members)
        if self._does("fresh sets"):  # whatever a quorum voted for before
            made = self._of_round(envelope)
            return [self._mine(envelope, made)] if made else [frame]
        if self._does("two proposals"):
            del members[rng.randrange(len(members))]
            other = self._fresh(proposal, members)
            return [rng.choice([frame, self._mine(envelope, other)])]
        if self._does("bad proposals"):
            which = rng.randrange(4)
            if which == 0:  # a stranger
                members[0] = Member(rng.randbytes(32), members[0].digest)
            elif which == 1:  # too few
                members = members[: rng.randrange(1, len(members) + 1)]
            elif which == 2:  # what nobody has
                members[0] = attrs.evolve(members[0], digest=rng.randbytes(32))
            else:
                members[0] = attrs.evolve(members[0], standing=1)
            members.sort(key=lambda member: member.sender)
            return [self._mine(envelope, self._fresh(proposal, members))]
        return [frame]

    def _of_round(self, envelope: Envelope) -> bytes:
        """A fresh set of contributions of the round; empty where they are too few."""
        found = {
            made.sender: Member(made.sender, digest)
            for digest, made in self._contributions.items()
            if made.round == envelope.round and made.head == envelope.head
        }
        quorum = self._heads[envelope.head].roster.quorum if envelope.head in self._heads else 0
        chosen = self._rng.sample(sorted(found), min(quorum, len(found)))
        if not quorum or len(chosen) < quorum:
            return b""
        members = tuple(found[sender] for sender in sorted(chosen))
        return Proposal(CandidateSet(envelope.round, members)).to_bytes()

    @staticmethod
    def _fresh(proposal: Proposal, members: list[Member]) -> bytes:
        candidate = attrs.evolve(proposal.candidate, members=tuple(members))
        return attrs.evolve(proposal, candidate=candidate, lock_round=0, prevotes=()).to_bytes()

    def _contribution(self, envelope: Envelope, frame: bytes) -> list[bytes]:
        if not self._does("two contributions"):
            return [frame]
        if self._world.setting.swarm.get("aggregation") == "sharded":
            header = ContributionHeader.from_bytes(envelope.payload)
            forged = attrs.evolve(header, root=self._rng.randbytes(32)).to_bytes()
            return [self._rng.choice([frame, self._mine(envelope, forged)])]
        body = ContributionBody.from_bytes(envelope.payload, self._world.setting.dimension)
        vector = body.vector + np.int32(self._rng.randrange(1, 4))
        payload = attrs.evolve(body, vector=vector).to_bytes()
        return [self._rng.choice([frame, self._mine(envelope, payload)])]

    def _sharded(self, envelope: Envelope, receiver: int) -> list[bytes]:
        """A lie of a member of committees, or of a sender that serves half of them."""
        head, dimension = self._heads[envelope.head], self._world.setting.dimension
        plan, kind = ShardPlan.at(head, dimension), envelope.kind
        zeros = plan.cut(np.zeros(dimension, dtype=np.int32))
        members = len(head.roster)
        if kind == PART:
            return [] if receiver % 2 else [envelope.to_bytes()]
        if kind == HELD:
            seats = plan.seats(envelope.sender)
            named, blocks = decode_held(envelope.payload, len(seats), 9 * members, members)
            all_of = dict.fromkeys(named, (1 << len(seats)) - 1)
            full = [attrs.evolve(item, seats=(item.members,) * len(seats)) for item in blocks]
            return [self._mine(envelope, encode_held(all_of, full))]
        if kind == RESULT:
            made = MergedShard.from_bytes(envelope.payload, len(plan), 2**20)
            lie = MergedShard(made.chosen, made.index, zeros.shards[made.index])
            return [self._mine(envelope, lie.to_bytes())]
        name, results = decode_shard_results(envelope.payload, len(plan))
        false: dict[int, ShardResult] = {index: zeros.leaves[index] for index in results}
        return [self._mine(envelope, encode_shard_results(name, false))]

    def _wrong(self, envelope: Envelope) -> bytes:
        """An answer that is old, or of another kind's, or broken."""
        rng, earlier = self._rng, self._payloads[envelope.kind]
        if earlier and rng.random() < 0.6:
            return self._mine(envelope, rng.choice(earlier).payload)
        payload = bytearray(envelope.payload or b"\0")
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        return self._mine(envelope, bytes(payload))

    # ── unasked ───────────────────────────────────────────────────────────────────────────────

    def _act(self) -> None:
        for lie, act in self._unasked.items():
            if self._does(lie) and self._world.nodes[self._index].machine is not None:
                act()
        pause = self._rng.expovariate(1 / self._character.pause) + 0.01
        self._world.clock.after(2 * pause if self._world.healed else pause, self._act)

    def _replay(self) -> None:
        """What others said, again, to somebody."""
        for _frame in range(3):
            if self._heard:
                envelope, frame = self._rng.choice(self._heard)
                self._give(envelope, frame, self._victim())

    def _again(self) -> None:
        """What others or itself said, as its own, of then or of now."""
        if not self._heard:
            return
        envelope, _frame = self._rng.choice(self._heard)
        number, head = envelope.round, envelope.head
        if self._rng.random() < 0.5:
            number, head = self._now()
        made = self._make(envelope.kind, envelope.payload, number, head)
        self._give(made, made.to_bytes(), self._victim())

    def _quorums(self, step: str, *, here: bool) -> list[tuple[Any, tuple[Envelope, ...]]]:
        """Votes that it heard for one thing, with its own, where they may be enough."""
        _now, head = self._now()
        found: list[tuple[Any, tuple[Envelope, ...]]] = []
        for key, heard in self._votes.items():
            kind, number, of, payload = key
            if not kind.endswith(step) or (here and of != head) or of not in self._heads:
                continue
            votes = dict(heard)
            enough = self._heads[of].roster.threshold
            if len(votes) + 2 >= enough:
                own = self._make(kind, payload, number, of)
                votes.setdefault(own.sender, own)
                found.append((key, tuple(votes[sender] for sender in sorted(votes))))
        return found

    def _assemble(self) -> None:
        """A lock made of votes that it heard, with its own, shown or proposed."""
        known = self._quorums("prevote", here=True)
        if not known:
            return
        (kind, number, head, payload), votes = self._rng.choice(known)
        now, _head = self._now()
        says = self._rng.choice(["lock", "proposal"])
        if kind.startswith("outcome/"):
            decision = _decision(payload)
            if decision is None:
                return
            lie, now = OutcomeProposal(decision, number, votes).to_bytes(), number + 1
        elif (candidate := self._sets.get(_choice(payload))) is not None:
            lie = Proposal(candidate, number, votes).to_bytes()
        else:
            return
        made = self._make(f"{kind.partition('/')[0]}/{says}", lie, now, head)
        for victim in self._victims():
            self._give(made, made.to_bytes(), victim)

    def _push_decided(self) -> None:
        """A decision that it can prove, with what was decided, to whoever it likes."""
        known = self._quorums("precommit", here=self._rng.random() < 0.6)
        if not known:
            return
        (kind, number, of, payload), votes = self._rng.choice(known)
        now, _head = self._now()
        if kind.startswith("outcome/"):
            decision = _decision(payload)
            candidate = self._sets.get(b"" if decision is None else decision.chosen)
            if decision is None or candidate is None:
                return
            link = Link(self._heads[of], candidate, decision.result, number, votes)
            made = self._make(LINKS, encode_links([link]), now, of)
        else:
            candidate = self._sets.get(_choice(payload))
            if candidate is None:
                return
            proof = Certificate(candidate, number, votes).to_bytes()
            made = self._make(CERTIFICATE, proof, now, of)
        for victim in self._victims():
            self._give(made, made.to_bytes(), victim)
            for member in candidate.members:
                held = self._contributions.get(member.digest)
                if held is not None:
                    quoted = self._make(FETCHED, held.to_bytes(), now, of)
                    self._give(quoted, quoted.to_bytes(), victim)

    def _private_faults(self) -> None:
        """Lies that prove themselves, towards one node and nobody else."""
        honest = [node.index for node in self._world.honest]
        victim = honest[self._index % len(honest)]
        now, head = self._now()
        machine = self._world.nodes[victim].machine
        if machine is not None:  # it sees what the victim says
            now, head = machine.number, machine.head.digest
        for kind, payload in (
            ("choice/prevote", b"\xf7"),
            ("choice/precommit", b"\xf7"),
            ("choice/proposal", b"\xf6"),
            ("outcome/prevote", b"\xf7"),
            ("outcome/proposal", b"\x80"),
            ("links", b"\x80"),
            ("certificate", b"\x01"),
            ("fetched", b"\x02"),
            ("sync", b"\x03"),
        ):
            made = self._make(kind, payload, now, head)
            self._give(made, made.to_bytes(), victim)

    def _garbage(self) -> None:
        """Bytes."""
        rng = self._rng
        frame = rng.randbytes(rng.randrange(60))
        if self._heard and rng.random() < 0.7:
            octets = bytearray(rng.choice(self._heard)[1])
            octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
            frame = bytes(octets)
        now, head = self._now()
        self._give(self._make("noise", b"", now, head), frame, self._victim())

    # ── of the past ───────────────────────────────────────────────────────────────────────────

    def _feed(self) -> None:
        """A lie about the past, to a node that seems to lag if there is one, once or many times."""
        told = [lie for lie in PAST if lie in self._character.rates]
        victim = self._victim()
        lag = [who for who in sorted(self._at) if self._lags(who)]
        if lag and self._rng.random() < 0.8:  # above all who is furthest behind
            last = min(lag, key=lambda who: self._heads[self._at[who][0]].height)
            victim = self._rng.choice([last, last, *lag])
        lie = self._rng.choice(told)
        if lie == "false answers" or self._streams or self._rng.random() < 0.3:
            self._mislead(lie, victim)
            return
        links = self._links(lie, victim)
        if links:
            self._streams = True
            self._stream(encode_links(links[:3]), victim, 20, self._at.get(victim, (b"",))[0])

    def _kept_words(self) -> None:
        """What told members truly that they were removed, once they are members again."""
        for victim, told in sorted(self._world.told_removed.items()):
            for envelope, frame in told if self._world.is_back(victim) else ():
                self._give(envelope, frame, victim)

    def _lags(self, node: int) -> bool:
        """Whether the last that a node spoke of is a head that the liar left."""
        head, when = self._at.get(node, (b"", 0.0))
        past = head in self._heads and head != self._now()[1]
        return past and self._world.seconds < when + FORGOTTEN

    def _stream(self, payload: bytes, victim: int, left: int, there: bytes) -> None:
        """The same links to the same node, so often that no other may be believed for long.

        At least so many times, and for as long as the node lags and does not move.
        """
        stays = self._lags(victim) and self._at[victim][0] == there
        runs = self._world.nodes[self._index].machine is not None
        self._streams = runs and (left > 0 or stays)
        if self._streams:
            made = self._make(LINKS, payload, *self._now())
            self._give(made, made.to_bytes(), victim)
            again = partial(self._stream, payload, victim, left - 1, there)
            self._world.clock.after(STREAM_PAUSE, again)

    def _mislead(self, lie: str, victim: int) -> None:
        """Something false about the past, said once."""
        rng, past = self._rng, self._past
        if self._world.nodes[self._index].machine is None:
            return
        if lie != "false answers":
            links = self._links(lie, victim)
            if links:
                made = self._make(LINKS, encode_links(links), *self._now())
                self._give(made, made.to_bytes(), victim)
            return
        if past.frames and rng.random() < 0.3:  # what others said to this node alone
            envelope, frame = rng.choice(past.frames)
            self._give(envelope, frame, victim)
            return
        kind, payload = rng.choice(FALSE), None
        if kind == "sync":
            kind, payload = past.question(of_model=True)
        elif kind != LINKS:
            payload = self._false(kind)
        if payload is not None:
            made = self._make(kind, payload, *self._now())
            self._give(made, made.to_bytes(), victim)

    def _links(self, lie: str, victim: int) -> list[Link]:
        """Links that mislead a node."""
        there = self._heads.get(self._at.get(victim, (b"",))[0])
        height = 0 if there is None else there.height
        past = self._past
        return past.true_links(height) if lie == "old links" else past.mixed_links(height)

    def _false(self, kind: str) -> bytes | None:
        """What is false in an answer or a question of a kind; ``None`` if it knows too little."""
        past, kernel = self._past, self._world.nodes[self._index].kernel
        if not past or kernel is None:
            return None
        if kind == LINKS:
            return encode_links(past.mixed_links(0))
        if kind == "model":
            return past.model()
        if kind == "head":
            return past.head(kernel.settings, model_digest(self._world.initial, 0))
        return past.question()[1] if kind == "sync" else None

    # ── making ────────────────────────────────────────────────────────────────────────────────

    def _victim(self) -> int:
        others = [index for index in range(self._nodes) if index != self._index]
        return self._rng.choice(others)

    def _victims(self) -> list[int]:
        return [
            index
            for index in range(self._nodes)
            if index != self._index and self._rng.random() < 0.6
        ]

    def _now(self) -> tuple[int, bytes]:
        machine = self._world.nodes[self._index].machine
        return (1, bytes(32)) if machine is None else (machine.number, machine.head.digest)

    def _mine(self, envelope: Envelope, payload: bytes) -> bytes:
        return self._make(envelope.kind, payload, envelope.round, envelope.head).to_bytes()

    def _make(self, kind: str, payload: bytes, number: int, head: bytes) -> Envelope:
        """A message that the liar signs."""
        node = self._world.nodes[self._index]
        assert node.machine is not None  # noqa: S101 - it runs
        time_ms = int(node.clock(self._world.clock.now) * 1000)
        swarm = self._world.config.swarm.name
        envelope = Envelope(
            swarm, kind, number, head, node.node_id, node.machine.take_sequence(), time_ms, payload
        )
        assert node.kernel is not None  # noqa: S101 - it runs
        return node.kernel.sign(envelope)

    def _give(self, envelope: Envelope, frame: bytes, victim: int) -> None:
        world = self._world
        world.tell(f"liar {self._index} gives {envelope.kind} of {envelope.round} to {victim}")
        world.clock.after(
            0.0,
            partial(world.carry, world.nodes[self._index], world.nodes[victim], frame, envelope),
        )


def _choice(payload: bytes) -> bytes:
    value = canonical.loads(payload, max_bytes=4096)
    return value if isinstance(value, bytes) else b""


def _decision(payload: bytes) -> Conclusion | None:
    try:
        return decode_conclusion(payload)
    except QresError:
        return None
