"""Status of a running node: one JSON object, made when it is asked for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from qres_core.contract.rounds import RoundStatus
from qres_core.contract.training import TrainerFailure
from qres_core.contract.transport import AttendedTransport, PeerChange, TransportEvent
from qres_core.contract.types import FULL_STANDING, NodeId
from qres_core.contract.version import __version__
from qres_core.node.links import LinkBook
from qres_core.swarm.context.effects import NOTHING_NEW, Agreed, RoundEnded, SatOut, Vanished
from qres_core.swarm.ledger.chain import SILENT
from qres_core.swarm.runtime.node import Event, Node

VERSION: Final = 1
"""Of the object's form; a key never changes its meaning within a version."""
HISTORY: Final = 240
"""Rounds that are remembered for the status."""
CONNECTIONS: Final = 60
"""Events of the transport that are remembered."""
MAX_DETAIL: Final = 200
REASONS: Final = 64
"""Reasons of rejections told apart; the rest are counted as ``other``."""


@attrs.define(eq=False)
class Ended:
    """A round as this node saw it end."""

    round: int
    height: int
    step: int
    closed: bool
    void: bool  # the height is over without a model; neither closed nor void: aborted
    reason: str
    members: int
    model_digest: str
    at: float
    seconds: float
    metrics: Mapping[str, float] = attrs.field(factory=dict[str, float])


