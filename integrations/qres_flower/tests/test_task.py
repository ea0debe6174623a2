"""What a message asks of a client beside the model: clients of one sum are asked alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from qres_flower import QresMod, QresStrategy
from qres_flower import mod as mod_module
from qres_flower import strategy as strategy_module
from qres_flower.layout import bytes_name, model_name
from qres_flower.task import task_digest
from small_flower import SEED, MemoryGrid, arrays_of, initial, numbers, write

from qres_core import Envelope
from qres_core.errors import CompatibilityError, ValueRefusedError
from qres_core.swarm.ledger.messages import ContributionBody

pytestmark = pytest.mark.usefixtures("in_run")
SUMS = "[plugins.secagg]\n\n[plugins.mean]\n"
PLAIN = "[plugins.mean]\n"
TARGET = 102
"""The client whose update a server that lies wants."""
RUN = {"epochs": 2, "rate": 0.5}


def inside(folder: Path, plugins: str = SUMS) -> Path:
    text = f'{plugins}\n[node]\ndata_dir = "{folder / "data"}"\n'
    return write(folder / "qres.toml", text, nodes=5, byzantine=0, quorum=4)


def learned(index: int) -> float:
    """What a client would learn by itself, of the bias."""
    return 1.0 + index / 4


def step(index: int) -> Callable[[Message, Context], Message]:
    """Learns by the settings: none where the rate is zero, no epoch is asked or by the action."""

    def reply(message: Message, context: Context) -> Message:
        found = numbers(message.content["arrays"])
        config = message.content["config"]
        idle = message.metadata.message_type.endswith("idle") or message.metadata.group_id == "idle"
        rate = 0.0 if idle else float(config["lr"]) * int(context.run_config.get("epochs", 1))
        if "more" in message.content:
            rate *= float(message.content["more"]["rate"])
        found["bias"] += learned(index) * rate
        content = RecordDict({"metrics": MetricRecord({"num-examples": 10})})
        content["arrays"] = arrays_of(found)
        return Message(content, reply_to=message)

    return reply


def client(index: int, config: Path) -> ClientApp:
    made = ClientApp(mods=[QresMod(config, lab_seed=SEED)])
    made.train()(step(index))
    made.train("idle")(step(index))
    return made


@attrs.define(eq=False)
class TwoFacedGrid(MemoryGrid):
    """A server that asks others than its target for something else, once there is a model."""

    other: Callable[[Message], None] | None = None
    other_run: Mapping[str, Any] | None = None
    run_config: Mapping[str, Any] = attrs.field(factory=lambda: dict(RUN))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout
        found: list[Message] = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.content = RecordDict(dict(message.content.items()))
            away = node != TARGET
            if away and self.other is not None and "arrays" in message.content:
                self.other(message)
            run = self.other_run if away and self.other_run is not None else self.run_config
            context = Context(1, node, dict(self.node_configs[node]), RecordDict(), dict(run))
            found.append(self.clients[node](message, context))
        return found


def idle_rate(message: Message) -> None:
    message.content["config"] = ConfigRecord({**dict(message.content["config"]), "lr": 0.0})


def idle_record(message: Message) -> None:
    message.content["more"] = MetricRecord({"rate": 0.0})


def idle_action(message: Message) -> None:
    message.metadata.__dict__["_message_type"] = "train.idle"


def idle_group(message: Message) -> None:
    message.metadata.__dict__["_group_id"] = "idle"


def run(folder: Path, plugins: str = SUMS, **grid: Any) -> tuple[QresStrategy, float]:
    """The strategy, and by how much the clients moved the bias together."""
    config = inside(folder, plugins)
    clients = {100 + index: client(index, config) for index in range(5)}
    places = {node: {"partition-id": node - 100} for node in clients}
    made = TwoFacedGrid(clients, places, **grid)
    inner = FedAvg(min_train_nodes=5, min_available_nodes=5, fraction_evaluate=0.0)
    strategy = QresStrategy(inner, config, lab_seed=SEED, run_config=RUN)
    first, asked = initial(), ConfigRecord({"lr": 0.5})
    result = strategy.start(made, first, num_rounds=1, train_config=asked)
    if not strategy.rounds[0].merged:
        return strategy, 0.0
    return strategy, 5 * float(numbers(result.arrays)["bias"])


LIES = [
    {"other": idle_rate},
    {"other": idle_record},
    {"other": idle_action},
    {"other": idle_group},
    {"other_run": {**RUN, "epochs": 0}},
]


def test_clients_that_are_asked_alike_share_a_sum(tmp_path: Path) -> None:
    strategy, moved = run(tmp_path)
    assert len(strategy.rounds[0].merged) == 5
    assert moved == pytest.approx(sum(learned(index) for index in range(5)), abs=2**-12)


@pytest.mark.claim("C-flower-8")
@pytest.mark.parametrize("lie", LIES)
def test_whoever_is_asked_for_something_else_gives_nothing(tmp_path: Path, lie: Any) -> None:
    strategy, moved = run(tmp_path, **lie)
    assert moved == 0.0
    assert not strategy.rounds[0].merged
    others = {node: why for node, why in strategy.rounds[0].left_out.items() if node != TARGET}
    assert all("QRES-E604 round.task" in why for why in others.values())
    assert len(others) == 4


@pytest.mark.control("C-flower-8")
@pytest.mark.parametrize("lie", LIES)
def test_if_the_model_alone_were_signed_the_sum_would_be_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Any
) -> None:
    """The control."""

    def nothing(*_args: object, whole: bool) -> bytes:
        del whole
        return bytes(32)

    monkeypatch.setattr(mod_module, "task_digest", nothing)
    monkeypatch.setattr(strategy_module, "task_digest", nothing)
    strategy, moved = run(tmp_path, **lie)
    assert len(strategy.rounds[0].merged) == 5
    assert moved == pytest.approx(learned(TARGET - 100), abs=2**-12)


def test_without_sums_clients_may_be_asked_for_different_things(tmp_path: Path) -> None:
    strategy, moved = run(tmp_path, PLAIN, other=idle_rate)
    assert len(strategy.rounds[0].merged) == 5
    assert moved == pytest.approx(learned(TARGET - 100), abs=2**-12)


def test_settings_of_the_run_that_the_server_was_not_given_are_told_by_name(
    tmp_path: Path,
) -> None:
    strategy, _moved = run(tmp_path, run_config={"other": True})
    assert all("those of the run" in why for why in strategy.rounds[0].left_out.values())
    assert len(strategy.rounds[0].left_out) == 5


class TwoFaced(FedAvg):  # type: ignore[misc]
    """A strategy that has the first client train by another rate, in good faith."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        first, *rest = super().configure_train(server_round, arrays, config, grid)
        first.content = RecordDict(dict(first.content.items()))
        first.content["config"] = ConfigRecord({**dict(config), "lr": 0.25})
        return [first, *rest]


