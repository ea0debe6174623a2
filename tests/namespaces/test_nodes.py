"""Real nodes in namespaces of their own: other addresses, names, cuts, and moves."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from trials.routed_swarm import RoutedSwarm

pytest.importorskip("qres_transport_libp2p")

NODES = 3


def tables(quorum: int = NODES, dimension: int = 16, deadline: float = 60.0) -> dict[str, Any]:
    return {
        "swarm": {
            "name": "namespaces",
            "nodes": NODES,
            "byzantine": 0,
            "quorum": quorum,
            "deadline": deadline,
            "vote_timeout": 10.0,
            "interval": 0.5,
        },
        "plugins": {
            "libp2p": {"reconnect_seconds": 0.5},
            "ed25519": {},
            "replay": {},
            "reputation": {},
            "mean": {},
        },
        "simulation": {"seed": 1},
        "trainer": {"task": {"name": "quadratic", "dimension": dimension, "learning_rate": 0.01}},
    }


@pytest.fixture
def gathered(routed: Callable[..., Any], tmp_path: Path) -> Generator[Callable[..., RoutedSwarm]]:
    """Makes a network as `Routed` does, with three nodes that run in it."""
    with ExitStack() as stack:

        def make(raw: dict[str, Any], *arguments: Any, **options: Any) -> RoutedSwarm:
            network = routed(NODES, *arguments, **options)
            return stack.enter_context(RoutedSwarm.of(raw, network, tmp_path / "box"))

        yield make


def agree_on(swarm: RoutedSwarm, step: int) -> None:
    """All make this model, and have the same of every step."""
    assert swarm.until(lambda: min(swarm.steps()) >= step), swarm.steps()
    agreement = swarm.agreement()
    assert agreement.agreed
    assert agreement.step >= step


FORMS = [pytest.param(form, marks=pytest.mark.long) for form in ("ip4", "ip6", "dns4")]


@pytest.mark.parametrize("form", [*FORMS, "dns6"])
def test_nodes_meet_over_addresses_and_names(
    form: str, gathered: Callable[..., RoutedSwarm]
) -> None:
    # Each names those before it alone: every pair depends on one dial.
    swarm = gathered(tables(), form, mutual=False)
    agree_on(swarm, 2)
    assert swarm.until(swarm.all_up)  # each listens at one address, of this kind
    counts = swarm.network.counts()
    assert min(path["octets"] for path in counts.paths.values()) > 0


@pytest.mark.long
def test_a_node_that_was_cut_off_catches_up(gathered: Callable[..., RoutedSwarm]) -> None:
    swarm = gathered(tables(quorum=2, deadline=4.0))
    agree_on(swarm, 1)
    swarm.network.part([2])
    goal = swarm.step(2) + 3
    assert swarm.until(lambda: min(swarm.steps()[:2]) >= goal)
    assert swarm.step(2) < goal  # what it missed
    swarm.network.heal()
    agree_on(swarm, max(swarm.steps()) + 1)


@pytest.mark.long
def test_a_link_that_is_cut_in_the_middle_of_a_pull_costs_no_model(
    gathered: Callable[..., RoutedSwarm],
) -> None:
    # Updates of 1 MB, of which a line carries 1 MB a second: a round's pulls take seconds.
    swarm = gathered(tables(dimension=250_000))
    agree_on(swarm, 1)
    swarm.network.rate(1_000_000)

    def carried() -> int:
        return swarm.network.counts().paths[0, 1]["delivered_octets"]

    before, models = carried(), max(swarm.steps())
    assert swarm.until(lambda: carried() > before + 300_000)  # in the middle
    swarm.network.shape([(0, 1)], cut=True)
    assert swarm.until(lambda: 0 not in swarm.peers(1) and 1 not in swarm.peers(0))  # noticed
    assert swarm.network.counts().paths[0, 1]["cut"] > 0
    swarm.network.heal()
    agree_on(swarm, models + 2)


@pytest.mark.long
@pytest.mark.parametrize("form", ["ip4", "ip6"])
def test_a_node_with_another_address_is_found_after_a_reload(
    form: str, gathered: Callable[..., RoutedSwarm]
) -> None:
    swarm = gathered(tables(quorum=2, deadline=4.0), form)
    agree_on(swarm, 1)
    moved = swarm.places[0]
    moved.kill()
    swarm.network.move(0)
    # It dials nobody: the others have to find it.
    swarm.write(0, **{**swarm.network.wiring(moved.seat, swarm.seats), "peers": []})
    moved.start()
    goal = max(swarm.steps()) + 2
    assert swarm.until(lambda: min(swarm.steps()[1:]) >= goal and 0 in swarm.reports)
    assert not swarm.peers(0)
    for index in (1, 2):
        swarm.write(index, **swarm.network.wiring(swarm.seats[index], swarm.seats))
        done = swarm.reload(index)
        assert done.returncode == 0, done.stdout + done.stderr
    assert swarm.until(swarm.all_up)
    agree_on(swarm, max(swarm.steps()) + 1)


@pytest.mark.long
def test_a_node_with_another_address_is_found_by_its_name(
    gathered: Callable[..., RoutedSwarm],
) -> None:
    swarm = gathered(tables(quorum=2, deadline=4.0), "dns4")
    agree_on(swarm, 1)
    moved = swarm.places[0]
    moved.kill()
    swarm.network.move(0)
    swarm.write(0, **{**swarm.network.wiring(moved.seat, swarm.seats), "peers": []})
    moved.start()
    assert swarm.until(swarm.all_up)  # nobody was told
    agree_on(swarm, max(swarm.steps()) + 1)
