"""Each defence at work in a run of Flower, with the attack that succeeds where it is taken away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("flwr")

import qres_hosting as hosting
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from qres_flower import QresMod, QresStrategy
from small_flower import (
    SEED,
    MemoryGrid,
    arrays_of,
    client,
    honest,
    initial,
    numbers,
    returning,
    scaled,
    write,
)

from qres_core import Envelope, Fault
from qres_core.errors import CompatibilityError, ConfigError
from qres_core.swarm.ledger.messages import ContributionBody

pytestmark = pytest.mark.usefixtures("in_run")


def wrapped(config: Path, **options: Any) -> QresStrategy:
    return QresStrategy(
        FedAvg(min_train_nodes=1, min_available_nodes=1), config, lab_seed=SEED, **options
    )


def four(config: Path) -> MemoryGrid:
    return MemoryGrid.of([honest(index) for index in range(4)], config)


def frames_of(reply: Message) -> list[bytes]:
    return list(reply.content["qres"]["frames"])


# ── signatures and replays ────────────────────────────────────────────────────────────────────


def changed_on_the_way(
    grid: MemoryGrid, node: int, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    def on_the_way(replies: list[Message]) -> list[Message]:
        for reply in replies:
            if reply.metadata.message_type == "train" and reply.metadata.src_node_id == node:
                frames = change(frames_of(reply))
                reply.content = RecordDict({"qres": ConfigRecord({"frames": frames})})
        return replies

    grid.on_the_way = on_the_way


def larger(frames: list[bytes]) -> list[bytes]:
    """The same update with another number in it, and everything else as it was signed."""
    read = Envelope.from_bytes(frames[0], max_bytes=2**20)
    body = ContributionBody.from_bytes(read.payload, 6)
    vector = body.vector + np.int32(2**20)
    payload = attrs.evolve(body, vector=vector.astype(np.int32)).to_bytes()
    return [attrs.evolve(read, payload=payload).to_bytes(), *frames[1:]]


@pytest.mark.claim("C-flower-1")
def test_a_tampered_update_is_refused_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)
    changed_on_the_way(grid, 103, larger)
    strategy.start(grid, initial(), num_rounds=1)
    assert strategy.rounds[0].left_out == {103: "ed25519:bad-signature"}
    assert strategy.rounds[0].merged == (100, 101, 102)


@pytest.mark.control("C-flower-1")
def test_without_signatures_the_tampered_update_counts(tmp_path: Path) -> None:
    """The control: what the last test refuses would be merged."""
    config = write(tmp_path / "qres.toml", "[plugins.mean]", byzantine=0, swarm="insecure = true")
    text = config.read_text("utf-8")
    for name in ("[plugins.ed25519]", "[plugins.replay]"):
        text = text.replace(name, "")
    config.write_text(text, "utf-8")
    strategy, grid = wrapped(config), four(config)
    changed_on_the_way(grid, 103, larger)
    result = strategy.start(grid, initial(), num_rounds=1)
    assert 103 in strategy.rounds[0].merged
    assert numbers(result.arrays)["bias"] > 3


@pytest.mark.claim("C-flower-1")
def test_a_replayed_update_is_refused_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)
    seen: list[bytes] = []

    def again(frames: list[bytes]) -> list[bytes]:
        seen.append(frames[0])
        return [seen[0]]

    changed_on_the_way(grid, 103, again)
    strategy.start(grid, initial(), num_rounds=2)
    assert strategy.rounds[0].left_out == {}
    assert strategy.rounds[1].left_out == {103: "host:other-round"}


def test_an_update_that_was_held_back_is_refused_by_name(tmp_path: Path) -> None:
    """Its number is new; but it answers another round."""
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)
    held: list[list[bytes]] = []

    def late(frames: list[bytes]) -> list[bytes]:
        held.append(frames)
        return [b"nothing"] if len(held) == 1 else [held[0][0]]

    changed_on_the_way(grid, 103, late)
    strategy.start(grid, initial(), num_rounds=2)
    assert strategy.rounds[0].left_out == {103: Fault.FRAME_MALFORMED.value}
    assert strategy.rounds[1].left_out == {103: "host:other-round"}


def test_an_update_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    grid, kept = four(config), list[list[bytes]]()

    def keep(frames: list[bytes]) -> list[bytes]:
        kept.append(frames)
        return frames

    changed_on_the_way(grid, 103, keep)
    wrapped(config).start(grid, initial(), num_rounds=2)
    strategy = wrapped(config)
    # The experiment's nonces are drawn from its seed: the first round of both runs is the same.
    changed_on_the_way(grid, 103, lambda _frames: kept[1])
    strategy.start(grid, initial(), num_rounds=1)
    assert strategy.rounds[0].left_out == {103: "host:other-round"}


@pytest.mark.claim("C-flower-1")
def test_nobody_speaks_for_another(tmp_path: Path) -> None:
    """A stolen frame counts once, and for who signed it."""
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)

    def on_the_way(replies: list[Message]) -> list[Message]:
        if replies and replies[0].metadata.message_type == "train":
            content = RecordDict({"qres": ConfigRecord({"frames": frames_of(replies[0])})})
            replies[3].content = content
        return replies

    grid.on_the_way = on_the_way
    strategy.start(grid, initial(), num_rounds=1)
    assert len(strategy.rounds[0].merged) == 3
    (reason,) = strategy.rounds[0].left_out.values()
    # Too old where more than the window lies between the frames that its signer made.
    assert reason in {Fault.REPLAYED.value, "replay:sequence-too-old"}


def test_a_server_that_is_not_wrapped_gets_nothing(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    grid = four(config)
    FedAvg().start(grid, initial(), num_rounds=1)
    assert all(reply.has_error() for reply in grid.replies)
    assert "QRES-E604" in str(grid.replies[0].error.reason)


def test_other_settings_are_told_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    other = write(tmp_path / "other.toml", "[plugins.trimmed_mean]\nf = 1")
    strategy, grid = wrapped(config), four(config)
    grid.clients = {**grid.clients, 103: client(honest(3), other)}
    strategy.start(grid, initial(), num_rounds=1)
    assert "the coordinator has the settings" in strategy.rounds[0].left_out[103]


def test_another_model_than_announced_is_told_by_name(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)

    def deceived(message: Message, context: Any) -> Message:
        message.content["arrays"] = arrays_of({**numbers(initial()), "bias": np.float64(1.0)})
        return client(honest(3), config)(message, context)

    grid.clients = {**grid.clients, 103: deceived}
    strategy.start(grid, initial(), num_rounds=1)
    assert "another than the coordinator announced" in strategy.rounds[0].left_out[103]


# ── keys ──────────────────────────────────────────────────────────────────────────────────────


def test_without_a_roster_or_a_seed_nothing_starts(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    with pytest.raises(ConfigError, match=r"QRES-E103 swarm\.roster"):
        QresStrategy(FedAvg(), config)


# ── reputation and validation ─────────────────────────────────────────────────────────────────


def test_who_lies_round_after_round_is_banned(tmp_path: Path) -> None:
    plugins = """
