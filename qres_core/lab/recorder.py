"""Notes of an observer of a simulation: its rounds, the attackers' fates, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.training import evaluated
from qres_core.contract.types import NodeId, Vector
from qres_core.kernel.kernel import Kernel
from qres_core.lab.checkpoint import Checkpoint, notices
from qres_core.lab.experiment import Experiment
from qres_core.lab.meter import Meter
from qres_core.lab.nodes import describe
from qres_core.lab.record import Fate, RoundRecord, SimulationResult, alignment
from qres_core.lab.trainings import Trainings
from qres_core.swarm.storage.model_file import SwarmModel

ALIKE: Final = 3
"""Rounds in a row without a model, for the same reason, after which the rest would end alike."""
WRONG_RESULT: Final = "QRES-E702"


@attrs.define(eq=False)
class Recorder:
    """The observer's notes."""

    experiment: Experiment
    kernel: Kernel  # the observer's
    attackers: Sequence[NodeId]
    trainings: Trainings
    meter: Meter  # what arrived since the round noted last
    # one for each round, those before a checkpoint included
    records: list[RoundRecord] = attrs.field(factory=list[RoundRecord], init=False)
    # what the observer refused in the current round, by reason
    refused: Counter[str] = attrs.field(factory=Counter[str], init=False)
    # what became of messages that attackers injected, at honest nodes
    injected: Counter[str] = attrs.field(factory=Counter[str], init=False)
    stalled: str = attrs.field(default="", init=False)  # why it stopped within a round
    # rounds whose agreed set had a contribution of a node
    merged: Counter[NodeId] = attrs.field(factory=Counter[NodeId], init=False)

    def note(
        self,
        outcome: Outcome,
        model: Vector,
        merged: Vector | None,
        banned: tuple[int, int] = (0, 0),
        *,
        found: str = "",
    ) -> RoundRecord:
        """Note how a round ended.

        ``merged``: what was added to the model before; ``None`` if unknown. ``found``: what the
        observer itself found in place of a model.
        """
        info, closed = outcome.round_info, outcome.status is RoundStatus.CLOSED
        received, most = self.meter.take()
        evaluate, made = self.trainings.task.evaluate, self.trainings.made(info)
        record = RoundRecord(
            number=info.number,
            height=info.height,
            closed=closed,
            void=outcome.status is RoundStatus.VOID,
            reason=": ".join(filter(None, (outcome.reason, found))),
            metrics=evaluated(evaluate, model, info, node="node-0") if closed else {},
            accepted=len(outcome.members),
            attackers_accepted=len(set(self.attackers).intersection(outcome.members)),
            rejected=dict(sorted(self.refused.items())),
            banned_honest=banned[0],
            banned_attackers=banned[1],
            alignment=None if merged is None else alignment(merged, made),
            model_digest=outcome.model_digest.hex(),
            received=received,
            received_most=most,
            vanished=self.trainings.vanished[info.number],
            plugins=self.kernel.status(),
        )
        self.refused.clear()
        self.merged.update(outcome.members)
        self.records.append(record)
        return record

    @property
    def is_hopeless(self) -> bool:
        """True if the last rounds ended alike, because a hook returned what no hook may.

        It will again: what a hook returns is decided by the plugin's code.
        """
        last = self.records[-ALIKE:]
        alike = len(last) == ALIKE and len({record.reason for record in last}) == 1
        return alike and last[0].void and WRONG_RESULT in last[0].reason

    def tell(
        self, model: Callable[[], SwarmModel], checkpoint: Callable[[], Checkpoint] | None
    ) -> None:
        """Tell of the round noted last, and write down what it takes to go on.

        ``checkpoint``: makes a checkpoint; ``None`` where there is nothing new to go on from.
        """
        wanted, record = self.experiment, self.records[-1]
        if wanted.keeper is not None and checkpoint is not None:
            wanted.keeper.keep(checkpoint())
        if wanted.on_model is not None and record.closed:
            wanted.on_model(model())
        if wanted.progress is not None:
            wanted.progress(record)

    def result(
        self,
        *,
        model: SwarmModel,
        digests: Sequence[bytes],
        judges: Sequence[Kernel],
        against: Mapping[NodeId, Counter[str]],
        messages: int,
        seconds: float = 0.0,
    ) -> SimulationResult:
        """Result of the simulation, with the facts that the engine alone knows."""
        config, scenario = self.experiment.config, self.experiment.scenario
        start, task = self.experiment.start, self.trainings.task
        resumed = (
            ()
            if start is None
            else notices(self.kernel, scenario, start, self.records, task.trainers)
        )
        swallowed = (self.trainings.notice,) if self.trainings.notice else ()
        if self.is_hopeless:
            said = f"stopped after {ALIKE} rounds that ended alike: {self.records[-1].reason}"
            swallowed = (said, *swallowed)
        if self.stalled:
            swallowed = (self.stalled, *swallowed)
        return SimulationResult(
            model=model,
            trainer=task.name,
            nodes=config.swarm.nodes,
            attackers=scenario.attackers,
            attack=" + ".join(filter(None, (scenario.attack, scenario.sabotage))),
            seed=scenario.seed,
            pipeline=describe(self.kernel),
            notices=(*swallowed, *task.notices, *self.kernel.solution.notices, *resumed),
            rounds=tuple(self.records),
            model_digests=tuple(digest.hex() for digest in digests),
            virtual_seconds=round(seconds, 3),
            messages=messages,
            injected=dict(sorted(self.injected.items())),
            fates=tuple(
                Fate(
                    number=number,
                    node=who.hex(),
                    merged=self.merged[who],
                    against=dict(sorted(against.get(who, Counter[str]()).items())),
                    banned_by=sum(kernel.standing(who).banned for kernel in judges),
                )
                for number, who in enumerate(self.attackers)
            ),
        )
