"""What is promised: the plan of a setting, as ``qres dp plan --json`` prints it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from fractions import Fraction
from types import ModuleType
from typing import Any, Final

import attrs

from qres_dp.audit import oracle

DIMENSION: Final = 4096
SCALE: Final = 0
DELTA: Final = 1e-6
CLIP: Final = 1.0
NODES: Final = 3
ROUNDS: Final = 16
STEPS: Final = 8
"""Of a stream of correlated noise."""
BAND: Final = 4
SEPARATION: Final = 4

_STREAM: Final = {
    "noise": "correlated",
    "epsilon": 8.0,
    "rounds": STEPS,
    "band": BAND,
    "separation": SEPARATION,
}
_ROUNDS: Final = {"noise_multiplier": 0.5, "rounds": ROUNDS}


@attrs.frozen
class AuditSetting:
    """Options of the plugin that are audited."""

    name: str
    options: Mapping[str, Any]  # of the table, beside clip and delta

    @property
    def table(self) -> dict[str, Any]:
        """The plugin's options."""
        return {"clip": CLIP, "delta": DELTA, **self.options}

    @property
    def streams(self) -> bool:
        """Whether noise is correlated between rounds."""
        return "noise" in self.options

    @property
    def rounds(self) -> int:
        """How many releases the budget is for."""
        return int(self.options["rounds"])

    @property
    def mode(self) -> str:
        """The plugin's mode."""
        return str(self.options["mode"])

    @property
    def honest(self) -> int:
        """Shares of noise that are counted on; of a local release all the noise is the node's."""
        return int(self.options.get("honest", 1))

    @property
    def records(self) -> int:
        """Most records of a node, where a record is the unit, else 0."""
        return int(self.options.get("records", 0))

    @property
    def apart(self) -> int:
        """How many bounds neighbours' sums are apart: a local release hides values only."""
        return 2 if self.mode == "local" and not self.records else 1


_SHARED: Final = {"mode": "distributed", "honest": 2}
SETTINGS: Final = (
    AuditSetting("local", {"mode": "local", **_ROUNDS}),
    AuditSetting("distributed", {**_SHARED, **_ROUNDS}),
    AuditSetting("record", {**_SHARED, **_ROUNDS, "unit": "record", "records": 8}),
    AuditSetting("encoded", {**_SHARED, **_STREAM}),
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
        """Variance that is claimed for what is drawn at once, in squared steps."""
        return Fraction(self.mechanism["variance_of_share_steps"])

    @property
    def multiplier(self) -> float:
        """Least noise multiplier that is charged."""
        return min(float(row["noise_multiplier"]) for row in self.printed["charges"])

    @property
    def sensitivity(self) -> int:
        """By how much a unit may move a sum, by the audit's own arithmetic, in steps."""
        return self.setting.apart * oracle.bound_steps(CLIP, SCALE)

    @property
    def mu(self) -> float:
        """Of all rounds together, from the printed epsilon."""
        return oracle.mu_of(self.printed["epsilon"], self.printed["delta"])


def printed(package: ModuleType, setting: AuditSetting) -> Claim:
    """Print the plan of a setting, and read it back.

    ``package``: the plugin's, whose command is asked before there is anything to audit.
    """
    options = dict(setting.options)
    words = ["--mode", options.pop("mode"), "--nodes", str(NODES), "--clip", str(CLIP)]
    words += ["--dimension", str(DIMENSION), "--delta", str(DELTA), "--scale", str(SCALE), "--json"]
    for key, value in options.items():
        words += ["--set", f"plugins.dp.{key}={json.dumps(value)}"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        package.plan_command.plan_command.main(words, standalone_mode=False)
    return Claim(setting, json.loads(out.getvalue()))
