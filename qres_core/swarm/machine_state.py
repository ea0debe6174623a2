"""What a round machine holds, and what others may see of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import attrs

from qres_core.contract.errors import Problem
from qres_core.contract.fixed import add_saturating, difference
from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.trainer import Validator
from qres_core.contract.types import Contribution, NodeId, Vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.beginning import begin
from qres_core.swarm.chain import Head, Link
from qres_core.swarm.choice import Choice
from qres_core.swarm.effects import Agreed, Vouched
from qres_core.swarm.journal import Journal
from qres_core.swarm.model_file import SwarmModel
from qres_core.swarm.opinions import Opinions
from qres_core.swarm.outcome import OutcomeVote
from qres_core.swarm.pending import PendingChanges
from qres_core.swarm.results import Merged, Void
from qres_core.swarm.steps import Round, senders_of
from qres_core.swarm.timeouts import HeightPace
from qres_core.swarm.votes import Step

QUIET: Final = 8
"""Vote timeouts without a word of its last height after which a removed member stops: twice what
passes at most before a node repeats its votes."""


@attrs.frozen(eq=False)
class MadeModel:
    """What the decided set merges to at this node."""

    merged: Vector  # what the rule gave, int32, of the coordinates that the round covers
    model: Vector  # the model with it, int32, shape ``(d,)``
    digest: bytes  # of that model
    saturated: int  # coordinates of it held at the grid's limit

    @classmethod
    def of(cls, model: Vector, step: int, merged: Vector) -> MadeModel:
        """What the rule gave, on top of a model; ``step``: of the model it makes."""
        total = add_saturating(model, merged)
        return cls(merged, total.vector, model_digest(total.vector, step), total.saturated)


class MachineState:
    """The state of a node's heights; :class:`~qres_core.swarm.rounds.RoundMachine` changes it.

    Arguments and errors as there.
    """

    def __init__(
        self,
        node_id: NodeId,
        roster: Sequence[NodeId],
        kernel: Kernel,
        swarm: SwarmConfig,
        model: Vector,
        journal: Journal,
        validator: Validator | None = None,
        changes: PendingChanges | None = None,
    ) -> None:
        self.node_id, self.kernel, self.swarm = node_id, kernel, swarm
        # whether it asks for training before the outcome is decided, where no interval is kept
        self.trains_ahead = True
        # adds what the set merged to to the model; a simulation does it once for all its nodes
        self.make_model: Callable[[Vector, int, Vector], MadeModel] = MadeModel.of
        self._parts, self._resume = begin(
            node_id, roster, kernel, swarm, model, journal, validator, changes
        )
        self._context, self._catching_up = self._parts.context, self._parts.catching_up
        self._choice: Choice
        self._outcome: OutcomeVote
        self._round: Round
        self._made: MadeModel | None = None
        self._refused: Problem | None = None  # why this node could not merge the decided set
        self._kept: bytes | None = None  # digest of the model that the journal kept of the height
        self._proof: tuple[Envelope, ...] = ()  # the votes that decided the node's model
        self._model_round, self._aborts, self._stopped = 0, 0, False
        self._ticked = 0.0  # when the clock was last looked at, seconds
        self._left: int | None = None  # from which height on it is no member any more
        self._beyond: set[NodeId] = set()  # who knows of that
        self._needed = 0.0  # when a node was last heard that does not, seconds
        self._sure_at = 0.0  # when it has asked enough others whether that is still so, seconds
        last = self._catching_up.last
        if last is not None and isinstance(last.result, Merged):
            self._proof, self._model_round = last.precommits, last.chosen.origin

    # ── looking at it ─────────────────────────────────────────────────────────────────────────

    @property
    def head(self) -> Head:
        """Where the swarm's history is for this node."""
        return self._context.head

    @property
    def opinions(self) -> Opinions:
        """What the node's plugins conclude from held-out examples, and whether it waits for it."""
        return self._parts.opinions

    @property
    def waits(self) -> HeightPace:
        """How long the node waits for others, as its own view."""
        return self._context.waits

    def follow_arrivals(self, arriving: Callable[[], Collection[NodeId]]) -> None:
        """Whose large messages are on their way here: what comes is not asked of others."""
        self._context.arriving = arriving

    @property
    def roster(self) -> tuple[NodeId, ...]:
        """The members at the node's head, ascending."""
        return self._context.roster

    @property
    def changes(self) -> PendingChanges:
        """The roster of now, and the changes that wait at this node."""
        return self._parts.changes

    @property
    def is_member(self) -> bool:
        """Whether this node is a member at its head; it only follows the others if not."""
        return self._context.is_member

    @property
    def model(self) -> Vector:
        """The node's model, int32, shape ``(d,)``."""
        return self._parts.position.model

    @property
    def model_digest(self) -> bytes:
        """Digest of the node's model, 32 bytes."""
        return self._context.head.model

    @property
    def step(self) -> int:
        """How many models were made before the node's, the first not counted."""
        return self._context.head.step

    @property
    def vouchers(self) -> tuple[Envelope, ...]:
        """The votes that decided the node's model, ascending by sender; none for the first."""
        return self._proof

    @property
    def model_round(self) -> int:
        """The round of the contributions that made the node's model, 0 for the first."""
        return self._model_round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self._parts.position.number

    @property
    def has_enough(self) -> bool:
        """Whether so many nodes as decide a vote found a model good enough."""
        return self._parts.until.reached

    @property
    def next_sequence(self) -> int:
        """The number of the node's next message, which may be the first of a new block."""
        return self._parts.speaker.next_sequence

    @property
    def next_tick(self) -> float:
        """When the clock next matters, in seconds; never, for a node that stopped.

        In the past where a message came when the clock already mattered: it waits for its tick.
        """
        if self._is_over:
            return math.inf
        # What fell due since the last tick is still to be done, though a message came meanwhile.
        round_due = self._round.due(self._ticked)
        return min(round_due, self._choice.due(), self._outcome.due(), self._leaves_at)

    @property
    def is_out(self) -> bool:
        """Whether it has heard that it is no member any more, and of no decision that it is."""
        return self._left is not None

    @property
    def _leaves_at(self) -> float:
        """When a node that is no member any more has helped for long enough, seconds."""
        if self._left is None:
            return math.inf
        quiet_at = self._needed + QUIET * self.swarm.vote_timeout
        aware = self._beyond.union(self._catching_up.told_removed_by)
        known = len(aware.intersection(self._context.roster)) > self._context.byzantine
        return min(quiet_at, self._sure_at) if known else quiet_at

    @property
    def waits_until(self) -> float | None:
        """When the node begins its round, seconds; ``None`` once it has."""
        return None if self._round.begun else self._round.begins

    @property
    def contributions(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        return self._parts.collector.of_round()

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        return self._context.proposer(number)

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._catching_up.diverged

    def find_model(self, digest: bytes) -> Vector | None:
        """A model that this node holds: its own, or one of the next height."""
        if digest == self.model_digest:
            return self.model
        return self._catching_up.held.get(digest)

    def _links(self) -> tuple[Link, ...]:
        """How the swarm went on from this node's head: as it voted itself, or as it was told."""
        pending, outcome = self._catching_up.pending, self._outcome
        if pending is not None:
            return pending.links
        certificate = self._choice.certificate
        if outcome.decision is None or certificate is None:
            return ()
        decision, number = outcome.decision, outcome.round
        votes = outcome.quorum(Step.PRECOMMIT, number, decision.digest)
        head, chosen = self._context.head, certificate.candidate.bare()
        return (Link(head, chosen, decision.result, number, votes),)

    def _outcome_of(self, last: Link, vector: Vector | None, *, made: bool) -> Outcome:
        """How the node's height ended: as it saw it, or as it was told of later ones.

        ``last``: the link to where it goes; ``vector``: the model there, if it is a new one;
        ``made``: whether it merged the set itself.
        """
        here, info = last.head.digest == self._context.head.digest, self._parts.position.info
        status, void = RoundStatus.CLOSED, None
        if last.next.step == self.step:
            status = RoundStatus.VOID
            void = last.result if isinstance(last.result, Void) else None
        code, reason = ("", "") if void is None else (void.code, void.reason)
        members = senders_of(last.chosen) if here else ()
        reason = reason if here else "caught up from a snapshot"
        change = None
        if vector is not None and last.next.step == self.step + 1:
            change = difference(vector, self.model)
        return Outcome(info, status, last.next.model, members, reason, code, made, change)

    def _tell(self, number: int) -> None:
        """Report a new model, which a quorum decided."""
        swarm = self.swarm
        self._parts.outlet.put(Agreed(number, self.model_digest))
        model = SwarmModel(swarm.name, self.step, swarm.scale, self.model, self._proof)
        self._parts.outlet.put(Vouched(model))
