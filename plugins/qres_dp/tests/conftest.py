"""Builders the tests of this plugin share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_dp import Dp
from qres_dp_audit.course import same_randomness
from qres_lab.testing import make_node_ids

from qres_core import Contribution, NodeInfo, OwnContributions, RoundInfo, Update, Updates, Vector

NODES = 7
DIMENSION = 50


@attrs.define(eq=False)
class Node:
    """A plugin set up in a roster, and the calls the kernel makes."""

    plugin: Dp
    info: RoundInfo
    contributed: OwnContributions = attrs.field(factory=OwnContributions)

    def next_round(self, *, step: int | None = None) -> None:
        number = self.info.number + 1
        self.info = attrs.evolve(
            self.info, number=number, step=number - 1 if step is None else step
        )
        self.plugin.round_opened(self.info, self.contributed)

    def send(self, vector: NDArray[np.int32], **fields: Any) -> Update:
        return self.plugin.privatize(Update(vector, **fields), self.info)


def node(
    index: int = 0,
    *,
    nodes: int = NODES,
    byzantine: int = 0,
    quorum: int | None = None,
    dimension: int = DIMENSION,
    scale: int = -4,
    data_dir: str | None = None,
    opened: bool = True,
    **options: Any,
) -> Node:
    """A node with the given options of the plugin, and ``colluding`` of the node."""
    colluding = options.pop("colluding", 0.0)
    roster = make_node_ids(nodes)
    chosen: dict[str, Any] = {"mode": "local", "clip": 0.01, "delta": 1e-6, **options}
    if sum(name in chosen for name in ("epsilon", "rounds", "noise_multiplier")) == 0:
        chosen |= {"epsilon": 8.0, "noise_multiplier": 5.0}
    plugin = Dp(**chosen)
    own = NodeInfo(
        roster[index],
        "lab",
        roster,
        byzantine=byzantine,
        data_dir=data_dir,
        colluding=colluding,
    )
    plugin.setup(own)
    info = RoundInfo(
        "lab", 1, bytes(32), dimension, scale, roster, quorum or nodes, byzantine=byzantine
    )
    made = Node(plugin, info)
    if opened:
        plugin.round_opened(info, made.contributed)
    return made


def arrived(updates: list[Update]) -> tuple[Updates, tuple[Contribution, ...]]:
    """What the aggregation is given of updates that nodes sent, in order of the roster."""
    roster = make_node_ids(len(updates))
    contributions = tuple(
        Contribution(sender, bytes(32), update.vector, update.weight, companions=update.companions)
        for sender, update in zip(roster, updates, strict=True)
    )
    weights = np.array([update.weight for update in updates], dtype=np.int64)
    return Updates(np.stack([update.vector for update in updates]), roster, weights), contributions


def mean_rule(updates: Updates) -> Vector:
    """The rule ``mean``."""
    from qres_core.builtin.mean import weighted_mean  # noqa: PLC0415

    return weighted_mean(updates.vectors, updates.weights)


class NoNoise:
    """In the place of the sampler: what is sent is then what the node's data make of it."""

    reach = 0

    def __init__(self, variance: Fraction) -> None:
        self.variance = variance

    def sample(self, size: int, key: bytes) -> NDArray[np.int32]:
        del key
        return np.zeros(size, dtype=np.int32)


@pytest.fixture
def same_noise() -> Iterator[None]:
    """What a test makes of noise is no chance: it is the same each time."""
    with same_randomness(1):
        yield


@pytest.fixture(scope="session")
def no_noise() -> type[NoNoise]:
    """See :class:`NoNoise`."""
    return NoNoise


@pytest.fixture(scope="session")
def make_node() -> Callable[..., Node]:
    """:func:`node`."""
    return node


@pytest.fixture(scope="session")
def arrive() -> Callable[[list[Update]], tuple[Updates, tuple[Contribution, ...]]]:
    """:func:`arrived`."""
    return arrived


@pytest.fixture(scope="session")
def mean() -> Callable[[Updates], Vector]:
    """:func:`mean_rule`."""
    return mean_rule