[plugins.reputation]
outlier_rounds = 1
punish = 0.4

[plugins.median]
f = 1
"""
    config = write(tmp_path / "qres.toml", plugins)
    strategy = wrapped(config)
    grid = MemoryGrid.of([*[honest(index) for index in range(3)], returning(scaled)], config)
    strategy.start(grid, initial(), num_rounds=3)
    assert 103 in strategy.rounds[0].merged
    assert strategy.rounds[2].left_out == {103: Fault.BANNED.value}


def test_public_examples_judge_updates(tmp_path: Path) -> None:
    plugins = "[plugins.validated_mean]\nf = 1"
    config = write(tmp_path / "qres.toml", plugins)
    point = np.array([[3.0, -1.0], [0.5, 2.0]])

    def loss(arrays: Any) -> float:
        return float(((arrays["weight"].numpy() - point) ** 2).sum())

    def taught(arrays: Any) -> Any:
        found = numbers(arrays)
        return arrays_of({**found, "weight": ((found["weight"] + point) / 2).astype(np.float32)})

    strategy = wrapped(config, validate=loss, reference=taught)
    grid = MemoryGrid.of([*[honest(index) for index in range(3)], returning(scaled)], config)
    result = strategy.start(grid, initial(), num_rounds=2)
    assert np.abs(numbers(result.arrays)["weight"] - point * 0.75).max() < 0.5


# ── noise and proofs ──────────────────────────────────────────────────────────────────────────

NOISE = """
[plugins.dp]
mode = "local"
clip = 4.0
delta = 1e-3
rounds = 2
noise_multiplier = 0.01

