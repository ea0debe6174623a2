"""The server's end: a strategy around another, which merges signed updates by a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs
import numpy as np
import qres_hosting as hosting

from qres_core import NodeId, fixed
from qres_core.errors import (
    CompatibilityError,
    OptionError,
    RoundError,
    ValueRefusedError,
    WireError,
)
from qres_flower import figures
from qres_flower.border import (
    EXAMPLES,
    FRAMES,
    LOG,
    MAX_FRAMES,
    RECORD,
    ROUND,
    TURN,
    WEIGHT,
    app,
    single,
    strategies,
)
from qres_flower.judge import Train, Validate, judge_of
from qres_flower.layout import bytes_name, model_name, moved, typed
from qres_flower.shapes import ArrayShapes, opened
from qres_flower.task import task_digest

_BY_REPLIES: Final = (
    "Bulyan",
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping",
    "FedMedian",
    "FedTrimmedAvg",
    "FedXgbBagging",
    "FedXgbCyclic",
    "Krum",
    "MultiKrum",
    "QFedAvg",
)
"""Flower's strategies that do something with single replies: of one merged reply they make nothing,
or worse."""
_MAX_SAID: Final = 64
"""Frames of a reply to a turn of the round's dialogues."""
_TIMEOUT: Final = 3600.0
"""Seconds that Flower waits for replies, if it is not told otherwise."""
_MOST_TEXT: Final = 1000
"""Characters of a client's reason that are kept."""
UNWRAPPED: Final = "host:no-qres-mod"
"""Why a reply is left out that no client of ours made."""
UNREADABLE: Final = "host:unreadable-reply"
"""Why a reply is left out that has another form than ours."""


@attrs.frozen
class FlowerRound:
    """Result of a round of training.

    Attributes:
        number: Flower's number of the round.
        merged: Flower's ids of the nodes whose updates made the model; none if there is no new one.
        left_out: why others are not among them, by Flower's id of the node.
        reason: why there is no new model; empty if there is one.
    """

    number: int
    merged: tuple[int, ...]
    left_out: Mapping[int, str]
    reason: str = ""


@attrs.define(eq=False)
class _Training:
    """A round while clients train."""

    shapes: ArrayShapes
    before: Mapping[str, Any]
    scale: int
    number: int  # of the round, as Flower counts
    grid: Any
    asked: frozenset[int]  # Flower's ids of the nodes that are there
    nodes: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int])  # who signed for which node
    said: dict[NodeId, Mapping[str, figures.Figure]] = attrs.field(
        factory=dict[NodeId, Mapping[str, figures.Figure]]
    )
    left_out: dict[int, str] = attrs.field(factory=dict[int, str])


