"""The client's end: a mod that signs, proves and hides what a ClientApp returns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import qres_hosting as hosting

from qres_core import Update, fixed
from qres_core.errors import ConfigError, QresError, RoundError, ValueRefusedError, WireError
from qres_flower import figures
from qres_flower.border import EXAMPLES, FRAMES, LOG, RECORD, ROUND, TURN, WEIGHT, app, single
from qres_flower.layout import bytes_name, difference, model_name
from qres_flower.shapes import ArrayShapes
from qres_flower.task import task_digest

CONFIG_KEY: Final = "qres"
"""Key of ``--node-config`` with which who runs a SuperNode names a configuration of its own."""
PARTITION: Final = "partition-id"
_COVERED: Final = {"train", "evaluate"}
_PRECONDITION: Final = 6
"""Flower's number for a mod that could not do its work."""
_FAILED: Final = "QRES-E507"
"""All that the server hears of a client that failed, where its text may tell of its examples."""
_IN_A_SWARM: Final = ContextVar("qres_in_a_swarm", default=False)
_HOSTS: Final[dict[tuple[str, int | None, int], hosting.Host]] = {}


@contextmanager
def unprotected() -> Generator[None]:
    """Have the mod do nothing: a node of a swarm protects what leaves it, whatever the app."""
    token = _IN_A_SWARM.set(True)
    try:
        yield
    finally:
        _IN_A_SWARM.reset(token)


class QresMod:
    """Signs, proves and hides what the ClientApp returns. It must be the first of ``mods``.

    The model that the ClientApp returns stays here: what leaves is the difference from the model
    that came, on the swarm's grid, after the configuration's plugins. Where one adds noise or
    hides updates in sums, figures stay here too. What cannot be protected is not sent: the server
    gets an error reply with the reason. Where figures stay, the reason does too, but for its code:
    it may tell of the examples. The client's own log has it whole.

    Where plugins have clients talk in a round, as ``secagg`` does, the server asks for that in
    messages of training without a model. They do not come to the ClientApp.

    Args:
        config: the configuration file. ``--node-config 'qres="PATH"'`` of a SuperNode comes before
            it: the machine's operator decides, and not the app.
        lab_seed: for experiments: makes the clients' keys, by the ``partition-id`` that Flower's
            simulation gives them. Whoever knows it can speak for all.
    """

    def __init__(self, config: str | Path = "qres.toml", *, lab_seed: int | None = None) -> None:
        self._config, self._seed = Path(config), lab_seed

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Run the ClientApp, and protect its reply to ``train`` and ``evaluate`` messages.

        A message of another type comes to the ClientApp where updates are hidden neither in noise
        nor in a sum: for example ``query``, or ``get_parameters`` of older apps.
        """
        if _IN_A_SWARM.get():
            return call_next(message, context)
        kind = str(message.metadata.message_type).partition(".")[0]
        try:
            host, index = self._host(context.node_config)
        except QresError as error:
            return _refused(message, error)
        trained = False

        def training(asked: Any, inside: Any) -> Any:
            nonlocal trained
            trained = True
            return call_next(asked, inside)

        try:
            return _replied(host, index, message, context, training, kind=kind)
        except QresError as error:  # what was refused before says nothing of the examples
            return _refused(message, error, alone=host.withholds and trained)
        except Exception:
            if not host.withholds:
                raise
            LOG.exception("qres: the client failed; the server hears nothing of why")
            return app.Message(app.Error(_PRECONDITION, _FAILED), reply_to=message)

    def _host(self, node_config: Mapping[str, Any]) -> tuple[hosting.Host, int | None]:
        named = node_config.get(CONFIG_KEY)
        path = self._config if named is None else Path(str(named))
        seed = self._seed if named is None else None
        index: int | None = None
        if seed is not None:
            partition = node_config.get(PARTITION)
            if type(partition) is not int:
                what = (
                    f"the client has no {PARTITION}, which tells the members of a simulation apart"
                )
                fix = "leave lab_seed out, and give every client a key"
                raise ConfigError.of("QRES-E103", f"node-config.{PARTITION}", what, fix)
            index = partition
        try:
            version = path.stat().st_mtime_ns
        except OSError:
            version = 0  # the error of reading it says more
        known = str(path.absolute()), seed, version
        if known not in _HOSTS:
            _HOSTS[known] = hosting.Host.read(path, seed=seed)
        return _HOSTS[known], index


def _replied(
    host: hosting.Host,
    index: int | None,
    message: Any,
    context: Any,
    call_next: Callable[[Any, Any], Any],
    *,
    kind: str,
) -> Any:
    if kind not in _COVERED:
        _expect_nothing_hidden(host, kind)
        return call_next(message, context)
    turn = _turn(message)
    if turn is not None:
        return _spoken(host, index, message, turn)
    return _answered(host, index, message, context, call_next, trains=kind == "train")


def _expect_nothing_hidden(host: hosting.Host, kind: str) -> None:
    """Raises ValueRefusedError: QRES-E507 where noise or a sum hides updates."""
    if host.withholds:
        what = "a reply is the app's own, and could tell what noise or a sum hides"
        fix = f"{kind} in a run without them, or leave it out"
        raise ValueRefusedError.of("QRES-E507", kind, what, fix)


def _expect_examples(host: hosting.Host, key: str) -> None:
    """Raises ValueRefusedError: QRES-E507 for another weight than the number of examples.

    It leaves the client. Where updates are hidden, a server could have any other figure told so.
    """
    if host.withholds and host.config.swarm.weight_cap > 1 and key != EXAMPLES:
        what = f"the server asks for {key!r} as the weight, and updates are hidden"
        fix = f"have clients tell {EXAMPLES!r}, or leave swarm.weight_cap at 1"
        raise ValueRefusedError.of("QRES-E507", "round.weight", what, fix)


def _turn(message: Any) -> object:
    """Word of a message on a turn of the round's dialogues; ``None`` for any other."""
    record = message.content.get(RECORD)
    return record.get(TURN) if type(record) is app.ConfigRecord else None


