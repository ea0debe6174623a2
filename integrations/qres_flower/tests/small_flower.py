"""A Flower run in one process: a grid in memory, clients that learn a point, and those that lie."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("flwr")

import qres_flower
from flwr.app import (
    Array,
    ArrayRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

SEED = 5
CONFIG = """
[swarm]
name = "flower"
nodes = {nodes}
byzantine = {byzantine}
quorum = {quorum}
{swarm}

[plugins.ed25519]

[plugins.replay]

{plugins}
"""
HONEST = (3.0, -1.0, 0.5, 2.0)
"""What every honest client's training leads to, but for a little that differs between them."""

Reply = Callable[[Message, Context], Message]


def write(
    path: Path,
    plugins: str = "[plugins.median]\nf = 1",
    *,
    nodes: int = 4,
    byzantine: int = 1,
    quorum: int = 0,
    swarm: str = "",
) -> Path:
    text = CONFIG.format(
        nodes=nodes,
        byzantine=byzantine,
        quorum=quorum or nodes - byzantine,
        plugins=plugins,
        swarm=swarm,
    )
    path.write_text(text, "utf-8")
    return path


def arrays_of(values: Mapping[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def initial() -> ArrayRecord:
    """A matrix, a scalar and an integer."""
    return arrays_of(
        {
            "weight": np.zeros((2, 2), dtype=np.float32),
            "bias": np.float64(0.0),
            "steps": np.int64(0),
        }
    )


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: array.numpy() for name, array in record.items()}


def trained(message: Message, index: int) -> dict[str, Any]:
    """An honest client's model: half of the way to the point, which is a little its own."""
    found = numbers(next(iter(message.content.array_records.values())))
    point = np.array(HONEST, dtype=np.float32).reshape(2, 2) + np.float32(index) / 128
    return {
        "weight": (found["weight"] + point) / 2,
        "bias": (found["bias"] + 1.0 + index / 128) / 2,
        "steps": found["steps"] + 1,
    }


def honest(index: int) -> Reply:
    def reply(message: Message, _context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "loss": 0.25 * (index + 1)})
        content = RecordDict({"metrics": metrics})
        if message.metadata.message_type.startswith("train"):
            content["arrays"] = arrays_of(trained(message, index))
        return Message(content, reply_to=message)

    return reply


def returning(change: Callable[[dict[str, Any]], dict[str, Any]], *, claimed: Any = 10) -> Reply:
    """A client that returns something else than what it trained, through the mod."""

    def reply(message: Message, _context: Context) -> Message:
        metrics = MetricRecord({"num-examples": claimed, "loss": 0.0})
        content = RecordDict({"metrics": metrics})
        if message.metadata.message_type.startswith("train"):
            content["arrays"] = arrays_of(change(trained(message, 0)))
        return Message(content, reply_to=message)

    return reply


def scaled(values: dict[str, Any], factor: float = -100.0) -> dict[str, Any]:
    return {
        **values,
        "weight": values["weight"] * np.float32(factor),
        "bias": values["bias"] * factor,
    }


def client(
    reply: Reply, config: Path | None, *, seed: int | None = SEED
) -> Callable[[Message, Context], Message]:
    """A ClientApp with the mod; without a configuration, one without."""
    mods = [] if config is None else [qres_flower.QresMod(config, lab_seed=seed)]
    made = ClientApp(mods=mods)
    made.train()(reply)
    made.evaluate()(reply)
    return made


@attrs.define(eq=False)
class MemoryGrid(Grid):
    """Nodes in this process, which answer at once, one after the other."""

    clients: Mapping[int, Callable[[Message, Context], Message]]
    node_configs: Mapping[int, Mapping[str, Any]]
    silent: set[int] = attrs.field(factory=set)
    # what becomes of the replies on their way
    on_the_way: Callable[[list[Message]], list[Message]] = lambda replies: replies
    sent: list[Message] = attrs.field(factory=list)
    replies: list[Message] = attrs.field(factory=list)

    @classmethod
    def of(cls, replies: list[Reply], config: Path | None) -> MemoryGrid:
        clients = {100 + at: client(reply, config) for at, reply in enumerate(replies)}
        return cls(clients, {node: {"partition-id": node - 100} for node in clients})

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout
        answers: list[Message] = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.sent.append(message)
            if node in self.silent:
                continue
            # Each node gets its own copy, as over a wire.
            message.content = RecordDict(dict(message.content.items()))
            context = Context(1, node, dict(self.node_configs[node]), RecordDict(), {})
            try:
                answers.append(self.clients[node](message, context))
            except Exception as error:  # noqa: BLE001 - as Flower does
                answers.append(Message(Error(2, str(error)), reply_to=message))
        self.replies = self.on_the_way(answers)
        return self.replies


def enter_run() -> None:
    """What Flower says of the process that a ServerApp runs in."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    random.seed(0)
