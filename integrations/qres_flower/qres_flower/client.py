"""A Flower ClientApp as a trainer of QRES: a node's share of the data, in a swarm."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import numpy as np

from qres_core import RoundInfo, Update, Vector, canonical, check_vector, fixed
from qres_core.errors import ConfigError, QresError, ValueRefusedError
from qres_flower import keeping
from qres_flower.app import FlowerProject, Setting, with_settings
from qres_flower.border import RECORD, single
from qres_flower.border import app as flwr
from qres_flower.draws import drawn_by, seed_of
from qres_flower.first import EVALUATE, TRAIN, first_messages
from qres_flower.mod import unprotected
from qres_flower.shapes import ArrayShapes

_ROUND: Final = "server-round"
_TTL: Final = 43_200.0
_SERVER: Final = 1
_WHERE: Final = "trainer.options"
_MEMORY: Final = "qres-flower/memory/v1"
_FITS, _SCORES = 0, 1  # what is drawn for


@attrs.define(eq=False, slots=False)
class FlowerTrainer:
    """Trains a node by the ``train`` function of a ClientApp, and measures by ``evaluate``.

    Each round the client gets the message that the app's own server sends in its first round, with
    the swarm's model in place of the arrays and the number of the round. What it keeps in
    ``context.state`` stays with it. Generators of Python, numpy and torch are seeded for each round
    by seed, index and round.

    Attributes:
        project: the app.
        settings: of the run: ``context.run_config``.
        place: ``context.node_config``: ``partition-id`` and ``num-partitions``, and more.
        train: records of the message of training.
        evaluate_by: records of the message of evaluation.
        seed: of what the client draws.
        weighted_by: the figure of a reply that is the update's weight; empty, all weigh the same.
        judge_by: the figure of evaluation by which models are judged, lower is better; empty: the
            node does not judge.
    """

    project: FlowerProject
    settings: Mapping[str, Setting]
    place: Mapping[str, Setting]
    train: bytes = attrs.field(repr=False)
    evaluate_by: bytes = attrs.field(repr=False)
    seed: int = 0
    weighted_by: str = "num-examples"
    judge_by: str = ""
    shapes: ArrayShapes = attrs.field(init=False, repr=False)
    validate: Callable[[Vector, RoundInfo], float] = attrs.field(init=False, repr=False)
    # of the last round: its number, and what the client kept before and after it
    _number: int = attrs.field(default=0, init=False)
    _before: bytes = attrs.field(default=b"", init=False, repr=False)
    _after: bytes = attrs.field(default=b"", init=False, repr=False)
    _app: Any = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        _name, record = single(keeping.unpack(self.train), TRAIN)
        self.shapes = ArrayShapes.of(record)
        if self.judge_by:  # on the instance: without it there is no such method, and QRES looks
            self.validate = self._validate

    def __getstate__(self) -> dict[str, Any]:
        """All but the app, which another process loads for itself."""
        mine = ("_app", "validate")
        return {name: value for name, value in vars(self).items() if name not in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what another process had."""
        vars(self).update(state, _app=None)
        if self.judge_by:
            self.validate = self._validate

    def vector(self, scale: int) -> Vector:
        """The arrays of the first message: int32, shape ``(d,)``.

        Raises ValueRefusedError: QRES-E501 for NaN, QRES-E503 for numbers beyond the grid.
        """
        _name, record = single(keeping.unpack(self.train), TRAIN)
        encoded = fixed.encode(self.shapes.numbers(record), scale=scale)
        if encoded.saturated:
            what = f"{encoded.saturated} numbers of the first model are beyond the grid"
            raise ValueRefusedError.of("QRES-E503", "arrays", what, "raise swarm.scale")
        return encoded.vector

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Have the client train; ``None`` where it says that it had no examples.

        Raises ValueRefusedError: QRES-E501 to QRES-E503 and QRES-E506 for replies that cannot be
        used, QRES-E507 where the client answers with an error.
        """
        real = self._decoded(vector, round_info)
        if round_info.number != self._number:
            self._before, self._number = self._after, round_info.number
        drawn = seed_of(self.seed, int(self.place["partition-id"]), round_info.number, _FITS)
        reply, kept = self._asked(self.train, TRAIN, real, round_info, self._before, drawn)
        figures = _figures(reply)
        weight = self._weight(figures)
        if not weight:
            self._after = kept
            return None
        _name, record = single(reply, TRAIN)
        returned = self.shapes.numbers(record)
        encoded = fixed.encode(returned - real, scale=round_info.scale)
        self._after = kept  # of a round that was refused nothing is kept
        return Update.of(encoded, weight=weight, metrics=_told(figures, self.weighted_by))

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """The figures of the client's ``evaluate`` function; nothing where it has none."""
        return _told(self._scored(vector, round_info), self.weighted_by)

    def base_digest(self) -> bytes:
        """SHA-256 of the names, shapes and types of the arrays: a vector does not tell them."""
        shapes = self.shapes
        kinds = list(shapes.kinds)
        told = canonical.dumps([list(shapes.names), list(map(list, shapes.shapes)), kinds])
        return hashlib.sha256(told).digest()

    def remember(self) -> bytes:
        """Memory of the client in ``context.state``, before and after the last round."""
        return canonical.dumps([_MEMORY, self._number, self._before, self._after])

    def recall(self, memory: bytes) -> None:
        """Go on with it. Raises ValueRefusedError: QRES-E503 for anything else."""
        try:
            number, before, after = _remembered(memory)
        except (QresError, ValueError, TypeError) as error:
            what = f"is not what a client of Flower kept: {error}"
            fix = "begin without it"
            raise ValueRefusedError.of("QRES-E503", "FlowerTrainer", what, fix) from error
        self._number, self._before, self._after = number, before, after

    def _validate(self, vector: Vector, round_info: RoundInfo) -> float:
        figures = self._scored(vector, round_info)
        if self.judge_by not in figures:
            what = f"the client's evaluation has no {self.judge_by!r}; it has {sorted(figures)}"
            fix = "name another figure, or leave judge_by out"
            raise ValueRefusedError.of("QRES-E507", f"{_WHERE}.judge_by", what, fix)
        return figures[self.judge_by]

    def _scored(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        real = self._decoded(vector, round_info)
        drawn = seed_of(self.seed, int(self.place["partition-id"]), round_info.number, _SCORES)
        try:
            reply, _kept = self._asked(
                self.evaluate_by, EVALUATE, real, round_info, self._after, drawn
            )
        except ValueError as error:
            if str(error).startswith("No evaluate function"):
                return {}
            raise
        return _figures(reply)

    def _decoded(self, vector: Vector, round_info: RoundInfo) -> Any:
        check_vector(vector, "model", dimension=self.shapes.size)
        return fixed.decode(vector, scale=round_info.scale)

    def _asked(
        self,
        template: bytes,
        category: str,
        real: Any,
        round_info: RoundInfo,
        state: bytes,
        drawn: int,
    ) -> tuple[Any, bytes]:
        """Reply of the client to a message, and its memory then."""
        index = int(self.place["partition-id"])
        content = keeping.unpack(template)
        content.pop(RECORD, None)  # of a strategy of ours: here the swarm does what it announces
        content[next(iter(content.array_records))] = self.shapes.record(real)
        for record in content.config_records.values():
            if _ROUND in record:
                record[_ROUND] = round_info.step + 1
        metadata = flwr.Metadata(
            run_id=1,
            message_id=f"{category}-{index}-{round_info.number}",
            src_node_id=_SERVER,
            dst_node_id=_SERVER + 1 + index,
            reply_to_message_id="",
            group_id=str(round_info.step + 1),
            created_at=time.time(),
            ttl=_TTL,
            message_type=category,
        )
        context = flwr.Context(
            run_id=1,
            node_id=_SERVER + 1 + index,
            node_config=dict(self.place),
            state=keeping.unpack(state) if state else flwr.RecordDict(),
            run_config=dict(self.settings),
        )
        with drawn_by(drawn), unprotected():
            if self._app is None:
                self._app = self.project.client_app()
            reply = self._app(flwr.Message(content=content, metadata=metadata), context)
        if not isinstance(reply, flwr.Message):
            what = f"the client returned a {type(reply).__name__}, and no Message"
            raise ValueRefusedError.of("QRES-E507", category, what, "return Message(…, reply_to=…)")
        if reply.has_error():
            what = f"the client answered with error {reply.error.code}: {reply.error.reason}"
            raise ValueRefusedError.of("QRES-E507", category, what, "correct the client")
        return reply.content, keeping.pack(context.state)

    def _weight(self, figures: Mapping[str, float]) -> int:
        if not self.weighted_by:
            return 1
        if self.weighted_by not in figures:
            what = f"the reply has no figure {self.weighted_by!r}; it has {sorted(figures)}"
            fix = f'add it to the metrics, or set {_WHERE}.weighted_by, "" for equal weights'
            raise ValueRefusedError.of("QRES-E506", TRAIN, what, fix)
        found = figures[self.weighted_by]
        if not (np.isfinite(found) and found >= 0 and found == int(found)):
            what = f"{self.weighted_by!r} is {found}"
            raise ValueRefusedError.of("QRES-E506", TRAIN, what, "write a whole number from 0")
        return int(found)


def _remembered(memory: bytes) -> tuple[int, bytes, bytes]:
    form, number, before, after = canonical.loads(memory, max_bytes=len(memory))
    if form != _MEMORY or type(number) is not int or number < 0:
        raise ValueError("another form")
    for kept in (before, after):
        if kept:
            keeping.unpack(kept)
    return number, before, after


def _figures(records: Any) -> dict[str, float]:
    """The numbers of all metric records by name; lists are left out.

    Clients of the older form write ``num_examples``, which is known by the newer name too, and
    their figures are in a record of settings.
    """
    old = [each for name, each in records.config_records.items() if name.endswith("res.metrics")]
    found = {
        name: float(value)
        for record in (*records.metric_records.values(), *old)
        for name, value in record.items()
        if isinstance(value, (int, float))
    }
    if "num_examples" in found:
        found.setdefault("num-examples", found.pop("num_examples"))
    return found


def _told(figures: Mapping[str, float], without: str) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name != without}


