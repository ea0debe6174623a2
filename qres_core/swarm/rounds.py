"""Height after height as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It tells the story of a height:

1. It opens a round: it trains, contributes and gathers (:mod:`qres_core.swarm.steps`).
2. The first instance of consensus decides which contributions are merged
   (:mod:`qres_core.swarm.choice`). A round without a decision is aborted, and the next one begins.
3. The dialogues of plugins run to their end, and the set is merged.
4. The second instance decides what became of it: a new model, or none
   (:mod:`qres_core.swarm.outcome`).
5. The decision and the votes for it are a link of the chain (:mod:`qres_core.swarm.chain`). The
   node writes it down and goes to the next head.

A node that lags skips all this: it is given links, and fetches the model that they name
(:mod:`qres_core.swarm.sync`).

The machine does no I/O and reads no clock; :mod:`qres_core.swarm.node` drives it over a transport
and :mod:`qres_core.lab.simulator` on a virtual clock. What a node has said in a round that does not
end, it says again every half vote timeout, and asks again for what it lacks: messages get lost.
After a height it waits for the swarm's interval before it begins the next round.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.trainer import Validator
from qres_core.contract.types import NodeId, NodeInfo, Update, Vector
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.effects import AskTrainer, Effect, Refused
from qres_core.swarm.heights import Heights
from qres_core.swarm.journal import Journal
from qres_core.swarm.messages import (
    ENOUGH,
    FETCH_MODEL,
    FETCHED,
    HEAD,
    LINKS,
    MODEL,
    OUTCOME,
    STOP,
    SYNC,
)
from qres_core.swarm.pending import PendingChanges
from qres_core.swarm.results import Conclusion
from qres_core.swarm.sharding import OF_A_COMING_ROUND


class RoundMachine(Heights):
    """One node's heights.

    ``model``: the swarm's first, int32, shape ``(d,)``; the journal's supersedes it. ``roster``:
    the swarm's first members, or those of now. A node that is none of them follows the others and
    says nothing, until a decision of the swarm lets it take part. Raises RoundError: QRES-E602 for
    a journal that cannot be read, or is of another roster or other settings. Raises
    CompatibilityError: plugins that do not fit a model of that many coordinates.
    """

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _recorded(self) -> Generator[None]:
        """Nothing leaves before all that the block records is safe.

        Votes, locks and decisions that come of one message thus cost one sync of the disk. Where
        the block raises, nothing of it is kept and nothing leaves: this node must not go on, since
        it would not know what it has not said.
        """
        try:
            with self._parts.journal.together():
                yield
        except BaseException:
            self._stopped = True
            self._parts.outlet.take()
            raise

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._ticked = now
        wait = self.swarm.interval if self.step else 0.0  # when the model was made is not known
        number = 1 if self._resume is None else self._resume.last_round + 1
        with self._recorded():
            self._open_height(number, now, wait=wait)
            self._advance(now)
        return self._parts.outlet.take()

    def receive(
        self, frame: bytes, source: NodeId, now: float, waited: float = 0.0
    ) -> list[Effect]:
        """Take a frame. Never raises for what it holds.

        ``frame``: bytes as delivered; ``source``: who answers for them: the author where the
        transport proves it, else the link; ``now``: this node's clock, seconds; ``waited``: seconds
        for which it was pulled.
        """
        if self._is_over:
            return []
        result = self.kernel.inbound(frame, source, now, waited)
        if isinstance(result, Rejection):
            self._parts.outlet.put(Refused(self.number, result.subject, result.reason))
        elif result.sender != self.node_id:
            with self._recorded():
                self._dispatch(result, now)
                self._advance(now)
                self._hear_of_removal(result, now)
        return self._parts.outlet.take()

    def tick(self, now: float) -> list[Effect]:
        """The clock is at ``now`` seconds."""
        if self._is_over:
            return []
        self._ticked = now
        with self._recorded():
            self._parts.dialogues.tick(now)
            wanted = None if self._is_pulling(now) else self._outcome.wanted
            self._catching_up.ask_if_behind(now, wanted)
            self._choice.tick(now)
            self._outcome.tick(now)
            self._advance(now)
            self._repeat(now)
            self._leave_if_due(now)
        return self._parts.outlet.take()

    def trained(self, update: Update, round_number: int, head: bytes, now: float) -> list[Effect]:
        """The result of :class:`Train`, for a round at a head; ignored if that will not be."""
        if self._is_of_now(round_number, head) and self._round.begun:
            self._round.update = update
            with self._recorded():
                self._advance(now)
        else:
            self._parts.ahead.take(update, round_number, head)
        return self._parts.outlet.take()

    def sit_out(self, reason: str, round_number: int, head: bytes, now: float) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._is_of_now(round_number, head) or not self._round.begun:
            self._parts.ahead.take(reason, round_number, head)
        elif not self._round.contributed:
            self._round.sit_out(reason)
            with self._recorded():
                self._advance(now)
        return self._parts.outlet.take()

    def answered(self, asked: AskTrainer, now: float) -> list[Effect]:
        """The trainer answered; ignored if nobody waits for it any more."""
        if not self._is_over and self._parts.opinions.waits(asked):
            with self._recorded():
                self._parts.opinions.answered(asked)
                self._advance(now)
        return self._parts.outlet.take()

    def _is_of_now(self, round_number: int, head: bytes) -> bool:
        is_here = head == self._context.head.digest
        return not self._is_over and round_number == self.number and is_here

    def publish_raw(self, payload: bytes, round_number: int, now: float) -> list[Effect]:
        """Send a contribution made outside the machine, unchecked: how the lab plays a liar."""
        if not self._is_over and round_number == self.number:
            with self._recorded():
                self._round.publish(payload, now)
                self._advance(now)
        return self._parts.outlet.take()

    def enough(self, step: int, now: float) -> list[Effect]:
        """The model of a step is good enough by this node's figures: tell the others."""
        if not self._is_over:
            self._parts.until.found(step, now)
        return self._parts.outlet.take()

    def stop(self) -> None:
        """Take no further part."""
        self._stopped = True
        self._parts.opinions.leave()

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        return self._parts.speaker.take_sequence()

    def _repeat(self, now: float) -> None:
        """Say it again, and ask others for what is missing."""
        if self._parts.speaker.repeat(now):
            self._parts.until.say(now)
            self._round.ask(now)

    @property
    def found(self) -> Conclusion | None:
        """What this node says that the decided set of its height comes to; ``None`` before."""
        return self._outcome.own

    @property
    def lost_attempts(self) -> int:
        """Attempts to agree on what the decided set comes to that came to nothing."""
        return self._outcome.attempts

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, envelope: Envelope, now: float) -> None:
        self._parts.pace.heard(envelope)
        try:
            self._take(envelope, now)
        except WireError as error:
            fault, where = Fault.MALFORMED_PAYLOAD, error.problems[0].where
            self._parts.outlet.refuse(envelope, fault, Blame.SENDER, detail=where)

    def _take(self, envelope: Envelope, now: float) -> None:
        kind, parts = envelope.kind, self._parts
        if kind in parts.of_any_head:
            parts.of_any_head[kind](envelope, now)
        elif kind == SYNC:
            self._catching_up.answer_sync(envelope, now)
        elif kind == FETCH_MODEL:
            self._catching_up.answer_model(envelope, now, self.find_model)
        elif kind == HEAD:
            self._catching_up.apart.take_head(envelope, now)
        elif kind == LINKS:
            self._take_links(envelope, now)
        elif kind == MODEL:
            wanted = self._outcome.wanted
            if self._catching_up.take_model(envelope, wanted) and wanted in self._catching_up.held:
                self._parts.journal.record_made(self._catching_up.held[wanted])
            self._outcome.look(now)
        elif kind in {ENOUGH, STOP} and self.swarm.until:
            parts.until.take(envelope, now)
        elif envelope.head != self._context.head.digest:
            self._take_of_other_head(envelope, now)
        elif kind.startswith(OUTCOME):
            self._outcome.take(envelope, now)
        else:
            self._take_of_height(envelope, now)

    def _take_of_height(self, envelope: Envelope, now: float) -> None:
        self._choice.see(envelope.sender, envelope.round, now)
        if self._choice.take(envelope, now):
            return
        sharding = self._parts.collector.sharding
        coming = envelope.round > self.number
        # Who has decided goes to no other round, and members may answer it from a later one.
        waits = coming and envelope.kind in OF_A_COMING_ROUND and self._choice.certificate is None
        if sharding is not None and not waits and sharding.take(envelope, now):
            return
        if coming and envelope.kind != FETCHED:
            self._parts.pace.keep(envelope, int(self.model.size))
        else:
            self._round.take(envelope, now)

    def _take_of_other_head(self, envelope: Envelope, now: float) -> None:
        if not self._catching_up.help_if_past(envelope, now):
            self._catching_up.saw_other_head(envelope.sender, now)
            self._parts.pace.keep(envelope, int(self.model.size))

    def _take_links(self, envelope: Envelope, now: float) -> None:
        ahead = self._catching_up.take_links(envelope, now)
        if ahead is not None:
            model = ahead.last.next.model
            if self.find_model(model) is None:
                self._catching_up.fetch_model(model, ahead.told_by, now)


def round_machine(
    info: NodeInfo,
    kernel: Kernel,
    swarm: SwarmConfig,
    initial: Vector,
    journal: Journal,
    trainer: object,
    changes: PendingChanges | None = None,
) -> RoundMachine:
    """The machine of a node; ``trainer`` judges models for the plugins if it can."""
    validator = trainer if isinstance(trainer, Validator) else None
    return RoundMachine(
        info.node_id, info.roster, kernel, swarm, initial, journal, validator, changes
    )
