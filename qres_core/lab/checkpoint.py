"""Folder of a simulation: its model, and all it takes to go on after a break.

A checkpoint is written after each round. It holds the model, the random streams of the network and
of the attacks, the clock, the rounds so far, and what trainers and plugins say that they keep. It
does not hold what other plugins and attackers keep for themselves, and no message that is under
way: a simulation that goes on starts every node anew from the model. It says so where that can make
a difference, and a plugin that accounts for privacy must not forget what was spent.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs
import numpy as np

from qres_core.attacks.installed import on_protocol
from qres_core.attacks.scenario import Scenario
from qres_core.contract import canonical
from qres_core.contract.errors import (
    CompatibilityError,
    ConfigError,
    ModelError,
    Problem,
    QresError,
)
from qres_core.contract.faults import Fault
from qres_core.contract.stores import clear_leftovers, replace_file
from qres_core.contract.stores.files import new_folder
from qres_core.contract.trainer import RememberingTrainer, Trainer
from qres_core.contract.training import kept_by
from qres_core.contract.types import Vector, model_digest
from qres_core.kernel.config import Config
from qres_core.kernel.kernel import Kernel
from qres_core.lab.record import RoundRecord
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.storage.journal import MemoryJournal, Resume
from qres_core.swarm.storage.model_file import KEPT, SwarmModel, decode, encode, read_file, unusable

CHECKPOINT: Final = "checkpoint.cbor"
MODEL: Final = "model.npz"
_FORMAT: Final = "qres/checkpoint/v5"
_FIRST: Final = "first model"
_MAY_CHANGE: Final = frozenset({"simulation.rounds", "simulation.workers", "simulation.executor"})
_OF_EXECUTOR: Final = "simulation.executor_options"
_REMEMBERING: Final = ("reputation", "observe", "replay_check", "round_closed", "round_opened")
"""Hooks of plugins that may keep something from round to round."""

Streams = Mapping[str, np.random.Generator]


@attrs.frozen(eq=False, kw_only=True)
class Checkpoint:
    """A simulation between two rounds."""

    model: SwarmModel  # the observer's; no votes are kept here
    head: Head  # where the swarm's history is
    number: int  # the last round that was played
    now: float  # the virtual clock, seconds since 1970
    streams: Mapping[str, Any]  # states of the random streams by name, as numpy gives them
    counts: Mapping[str, int]  # further counters by name
    records: tuple[RoundRecord, ...]  # the rounds so far
    memories: tuple[bytes, ...] = ()  # what each node's trainer keeps; none where none keeps any
    plugins: tuple[Mapping[str, bytes], ...] = ()  # what each node's plugins keep, by plugin
    attack: bytes = b""  # what the attack keeps, see :mod:`qres_core.attacks.memory`

    def restore(self, streams: Streams) -> None:
        """Set the streams to where they were.

        Raises ModelError: QRES-E605 for states that are none.
        """
        try:
            for name, stream in streams.items():
                stream.bit_generator.state = self.streams[name]
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise unusable("the random streams of the checkpoint cannot be restored") from error

    def recall(self, trainers: Sequence[Trainer], kernels: Sequence[Kernel]) -> None:
        """Give trainers and plugins back what they kept.

        ``kernels``: of all nodes, set up. Raises ModelError: QRES-E605 where it is not theirs.
        """
        different = _different(kernels)
        if len(self.plugins) != len(different):
            raise unusable("the checkpoint is of another number of nodes")
        agreed = {plugin.name for plugin in different[0].enabled if plugin.keeps_agreed}
        common = {name: kept for name, kept in self.plugins[0].items() if name in agreed}
        for kernel, kept in zip(different, self.plugins, strict=True):
            try:
                kernel.recall({**kept, **common})
            except QresError as error:
                raise unusable(str(error.problems[0])) from error
        if not self.memories:
            return
        if len(self.memories) != len(trainers):
            raise unusable("the checkpoint is of another number of trainers")
        for number, (trainer, memory) in enumerate(zip(trainers, self.memories, strict=True)):
            if memory and isinstance(trainer, RememberingTrainer):
                try:
                    trainer.recall(memory)
                except Exception as error:  # of a user's own code it may be anything
                    what = f"what the trainer of node {number} kept cannot be restored"
                    raise unusable(what) from error

    def journal(self) -> ResumedJournal:
        """The memory of a node that goes on from here."""
        return ResumedJournal(self)


class ResumedJournal(MemoryJournal):
    """The memory of a node of a simulation that goes on."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def resume(self) -> Resume | None:
        """The head and the model of the checkpoint; no lock and nothing to help others with."""
        start = self._checkpoint
        return Resume(start.head, start.model.vector, (), start.number)


