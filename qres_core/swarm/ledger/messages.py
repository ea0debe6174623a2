"""Payloads of the round's own messages.

Every decoder maps any bytes to a value or to a :class:`WireError` that names the field. Signatures,
rounds and senders are the envelope's business, not the payload's.

=============  ==================================================================================
kind           payload
=============  ==================================================================================
contribution   weight, vector (packed), proofs by plugin, companions by plugin
choice/...     of the first instance of a height, which decides a set:
  proposal     a candidate set; for a set proposed before, the prevotes that locked it
  prevote      digest of a set, or null
  precommit    digest of a set, or null
  lock         as a proposal: why the sender did not prevote for what was proposed
certificate    a set and the precommits that decided it
outcome/...    of the second, which decides what becomes of the set. The round counts its attempts:
  proposal     a decision; for one proposed before, the prevotes that locked it
  prevote      a decision, or null; in the first attempt what the sender found by itself
  precommit    a decision, or null
  lock         as a proposal: why the sender did not prevote for what was proposed
fetch          digests of contributions the sender lacks
fetched        a contribution, quoted whole: its own sequence number has passed by
attestation    digests of contributions whose proofs the sender checked and found good
sync           "what did I miss since the head this envelope names?"; its height and roster's epoch
head           the sender's head, settings and first model, for a node whose history is another
links          decided heights, each with the votes that decided it
fetch-model    "what is the model of this digest?"
model          its vector (packed)
enough         number of a model that reached ``swarm.until`` for the sender; digest of that goal
stop           ``enough`` messages of as many nodes as decide a vote
dialogue/...   a plugin's own: ``dialogue/<plugin>/<step>``, with ``/<rank>`` of who is addressed
holding        names of the dialogues' messages that the sender has of a round, 16 bytes each
relayed        dialogues' messages that who asked lacks, quoted whole
=============  ==================================================================================

How a vector is packed: :mod:`qres_core.contract.packing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs

from qres_core.contract import canonical, packing
from qres_core.contract.companion import MAX_COMPANION_BYTES, MAX_MODULUS_BITS, Companion
from qres_core.contract.errors import ValueRefusedError, WireError
from qres_core.contract.types import (
    DIGEST_BYTES,
    FULL_STANDING,
    MAX_WEIGHT,
    NODE_ID_BYTES,
    NodeId,
    Vector,
)
from qres_core.contract.wire import ENVELOPE_OVERHEAD, Envelope
from qres_core.swarm.ledger.fields import Fields
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.results import Conclusion
from qres_core.swarm.ledger.roster import RosterChange

CONTRIBUTION: Final = "contribution"
CHOICE: Final = "choice/"
PROPOSAL: Final = "choice/proposal"
PREVOTE: Final = "choice/prevote"
PRECOMMIT: Final = "choice/precommit"
LOCK: Final = "choice/lock"
CERTIFICATE: Final = "certificate"
OUTCOME: Final = "outcome/"
OUTCOME_PROPOSAL: Final = "outcome/proposal"
OUTCOME_PREVOTE: Final = "outcome/prevote"
OUTCOME_PRECOMMIT: Final = "outcome/precommit"
OUTCOME_LOCK: Final = "outcome/lock"
FETCH: Final = "fetch"
FETCHED: Final = "fetched"
ATTESTATION: Final = "attestation"
SYNC: Final = "sync"
HEAD: Final = "head"
LINKS: Final = "links"
FETCH_MODEL: Final = "fetch-model"
MODEL: Final = "model"
ENOUGH: Final = "enough"
STOP: Final = "stop"
DIALOGUE: Final = "dialogue/"
HOLDING: Final = "holding"
RELAYED: Final = "relayed"

MAX_PROOF_BYTES: Final = 2**20
MAX_PROOFS: Final = 8
MAX_COMPANIONS: Final = 8
MAX_SAID: Final = 64
"""Messages that a node's dialogues say in a round to everybody, and to each node beside."""
SAID_BYTES: Final = 16
"""Of a name of a dialogue's message. Two messages with one name, which take 2**64 tries to find,
would let their author alone keep one of them from some nodes."""
RELAY_BYTES: Final = 2**18
"""A ``relayed`` message quotes no further one beyond so many bytes."""
MAX_RELAYED: Final = 1024
"""Messages that one ``relayed`` message quotes."""
_MAX_ITEMS: Final = 256
"""Values in lists and maps, in whatever message, beside those for each node."""


