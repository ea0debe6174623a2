"""A swarm and its adversary, as a seed decides."""

from __future__ import annotations

import random
from typing import Any, Final

import attrs
from qres_lab.testing import make_node_ids
from qres_secagg import Secagg

from qres_core import NodeInfo
from qres_core.errors import QresError

SIZES: Final = ((8, 24, 0.55), (25, 64, 0.25), (65, 120, 0.15), (121, 200, 0.05))
"""Fewest and most nodes, and how often: large swarms take long. Up to 64 the graph is complete."""


@attrs.frozen
class Setting:
    """What is fixed before the first round."""

    seed: int
    nodes: int
    byzantine: int
    corrupt: int  # how many nodes collude
    dropped: int  # how many may drop out in a round
    quorum: int  # of contributions
    options: dict[str, Any]  # of the plugin
    placed: bool  # corrupt nodes sit where they are of most use, and not at random
    heights: int
    relayed: bool  # honest nodes hand on what they hold
    loss: float  # of messages between honest nodes
    plan: str = ""  # of the adversary, in place of those that it draws

    @property
    def summary(self) -> str:
        """On one line."""
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        return (
            f"{self.nodes} nodes, {self.corrupt} corrupt{' and placed' if self.placed else ''}, "
            f"byzantine {self.byzantine}, quorum {self.quorum}, {self.heights} heights, {options}"
        )


def _options(rng: random.Random, nodes: int) -> tuple[dict[str, Any], int]:
    """Options of the plugin, and the fault bound."""
    share = rng.choice((0.0, 0.05, 0.1, 0.1, 0.15, 0.2, 0.3))
    byzantine = rng.choice((0, 0, 1, 1, 2, nodes // 8))
    corrupt = max(byzantine, int(share * nodes))
    options: dict[str, Any] = {"corrupt": share, "dropout": rng.choice((0.05, 0.1, 0.2))}
    if rng.random() < 0.45:
        least = rng.choice((0, 3, 4, corrupt + 1, corrupt + 1, corrupt + 2, corrupt + 2))
        options["min_size"] = least if least == 0 or least >= 3 else 3
        options["group_size"] = (options["min_size"] or 8) + rng.choice((0, 1, 2, 4))
    options["bisect"] = rng.random() < 0.2
    return options, byzantine


def draw(seed: int, *, fewest: int = 8, most: int = 200) -> Setting:
    """The setting of a seed: options that the plugin takes, in a swarm of that many nodes."""
    rng = random.Random(seed)  # noqa: S311 - a seed must replay
    sizes = [
        (max(low, fewest), min(high, most), often)
        for low, high, often in SIZES
        if low <= most and high >= fewest
    ]
    low, high, _ = rng.choices(sizes, [often for _, _, often in sizes])[0]
    while True:
        nodes = rng.randint(low, high)
        options, byzantine = _options(rng, nodes)
        roster = make_node_ids(nodes)
        try:
            plugin = Secagg(**options)
            numbers = plugin.parameters(NodeInfo(roster[0], "x", roster, byzantine), 1)
        except (QresError, ValueError):
            continue  # a swarm that the plugin refuses does not run
        dropped = max(1, int(options["dropout"] * nodes))
        least = max(numbers.min_survivors, numbers.quorum(nodes))
        quorum = rng.choice((least, least, rng.randint(least, max(least, nodes - dropped))))
        return Setting(
            seed=seed,
            nodes=nodes,
            byzantine=byzantine,
            corrupt=numbers.corrupt,
            dropped=dropped,
            quorum=quorum,
            options=options,
            placed=rng.random() < 0.3,
            heights=rng.choice((1, 2, 2, 3, 4)),
            relayed=rng.random() < 0.6,
            loss=rng.choice((0.0, 0.0, 0.0, 0.01, 0.05)),
        )