def states(streams: Streams) -> dict[str, Any]:
    """Positions of the streams."""
    return {name: stream.bit_generator.state for name, stream in streams.items()}


def memories(trainers: Sequence[Trainer], number: int) -> tuple[bytes, ...]:
    """Memory of trainers from round to round, for those that say it; empty if there is none.

    ``number``: of the last round. Raises TrainerError: QRES-E512.
    """
    kept = [
        kept_by(trainer, number, node=f"node-{node}")
        if isinstance(trainer, RememberingTrainer)
        else b""
        for node, trainer in enumerate(trainers)
    ]
    return tuple(kept) if any(kept) else ()


def plugin_memories(kernels: Sequence[Kernel], agreed: Kernel) -> tuple[Mapping[str, bytes], ...]:
    """Memory of plugins from round to round, for those that say it.

    Args:
        kernels: of all nodes.
        agreed: that of a node which has what all keep alike; it is kept with the first.

    Raises:
        PluginError: QRES-E206.
    """
    first, *others = (kernel.remember(agreed=False) for kernel in _different(kernels))
    return ({**first, **agreed.remember(agreed=True)}, *others)


def _different(kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    """Each kernel once: one may speak for all nodes."""
    return list(dict.fromkeys(kernels))


def _forgetful(trainer: object) -> bool:
    """True if a trainer, or the one that it is around, does not say what it keeps."""
    inner: object = getattr(trainer, "inner", None)
    around = inner is not None and _forgetful(inner)
    return around or not isinstance(trainer, RememberingTrainer)


def settings(config: Config, scenario: Scenario, initial: Vector) -> dict[str, str]:
    """All that decides how a simulation goes, by key; a checkpoint is of no other."""
    tables: dict[str, object] = {
        "swarm": attrs.asdict(config.swarm),
        "plugins": config.plugins,
        **{name: _asdict(table) for name, table in config.sections.items()},
        "simulation": attrs.asdict(scenario),
        _FIRST: model_digest(initial, 0).hex(),
    }
    found = {key: json.dumps(value, default=str) for key, value in _flat(tables, "")}
    kept = {key: value for key, value in found.items() if not key.startswith(_OF_EXECUTOR)}
    return {key: value for key, value in kept.items() if key not in _MAY_CHANGE}


def _asdict(table: object) -> object:
    known = attrs.has(type(table))
    return attrs.asdict(cast("attrs.AttrsInstance", table)) if known else table


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if canonical.is_map(value) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


@attrs.frozen(eq=False)
class CheckpointFolder:
    """Writes a simulation into a folder, and reads it from there."""

    folder: Path  # the folder, which exists
    settings: Mapping[str, str]  # of the simulation
    start: Checkpoint | None = None  # what to go on from; ``None`` for a simulation from the start

    @classmethod
    def new(cls, folder: Path, settings: Mapping[str, str]) -> CheckpointFolder:
        """For a simulation from the start.

        Raises LabError: QRES-E803 for a folder with something in it, or that cannot be made.
        """
        new_folder(folder, "name another folder, or go on from what is in it with --resume")
        return cls(folder, settings)

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, str]) -> CheckpointFolder:
        """For a simulation that goes on.

        Raises ModelError: QRES-E605 where there is no checkpoint, or a damaged one. Raises
        ConfigError: QRES-E105 names every setting that is not as it was.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            fix = "name the folder of a simulation that was played with --save"
            raise ModelError.of("QRES-E605", str(folder), f"there is no {CHECKPOINT}", fix)
        before, checkpoint = _decode(read_file(path), str(path))
        problems = [
            Problem(
                "QRES-E105",
                key,
                f"is {settings.get(key, 'not set')}, and was {before.get(key, 'not set')} "
                f"when {folder} was saved",
                "go on with the same file, or play it from the start",
            )
            for key in sorted({*settings, *before})
            if settings.get(key) != before.get(key)
        ]
        # The first model follows from the settings: it is named where they do not tell.
        if problems := [problem for problem in problems if problem.where != _FIRST] or problems:
            raise ConfigError(problems)
        clear_leftovers(path)
        return cls(folder, settings, checkpoint)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint over the one before.

        Raises RoundError: QRES-E602 when the disk does not take it.
        """
        replace_file(self.folder / CHECKPOINT, _encode(self.settings, checkpoint))

    def finish(self, model: SwarmModel) -> None:
        """Write the model, over that of an earlier end.

        Raises RoundError: QRES-E602 when the disk does not take it.
        """
        replace_file(self.folder / MODEL, encode(model, ".npz"))