def make(  # noqa: PLR0913 - options of a table, by name
    app: str,
    index: int,
    nodes: int,
    seed: int,
    scale: int,
    *,
    run_config: Mapping[str, Any] | None = None,
    node_config: Mapping[str, Any] | None = None,
    initial: str = "",
    weighted_by: str = "num-examples",
    judge_by: str = "",
) -> tuple[FlowerTrainer, Vector]:
    """A node's trainer and the swarm's first model, for ``trainer.entry``.

    Args:
        app: folder of a Flower app, or ``module:object`` of a ClientApp.
        index: number of the node, its ``partition-id``.
        nodes: ``num-partitions``.
        seed: of what server and clients draw.
        scale: exponent of the grid.
        run_config: settings in place of the app's.
        node_config: more of the node's own settings.
        initial: ``module:function`` of the first arrays: an ``ArrayRecord``, or arrays by name.
            Left out, the app's ServerApp says what it would send first.
        weighted_by: the figure of a reply that is the update's weight; empty, all weigh the same.
        judge_by: the figure of evaluation by which models are judged, lower is better.

    Raises:
        ConfigError: QRES-E101 to QRES-E105 for an app that cannot be found, loaded or begun.
    """
    project = FlowerProject.find(app)
    settings = with_settings(project.settings, run_config or {})
    place = {**(node_config or {}), "partition-id": index, "num-partitions": nodes}
    project.client_app()  # so that one that cannot be loaded is refused before the start
    if initial:
        records = flwr.RecordDict()
        records["arrays"] = _begun(project, initial, seed)
        records["config"] = flwr.ConfigRecord({_ROUND: 1})
        train = evaluate = keeping.pack(records)
    else:
        sent = first_messages(project, tuple(settings.items()), nodes, seed)
        train, evaluate = sent.train, sent.evaluate
    trainer = FlowerTrainer(
        project,
        settings,
        place,
        train,
        evaluate,
        seed=seed,
        weighted_by=weighted_by,
        judge_by=judge_by,
    )
    return trainer, trainer.vector(scale)


def _begun(project: FlowerProject, initial: str, seed: int) -> Any:
    made = project.loaded(initial)
    with drawn_by(seed):
        found: Any = made() if callable(made) else made
    if isinstance(found, flwr.ArrayRecord):
        return found
    try:
        return flwr.ArrayRecord(
            {name: flwr.Array(np.asarray(each)) for name, each in found.items()}
        )
    except Exception as error:
        what = f"{initial!r} gives a {type(found).__name__}, and no arrays by name: {error}"
        fix = "return an ArrayRecord, or a dictionary of arrays"
        raise ConfigError.of("QRES-E104", f"{_WHERE}.initial", what, fix) from error