_FIELDS: Final = Fields("payload.")
_bad, _list, _octets, _number = _FIELDS.bad, _FIELDS.listed, _FIELDS.octets, _FIELDS.number
_items = _FIELDS.items


def _frames(value: object, most: int, max_bytes: int, field: str) -> tuple[Envelope, ...]:
    frames: list[Envelope] = []
    for item in _items(value, 0, most, field):
        if type(item) is not bytes:
            raise _bad(field, "expected encoded messages")
        frames.append(Envelope.from_bytes(item, max_bytes=max_bytes))
    return tuple(frames)


def encode_contribution(
    weight: int,
    packed: bytes,
    proofs: Mapping[str, bytes],
    companions: Mapping[str, Companion] | None = None,
) -> bytes:
    """The payload of a contribution, unchecked: what a liar sends goes through here too."""
    beside = {
        name: [_modulus_bytes(companion.modulus), companion.body]
        for name, companion in (companions or {}).items()
    }
    return canonical.dumps([weight, packed, dict(proofs), beside])


def decode_contribution(
    payload: bytes, most: int
) -> tuple[int, Any, dict[str, bytes], dict[str, Companion]]:
    """Weight, vector or what stands for it, proofs and companions, as they were encoded.

    ``most``: bytes that the vector takes at most; what it is, is not looked at. Raises WireError:
    QRES-E401 to QRES-E404.
    """
    limit = most + MAX_PROOFS * (MAX_PROOF_BYTES + 100) + 100
    limit += MAX_COMPANIONS * (MAX_COMPANION_BYTES + 200)
    value = canonical.loads(payload, max_bytes=limit, views=True, max_items=_MAX_ITEMS)
    weight, packed, proofs, companions = _list(value, 4, "contribution")
    _number(weight, 1, MAX_WEIGHT, "weight")
    return weight, packed, _proofs(proofs), _companions(companions)


def _modulus_bytes(modulus: int) -> bytes:
    return modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")


def _companions(value: object) -> dict[str, Companion]:
    if not canonical.is_map(value) or len(value) > MAX_COMPANIONS:
        raise _bad("companions", f"expected at most {MAX_COMPANIONS} companions by plugin")
    found: dict[str, Companion] = {}
    for name, item in value.items():
        modulus, body = _list(item, 2, "companions")
        if (
            type(name) is not str
            or type(modulus) is not memoryview
            or type(body) is not memoryview
            or len(modulus) > MAX_MODULUS_BITS // 8
            or bytes(modulus[:1]) == b"\0"
        ):
            raise _bad("companions", "expected a modulus without leading zeros and bytes")
        try:
            found[name] = Companion(bytes(body), int.from_bytes(modulus, "big"))
        except ValueRefusedError as error:
            raise _bad("companions", error.problems[0].what) from error
    return found


def _proofs(value: object) -> dict[str, bytes]:
    if not canonical.is_map(value) or len(value) > MAX_PROOFS:
        raise _bad("proofs", f"expected at most {MAX_PROOFS} proofs by plugin")
    found: dict[str, bytes] = {}
    for name, proof in value.items():
        if type(name) is not str or type(proof) is not memoryview or len(proof) > MAX_PROOF_BYTES:
            raise _bad("proofs", f"expected at most {MAX_PROOF_BYTES} bytes by plugin name")
        found[name] = bytes(proof)
    return found


