"""The table: every plugin of the project, in every mode that changes what it goes together with.

Adding a plugin or a mode is adding a row. The page of the manual, the tests and the script that
plays all combinations are made from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import attrs

from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.nodes import identify

SEED: Final = 5
SCALE: Final = -8
"""Grid of all swarms: fine enough for noise, wide enough for sums."""

Options = Mapping[str, Any]


@attrs.frozen
class Setting:
    """The swarm around a combination.

    Attributes:
        nodes: number of nodes.
        byzantine: liars promised to be withstood.
        weight_cap: largest weight that counts.
    """

    nodes: int
    byzantine: int = 1
    weight_cap: int = 1

    @property
    def quorum(self) -> int:
        """All but one."""
        return self.nodes - 1

    @property
    def swarm(self) -> Options:
        """The table ``[swarm]``."""
        return {
            "name": "compatibility",
            "nodes": self.nodes,
            "byzantine": self.byzantine,
            "quorum": self.quorum,
            "scale": SCALE,
            "weight_cap": self.weight_cap,
        }


@lru_cache
def identities(nodes: int) -> tuple[str, ...]:
    """Who the nodes of a simulated swarm with ``ed25519`` are, hexadecimal."""
    plugins: dict[str, Options] = {"memory": {}, "ed25519": {}, "replay": {}, "mean": {}}
    swarm = {**Setting(nodes, 0).swarm}
    config = parse({"swarm": swarm, "plugins": plugins}, source="compatibility")
    _kernels, ids = identify(config, SEED, scan())
    return tuple(item.hex() for item in ids)


def _whitelist(setting: Setting) -> Options:
    return {"members": list(identities(setting.nodes))}


def _pivot(setting: Setting) -> Options:
    return {"f": setting.byzantine, "pivot": identities(setting.nodes)[0]}


def _f(setting: Setting) -> Options:
    return {"f": setting.byzantine}


def _with_f(**options: Any) -> Callable[[Setting], Options]:
    return lambda setting: {"f": setting.byzantine, **options}


def _fixed(**options: Any) -> Callable[[Setting], Options]:
    return lambda _setting: dict(options)


def _dp(mode: str, **options: Any) -> Callable[[Setting], Options]:
    budget = {"epsilon": 8.0, "rounds": 4, "clip": 1.0, "delta": 1e-6}
    return _fixed(mode=mode, **{**budget, **options})


def _secagg(**options: Any) -> Callable[[Setting], Options]:
    room = {"bound": 256.0, "noise_room": 18000.0, "patience": 1.0}
    return _fixed(**{**room, **options})


def _zk(**options: Any) -> Callable[[Setting], Options]:
    return _fixed(k=256, security=40, **options)


@attrs.frozen
class Mode:
    """A plugin in one of its modes.

    Attributes:
        label: what the matrix calls it.
        plugin: name of its table.
        family: what it is there for; also its place in the file.
        options: makes its table for a swarm.
        weight_cap: the cap that gives the mode a meaning.
    """

    label: str
    plugin: str
    family: str
    options: Callable[[Setting], Options] = attrs.field(factory=_fixed)
    weight_cap: int = 1


FAMILIES: Final = (
    "transport",
    "authenticate",
    "replay",
    "reputation",
    "validation",
    "privacy",
    "rounding",
    "proof",
    "secure aggregation",
    "wrapper",
    "rule",
)
"""In the order in which their tables stand in the file."""

_MODES: Final = (
    Mode("memory", "memory", "transport"),
    Mode("libp2p", "libp2p", "transport"),
    Mode("grpc", "grpc", "transport", _fixed(hubs=[f"127.0.0.1:443#{bytes(32).hex()}"])),
    Mode("ed25519", "ed25519", "authenticate"),
    Mode("pki", "pki", "authenticate", _whitelist),
    Mode("replay", "replay", "replay"),
    Mode("replay: challenge", "replay", "replay", _fixed(mode="challenge")),
    Mode("reputation: gate", "reputation", "reputation"),
    Mode("reputation: weights", "reputation", "reputation", _fixed(exponent=1)),
    # Noise makes a model worse before it gets better: tolerances that let it.
    Mode("public_validation", "public_validation", "validation", _fixed(tolerance=50.0)),
    Mode(
        "validation", "validation", "validation", _fixed(tolerance=50.0, candidate_tolerance=50.0)
    ),
    Mode("dp: local", "dp", "privacy", _dp("local")),
    Mode("dp: distributed", "dp", "privacy", _dp("distributed", honest=2)),
    Mode(
        "dp: distributed, correlated",
        "dp",
        "privacy",
        _dp(
            "distributed",
            honest=2,
            noise="correlated",
            band=4,
            rounds=64,
            separation=16,
            clip=0.25,
        ),
    ),
    Mode("quantize", "quantize", "rounding"),
    Mode("zk: clip", "zk", "proof", _zk(bound=1.6)),
    Mode("zk: no clip", "zk", "proof", _zk(bound=100.0, clip=False)),
    Mode("secagg: sum", "secagg", "secure aggregation", _secagg()),
    Mode(
        "secagg: groups",
        "secagg",
        "secure aggregation",
        _secagg(group_size=3, min_size=3, corrupt=0.04, dropout=0.0),
    ),
    Mode(
        "secagg: bisect",
        "secagg",
        "secure aggregation",
        _secagg(bisect=True, min_size=3, corrupt=0.04),
    ),
    Mode("secagg: 64-bit ring", "secagg", "secure aggregation", _secagg(ring=64)),
    Mode(
        "secagg: public weights",
        "secagg",
        "secure aggregation",
        _secagg(weights="public", max_weight=2),
        weight_cap=2,
    ),
    Mode("fedavgm", "fedavgm", "wrapper"),
    Mode("fedadam", "fedadam", "wrapper"),
    Mode("fedyogi", "fedyogi", "wrapper"),
    Mode("clipping", "clipping", "wrapper", _fixed(bound=4.0)),
    Mode("arc", "arc", "wrapper", _f),
    Mode("nnm", "nnm", "wrapper", _f),
    Mode("bucketing", "bucketing", "wrapper", _with_f(size=2)),
    Mode("mean", "mean", "rule"),
    Mode("median", "median", "rule", _f),
    Mode(
        "median: weighted", "median", "rule", _with_f(weighted=True, weight_limit=1.0), weight_cap=2
    ),
    Mode("trimmed_mean", "trimmed_mean", "rule", _f),
    Mode("meamed", "meamed", "rule", _f),
    Mode("geometric_median", "geometric_median", "rule", _f),
    Mode("centred_clipping", "centred_clipping", "rule", _with_f(radius=1.0)),
    Mode("krum", "krum", "rule", _f),
    Mode("krum: multi", "krum", "rule", _with_f(select=2)),
    Mode("bulyan", "bulyan", "rule", _f),
    Mode("mda", "mda", "rule", _f),
    Mode("dnc", "dnc", "rule", _f),
    Mode("caf", "caf", "rule", _f),
    Mode("monna", "monna", "rule", _pivot),
    Mode("validated_mean", "validated_mean", "rule", _with_f(tolerance=50.0)),
)

MODES: Final[Mapping[str, Mode]] = MappingProxyType({mode.label: mode for mode in _MODES})
"""All rows, by label."""