def _encode(settings: Mapping[str, str], checkpoint: Checkpoint) -> bytes:
    facts = {
        "settings": dict(settings),
        "number": checkpoint.number,
        "now": checkpoint.now,
        "streams": checkpoint.streams,
        "counts": dict(checkpoint.counts),
        "records": [attrs.asdict(record) for record in checkpoint.records],
    }
    text = json.dumps(facts, default=_plain)
    model, head = encode(checkpoint.model, KEPT), canonical.dumps(checkpoint.head.raw())
    of_plugins = [dict(memory) for memory in checkpoint.plugins]
    kept = canonical.dumps([list(checkpoint.memories), of_plugins, checkpoint.attack])
    checksum = _checksum(text, model, head, kept)
    return canonical.dumps([_FORMAT, text, model, head, kept, checksum])


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        plain: object = cast("Any", value).item()
        return plain
    return str(value)


def _checksum(text: str, model: bytes, head: bytes, kept: bytes) -> bytes:
    return hashlib.sha256(canonical.dumps([_FORMAT, text, model, head, kept])).digest()


def _decode(content: bytes, where: str) -> tuple[dict[str, str], Checkpoint]:
    """Raises ModelError QRES-E605, and nothing else, whatever the bytes."""
    try:
        value: Any = canonical.loads(content, max_bytes=len(content), max_items=6)
        form, text, model, head, kept, checksum = value
        if form != _FORMAT or checksum != _checksum(text, model, head, kept):
            raise unusable("is no checkpoint, or is damaged", where)
        facts: Any = json.loads(text)
        before: Any = facts["settings"]
        if any(type(setting) is not str for setting in before.values()):
            raise unusable("its settings are invalid", where)
        memories, plugins, attack = _memories(kept)
        checkpoint = Checkpoint(
            model=decode(model, KEPT, where),
            head=Head.from_raw(canonical.loads(head, max_bytes=len(head))),
            number=_whole(facts["number"]),
            now=_seconds(facts["now"]),
            streams=dict(facts["streams"]),
            counts=Counter({name: _whole(count) for name, count in facts["counts"].items()}),
            records=tuple(_record(record) for record in facts["records"]),
            memories=memories,
            plugins=plugins,
            attack=attack,
        )
        if checkpoint.head.model != checkpoint.model.digest:
            raise unusable("its head is of another model", where)
        return dict(before), checkpoint
    except ModelError:
        raise
    except (QresError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise unusable("is no checkpoint, or is damaged", where) from error


def _memories(octets: bytes) -> tuple[tuple[bytes, ...], tuple[Mapping[str, bytes], ...], bytes]:
    """Memories of trainers and of plugins, and that of the attack. Raises ValueError."""
    trainers, plugins, attack = canonical.loads(octets, max_bytes=len(octets))
    maps = canonical.is_list(plugins) and all(map(canonical.is_map, plugins))
    if not (canonical.is_list(trainers) and maps):
        raise ValueError("expected what trainers and plugins keep")
    kept = [*trainers, *(memory for each in plugins for memory in each.values()), attack]
    if any(type(memory) is not bytes for memory in kept):
        raise ValueError("expected bytes")
    return tuple(trainers), tuple(plugins), attack


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        msg = "expected a whole number"
        raise ValueError(msg)
    return value


def _seconds(value: object) -> float:
    if type(value) is not float or not 0 <= value < 2**40:
        msg = "expected seconds since 1970"
        raise ValueError(msg)
    return value


def _record(value: Mapping[str, Any]) -> RoundRecord:
    made = RoundRecord(**value)
    record: Any = made  # nothing says that its fields are of their types
    numbers: list[object] = [
        record.number,
        record.height,
        record.accepted,
        record.attackers_accepted,
    ]
    numbers += [record.banned_honest, record.banned_attackers, *record.rejected.values()]
    numbers += [record.received_most, *record.received.values()]
    for number in numbers:
        _whole(number)
    figures = [*record.metrics.values(), 0.0 if record.alignment is None else record.alignment]
    if (
        {type(record.closed), type(record.void)} != {bool}
        or {type(record.reason), type(record.model_digest)} != {str}
        or any(type(figure) not in {int, float} for figure in figures)
        or any(not canonical.is_map(shown) for shown in record.plugins.values())
    ):
        msg = "expected the record of a round"
        raise ValueError(msg)
    return made


# ── what a checkpoint does not hold ───────────────────────────────────────────────────────────────


def check_resumable(kernel: Kernel) -> None:
    """Refuse to begin anew what must not be forgotten.

    Raises CompatibilityError: QRES-E317 names the plugins.
    """
    spending = [name for name, shown in kernel.status().items() if "epsilon" in shown]
    if spending:
        what = "accounts for the privacy spent, and a checkpoint does not hold its account"
        fix = "play it from the start, without --resume"
        raise CompatibilityError(
            [Problem("QRES-E317", f"plugins.{name}", what, fix) for name in spending]
        )


def notices(
    kernel: Kernel,
    scenario: Scenario,
    checkpoint: Checkpoint,
    records: Sequence[RoundRecord],
    trainers: Sequence[Trainer],
) -> tuple[str, ...]:
    """Notices of things that may differ from a run without the interruption.

    ``records``: all rounds, those after the checkpoint too.
    """
    said: list[str] = []
    names = [
        plugin.name
        for plugin in kernel.enabled
        if any(hook in plugin.hooks for hook in _REMEMBERING) and not plugin.remembers
    ]
    if names:
        said.append(f"plugins lose their memory of earlier rounds: {', '.join(names)}")
    network = [key for key in ("loss", "duplication", "churn", "dropout") if getattr(scenario, key)]
    if scenario.engine == "events" and network:
        said.append(
            f"messages under way were lost: simulation.{', simulation.'.join(network)} differ "
            "from those of an uninterrupted run"
        )
    everybody = kernel.swarm.nodes
    if scenario.engine == "events" and any(
        not record.closed or record.accepted < everybody for record in records
    ):
        said.append(
            "rounds ended without some contributions: in an uninterrupted run, others may have "
            "arrived in time"
        )
    if scenario.engine == "events" and any(
        Fault.EQUIVOCATION in record.rejected for record in records
    ):
        said.append(
            "nodes sent messages that contradict each other: in an uninterrupted run, others of "
            "them may have come first"
        )
    said.extend(
        f"the attack {name!r} starts again and forgets the messages that it heard"
        for name in filter(None, (scenario.attack, scenario.sabotage))
        if name in on_protocol()
    )
    loses = "; a trainer with a memory loses it" if any(map(_forgetful, trainers)) else ""
    said.append(f"continues after model {checkpoint.model.step}{loses}")
    return tuple(said)