_UNPACKED: Final = WeakValueDictionary[tuple[bytes, int], Vector]()
"""Vectors that somebody in this process holds, by payload and dimension. Nodes of one process, as
in a simulation, so hold each of them once."""


def _vector(payload: bytes, value: object, dimension: int) -> Vector:
    """The packed vector in a payload; one that is held already if the payload is the same."""
    if type(value) is not memoryview:
        raise _bad("vector", "expected bytes")
    vector = _UNPACKED.get((payload, dimension))
    if vector is None:
        vector = packing.unpack(value, dimension, "payload.vector")
        _UNPACKED[payload, dimension] = vector
    return vector


@attrs.frozen(eq=False)
class ContributionBody:
    """The payload of a contribution."""

    weight: int  # claimed number of examples, 1..2**30
    vector: Vector  # int32, shape ``(d,)``
    # proof bytes by plugin, at most 8 of at most 1 MiB
    proofs: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])
    # what travels beside the vector, by plugin, at most 8 of at most 1 MiB
    companions: Mapping[str, Companion] = attrs.field(factory=dict[str, Companion])

    def to_bytes(self) -> bytes:
        """Encode."""
        packed = packing.pack(self.vector)
        return encode_contribution(self.weight, packed, self.proofs, self.companions)

    @classmethod
    def from_bytes(cls, payload: bytes, dimension: int) -> ContributionBody:
        """Decode a vector of ``dimension`` coordinates.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        most = packing.most_bytes(dimension)
        weight, packed, proofs, companions = decode_contribution(payload, most)
        return cls(weight, _vector(payload, packed, dimension), proofs, companions)


def contribution_digest(envelope: Envelope) -> bytes:
    """Names a contribution by what it says, not by when it was sent; 32 bytes."""
    body = [
        envelope.swarm,
        envelope.round,
        envelope.head,
        envelope.sender,
        envelope.payload_digest,
    ]
    return hashlib.sha256(b"qres/contribution/v1\0" + canonical.dumps(body)).digest()


@attrs.frozen
class Member:
    """One contribution in a set."""

    sender: NodeId  # who made it
    digest: bytes  # :func:`contribution_digest` of it
    standing: int = FULL_STANDING  # influence the set gives it, in units of 2**-32, 1..2**32


@attrs.frozen
class CandidateSet:
    """A set of contributions to agree on."""

    origin: int  # the round the contributions were made in
    members: tuple[Member, ...]  # ascending by sender, distinct
    # proofs that a member lied, ascending by subject, distinct: they ban it from the next height
    evidence: tuple[Misbehaviour, ...] = ()
    change: RosterChange | None = None  # of the members, from the next height
    # whether the change holds only if the set makes a model, and a ban with the next model
    waits: bool = False

    def digest(self, head: bytes) -> bytes:
        """Names the set, bound to the head by its digest; what votes are about. 32 bytes.

        Signatures on evidence and change do not count: whether they hold is asked before the vote.
        """
        change = None if self.change is None else self.change.digest
        evidence = [item.digest for item in self.evidence]
        body = [head, self.origin, self._members(), evidence, change, self.waits]
        return hashlib.sha256(b"qres/set/v3\0" + canonical.dumps(body)).digest()

    def bare(self) -> CandidateSet:
        """The same set without what is signed on its change; nobody needs that once it is decided.

        The digest does not cover it, so a liar could hang as much on it as a message holds.
        """
        change = None if self.change is None else self.change.bare()
        return self if change is self.change else attrs.evolve(self, change=change)

    def _members(self) -> list[Any]:
        return [[m.sender, m.digest, m.standing] for m in self.members]

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        change = None if self.change is None else self.change.raw()
        evidence = [item.raw() for item in self.evidence]
        return [self.origin, self._members(), evidence, change, self.waits]

    @classmethod
    def from_raw(cls, value: Any, nodes: int) -> CandidateSet:
        """From plain data. Raises WireError."""
        origin, raw, proofs, change, waits = _list(value, 5, "set")
        _number(origin, 1, 2**63 - 1, "set.origin")
        members: list[Member] = []
        for item in _items(raw, 1, nodes, "set.members"):
            sender, digest, standing = _list(item, 3, "set.members")
            members.append(
                Member(
                    _octets(sender, NODE_ID_BYTES, "set.members.sender"),
                    _octets(digest, DIGEST_BYTES, "set.members.digest"),
                    _number(standing, 1, FULL_STANDING, "set.members.standing"),
                )
            )
        if any(a.sender >= b.sender for a, b in pairwise(members)):
            raise _bad("set.members", "expected distinct senders, ascending")
        items = _items(proofs, 0, nodes, "set.evidence")
        evidence = tuple(Misbehaviour.from_raw(item) for item in items)
        if any(a.subject >= b.subject for a, b in pairwise(evidence)):
            raise _bad("set.evidence", "expected distinct subjects, ascending")
        # A liar that proposes could else make links that are too large to be handed on.
        quoted = (len(message.to_bytes()) for item in evidence for message in item.messages)
        if sum(quoted) > EVIDENCE_BYTES:
            raise _bad("set.evidence", f"expected at most {EVIDENCE_BYTES} bytes of messages")
        wanted = None if change is None else RosterChange.from_raw(change, nodes)
        if type(waits) is not bool or (waits and not (evidence or wanted)):
            raise _bad("set.waits", "expected whether what the set carries waits for its model")
        return cls(origin, tuple(members), evidence, wanted, waits)


EVIDENCE_BYTES: Final = 2**18
"""Of the messages that a set quotes as evidence, all together."""


def _vote_limit(nodes: int) -> int:
    return nodes * 40_000 + 4096


def set_limit(nodes: int) -> int:
    """Most bytes of a set of a roster of so many nodes, with the votes that stand beside it."""
    return 2 * _vote_limit(nodes) + 2 * EVIDENCE_BYTES


def _most_items(nodes: int) -> int:
    return _MAX_ITEMS + 16 * nodes


def vote_frames(value: object, nodes: int, field: str) -> tuple[Envelope, ...]:
    """Quoted votes of at most so many nodes, not authenticated. Raises WireError."""
    return _frames(value, nodes, _vote_limit(1), field)


@attrs.frozen
class Proposal:
    """A candidate set, with the prevotes that locked it if it was proposed before."""

    candidate: CandidateSet  # the set
    lock_round: int = 0  # round in which a quorum prevoted for it, 0 for a fresh set
    prevotes: tuple[Envelope, ...] = ()  # the messages of that quorum

    def to_bytes(self) -> bytes:
        """Encode."""
        raw = self.candidate.raw()
        return canonical.dumps([raw, self.lock_round, [vote.to_bytes() for vote in self.prevotes]])

    @classmethod
    def from_bytes(cls, payload: bytes, nodes: int) -> Proposal:
        """Decode. Raises WireError."""
        value = canonical.loads(payload, max_bytes=set_limit(nodes), max_items=_most_items(nodes))
        raw, lock_round, votes = _list(value, 3, "proposal")
        return cls(
            CandidateSet.from_raw(raw, nodes),
            _number(lock_round, 0, 2**63 - 1, "proposal.lock_round"),
            _frames(votes, nodes, _vote_limit(1), "proposal.prevotes"),
        )


@attrs.frozen
class OutcomeProposal:
    """Proposal for the fate of a set, with the prevotes that locked it if it is an old one."""

    decision: Conclusion
    lock_round: int = 0  # attempt in which a quorum prevoted for it, 0 for a fresh one
    prevotes: tuple[Envelope, ...] = ()  # the messages of that quorum

    def to_bytes(self) -> bytes:
        """Encode."""
        raw = self.decision.raw()
        return canonical.dumps([raw, self.lock_round, [vote.to_bytes() for vote in self.prevotes]])

    @classmethod
    def from_bytes(cls, payload: bytes, nodes: int) -> OutcomeProposal:
        """Decode. Raises WireError."""
        value = canonical.loads(payload, max_bytes=_vote_limit(nodes), max_items=_most_items(nodes))
        raw, lock_round, votes = _list(value, 3, "outcome")
        return cls(
            Conclusion.from_raw(raw),
            _number(lock_round, 0, 2**63 - 1, "outcome.lock_round"),
            vote_frames(votes, nodes, "outcome.prevotes"),
        )


def encode_conclusion(decision: Conclusion | None) -> bytes:
    """The payload of a vote on the outcome."""
    return canonical.dumps(None if decision is None else decision.raw())


def decode_conclusion(payload: bytes) -> Conclusion | None:
    """The decision that a vote on the outcome is for. Raises WireError."""
    value = canonical.loads(payload, max_bytes=160)
    return None if value is None else Conclusion.from_raw(value)


def encode_vote(choice: bytes | None) -> bytes:
    """The payload of a prevote or precommit: a set's digest, or ``None``."""
    return canonical.dumps(choice)


