"""A node whose trainer takes long to judge a model: it answers, proposes and follows meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import ACCEPT, RoundInfo, Update, Vector, Verdict, hookimpl, reject
from qres_core.contract.transport import Delivery
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.swarm.context.effects import AskTrainer, RoundEnded
from qres_core.swarm.ledger.messages import PREVOTE, PROPOSAL, decode_vote
from qres_core.swarm.runtime.node import Event, Node, run_node
from qres_core.training import HeldOut

IDS = make_node_ids(4)
INITIAL = np.zeros(3, dtype=np.int32)
SLOW = 2
SECONDS = 8.0
"""How long that node judges the first model."""


@attrs.frozen(eq=False)
class Listener:
    """Votes for what its node's trainer finds good, and notes what the others say."""

    heard: list[tuple[float, Envelope]] = attrs.field(factory=list, init=False)

    @hookimpl
    def authenticate(self, envelope: Envelope, now: float) -> Verdict:
        self.heard.append((now, envelope))
        return ACCEPT

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        return reject("worse") if held_out.loss_with(merged) > 0 else ACCEPT


@attrs.define(eq=False)
class Judging:
    """Finds every model good, the first only when it may."""

    index: int
    time: Any
    gate: Any
    judged: int = 0
    threads: set[int] = attrs.field(factory=set)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update(np.ones_like(vector))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        del vector
        return {}

    def validate(self, vector: Vector) -> float:
        del vector
        self.judged += 1
        self.threads.add(threading.get_ident())
        if self.index == SLOW and self.judged == 1:
            if threading.current_thread() is threading.main_thread():
                self.time.now += SECONDS  # and the loop stands still
            else:
                self.gate.wait()
        return 0.0


@attrs.define(eq=False)
class Played:
    """What came of it."""

    trainers: list[Judging]
    heard: list[tuple[float, Envelope]] = attrs.field(factory=list)  # by the first node
    ended: list[tuple[float, RoundEnded]] = attrs.field(factory=list)  # at the slow one
    longest: float = 0.0  # for which the loop did not turn, virtual seconds

    def said(self, kind: str, until: float) -> list[Envelope]:
        """What the slow node said until then."""
        return [
            envelope
            for at, envelope in self.heard
            if at < until and envelope.sender == IDS[SLOW] and envelope.kind == kind
        ]


