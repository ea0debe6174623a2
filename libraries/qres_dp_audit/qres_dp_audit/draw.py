"""Settings drawn at random, and the plan that ``qres dp plan --json`` prints of each."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Mapping
from fractions import Fraction
from types import ModuleType
from typing import Any, Final

import attrs

from qres_dp_audit import reference

KINDS: Final = ("local", "distributed", "encoded", "records alone", "long", "in memory")
"""Of settings; an audit has some of each."""
_LONG: Final = 2**17  # coordinates that are drawn at a time


@attrs.frozen
class AuditSetting:
    """A swarm, and options of the plugin in it."""

    kind: str
    seed: int  # of all that is drawn in it
    table: Mapping[str, Any]  # the plugin's options
    nodes: int
    byzantine: int
    colluding: float  # share of the nodes
    quorum: int
    scale: int
    dimension: int
    durable: bool  # whether nodes have folders
    shared: bool  # whether they have the same data, and one ledger

    @property
    def seen(self) -> bool:
        """True if others see what a node sends by itself."""
        return bool(self.table["mode"] == "local")

    @property
    def records(self) -> int:
        """Most records of a node, where a record is the unit, else 0."""
        return int(self.table.get("records", 0))

    @property
    def honest(self) -> int:
        """Shares of noise that are counted on; of a local release all the noise is the node's."""
        return int(self.table.get("honest", 1))

    @property
    def encoded(self) -> bool:
        """True if noise is correlated between rounds."""
        return "band" in self.table

    @property
    def apart(self) -> int:
        """Number of bounds between neighbours: a local release hides values only."""
        other = self.table.get("relation") == "replace-one"
        return 2 if other or (self.seen and not self.records) else 1

    @property
    def bound(self) -> int:
        """The clip in steps of the grid."""
        return reference.bound_steps(self.table["clip"], self.scale)

    @property
    def watchers(self) -> int:
        """Nodes of a sum that may tell their share of the noise."""
        return max(1, self.byzantine, int(Fraction(str(self.colluding)) * self.nodes))

    @property
    def grain(self) -> int:
        """Part of rounding in the move of a row that one record is taken from."""
        return reference.grain(self.bound, self.dimension) if self.records else 0

    def __str__(self) -> str:
        """Its kind and its seed."""
        return f"{self.kind}, seed {self.seed}"


def drawn(kind: str, seed: int) -> AuditSetting:
    """A setting of a kind. The same seed draws the same one."""
    chance = random.Random(f"{kind} {seed}")  # noqa: S311 - it is drawn again from its seed

    def power(low: float, high: float) -> float:
        return float(2.0 ** chance.uniform(low, high))

    nodes = chance.randint(3, 9)
    byzantine, colluding = chance.randint(0, (nodes - 1) // 3), chance.choice([0.0, 0.25, 0.4])
    table: dict[str, Any] = {"delta": 10.0 ** chance.uniform(-9, -4)}
    local = kind in {"local", "records alone"} or (kind != "encoded" and chance.random() < 0.5)
    table["mode"] = "local" if local else "distributed"
    if kind == "records alone" or (kind != "local" and chance.random() < 0.4):
        table |= {"unit": "record", "records": chance.randint(2, 30)}
    if "unit" in table or not local:
        table["relation"] = chance.choice(["add-remove", "replace-one"])
    quorum = chance.randint(nodes - byzantine, nodes)
    watchers = max(1, byzantine, int(Fraction(str(colluding)) * nodes))
    honest = 1 if local else max(1, quorum - watchers - chance.randint(0, 2))
    if not local:
        table["honest"] = honest
    rounds = chance.randint(4, 10)
    mu = power(-2.0, 2.5)
    if kind == "encoded":
        table |= {"noise": "correlated", "rounds": rounds, "band": chance.randint(2, 6)}
        table |= {"epsilon": reference.epsilon_of(mu, table["delta"]) + 1e-3}
        table |= {"separation": chance.randint(2, 5)}
    else:
        two = chance.randrange(3)
        if two != 0:
            table["noise_multiplier"] = math.sqrt(rounds) / mu
        if two != 1:
            table["rounds"] = rounds
        if two != 2:
            table["epsilon"] = reference.epsilon_of(mu * 1.01, table["delta"]) + 1e-3
    apart = 2 if table.get("relation") == "replace-one" or (local and "unit" not in table) else 1
    z = math.sqrt(rounds) / mu * apart / math.sqrt(honest)
    size = chance.randint(_LONG + 1, _LONG + 999) if kind == "long" else int(power(1.0, 13.5))
    least = max(2.0 * math.sqrt(size) + 2.0, 10.0 / z)
    most = min(2.0**26 / z, 2.0**30 / nodes / (4 * table.get("records", 1) + 16 * z)) / 2
    bound = power(math.log2(least), math.log2(max(most, 2 * least))) + chance.random()
    scale = chance.randint(-6, 6)
    table["clip"] = bound * 2.0 ** (scale - 16)
    durable = kind not in {"in memory", "long"}
    shared = durable and chance.random() < 0.5
    return AuditSetting(
        kind, seed, table, nodes, byzantine, colluding, quorum, scale, size, durable, shared
    )


@attrs.frozen
class Claim:
    """A printed plan."""

    setting: AuditSetting
    printed: Mapping[str, Any]  # what was read back from the JSON

    @property
    def mechanism(self) -> Mapping[str, Any]:
        """Clipping and noise of a round."""
        found: Mapping[str, Any] = self.printed["mechanism"]
        return found

    @property
    def share(self) -> Fraction:
        """Variance that is claimed for what a node draws at once, in squared steps."""
        return Fraction(self.mechanism["variance_of_share_steps"])

    def multiplier(self, reach: int = 2**16) -> float:
        """Of a release with all honest shares, by the audit's own arithmetic.

        ``reach``: of a row of correlated noise, in units of ``2**-16``; infinite for 0.
        """
        setting = self.setting
        if reach == 0:
            return math.inf
        moved = Fraction(setting.apart * setting.bound * (reach + setting.grain), 2**16)
        if not setting.encoded:
            moved = Fraction(setting.apart * setting.bound)
        return math.sqrt((self.share * setting.honest - reference.LEMMA) / moved**2)


def printed(package: ModuleType, setting: AuditSetting) -> Claim:
    """Print the plan of a setting, and read it back.

    ``package``: the plugin's, whose command is asked before there is anything to audit. Raises
    QresError: as the command.
    """
    options = dict(setting.table)
    words = ["--mode", options.pop("mode"), "--nodes", str(setting.nodes), "--json"]
    words += ["--dimension", str(setting.dimension), "--scale", str(setting.scale)]
    words += [f"--{key}={options.pop(key)!r}" for key in ("clip", "delta")]
    for key, value in options.items():
        words += ["--set", f"plugins.dp.{key}={json.dumps(value)}"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        package.plan_command.plan_command.main(words, standalone_mode=False)
    return Claim(setting, json.loads(out.getvalue()))
