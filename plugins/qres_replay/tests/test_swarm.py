"""The plugin in a swarm: replays through the whole inbound path, wrong clocks, honest networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import Blame, Envelope, Evidence
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from qres_core.kernel.discovery import Installed

IDS = make_node_ids(4)
NOW = 1_700_000_000.0
YEAR = 365 * 86_400.0


def refusal(kernel: Kernel, frame: bytes, now: float = NOW) -> tuple[str, Blame] | None:
    result = kernel.inbound(frame, IDS[3], now)
    if isinstance(result, Rejection):
        return result.reason, result.blame
    assert isinstance(result, Envelope)
    return None


# ── replays through the kernel ────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-trust-7")
def test_control_without_the_plugin_a_replay_is_admitted(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes]
) -> None:
    kernel = make_kernel(unprotected=True)
    frame = signed(make_envelope(sender=IDS[1]))
    for now in (NOW, NOW, NOW + YEAR):
        assert refusal(kernel, frame, now) is None


@pytest.mark.claim("C-trust-7")
def test_with_it_the_same_replay_is_refused(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes]
) -> None:
    kernel = make_kernel()
    frame = signed(make_envelope(sender=IDS[1]))
    assert refusal(kernel, frame) is None
    assert refusal(kernel, frame) == ("replayed", Blame.NOBODY)
    assert refusal(kernel, frame, NOW + YEAR) == ("replayed", Blame.LINK)
    assert kernel.rejections["replayed"] == 2


def test_a_forged_number_is_not_seen(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes]
) -> None:
    kernel = make_kernel()
    honest = make_envelope(sender=IDS[1], sequence=5)
    forged = attrs.evolve(honest, sequence=2**62).with_auth({"mac": bytes(32)})
    assert refusal(kernel, forged.to_bytes()) == ("mac:bad-tag", Blame.LINK)
    assert refusal(kernel, signed(honest)) is None


def test_a_message_of_another_swarm_is_refused(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes]
) -> None:
    kernel = make_kernel(swarm={"name": "elsewhere"})
    assert refusal(kernel, signed(make_envelope(sender=IDS[1]))) == ("other-swarm", Blame.LINK)


def test_a_replay_is_refused_after_ten_thousand_messages_and_a_restart(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes], tmp_path: Path
) -> None:
    home = str(tmp_path)
    kernel = make_kernel(data_dir=home)
    victim = signed(make_envelope(sender=IDS[1], sequence=17))
    noisy = signed(make_envelope(sender=IDS[2]))
    assert refusal(kernel, victim) is None
    assert refusal(kernel, noisy) is None
    for sequence in range(1, 10_002):
        assert refusal(kernel, signed(make_envelope(sender=IDS[2], sequence=sequence))) is None
    for _life in range(2):
        assert refusal(kernel, victim) == ("replayed", Blame.NOBODY)
        assert refusal(kernel, noisy) == ("replay:sequence-too-old", Blame.NOBODY)
        kernel.teardown()
        kernel = make_kernel(data_dir=home)
    assert refusal(kernel, signed(make_envelope(sender=IDS[1], sequence=18))) is None
    kernel.teardown()


def test_extreme_times_are_refused_by_name(
    make_kernel: Callable[..., Kernel], signed: Callable[[Envelope], bytes]
) -> None:
    kernel = make_kernel()
    for time_ms, reason in ((0, "replay:clock-behind"), (2**63 - 1, "replay:clock-ahead")):
        frame = signed(make_envelope(sender=IDS[1], time_ms=time_ms))
        assert refusal(kernel, frame) == (reason, Blame.NOBODY)
    assert not any("raised" in reason for reason in kernel.rejections)


# ── replays through the round machine ─────────────────────────────────────────────────────────────


def contribution_of(net: Any, index: int, number: int) -> bytes:
    (frame,) = {
        envelope.to_bytes()
        for envelope in net.sent
        if (envelope.kind, envelope.round) == ("contribution", number)
        and envelope.sender == net.ids[index]
    }
    return frame


@pytest.mark.claim("C-replay-11")
def test_a_contribution_replayed_into_a_later_round_is_refused(
    make_net: Callable[..., Any],
) -> None:
    net = make_net(4, {})
    assert net.run(lambda: min(net.steps()) >= 3)
    frame = contribution_of(net, 1, 1)
    before = dict(net.machines[0].contributions)
    net.refused.clear()
    net.deliver(0, frame, source=3)
    assert net.refused == [(0, "replayed")]
    assert dict(net.machines[0].contributions) == before


@pytest.mark.control("C-replay-1")
def test_one_that_was_held_back_is_new_and_not_counted(make_net: Callable[..., Any]) -> None:
    net = make_net(4, {})
    net.hold = lambda sender, receiver, envelope: (
        (sender, receiver, envelope.kind)
        == (
            1,
            0,
            "contribution",
        )
        and envelope.round == 1
    )
    assert net.run(lambda: min(net.steps()) >= 3)
    (frame,) = net.held
    before = dict(net.machines[0].contributions)
    net.refused.clear()
    net.deliver(0, frame, source=3)
    assert net.refused == []  # its number is new; that it is of another round is seen later
    assert dict(net.machines[0].contributions) == before
    net.deliver(0, frame, source=3)
    assert net.refused == [(0, "replayed")]


@pytest.mark.claim("C-replay-1")
def test_one_that_was_held_back_too_long_is_refused(make_net: Callable[..., Any]) -> None:
    net = make_net(4, {"skew": 5.0})
    net.hold = lambda sender, receiver, envelope: (
        (sender, receiver) == (1, 0) and envelope.kind == "contribution" and envelope.round == 1
    )
    assert net.run(lambda: bool(net.held))
    (frame,) = net.held
    net.run(lambda: False, seconds=6)
    net.refused.clear()
    net.deliver(0, frame, source=3)
    assert net.refused == [(0, "replay:clock-behind")]


@pytest.mark.claim("C-replay-11")
def test_one_of_another_model_is_not_counted(
    make_net: Callable[..., Any], signed: Callable[[Envelope], bytes]
) -> None:
    # The same nodes, the same swarm, the same round: only the model is another.
    net = make_net(4, {})
    assert net.run(lambda: min(net.steps()) >= 1)
    machine = net.machines[0]
    source = Envelope.from_bytes(contribution_of(net, 1, 1), max_bytes=2**20)
    other = attrs.evolve(
        source,
        round=machine.number,
        head=bytes(32),
        sequence=500,
        time_ms=int(net.now * 1000),
    )
    before = set(machine.contributions)
    net.deliver(0, signed(other), source=1)
    assert set(machine.contributions) == before


@pytest.mark.claim("C-replay-11")
@pytest.mark.control("C-replay-11")
@pytest.mark.parametrize("case", ["this round", "another round", "another model"])
def test_one_that_did_not_come_counts_for_the_round_and_the_model_it_names(
    make_net: Callable[..., Any], signed: Callable[[Envelope], bytes], case: str
) -> None:
    """A message signed for this round and model is the control."""
    net = make_net(4, {})
    net.hold = lambda sender, receiver, envelope: (
        (sender, receiver, envelope.kind) == (1, 0, "contribution") and envelope.round > 1
    )
    assert net.run(lambda: net.machines[0].number == 2)
    machine = net.machines[0]
    before = set(machine.contributions)
    made = attrs.evolve(
        Envelope.from_bytes(contribution_of(net, 1, 1), max_bytes=2**20),
        round=1 if case == "another round" else machine.number,
        head=bytes(32) if case == "another model" else machine.head.digest,
        sequence=500,
        time_ms=int(net.now * 1000),
    )
    net.deliver(0, signed(made), source=1)
    assert set(machine.contributions) - before == ({net.ids[1]} if case == "this round" else set())


# ── honest networks ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("replay", [{}, {"mode": "challenge"}, {"window": 32}])
def test_an_honest_swarm_trains_and_blames_nobody(
    replay: Mapping[str, Any],
    make_config: Callable[..., Any],
    installed: dict[str, Installed],
    evidence: list[Evidence],
) -> None:
    config = make_config(5, replay)
    scenario = Scenario(rounds=6, seed=4, duplication=0.2, jitter=0.05)
    task = TaskConfig(name="quadratic")
    result = simulate(config, scenario, task=task, installed=installed)
    closed = [record for record in result.rounds if record.closed]
    assert len(closed) >= 5
    assert all(record.accepted >= 4 for record in closed)
    # A dialogue is heard by nodes that have yet to close the last round; they may skip ahead.
    reasons = {record.reason for record in result.rounds if not record.closed}
    assert reasons <= ({"overtaken by the swarm"} if replay.get("mode") else set())
    assert closed[-1].metrics["distance"] < closed[0].metrics["distance"]
    assert len(set(result.model_digests)) == 1
    refused = {reason for record in result.rounds for reason in record.rejected}
    assert refused == {"replayed"}
    assert [fact for fact in evidence if fact.against] == []
    assert {fact.fact for fact in evidence} == {"contributed"}


def test_a_simulated_challenge_is_repeatable(
    make_config: Callable[..., Any], installed: dict[str, Installed]
) -> None:
    scenario = Scenario(rounds=2, seed=4, jitter=0.05)
    task = TaskConfig(name="quadratic")
    config = make_config(4, {"mode": "challenge"})
    first, second = (simulate(config, scenario, task=task, installed=installed) for _ in range(2))
    assert first == second


# ── wrong clocks ──────────────────────────────────────────────────────────────────────────────────

ROUNDS = 5
COORDINATOR = {"topology": "coordinator"}


def members(net: Any, observer: int) -> set[bytes]:
    return {member for ended_round in net.ended[observer] for member in ended_round.outcome.members}


@pytest.mark.control("C-replay-9")
@pytest.mark.parametrize("offset", [-40 * YEAR, 300.0, 40 * YEAR])
def test_control_in_mode_clock_a_wrong_clock_excludes_its_node(
    make_net: Callable[..., Any], evidence: list[Evidence], offset: float
) -> None:
    net = make_net(4, {}, offsets={3: offset}, swarm=COORDINATOR)
    assert net.run(lambda: min(net.steps()[:3]) >= ROUNDS)
    assert net.steps()[3] == 0
    assert net.ids[3] not in members(net, 0)
    assert [fact for fact in evidence if fact.against] == []


@pytest.mark.claim("C-replay-9")
@pytest.mark.parametrize("offset", [-40 * YEAR, 300.0, 40 * YEAR])
@pytest.mark.parametrize("seed", range(3))
def test_in_mode_challenge_it_takes_part(
    make_net: Callable[..., Any], evidence: list[Evidence], offset: float, seed: int
) -> None:
    net = make_net(
        4,
        {"mode": "challenge"},
        offsets={3: offset},
        swarm=COORDINATOR,
        seed=seed,
        duplication=0.2,
    )
    assert net.run(lambda: min(net.steps()) >= ROUNDS)
    digests = [
        [
            ended_round.outcome.model_digest
            for ended_round in ended
            if ended_round.outcome.status.value == "closed"
        ]
        for ended in net.ended
    ]
    assert all(digest[:ROUNDS] == digests[0][:ROUNDS] for digest in digests)
    assert net.ids[3] in members(net, 0)
    assert [fact for fact in evidence if fact.against] == []


def test_several_wrong_clocks_and_a_network_that_loses(
    make_net: Callable[..., Any], evidence: list[Evidence]
) -> None:
    net = make_net(
        6,
        {"mode": "challenge"},
        offsets={2: -YEAR, 4: 7200.0},
        swarm={**COORDINATOR, "quorum": 4},
        seed=1,
        loss=0.03,
    )
    assert net.run(lambda: min(net.steps()) >= ROUNDS, seconds=300)
    assert {net.ids[2], net.ids[4]} < members(net, 0)
    assert [fact for fact in evidence if fact.against] == []


def test_a_node_with_a_wrong_clock_that_was_cut_off_comes_back(
    make_net: Callable[..., Any],
) -> None:
    net = make_net(4, {"mode": "challenge"}, offsets={3: -YEAR}, swarm=COORDINATOR)
    net.hold = lambda sender, receiver, _envelope: 3 in (sender, receiver)
    assert net.run(lambda: min(net.steps()[:3]) >= 3)
    assert net.steps()[3] == 0
    net.hold = lambda *_: False
    assert net.run(lambda: net.steps()[3] >= min(net.steps()[:3]) >= 6)


@pytest.mark.claim("C-trust-7")
def test_a_replay_of_a_wrong_clocks_messages_is_refused(make_net: Callable[..., Any]) -> None:
    net = make_net(4, {"mode": "challenge"}, offsets={3: -YEAR}, swarm=COORDINATOR)
    assert net.run(lambda: min(net.steps()) >= 3)
    before = dict(net.machines[0].contributions)
    recorded = [frame for frame in net.sent if frame.sender == net.ids[3]]
    assert {event.kind for event in recorded} >= {
        "contribution",
        "dialogue/replay/1",
        "choice/prevote",
    }
    net.run(lambda: False, seconds=1)
    net.refused.clear()
    for envelope in recorded:
        net.deliver(0, envelope.to_bytes(), source=1)
    assert {reason for _, reason in net.refused} <= {"replayed", "replay:clock-behind"}
    assert len(net.refused) == len(recorded)
    assert set(before) <= set(net.ids)


@pytest.mark.claim("C-replay-12")
def test_a_replay_plugin_needs_an_authenticator(
    make_config: Callable[..., Any], installed: dict[str, Installed]
) -> None:
    config = make_config(4, {}, {"insecure": True})
    plugins = {name: table for name, table in config.plugins.items() if name != "mac"}
    with pytest.raises(Exception, match=r"QRES-E305 plugins\.replay: needs the family"):
        Kernel.from_config(attrs.evolve(config, plugins=plugins), installed=installed)
