"""The swarms that attacks are played against: nothing, one defence at a time, and full stacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

Tables = Mapping[str, Mapping[str, Any]]

ROUNDS: Final = 8
NOTHING: Final = "nothing"
_SIGNED: Final[Tables] = {"ed25519": {}}
_FRESH: Final[Tables] = {**_SIGNED, "replay": {}}
_JUDGED: Final[Tables] = {**_FRESH, "reputation": {}}
_MEAN: Final[Tables] = {"mean": {"unprotected": True}}
# Honest updates are clipped to a norm of 1. Those of later rounds are about that long, so that a
# liar has no longer a lever than an honest node.
_PROOF: Final[Mapping[str, Any]] = {"bound": 1.5, "k": 1024}
_MASKS: Final[Mapping[str, Any]] = {"bound": 64.0, "patience": 1.0, "corrupt": 0.2}


@attrs.frozen(kw_only=True)
class Defence:
    """A swarm."""

    name: str  # what the report calls it
    plugins: Tables  # the ``[plugins]`` tables
    nodes: int = 20  # of the swarm
    attackers: int = 4  # how many of them attack: as many as the defence is stated for
    held_out: int = 0  # examples each node keeps to judge by
    public: bool = False  # whether all nodes keep the same ones
    members: bool = False  # whether the plugin ``pki`` is given the list of members
    control: bool = False  # whether nothing is there that would stop an attack
    budget: str = ""  # plugin whose option ``rounds`` is the number of rounds played
    beyond: str = ""  # one sentence: why an attack that it does not stop gets past it


_STACK: Final[Tables] = {**_JUDGED, "zk": _PROOF}
_VALID: Final[Tables] = {"public_validation": {}}

_ALL: Final = (
    Defence(name=NOTHING, plugins=_MEAN, control=True),
    Defence(
        name="median",
        plugins={"median": {"f": 4}},
        beyond="It takes the middle of every coordinate, and liars that stay among the honest "
        "values move the middle.",
    ),
    Defence(
        name="krum",
        plugins={"krum": {"f": 4, "select": 8}},
        beyond="It merges the eight updates that are nearest to others, and lies that are near "
        "honest updates, or near one another, are among them.",
    ),
    Defence(
        name="validation",
        plugins={"validation": {}, **_MEAN},
        held_out=60,
        beyond="It judges by sixty examples a node: what these do not show, and a little harm in "
        "every round, passes.",
    ),
    Defence(
        name="validated mean",
        plugins={"validated_mean": {"f": 4}},
        held_out=60,
        beyond="Held-out examples decide the weights: a lie counts as far as it looks useful "
        "there.",
    ),
    Defence(
        name="norm proof",
        plugins={**_FRESH, "zk": _PROOF, "mean": {}},
        beyond="It bounds how long an update is, and not where it points.",
    ),
    Defence(
        name="signatures",
        plugins={**_SIGNED, **_MEAN},
        beyond="They say who sent a message, and not whether it is new, wanted or true.",
    ),
    Defence(
        name="replay guard",
        plugins={**_FRESH, **_MEAN},
        beyond="It refuses what it has seen before, and nothing that is signed and new.",
    ),
    Defence(
        name="membership",
        plugins={**_FRESH, "pki": {}, **_MEAN},
        members=True,
        beyond="It says who belongs to the swarm, and nothing of what members say.",
    ),
    Defence(
        name="reputation",
        plugins={**_JUDGED, **_MEAN},
        beyond="It bans for faults that are proved, and a lie of the right form is no such fault.",
    ),
    Defence(name="reputation, unsigned", plugins={"reputation": {}, **_MEAN}, control=True),
    Defence(
        name="full, one sum",
        plugins={**_STACK, "pki": {}, "secagg": _MASKS, **_VALID, "mean": {}},
        held_out=60,
        public=True,
        members=True,
        beyond="Single updates are hidden: only their length and the public examples limit a lie, "
        "and a mean takes in what is left.",
    ),
    Defence(
        name="full, groups",
        plugins={
            **_STACK,
            "pki": {},
            "secagg": {**_MASKS, "dropout": 0.02, "group_size": 4, "min_size": 4},
            **_VALID,
            "median": {"f": 2},
        },
        nodes=24,
        attackers=2,
        held_out=60,
        public=True,
        members=True,
        beyond="Each liar turns the mean of its group, and a median of six means withstands two.",
    ),
    Defence(
        name="full, one sum, dp",
        plugins={
            **_JUDGED,
            "pki": {},
            "dp": {"mode": "distributed", "clip": 1.0, "epsilon": 8.0, "delta": 1e-5, "honest": 12},
            "zk": {"bound": 24.0, "k": 1024, "clip": False},
            "secagg": {**_MASKS, "noise_room": 20.0},
            **_VALID,
            "mean": {},
        },
        held_out=60,
        public=True,
        members=True,
        budget="dp",
        beyond="A bound must leave room for the noise, and a liar may use all of that room.",
    ),
    Defence(name="nothing, 2 of 24", plugins=_MEAN, nodes=24, attackers=2, control=True),
)
DEFENCES: Final[Mapping[str, Defence]] = {item.name: item for item in _ALL}
STACKS: Final = ("full, one sum", "full, groups", "full, one sum, dp")
SINGLE: Final = (NOTHING, "median", "krum", "validation", "validated mean")
"""What looks at updates, one defence at a time: what lies are searched against."""
POISONING: Final = (
    *SINGLE,
    "norm proof",
    "reputation",
    STACKS[0],
    STACKS[2],
    "nothing, 2 of 24",
    STACKS[1],
)
