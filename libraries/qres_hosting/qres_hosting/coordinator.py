"""The coordinator's end of hosted rounds: it takes in what clients signed, and merges it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import QresError, RoundError, WireError
from qres_core.contract.faults import KERNEL, Fault, describe
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.types import DIGEST_BYTES, NodeId, Vector
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.inbound import Rejection
from qres_core.swarm.contributions.lone_round import LoneRound, aborted
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    DIALOGUE,
)
from qres_core.swarm.storage.dialogue_log import Said
from qres_hosting.client import NO_TASK, REPORT
from qres_hosting.host import COORDINATOR, NOBODY, Host
from qres_hosting.partaking import hosted
from qres_hosting.talk import Accused, HostedTalk
from qres_hosting.told import HostedRound, members_digest

HOST: Final = "host"
"""Stands where a plugin's name would, for what the coordinator finds itself."""
_LINK: Final = b"qres/hosted-link/v1\0"
_NONCE: Final = b"qres/hosted-nonce/v1\0"


@attrs.frozen
class HostedMessage:
    """A message that was taken.

    Attributes:
        sender: who signed it, 32 bytes.
        kind: ``"contribution"``, which the coordinator keeps, ``"dialogue/"``, which it hands on,
            or ``"hosted/report"``.
        payload: what a report says; not trusted, and empty for all else.
    """

    sender: NodeId
    kind: str
    payload: bytes = b""


@attrs.frozen
class HostedRefusal:
    """A message that was refused.

    Attributes:
        reason: a :class:`~qres_core.Fault`, or an id ``<plugin>:<id>``; ``host:<id>`` is what the
            coordinator found itself.
        text: one line for people.
    """

    reason: str
    text: str


@attrs.frozen(eq=False)
class HostedResult:
    """End of a round.

    Attributes:
        outcome: as plugins are told, but for the digest of a new model: they are told of it when
            the framework names it, at the next round or evaluation.
        merged: the difference to add to the model, int32, shape ``(d,)``; ``None`` where there is
            none.
        weights: how much each member of the set counted, its capped claim.
        left_out: why others did not, by sender, where something speaks against them.
    """

    outcome: Outcome
    merged: Vector | None
    weights: Mapping[NodeId, int]
    left_out: Mapping[NodeId, str]


@attrs.define(eq=False)
class _Open:
    """A round while clients answer."""

    round: LoneRound
    since: float
    ticks: float  # since is the same moment
    evaluates: bool = False  # an evaluation: there is nothing to merge
    conversation: HostedTalk | None = None  # where plugins have clients talk
    decided: bool = False

    @property
    def info(self) -> RoundInfo:
        return self.round.info


