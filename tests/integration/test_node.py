"""Real nodes in one process, over the memory transport, on a clock no machine slows down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import numpy as np
import pytest

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Envelope,
    NodeId,
    NodeInfo,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    model_digest,
    reject,
)
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.faults import Fault
from qres_core.contract.training import TrainerFailure
from qres_core.contract.transport import Delivery
from qres_core.errors import ConfigError, ModelError, RoundError, TransportError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.node_ids import node_ids
from qres_core.lab.simulator import simulate
from qres_core.node.status import StatusBoard
from qres_core.node.trainer import guarded
from qres_core.swarm.context.effects import Agreed, Diverged, Refused, RoundEnded, SatOut
from qres_core.swarm.ledger.chain import Link
from qres_core.swarm.ledger.messages import OUTCOME
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.node import Event, Node, run_node
from qres_core.swarm.storage.journal import SqliteJournal
from qres_core.swarm.storage.model_file import SwarmModel, kept_model
from qres_core.training import Trainer
from qres_core.training.table import check_base
from qres_core.training.tasks import Task, TaskConfig, make_task

SEED = 11
TASK = TaskConfig(name="quadratic", dimension=12, local_epochs=1, learning_rate=0.5)
IDS = node_ids(4, SEED)

pytestmark = pytest.mark.usefixtures("virtual_time")


def virtual_clock() -> float:
    return 1e9 + anyio.current_time()


def configure(
    name: str,
    *,
    deadline: float = 5.0,
    vote_timeout: float = 2.0,
    interval: float = 0.0,
    data_dir: Path | None = None,
    plugins: Mapping[str, Any] | None = None,
) -> Config:
    swarm: dict[str, Any] = {
        "name": name,
        "nodes": 4,
        "byzantine": 1,
        "quorum": 3,
        "deadline": deadline,
        "vote_timeout": vote_timeout,
        "interval": interval,
        "insecure": True,
        "max_message_bytes": 65536,
    }
    return parse(
        {
            "swarm": swarm,
            "node": {} if data_dir is None else {"data_dir": str(data_dir)},
            "plugins": {"memory": {}, "mean": {"unprotected": True}, **(plugins or {})},
        },
        source="test",
    )


@pytest.fixture
def task() -> Task:
    return make_task(TASK, nodes=4, seed=SEED)


@attrs.define(eq=False)
class Swarm:
    """Four nodes to be run, and what they said."""

    config: Config
    task: Task
    trainers: list[Trainer] = attrs.field(init=False)
    events: dict[int, list[Event]] = attrs.field(factory=dict)
    machines: dict[int, RoundMachine] = attrs.field(factory=dict)
    errors: dict[int, BaseException] = attrs.field(factory=dict)
    hooks: list[Callable[[int, Event], None]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.trainers = list(self.task.trainers)

    async def node(self, index: int, steps: int | None, **options: Any) -> None:
        def on_event(event: Event) -> None:
            self.events.setdefault(index, []).append(event)
            for hook in self.hooks:
                hook(index, event)

        options = {"linger": 0.6, "clock": virtual_clock, "on_event": on_event, **options}
        try:
            self.machines[index] = await run_node(
                self.config,
                node_id=IDS[index],
                roster=IDS,
                trainer=self.trainers[index],
                initial=self.task.initial,
                steps=steps,
                **options,
            )
        except Exception as error:  # noqa: BLE001 - the test says which node may fail
            self.errors[index] = error

    async def together(self, steps: int, nodes: Sequence[int] = range(4), **options: Any) -> None:
        async with anyio.create_task_group() as group:
            for index in nodes:
                group.start_soon(lambda index=index: self.node(index, steps, **options))

    def of(self, index: int, kind: type[Any]) -> list[Any]:
        return [event for event in self.events.get(index, ()) if isinstance(event, kind)]

    def closed(self, index: int) -> list[RoundEnded]:
        ended: list[RoundEnded] = self.of(index, RoundEnded)
        return [event for event in ended if event.outcome.status is RoundStatus.CLOSED]

    def digests(self) -> list[str]:
        return [self.machines[index].model_digest.hex() for index in sorted(self.machines)]


def play(scene: Callable[[], Any]) -> None:
    """Run a scene; nothing may stay behind in the transport."""

    async def main() -> None:
        with anyio.fail_after(25):
            await scene()

    anyio.run(main)
    assert not MemoryTransport._hubs


# ── agreeing ──────────────────────────────────────────────────────────────────────────────────


def test_four_nodes_end_with_the_model_the_simulator_predicts(task: Task) -> None:
    swarm = Swarm(configure("predicted"), task)
    play(lambda: swarm.together(4))

    assert not swarm.errors
    assert {machine.step for machine in swarm.machines.values()} == {4}
    for index in range(4):
        assert [len(event.outcome.members) for event in swarm.closed(index)] == [4] * 4
        assert {event.model_digest for event in swarm.of(index, Agreed)} >= {
            event.outcome.model_digest for event in swarm.closed(index)
        }
        assert not swarm.machines[index].kernel.rejections
    predicted = simulate(swarm.config, Scenario(rounds=4, seed=SEED), task=TASK)
    assert predicted.unanimous
    assert all(record.accepted == 4 for record in predicted.closed)
    assert swarm.digests() == list(predicted.model_digests)


@attrs.frozen
class Stamp:
    """Signs with the sender's name: enough where nobody lies."""

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return envelope.sender

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        genuine = envelope.auth.get("stamp") == envelope.sender
        return ACCEPT if genuine else reject("no-stamp", blame=Blame.LINK)