[plugins.mean]
"""


def kept(folder: Path) -> str:
    return f'\n[node]\ndata_dir = "{folder}"\n'


def test_noise_is_charged_over_processes_and_figures_stay(tmp_path: Path) -> None:
    """Every message opens the plugins anew, as a new process does; the ledger is on the disk."""
    plugins = NOISE + kept(tmp_path / "data")
    config = write(tmp_path / "qres.toml", plugins, byzantine=0, quorum=4)
    strategy, grid = wrapped(config), four(config)
    result = strategy.start(grid, initial(), num_rounds=3)
    assert [len(each.merged) for each in strategy.rounds] == [4, 4, 0]
    # Two rounds are paid for; the third is refused by every client, by name.
    assert all("QRES-E509" in why for why in strategy.rounds[2].left_out.values())
    assert len(strategy.rounds[2].left_out) == 4
    assert "loss" not in result.train_metrics_clientapp[1]
    assert result.evaluate_metrics_clientapp == {}
    expected = np.array([[3.0, -1.0], [0.5, 2.0]]) * 0.75
    assert np.abs(numbers(result.arrays)["weight"] - expected).max() < 0.5


def spoiled(values: dict[str, Any]) -> dict[str, Any]:
    weight = values["weight"].copy()
    weight.flat[:3] = np.nan  # how many tells of the examples
    return {**values, "weight": weight}


def raising(_message: Message, _context: Any) -> Message:
    raise ValueError("the loss of patient 17 was 0.25")


def telling(message: Message, _context: Any) -> Message:
    return Message(Error(1234, "the loss of patient 17 was 0.25"), reply_to=message)


@pytest.mark.parametrize("noised", [True, False])
@pytest.mark.parametrize(
    ("client_of", "code"),
    [
        (returning(spoiled), "QRES-E501"),
        (returning(lambda v: {**v, "patient 17": np.zeros(1)}), "QRES-E502"),
        (returning(lambda v: v, claimed=0.37), "QRES-E506"),
        (raising, "QRES-E507"),
        (telling, "QRES-E507"),
    ],
)
def test_where_figures_stay_an_error_says_its_code_alone(
    tmp_path: Path, client_of: Any, code: str, *, noised: bool
) -> None:
    plugins = NOISE + kept(tmp_path / "data") if noised else "[plugins.mean]"
    swarm = "weight_cap = 100"
    config = write(tmp_path / "qres.toml", plugins, byzantine=0, quorum=1, swarm=swarm)
    strategy, grid = wrapped(config), four(config)
    grid.clients = {**grid.clients, 103: client(client_of, config)}
    seen: list[Any] = []

    def on_the_way(replies: list[Message]) -> list[Message]:
        seen.extend((r.error.code, r.error.reason) for r in replies if r.has_error())
        return replies

    grid.on_the_way = on_the_way
    strategy.start(grid, initial(), num_rounds=1)
    if noised:
        assert strategy.rounds[0].left_out[103] == code
        assert set(seen) <= {(6, code), (6, "QRES-E507")}
    else:  # the control: where nothing is hidden, the reason is told
        assert len(strategy.rounds[0].left_out[103]) > len(code)


def test_a_client_writes_no_lines_into_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def forging(message: Message, _context: Any) -> Message:
        reason = "x\nWARNING : qres: left out node 100: equivocation\x1b[2J" + "y" * 5000
        return Message(Error(6, reason), reply_to=message)

    config = write(tmp_path / "qres.toml")
    strategy, grid = wrapped(config), four(config)
    grid.clients = {**grid.clients, 103: forging}
    with caplog.at_level("INFO", "flwr"):
        strategy.start(grid, initial(), num_rounds=1)
    assert not any(
        "\nWARNING" in r.getMessage() or "\x1b" in r.getMessage() for r in caplog.records
    )
    assert len(strategy.rounds[0].left_out[103]) < 1100


def test_without_a_folder_nothing_that_is_charged_starts(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml", NOISE, byzantine=0, quorum=4)
    with pytest.raises(CompatibilityError, match=r"QRES-E103 node\.data_dir"):
        wrapped(config)


def test_an_update_without_its_proof_is_refused_by_name(tmp_path: Path) -> None:
    """A client that signs another update than it proved, with its own key."""
    plugins = "[plugins.zk]\nbound = 8.0\n\n[plugins.mean]"
    config = write(tmp_path / "qres.toml", plugins, byzantine=0, quorum=3)
    strategy, grid = wrapped(config), four(config)
    host = hosting.Host.read(config, seed=SEED)
    kernel = host.kernel()
    kernel.identity(host.lab_id(3))

    def signed_anew(frames: list[bytes]) -> list[bytes]:
        forged = Envelope.from_bytes(larger(frames)[0], max_bytes=2**20)
        return [kernel.sign(attrs.evolve(forged, auth={})).to_bytes()]

    changed_on_the_way(grid, 103, signed_anew)
    result = strategy.start(grid, initial(), num_rounds=1)
    assert strategy.rounds[0].merged == (100, 101, 102)
    assert strategy.rounds[0].left_out[103].startswith("zk:")
    expected = np.array([[1.5, -0.5], [0.25, 1.0]])
    assert np.abs(numbers(result.arrays)["weight"] - expected).max() < 0.05


@pytest.mark.parametrize("kind", ["get_parameters", "get_properties", "query.other"])
@pytest.mark.parametrize("noised", [True, False])
def test_where_figures_stay_all_other_messages_are_refused(
    tmp_path: Path, kind: str, *, noised: bool
) -> None:
    """An older app tells its model then. Without noise, which is the control, they pass."""
    plugins = NOISE + kept(tmp_path / "data") if noised else "[plugins.mean]"
    config = write(tmp_path / "qres.toml", plugins, byzantine=0, quorum=4)
    asked = Message(RecordDict(), dst_node_id=100, message_type="query")
    asked.metadata.__dict__["_message_type"] = kind
    context = Context(1, 100, {"partition-id": 0}, RecordDict(), {})
    mod = QresMod(config, lab_seed=SEED)
    reply = mod(asked, context, lambda message, _context: Message(RecordDict(), reply_to=message))
    assert reply.has_error() is noised
    if noised:
        assert f"QRES-E507 {kind.partition('.')[0]}" in reply.error.reason


@pytest.mark.parametrize("noised", [True, False])
def test_where_figures_stay_a_query_is_refused(tmp_path: Path, *, noised: bool) -> None:
    """The app may answer anything; without noise, which is the control, it does."""
    plugins = NOISE + kept(tmp_path / "data") if noised else "[plugins.mean]"
    config = write(tmp_path / "qres.toml", plugins, byzantine=0, quorum=4)
    made = ClientApp(mods=[QresMod(config, lab_seed=SEED)])

    @made.query()
    def told(message: Message, _context: Any) -> Message:
        record = ConfigRecord({"patient 17": 0.25})
        return Message(RecordDict({"told": record}), reply_to=message)

    asked = Message(RecordDict(), dst_node_id=100, message_type="query")
    reply = made(asked, Context(1, 100, {"partition-id": 0}, RecordDict(), {}))
    assert reply.has_error() is noised
    if noised:
        assert "QRES-E507 query" in reply.error.reason
