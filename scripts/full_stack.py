"""All defences at once, in the simulator, against attackers that run hostile plugins.

    python scripts/full_stack.py [a] [b] [c] [--rounds N] [--nodes N] [--seed N] [--sharded]
                                  [--json]

Handwritten digits; every message signed, senders admitted by a list, replays refused, reputation as
a gate, updates proved short and masked, the result tried on public examples. In every round 15 % of
the honest nodes fall silent, some before they contribute and some after.

- *a*: groups of five, a median over their means, as many attackers as it withstands. One proves and
  masks the longest lie it can, one masks another vector than it proved.
- *b*: one sum, a mean, 20 % attackers; all prove and mask the longest lie they can.
- *c*: 400 nodes, as *b* with distributed noise of (8, 1e-5) differential privacy, 1 % attackers.
  Played by the vectorised engine: every node does all of its part and one observer checks and
  merges; there is no vote.

Each is compared with the same swarm without attackers: *a* and *b* without any defence, *c* with
the same privacy and secure aggregation, and nothing else. With ``--sharded`` committees open the
sums of *a* and *b* in shards (``swarm.aggregation``), with all defences. Exit code 1 where a bound
does not hold.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import tomli
from qres_arithmetic import clipped
from qres_dp import accounting
from qres_zk.plugin import Zk
from qres_zk.slack import factor
from qres_zk.statement import NormStatement

from qres_core import RoundInfo, Update, Vector, hookimpl
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.nodes import identify
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "full-stack.toml"
DROPOUT: Final = 0.15
REACH: Final = {256: 1.2, 512: 1.15, 1024: 1.1}
"""Times the honest bound, by the number of projections: longer, a prover often fails in all of its
64 attempts."""
EPSILON: Final = 8.0
DELTA: Final = 1e-5
CLIP: Final = 1.5
PARAMETERS: Final = 650
"""Of the digits' model."""
BOUND: Final = 1.8
"""Of an update under a mean; honest ones are clipped to two thirds of it."""
BOUNDS: Final = {"a": 5.0, "b": 6.0, "c": 6.0}
"""Points that may be lost."""

Tables = dict[str, dict[str, Any]]


# ── hostile plugins ───────────────────────────────────────────────────────────────────────────


def lenient(statement: NormStatement) -> NormStatement:
    """The same statement to whoever checks, without the prover's own check of the length."""
    made = copy.copy(statement)
    _ = made.budget, made.hidden_bits, made.rows, made.columns, made.offset, made.reach
    vars(made)["parameters"] = statement.parameters
    object.__setattr__(made, "bound", 4 * statement.bound)
    return made


def stretched(vector: Vector, length: int) -> Vector:
    """The vector at this length, in steps of the grid, whatever it was."""
    own = float(np.linalg.norm(vector.astype(np.float64)))
    longer = np.rint(vector.astype(np.float64) * (1.01 * length / max(own, 1.0)))
    return clipped(longer.astype(np.int64), length).astype(np.int32)


@attrs.define(eq=False)
class Stretching(Zk):
    """Proves the longest vector it can get through."""

    _lenient: bool = attrs.field(init=False, default=False)

    @contextmanager
    def _uncaring(self, round_info: RoundInfo) -> Generator[NormStatement]:
        honest = self._statement(round_info)
        self._lenient = True
        try:
            yield honest
        finally:
            self._lenient = False

    def _statement(self, round_info: RoundInfo) -> NormStatement:
        honest = super()._statement(round_info)
        return lenient(honest) if self._lenient else honest

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Stretch, commit and prove."""
        with self._uncaring(round_info) as honest:
            long = stretched(update.vector, int(REACH[honest.k] * honest.bound))
            return super().privatize(attrs.evolve(update, vector=long), round_info)


@attrs.define(eq=False)
class Swapping(Zk):
    """Proves one vector and lets another be masked."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Commit to the update and send its negation."""
        made = super().privatize(update, round_info)
        return attrs.evolve(made, vector=-20 * made.vector)


@attrs.define(eq=False)
class Unproved(Zk):
    """Sends no proof."""

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """Nothing."""
        del update, round_info
        return b""


# ── settings ──────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Setting:
    """One comparison.

    Attributes:
        name: ``a``, ``b`` or ``c``.
        swarm: the table ``[swarm]``.
        plugins: the stack.
        plain: the plugins of the run it is compared with.
        hostile: what each attacker runs in place of ``zk``.
    """

    name: str
    swarm: dict[str, Any]
    plugins: Tables
    plain: Tables
    hostile: tuple[type[Zk], ...]


def _example() -> tuple[dict[str, Any], Tables]:
    read = tomli.loads(EXAMPLE.read_text(encoding="utf-8"))
    return dict(read["swarm"]), {name: dict(plugin) for name, plugin in read["plugins"].items()}