def play(
    virtual_time: Any,
    *,
    apart: bool,
    trainer: type[Judging] = Judging,
    watch_node: Callable[[int, Node], None] = lambda _index, _node: None,
) -> Played:
    swarm = {
        "name": "slow-judge",
        "nodes": 4,
        "byzantine": 1,
        "quorum": 3,
        "deadline": 2.0,
        "vote_timeout": 2.0,
        "interval": 0.5,
        "insecure": True,
    }
    plugins: dict[str, Any] = {"memory": {}, "listener": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    installed = {**scan(), "listener": Installed.local("listener", Listener)}
    gate = virtual_time.gate()
    played = Played([trainer(index, virtual_time, gate) for index in range(4)])
    voted = anyio.Event()

    async def node(index: int) -> None:
        def on_start(made: Node) -> None:
            made.machine.opinions.apart = apart
            watch_node(index, made)
            if index == 0:
                for plugin in made.machine.kernel.enabled:
                    if isinstance(plugin.instance, Listener):
                        played.heard = plugin.instance.heard

        def on_event(event: Event) -> None:
            if index == SLOW and isinstance(event, RoundEnded):
                played.ended.append((anyio.current_time(), event))
            if any(map(decode, played.said(PREVOTE, np.inf))):
                voted.set()

        await run_node(
            config,
            node_id=IDS[index],
            roster=IDS,
            trainer=played.trainers[index],
            initial=INITIAL,
            steps=None,
            installed=installed,
            on_event=on_event,
            on_start=on_start,
            clock=anyio.current_time,
        )

    def decode(vote: Envelope) -> bytes | None:
        return decode_vote(vote.payload)

    async def watch() -> None:
        before = anyio.current_time()
        while True:
            await anyio.sleep(0.1)
            played.longest = max(played.longest, anyio.current_time() - before)
            before = anyio.current_time()

    async def main() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                for index in range(4):
                    group.start_soon(node, index)
                await anyio.sleep(SECONDS)
                gate.open()
                await voted.wait()
                group.cancel_scope.cancel()

    anyio.run(main)
    return played


def test_a_node_goes_on_while_its_trainer_judges(virtual_time: Any) -> None:
    played = play(virtual_time, apart=True)
    assert played.longest < 1.0
    # It votes for no set that it has not judged, but proposes some, and makes every model.
    votes = played.said(PREVOTE, SECONDS)
    assert all(decode_vote(vote.payload) is None for vote in votes)
    assert played.said(PROPOSAL, SECONDS)
    meanwhile = [event for at, event in played.ended if at < SECONDS]
    assert len(meanwhile) >= 8
    assert {event.outcome.status.value for event in meanwhile} == {"closed"}
    assert all(IDS[SLOW] in event.outcome.members for event in meanwhile)
    main = threading.get_ident()
    assert all(main not in trainer.threads for trainer in played.trainers)
    assert not [item for item in threading.enumerate() if item.name == "qres-judging"]


def test_control_a_machine_that_waits_for_the_trainer_stops_everything(virtual_time: Any) -> None:
    played = play(virtual_time, apart=False)
    assert played.longest >= SECONDS
    assert not played.said(PROPOSAL, SECONDS)
    assert not [event for at, event in played.ended if at < SECONDS]
    main = threading.get_ident()
    assert all(trainer.threads == {main} for trainer in played.trainers)


def test_a_node_that_is_stopped_meanwhile_does_not_wait_and_leaves_no_call(
    virtual_time: Any,
) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(node: Node) -> None:
        seen.append((node.machine.next_tick == np.inf, node.machine.opinions._running is not None))

    def watch(index: int, node: Node) -> None:
        machine: Any = node.machine
        receive, loop = machine.receive, asyncio.get_running_loop()

        def takes(frame: bytes, source: bytes, now: float, waited: float) -> Any:
            effects = receive(frame, source, now, waited)
            if any(isinstance(effect, AskTrainer) for effect in effects):
                look(node)
                node.stop()
                loop.call_later(0.5, look, node)
            return effects

        loop.call_later(SECONDS, node.stop)
        if index == SLOW:
            machine.receive = takes

    with pytest.raises(TimeoutError):  # that node votes for nothing any more
        play(virtual_time, apart=True, watch_node=watch)
    assert seen == [(False, True), (True, False)]
    assert not [item for item in threading.enumerate() if item.name == "qres-judging"]


# ── a trainer that ends, and a node that is flooded ───────────────────────────────────────────────


class Abrupt(Judging):
    """Raises what would end a task or a process, when it judges the first models."""

    def validate(self, vector: Vector) -> float:
        loss = super().validate(vector)
        if self.index == SLOW and self.judged <= 2:
            raise SystemExit(3) if self.judged == 1 else asyncio.CancelledError
        return loss


def test_a_trainer_that_ends_costs_votes_and_not_the_node(virtual_time: Any) -> None:
    played = play(virtual_time, apart=True, trainer=Abrupt)
    assert played.trainers[SLOW].judged > 2
    assert any(decode_vote(vote.payload) for vote in played.said(PREVOTE, np.inf))


def queues_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an answer wait among the frames."""

    async def queue(judging: Any, wake: Any) -> None:
        while True:
            await judging._work.wait()
            judging._work = anyio.Event()
            asked, judging._asked = judging._asked, None
            if asked is not None:
                await anyio.to_thread.run_sync(asked.run)
                await wake.__self__._inlet.send(asked)

    take = Node._take

    def taken(node: Any, item: Any) -> None:
        if isinstance(item, AskTrainer):
            node._judging.answered = item
        else:
            take(node, item)

    monkeypatch.setattr("qres_core.swarm.runtime.node._JudgingThread.run", queue)
    monkeypatch.setattr(Node, "_take", taken)


@pytest.mark.parametrize("guarded", [True, False])
def test_an_answer_does_not_wait_behind_a_flood(
    virtual_time: Any, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A proposer may ask for each candidate, and has little time. In the control it queues."""
    waited: list[int] = []
    since: dict[int, int] = {}
    full: dict[int, Callable[[], None]] = {}
    run_sync = anyio.to_thread.run_sync

    async def noted(call: Any, *arguments: Any, **options: Any) -> Any:
        found = await run_sync(call, *arguments, **options)
        asked = getattr(call, "__self__", None)
        if isinstance(asked, AskTrainer):
            since[id(asked)] = 0
            full[0]()
        return found

    def watch(index: int, node: Node) -> None:
        if index:
            return

        def flood() -> None:
            with suppress(anyio.WouldBlock):
                while True:
                    node._inlet.send_nowait(Delivery(IDS[3], b"flood"))

        machine: Any = node.machine
        receive, answered = machine.receive, machine.answered

        def takes(frame: bytes, source: bytes, now: float, waited: float) -> Any:
            since.update({asked: count + 1 for asked, count in since.items()})
            return receive(frame, source, now, waited)

        def goes_on(asked: AskTrainer, now: float) -> Any:
            waited.append(since.pop(id(asked)))
            return answered(asked, now)

        full[0] = flood
        machine.receive, machine.answered = takes, goes_on

    monkeypatch.setattr(anyio.to_thread, "run_sync", noted)
    if not guarded:
        queues_answers(monkeypatch)
    play(virtual_time, apart=True, watch_node=watch)
    assert waited
    assert all((count <= 1) is guarded for count in waited)
