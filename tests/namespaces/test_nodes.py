"""Real nodes in namespaces of their own: other addresses, names, cuts, and moves."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from trials.gathering import Gathering

pytest.importorskip("qres_transport_libp2p")

NODES = 3


def tables(quorum: int = NODES, dimension: int = 16) -> dict[str, Any]:
    return {
        "swarm": {
            "name": "namespaces",
            "nodes": NODES,
            "byzantine": 0,
            "quorum": quorum,
            "deadline": 20.0,
            "vote_timeout": 5.0,
            "interval": 0.5,
        },
        "plugins": {
            "libp2p": {"reconnect_seconds": 0.5, "ping_seconds": 2.0},
            "ed25519": {},
            "replay": {},
            "reputation": {},
            "mean": {},
        },
        "simulation": {"seed": 1},
        "trainer": {"task": {"name": "quadratic", "dimension": dimension, "learning_rate": 0.01}},
    }


@pytest.fixture
def gathered(routed: Callable[..., Any], tmp_path: Path) -> Generator[Callable[..., Gathering]]:
    """Makes a network as `Routed` does, with three nodes that run in it."""
    with ExitStack() as stack:

        def make(raw: dict[str, Any], *arguments: Any, **options: Any) -> Gathering:
            network = routed(NODES, *arguments, **options)
            return stack.enter_context(Gathering.of(raw, network, tmp_path / "box"))

        yield make


def agree_on(swarm: Gathering, step: int) -> None:
    """All make this model, and have the same of every step."""
    assert swarm.until(lambda: min(swarm.steps()) >= step), swarm.steps()
    agreement = swarm.agreement()
    assert agreement.agreed
    assert agreement.step >= step


FORMS = [pytest.param(form, marks=pytest.mark.long) for form in ("ip4", "ip6", "dns4")]


@pytest.mark.parametrize("form", [*FORMS, "dns6"])
def test_nodes_meet_over_addresses_and_names(form: str, gathered: Callable[..., Gathering]) -> None:
    # Each names those before it alone: every pair depends on one dial.
    swarm = gathered(tables(), form, mutual=False)
    agree_on(swarm, 2)
    assert swarm.until(swarm.all_up)  # each listens at one address, of this kind
    counts = swarm.network.counts()
    assert min(path["octets"] for path in counts.paths.values()) > 0


@pytest.mark.long
def test_a_node_that_was_cut_off_catches_up(gathered: Callable[..., Gathering]) -> None:
    swarm = gathered(tables(quorum=2))
    agree_on(swarm, 1)
    swarm.network.part([2])
    goal = swarm.step(2) + 3
    assert swarm.until(lambda: min(swarm.steps()[:2]) >= goal)
    assert swarm.step(2) < goal  # what it missed
    swarm.network.heal()
    agree_on(swarm, max(swarm.steps()) + 1)
