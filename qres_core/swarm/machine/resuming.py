"""Start of a node: anew, or where its journal says, and only if that is the same swarm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.types import NodeId, Vector, check_vector, model_digest
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.settings import SharedSettings
from qres_core.swarm.agreement.choice import Choice
from qres_core.swarm.agreement.outcome import OutcomeVote
from qres_core.swarm.context.position import NodeContext, Position
from qres_core.swarm.ledger.chain import Head, Link, NodeHistory
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.journal import Journal, Resume


@attrs.frozen(eq=False)
class Resumed:
    """Height that was not over, as the journal kept it."""

    record: Resume

    @property
    def last_round(self) -> int:
        """The highest round that the node voted in."""
        return self.record.last_round

    def give_back(self, choice: Choice, outcome: OutcomeVote) -> None:
        """Bind the node to what it voted, locked and saw decided.

        Raises RoundError: QRES-E602 for a record that cannot be read.
        """
        record = self.record
        try:
            if record.chosen is not None:
                choice.restore_decided(record.chosen)
            elif record.lock is not None:
                choice.restore(record.lock)
            outcome.restore(record.attempt, record.ballots, record.outcome_lock)
        except WireError as error:
            what = "a record of the height cannot be read"
            raise RoundError.of("QRES-E602", "journal.height", what) from error


def begin(
    node_id: NodeId,
    members: Sequence[NodeId],
    kernel: Kernel,
    swarm: SwarmConfig,
    model: Vector,
    journal: Journal,
) -> tuple[NodeContext, Position, NodeHistory, Resumed | None]:
    """Find where a node is and what is behind it: at its journal's head, or at the first.

    Beside that what the journal kept of a height that was not over.

    Arguments and errors as for :class:`~qres_core.swarm.machine.rounds.RoundMachine`.
    """
    roster = known_roster(members, swarm)
    first = Head.first(swarm.name, model_digest(model, 0), roster, kernel.settings.digest)
    _refuse_other_settings(journal.begin(first, kernel.settings.to_bytes()), kernel.settings)
    record = journal.resume()
    head, links = first, tuple[Link, ...]()
    if record is not None:
        head, links, model = record.head, record.links, record.model
        _refuse_other_roster(roster, record)
        _refuse_other_head(head, first)
    model = check_vector(model, "model")
    kernel.fit(int(model.size))
    context = NodeContext(node_id, kernel, swarm, head, first.model)
    position = Position(model, 0 if record is None else record.last_round)
    return context, position, NodeHistory(links), None if record is None else Resumed(record)


def known_roster(members: Iterable[NodeId], swarm: SwarmConfig) -> Roster:
    """The roster that a configuration names, of these members in any order.

    Raises WireError: QRES-E404 for members and numbers that no swarm has.
    """
    return Roster(tuple(sorted(members)), swarm.byzantine, swarm.quorum, swarm.roster_epoch)


def _unusable(what: str, fix: str) -> RoundError:
    return RoundError.of("QRES-E602", "journal", what, fix)


def _refuse_other_settings(kept: bytes, settings: SharedSettings) -> None:
    if kept == settings.to_bytes():
        return
    try:
        differences = settings.differences(SharedSettings.from_bytes(kept))
    except WireError as error:
        raise _unusable("the settings it was begun with cannot be read", "") from error
    what = "it was begun with other settings: " + "; ".join(differences)
    fix = "give the node the settings back, or begin a new swarm, under a new name"
    raise _unusable(what, fix)


def _refuse_other_roster(roster: Roster, record: Resume) -> None:
    """The configuration may name the first members, or those of now."""
    known = [record.head.roster, *(link.head.roster for link in record.links)]
    said = roster.members, roster.byzantine, roster.quorum
    if any(said == (item.members, item.byzantine, item.quorum) for item in known):
        return
    now = record.head.roster
    what = f"it is of {_named(now)}, and the configuration of {_named(roster)}"
    fix = "members are changed by `qres roster`, while the swarm runs; bring the old file back"
    raise _unusable(what, fix)


def _named(roster: Roster) -> str:
    names = ", ".join(member.hex()[:8] for member in roster.members)
    return f"{len(roster)} members ({names}), f = {roster.byzantine}, quorum {roster.quorum}"


def _refuse_other_head(head: Head, first: Head) -> None:
    if (head.swarm, head.settings) != (first.swarm, first.settings):
        what = "its head is of another swarm, other settings or another first model"
        raise _unusable(what, "")
