"""Rounds inside another framework: what both ends make of a configuration and of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import qres_hosting as hosting
from click.testing import CliRunner
from qres_hosting import (
    Coordinator,
    Host,
    HostedClient,
    HostedMessage,
    HostedRefusal,
    answered,
)
from qres_hosting.told import HostedRound, members_digest

from qres_core import Companion, Envelope, Fault, RoundStatus, Update
from qres_core.cli.app import app
from qres_core.contract.wire import NUMBERS_PER_KEY
from qres_core.errors import (
    CompatibilityError,
    ConfigError,
    RoundError,
    ValueRefusedError,
    WireError,
)
from qres_core.swarm.ledger.messages import ContributionBody

MODEL = bytes(range(32))
OTHER = bytes(32)
SIZE = 3
NOW = 1_700_000_000
TABLE = """
[swarm]
name = "hosted"
nodes = 4
byzantine = 1
quorum = 3

[plugins.ed25519]

[plugins.replay]

[plugins.median]
f = 1
"""


def host(folder: Path, text: str = TABLE, seed: int | None = 1) -> Host:
    path = folder / "qres.toml"
    path.write_text(text, "utf-8")
    return Host.read(path, seed=seed)


class Clock:
    """Moves by a second for each look."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def seconds(self) -> float:
        self.now += 1
        return self.now

    def nanoseconds(self) -> int:
        return int(self.seconds() * 10**9)


@attrs.define(eq=False)
class Ends:
    """A coordinator and the clients of a configuration."""

    host: Host
    coordinator: Coordinator
    clients: list[HostedClient]

    @classmethod
    def of(cls, found: Host, trainer: object = None) -> Ends:
        clock = Clock()
        coordinator = Coordinator(found, trainer, clock=clock.seconds)
        nodes = found.config.swarm.nodes
        clients = [HostedClient(found, at, clock=clock.nanoseconds) for at in range(nodes)]
        return cls(found, coordinator, clients)

    def begin(self) -> HostedRound:
        told = self.coordinator.begin(MODEL, SIZE)
        for client in self.clients:
            client.begin(told.to_bytes(), MODEL, SIZE)
        return told

    def stop(self) -> None:
        for client in self.clients:
            client.stop()
        self.coordinator.stop()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends.of(host(tmp_path))
    yield made
    made.stop()


def update(value: int, weight: int = 1) -> Update:
    return Update(np.full(SIZE, value, dtype=np.int32), weight=weight)


def refusal(found: object) -> str:
    assert isinstance(found, HostedRefusal)
    assert found.text
    return str(found.reason)


@pytest.mark.control("C-flower-3")
def test_a_round_merges_what_clients_signed(ends: Ends) -> None:
    ends.begin()
    for at, client in enumerate(ends.clients):
        taken = ends.coordinator.take(client.contribute(update(at)), b"link")
        assert taken == HostedMessage(client.node_id, "contribution")
    result = ends.coordinator.close()
    assert result.merged is not None
    assert result.merged.tolist() == [2, 2, 2]  # of 1 and 2, half to even
    assert result.outcome.status is RoundStatus.CLOSED
    assert set(result.weights) == {client.node_id for client in ends.clients}
    assert set(result.weights.values()) == {1}
    assert ends.coordinator.rejections == {}
    assert ends.begin().step == 1


def test_below_the_quorum_there_is_no_model_and_the_next_round_goes_on(ends: Ends) -> None:
    ends.begin()
    ends.coordinator.take(ends.clients[0].contribute(update(1)), b"link")
    result = ends.coordinator.close()
    assert (result.merged, result.outcome.status) == (None, RoundStatus.ABORTED)
    assert "quorum" in result.outcome.reason
    told = ends.begin()
    assert (told.number, told.step, told.height) == (2, 0, 0)