def _spoken(host: hosting.Host, index: int | None, message: Any, turn: object) -> Any:
    """Words of the client's plugins in a turn. The ClientApp hears nothing of it."""
    if type(turn) is not bytes:
        raise WireError.of("QRES-E402", "turn", "expected bytes")
    with hosting.HostedClient(host, index) as client:
        frames = list(client.converse(turn))
    content = app.RecordDict({RECORD: app.ConfigRecord({FRAMES: frames})})
    return app.Message(content, reply_to=message)


def _answered(
    host: hosting.Host,
    index: int | None,
    message: Any,
    context: Any,
    call_next: Callable[[Any, Any], Any],
    *,
    trains: bool,
) -> Any:
    announced, key = _announced(message)
    _expect_examples(host, key)
    _name, record = single(message.content, "message")
    before = dict(record)
    shapes = ArrayShapes.of(before)
    named = bytes_name(before)
    task = task_digest(message, named, key, context.run_config, whole=host.in_sums)
    with hosting.HostedClient(host, index) as client:
        info = client.begin(announced, model_name(before), shapes.size, task)
        reply = call_next(message, context)
        if reply.has_error():
            if host.withholds:
                LOG.error("qres: the client answered with an error: %s", reply.error.reason)
                reply.error = app.Error(_PRECONDITION, _FAILED)  # a number tells, too
            return reply
        said = figures.record_of(reply.content)
        frames: list[bytes] = []
        if trains:
            _name, after = single(reply.content, "reply")
            encoded = fixed.encode(difference(shapes, after, before), scale=info.scale)
            weight = figures.examples(said, key, host.config.swarm.weight_cap)
            _warn(encoded, info.scale)
            frames.append(client.contribute(Update.of(encoded, weight=weight)))
        if said and not host.withholds:
            frames.append(client.report(figures.packed(said)))
    reply.content = app.RecordDict({RECORD: app.ConfigRecord({FRAMES: frames})})
    return reply


def _refused(message: Any, error: QresError, *, alone: bool = False) -> Any:
    """An error reply; ``alone``: with the codes alone, for the rest may tell of the examples."""
    reason = "; ".join(str(problem) for problem in error.problems)
    LOG.error("qres: nothing is sent: %s", reason)
    told = "; ".join(sorted({problem.code for problem in error.problems})) if alone else reason
    return app.Message(app.Error(_PRECONDITION, told), reply_to=message)


def _announced(message: Any) -> tuple[bytes, str]:
    """Announcement by the server of the round; it is taken out of the message."""
    record = message.content.pop(RECORD, None)
    if record is None:
        what = "the server announced no round: its strategy is not wrapped"
        raise RoundError.of("QRES-E604", "round", what, "wrap it: QresStrategy(strategy, …)")
    announced, key = record.get(ROUND), record.get(WEIGHT)
    if type(announced) is not bytes or type(key) is not str:
        raise WireError.of("QRES-E402", "round", "expected bytes, and the name of a figure")
    return announced, key


def _warn(encoded: fixed.Encoded, scale: int) -> None:
    if encoded.saturated:
        LOG.warning(
            "qres: %d numbers are outside the grid's range and are held there; raise swarm.scale",
            encoded.saturated,
        )
    if encoded.rounding is not None and encoded.rounding.lossy:
        LOG.warning(
            "qres: %d of %d changes vanish between the grid's steps; swarm.scale is %d, and %d "
            "would keep them",
            encoded.rounding.vanished,
            encoded.rounding.moved,
            scale,
            encoded.rounding.scale,
        )


qres_mod: Final = QresMod()
"""The mod with ``qres.toml`` of the working directory."""
