"""The sessions a node took part in, kept over restarts.

``secagg.sqlite`` holds session ids. A node that masked two updates, or opened two survivor sets, in
one session could have the difference of the two computed; one that restarts in the middle of a
round must therefore know that it was there, though its keys are gone. Which sums were opened for a
model is not noted here but in the head of the swarm (:mod:`qres_secagg.permission`). How often the
node counts in them is: an update that counted otherwise in two sums of one set would show in their
difference. And what it stated last: a node states no set for a model unless the set that it stated
before is on record then. Two quorums of statements have an honest node in common, so of any two
sets that were opened for a model, the later one was judged by a record that has the other. That
holds whatever votes liars give, and even where they lead nodes into two histories.

An id is on the disk before the method returns, and with that before the message it allows leaves
the node. Of rounds far back only the number is kept: their sessions all count as used.

Nothing is repaired or begun anew: a node without its store does not know where it took part. When
one may be begun, says whoever knows how old the swarm is (:meth:`SessionStore.begin`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, Self

import attrs

from qres_core import DIGEST_BYTES, NodeId, stores
from qres_core.dialogues import MAX_VOID_SETS

FILE: Final = "secagg.sqlite"
APPLICATION_ID: Final = 0x51525347
SCHEMA_VERSION: Final = 3
KEPT_ROUNDS: Final = 4096
"""Rounds behind the newest of which everything is kept."""
KIND: Final = stores.StoreKind(
    file=FILE,
    name="a store of secure aggregation",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-secagg",
    remedy="bring the file back as it was, or join under a new identity: "
    "a node that forgot its sessions could take part in one twice",
    instead="begin a new swarm, in which every node has a new folder: nodes of two versions are in "
    "different sessions",
)


class SessionStore:
    """Durable memory of sessions; one process at a time.

    Args:
        folder: the node's own folder; ``None`` for a new store in memory only.
        swarm: name of the swarm, which the store is bound to.
        node_id: this node's identity, 32 bytes; bound too.

    Raises:
        RoundError: QRES-E602 for a store that is missing, damaged, another node's or open
            elsewhere.
    """

    def __init__(self, folder: Path | None, *, swarm: str, node_id: NodeId) -> None:
        if folder is None:
            fill = partial(_fill, swarm=swarm, node_id=node_id)
            self._db = stores.PrivateDatabase.in_memory(KIND, fill)
        else:
            self._db = stores.PrivateDatabase.open(folder, KIND)
        try:
            owner = self._db.row("SELECT swarm, node FROM owner") or (None, None)
            self._db.expect_owner(swarm=(swarm, owner[0]), node=(node_id, owner[1]))
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """True if there is a store in the folder, or what is left of one."""
        return stores.PrivateDatabase.exists(folder, KIND)

    @classmethod
    def begin(cls, folder: Path, *, swarm: str, node_id: NodeId) -> Self:
        """Begin a store where there is none. Mode 0600; a new folder 0700.

        Only for a node that cannot have taken part in a session that is still to be held. Raises
        RoundError: QRES-E602 when it cannot be made, or there is one.
        """
        fill = partial(_fill, swarm=swarm, node_id=node_id)
        stores.PrivateDatabase.create(folder, KIND, fill).close()
        return cls(folder, swarm=swarm, node_id=node_id)

    def take(self, sid: bytes, round_number: int) -> bool:
        """Note that the node takes part in a session, durably.

        ``sid``: the session id, 32 bytes. Returns False if the node took part in it before, or if
        its round is further back than :data:`KEPT_ROUNDS`; then it must stay out. Raises
        RoundError: QRES-E602 if the disk does not take it; the node must stay out.
        """
        oldest = round_number - KEPT_ROUNDS
        with self._db.transaction():
            floor = self._db.one("SELECT round FROM past")
            query = "INSERT OR IGNORE INTO used VALUES (?, ?)"
            new = round_number > floor and bool(
                self._db.execute(query, (sid, round_number)).rowcount
            )
            if new and oldest > floor:
                self._db.execute("UPDATE past SET round = ?", (oldest,))
                self._db.execute("DELETE FROM used WHERE round <= ?", (oldest,))
        return new

    def weight_for(self, model: bytes, weight: int) -> int:
        """Number of times that the node's updates for a model count: as they did first, durably.

        ``model``: its digest, 32 bytes, later than or the same as before; ``weight``: how often,
        if this is the first time. Raises RoundError: QRES-E602 if the disk does not take it; then
        the update must not leave the node.
        """
        with self._db.transaction():
            kept = self._db.one("SELECT weight FROM counted WHERE model = ?", model)
            if kept is not None:
                return int(kept)
            self._db.execute("DELETE FROM counted")
            self._db.execute("INSERT INTO counted VALUES (?, ?)", (model, weight))
        return weight

    def states(self, step: int, model: bytes, record: bytes, chosen: bytes) -> bool:
        """Note the set that the node is about to state, durably.

        Args:
            step: models before the one that the set is for.
            model: its digest, 32 bytes.
            record: the sets on record for it, as
                :attr:`~qres_secagg.permission.Permission.record` names them.
            chosen: the set, as it would be on record; 32 bytes.

        Returns:
            False if it must not be stated: the node stated one for a later model, for another model
            of this step, or for this model, and that one is not on record as it would have to be.

        Raises RoundError: QRES-E602 if the disk does not take it; then nothing may be stated.
        """
        new = step, model, record, chosen
        with self._db.transaction():
            old = self._db.row("SELECT step, model, record, chosen FROM stated")
            if old is not None and old != new and old[0] >= step and not _follows(new, old):
                return False
            self._db.execute("DELETE FROM stated")
            self._db.execute("INSERT INTO stated VALUES (?, ?, ?, ?)", new)
        return True

    def of_round(self, number: int) -> RoundHistory:
        """History for a client of that round."""
        return RoundHistory(self, number)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _follows(new: tuple[int, bytes, bytes, bytes], old: tuple[int, bytes, bytes, bytes]) -> bool:
    """True if a set was judged by a record that has another one, stated for the same model before.

    Nothing that was on record before is missing. A set that came to a full record is on none.
    """
    known = {new[2][start : start + DIGEST_BYTES] for start in range(0, len(new[2]), DIGEST_BYTES)}
    is_on_record = old[3] in known or len(old[2]) >= MAX_VOID_SETS * DIGEST_BYTES
    return old[:2] == new[:2] and new[2].startswith(old[2]) and is_on_record


def _fill(database: stores.PrivateDatabase, swarm: str, node_id: NodeId) -> None:
    database.execute("CREATE TABLE owner (swarm TEXT NOT NULL, node BLOB NOT NULL)")
    database.execute("CREATE TABLE used (sid BLOB PRIMARY KEY, round INTEGER NOT NULL)")
    database.execute("CREATE TABLE past (round INTEGER NOT NULL)")
    database.execute("CREATE TABLE counted (model BLOB NOT NULL, weight INTEGER NOT NULL)")
    database.execute(
        "CREATE TABLE stated (step INTEGER NOT NULL, model BLOB NOT NULL, record BLOB NOT NULL, "
        "chosen BLOB NOT NULL)"
    )
    database.execute("INSERT INTO owner VALUES (?, ?)", (swarm, node_id))
    database.execute("INSERT INTO past VALUES (-1)")


@attrs.frozen
class RoundHistory:
    """A :class:`~qres_secagg.client.History` that notes the round along with everything."""

    store: SessionStore
    number: int

    def begin(self, sid: bytes) -> bool:
        """See :meth:`SessionStore.take`."""
        return self.store.take(sid, self.number)