def groups(nodes: int = 40) -> Setting:
    """Setting *a*: sums of two more than attack, and groups of one more than that."""
    swarm, plugins = _example()
    f = max(1, nodes // 20)
    size = f + 3
    quorum = max((nodes + f) // 2 + 1, (size - 1) * (2 * f + 1))
    swarm |= {"nodes": nodes, "byzantine": f, "quorum": quorum}
    plugins["secagg"] |= {"group_size": size, "min_size": size - 1, "corrupt": f / nodes}
    plugins["median"]["f"] = f
    kinds = (Stretching, Swapping, Unproved)
    return Setting("a", swarm, plugins, {}, tuple(kinds[i % 3] for i in range(f)))


def one_sum(nodes: int = 40) -> Setting:
    """Setting *b*."""
    swarm, plugins = _example()
    f = nodes // 5
    # As many as vote when 15 % of the honest are away, and the liars stay away too.
    swarm |= {"nodes": nodes, "byzantine": f, "quorum": (nodes + f) // 2 + 1}
    del plugins["median"], plugins["public_validation"]
    for name in ("group_size", "min_size"):
        del plugins["secagg"][name]
    # Tight: a fifth of the nodes at this length must weigh less than the others' common direction.
    plugins["zk"] = {"bound": BOUND, "k": 1024}
    plugins |= {"public_validation": {}, "mean": {}}
    return Setting("b", swarm, plugins, {}, (Stretching,) * f)


def private(nodes: int = 400, rounds: int = 12) -> Setting:
    """Setting *c*: noise makes honest updates longer, so each liar may send a longer one too."""
    made = one_sum(nodes)
    f = max(1, nodes // 100)
    quorum = nodes * 31 // 40
    swarm = {**made.swarm, "byzantine": f, "quorum": quorum}
    honest = quorum - f - 1
    # The rounds and a few that may be refused; all of them are paid for.
    dp = {"clip": CLIP, "epsilon": EPSILON, "delta": DELTA, "rounds": rounds + 2}
    z = accounting.calibrate(EPSILON, DELTA, rounds + 2)
    share = z * CLIP / math.sqrt(honest)
    longest = CLIP + share * (math.sqrt(PARAMETERS) + 6)
    room = math.ceil(6.1 * share * math.sqrt(nodes))
    plugins: Tables = {}
    for name, table in made.plugins.items():
        if name == "zk":
            plugins["dp"] = {"mode": "distributed", "honest": honest, **dp}
            bound = math.ceil(100 * longest * factor(1024, 128)) / 100 + 0.01
            plugins[name] = {"bound": bound, "k": 1024, "clip": False}
        elif name == "secagg":
            away = 1 - quorum / nodes
            plugins[name] = {**table, "noise_room": room, "corrupt": f / nodes, "dropout": away}
        elif name == "public_validation":
            plugins[name] = {"tolerance": 0.3}  # noise raises the loss too
        else:
            plugins[name] = table
    masks = {key: value for key, value in plugins["secagg"].items() if key != "bisect"}
    alone = {"ed25519": {}, "replay": {}, "dp": plugins["dp"], "secagg": masks}
    return Setting("c", swarm, plugins, alone, (Stretching,) * f)


def sharded(setting: Setting) -> Setting:
    """The same with committees that open sums shard by shard."""
    return attrs.evolve(setting, swarm={**setting.swarm, "aggregation": "sharded"})


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


def _task() -> TaskConfig:
    return TaskConfig(local_epochs=5, held_out=60, same_held_out=True)


def attacked(setting: Setting, *, rounds: int, seed: int, progress: Any = None) -> SimulationResult:
    """The whole stack, dropouts and attackers."""
    plugins = dict(setting.plugins)
    config = parse({"swarm": setting.swarm, "plugins": plugins}, source="full stack")
    _kernels, ids = identify(config, seed, scan())
    tables: Tables = {}
    for name, table in plugins.items():
        tables[name] = table
        if name == "ed25519":
            tables["pki"] = {"members": [item.hex() for item in ids]}
    config = parse({"swarm": setting.swarm, "plugins": tables}, source="full stack")
    scenario = Scenario(
        rounds=rounds,
        seed=seed,
        attack="ipm",
        attackers=len(setting.hostile),
        lies="protocol",
        once=("ed25519.authenticate", "zk.verify"),
        dropout=DROPOUT,
    )
    if setting.name == "c":
        scenario = attrs.evolve(scenario, engine="vectorised", once=())

    def hostile(number: int) -> Mapping[str, Installed]:
        return {"zk": Installed.local("zk", setting.hostile[number])}

    return simulate(config, scenario, task=_task(), hostile=hostile, progress=progress)


def compared(setting: Setting, *, rounds: int, seed: int) -> SimulationResult:
    """Nobody attacks; no defence but the privacy that is to be compared with."""
    nodes = setting.swarm["nodes"]
    swarm = {**setting.swarm, "byzantine": 0, "quorum": nodes // 2 + 1, "insecure": True}
    del swarm["proof_checks"]
    swarm.pop("aggregation", None)
    tables: Tables = {"memory": {}, **setting.plain, "mean": {}}
    scenario = Scenario(rounds=rounds, seed=seed, dropout=DROPOUT)
    if setting.name == "c":  # every node's share of noise, one observer
        swarm["quorum"] = nodes
        scenario = attrs.evolve(scenario, engine="vectorised", dropout=0.0)
    config = parse({"swarm": swarm, "plugins": tables}, source="plain")
    return simulate(config, scenario, task=_task())


def points(result: SimulationResult) -> float:
    """Accuracy of the last model, in points."""
    return 100.0 * (result.final("accuracy") or 0.0)


@attrs.frozen
class Verdict:
    """What a setting came to."""

    setting: Setting
    plain: SimulationResult
    stack: SimulationResult
    cpu_seconds: float

    @property
    def lost(self) -> float:
        """Points below the run it is compared with."""
        return points(self.plain) - points(self.stack)

    @property
    def holds(self) -> bool:
        """Whether the swarm is of one mind and lost no more than it may."""
        return self.stack.unanimous and self.lost <= BOUNDS[self.setting.name]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        aborted = [record.reason for record in self.stack.rounds if not record.closed]
        return {
            "setting": self.setting.name,
            "nodes": self.stack.nodes,
            "attackers": self.stack.attackers,
            "models": len(self.stack.closed),
            "aborted": aborted,
            "accuracy_without_attack": points(self.plain),
            "accuracy": points(self.stack),
            "lost": self.lost,
            "may_lose": BOUNDS[self.setting.name],
            "one_digest": self.stack.unanimous,
            "banned_honest": self.stack.rounds[-1].banned_honest,
            "fates": [attrs.asdict(fate) for fate in self.stack.fates],
            "cpu_seconds": self.cpu_seconds,
            "holds": self.holds,
        }


def run(setting: Setting, *, rounds: int, seed: int, progress: Any = None) -> Verdict:
    """Both runs of a setting."""
    plain = compared(setting, rounds=rounds, seed=seed)
    start = time.process_time()
    stack = attacked(setting, rounds=rounds, seed=seed, progress=progress)
    return Verdict(setting, plain, stack, time.process_time() - start)


def _show(verdict: Verdict) -> None:
    found = verdict.to_json()
    print(
        f"{found['setting']}: {found['nodes']} nodes, {found['attackers']} attack, "
        f"{found['models']} models, {len(found['aborted'])} rounds aborted"
    )
    for reason in dict.fromkeys(found["aborted"]):
        print(f"   aborted {found['aborted'].count(reason)} times: {reason}")
    print(
        f"   {found['accuracy_without_attack']:.1f} % without attack, {found['accuracy']:.1f} % "
        f"with all defences and attackers: {found['lost']:.1f} points lost, "
        f"{found['may_lose']:.0f} allowed; all honest digests equal: {found['one_digest']}"
    )
    for fate, kind in zip(verdict.stack.fates, verdict.setting.hostile, strict=False):
        held = ", ".join(f"{fact} x{count}" for fact, count in fate.against.items()) or "nothing"
        print(
            f"   attacker {fate.number} ({kind.__name__.lower()}): merged in {fate.merged} rounds; "
            f"held against it: {held}; banned by {fate.banned_by} honest nodes"
        )
    print(
        f"   honest nodes banned: {found['banned_honest']}; {verdict.cpu_seconds:.0f} s", flush=True
    )


def main() -> int:
    """Run the settings that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="a, b, c; default: a b")
    parser.add_argument("--rounds", type=int, default=12, help="models to make")
    parser.add_argument("--nodes", type=int, help="instead of 40, 40 and 400")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sharded", action="store_true", help="committees open sums in shards")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def told(record: RoundRecord) -> None:
        accuracy = record.metrics.get("accuracy")
        said = record.reason if accuracy is None else f"{100 * accuracy:.1f} %"
        print(f"      round {record.number}: {record.accepted} merged, {said}", file=sys.stderr)

    makers = {"a": groups, "b": one_sum, "c": private}
    verdicts: list[Verdict] = []
    for name in options.settings or ["a", "b"]:
        given: dict[str, int] = {"rounds": options.rounds} if name == "c" else {}
        if options.nodes:
            given["nodes"] = options.nodes
        setting = makers[name](**given)
        setting = sharded(setting) if options.sharded else setting
        verdicts.append(run(setting, rounds=options.rounds, seed=options.seed, progress=told))
        if not options.json:
            _show(verdicts[-1])
    if options.json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], indent=2))
    return not all(verdict.holds for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