@pytest.mark.parametrize("frame_bytes", [65536, 128])
def test_sharded_nodes_end_with_the_model_of_a_simulation_in_which_all_merge_all(
    task: Task, frame_bytes: int
) -> None:
    """With the smaller frames, every message is announced and pulled."""
    plain = configure("shards")
    swarm_options = attrs.evolve(plain.swarm, aggregation="sharded")
    plugins = {"stamp": {}, **plain.plugins, "memory": {"frame_bytes": frame_bytes}}
    swarm = Swarm(attrs.evolve(plain, swarm=swarm_options, plugins=plugins), task)
    installed = {**scan(), "stamp": Installed.local("stamp", Stamp)}
    play(lambda: swarm.together(3, installed=installed))

    assert not swarm.errors
    predicted = simulate(plain, Scenario(rounds=3, seed=SEED), task=TASK)
    assert swarm.digests() == list(predicted.model_digests)
    for index in range(4):
        assert [len(event.outcome.members) for event in swarm.closed(index)] == [4] * 3
        assert not swarm.machines[index].kernel.rejections


def test_a_lone_node_waits_without_spinning(task: Task) -> None:
    swarm = Swarm(configure("lone", deadline=60.0), task)
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return virtual_clock()

    async def scene() -> None:
        with anyio.move_on_after(0.3):
            await swarm.node(0, None, clock=clock)

    play(scene)
    assert not swarm.machines
    assert not swarm.errors
    assert 1 <= asked < 20


def test_messages_larger_than_a_frame_make_the_same_model(task: Task) -> None:
    """Every message is announced and pulled: frames hold less than the smallest of them."""
    plain = configure("large")
    small = {"memory": {"frame_bytes": 128, "jitter": 0.02, "duplicate": 0.2, "seed": 3}}
    swarm = Swarm(attrs.evolve(plain, plugins={**plain.plugins, **small}), task)
    nodes: list[Node] = []
    play(lambda: swarm.together(3, on_start=nodes.append))

    assert not swarm.errors
    predicted = simulate(plain, Scenario(rounds=3, seed=SEED), task=TASK)
    assert swarm.digests() == list(predicted.model_digests)
    for node in nodes:
        assert node.carrier.pulls.announced > 10
        assert node.carrier.pulls.pulled > 30
        assert (node.carrier.pulls.dropped, node.dropped) == (0, 0)


def test_messages_that_the_transport_cannot_carry_are_refused_at_the_start(task: Task) -> None:
    plain = configure("too-large")
    plugins = {**plain.plugins, "memory": {"frame_bytes": 128, "blob_bytes": 65535}}
    swarm = Swarm(attrs.evolve(plain, plugins=plugins), task)
    play(lambda: swarm.node(0, 1))
    (error,) = swarm.errors.values()
    assert isinstance(error, ConfigError)
    assert error.problems[0].where == "swarm.max_message_bytes"