def test_a_strategy_that_asks_for_different_things_is_refused_in_sums(tmp_path: Path) -> None:
    def played(plugins: str) -> QresStrategy:
        config = inside(tmp_path, plugins)
        clients = {100 + index: client(index, config) for index in range(5)}
        places = {node: {"partition-id": node - 100} for node in clients}
        inner = TwoFaced(min_train_nodes=5, min_available_nodes=5, fraction_evaluate=0.0)
        strategy = QresStrategy(inner, config, lab_seed=SEED, run_config=RUN)
        asked = ConfigRecord({"lr": 0.5})
        strategy.start(TwoFacedGrid(clients, places), initial(), num_rounds=1, train_config=asked)
        return strategy

    assert len(played(PLAIN).rounds[0].merged) == 5
    with pytest.raises(CompatibilityError, match=r"QRES-E323.*different settings"):
        played(SUMS)


# ── the weight ────────────────────────────────────────────────────────────────────────────────

PUBLIC = SUMS.replace(
    "[plugins.secagg]", '[plugins.secagg]\nweights = "public"\nmax_weight = 100\nring = 64'
)


def weights(folder: Path, plugins: str, key: str) -> tuple[list[int], QresStrategy]:
    """The weights that leave clients where the server names that figure."""
    text = f'{plugins}\n[node]\ndata_dir = "{folder / "data"}"\n'
    options: dict[str, Any] = {"nodes": 5, "byzantine": 0, "quorum": 4}
    config = write(folder / "qres.toml", text, swarm="weight_cap = 100", **options)

    def reply(index: int) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            found = step(index)(message, context)
            found.content["metrics"]["positives"] = 11 + 3 * index
            return found

        return answer

    grid = MemoryGrid.of([reply(index) for index in range(5)], config)
    seen: list[int] = []

    def on_the_way(replies: list[Message]) -> list[Message]:
        for each in replies:
            for frame in [] if each.has_error() else each.content["qres"].get("frames", []):
                read = Envelope.from_bytes(frame, max_bytes=2**24)
                if read.kind == "contribution":
                    seen.append(ContributionBody.from_bytes(read.payload, 6).weight)
        return replies

    grid.on_the_way = on_the_way
    options = {"weighted_by_key": key, "fraction_evaluate": 0.0}
    inner = FedAvg(min_train_nodes=5, min_available_nodes=5, **options)
    strategy = QresStrategy(inner, config, lab_seed=SEED)
    asked = ConfigRecord({"lr": 0.5})
    strategy.start(grid, initial(), num_rounds=1, train_config=asked)
    return sorted(seen), strategy