@attrs.define(eq=False)
class StatusBoard:
    """Gathers what happens to one node.

    Everything is called in the event loop's thread.
    """

    clock: Callable[[], float] = time.time  # seconds since 1970
    name: str = ""  # what people call the node; may be empty
    started: float = attrs.field(init=False)
    history: deque[Ended] = attrs.field(factory=lambda: deque[Ended](maxlen=HISTORY), init=False)
    connections: deque[dict[str, Any]] = attrs.field(
        factory=lambda: deque[dict[str, Any]](maxlen=CONNECTIONS), init=False
    )
    links: LinkBook = attrs.field(factory=LinkBook, init=False)  # why links ended
    closed: int = attrs.field(default=0, init=False)
    void: int = attrs.field(default=0, init=False)
    aborted: int = attrs.field(default=0, init=False)
    sat_out: int = attrs.field(default=0, init=False)
    nothing_new: int = attrs.field(default=0, init=False)
    vanished: dict[str, Any] = attrs.field(factory=lambda: {"updates": 0}, init=False)
    agreed: tuple[int, str] | None = attrs.field(default=None, init=False)
    metrics: Mapping[str, float] = attrs.field(factory=dict[str, float], init=False)
    metrics_step: int | None = attrs.field(default=None, init=False)
    # what became of ``swarm.until`` here, in words; empty before the first figures
    goal: str = attrs.field(default="", init=False)
    # told of the figures of every model that was measured
    on_measured: Callable[[int, Mapping[str, float]], None] | None = attrs.field(
        default=None, init=False
    )
    node: Node | None = attrs.field(default=None, init=False)
    reloads: int = attrs.field(default=0, init=False)
    _reload: dict[str, Any] | None = attrs.field(default=None, init=False)
    _contributed: dict[bytes, int] = attrs.field(factory=dict[bytes, int], init=False)
    _last: dict[str, Any] | None = attrs.field(default=None, init=False)
    _failure: dict[str, Any] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.started = self.clock()

    def note(self, event: Event) -> None:
        """Take what the node reports."""
        match event:
            case RoundEnded():
                self._ended(event)
            case Agreed():
                self.agreed = event.round, event.model_digest.hex()
            case SatOut(reason=reason) if reason == NOTHING_NEW:
                self.nothing_new += 1
            case SatOut():
                self.sat_out += 1
            case Vanished():
                self.vanished = {
                    "updates": self.vanished["updates"] + 1,
                    "round": event.round,
                    "text": event.text,
                    "fix": event.fix,
                }
            case TrainerFailure():
                self.failed(event)
            case _:
                pass

    def failed(self, failure: TrainerFailure) -> None:
        """The trainer failed, for the so-manieth time."""
        times = 1 if self._failure is None else self._failure["times"] + 1
        self._failure = {**failure.to_json(), "at": self.clock(), "times": times}

    def neighbour(self, event: TransportEvent) -> None:
        """Take what the transport reports."""
        self.links.note(event, self.clock())
        if event.change is PeerChange.FAILED:  # again and again, while a peer is away
            return
        peer = None if event.peer is None else event.peer.hex()
        said = {"at": self.clock(), "change": str(event.change), "peer": peer}
        reason = None if event.reason is None else str(event.reason)
        self.connections.append({**said, "reason": reason, "detail": event.detail[:MAX_DETAIL]})

    def _ended(self, event: RoundEnded) -> None:
        outcome = event.outcome
        closed = outcome.status is RoundStatus.CLOSED
        if closed:
            self.closed += 1
        elif outcome.status is RoundStatus.VOID:
            self.void += 1
        else:
            self.aborted += 1
        for member in outcome.members:
            self._contributed[member] = self._contributed.get(member, 0) + 1
        # The machine has the new model already when it reports the round's end.
        step = self.node.machine.step if self.node is not None else 0
        now = self.clock()
        before = self.history[-1].at if self.history else self.started
        self.history.append(
            Ended(
                round=outcome.round_info.number,
                height=outcome.round_info.height,
                step=step,
                closed=closed,
                void=outcome.status is RoundStatus.VOID,
                reason=event.reason,
                members=len(outcome.members),
                model_digest=outcome.model_digest.hex(),
                at=now,
                seconds=max(0.0, now - before),
            )
        )

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of the model of a step."""
        self.metrics, self.metrics_step = finite(metrics), step
        for ended in self.history:
            if ended.closed and ended.step == step:
                ended.metrics = self.metrics
        if self.on_measured is not None:
            self.on_measured(step, self.metrics)

    def reloaded(self, taken: Sequence[str], problems: Sequence[str], at: float) -> None:
        """The configuration was read again: what was taken of it, or why nothing was.

        ``at``: when reading began, seconds since 1970; what was written later was not seen.
        """
        self.reloads += 1
        told = {"at": at, "taken": list(taken), "problems": list(problems)}
        self._reload = {"times": self.reloads, **told}

    def report(self) -> dict[str, Any]:
        """The status, ready for JSON."""
        node = self.node
        said: dict[str, Any] = {
            "version": VERSION,
            "qres": __version__,
            "state": "starting" if node is None else "running",
            "started": self.started,
            "now": self.clock(),
            "rounds": {
                "closed": self.closed,
                "void": self.void,
                "aborted": self.aborted,
                "sat_out": self.sat_out,
                "nothing_new": self.nothing_new,
            },
            "trainer_error": self._failure,
            "vanished": self.vanished if self.vanished["updates"] else None,
            "agreed": self._agreed(),
            "metrics": self.metrics,
            "metrics_step": self.metrics_step,
            "goal": self.goal,
            "connections": list(self.connections),
            "reload": self._reload,
            "links": self.links.facts(),
            "history": [attrs.asdict(record) for record in self.history],
            "privacy": None,
            "roster": None,
            "shown": {},
        }
        if node is not None:
            said.update(self._of(node) if self._last is None else self._last)
        return said

    def rest(self) -> None:
        """Take a last look at the node: when its plugins are torn down they answer no more."""
        if self.node is not None:
            self._last = self._of(self.node)

    def _agreed(self) -> dict[str, Any] | None:
        if self.agreed is None:
            return None
        return {"round": self.agreed[0], "model_digest": self.agreed[1]}

    def _of(self, node: Node) -> dict[str, Any]:
        machine, transport = node.machine, node.transport
        swarm, kernel, head = machine.swarm, machine.kernel, machine.head
        silent = {
            member
            for member, missed in zip(head.roster.members, head.missed, strict=True)
            if missed >= SILENT
        }
        shown = kernel.status()
        stats = transport.stats()
        peers = {peer.node_id: peer for peer in transport.peers()}
        offered: object = transport
        dials: Mapping[NodeId, float] = (
            offered.dials() if isinstance(offered, AttendedTransport) else {}
        )
        members: list[dict[str, Any]] = []
        for item in machine.roster:
            standing = kernel.standing(item)
            members.append(
                {
                    "id": item.hex(),
                    "self": item == machine.node_id,
                    "connected": item in peers,
                    "next_dial_seconds": None if item in peers else dials.get(item),
                    "standing": standing.weight / FULL_STANDING,
                    "banned": standing.banned,
                    "banned_by_all": item in head.bans,
                    "silent": item in silent,
                    "contributed": self._contributed.get(item, 0),
                    "clock_offset_seconds": kernel.intake.clock_offsets.get(item),
                    "last_heard_seconds": None
                    if item == machine.node_id
                    else _since(kernel.intake.last_heard.get(item), self.clock()),
                }
            )
        return {
            "node": {"id": machine.node_id.hex(), "name": self.name},
            "swarm": {
                "name": swarm.name,
                "nodes": len(head.roster),
                "byzantine": head.roster.byzantine,
                "quorum": head.roster.quorum,
                "interval": swarm.interval,
                "rounds": swarm.rounds,
                "until": swarm.until,
            },
            "plugins": [plugin.name for plugin in kernel.enabled],
            "versions": {
                plugin.name: f"{plugin.origin.distribution} {plugin.origin.version}"
                for plugin in kernel.enabled
            },
            "through": node.is_through,
            "begins_at": None if node.meeting else machine.waits_until,
            "round": 0 if node.meeting else machine.number,
            "height": head.height,
            "head": head.digest.hex(),
            "roster": machine.changes.facts(),
            "removed": not machine.is_member,
            "step": machine.step,
            "model_round": machine.model_round,
            "model_digest": machine.model_digest.hex(),
            "rejections": counted(kernel.rejections),
            "members": members,
            "peers": [
                {"id": peer.node_id.hex(), "address": peer.address, "since": peer.since}
                for peer in peers.values()
            ],
            "transport": {**attrs.asdict(stats), "reasons": counted(stats.reasons)},
            "outbox_dropped": node.dropped,
            "privacy": spent(shown),
            "shown": {name: _jsonable(facts) for name, facts in shown.items()},
        }


def _since(at: float | None, now: float) -> float | None:
    """Seconds from a moment to now; 0 where the clock was set back meanwhile."""
    return None if at is None else max(0.0, now - at)


def spent(shown: Mapping[str, Mapping[str, object]]) -> dict[str, object] | None:
    """The privacy spent, of the plugin that shows the most; ``None`` where none shows any."""
    made = {name: facts for name, facts in shown.items() if isinstance(facts.get("epsilon"), float)}
    if not made:
        return None
    name = max(made, key=lambda item: (made[item]["epsilon"], item))
    return {"plugin": name, **_jsonable(made[name])}


def _jsonable(facts: Mapping[str, object]) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures that JSON can carry, as floats."""
    made = {str(name): float(value) for name, value in metrics.items()}
    return {name: value for name, value in made.items() if math.isfinite(value)}


def counted(rejections: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason, most frequent first, the long tail in one."""
    ordered = sorted(rejections.items(), key=lambda item: (-item[1], item[0]))
    said = dict(ordered[:REASONS])
    rest = sum(count for _reason, count in ordered[REASONS:])
    return {**said, "other": said.get("other", 0) + rest} if rest else said