def decode_vote(payload: bytes) -> bytes | None:
    """The set's digest a vote is for. Raises WireError."""
    value = canonical.loads(payload, max_bytes=64)
    return None if value is None else _octets(value, DIGEST_BYTES, "vote")


@attrs.frozen
class Certificate:
    """A decided set with the precommits that decided it."""

    candidate: CandidateSet  # the set
    round: int  # the round the precommits are of
    precommits: tuple[Envelope, ...]  # the messages of a quorum

    def to_bytes(self) -> bytes:
        """Encode."""
        raw = self.candidate.raw()
        return canonical.dumps([raw, self.round, [vote.to_bytes() for vote in self.precommits]])

    @classmethod
    def from_bytes(cls, payload: bytes, nodes: int) -> Certificate:
        """Decode. Raises WireError."""
        value = canonical.loads(payload, max_bytes=set_limit(nodes), max_items=_most_items(nodes))
        raw, round_number, votes = _list(value, 3, "certificate")
        return cls(
            CandidateSet.from_raw(raw, nodes),
            _number(round_number, 1, 2**63 - 1, "certificate.round"),
            _frames(votes, nodes, _vote_limit(1), "certificate.precommits"),
        )


def decode_fetch(payload: bytes, nodes: int) -> tuple[bytes, ...]:
    """The contribution digests a node asks for. Raises WireError."""
    value = canonical.loads(payload, max_bytes=40 * nodes + 16)
    return tuple(_octets(item, DIGEST_BYTES, "fetch") for item in _items(value, 0, nodes, "fetch"))