@pytest.mark.claim("C-flower-8")
def test_in_sums_a_server_does_not_choose_which_figure_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights(tmp_path, PUBLIC, "num-examples")[0] == [10] * 5
    with pytest.raises(CompatibilityError, match=r"QRES-E323.*'positives'"):
        weights(tmp_path, PUBLIC, "positives")
    monkeypatch.setattr(strategy_module, "EXAMPLES", "positives")  # a server that lies
    seen, strategy = weights(tmp_path, PUBLIC, "positives")
    assert not seen
    assert all("QRES-E507 round.weight" in why for why in strategy.rounds[0].left_out.values())


@pytest.mark.control("C-flower-8")
def test_without_sums_it_does(tmp_path: Path) -> None:
    """The control: the figures of all clients."""
    assert weights(tmp_path, PLAIN, "positives")[0] == [11, 14, 17, 20, 23]


@pytest.mark.control("C-flower-8")
def test_if_clients_did_not_look_a_server_would_be_told_any_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    for module in (strategy_module, mod_module):
        monkeypatch.setattr(module, "EXAMPLES", "positives")
    assert weights(tmp_path, PUBLIC, "positives")[0] == [11, 14, 17, 20, 23]


# ── the digest ────────────────────────────────────────────────────────────────────────────────


def asked_for(**changed: Any) -> bytes:
    given: dict[str, Any] = {
        "records": {"arrays": initial(), "config": ConfigRecord({"lr": 1.0, "n": 1})},
        "kind": "train",
        "group": "1",
        "key": "num-examples",
        "run": {"a": 1, "b": 2.0},
        "whole": True,
    }
    given |= changed
    message = Message(
        RecordDict(given["records"]),
        dst_node_id=1,
        message_type=given["kind"],
        group_id=given["group"],
    )
    arrays = bytes_name(given["records"]["arrays"])
    return task_digest(message, arrays, given["key"], given["run"], whole=given["whole"])


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "train.other"},
        {"group": "2"},
        {"key": "positives"},
        {"run": {"a": 1, "b": 2}},
        {"run": {"a": True, "b": 2.0}},
        {"run": {"a": 1}},
        *[
            {"records": {"arrays": initial(), "config": ConfigRecord(config)}}
            for config in (
                {"lr": 1, "n": 1},
                {"lr": 1.0, "n": 1.0},
                {"lr": 1.0, "n": True},
                {"lr": 1.0, "n": "1"},
                {"lr": 1.0, "n": b"1"},
                {"lr": 1.0, "n": [1]},
                {"n": 1, "lr": 1.0},
                {"lr": np.nextafter(1.0, 2.0).item(), "n": 1},
                {"lr": float("nan"), "n": 1},
                {},
            )
        ],
        {"records": {"config": ConfigRecord({"lr": 1.0, "n": 1}), "arrays": initial()}},
        {"records": {"arrays": initial(), "other": ConfigRecord({"lr": 1.0, "n": 1})}},
    ],
)
def test_every_setting_is_in_the_digest(changed: Any) -> None:
    assert asked_for() == asked_for()
    assert asked_for(**changed) != asked_for()
    assert asked_for(**changed, whole=False) == asked_for(whole=False)


