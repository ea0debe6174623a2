"""Protocol attacks on a whole swarm, with the plugin that stops them and without it.

The run without is the positive control: the attack does what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from qres_core.attacks.scenario import Scenario
from qres_core.errors import RoundError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.lab.nodes import identify
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

NODES, LIARS, SEED = 10, 3, 11
Tables = Mapping[str, Mapping[str, object]]
TASK = TaskConfig(name="quadratic", dimension=50, local_epochs=1, learning_rate=0.2)
RULE: Tables = {"memory": {}, "mean": {"unprotected": True}}
SIGNED: Tables = {"ed25519": {}}
FRESH: Tables = {**SIGNED, "replay": {}}
TRUSTED: Tables = {**FRESH, "reputation": {}}


def swarm(plugins: Tables) -> Config:
    table = {
        "name": "trust",
        "nodes": NODES,
        "byzantine": LIARS,
        "quorum": NODES - LIARS,
        "insecure": not {"ed25519", "replay"} <= set(plugins),
    }
    return parse({"swarm": table, "plugins": {**RULE, **plugins}}, source="test")


def play(
    plugins: Tables, attack: str, rounds: int = 4, strength: float | None = None
) -> SimulationResult:
    scenario = Scenario(rounds=rounds, seed=SEED, attack=attack, attackers=LIARS, strength=strength)
    result = simulate(swarm(plugins), scenario, task=TASK)
    assert result.unanimous
    assert len(result.closed) == rounds
    return result


def share_admitted(result: SimulationResult) -> float:
    return result.injected.get("admitted", 0) / sum(result.injected.values())


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-config-4", "C-trust-1")
@pytest.mark.long
def test_replay() -> None:
    bare = play(SIGNED, "replay")
    assert share_admitted(bare) == 1.0
    guarded = play(FRESH, "replay")
    assert guarded.injected["replayed"] > 1000
    # A copy that overtakes its original is the message; the original is then the duplicate.
    assert share_admitted(guarded) < 0.1
    assert [record.model_digest for record in guarded.closed] == [
        record.model_digest for record in bare.closed
    ]


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-config-4", "C-trust-1")
@pytest.mark.long
@pytest.mark.parametrize("attack", ["forge", "impersonate"])
def test_speaking_in_others_names(attack: str) -> None:
    bare = play({}, attack)
    assert bare.closed[-1].alignment is not None
    assert bare.closed[-1].alignment < 0  # honest nodes' own contributions came too late
    signed = play(FRESH, attack)
    assert set(signed.injected) <= {"ed25519:bad-signature", "ed25519:no-signature"}
    assert all((record.alignment or 0) > 0.9 for record in signed.closed)


@pytest.mark.claim("C-blame-1")
@pytest.mark.long
@pytest.mark.parametrize("attack", ["forge", "impersonate"])
def test_slander_does_not_hurt_whose_name_is_used(attack: str) -> None:
    result = play(TRUSTED, attack, rounds=6)
    # The links that delivered the forgeries are banned; the seven named in them are not.
    assert result.closed[-1].accepted == NODES - LIARS
    assert result.closed[-1].attackers_accepted == 0


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-trust-1", "C-trust-5")
def test_unauthorized() -> None:
    bare = play(FRESH, "unauthorized")
    assert share_admitted(bare) > 0.9
    assert (bare.closed[-1].alignment or 0) < 0
    _kernels, ids = identify(swarm(FRESH), SEED, scan())
    members = [node_id.hex() for node_id in ids[: NODES - LIARS]]
    gated = play({**FRESH, "pki": {"members": members}}, "unauthorized")
    assert set(gated.injected) == {"pki:not-a-member"}
    assert all(record.attackers_accepted == 0 for record in gated.closed)
    assert all((record.alignment or 0) > 0.9 for record in gated.closed)


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-trust-1")
@pytest.mark.long
def test_equivocation_is_remembered() -> None:
    bare = play(FRESH, "equivocate", rounds=16)
    assert bare.closed[-1].attackers_accepted + bare.closed[-2].attackers_accepted > 0
    judged = play(TRUSTED, "equivocate", rounds=16)
    assert judged.closed[-1].attackers_accepted == 0
    assert judged.closed[-1].accepted == NODES - LIARS
    assert "banned" in judged.injected


@pytest.mark.long
def test_a_history_that_nobody_decided_is_not_believed() -> None:
    """Votes in the names of all honest nodes, and the model that they would have made."""
    with pytest.raises(RoundError, match="QRES-E601"):  # each liar has a history of its own
        play({}, "history")
    signed = play(FRESH, "history")
    assert signed.injected["unproven-link"] > 0
    assert all((record.alignment or 0) > 0.9 for record in signed.closed)


def test_two_votes_ban_their_author_everywhere_by_agreement() -> None:
    """No reputation plugin is needed: the proof rides in a proposal, and the height bans."""
    bare = play({}, "double_vote", rounds=4)
    assert bare.closed[-1].accepted == NODES, "what nobody signed proves nothing"
    signed = play(FRESH, "double_vote", rounds=4)
    assert signed.injected["equivocation"] > 0
    assert signed.closed[0].accepted == NODES
    assert signed.closed[-1].accepted == NODES - LIARS
    assert signed.closed[-1].attackers_accepted == 0


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-reputation-7", "C-trust-1")
@pytest.mark.long
def test_flood() -> None:
    bare = play(FRESH, "flood")
    assert "banned" not in bare.injected
    judged = play(TRUSTED, "flood")
    total = sum(judged.injected.values())
    assert judged.injected["banned"] > 0.9 * total
    assert judged.closed[-1].attackers_accepted == 0


@pytest.mark.claim("C-trust-1")
@pytest.mark.control("C-trust-1")
@pytest.mark.long
def test_sleeper() -> None:
    wake = 5.0
    bare = play(FRESH, "sleeper", rounds=20, strength=wake)
    assert bare.closed[-1].attackers_accepted == LIARS
    judged = play(TRUSTED, "sleeper", rounds=20, strength=wake)
    assert judged.closed[4].attackers_accepted == LIARS  # trusted while it behaves
    assert judged.closed[-1].attackers_accepted == 0
    assert judged.closed[-1].accepted == NODES - LIARS
    assert judged.closed[-1].metrics["loss"] < 0.1 * bare.closed[-1].metrics["loss"]
