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
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Fault, Merit, describe, of_plugin
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.trainer import Reference, Validator, pooled
from qres_core.contract.types import DIGEST_BYTES, Contribution, NodeId, Vector
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.hosting.client import NO_TASK, REPORT
from qres_core.hosting.host import COORDINATOR, NOBODY, Host
from qres_core.hosting.partaking import hosted
from qres_core.hosting.talk import Accused, HostedTalk
from qres_core.hosting.told import HostedRound, members_digest
from qres_core.kernel.inbound import Rejection
from qres_core.swarm.dialogue_log import Said
from qres_core.swarm.gathering import Gathering, Held
from qres_core.swarm.merge import Members, Merger
from qres_core.swarm.messages import (
    CONTRIBUTION,
    DIALOGUE,
    ContributionBody,
    contribution_digest,
)
from qres_core.swarm.results import Void

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
    """How a round ended.

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


@attrs.frozen(eq=False)
class _Chosen:
    """Whose updates are merged, or why none are."""

    merger: Merger
    members: Members
    ended: Outcome | None = None


@attrs.define(eq=False)
class _Open:
    """A round while clients answer."""

    info: RoundInfo
    since: float
    ticks: float  # since is the same moment
    evaluates: bool = False  # an evaluation: there is nothing to merge
    conversation: HostedTalk | None = None  # where plugins have clients talk
    gathering: Gathering = attrs.field(factory=Gathering)
    chosen: _Chosen | None = None  # once it is decided


class Coordinator:
    """Runs the plugins of a configuration in the place of agreement.

    Not for more than one thread at a time.

    Args:
        host: the configuration.
        trainer: has ``validate`` (and ``reference``) where plugins judge by held-out examples: see
            :class:`~qres_core.Validator`. Vectors that it is given are differences from the round's
            model, on the swarm's grid.
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
        self._kernel.setup(
            host.node_info(
                NOBODY,
                validates=isinstance(trainer, Validator),
                references=isinstance(trainer, Reference),
                pooled=pooled(trainer),
                folder=COORDINATOR,
            )
        )

    @property
    def rejections(self) -> Mapping[str, int]:
        """How often messages were refused, by reason."""
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
        self._open = _Open(info, self._clock(), self._ticks(), conversation=talk)
        return told

    def asks(self) -> bytes | None:
        """What all clients are to be asked now; ``None`` where there is nothing, or no dialogue.

        Asked after :meth:`begin` until there is nothing: then clients may train. Asked after
        :meth:`decide` again: then the round may be closed. Whatever clients answer goes to
        :meth:`take`.

        Returns: an encoded :class:`~qres_core.hosting.HostedTurn`.
        """
        talk = None if self._open is None else self._open.conversation
        return None if talk is None else talk.asks()

    def ask(self, model: bytes, dimension: int, task: bytes = NO_TASK) -> HostedRound:
        """Announce an evaluation of a model between rounds; clients answer with reports alone."""
        self._leave(model)
        told = self._announced(model, task)
        info = told.info(self.host.config.swarm, dimension)
        self._open = _Open(info, self._clock(), self._ticks(), evaluates=True)
        self._kernel.enter(frozenset(info.roster))
        return told

    def _leave(self, model: bytes) -> None:
        """End what was before; ``model``: the digest of what it led to."""
        current, self._open = self._open, None
        if current is not None and not current.evaluates:
            self._finish(_aborted(current.info, "another round began"))
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
            return self._against_sender(found, arrived, KERNEL)
        self._accuse(found)
        return HostedMessage(arrived.sender, DIALOGUE)

    def _accuse(self, accused: Iterable[Accused]) -> None:
        for plugin, each in accused:
            made = self._kernel.refuse(each.fact, Blame.SENDER, each.subject, plugin, self._number)
            self._against[each.subject] = made.reason

    def _contributed(self, arrived: Envelope, current: _Open) -> HostedMessage | HostedRefusal:
        if arrived.kind != CONTRIBUTION or current.evaluates:
            return self._against_sender(Fault.UNKNOWN_KIND, arrived, KERNEL)
        swarm, info, sender = self.host.config.swarm, current.info, arrived.sender
        try:
            body = ContributionBody.from_bytes(arrived.payload, info.dimension)
            self._kernel.check_beside(body.proofs, body.companions)
        except WireError:
            return self._against_sender(Fault.MALFORMED_PAYLOAD, arrived, KERNEL)
        made = Contribution(
            sender,
            contribution_digest(arrived),
            body.vector,
            min(body.weight, swarm.weight_cap),
            body.proofs,
            body.companions,
        )
        verdict, plugin = self._kernel.verify(made, info)
        if verdict is not ACCEPT:
            return self._against_sender(verdict.reason, arrived, plugin, verdict.blame)
        if not current.gathering.add(Held(made, arrived)):
            return self._against_sender(Fault.EQUIVOCATION, arrived, KERNEL)
        return HostedMessage(sender, CONTRIBUTION)

    def _against_sender(
        self, reason: str, arrived: Envelope, plugin: str, blame: Blame = Blame.SENDER
    ) -> HostedRefusal:
        refusal = self._kernel.refuse(reason, blame, arrived.sender, plugin, arrived.round)
        self._against[arrived.sender] = refusal.reason
        return _told(refusal.reason)

    def _refused(self, own: str) -> HostedRefusal:
        """What is wrong with a message without a reproach to anybody."""
        return _told(self._kernel.refuse(own, Blame.NOBODY, None, HOST, self._number).reason)

    # ── the end of a round ────────────────────────────────────────────────────────────────────

    def decide(self) -> None:
        """Choose whose updates are merged; plugins that have clients talk go on with that.

        :meth:`close` does it where nobody did. Raises RoundError: QRES-E604 where no round is open.
        Raises QresError: a plugin could not keep what it must.
        """
        current = self._merging()
        held_out = HeldOut.of(self._trainer, _unmoved(current.info.dimension), current.info)
        merger = Merger(self._kernel, current.gathering, current.info, held_out)
        try:
            current.chosen = self._chosen(merger)
            if current.chosen.ended is None and current.conversation is not None:
                senders = tuple(member.sender for member in current.chosen.members)
                made = current.gathering.contributions(current.chosen.members)
                self._accuse(current.conversation.decided(senders, made))
        except QresError as error:
            ended = _aborted(current.info, str(error.problems[0]))
            current.chosen = _Chosen(merger, (), ended)

    def _merging(self) -> _Open:
        if self._open is None or self._open.evaluates:
            raise RoundError.of("QRES-E604", "round", "none is open", "call begin first")
        return self._open

    def _chosen(self, merger: Merger) -> _Chosen:
        info = merger.info
        choice = merger.choose()
        for evidence in choice.against:
            self._kernel.observe(evidence)
            self._against[evidence.subject] = evidence.fact
        members = choice.members
        if len(members) < info.quorum:
            reason = f"{len(members)} contributions count, and swarm.quorum is {info.quorum}"
            return _Chosen(merger, members, _aborted(info, reason))
        verdict, plugin = merger.judge(members)
        if verdict is not ACCEPT:
            return _Chosen(merger, members, _aborted(info, of_plugin(plugin, verdict.reason)))
        return _Chosen(merger, members)

    def close(self) -> HostedResult:
        """Merge what was taken in: choose, judge, reveal, aggregate.

        What plugins refuse ends the round without a model, and its outcome says why. Raises
        RoundError: QRES-E604 where no round is open. Raises QresError: a plugin could not keep what
        it must.
        """
        current = self._merging()
        if current.chosen is None:
            self.decide()
        chosen = current.chosen
        assert chosen is not None  # noqa: S101 - decided just now
        info, gathering = current.info, current.gathering
        weights: dict[NodeId, int] = {}
        outcome, merged = chosen.ended, None
        if outcome is None:
            outcome, merged = self._merged(chosen)
        for member in chosen.members if merged is not None else ():
            held = gathering.get(member.digest)
            weights[member.sender] = 1 if held is None else held.contribution.weight
            fact = Evidence(member.sender, Merit.CONTRIBUTED, KERNEL, info.number)
            self._kernel.observe(fact)
        for sender in gathering.of_round(info.number):
            if self._kernel.standing(sender).banned:
                self._against.setdefault(sender, Fault.BANNED)
        self._finish(outcome)
        return HostedResult(outcome, merged, weights, dict(self._against))

    def _merged(self, chosen: _Chosen) -> tuple[Outcome, Vector | None]:
        info = chosen.merger.info
        self._height += 1
        senders = tuple(member.sender for member in chosen.members)
        try:
            merged = chosen.merger.merge(chosen.members)
        except QresError as error:
            reason = f"{Void(error.code).reason}: {error.problems[0]}"
            status, code = RoundStatus.VOID, error.code
            return Outcome(info, status, info.model_digest, senders, reason, code), None
        self._step += 1
        status = RoundStatus.CLOSED
        return Outcome(info, status, info.model_digest, senders, change=merged), merged

    def _finish(self, outcome: Outcome) -> None:
        self._open = None
        if outcome.status is RoundStatus.CLOSED:
            # What plugins keep belongs to the new model, and only the framework knows which it is.
            self._made = outcome
        else:
            self._kernel.round_closed(outcome)


def _aborted(info: RoundInfo, reason: str) -> Outcome:
    return Outcome(info, RoundStatus.ABORTED, info.model_digest, reason=reason)


def _told(reason: str) -> HostedRefusal:
    return HostedRefusal(reason, describe(reason))


def _unmoved(dimension: int) -> Vector:
    """The round's model, from which differences are counted."""
    import numpy as np  # noqa: PLC0415 - with the first round

    return np.zeros(dimension, dtype=np.int32)