# ── training ──────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Failing:
    """Raises, or returns what is no update."""

    result: object

    def fit(self, vector: Vector, round_info: RoundInfo) -> Any:
        del vector, round_info
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        del vector
        return {}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (MemoryError("no room"), "trainer failed in fit: MemoryError: no room"),
        (StopIteration(), "trainer failed in fit: StopIteration"),
        (3.5, "trainer failed in fit: returned float 3.5, and not an Update"),
        (None, "nothing new"),
    ],
)
def test_a_node_whose_training_fails_sits_out_and_the_others_go_on(
    task: Task, result: object, reason: str
) -> None:
    swarm = Swarm(configure("failing", deadline=0.3, vote_timeout=0.5), task)
    swarm.trainers[1] = Failing(result)
    play(lambda: swarm.together(2))

    assert not swarm.errors
    assert len(set(swarm.digests())) == 1
    others = tuple(sorted(set(IDS) - {IDS[1]}))
    assert [event.outcome.members for event in swarm.closed(0)] == [others, others]
    assert {machine.step for machine in swarm.machines.values()} == {2}
    assert len(swarm.of(1, SatOut)) >= 2
    assert all(event.reason.startswith(reason) for event in swarm.of(1, SatOut))
    failures = swarm.of(1, TrainerFailure)
    assert bool(failures) is (result is not None)
    board = StatusBoard()
    for failure in failures:
        board.note(failure)
        raised = isinstance(result, Exception)
        assert bool(failure.traceback) is raised
        assert (failure.file == __file__) is raised
    if failures:
        shown = board.report()["trainer_error"]
        assert (shown["method"], shown["times"]) == ("fit", len(failures))
        assert reason.endswith(shown["error"].rstrip(": "))


@pytest.mark.parametrize("drift", [-3600.0, 0.0, 3600.0])
def test_a_clock_that_jumps_or_stands_still_does_not_stop_the_rounds(
    task: Task, drift: float
) -> None:
    """Nobody contributes, so that every round ends by the clock."""
    swarm = Swarm(configure("jump", deadline=0.1, vote_timeout=0.1), task)
    swarm.trainers = [Failing(ValueError())] * 4
    enough = anyio.Event()

    def watch(index: int, event: Event) -> None:
        if index == 0 and isinstance(event, RoundEnded) and len(swarm.of(0, RoundEnded)) == 3:
            enough.set()

    def make_clock() -> Callable[[], float]:
        times = iter([1e9] * 5)
        return lambda: next(times, 1e9 + drift)

    swarm.hooks.append(watch)

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            for index in range(4):
                clock = make_clock()
                group.start_soon(
                    lambda index=index, clock=clock: swarm.node(index, None, clock=clock)
                )
            await enough.wait()
            group.cancel_scope.cancel()

    play(scene)
    assert not swarm.errors


@attrs.frozen(eq=False)
class Held:
    """Trains only when allowed to."""

    inner: Trainer
    allowed: Any

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        self.allowed.wait()
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.inner.evaluate(vector)


def test_a_node_votes_while_it_trains(task: Task, virtual_time: Any) -> None:
    """The slow node itself closes a round during its training, then contributes again."""
    swarm = Swarm(configure("slow", deadline=0.4, vote_timeout=0.5), task)
    allowed = virtual_time.gate()
    swarm.trainers[2] = Held(swarm.trainers[2], allowed)

    def release(index: int, event: Event) -> None:
        if index == 2 and isinstance(event, RoundEnded):
            allowed.open()

    swarm.hooks.append(release)
    play(lambda: swarm.together(6))

    assert not swarm.errors
    assert len(set(swarm.digests())) == 1
    members = [event.outcome.members for event in swarm.closed(2)]
    assert IDS[2] not in members[0]
    assert any(IDS[2] in some for some in members[1:])


# ── stopping and coming back ──────────────────────────────────────────────────────────────────


