"""Reports of a simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from qres_core.contract.types import Vector
from qres_core.swarm.storage.model_file import SwarmModel


@attrs.frozen(kw_only=True)
class RoundRecord:
    """One round as an observer saw it."""

    number: int  # round number
    closed: bool  # whether it made a model
    height: int = 0  # heights that were decided before, with a model or void
    # whether the members agreed that there is none: that cost a height, and is no abort
    void: bool = False
    reason: str = ""  # why there is no model
    # figures of the model after the round, on data no node trained on
    metrics: Mapping[str, float] = attrs.field(factory=dict[str, float])
    accepted: int = 0  # contributions in the agreed set
    attackers_accepted: int = 0  # those of attackers among them
    # refused contributions and messages, by reason
    rejected: Mapping[str, int] = attrs.field(factory=dict[str, int])
    banned_honest: int = 0  # honest nodes the observer's reputation plugin bans after the round
    banned_attackers: int = 0  # attackers it bans
    # cosine between the merged update and the mean of the honest updates
    alignment: float | None = None
    model_digest: str = ""  # hex digest of the model after the round
    # updates of honest nodes of which most of what moved is below half a step of the grid, so that
    # it is lost; of trainers that can tell
    vanished: int = 0
    # bytes that a node received since the round before, by what they are for: on average, or in the
    # engine without a network of the observer, which hears contributions and dialogues alone
    received: Mapping[str, int] = attrs.field(factory=dict[str, int])
    received_most: int = 0  # bytes of the node that received the most, for whatever
    # what the observer's plugins have to show after the round, by plugin
    plugins: Mapping[str, Mapping[str, object]] = attrs.field(
        factory=dict[str, Mapping[str, object]]
    )

    @property
    def outcome(self) -> str:
        """End of a round, for people: ``closed``, or why there is no model."""
        if self.closed:
            return "closed"
        return f"{'void' if self.void else 'aborted'}: {self.reason}"

    @property
    def epsilon(self) -> float | None:
        """Privacy spent so far, of the plugin that shows the most; ``None`` where none does."""
        spent = [shown.get("epsilon") for shown in self.plugins.values()]
        return max((item for item in spent if isinstance(item, float)), default=None)


@attrs.frozen(kw_only=True)
class Fate:
    """Fate of an attacker, as an observer saw it."""

    number: int  # which of the attackers, from 0
    node: str  # hex digits of its identity
    merged: int  # rounds whose agreed set had a contribution of it
    against: Mapping[str, int]  # what was held against it, and how often
    banned_by: int  # honest nodes whose reputation plugin bans it at the end


@attrs.frozen(kw_only=True)
class SimulationResult:
    """A whole simulation.

    Attributes:
        trainer: what was trained: ``trainer.entry``, or the name of a task.
        nodes: number of nodes.
        attackers: number of attackers.
        attack: name of the attack, or empty.
        seed: the seed.
        pipeline: enabled plugins: name, distribution, version, hooks.
        notices: what the solver wants known.
        rounds: a record for every round, those that made no model included.
        model_digests: hex digest of each honest node's final model.
        virtual_seconds: time the swarm took, on its own clock.
        messages: messages delivered.
        injected: what became of messages that attackers injected beside their contributions, at
            honest nodes: ``admitted``, or why they were refused.
        fates: of the attackers; empty for an engine that does not follow them.
        model: the observer's final model: ``vector`` on the grid, ``weights`` as real numbers.
    """

    trainer: str
    nodes: int
    attackers: int
    attack: str
    seed: int
    pipeline: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]
    rounds: tuple[RoundRecord, ...]
    model_digests: tuple[str, ...]
    virtual_seconds: float
    messages: int
    model: SwarmModel = attrs.field(eq=False, repr=False)  # `model_digests` tell it apart
    injected: Mapping[str, int] = attrs.field(factory=dict[str, int])
    fates: tuple[Fate, ...] = ()

    @property
    def closed(self) -> tuple[RoundRecord, ...]:
        """The rounds that made a model."""
        return tuple(record for record in self.rounds if record.closed)

    @property
    def void(self) -> tuple[RoundRecord, ...]:
        """The rounds whose members agreed that there is no model; each cost a height."""
        return tuple(record for record in self.rounds if record.void)

    @property
    def aborted(self) -> tuple[RoundRecord, ...]:
        """The rounds in which nothing was decided."""
        return tuple(record for record in self.rounds if not (record.closed or record.void))

    @property
    def received(self) -> Mapping[str, float]:
        """Bytes that a node received in a round on average, by what they are for."""
        total: Counter[str] = Counter()
        for record in self.rounds:
            total.update(record.received)
        return {phase: octets / len(self.rounds) for phase, octets in sorted(total.items())}

    @property
    def unanimous(self) -> bool:
        """True if all honest nodes end with one model."""
        return len(set(self.model_digests)) == 1

    def final(self, metric: str) -> float | None:
        """The last closed round's figure, or ``None`` if no round closed."""
        closed = self.closed
        return closed[-1].metrics.get(metric) if closed else None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        data = attrs.asdict(self, recurse=True, filter=lambda field, _value: field.name != "model")
        data["unanimous"] = self.unanimous
        return data


def alignment(merged: Vector, honest: Sequence[Vector]) -> float | None:
    """Cosine between the merged update and the honest mean; ``None`` where either is zero."""
    if not honest:
        return None
    total = np.zeros(merged.size, dtype=np.int64)
    for vector in honest:
        total += vector
    mean = total / len(honest)
    real = merged.astype(np.float64)
    size = float(np.linalg.norm(mean) * np.linalg.norm(real))
    return float(mean @ real) / size if size else None