def decode_fetched(payload: bytes) -> Envelope:
    """The contribution a ``fetched`` message quotes, not authenticated. Raises WireError."""
    quoted = Envelope.from_bytes(payload, max_bytes=len(payload))
    if quoted.kind != CONTRIBUTION:
        raise _bad("fetched", "expected a contribution")
    return quoted


def decode_attestation(payload: bytes, most: int) -> tuple[bytes, ...]:
    """The digests of at most so many contributions that a node attests. Raises WireError."""
    value = canonical.loads(payload, max_bytes=40 * most + 16)
    items = _items(value, 1, most, "attestation")
    return tuple(_octets(item, DIGEST_BYTES, "attestation") for item in items)


def said_bytes(nodes: int) -> int:
    """Bytes of payload that a node's dialogues may say in a round of so many nodes."""
    return 2**20 + 256 * nodes


def said_id(envelope: Envelope) -> bytes:
    """Names a dialogue's message by what it says, not by when it was sent; 16 bytes."""
    body = [
        envelope.swarm,
        envelope.kind,
        envelope.round,
        envelope.head,
        envelope.sender,
        envelope.payload_digest,
    ]
    digest = hashlib.sha256(b"qres/said/v1\0" + canonical.dumps(body)).digest()
    return digest[:SAID_BYTES]