def test_a_node_that_stopped_resumes_and_catches_up(task: Task, tmp_path: Path) -> None:
    config = configure("restart", deadline=0.3, vote_timeout=0.3, data_dir=tmp_path)
    swarm = Swarm(config, task)
    gone = anyio.Event()
    back = anyio.Event()

    def watch(index: int, event: Event) -> None:
        if index == 0 and isinstance(event, RoundEnded) and len(swarm.closed(0)) >= 5:
            back.set()

    swarm.hooks.append(watch)
    stopped: list[RoundMachine] = []

    async def come_and_go() -> None:
        await swarm.node(3, 2, linger=0.0)
        stopped.append(swarm.machines.pop(3))
        gone.set()
        await back.wait()
        with closing(
            SqliteJournal(
                tmp_path / IDS[3].hex(), swarm="restart", node_id=IDS[3], initial=task.initial
            )
        ) as journal:
            resume = journal.resume()
        assert resume is not None
        assert resume.head.step == 2
        np.testing.assert_array_equal(resume.model, stopped[0].model)
        swarm.events[3].clear()
        await swarm.node(3, 9)

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(come_and_go)
            group.start_soon(lambda: swarm.together(9, range(3), linger=3.0))

    play(scene)
    assert not swarm.errors
    assert stopped[0].step == 2
    assert {machine.step for machine in swarm.machines.values()} == {9}
    assert len(set(swarm.digests())) == 1
    made = {event.outcome.model_digest for event in swarm.closed(0)}
    caught_up = [event for event in swarm.closed(3) if event.outcome.reason]
    assert [event.outcome.reason for event in caught_up] == ["caught up from a snapshot"]
    assert {event.outcome.model_digest for event in swarm.closed(3)} <= made
    assert any(IDS[3] in event.outcome.members for event in swarm.closed(0)[5:])


def test_a_whole_swarm_goes_on_after_it_was_stopped(task: Task, tmp_path: Path) -> None:
    config = configure("pause", data_dir=tmp_path)
    first, second = Swarm(config, task), Swarm(config, task)
    play(lambda: first.together(2))
    play(lambda: second.together(4))
    assert not first.errors
    assert not second.errors
    predicted = simulate(config, Scenario(rounds=4, seed=SEED), task=TASK)
    assert second.digests() == list(predicted.model_digests)
    # Round numbers go on; a number used before the stop is never used again.
    last = max(event.outcome.round_info.number for event in first.closed(0))
    assert all(event.outcome.round_info.number > last for event in second.of(0, RoundEnded))


class PowerCut(SqliteJournal):
    """Fails just before the second model is safe."""

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        if links[-1].next.step == 2:
            raise InterruptedError
        super().record_height(links, model)


def test_a_swarm_cut_off_between_two_models_goes_on(task: Task, tmp_path: Path) -> None:
    """Two nodes lost power before they recorded a model, two after it; none lies."""
    config = configure("cut", deadline=0.3, vote_timeout=0.2, data_dir=tmp_path)
    first, second = Swarm(config, task), Swarm(config, task)

    async def cut() -> None:
        with ExitStack() as stack, anyio.move_on_after(1):
            journals = {
                index: stack.enter_context(
                    closing(
                        PowerCut(
                            tmp_path / IDS[index].hex(),
                            swarm="cut",
                            node_id=IDS[index],
                            initial=task.initial,
                        )
                    )
                )
                for index in (2, 3)
            }
            async with anyio.create_task_group() as group:
                for index in range(4):
                    group.start_soon(
                        lambda index=index: first.node(index, None, journal=journals.get(index))
                    )

    async def again() -> None:
        with anyio.move_on_after(5):
            await second.together(4)

    play(cut)
    assert [len(first.closed(index)) for index in range(4)] == [2, 2, 1, 1]
    play(again)
    assert len(second.machines) == 4
    assert len(set(second.digests())) == 1


def noticing(calls: list[str], *failing: str) -> dict[str, Installed]:
    """With a plugin that notes its life cycle, and may fail in parts of it."""

    def note(call: str) -> None:
        calls.append(call)
        if call in failing:
            raise ValueError(call)

    @attrs.frozen
    class Noticing:
        @hookimpl
        def setup(self, node_info: NodeInfo) -> None:
            note(f"setup {node_info.data_dir}")

        @hookimpl
        def teardown(self) -> None:
            note("teardown")

    return {**scan(), "noticing": Installed.local("noticing", Noticing)}


def test_a_cancelled_node_lets_go_of_everything(task: Task, tmp_path: Path) -> None:
    calls: list[str] = []
    config = configure("cancel", data_dir=tmp_path, plugins={"noticing": {}})
    swarm = Swarm(config, task)

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: swarm.node(0, None, installed=noticing(calls)))
            await anyio.wait_all_tasks_blocked()
            assert "cancel" in MemoryTransport._hubs
            group.cancel_scope.cancel()

    play(scene)
    folder = tmp_path / IDS[0].hex()
    assert calls == [f"setup {folder}", "teardown"]
    SqliteJournal(folder, swarm="cancel", node_id=IDS[0], initial=task.initial).close()