def test_a_frame_counts_in_its_round_alone(ends: Ends) -> None:
    ends.begin()
    late = ends.clients[0].contribute(update(1))
    ends.begin()
    assert refusal(ends.coordinator.take(late, b"link")) == "host:other-round"


def test_a_frame_counts_once(ends: Ends) -> None:
    ends.begin()
    frame = ends.clients[0].contribute(update(1))
    assert isinstance(ends.coordinator.take(frame, b"link"), HostedMessage)
    assert refusal(ends.coordinator.take(frame, b"link")) == Fault.REPLAYED


def test_a_second_update_is_held_against_its_sender(ends: Ends) -> None:
    ends.begin()
    ends.coordinator.take(ends.clients[0].contribute(update(1)), b"link")
    second = ends.coordinator.take(ends.clients[0].contribute(update(2)), b"link")
    assert refusal(second) == Fault.EQUIVOCATION
    for client in ends.clients[1:]:
        ends.coordinator.take(client.contribute(update(3)), b"link")
    assert ends.coordinator.close().left_out == {ends.clients[0].node_id: Fault.EQUIVOCATION}


@pytest.mark.claim("C-flower-3")
def test_what_a_signature_does_not_cover_is_refused(ends: Ends) -> None:
    ends.begin()
    frame = ends.clients[0].contribute(update(1))
    read = Envelope.from_bytes(frame, max_bytes=2**20)
    for other in (
        attrs.evolve(read, payload=read.payload + b"\0"),
        attrs.evolve(read, time_ms=read.time_ms + 1),
        attrs.evolve(read, sender=ends.clients[1].node_id),
    ):
        found = refusal(ends.coordinator.take(other.to_bytes(), b"link"))
        assert found == "ed25519:bad-signature"
    assert refusal(ends.coordinator.take(frame[:-1], b"link")) == Fault.FRAME_MALFORMED


def test_a_payload_that_is_no_update_is_named(ends: Ends) -> None:
    ends.begin()
    read = Envelope.from_bytes(ends.clients[0].report(b"nonsense"), max_bytes=2**20)
    kernel = ends.host.kernel()
    kernel.identity(ends.host.lab_id(0))
    for kind, fault in (
        ("contribution", Fault.MALFORMED_PAYLOAD),
        ("vote", Fault.UNKNOWN_KIND),
    ):
        made = attrs.evolve(read, kind=kind, auth={}, sequence=read.sequence + len(kind))
        found = ends.coordinator.take(kernel.sign(made).to_bytes(), b"link")
        assert refusal(found) == fault


@pytest.mark.claim("C-flower-3")
@pytest.mark.parametrize("what", ["proofs", "companions"])
def test_what_no_plugin_sends_is_refused_beside_an_update(ends: Ends, what: str) -> None:
    """A liar would fill the coordinator's memory with it."""
    ends.begin()
    client = ends.clients[0]
    read = Envelope.from_bytes(client.contribute(update(1)), max_bytes=2**20)
    beside: Any = {"much": bytes(2**16)}
    if what == "companions":
        beside = {"much": Companion(bytes(8))}
    body = attrs.evolve(ContributionBody.from_bytes(read.payload, SIZE), **{what: beside})
    kernel = ends.host.kernel()
    kernel.identity(ends.host.lab_id(0))
    made = attrs.evolve(read, payload=body.to_bytes(), auth={})
    found = ends.coordinator.take(kernel.sign(made).to_bytes(), b"link")
    assert refusal(found) == Fault.MALFORMED_PAYLOAD


def test_reports_answer_an_evaluation_and_updates_do_not(ends: Ends) -> None:
    told = ends.coordinator.ask(MODEL, SIZE)
    client = ends.clients[0]
    client.begin(told.to_bytes(), MODEL, SIZE)
    found = ends.coordinator.take(client.report(b"figures"), b"link")
    assert found == HostedMessage(client.node_id, "hosted/report", b"figures")
    taken = ends.coordinator.take(client.contribute(update(1)), b"link")
    assert refusal(taken) == Fault.UNKNOWN_KIND
    with pytest.raises(RoundError, match="QRES-E604"):
        ends.coordinator.close()