class Coordinator:
    """Runs the plugins of a configuration in the place of agreement.

    Not for more than one thread at a time.

    Args:
        host: the configuration.
        trainer: has ``validate`` (and ``reference``) where plugins judge by held-out examples: see
            :class:`~qres_core.training.Validator`. Vectors that it is given are differences from
            the round's model, on the swarm's grid.
        clock: seconds since 1970.
        ticks: seconds since some moment; nobody sets them back.

    Raises:
        QresError: what a plugin's ``setup`` refuses; QRES-E311 where a plugin judges by examples
            and there are none.
    """

    def __init__(
        self,
        host: Host,
        trainer: object = None,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host, self._ticks = host, ticks
        self._trainer, self._clock = trainer, clock
        self._kernel = host.kernel()
        self._number = self._step = self._height = self._told = self._dimension = 0
        self._open: _Open | None = None
        # a round that made a model, until the framework says which
        self._made: Outcome | None = None
        # in which round each member was refused last, and why
        self._against: dict[NodeId, str] = {}
        able = abilities_of(trainer)
        self._kernel.setup(
            host.node_info(
                NOBODY,
                validates=able.validate is not None,
                references=able.reference is not None,
                pooled=able.pooled,
                folder=COORDINATOR,
            )
        )

    @property
    def rejections(self) -> Mapping[str, int]:
        """Numbers of refused messages, by reason."""
        return self._kernel.rejections

    def stop(self) -> None:
        """Release what the plugins hold. The coordinator is of no use then.

        Plugins are told of a last round that made a model first. Nobody said which one it became:
        it has a digest of zeros, which is that of no model.
        """
        self._open = None
        try:
            self._settle(bytes(DIGEST_BYTES))
        finally:
            self._kernel.teardown()

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def begin(self, model: bytes, dimension: int, task: bytes = NO_TASK) -> HostedRound:
        """Begin a round; one that is open ends without a model.

        Args:
            model: digest of the model, 32 bytes.
            dimension: its coordinates.
            task: digest of all else that clients are asked to do, the same for all; 32 bytes.

        Returns: what clients are to be told.

        Raises:
            CompatibilityError: what does not fit a model of that many coordinates; QRES-E322 for a
                plugin whose nodes would talk to each other.
            QresError: what a plugin refused.
        """
        self._leave(model)
        if dimension != self._dimension:
            self._kernel.fit(dimension)
            self._dimension = dimension
        self._number += 1
        told = self._announced(model, task)
        info = told.info(self.host.config.swarm, dimension)
        self._kernel.enter(frozenset(info.roster))
        self._against.clear()
        dialogues = hosted(self._kernel.round_opened(info))
        talk = HostedTalk(told.to_bytes(), info, dialogues) if dialogues else None
        lone = LoneRound(self._kernel, info)
        self._open = _Open(lone, self._clock(), self._ticks(), conversation=talk)
        return told

    def asks(self) -> bytes | None:
        """Questions for all clients now; ``None`` where there is nothing, or no dialogue.

        Asked after :meth:`begin` until there is nothing: then clients may train. Asked after
        :meth:`decide` again: then the round may be closed. Whatever clients answer goes to
        :meth:`take`.

        Returns: an encoded :class:`~qres_hosting.HostedTurn`.
        """
        talk = None if self._open is None else self._open.conversation
        return None if talk is None else talk.asks()

    def ask(self, model: bytes, dimension: int, task: bytes = NO_TASK) -> HostedRound:
        """Announce an evaluation of a model between rounds; clients answer with reports alone."""
        self._leave(model)
        told = self._announced(model, task)
        info = told.info(self.host.config.swarm, dimension)
        lone = LoneRound(self._kernel, info)
        self._open = _Open(lone, self._clock(), self._ticks(), evaluates=True)
        self._kernel.enter(frozenset(info.roster))
        return told

    def _leave(self, model: bytes) -> None:
        """End what was before; ``model``: the digest of what it led to."""
        current, self._open = self._open, None
        if current is not None and not current.evaluates:
            self._finish(aborted(current.info, "another round began"))
        self._settle(model)

    def _settle(self, model: bytes) -> None:
        made, self._made = self._made, None
        if made is not None:
            self._kernel.round_closed(attrs.evolve(made, model_digest=model))

    def _announced(self, model: bytes, task: bytes) -> HostedRound:
        self._told += 1
        nonce = secrets.token_bytes(32)
        if self.host.seed is not None:  # an experiment; what is drawn from a head can be repeated
            drawn = canonical.dumps([self.host.seed, self._told])
            nonce = hashlib.sha256(_NONCE + drawn).digest()
        settings = self._kernel.settings.digest
        number = max(1, self._number)
        members = members_digest(self.host.config.swarm)
        place = number, self._step, self._height
        return HostedRound(*place, nonce, model, settings, members, task)

    def take(self, frame: bytes, link: bytes) -> HostedMessage | HostedRefusal:
        """Take in what a client sent, if nothing speaks against it.

        Args:
            frame: bytes as they came.
            link: names who delivered them, in the framework's own words. It is blamed for what
                nothing proves that the signer made, and is no member.

        Raises QresError: a plugin could not keep what it must.
        """
        current = self._open
        if current is None:
            return self._refused("no-round")
        now = self._clock()
        try:
            read = self._kernel.read(frame)
        except WireError:
            pass  # named below
        else:
            if (read.round, read.head) != (current.info.number, current.info.head):
                return self._refused("other-round")
            # A framework hands over answers when all are there, long after they were made. This one
            # names the round's nonce, so it was made between the round's beginning and now.
            # Where this machine's clock was set back since, the round goes on by its own.
            latest = max(now, current.since + self._ticks() - current.ticks)
            now = min(max(read.time_ms / 1000, current.since), latest)
        source = hashlib.sha256(_LINK + link).digest()
        arrived = self._kernel.inbound(frame, source, now)
        if isinstance(arrived, Rejection):
            return _told(arrived.reason)
        if arrived.kind == REPORT:
            return HostedMessage(arrived.sender, REPORT, arrived.payload)
        if arrived.kind.startswith(DIALOGUE) and current.conversation is not None:
            return self._heard(arrived, frame, current.conversation)
        return self._contributed(arrived, current)

    def _heard(
        self, arrived: Envelope, frame: bytes, talk: HostedTalk
    ) -> HostedMessage | HostedRefusal:
        said = Said.read(arrived, tuple(bytes.fromhex(x) for x in self.host.config.swarm.roster))
        found = Fault.UNKNOWN_DIALOGUE if said is None else talk.hear(said, frame)
        if isinstance(found, Fault):
            return self._against_sender(found, arrived)
        self._accuse(found)
        return HostedMessage(arrived.sender, DIALOGUE)

    def _accuse(self, accused: Iterable[Accused]) -> None:
        for plugin, each in accused:
            made = self._kernel.refuse(each.fact, Blame.SENDER, each.subject, plugin, self._number)
            self._against[each.subject] = made.reason

    def _contributed(self, arrived: Envelope, current: _Open) -> HostedMessage | HostedRefusal:
        if arrived.kind != CONTRIBUTION or current.evaluates:
            return self._against_sender(Fault.UNKNOWN_KIND, arrived)
        refusal = current.round.take(arrived)
        if refusal is not None:
            return self._noted(arrived, refusal)
        return HostedMessage(arrived.sender, CONTRIBUTION)

    def _against_sender(self, fault: Fault, arrived: Envelope) -> HostedRefusal:
        made = self._kernel.refuse(fault, Blame.SENDER, arrived.sender, KERNEL, arrived.round)
        return self._noted(arrived, made)

    def _noted(self, arrived: Envelope, refusal: Rejection) -> HostedRefusal:
        self._against[arrived.sender] = refusal.reason
        return _told(refusal.reason)

    def _refused(self, own: str) -> HostedRefusal:
        """Fault of a message without a reproach to anybody."""
        return _told(self._kernel.refuse(own, Blame.NOBODY, None, HOST, self._number).reason)

    # ── the end of a round ────────────────────────────────────────────────────────────────────

    def decide(self) -> None:
        """Choose whose updates are merged; plugins that have clients talk go on with that.

        :meth:`close` does it where nobody did. Raises RoundError: QRES-E604 where no round is open.
        Raises QresError: a plugin could not keep what it must.
        """
        current = self._merging()
        held_out = HeldOut.of(self._trainer, _unmoved(current.info.dimension), current.info)
        lone = current.round
        try:
            for evidence in lone.choose(held_out):
                self._against[evidence.subject] = evidence.fact
            if not lone.lost and current.conversation is not None:
                self._accuse(current.conversation.decided(lone.senders, lone.contributions))
        except QresError as error:
            lone.lost = str(error.problems[0])
        current.decided = True

    def _merging(self) -> _Open:
        if self._open is None or self._open.evaluates:
            raise RoundError.of("QRES-E604", "round", "none is open", "call begin first")
        return self._open

    def close(self) -> HostedResult:
        """Merge what was taken in: choose, judge, reveal, aggregate.

        What plugins refuse ends the round without a model, and its outcome says why. Raises
        RoundError: QRES-E604 where no round is open. Raises QresError: a plugin could not keep what
        it must.
        """
        current = self._merging()
        if not current.decided:
            self.decide()
        lone = current.round
        outcome, merged = aborted(lone.info, lone.lost), None
        if not lone.lost:
            outcome, merged = self._merged(lone)
        weights: dict[NodeId, int] = {}
        if merged is not None:
            weights = {made.sender: made.weight for made in lone.contributions}
        for sender in lone.gathering.of_round(lone.info.number):
            if self._kernel.standing(sender).banned:
                self._against.setdefault(sender, Fault.BANNED)
        self._finish(outcome)
        return HostedResult(outcome, merged, weights, dict(self._against))

    def _merged(self, lone: LoneRound) -> tuple[Outcome, Vector | None]:
        self._height += 1
        try:
            merged = lone.merge()
        except QresError as error:
            return lone.void(error.code, str(error.problems[0])), None
        self._step += 1
        return lone.closed(lone.info.model_digest, merged), merged

    def _finish(self, outcome: Outcome) -> None:
        self._open = None
        if outcome.status is RoundStatus.CLOSED:
            # What plugins keep belongs to the new model, and only the framework knows which it is.
            self._made = outcome
        else:
            self._kernel.round_closed(outcome)


def _told(reason: str) -> HostedRefusal:
    return HostedRefusal(reason, describe(reason))


def _unmoved(dimension: int) -> Vector:
    """The round's model, from which differences are counted."""
    import numpy as np  # noqa: PLC0415 - with the first round

    return np.zeros(dimension, dtype=np.int32)
