"""A whole simulated swarm with signatures on, and what forgers in it achieve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qres_ed25519 import Ed25519
from qres_ed25519.signature import SigningKey

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qres_core.kernel.discovery import Installed
    from qres_core.kernel.kernel import Kernel
    from qres_core.lab.record import SimulationResult

ROUNDS = 4


def play(
    installed: Mapping[str, Installed], *, secure: bool = True, **scenario: Any
) -> SimulationResult:
    security = {"ed25519": {}, "increasing": {}} if secure else {}
    raw = {
        "swarm": {
            "name": "signed",
            "nodes": 5,
            "byzantine": 1,
            "quorum": 5,
            "deadline": 2.0,
            **({} if secure else {"insecure": True}),
        },
        "plugins": {"memory": {}, **security, "krum": {"f": 1}},
    }
    config = parse(raw, source="test.toml")
    return simulate(config, Scenario(rounds=ROUNDS, seed=3, **scenario), installed=installed)


def test_an_honest_swarm_trains_and_agrees(installed: Mapping[str, Installed]) -> None:
    result = play(installed)
    assert not [notice for notice in result.notices if "INSECURE" in notice]
    assert len(result.rounds) == ROUNDS
    assert all(record.closed and record.accepted == 5 for record in result.rounds)
    assert not any(item.rejected for item in result.rounds)
    assert len(set(result.model_digests)) == 1
    assert len({item.model_digest for item in result.rounds}) == ROUNDS
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]
    assert play(installed).model_digests == result.model_digests


@pytest.mark.parametrize(
    ("attack", "reason"),
    [("forge", "ed25519:bad-signature"), ("impersonate", "ed25519:bad-signature")],
)
def test_forgers_are_admitted_without_and_refused_with_signatures(
    attack: str, reason: str, installed: Mapping[str, Installed]
) -> None:
    without = play(installed, secure=False, attack=attack, attackers=1)
    assert without.injected["admitted"] > 0, "control: the attack works"
    secured = play(installed, attack=attack, attackers=1)
    assert "admitted" not in secured.injected
    assert secured.injected[reason] > 0
    assert len(set(secured.model_digests)) == 1
    assert all(record.closed for record in secured.rounds)


@pytest.mark.parametrize("identity", [bytes(32), b"\x02" + bytes(31), b"\xff" * 32])
def test_an_identity_that_is_no_key_gets_no_seat(
    make_kernel: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch, identity: bytes
) -> None:
    """An authority may approve it unseen. Its seat would vote for nothing, for ever."""
    kernel = make_kernel()
    keys = [SigningKey.from_seed(bytes([index]) * 32).public for index in range(5)]
    assert not kernel.refusals(keys, 0, 4)
    (problem,) = kernel.refusals([*keys[:4], identity], 0, 4)
    assert problem.where == "swarm.roster"
    assert identity.hex() in problem.what
    monkeypatch.setattr(Ed25519, "check", lambda _self, _around: iter(()))  # the control
    assert not make_kernel().refusals([*keys[:4], identity], 0, 4)