def test_an_error_in_on_event_stops_the_node_and_comes_out_as_it_is(
    task: Task, tmp_path: Path
) -> None:
    calls: list[str] = []
    config = configure("callback", data_dir=tmp_path, plugins={"noticing": {}})
    swarm = Swarm(config, task)
    swarm.trainers[0] = Failing(ValueError())

    def fail(_event: Event) -> None:
        msg = "callback"
        raise LookupError(msg)

    installed = noticing(calls, "teardown")
    play(lambda: swarm.node(0, None, installed=installed, on_event=fail))
    (error,) = swarm.errors.values()
    assert type(error) is LookupError
    assert any("while stopping" in note for note in error.__notes__)
    assert calls[-1] == "teardown"
    folder = tmp_path / IDS[0].hex()
    SqliteJournal(folder, swarm="callback", node_id=IDS[0], initial=task.initial).close()


def test_a_failing_teardown_is_reported(task: Task) -> None:
    swarm = Swarm(configure("teardown", plugins={"noticing": {}}), task)
    installed = noticing([], "teardown")

    async def scene() -> None:
        await swarm.node(0, 0, linger=0.0, installed=installed)

    play(scene)
    (error,) = swarm.errors.values()
    assert isinstance(error, ExceptionGroup)


def test_one_data_dir_runs_a_node_once(task: Task, tmp_path: Path) -> None:
    config = configure("once", data_dir=tmp_path)
    swarm = Swarm(config, task)
    folder = tmp_path / IDS[0].hex()
    with closing(SqliteJournal(folder, swarm="once", node_id=IDS[0], initial=task.initial)):
        play(lambda: swarm.node(0, None))
    (error,) = swarm.errors.values()
    assert isinstance(error, RoundError)
    assert error.code == "QRES-E602"


@pytest.mark.parametrize("roster", [IDS[:3], IDS[1:], [*IDS, IDS[0]], [IDS[1], *IDS[1:]]])
def test_a_roster_that_is_not_the_swarm_s_is_refused(task: Task, roster: list[NodeId]) -> None:
    async def scene() -> None:
        with pytest.raises(ConfigError, match="QRES-E105"):
            await run_node(
                configure("roster"),
                node_id=IDS[0],
                roster=roster,
                trainer=task.trainers[0],
                initial=task.initial,
                steps=1,
            )

    play(scene)


# ── hostile neighbours ────────────────────────────────────────────────────────────────────────


def test_hostile_frames_are_counted_and_stop_nobody(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel turns a stranger away; another transport may let one through.
    monkeypatch.setattr(MemoryTransport, "admits", lambda _self, _other: True)
    swarm = Swarm(configure("hostile"), task)
    stranger = MemoryTransport(b"\xee" * 32, "hostile", 4096)
    heard: list[bytes] = []

    async def attack() -> None:
        """Garbage, and every frame heard: cut short, lengthened, with a byte turned over."""
        rng = np.random.Generator(np.random.PCG64(3))
        try:
            while True:
                frame = (await stranger.receive()).frame
                if not heard:
                    for length in (0, 1, 7, 300, 3000):
                        await stranger.broadcast(rng.bytes(length))
                    await stranger.broadcast(b"\x9f" * 5000)
                    await stranger.broadcast(bytes(65537))
                heard.append(frame)
                flipped = bytearray(frame)
                flipped[int(rng.integers(len(frame)))] ^= 0xFF
                cut = int(rng.integers(len(frame)))
                for hostile in (frame[:cut], frame + b"\0", bytes(flipped)):
                    await stranger.broadcast(hostile)
        finally:
            await stranger.aclose()

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            await stranger.start()
            group.start_soon(attack)
            await swarm.together(3)
            group.cancel_scope.cancel()

    play(scene)
    assert not swarm.errors
    assert len(heard) > 30
    assert {machine.step for machine in swarm.machines.values()} == {3}
    assert len(set(swarm.digests())) == 1
    for index, machine in swarm.machines.items():
        rejections = machine.kernel.rejections
        assert rejections[Fault.FRAME_MALFORMED] >= len(heard)
        assert rejections[Fault.FRAME_TOO_LARGE] >= 1
        assert len(swarm.of(index, Refused)) == rejections.total()


@attrs.frozen
class OffByOne:
    """The plugin ``mean``, except that it differs from the others' in one unit."""

    unprotected: bool = False
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0] + np.int32(1)


