"""What a trainer keeps from round to round, across stops of its node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Update, Vector, canonical, model_digest
from qres_core.contract.training import TrainerError
from qres_core.errors import LabError, ModelError, RoundError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.node_ids import node_ids
from qres_core.lab.checkpoint import memories
from qres_core.node.trainer import guarded
from qres_core.swarm.runtime.node import Event, Node, run_node
from qres_core.swarm.storage.trainer_memory import FILE, TrainerMemory
from qres_core.training import Trainer
from qres_core.training.momentum import with_momentum

SEED = 5
(ME,) = node_ids(1, SEED)
FIRST = np.zeros(6, dtype=np.int32)
FIRST.setflags(write=False)

pytestmark = pytest.mark.usefixtures("virtual_time")


Seen: TypeAlias = tuple[Vector, RoundInfo, Update]


@attrs.define(eq=False)
class Counting:
    """Adds up what it was given: an update tells of all rounds before."""

    number: int = 0
    before: int = 1
    after: int = 1
    seen: list[Seen] = attrs.field(factory=list[Seen])

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        if round_info.number != self.number:
            self.number, self.before = round_info.number, self.after
        self.after = (self.before * 31 + round_info.number + int(vector[0])) % 1009
        update = Update(np.full(vector.size, self.after - 500, dtype=np.int32))
        self.seen.append((vector, round_info, update))
        return update

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"first": float(vector[0])}

    def remember(self) -> bytes:
        return canonical.dumps([self.number, self.before, self.after])

    def recall(self, memory: bytes) -> None:
        try:
            self.number, self.before, self.after = canonical.loads(memory, max_bytes=99)
        except ValueError as error:
            raise ModelError.of("QRES-E605", "counting", "is no count") from error


@attrs.frozen(eq=False)
class Forgetful:
    """Says nothing of what it keeps."""

    counting: Counting

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        return self.counting.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.counting.evaluate(vector)


def configure(folder: Path, name: str) -> Config:
    swarm = {"name": name, "nodes": 1, "byzantine": 0, "quorum": 1, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    tables = {"swarm": swarm, "plugins": plugins, "node": {"data_dir": str(folder)}}
    return parse(tables, source="test")


def run(
    trainer: Any, folder: Path, steps: int, name: str = "alone", *, pull_the_plug: bool = False
) -> list[Event]:
    """A swarm of one node, up to the model of a step, or stopped just after it.

    Raises what the node raises.
    """
    events: list[Event] = []

    async def main() -> None:
        def on_start(node: Node) -> None:
            def watch(event: Event) -> None:
                events.append(event)
                if pull_the_plug and node.machine.step >= steps:
                    node.stop()

            node.on_event = watch

        with anyio.fail_after(60):
            await run_node(
                configure(folder, name),
                node_id=ME,
                roster=[ME],
                trainer=trainer,
                initial=FIRST,
                steps=None if pull_the_plug else steps,
                clock=lambda: 1e9 + anyio.current_time(),
                on_start=on_start,
            )

    anyio.run(main)
    return events


def plain(trainer: Trainer) -> Trainer:
    return trainer


def replayed(seen: list[Seen], trainer: Any) -> bool:
    """Whether a trainer that nobody interrupts makes the same updates of the same rounds."""
    made = [trainer.fit(vector, info) for vector, info, _update in seen]
    return all(
        np.array_equal(update.vector, other.vector)
        for update, (_vector, _info, other) in zip(made, seen, strict=True)
    )


@pytest.mark.parametrize("around", [plain, guarded])
@pytest.mark.parametrize("pull_the_plug", [False, True])
def test_a_node_that_starts_again_trains_as_if_it_had_not_stopped(
    tmp_path: Path, *, around: Any, pull_the_plug: bool
) -> None:
    """With training ahead of the stop, and with a wrapper around the trainer."""
    first, second = Counting(), Counting()
    run(around(first), tmp_path, 3, pull_the_plug=pull_the_plug)
    run(around(second), tmp_path, 6)
    assert len(first.seen) >= 3
    assert len(second.seen) >= 3
    assert replayed(first.seen + second.seen, Counting())


def test_without_the_memory_it_does_not(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    run(Forgetful(first), tmp_path, 3)
    run(Forgetful(second), tmp_path, 6)
    assert not replayed(first.seen + second.seen, Counting())
    assert not list(tmp_path.rglob(FILE))


def test_a_mean_of_updates_goes_on_too(tmp_path: Path) -> None:
    """`trainer.momentum`: a trainer around one that keeps something, and around one that does not.

    The oracle sees every round, and no break.
    """
    inner = [Counting(), Counting()]
    for trainer, steps in zip(inner, (3, 6), strict=True):
        run(guarded(with_momentum(trainer, 0.5)), tmp_path, steps)
    whole = with_momentum(Counting(), 0.5)
    seen = [*inner[0].seen, *inner[1].seen]
    last = [whole.fit(vector, info) for vector, info, _update in seen][-1]
    assert last is not None
    after = with_momentum(Counting(), 0.5)
    whose = "alone", ME, model_digest(FIRST, 0)
    memory = TrainerMemory.open(after, tmp_path / ME.hex(), whose, begun=True)
    assert memory is not None
    again = after.fit(*seen[-1][:2])
    assert again is not None
    np.testing.assert_array_equal(again.vector, last.vector)


# ── the file ──────────────────────────────────────────────────────────────────────────────────


def owner(swarm: str) -> tuple[str, bytes, bytes]:
    return swarm, bytes(32), bytes(range(32))


def a_round(number: int = 1) -> RoundInfo:
    return RoundInfo("lab", number, bytes(32), FIRST.size, 0, (ME,), 1)


def kept(folder: Path) -> TrainerMemory:
    trainer = Counting()
    trainer.fit(FIRST, a_round())
    memory = TrainerMemory.open(trainer, folder, owner("s"), begun=False)
    assert memory is not None
    memory.keep(a_round())
    return memory


def test_a_file_that_is_damaged_or_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path).path
    content = path.read_bytes()
    fresh = Counting()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(RoundError, match=r"QRES-E602.*remove it"):
            TrainerMemory.open(fresh, tmp_path, owner("s"), begun=True)
    for spoiled in (b"", content[:-1], content + b"x", b"\xff" * 50, b"\x9f" * 900):
        path.write_bytes(spoiled)
        with pytest.raises(RoundError, match="QRES-E602"):
            TrainerMemory.open(fresh, tmp_path, owner("s"), begun=True)
    path.write_bytes(content)
    for other in (
        ("t", *owner("s")[1:]),
        ("s", b"x" * 32, owner("s")[2]),
        (*owner("s")[:2], bytes(32)),
    ):
        with pytest.raises(RoundError, match="another node, swarm or first model"):
            TrainerMemory.open(fresh, tmp_path, other, begun=True)
    assert fresh.number == 0
    TrainerMemory.open(fresh, tmp_path, owner("s"), begun=True)
    assert fresh.number == 1
    path.chmod(0o644)
    with pytest.raises(RoundError, match="QRES-E602"):
        TrainerMemory.open(fresh, tmp_path, owner("s"), begun=True)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(RoundError, match=r"QRES-E602.*a folder"):
        TrainerMemory.open(fresh, tmp_path, owner("s"), begun=True)


def test_what_another_trainer_kept_is_refused_and_named(tmp_path: Path) -> None:
    kept(tmp_path)
    other = with_momentum(Forgetful(Counting()), 0.5)
    with pytest.raises(RoundError, match=r"not what this trainer kept.*momentum"):
        TrainerMemory.open(other, tmp_path, owner("s"), begun=True)


def test_a_file_that_is_gone_is_told_and_a_trainer_that_keeps_nothing_makes_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        TrainerMemory.open(Counting(), tmp_path, owner("s"), begun=False)
        assert not caplog.records
        TrainerMemory.open(Counting(), tmp_path, owner("s"), begun=True)
    assert "trainer.cbor is not there: the trainer begins without a past" in caplog.text

    class Empty(Counting):
        def remember(self) -> bytes:
            return b""

    memory = TrainerMemory.open(Empty(), tmp_path, owner("s"), begun=True)
    assert memory is not None
    memory.keep(a_round())
    assert not memory.path.exists()
    assert len(caplog.records) == 1


def test_the_file_is_written_for_something_new_alone_and_never_after_the_end(
    tmp_path: Path,
) -> None:
    memory = kept(tmp_path)
    assert isinstance(memory.trainer, Counting)
    path = memory.path
    path.unlink()
    memory.keep(a_round())
    assert not path.exists(), "nothing is new"
    memory.trainer.fit(FIRST, a_round(2))
    memory.keep(a_round(2))
    content = path.read_bytes()
    memory.trainer.fit(FIRST, a_round(3))
    memory.close()
    memory.keep(a_round(3))
    assert path.read_bytes() == content


def test_a_trainer_that_cannot_say_what_it_keeps_sits_out_and_is_named(tmp_path: Path) -> None:
    class Failing(Counting):
        def remember(self) -> bytes:
            if self.number:
                raise LabError.of("QRES-E801", "own", "is broken")
            return b""

    trainer = Failing()
    memory = TrainerMemory.open(trainer, tmp_path, owner("s"), begun=False)
    assert memory is not None
    trainer.fit(FIRST, a_round())
    with pytest.raises(TrainerError, match=r"trainer\.remember.*is broken"):
        memory.keep(a_round())


@pytest.mark.parametrize("kept", ["text", None, bytearray(b"x"), [b"x"]])
def test_what_a_trainer_keeps_is_bytes_or_the_trainer_is_named(tmp_path: Path, kept: Any) -> None:
    """The node goes on voting, and a simulation does not save what it could not go on from."""

    class Other(Counting):
        def remember(self) -> bytes:
            return kept if self.number else b""

    trainer = Other()
    memory = TrainerMemory.open(trainer, tmp_path, owner("s"), begun=False)
    assert memory is not None
    trainer.fit(FIRST, a_round())
    with pytest.raises(TrainerError, match=r"QRES-E512 trainer\.remember: returned .*not bytes"):
        memory.keep(a_round())
    with pytest.raises(TrainerError, match=r"QRES-E512 node-0 trainer\.remember: returned"):
        memories([trainer], 1)


def test_a_trainer_that_cannot_take_back_what_it_kept_is_told_where_it_lies(tmp_path: Path) -> None:
    """A user's own code raises what it likes: in the contract's example, a ValueError."""
    kept(tmp_path)

    class Other(Counting):
        def recall(self, memory: bytes) -> None:
            self.before, self.after = canonical.loads(memory, max_bytes=99)

    with pytest.raises(RoundError, match=r"QRES-E602 .*trainer\.cbor: .*ValueError: too many"):
        TrainerMemory.open(Other(), tmp_path, owner("s"), begun=True)


def test_a_disk_that_takes_nothing_stops_the_node(tmp_path: Path) -> None:
    memory = kept(tmp_path)
    assert isinstance(memory.trainer, Counting)
    memory.path.unlink()
    memory.path = tmp_path / "gone" / FILE
    memory.trainer.fit(FIRST, a_round(2))
    with pytest.raises(RoundError, match="QRES-E602"):
        memory.keep(a_round(2))