def test_outside_a_round_nothing_is_taken(ends: Ends) -> None:
    assert refusal(ends.coordinator.take(b"", b"link")) == "host:no-round"
    with pytest.raises(RoundError, match="QRES-E604"):
        ends.clients[0].report(b"")
    with pytest.raises(RoundError, match="QRES-E604"):
        ends.coordinator.close()


def test_answers_may_wait_for_the_slowest_client(ends: Ends) -> None:
    """A framework hands them over together; what a clock bounds is when they were made."""
    clock = Clock()
    coordinator = Coordinator(ends.host, clock=clock.seconds)
    client = HostedClient(ends.host, 0, clock=clock.nanoseconds)
    client.begin(coordinator.begin(MODEL, SIZE).to_bytes(), MODEL, SIZE)
    frame = client.contribute(update(1))
    clock.now += 3600
    assert isinstance(coordinator.take(frame, b"link"), HostedMessage)
    clock.now += 3600
    client.begin(coordinator.begin(MODEL, SIZE).to_bytes(), MODEL, SIZE)
    clock.now -= 1800  # the client's clock is wrong by half an hour
    frame = client.contribute(update(1))
    clock.now += 1800
    assert refusal(coordinator.take(frame, b"link")) == "replay:clock-behind"
    client.stop()
    coordinator.stop()


def test_a_clock_of_the_coordinator_that_is_set_back_refuses_nobody(ends: Ends) -> None:
    clock, ticks = Clock(), Clock()
    coordinator = Coordinator(ends.host, clock=clock.seconds, ticks=ticks.seconds)
    client = HostedClient(ends.host, 0, clock=lambda: int((ticks.now + 1) * 10**9))
    client.begin(coordinator.begin(MODEL, SIZE).to_bytes(), MODEL, SIZE)
    ticks.now += 900  # the client trained so long
    clock.now -= 120
    frame = client.contribute(update(1))
    ticks.now += 10
    assert isinstance(coordinator.take(frame, b"link"), HostedMessage)
    client.stop()
    coordinator.stop()


def test_a_new_process_of_a_client_goes_on_above_the_one_before(tmp_path: Path) -> None:
    found = host(tmp_path)
    numbers = []
    for _process in range(3):
        with HostedClient(found, 0) as client:
            told = HostedRound(
                1,
                0,
                0,
                OTHER,
                MODEL,
                found.kernel().settings.digest,
                members_digest(found.config.swarm),
            )
            client.begin(told.to_bytes(), MODEL, SIZE)
            for _message in range(3):
                frame = client.report(b"")
                numbers.append(Envelope.from_bytes(frame, max_bytes=2**20).sequence)
    assert all(a < b for a, b in pairwise(numbers))
    assert numbers[-1] < NUMBERS_PER_KEY


def test_other_settings_and_other_models_are_refused_by_the_client(ends: Ends) -> None:
    told = ends.coordinator.begin(MODEL, SIZE)
    client = ends.clients[0]
    with pytest.raises(RoundError, match=r"round\.model"):
        client.begin(told.to_bytes(), OTHER, SIZE)
    other = attrs.evolve(told, settings=OTHER)
    with pytest.raises(RoundError, match=r"round\.settings"):
        client.begin(other.to_bytes(), MODEL, SIZE)