class QresStrategy(strategies.Strategy):  # type: ignore[misc]
    """The defences of a configuration around a strategy of Flower.

    Clients answer with signed frames (:class:`~qres_flower.QresMod`). What passes the checks is
    merged by the configuration's rule, in exact integers, and the strategy inside gets the result
    as one reply: FedAvg hands it on, FedAdam and FedYogi take their step from it. It samples and
    configures as ever. A client whose reply is refused is left out by name, and the round goes on;
    below ``swarm.quorum`` the model stays as it is.

    Args:
        strategy: any strategy of Flower's Message API that works with one reply.
        config: the configuration file, the same as the clients'.
        lab_seed: for experiments: makes the clients' keys, see :class:`~qres_flower.QresMod`.
        validate: mean loss of a model, an ArrayRecord, on public examples, for plugins that
            validate.
        reference: the ArrayRecord that training on them leads to, for plugins that compare.
        run_config: ``context.run_config`` of the ServerApp. Where updates are hidden in sums,
            clients answer only if it is theirs.

    Raises:
        CompatibilityError: QRES-E323 for a strategy that needs single replies; everything that
            keeps the configuration from starting, QRES-E322 for what needs agreement.
        ConfigError: the configuration is refused.

    Attributes:
        rounds: what became of each round.
        coordinator: runs the plugins.
    """

    def __init__(
        self,
        strategy: Any,
        config: str | Path = "qres.toml",
        *,
        lab_seed: int | None = None,
        validate: Validate | None = None,
        reference: Train | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        _check_inner(strategy)
        if reference is not None and validate is None:
            what = "a reference is given, and no validate"
            raise OptionError.of("QRES-E105", "QresStrategy.validate", what, "give both")
        self.inner = strategy
        self.rounds: list[FlowerRound] = []
        self._host = hosting.Host.read(Path(config), seed=lab_seed)
        self._run_config = dict(run_config or {})
        if (
            self._host.withholds
            and self._host.config.swarm.weight_cap > 1
            and self._key != EXAMPLES
        ):
            what = f"weights by {self._key!r}, and where updates are hidden clients refuse that"
            fix = f"weighted_by_key = {EXAMPLES!r}, or leave swarm.weight_cap at 1"
            raise CompatibilityError.of("QRES-E323", "QresStrategy.strategy", what, fix)
        self._judge = judge_of(validate, reference)
        self.coordinator = hosting.Coordinator(self._host, self._judge)
        self._ended = False
        self._timeout = _TIMEOUT
        self._open: _Training | None = None

    def start(self, grid: Any, initial_arrays: Any, *options: Any, **named: Any) -> Any:
        """As ``start`` of Flower's strategies; at the end the coordinator gives its folder back.

        Raises ValueRefusedError: QRES-E501 for first arrays with NaN or infinities, QRES-E503 for
        arrays of something else than real numbers, by name.
        """
        _check_finite(initial_arrays)
        self._timeout = named.get("timeout", options[1] if len(options) > 1 else _TIMEOUT)
        if self._ended:
            self.coordinator = hosting.Coordinator(self._host, self._judge)
            self._ended = False
        try:
            return super().start(grid, initial_arrays, *options, **named)
        finally:
            self._ended = True
            self.coordinator.stop()

    def summary(self) -> None:
        """Log the plugins and what a coordinator gives up, and the strategy inside."""
        names = ", ".join(plugin.name for plugin in self._host.enabled)
        LOG.info("\t├──> QRES: %s", names)
        for notice in self._host.notices:
            LOG.info("\t│\t└── %s", notice)
        self.inner.summary()

    # ── training ──────────────────────────────────────────────────────────────────────────────

    def configure_train(
        self, server_round: int, arrays: Any, config: Any, grid: Any
    ) -> Iterable[Any]:
        """Send as the strategy inside would, with the announcement of the round.

        Where plugins have clients talk first, they do so here. Raises QresError: what a plugin
        refused; QRES-E502 where the strategy sends another model than it was given, and QRES-E323
        where sums hide updates and it asks clients for different things.
        """
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        shapes, before = ArrayShapes.of(arrays), dict(arrays)
        name = model_name(before)
        told = self.coordinator.begin(name, shapes.size, self._task(messages, arrays, name))
        asked = frozenset(int(message.metadata.dst_node_id) for message in messages)
        scale = self._host.config.swarm.scale
        current = self._open = _Training(shapes, before, scale, server_round, grid, asked)
        self._talk(current)
        if self._judge is not None:
            self._judge.begin(shapes, before)
        there = [each for each in messages if each.metadata.dst_node_id in current.asked]
        return self._announced(there, told)

    def _task(self, messages: Sequence[Any], arrays: Any, model: bytes) -> bytes:
        """Task that all clients are asked.

        Raises CompatibilityError: QRES-E323 where sums hide updates and not all are asked alike: a
        client that was asked for something else than the others would show in the sum. Raises
        ValueRefusedError: QRES-E502.
        """
        named, whole = bytes_name(arrays), self._host.in_sums
        _check_sent(messages, arrays, (model, named))
        settings = self._key, self._run_config
        asked = {task_digest(each, named, *settings, whole=whole) for each in messages}
        if len(asked) > 1:
            what = "the strategy inside sends different settings to clients of one sum"
            fix = "a strategy that asks all of them alike, or a configuration without secagg"
            raise CompatibilityError.of("QRES-E323", "QresStrategy.strategy", what, fix)
        return asked.pop() if asked else named  # nobody is asked

    def _talk(self, current: _Training) -> None:
        """Have the clients that were sampled talk, until the coordinator has nothing to ask.

        Who does not answer is not asked again: whoever missed a turn has no part in those after it.
        """
        while (turn := self.coordinator.asks()) is not None:
            record = app.ConfigRecord({TURN: turn})
            messages = [
                app.Message(
                    content=app.RecordDict({RECORD: record}),
                    dst_node_id=node,
                    message_type="train",
                    group_id=str(current.number),
                )
                for node in current.asked
            ]
            replies = current.grid.send_and_receive(messages, timeout=self._timeout)
            current.asked = frozenset(
                int(reply.metadata.src_node_id) for reply in replies if self._said(reply, current)
            )

    def _said(self, reply: Any, current: _Training) -> bool:
        """True if a client answered in a turn; why another did not, is noted."""
        node = int(reply.metadata.src_node_id)
        if reply.has_error():
            reason = _plain(str(reply.error.reason))
        else:
            _made, reason = self._opened(reply, _MAX_SAID)
            if reason not in {UNWRAPPED, UNREADABLE}:
                if reason:
                    LOG.warning("qres: node %d in a turn: %s", node, reason)
                return True
        current.left_out.setdefault(node, reason)
        return False

    def _announced(self, messages: Sequence[Any], told: hosting.HostedRound) -> list[Any]:
        record = app.ConfigRecord({ROUND: told.to_bytes(), WEIGHT: self._key})
        for message in messages:
            # A strategy may give all its messages one and the same content.
            message.content = app.RecordDict({**dict(message.content.items()), RECORD: record})
        return list(messages)

    @property
    def _key(self) -> str:
        """The figure that says how many examples a client has."""
        asked = self.inner
        while not hasattr(asked, "weighted_by_key") and hasattr(asked, "strategy"):
            asked = asked.strategy
        return str(getattr(asked, "weighted_by_key", EXAMPLES))

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Merge what passes the checks, and have the strategy inside take the step.

        Error replies go to the strategy inside, with reasons of one printable line. Raises
        RoundError: QRES-E604 outside a round.
        """
        current, self._open = self._open, None
        if current is None:
            raise RoundError.of("QRES-E604", "round", "none is open")
        errors: list[Any] = []
        carrier: Any = None
        answered = list(replies)
        for reply in answered:
            if reply.has_error():
                errors.append(_plain_error(reply))
                current.left_out[reply.metadata.src_node_id] = str(reply.error.reason)
            elif self._taken(reply, current):
                carrier = reply
        answering = (reply for reply in answered if not reply.has_error())
        current.asked &= {int(reply.metadata.src_node_id) for reply in answering}
        self.coordinator.decide()
        self._talk(current)
        result = self.coordinator.close()
        self._note(server_round, current, result)
        if result.merged is None:
            return None, None
        real = fixed.decode(result.merged, scale=current.scale)
        merged = moved(current.shapes, current.before, real)
        carrier.content = app.RecordDict(
            {
                "arrays": merged,
                "metrics": self._means(current, result.weights),
            }
        )
        given = dict(merged)  # a strategy may change the record
        arrays, metrics = self.inner.aggregate_train(server_round, [carrier, *errors])
        return (None if arrays is None else typed(current.shapes, arrays, given)), metrics

    def _taken(self, reply: Any, current: _Training) -> bool:
        """True if a reply has an update that counts; who is refused is noted."""
        node = int(reply.metadata.src_node_id)
        made, reason = self._opened(reply)
        updates = [message for message in made if message.kind == "contribution"]
        if not updates:
            current.left_out[node] = reason or UNREADABLE
            return False
        if reason:
            LOG.warning("qres: node %d: %s", node, reason)
        for message in made:  # what is signed counts, whoever delivered it
            if message.kind == "contribution":
                current.nodes.setdefault(message.sender, node)
                continue
            try:
                current.said[message.sender] = figures.unpacked(message.payload)
            except WireError:
                LOG.warning("qres: figures of node %d cannot be read", node)
        return True

    def _opened(
        self, reply: Any, most: int = MAX_FRAMES
    ) -> tuple[list[hosting.HostedMessage], str]:
        """The messages of a reply that are taken, and why another is not."""
        record = reply.content.get(RECORD)
        if type(record) is not app.ConfigRecord:
            return [], UNWRAPPED
        said: object = record.get(FRAMES, [])
        frames = cast("list[object]", said) if isinstance(said, list) else [None]
        if len(frames) > most:
            return [], UNREADABLE
        link = str(reply.metadata.src_node_id).encode()
        made: list[hosting.HostedMessage] = []
        for frame in frames:
            if type(frame) is not bytes:
                return made, UNREADABLE
            taken = self.coordinator.take(frame, link)
            if isinstance(taken, hosting.HostedRefusal):
                return made, str(taken.reason)
            made.append(taken)
        return made, ""

    def _means(self, current: _Training, weights: Mapping[NodeId, int]) -> Any:
        reports = [
            (weight, current.said[sender])
            for sender, weight in weights.items()
            if sender in current.said
        ]
        means = figures.averaged(reports)
        return app.MetricRecord({**means, self._key: sum(weights.values())})

    def _note(self, number: int, current: _Training, result: hosting.HostedResult) -> None:
        left_out = dict(current.left_out)
        for sender, fact in result.left_out.items():
            if sender in current.nodes and sender not in result.weights:
                left_out.setdefault(current.nodes[sender], str(fact))
        merged = sorted(current.nodes[s] for s in result.weights if s in current.nodes)
        reason = "" if result.merged is not None else result.outcome.reason
        self.rounds.append(FlowerRound(number, tuple(merged), left_out, reason))
        LOG.info("qres: merged %d updates, left out %d nodes", len(merged), len(left_out))
        for node, why in left_out.items():
            LOG.warning("qres: left out node %d: %s", node, why)
        if reason:
            LOG.warning("qres: the model stays as it is: %s", reason)

    # ── evaluation ────────────────────────────────────────────────────────────────────────────

    def configure_evaluate(
        self, server_round: int, arrays: Any, config: Any, grid: Any
    ) -> Iterable[Any]:
        """Send as the strategy inside would, with an announcement that answers must name."""
        messages = list(self.inner.configure_evaluate(server_round, arrays, config, grid))
        if not messages:
            return messages
        name = model_name(arrays)
        task = self._task(messages, arrays, name)
        told = self.coordinator.ask(name, ArrayShapes.of(arrays).size, task)
        return self._announced(messages, told)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Hand the strategy inside the mean of the figures that clients signed, as one reply.

        The number of examples counts up to ``swarm.weight_cap``. Figures that are not finite, or
        that most do not give, do not count.
        """
        errors: list[Any] = []
        reports: list[tuple[int, Mapping[str, figures.Figure]]] = []
        nodes: list[int] = []
        heard: set[NodeId] = set()
        carrier: Any = None
        for reply in list(replies):
            if reply.has_error():
                errors.append(_plain_error(reply))
                continue
            node = int(reply.metadata.src_node_id)
            found, reason = self._figures(reply, heard)
            if found is None:
                LOG.warning("qres: no figures of node %d: %s", node, _plain(reason))
                continue
            carrier = reply
            nodes.append(node)
            reports.append(found)
        if carrier is None:
            return None
        expected = figures.forms([record for _weight, record in reports])
        for node, (_weight, record) in zip(nodes, reports, strict=True):
            strange = figures.odd(record, expected)
            if strange:
                LOG.warning(
                    "qres: figures of node %d do not all count: it %s", node, _plain(strange)
                )
        means = {**figures.averaged(reports), self._key: sum(weight for weight, _ in reports)}
        carrier.content = app.RecordDict({"metrics": app.MetricRecord(means)})
        return self.inner.aggregate_evaluate(server_round, [carrier, *errors])

    def _figures(
        self, reply: Any, heard: set[NodeId]
    ) -> tuple[tuple[int, Mapping[str, figures.Figure]] | None, str]:
        made, reason = self._opened(reply)
        reports = [message for message in made if message.kind != "contribution"]
        if reason or len(reports) != 1 or reports[0].sender in heard:
            return None, reason or UNREADABLE
        heard.add(reports[0].sender)
        try:
            found = figures.unpacked(reports[0].payload)
            cap = self._host.config.swarm.weight_cap
            return (figures.examples(found, self._key, cap), found), ""
        except (WireError, ValueRefusedError) as error:
            return None, str(error.problems[0])


def _plain(text: str) -> str:
    """One line for a log, whatever a client put into it."""
    line = "".join(each if each.isprintable() else "?" for each in text[: _MOST_TEXT + 1])
    return line if len(line) <= _MOST_TEXT else f"{line[:_MOST_TEXT]}…"


def _plain_error(reply: Any) -> Any:
    reply.error = app.Error(reply.error.code, _plain(str(reply.error.reason)))
    return reply


def _check_inner(strategy: object) -> None:
    if not isinstance(strategy, strategies.Strategy):
        what = f"is a {type(strategy).__name__}, and no strategy of Flower's Message API"
        fix = "one of flwr.serverapp.strategy"
        raise OptionError.of("QRES-E105", "QresStrategy.strategy", what, fix)
    known = [kind for name in _BY_REPLIES if (kind := getattr(strategies, name, None)) is not None]
    kinds = (QresStrategy, *known)
    seen: list[object] = []
    inner: object = strategy
    while inner is not None and not any(inner is each for each in seen):
        if isinstance(inner, kinds):
            what = f"{type(inner).__name__} needs the clients' replies, and gets a merged one"
            fix = "FedAvg inside, and the rule or the privacy in the configuration"
            raise CompatibilityError.of("QRES-E323", "QresStrategy.strategy", what, fix)
        seen.append(inner)
        inner = getattr(inner, "strategy", None)  # as Flower's own wrappers name it


def _check_finite(arrays: Mapping[str, Any]) -> None:
    """Clients would refuse all else: from what is infinite no difference can be counted."""
    for name, array in arrays.items():
        if not np.isfinite(opened(name, array)).all():
            what = "the first model has numbers that are NaN or infinite"
            fix = "begin with finite numbers; a best value so far can begin with a large one"
            raise ValueRefusedError.of("QRES-E501", f"arrays[{name!r}]", what, fix)


def _check_sent(
    messages: Sequence[Any], arrays: Mapping[str, Any], names: tuple[bytes, bytes]
) -> None:
    """Clients count their difference from what they are sent, so it must be the model."""
    checked: set[int] = set()
    for message in messages:
        _key, record = single(message.content, "message")
        known = record is arrays or id(record) in checked
        if not known and (model_name(record), bytes_name(record)) != names:
            what = "the strategy inside sends another model than it was given"
            fix = "a strategy that sends the arrays as they are"
            raise ValueRefusedError.of("QRES-E502", "QresStrategy.strategy", what, fix)
        checked.add(id(record))