def test_our_record_and_the_order_of_the_run_are_not_in_it() -> None:
    ours = {"arrays": initial(), "config": ConfigRecord({"lr": 1.0, "n": 1})}
    with_ours = {**ours, "qres": ConfigRecord({"round": b"x"})}
    assert asked_for(records=with_ours) == asked_for()
    assert asked_for(run={"b": 2.0, "a": 1}) == asked_for()


def test_a_setting_of_a_strange_kind_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E503 settings\['a'\]: holds a dict"):
        asked_for(run={"a": {}})


# ── the model ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-flower-8")
def test_the_same_numbers_are_the_same_model() -> None:
    """Else a server had a second sum for one model, and took one from the other."""
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(-1.5)
    usual = arrays_of({"weight": weight, "bias": bias})
    fortran = Array(np.asfortranarray(weight))
    for other in (
        arrays_of({"bias": bias, "weight": weight}),
        arrays_of({"weight": weight.astype(np.float64), "bias": np.float32(bias)}),
        arrays_of({"weight": weight.astype(">f4"), "bias": bias}),
        arrays_of({"weight": weight.astype(np.int64), "bias": bias}),
        arrays_of({"weight": weight.ravel(), "bias": np.array([[bias]])}),
        arrays_of({"other": weight, "names": bias}),
        ArrayRecord({"weight": fortran, "bias": Array(np.asarray(bias))}),
        arrays_of({"weight": weight, "bias": bias, "empty": np.empty((0, 3), np.float32)}),
        arrays_of({"weight": weight[:1], "more": weight[1:], "bias": bias}),
        arrays_of({"weight": weight.T, "bias": bias}),
        arrays_of({"all": np.append(weight, bias)}),
    ):
        assert model_name(other) == model_name(usual)
        assert bytes_name(other) != bytes_name(usual)
    zeros = [arrays_of({"a": np.array([sign * 0.0, 1.0])}) for sign in (1, -1)]
    assert model_name(zeros[0]) == model_name(zeros[1])


@pytest.mark.control("C-flower-8")
def test_other_numbers_are_another_model() -> None:
    weight = np.arange(6, dtype=np.float64)
    names = {model_name(arrays_of({"weight": each})) for each in (weight, weight + 1, weight[:-1])}
    assert len(names) == 3
    nearly = weight.copy()
    nearly[3] = np.nextafter(3.0, 4.0)
    assert model_name(arrays_of({"weight": nearly})) not in names


def test_another_layout_of_the_same_model_is_another_task(tmp_path: Path) -> None:
    def reordered(message: Message) -> None:
        found = dict(reversed(message.content["arrays"].items()))
        message.content["arrays"] = ArrayRecord(found)

    strategy, _moved = run(tmp_path, PLAIN, other=reordered)
    assert strategy.rounds[0].merged == ()
    assert "QRES-E604 round.task" in strategy.rounds[0].left_out[100]