def test_clients_that_are_asked_for_other_things_are_in_other_rounds(ends: Ends) -> None:
    told = ends.coordinator.begin(MODEL, SIZE, MODEL)
    assert HostedRound.from_bytes(told.to_bytes()) == told
    client, swarm = ends.clients[0], ends.host.config.swarm
    with pytest.raises(RoundError, match=r"QRES-E604 round\.task"):
        client.begin(told.to_bytes(), MODEL, SIZE, OTHER)
    lied = attrs.evolve(told, task=OTHER)
    assert client.begin(lied.to_bytes(), MODEL, SIZE, OTHER).head != told.info(swarm, SIZE).head
    client.begin(told.to_bytes(), MODEL, SIZE, MODEL)
    frame = client.report(b"")
    assert isinstance(ends.coordinator.take(frame, b"link"), HostedMessage)
    with pytest.raises(WireError, match=r"QRES-E404 round\.task"):
        attrs.evolve(told, task=b"short")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("quorum = 3", "quorum = 4"),
        ("byzantine = 1\nquorum", "byzantine = 0\nquorum"),
        ("nodes = 4", "nodes = 5"),
    ],
)
def test_other_members_are_refused_before_anything_is_charged(
    ends: Ends, tmp_path: Path, old: str, new: str
) -> None:
    assert old in TABLE
    other = host(tmp_path, TABLE.replace(old, new))
    assert other.kernel().settings.digest == ends.host.kernel().settings.digest
    told = ends.coordinator.begin(MODEL, SIZE)
    with HostedClient(other, 0) as client:
        with pytest.raises(RoundError, match=r"QRES-E604 round\.members"):
            client.begin(told.to_bytes(), MODEL, SIZE)
        with pytest.raises(RoundError, match="none is open"):
            client.contribute(update(1))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_real_member_answers_an_announcement_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, keeps: bool
) -> None:
    key = tmp_path / "node.key"
    made = CliRunner().invoke(app, ["keygen", str(key), "--no-passphrase", "--json"])
    node_id = json.loads(made.output)["public_key"]
    roster = [node_id, *sorted(host(tmp_path).config.swarm.roster)[:3]]
    text = TABLE.replace("quorum = 3", f"quorum = 3\nroster = {json.dumps(roster)}")
    text = text.replace("[plugins.ed25519]", f'[plugins.ed25519]\nkey = "{key}"')
    if keeps:
        text += f'\n[node]\ndata_dir = "{tmp_path / "data"}"\n'
    found = host(tmp_path, text, seed=None)
    members = members_digest(found.config.swarm)
    settings = found.kernel().settings.digest
    nonces = [bytes([at]) * 32 for at in range(3)]
    told = [HostedRound(1, 0, 0, each, MODEL, settings, members).to_bytes() for each in nonces]
    for each in told:
        with HostedClient(found) as client:
            client.begin(each, MODEL, SIZE)
    for each in told:  # not the newest alone
        refused = pytest.raises(RoundError, match=r"QRES-E604 round\.nonce")
        with HostedClient(found) as client, refused:
            client.begin(each, MODEL, SIZE)
    monkeypatch.setattr(answered, "_here", {})  # another process
    with HostedClient(found) as client:
        if keeps:
            with pytest.raises(RoundError, match=r"QRES-E604 round\.nonce"):
                client.begin(told[0], MODEL, SIZE)
        else:
            client.begin(told[0], MODEL, SIZE)


def test_a_client_remembers_the_newest_announcements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered, "KEPT", 2)
    for at in (0, 1, 2, 0):  # the first is forgotten when the third comes
        answered.note_answer(MODEL, bytes([at]) * 32, tmp_path)
    with pytest.raises(RoundError, match="QRES-E604"):
        answered.note_answer(MODEL, bytes([2]) * 32, tmp_path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw[:-1], "QRES-E402"),
        (lambda raw: [9, *raw[1:]], "QRES-E406"),
        (lambda raw: [raw[0], 0, *raw[2:]], "QRES-E404"),
        (lambda raw: [*raw[:4], b"short", *raw[5:]], "QRES-E404"),
    ],
)
def test_a_bad_announcement_is_refused(change: Any, code: str) -> None:
    from qres_core import canonical  # noqa: PLC0415 - with its test

    good = [2, 1, 0, 0, OTHER, MODEL, OTHER, MODEL, OTHER]
    assert HostedRound.from_bytes(canonical.dumps(good)).to_bytes() == canonical.dumps(good)
    with pytest.raises(WireError, match=code):
        HostedRound.from_bytes(canonical.dumps(change(good)))