@pytest.mark.claim("C-agreement-2")
def test_a_node_with_another_model_than_the_quorum_stops_by_name(task: Task) -> None:
    swarm = Swarm(configure("diverged", deadline=0.3, vote_timeout=0.5), task)
    odd = Swarm(swarm.config, task)
    installed = {**scan(), "mean": Installed.local("mean", OffByOne)}

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: odd.node(3, 3, installed=installed))
            group.start_soon(lambda: swarm.together(2, range(3)))

    play(scene)
    (error,) = odd.errors.values()
    assert isinstance(error, RoundError)
    assert error.code == "QRES-E601"
    assert not swarm.errors
    assert {machine.step for machine in swarm.machines.values()} == {2}
    assert len(set(swarm.digests())) == 1


def test_a_model_that_the_quorum_does_not_hold_is_never_reported_nor_kept(
    task: Task, tmp_path: Path
) -> None:
    config = configure("disowned", deadline=0.3, vote_timeout=0.5, data_dir=tmp_path)
    swarm, odd = Swarm(config, task), Swarm(config, task)
    installed = {**scan(), "mean": Installed.local("mean", OffByOne)}

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: swarm.together(2, range(3)))
            group.start_soon(lambda: odd.node(3, 3, installed=installed))

    play(scene)
    assert [getattr(error, "code", None) for error in odd.errors.values()] == ["QRES-E601"]
    assert not odd.closed(3)
    with pytest.raises(ModelError, match="QRES-E606"):
        kept_model(tmp_path / IDS[3].hex())
    for index in range(3):  # control
        made = swarm.closed(index)[-1].outcome.model_digest
        assert kept_model(tmp_path / IDS[index].hex()).digest == made


@pytest.mark.parametrize("disowned", [True, False])
def test_a_kept_model_that_the_quorum_contradicts_is_removed(
    task: Task, tmp_path: Path, *, disowned: bool
) -> None:
    """Liars may have vouched for it: it must not be exported as the swarm's."""
    swarm = Swarm(configure("removed", data_dir=tmp_path), task)
    model = SwarmModel("removed", 1, 0, task.initial)

    def keep(node: Node) -> None:
        assert node.keep is not None
        node.keep(model)
        error = RoundError.of("QRES-E601", "height 0", "proof of different decisions")
        models = frozenset([model.digest if disowned else b"o" * 32])
        node.machine.start = lambda _now: [Diverged(error, models)]  # type: ignore[method-assign]

    play(lambda: swarm.node(0, 3, on_start=keep))
    assert [getattr(error, "code", None) for error in swarm.errors.values()] == ["QRES-E601"]
    folder = tmp_path / IDS[0].hex()
    if not disowned:
        assert kept_model(folder).digest == model.digest, "control"
        return
    with pytest.raises(ModelError, match="QRES-E606"):
        kept_model(folder)


@attrs.frozen
class Roles:
    """Lets the nodes that it names only train, as a certificate of the role ``train`` does."""

    trains: tuple[str, ...] = ()

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        votes = envelope.kind.startswith(OUTCOME)
        barred = votes and envelope.sender.hex() in self.trains
        return reject("wrong-role", blame=Blame.LINK) if barred else ACCEPT


@pytest.mark.parametrize("trains", [(), (IDS[3].hex(),)])
def test_a_node_whose_word_others_do_not_take_counts_itself_not_either(
    task: Task, tmp_path: Path, trains: tuple[str, ...]
) -> None:
    """A model with its voucher would be refused as a whole, by `verify` and by nodes that lag."""
    plugins = {"roles": {"trains": list(trains)}}
    config = configure("roles", data_dir=tmp_path, plugins=plugins)
    swarm = Swarm(config, task)
    installed = {**scan(), "roles": Installed.local("roles", Roles)}
    play(lambda: swarm.together(3, installed=installed))
    assert not swarm.errors
    for node_id in IDS:
        kept = kept_model(tmp_path / node_id.hex())
        own = node_id in {voucher.sender for voucher in kept.vouchers}
        assert own == (node_id.hex() not in trains)
        assert len(kept.vouchers) > config.swarm.byzantine


# ── the transport's side ──────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class Stuck(MemoryTransport):
    """Takes frames and never gets rid of them."""

    async def broadcast(self, frame: bytes) -> None:
        del frame
        await anyio.sleep_forever()


@attrs.define(eq=False)
class Broken(MemoryTransport):
    """Loses its connection at the first frame."""

    async def broadcast(self, frame: bytes) -> None:
        raise OSError(len(frame))


