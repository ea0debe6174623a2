"""First message of an app's own server: the model to begin with, and settings of training.

The ServerApp runs until its first message of training and, where it comes to that, of evaluation.
It gets no reply: nothing of its strategy takes part in a swarm.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from threading import get_ident
from types import SimpleNamespace
from typing import Any, Final

import attrs

from qres_core.errors import ConfigError
from qres_flower import keeping
from qres_flower.app import FlowerProject, Setting
from qres_flower.border import app, imported
from qres_flower.draws import drawn_by

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"

_WHERE: Final = "trainer.options.app"
_FIX: Final = (
    "set trainer.options.initial to a function of the app that returns the first arrays, by name"
)
_PATIENCE: Final = 1000
"""Calls of the grid until it gives up on the server."""
_MANY, _MOST = 100, 2**16  # nodes that are shown


class _Enough(BaseException):
    """All that was asked of the server is there."""


@attrs.frozen
class FirstMessages:
    """First messages that the server would send."""

    train: bytes  # records of the first message of training; see keeping.pack
    evaluate: bytes  # of evaluation; those of training where the server sends none


@cache
def first_messages(
    project: FlowerProject, settings: tuple[tuple[str, Setting], ...], nodes: int, seed: int
) -> FirstMessages:
    """Run the ServerApp of an app until it has sent its first messages.

    Args:
        project: the app.
        settings: of the run.
        nodes: how many nodes the server sees at first; as many as it waits for, a little later.
        seed: of what the server draws.

    Raises:
        ConfigError: QRES-E103 where the app has no ServerApp, QRES-E101 where it cannot be loaded
            or ends without a message of training.
    """
    if not project.server:
        raise ConfigError.of("QRES-E103", _WHERE, "no ServerApp gives the first arrays", _FIX)
    _take_part()
    server = project.server_app()
    grid = SilentGrid(max(nodes, 1))
    imported("flwr.serverapp").Grid.register(SilentGrid)
    context = app.Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=app.RecordDict(),
        run_config=dict(settings),
    )
    ended = ""
    with _quiet(), drawn_by(seed):
        try:
            server(grid, context)
        except _Enough:
            pass
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it was given no replies
            ended = f": {type(error).__name__}: {error}"
    sent = grid.sent
    if TRAIN not in sent:
        what = f"the ServerApp {project.server!r} sent no message of training{ended}"
        raise ConfigError.of("QRES-E101", _WHERE, what, _FIX)
    return FirstMessages(sent[TRAIN], sent.get(EVALUATE, sent[TRAIN]))


@attrs.define(eq=False)
class SilentGrid:
    """A grid of Flower that keeps what is sent first, by category, and never brings a reply."""

    nodes: int  # how many it shows next
    sent: dict[str, bytes] = attrs.field(factory=dict[str, bytes])
    run: Any = attrs.field(factory=lambda: SimpleNamespace(run_id=1))
    _calls: int = 0
    _thread: int = attrs.field(factory=get_ident)

    def set_run(self, run: Any) -> None:
        """Take the run."""
        self.run = run

    def get_node_ids(self) -> list[int]:
        """Show nodes; more of them each time, for a strategy that waits for many."""
        if get_ident() != self._thread:  # of an older server, which asks again and again
            return list(range(1, 1 + max(self.nodes, _MANY)))
        self._wait()
        found = list(range(1, 1 + self.nodes))
        self.nodes = min(2 * self.nodes, _MOST)
        return found

    def get_nodes(self) -> list[Any]:
        """As :meth:`get_node_ids`, as Flower describes nodes."""
        return [SimpleNamespace(node_id=number) for number in self.get_node_ids()]

    def create_message(self, *args: Any, **named: Any) -> Any:
        """Make a message, as grids of Flower do."""
        order = ("content", "message_type", "dst_node_id", "group_id", "ttl")
        return app.Message(**{**dict(zip(order, args, strict=False)), **named})

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """Keep what is of use; the server is stopped once there is no more to learn."""
        self._wait()
        pushed = list(messages)
        for message in pushed:
            category = message.metadata.message_type.partition(".")[0]
            if category == TRAIN and TRAIN in self.sent:  # the next round
                raise _Enough
            if category in (TRAIN, EVALUATE):
                self.sent[category] = keeping.pack(message.content)
                break
        if EVALUATE in self.sent:
            raise _Enough
        return [str(number) for number in range(len(pushed))]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """Bring nothing; a server that waits for replies to training is stopped."""
        del message_ids
        self._wait()
        if TRAIN in self.sent:
            raise _Enough
        return []

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> list[Any]:
        """As :meth:`push_messages`, without a reply."""
        del timeout
        self.push_messages(messages)
        return []

    def _wait(self) -> None:
        self._calls += 1
        if self._calls > _PATIENCE:
            raise _Enough


def _take_part() -> None:
    """Give this process the identity without which Flower makes no message.

    Flower gives one to the processes that it starts. It stays as it is where there is one.
    """
    identity = imported("flwr.supercore.task_identity").TaskIdentity
    for name in ("run_id", "task_id", "node_id"):
        try:
            getattr(identity, name)
        except RuntimeError:
            setattr(identity, name, 1)


@contextmanager
def _quiet() -> Generator[None]:
    """Without what Flower tells of the rounds of a server that has no clients."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