# ── who takes part ────────────────────────────────────────────────────────────────────────────


def test_real_members_are_listed_and_have_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E103 swarm\.roster"):
        host(tmp_path, seed=None)
    roster = sorted(text for text in host(tmp_path).config.swarm.roster)
    listed = TABLE.replace("quorum = 3", f"quorum = 3\nroster = {json.dumps(roster)}")
    found = host(tmp_path, listed, seed=None)
    with pytest.raises(ConfigError, match=r"QRES-E103 plugins\.ed25519\.key"):
        HostedClient(found)
    with pytest.raises(ConfigError, match="QRES-E103 client"):
        HostedClient(host(tmp_path))
    with pytest.raises(ConfigError, match=r"QRES-E105 swarm\.nodes"):
        HostedClient(host(tmp_path), 4)


def test_a_key_of_no_member_is_refused(tmp_path: Path) -> None:
    made = host(tmp_path)
    with pytest.raises(ConfigError, match=r"QRES-E105 swarm\.roster"):
        HostedClient(attrs.evolve(made, seed=2), 0)


def test_who_cannot_be_told_apart_takes_no_part(tmp_path: Path) -> None:
    text = TABLE.replace("[plugins.ed25519]", "").replace("[plugins.replay]", "")
    names = [f"{at:064x}" for at in range(4)]
    more = f"quorum = 3\ninsecure = true\nroster = {json.dumps(names)}"
    found = host(tmp_path, text.replace("quorum = 3", more), seed=None)
    with pytest.raises(CompatibilityError, match="QRES-E306"):
        HostedClient(found)


# ── what plugins do ───────────────────────────────────────────────────────────────────────────


def test_what_the_rule_refuses_ends_the_round_without_a_model(tmp_path: Path) -> None:
    class Blind:
        def validate(self, vector: Any) -> float:
            raise ValueRefusedError.of("QRES-E507", "trainer.validate", f"{vector.shape}: no data")

        def reference(self, vector: Any, _round_info: object) -> Any:
            return vector

    text = TABLE.replace("[plugins.median]", "[plugins.validation]\n\n[plugins.median]")
    made = Ends.of(host(tmp_path, text), Blind())
    made.begin()
    for client in made.clients:
        made.coordinator.take(client.contribute(update(1)), b"link")
    result = made.coordinator.close()
    assert result.merged is None
    assert "QRES-E507" in result.outcome.reason
    made.stop()


@pytest.mark.parametrize("evaluated", ["", "between"])
@pytest.mark.parametrize(
    "plugins",
    [
        "[plugins.median]\nf = 1\n\n[plugins.fedavgm]",
        "[plugins.median]\nf = 1\n\n[plugins.fedadam]",
        "[plugins.median]\nf = 1\n\n[plugins.fedyogi]",
        "[plugins.centred_clipping]\nf = 1\nradius = 8.0\nhistory = true",
    ],
)
def test_what_plugins_keep_belongs_to_the_model_that_a_round_made(
    tmp_path: Path, plugins: str, evaluated: str
) -> None:
    made = Ends.of(host(tmp_path, TABLE.replace("[plugins.median]\nf = 1", plugins)))
    names = [bytes([at]) * 32 for at in range(4)]
    for at, name in enumerate(names):
        told = made.coordinator.begin(name, SIZE)
        for client in made.clients:
            client.begin(told.to_bytes(), name, SIZE)
            made.coordinator.take(client.contribute(update(2**16)), b"link")
        result = made.coordinator.close()
        assert result.merged is not None, result.outcome.reason
        if evaluated:
            made.coordinator.ask(names[min(at + 1, 3)], SIZE)
    made.stop()