def carried_by(kind: type[MemoryTransport]) -> dict[str, Installed]:
    @attrs.frozen
    class Local:
        @hookimpl
        def transport(self, node_info: NodeInfo) -> MemoryTransport:
            return kind(node_info.node_id, node_info.swarm, 64)

    return {**scan(), "memory": Installed.local("memory", Local)}


def test_a_transport_that_takes_nothing_off_does_not_stop_the_node(
    task: Task,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("qres_core.swarm.runtime.node.CLOSING_SECONDS", 0.2)
    monkeypatch.setattr("qres_core.swarm.runtime.node.OUTBOX_FRAMES", 4)
    swarm = Swarm(configure("stuck", deadline=0.3, vote_timeout=0.3), task)

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: swarm.together(2, range(3)))
            group.start_soon(lambda: swarm.node(3, 2, installed=carried_by(Stuck)))

    play(scene)
    assert not swarm.errors
    assert "outbox is full" in caplog.text
    assert {machine.step for machine in swarm.machines.values()} == {2}
    assert len(set(swarm.digests())) == 1


def test_the_outbox_is_bounded_in_bytes(
    task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qres_core.swarm.runtime.node.OUTBOX_MESSAGES", 0)
    swarm = Swarm(configure("bytes", deadline=0.05, vote_timeout=0.05), task)
    stranger = MemoryTransport(b"\xee" * 32, "bytes", 4096)

    async def scene() -> None:
        await stranger.start()
        with anyio.move_on_after(0.4):
            await swarm.node(0, None)
        with anyio.move_on_after(0.05):
            await stranger.receive()
            pytest.fail("a frame left over the limit")
        await stranger.aclose()

    play(scene)
    assert not swarm.errors
    assert caplog.text.count("outbox is full") == 1


@attrs.define(eq=False)
class Busy(MemoryTransport):
    """Refuses every other frame, and a few for good."""

    calls: int = 0

    async def broadcast(self, frame: bytes) -> None:
        self.calls += 1
        if self.calls == 1:
            raise TransportError.of("QRES-E901", "test", f"{len(frame)} bytes")
        if self.calls % 2:
            raise TransportError.of("QRES-E903", "test", "full")
        await super().broadcast(frame)


def test_frames_that_a_transport_refuses_are_offered_again_or_dropped(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    swarm = Swarm(configure("busy", deadline=0.5, vote_timeout=0.5), task)
    nodes: list[Node] = []

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: swarm.together(2, range(3)))
            group.start_soon(
                lambda: swarm.node(3, 2, installed=carried_by(Busy), on_start=nodes.append)
            )

    play(scene)
    assert not swarm.errors
    assert {machine.step for machine in swarm.machines.values()} == {2}
    assert len(set(swarm.digests())) == 1
    (busy,) = nodes
    assert busy.dropped == 1
    assert "QRES-E901" in caplog.text


def test_what_a_transport_raises_is_named(task: Task) -> None:
    swarm = Swarm(configure("broken"), task)
    play(lambda: swarm.node(0, None, installed=carried_by(Broken)))
    (error,) = swarm.errors.values()
    assert isinstance(error, RoundError)
    assert (error.code, error.problems[0].where) == ("QRES-E603", "transport.send")
    assert isinstance(error.__cause__, OSError)


def test_the_digest_is_of_a_better_model(task: Task) -> None:
    swarm = Swarm(configure("digest"), task)
    play(lambda: swarm.together(1, linger=0.5))
    for machine in swarm.machines.values():
        assert machine.model_digest == model_digest(machine.model, 1)
        assert task.evaluate(machine.model)["distance"] < task.evaluate(task.initial)["distance"]


# ── until ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flooded", [False, True])
def test_nodes_stop_together_once_enough_say_that_a_model_is_good_enough(
    task: Task, *, flooded: bool
) -> None:
    """Node 3 never says so, and is not left behind; the control says it at two nodes alone.

    Also where there is no room for another input whenever a node finds its model good enough.
    """
    config = configure("enough")
    config = attrs.evolve(config, swarm=attrs.evolve(config.swarm, until="loss < 1", interval=2.0))

    def reached(swarm: Swarm, nodes: Sequence[int]) -> None:
        running: dict[int, Node] = {}

        def say(index: int, event: Event) -> None:
            closed = isinstance(event, RoundEnded) and event.outcome.status is RoundStatus.CLOSED
            if closed and index in nodes:
                with suppress(anyio.WouldBlock):
                    while flooded:
                        running[index]._inlet.send_nowait(Delivery(IDS[3], b"flood"))
                running[index].enough(running[index].machine.step)

        swarm.hooks.append(say)

        async def scene() -> None:
            async with anyio.create_task_group() as group:
                for index in range(4):

                    def start(node: Node, index: int = index) -> None:
                        running[index] = node

                    options = {"on_start": start, "linger": 5.0}
                    group.start_soon(lambda i=index, o=options: swarm.node(i, None, **o))
                with anyio.move_on_after(20.0):
                    while len(swarm.machines) < 4:  # noqa: ASYNC110 - the clock is virtual
                        await anyio.sleep(1.0)
                group.cancel_scope.cancel()

        play(scene)

    swarm = Swarm(config, task)
    reached(swarm, (0, 1, 2))  # three of four decide
    assert not swarm.errors
    assert len(swarm.machines) == 4
    assert len(set(swarm.digests())) == 1
    assert {machine.step for machine in swarm.machines.values()} <= {1, 2, 3}

    control = Swarm(config, task)
    reached(control, (0, 1))
    assert not control.machines


# ── what does not travel ──────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Layered:
    """A trainer on top of weights that do not travel."""

    inner: Trainer
    base: bytes

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.inner.evaluate(vector)

    def base_digest(self) -> bytes:
        return self.base


def on_top(task: Task, name: str, bases: Sequence[bytes], folder: Path | None = None) -> Swarm:
    # Virtual time goes on only where somebody waits, and nobody waits for the node that is apart.
    times = {"deadline": 0.5, "vote_timeout": 0.5, "interval": 0.05}
    swarm = Swarm(configure(name, **times, data_dir=folder), task)
    swarm.trainers = [
        guarded(Layered(trainer, base)) for trainer, base in zip(task.trainers, bases, strict=True)
    ]
    return swarm


@pytest.mark.claim("C-torch-2")
def test_a_node_on_top_of_other_weights_is_told_apart_by_name(task: Task) -> None:
    same, other = b"a" * 32, b"b" * 32
    swarm = on_top(task, "bases", [same, same, same, other])

    def is_named() -> bool:
        said = [event.detail for index in (0, 3) for event in swarm.of(index, Refused)]
        return any(f'trainer.base is "sha256:{other.hex()[:40]}' in reason for reason in said)

    async def scene() -> None:
        async with anyio.create_task_group() as group:
            for index in range(4):
                group.start_soon(lambda index=index: swarm.node(index, None))
            while not (is_named() and len(swarm.closed(0)) >= 2):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    play(scene)
    assert not swarm.errors
    for event in swarm.closed(0):
        assert IDS[3] not in event.outcome.members

    together = on_top(task, "bases-same", [same] * 4)
    play(lambda: together.together(2))
    assert not together.errors
    assert [len(event.outcome.members) for event in together.closed(0)] == [4, 4], "control"


def test_a_node_that_starts_again_on_top_of_other_weights_is_refused(
    task: Task, tmp_path: Path
) -> None:
    play(lambda: on_top(task, "again", [b"a" * 32] * 4, tmp_path).together(1))
    swarm = on_top(task, "again", [b"b" * 32, *[b"a" * 32] * 3], tmp_path)
    play(lambda: swarm.node(0, 2))
    (error,) = swarm.errors.values()
    assert isinstance(error, RoundError)
    assert "QRES-E602" in str(error)
    assert "trainer.base is" in str(error)


def test_a_digest_that_is_none_is_refused(task: Task) -> None:
    swarm = on_top(task, "none", [b"short"] * 4)
    play(lambda: swarm.node(0, 1))
    (error,) = swarm.errors.values()
    assert isinstance(error, ConfigError)
    assert "base_digest returned b'short'" in str(error)


@pytest.mark.control("C-torch-2")
def test_nodes_of_a_simulation_on_top_of_different_weights_are_refused(task: Task) -> None:
    same, other = (Layered(task.trainers[0], base) for base in (b"a" * 32, b"b" * 32))
    check_base("node-0", same, "node-1", same)
    with pytest.raises(ConfigError, match=r"node-0 and node-1 train on top of different weights"):
        check_base("node-0", same, "node-1", other)
    with pytest.raises(ConfigError, match="and nothing"):
        check_base("node-0", same, "node-1", task.trainers[1])