def encode_holding(names: Iterable[bytes]) -> bytes:
    """The payload of a ``holding`` message: names, ascending."""
    return b"".join(sorted(names))


def decode_holding(payload: bytes, nodes: int) -> frozenset[bytes]:
    """The names of the messages that a node holds. Raises WireError."""
    limit = SAID_BYTES * MAX_SAID * (nodes + 2)
    if len(payload) > limit:
        raise WireError.of("QRES-E401", "payload.holding", f"{len(payload)} bytes, limit {limit}")
    starts = range(0, len(payload), SAID_BYTES)
    names = [payload[start : start + SAID_BYTES] for start in starts]
    if len(payload) % SAID_BYTES or any(a >= b for a, b in pairwise(names)):
        raise _bad("holding", f"expected distinct names of {SAID_BYTES} bytes, ascending")
    return frozenset(names)


def encode_relayed(frames: Sequence[bytes]) -> bytes:
    """The payload of a ``relayed`` message: encoded messages of dialogues."""
    return canonical.dumps(list(frames))


def decode_relayed(payload: bytes, nodes: int) -> tuple[Envelope, ...]:
    """The messages that a ``relayed`` message quotes, not authenticated. Raises WireError."""
    most = said_bytes(nodes) + ENVELOPE_OVERHEAD
    limit = RELAY_BYTES + most + 16 * MAX_RELAYED
    value = canonical.loads(payload, max_bytes=limit, max_items=_MAX_ITEMS + MAX_RELAYED)
    return _frames(value, MAX_RELAYED, most, "relayed")


def encode_sync(height: int, epoch: int) -> bytes:
    """Encode the question of a node that lags: the height of its head, the epoch of its roster."""
    return canonical.dumps([height, epoch])


def decode_sync(payload: bytes) -> tuple[int, int]:
    """Height and epoch. Raises WireError."""
    height, epoch = _list(canonical.loads(payload, max_bytes=32), 2, "sync")
    return (
        _number(height, 0, 2**63 - 1, "sync.height"),
        _number(epoch, 0, 2**63 - 1, "sync.epoch"),
    )


def encode_model(vector: Vector) -> bytes:
    """The payload of a ``model`` message."""
    return packing.pack(vector)


def decode_model(payload: bytes, dimension: int) -> Vector:
    """A model of so many coordinates. Raises WireError."""
    return _vector(payload, memoryview(payload), dimension)


def decode_fetch_model(payload: bytes) -> bytes:
    """The digest of the model that a node asks for. Raises WireError."""
    return _octets(canonical.loads(payload, max_bytes=64), DIGEST_BYTES, "fetch-model")


def goal_digest(goal: str) -> bytes:
    """Digest of a goal in messages, 32 bytes: a node's word is for one goal only."""
    return hashlib.sha256(goal.encode()).digest()


def encode_enough(step: int, goal: bytes) -> bytes:
    """Encode the word of a node whose figures of a model reached the goal of that digest."""
    return canonical.dumps([step, goal])


def decode_enough(payload: bytes) -> tuple[int, bytes]:
    """Number of the model, and digest of the goal. Raises WireError."""
    step, goal = _list(canonical.loads(payload, max_bytes=64), 2, "enough")
    return _number(step, 0, 2**63 - 1, "enough.step"), _octets(goal, DIGEST_BYTES, "enough.goal")


def encode_stop(messages: Iterable[Envelope]) -> bytes:
    """Encode the word of a node that stops: the ``enough`` messages that let it."""
    return canonical.dumps([message.to_bytes() for message in messages])


def decode_stop(payload: bytes, nodes: int) -> tuple[Envelope, ...]:
    """The messages that a ``stop`` quotes, not authenticated. Raises WireError."""
    most = _MAX_ITEMS + nodes
    value = canonical.loads(payload, max_bytes=_vote_limit(nodes), max_items=most)
    return _frames(value, nodes, _vote_limit(1), "stop")