def test_what_a_round_made_is_told_once_and_before_the_next_opens(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[RoundStatus, bytes]] = []
    closed = type(ends.coordinator._kernel).round_closed

    def closing(kernel: Any, outcome: Any) -> None:
        told.append((outcome.status, outcome.model_digest))
        closed(kernel, outcome)

    monkeypatch.setattr(type(ends.coordinator._kernel), "round_closed", closing)
    for _round in range(2):
        ends.begin()
        for client in ends.clients:
            ends.coordinator.take(client.contribute(update(1)), b"link")
        ends.coordinator.close()
    assert told == [(RoundStatus.CLOSED, MODEL)]
    ends.coordinator.ask(b"n" * 32, SIZE)
    ends.coordinator.ask(b"m" * 32, SIZE)
    assert told[1:] == [(RoundStatus.CLOSED, b"n" * 32)]
    ends.begin()
    ends.begin()
    assert told[2:] == [(RoundStatus.ABORTED, MODEL)]
    for client in ends.clients:
        ends.coordinator.take(client.contribute(update(1)), b"link")
    ends.coordinator.close()
    ends.coordinator.stop()  # and once more by the fixture
    assert told[3:] == [(RoundStatus.CLOSED, bytes(32))]


def test_who_is_banned_is_left_out_by_name(tmp_path: Path) -> None:
    plugins = "[plugins.reputation]\noutlier_rounds = 1\npunish = 0.4\n\n[plugins.median]"
    made = Ends.of(host(tmp_path, TABLE.replace("[plugins.median]", plugins)))
    liar = made.clients[0]
    result = None
    for _round in range(2):
        made.begin()
        for client in made.clients:
            value = 10**6 if client is liar else 1
            made.coordinator.take(client.contribute(update(value)), b"link")
        result = made.coordinator.close()
    made.begin()
    assert refusal(made.coordinator.take(liar.contribute(update(1)), b"link")) == Fault.BANNED
    assert result is None or liar.node_id not in result.weights or result.merged is not None
    made.stop()


# ── the check ─────────────────────────────────────────────────────────────────────────────────


def checked(path: Path, *settings: str) -> Any:
    words = [word for setting in settings for word in ("--set", setting)]
    return CliRunner().invoke(app, ["check", str(path), "--host", "flower", *words])


@pytest.mark.control("C-flower-4")
def test_the_check_says_what_a_coordinator_gives_up(tmp_path: Path) -> None:
    host(tmp_path)
    found = checked(tmp_path / "qres.toml")
    assert found.exit_code == 0, found.output
    assert "takes the place of agreement" in found.output.replace("\n", " ")
    assert hosting.gives_up(())[0].split(":")[0] in found.output


@pytest.mark.claim("C-flower-4")
@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ('swarm.aggregation="sharded"', "swarm.aggregation"),
        ('swarm.proof_checks="committee"', "swarm.proof_checks"),
        ("swarm.participants=3", "swarm.participants"),
        ('swarm.until="loss < 1"', "swarm.until"),
        ("swarm.rounds=3", "swarm.rounds"),
        ("swarm.memory=1000000", "swarm.memory"),
        ('plugins.replay.mode="challenge"', "plugins.replay"),
        ("plugins.quantize.bits=4", "plugins.quantize"),
    ],
)
def test_what_needs_agreement_is_refused_by_name(tmp_path: Path, setting: str, where: str) -> None:
    host(tmp_path)
    found = checked(tmp_path / "qres.toml", setting)
    assert found.exit_code == 2
    assert f"QRES-E322 {where}" in found.output


def test_what_is_charged_needs_a_folder(tmp_path: Path) -> None:
    host(tmp_path)
    noise = ('mode="local"', "clip=1.0", "delta=1e-3", "rounds=2", "noise_multiplier=1.0")
    settings = [f"plugins.dp.{each}" for each in noise]
    found = checked(tmp_path / "qres.toml", "swarm.byzantine=0", *settings)
    assert "QRES-E103 node.data_dir" in found.output
