"""What a node must not forget: votes, lock, model, sequence numbers.

A vote is recorded before the message that carries it leaves, so that a node that was killed and
restarted cannot vote twice.

The journal of a real node is one SQLite file that survives the process and the power. It holds six
*facts*, each a canonical CBOR value with its SHA-256: who the node is, the model, what made it, the
votes of the last round, the lock, the next sequence number. All six are there from the first
moment, so a missing one is damage and not a beginning. Nothing is ever repaired or begun anew.

The messages of the sets that lock and model rest on are rows of their own, each by the digest that
is signed: what was locked is most often what is merged, and is written once; and no value grows
with the swarm beyond what SQLite takes.

A commit is on the disk when a method returns (:mod:`qres_core.contract.stores.database`). What is
lost with the log ``journal.sqlite-wal``, deleted after a crash, cannot be noticed; leave the folder
as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import attrs
import numpy as np

from qres_core.contract.errors import WireError
from qres_core.contract.stores import Facts, PrivateDatabase, StoreKind
from qres_core.contract.types import NodeId, Vector, check_vector, model_digest
from qres_core.contract.wire import Envelope

SEQUENCE_BLOCK: Final = 1024
"""Sequence numbers are reserved in blocks, so that not every message costs a sync to disk."""


@attrs.frozen(eq=False)
class JournalEntry:
    """A set that a node must not forget."""

    head: bytes  # what was said of it: an encoded proposal or handover
    # those that the set's contributions came in, of any size together
    messages: tuple[Envelope, ...] = ()


@attrs.frozen(eq=False)
class Resume:
    """Where a node stopped."""

    model: Vector  # its model
    step: int  # how many rounds closed before it
    model_round: int  # round that made the model, 0 for the initial one
    last_round: int  # highest round it voted in; it never votes in that or an earlier one again
    # the proposal it is locked on, or ``None``. Were its contributions not kept, a swarm that
    # restarts while a quorum is locked could neither merge the set nor vote for another.
    lock: JournalEntry | None
    # what made the model, to help nodes that lack it; ``None`` for the initial model and one taken
    # from a snapshot
    handover: JournalEntry | None = None


class Journal(Protocol):
    """Durable memory of one node. Every method returns only once the fact is safe."""

    def resume(self) -> Resume | None:
        """Where the node stopped, or ``None`` for a new one."""
        ...

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """The node is about to vote."""
        ...

    def record_lock(self, lock: JournalEntry | None) -> None:
        """The node is locked on a proposal, or free."""
        ...

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """The node has a new model, made by ``handover``; its lock is void."""
        ...

    def reserve_sequence(self) -> int:
        """First of the next :data:`SEQUENCE_BLOCK` sequence numbers, never given before."""
        ...


class MemoryJournal:
    """A journal for simulations: nothing survives the process."""

    def __init__(self) -> None:
        self._next = 0

    def resume(self) -> Resume | None:
        """Always a new node."""
        return None

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Nothing to keep."""

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Nothing to keep."""

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """Nothing to keep."""

    def reserve_sequence(self) -> int:
        """Counts within the process."""
        first = self._next
        self._next += SEQUENCE_BLOCK
        return first


FILE: Final = "journal.sqlite"
APPLICATION_ID: Final = 0x51524553
"""``QRES`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1

_KIND: Final = StoreKind(
    file=FILE,
    name="a store of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-core",
    remedy="bring the folder back as it was, or move it away and join under a new identity: "
    "a node that forgot its votes must not vote under the old one",
)
_FACTS: Final = ("identity", "model", "handover", "votes", "lock", "sequence")
_RECORDS: Final = ("lock", "handover")
_MESSAGES: Final = "CREATE TABLE message (digest BLOB PRIMARY KEY, frame BLOB NOT NULL)"
_DOMAIN: Final = b"qres/store/v1"


def _octets(model: Vector) -> bytes:
    return np.ascontiguousarray(model, dtype="<i4").tobytes()


class SqliteJournal:
    """Durable memory of one node, in ``journal.sqlite``; one process at a time.

    A new store is made where there is none, the folder for its owner alone (mode 0700, file 0600).

    Args:
        folder: the node's own folder.
        swarm: name of the swarm; the store is bound to it.
        node_id: this node's identity, 32 bytes; bound too.
        initial: the swarm's first model, int32, shape ``(d,)``; bound too, and what a node that
            stopped in its first rounds resumes with.

    Raises:
        RoundError: QRES-E602 when the store is damaged, of another swarm, node, initial model or
            version, open elsewhere, or cannot be made. Every method raises it when the disk does
            not take what must be kept.
        ValueRefusedError: QRES-E502 or QRES-E503 for ``initial``.

    Complexity: a method that records syncs the disk once; a model costs O(d).
    """

    def __init__(self, folder: Path, *, swarm: str, node_id: NodeId, initial: Vector) -> None:
        check_vector(initial, "initial")
        digest = model_digest(initial, 0)

        def fill(database: PrivateDatabase) -> None:
            facts = Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("identity", [swarm, node_id, digest])
            facts.write("model", [0, 0, _octets(initial)])
            facts.write("votes", [0, dict[str, bytes]()])
            facts.write("lock", None)
            facts.write("handover", None)
            database.execute(_MESSAGES)
            facts.write("sequence", 0)

        self._db = PrivateDatabase.open(folder, _KIND, fill)
        self._facts = Facts(self._db, _DOMAIN)
        try:
            found = {name: self._facts.read(name) for name in _FACTS}["identity"]
            self._db.expect_owner(
                swarm=(swarm, found[0]), node=(node_id, found[1]), initial_model=(digest, found[2])
            )
        except BaseException:
            self._db.close()
            raise

    # ── the journal ───────────────────────────────────────────────────────────────────────────

    def resume(self) -> Resume | None:
        """Where the node stopped; ``None`` while it has neither voted nor made a model."""
        with self._db.one_state():
            model_round, step, octets = self._facts.read("model")
            last_round, _votes = self._facts.read("votes")
            lock, handover = self._kept("lock"), self._kept("handover")
        if last_round == 0 and step == 0 and lock is None:
            return None
        model = np.frombuffer(octets, dtype="<i4").astype(np.int32)
        return Resume(check_vector(model, "model"), step, model_round, last_round, lock, handover)

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote; those of earlier rounds are forgotten.

        Raises RoundError: QRES-E602 also for a vote that would be equivocation: other than the one
        recorded, or of a round before the last.
        """
        with self._db.transaction():
            last_round, recorded = self._facts.read("votes")
            votes: dict[str, bytes | None] = recorded if round_number == last_round else {}
            if round_number < last_round:
                what = f"a {kind} of round {round_number} after one of round {last_round}"
                raise self._db.unusable(what)
            if kind in votes and votes[kind] != choice:
                raise self._db.unusable(f"a second, different {kind} of round {round_number}")
            self._facts.write("votes", [round_number, {**votes, kind: choice}])

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Keep what the node is locked on."""
        with self._db.transaction():
            self._set("lock", lock)
            self._drop_unnamed()

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """Keep the model and what made it and void the lock, all or nothing."""
        with self._db.transaction():
            self._set("handover", handover)
            self._facts.write("model", [round_number, step, _octets(model)])
            self._set("lock", None)
            self._drop_unnamed()

    def _set(self, name: str, record: JournalEntry | None) -> None:
        """Set a record and write the messages that are not here yet."""
        if record is None:
            self._facts.write(name, None)
            return
        digests = [message.signing_digest for message in record.messages]
        self._facts.write(name, [record.head, digests])
        here = self._here()
        for digest, message in zip(digests, record.messages, strict=True):
            if digest not in here:
                self._db.execute("INSERT INTO message VALUES (?, ?)", (digest, message.to_bytes()))

    def _drop_unnamed(self) -> None:
        """Drop the messages of no record."""
        wanted: set[bytes] = set()
        for name in _RECORDS:
            _head, named = self._facts.read(name) or (b"", ())
            wanted.update(named)
        dropped = [(item,) for item in self._here() - wanted]
        self._db.execute_many("DELETE FROM message WHERE digest = ?", dropped)

    def _here(self) -> set[bytes]:
        return {digest for (digest,) in self._db.rows("SELECT digest FROM message")}

    def _kept(self, name: str) -> JournalEntry | None:
        fact = self._facts.read(name)
        if fact is None:
            return None
        head, digests = fact
        return JournalEntry(head, tuple(self._message(digest) for digest in digests))

    def _message(self, digest: bytes) -> Envelope:
        found = self._db.row("SELECT frame FROM message WHERE digest = ?", digest)
        frame = None if found is None else found[0]
        try:
            if type(frame) is bytes:
                message = Envelope.from_bytes(frame, max_bytes=len(frame))
                if message.signing_digest == digest:  # over all of it but the authenticators
                    return message
        except WireError:
            pass
        raise self._db.unusable("a message of a record is missing or damaged")

    def reserve_sequence(self) -> int:
        """First of a block of numbers that no run of this node was given before."""
        with self._db.transaction():
            first: int = self._facts.read("sequence")
            self._facts.write("sequence", first + SEQUENCE_BLOCK)
        return first

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
