"""Memory that a node must not lose: votes and locks, its height, the chain that led there.

A vote is recorded before the message that carries it leaves, so that a node that was killed and
restarted cannot vote twice.

The journal of a real node is one SQLite file that survives the process and the power. It holds
*facts*, each a canonical CBOR value with its SHA-256: who the node is, the head, the model, the
votes and locks of the two instances of the height, the decided set, the next sequence number. All
are there from the first moment, so a missing one is damage and not a beginning. Nothing is ever
repaired or begun anew.

The contributions of the sets that lock and decision rest on are rows of their own, each by the
digest that is signed: what was locked is most often what is decided, and is written once; and no
value grows with the swarm beyond what SQLite takes. The links of the chain that changed the members
stay for ever, for nodes that join, and so does the last link, for nodes that lag.

A commit is on the disk when a method returns (:mod:`qres_core.contract.stores.database`), or where
the machine records several facts before it says anything, when all of them are recorded
(:meth:`Journal.together`): each commit costs a sync of the disk. What is
lost with the log ``journal.sqlite-wal``, deleted after a crash, cannot be noticed; leave the folder
as it is.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import attrs
import numpy as np

from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.stores import Facts, PrivateDatabase, StoreKind
from qres_core.contract.types import NodeId, Vector, check_vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import CONTRIBUTION, OUTCOME, OUTCOME_PREVOTE
from qres_core.swarm.storage.shelf import ShelvedMessage

SEQUENCE_BLOCK: Final = 1024
"""Sequence numbers are reserved in blocks, so that not every message costs a sync to disk."""


@attrs.frozen(eq=False)
class JournalEntry:
    """A set that a node must not forget."""

    head: bytes  # what was said of it: an encoded proposal or certificate
    # those that the set's contributions came in, of any size together
    messages: tuple[Envelope, ...] = ()


@attrs.frozen(eq=False)
class Resume:
    """Place at which a node stopped."""

    head: Head  # of its height
    model: Vector  # its model, int32, shape ``(d,)``
    # those that changed the members and the last, ascending by height
    links: tuple[Link, ...] = ()
    last_round: int = 0  # highest round it voted in; it never votes in that or an earlier one again
    # the proposal it is locked on, or ``None``. Were its contributions not kept, a swarm that
    # restarts while a quorum is locked could neither merge the set nor vote for another.
    lock: JournalEntry | None = None
    chosen: JournalEntry | None = None  # certificate of the set that this height decided, if it has
    # of the second instance: its last attempt with the votes in it by kind, the vote of the first
    # attempt if there is one, and the encoded proposal that it is locked on
    attempt: int = 0
    ballots: tuple[tuple[int, str, bytes], ...] = ()
    outcome_lock: bytes | None = None
    made: Vector | None = None  # what the set merges to, where that cannot be made again


class Journal(Protocol):
    """Durable memory of one node. Every method returns only once the fact is safe.

    In a block of :meth:`together`, facts are safe when the block ends.
    """

    @property
    def folder(self) -> Path | None:
        """The node's own folder; ``None`` where nothing is kept."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Make the records of the block safe at its end, all together; nothing is said before.

        All of it is kept or, where the block raises, nothing. A height is safe at once
        (:meth:`record_height`), with all that was recorded before it.
        """
        ...

    def resume(self) -> Resume | None:
        """Place at which the node stopped, or ``None`` for a new one."""
        ...

    def begin(self, head: Head, settings: bytes) -> bytes:
        """The first head of a new node, and the encoded settings that it shares with the others.

        On a node that has said something before, nothing is kept. Returns the settings that it
        began with.
        """
        ...

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """The node is about to vote, to propose or to contribute.

        ``choice``: what a vote on the outcome says, encoded, and the digest of a set otherwise.
        """
        ...

    def record_lock(self, lock: JournalEntry | None) -> None:
        """The node is locked on a proposal of a set."""
        ...

    def record_outcome_lock(self, lock: bytes) -> None:
        """The node is locked on an outcome; the encoded proposal."""
        ...

    def record_chosen(self, chosen: JournalEntry) -> None:
        """The height decided its set, with contributions and certificate."""
        ...

    def record_made(self, model: Vector) -> None:
        """The set may become this model: others may lose theirs, and dialogues run only once."""
        ...

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        """The height is decided, and what bound the node at it is void.

        Safe at once, in a block of :meth:`together` too: plugins are told next, and keep what they
        make of it in stores of their own. ``links``: the one that decided it; or those that changed
        the members since, and the last.
        ``model``: the new one, ``None`` if it stays.
        """
        ...

    def contributions(self) -> tuple[bytes, int, int]:
        """The journal's own name, 16 random bytes, or empty where nothing is kept.

        Then in how many rounds a contribution left, and the number of the last of them.
        """
        ...

    def reserve_sequence(self) -> int:
        """First of the next :data:`SEQUENCE_BLOCK` sequence numbers, never given before."""
        ...


class MemoryJournal:
    """A journal for simulations: nothing survives the process."""

    def __init__(self) -> None:
        self._next = 0

    @property
    def folder(self) -> Path | None:
        """None."""
        return None

    def together(self) -> AbstractContextManager[None]:
        """Nothing to keep."""
        return nullcontext()

    def resume(self) -> Resume | None:
        """Always a new node."""
        return None

    def begin(self, head: Head, settings: bytes) -> bytes:
        """Always a new node."""
        del head
        return settings

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Nothing to keep."""

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Nothing to keep."""

    def record_outcome_lock(self, lock: bytes) -> None:
        """Nothing to keep."""

    def record_chosen(self, chosen: JournalEntry) -> None:
        """Nothing to keep."""

    def record_made(self, model: Vector) -> None:
        """Nothing to keep."""

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        """Nothing to keep."""

    def contributions(self) -> tuple[bytes, int, int]:
        """Nothing is known."""
        return b"", 0, 0

    def reserve_sequence(self) -> int:
        """Counts within the process."""
        first = self._next
        self._next += SEQUENCE_BLOCK
        return first


FILE: Final = "journal.sqlite"
APPLICATION_ID: Final = 0x51524553
"""``QRES`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 6

_KIND: Final = StoreKind(
    file=FILE,
    name="a store of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-core",
    remedy="bring the folder back as it was, or move it away and join under a new identity: "
    "a node that forgot its votes must not vote under the old one",
    instead="begin a new swarm, with a new name and a new folder for every node: nodes of two "
    "versions do not agree",
)
_FACTS: Final = (
    "identity",
    "settings",
    "head",
    "model",
    "votes",
    "lock",
    "chosen",
    "made",
    "ballots",
    "outcome lock",
    "contributed",
    "sequence",
)
_RECORDS: Final = ("lock", "chosen")
_MESSAGES: Final = "CREATE TABLE message (digest BLOB PRIMARY KEY, frame BLOB NOT NULL)"
_LINKS: Final = (
    "CREATE TABLE link (height INTEGER PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL)"
)
_DOMAIN: Final = b"qres/store/v3"


def refuse_lost(folder: Path, model: Path) -> None:
    """Refuse the folder of a node that kept a model, and whose journal is gone.

    Raises RoundError: QRES-E602.
    """
    if model.exists() and not PrivateDatabase.exists(folder, _KIND):
        what = f"there is no such file, and a node ran in the folder: {model.name} is there"
        raise RoundError.of("QRES-E602", str(folder / FILE), what, _KIND.remedy)


def _octets(model: Vector) -> bytes:
    return np.ascontiguousarray(model, dtype="<i4").tobytes()


def _vector(octets: bytes) -> Vector:
    return check_vector(np.frombuffer(octets, dtype="<i4").astype(np.int32), "model")


@attrs.frozen(eq=False)
class _RecordedPayload:
    """Place of the payload of a record's message."""

    read: Callable[[], Envelope]

    def payload(self) -> bytes:
        return self.read().payload


def _recorded(read: Callable[[], Envelope]) -> ShelvedMessage:
    """A message that is checked now, and read again whenever somebody asks for its payload."""
    return ShelvedMessage.of(read(), _RecordedPayload(read))


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

    Complexity: a method that records syncs the disk once, or a block of :meth:`together` for all
    of its methods; a model costs O(d).
    """

    def __init__(self, folder: Path, *, swarm: str, node_id: NodeId, initial: Vector) -> None:
        check_vector(initial, "initial")
        digest = model_digest(initial, 0)

        def fill(database: PrivateDatabase) -> None:
            facts = Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("identity", [swarm, node_id, digest])
            facts.write("settings", b"")
            facts.write("head", None)
            facts.write("model", _octets(initial))
            facts.write("votes", [0, dict[str, bytes]()])
            facts.write("lock", None)
            facts.write("chosen", None)
            facts.write("made", None)
            facts.write("ballots", list[object]())
            facts.write("outcome lock", None)
            facts.write("contributed", [secrets.token_bytes(16), 0, 0])
            database.execute(_MESSAGES)
            database.execute(_LINKS)
            facts.write("sequence", 0)

        self._folder = folder
        self._db = PrivateDatabase.open(folder, _KIND, fill)
        self._facts = Facts(self._db, _DOMAIN)
        self._block: ExitStack | None = None  # of `together`; holds its transaction
        self._is_writing = False  # whether that transaction has begun
        try:
            found = {name: self._facts.read(name) for name in _FACTS}["identity"]
            self._db.expect_owner(
                swarm=(swarm, found[0]), node=(node_id, found[1]), initial_model=(digest, found[2])
            )
        except BaseException:
            self._db.close()
            raise

    # ── the journal ───────────────────────────────────────────────────────────────────────────

    @property
    def folder(self) -> Path | None:
        """The node's own folder."""
        return self._folder

    @contextmanager
    def together(self) -> Generator[None]:
        """One transaction for all that is recorded in the block; none if nothing is."""
        try:
            with ExitStack() as self._block:
                yield
        finally:
            self._block, self._is_writing = None, False

    @contextmanager
    def _transaction(self) -> Generator[None]:
        """That of the block, or one of its own."""
        if self._block is None:
            with self._db.transaction():
                yield
            return
        if not self._is_writing:
            self._block.enter_context(self._db.transaction())
            self._is_writing = True
        yield

    def _commit(self) -> None:
        """Have the block's facts safe now; further ones are for its end."""
        if self._block is not None:
            self._is_writing = False
            self._block.close()

    def resume(self) -> Resume | None:
        """Place at which the node stopped; ``None`` for one that has not begun."""
        with self._db.one_state():
            head, octets = self._facts.read("head"), self._facts.read("model")
            last_round, _votes = self._facts.read("votes")
            lock, chosen = self._kept("lock"), self._kept("chosen")
            ballots, outcome_lock = self._facts.read("ballots"), self._facts.read("outcome lock")
            links, made = self._links(), self._facts.read("made")
        if head is None:
            return None
        model = _vector(octets)
        try:
            at = Head.from_raw(head)
        except WireError as error:
            raise self._db.unusable("the head cannot be read") from error
        if at.height and (not links or links[-1].next != at):
            raise self._db.unusable("a link of the chain is missing: the last does not lead here")
        said = tuple((number, kind, choice) for number, kind, choice in ballots)
        attempt = max((number for number, _kind, _choice in said), default=0)
        kept = None if made is None else _vector(made)
        return Resume(at, model, links, last_round, lock, chosen, attempt, said, outcome_lock, kept)

    def begin(self, head: Head, settings: bytes) -> bytes:
        """The first head and the encoded settings of a new node.

        They are written again as long as the node has taken no sequence number: a configuration
        that could not start binds it to nothing.
        """
        with self._transaction():
            if not self._facts.read("sequence") and not self._facts.read("votes")[0]:
                self._facts.write("head", head.raw())
                self._facts.write("settings", settings)
            kept: bytes = self._facts.read("settings")
        return kept

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote; those of earlier rounds are forgotten.

        Raises RoundError: QRES-E602 also for a vote that would be equivocation: other than the one
        recorded, or of a round before the last.
        """
        with self._transaction():
            if kind.startswith(OUTCOME):
                self._record_ballot(round_number, kind, choice)
                return
            last_round, recorded = self._facts.read("votes")
            votes: dict[str, bytes | None] = recorded if round_number == last_round else {}
            if round_number < last_round:
                what = f"a {kind} of round {round_number} after one of round {last_round}"
                raise self._db.unusable(what)
            if kind in votes and votes[kind] != choice:
                raise self._db.unusable(f"a second, different {kind} of round {round_number}")
            self._facts.write("votes", [round_number, {**votes, kind: choice}])
            if kind == CONTRIBUTION and kind not in votes:
                name, rounds, _last = self._facts.read("contributed")
                self._facts.write("contributed", [name, rounds + 1, round_number])

    def _record_ballot(self, attempt: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote on the outcome. The first attempt's stays: it may come late, but once."""
        kept = [list(item) for item in self._facts.read("ballots")]
        said = {(number, of): found for number, of, found in kept}
        if said.get((attempt, kind), choice) != choice:
            raise self._db.unusable(f"a second, different {kind} of attempt {attempt}")
        last = max((number for number, _of in said), default=0)
        if attempt < last and (attempt != 1 or kind != OUTCOME_PREVOTE):
            raise self._db.unusable(f"a {kind} of attempt {attempt} after one of attempt {last}")
        said[attempt, kind] = choice
        last = max(last, attempt)
        self._facts.write(
            "ballots",
            [
                [number, of, found]
                for (number, of), found in sorted(said.items())
                if number == last or (number, of) == (1, OUTCOME_PREVOTE)
            ],
        )

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Keep what the node is locked on."""
        with self._transaction():
            self._set("lock", lock)
            self._drop_unnamed()

    def record_outcome_lock(self, lock: bytes) -> None:
        """Keep the outcome that the node is locked on."""
        with self._transaction():
            self._facts.write("outcome lock", lock)

    def record_chosen(self, chosen: JournalEntry) -> None:
        """Keep the decided set with its contributions."""
        with self._transaction():
            self._set("chosen", chosen)
            self._drop_unnamed()

    def record_made(self, model: Vector) -> None:
        """Keep what the decided set merges to, until the height is over."""
        with self._transaction():
            self._facts.write("made", _octets(model))

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        """Keep the next head, the links and the model, and void what bound the node before.

        Raises RoundError: QRES-E602 also for a head that is not later than the one before: the node
        would vote a second time where it has voted.
        """
        after = links[-1].next
        with self._transaction():
            kept = self._facts.read("head")
            if kept is not None and after.height <= kept[1]:
                raise self._db.unusable(f"a head of height {after.height} after {kept[1]}")
            self._forget_last_link()
            for link in links:
                body = link.to_bytes()
                values = (link.head.height, hashlib.sha256(_DOMAIN + body).digest(), body)
                self._db.execute("INSERT OR REPLACE INTO link VALUES (?, ?, ?)", values)
            self._facts.write("head", after.raw())
            if model is not None:
                self._facts.write("model", _octets(model))
            self._set("lock", None)
            self._set("chosen", None)
            self._facts.write("made", None)
            self._facts.write("ballots", list[object]())
            self._facts.write("outcome lock", None)
            self._drop_unnamed()
        self._commit()

    def _forget_last_link(self) -> None:
        """Drop the last link, unless it changed the members: those stay for ever."""
        last = self._db.row("SELECT height, body FROM link ORDER BY height DESC LIMIT 1")
        if last is not None and not self._changes_members(last[1]):
            self._db.execute("DELETE FROM link WHERE height = ?", (last[0],))

    def _changes_members(self, body: bytes) -> bool:
        return self._link(body).changes_members

    def _link(self, body: bytes) -> Link:
        try:
            return Link.from_bytes(body)
        except WireError as error:
            raise self._db.unusable("a link of the chain cannot be read") from error

    def _links(self) -> tuple[Link, ...]:
        found: list[Link] = []
        for digest, body in self._db.rows("SELECT digest, body FROM link ORDER BY height"):
            if type(body) is not bytes or hashlib.sha256(_DOMAIN + body).digest() != digest:
                raise self._db.unusable("a link of the chain is damaged")
            found.append(self._link(body))
        return tuple(found)

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
        return JournalEntry(head, tuple(_recorded(partial(self._message, it)) for it in digests))

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

    def contributions(self) -> tuple[bytes, int, int]:
        """The journal's own name, how many rounds a contribution left in, and the last of them."""
        name, rounds, last = self._facts.read("contributed")
        return name, rounds, last

    def reserve_sequence(self) -> int:
        """First of a block of numbers that no run of this node was given before."""
        with self._transaction():
            first: int = self._facts.read("sequence")
            self._facts.write("sequence", first + SEQUENCE_BLOCK)
        return first

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
