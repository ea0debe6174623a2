"""Calling a user's trainer: with the round where it asks for it, and explained where it fails."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import attrs
import numpy as np

from qres_core.contract.errors import QresError, ValueRefusedError
from qres_core.contract.fixed import MAX_SCALE
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import RememberingTrainer, Trainer
from qres_core.contract.types import Update, Vector

MAX_TRACEBACK: Final = 8000
MAX_ERROR: Final = 1000
"""Characters of what a trainer's exception says; the status and the log hold them."""
_OURS: Final = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - pathlib takes time to import
_FEW: Final = 200
_AN_UPDATE: Final = (
    "return Update.of(fixed.encode(difference, scale=round_info.scale), weight=examples)"
)
_GROWTH_BITS: Final = 2


@attrs.frozen
class TrainerFailure:
    """Error of a trainer in a round, and its place in the trainer's code.

    Attributes:
        method: ``fit``, ``evaluate``, ``validate``, ``reference`` or ``remember``.
        round: number of the round.
        error: what it raised, or the value it returned and why that is refused.
        file: path of the user's code; empty where nothing was raised.
        line: in that file; 0 where nothing was raised.
        traceback: the whole of it; empty where nothing was raised.
    """

    method: str
    round: int
    error: str
    file: str = ""
    line: int = 0
    traceback: str = ""

    @property
    def summary(self) -> str:
        """One line: what failed, why and where."""
        at = f" ({self.file}, line {self.line})" if self.file else ""
        return f"trainer failed in {self.method}: {self.error}{at}"

    def to_json(self) -> dict[str, object]:
        """Plain data for a status: ``method``, ``round``, ``error``, ``file`` and ``line``."""
        said = attrs.asdict(self)
        del said["traceback"]
        return said


class TrainerError(ValueRefusedError):
    """A trainer failed: QRES-E512.

    Attributes:
        failure: what, where.
    """

    failure: TrainerFailure

    @classmethod
    def about(
        cls, failure: TrainerFailure, node: str = "", fix: str = "correct the trainer"
    ) -> TrainerError:
        """The error of a failure, at the node of that name."""
        at = f", in {failure.file}, line {failure.line}" if failure.file else ""
        where = f"{node} trainer.{failure.method}".strip()
        error = cls.of("QRES-E512", where, f"{failure.error}{at}", fix)
        error.failure = failure
        return error


def _place(error: BaseException) -> tuple[str, int]:
    """The innermost line of the user's own code: what is installed is seldom to blame."""
    import traceback  # noqa: PLC0415 - takes time to import, and few trainers fail

    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith((_OURS, "<"))
        and "site-packages" not in frame.filename
        and "/lib/python" not in frame.filename
    ]
    user = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    frame = (own or user or list(frames))[-1]
    return frame.filename, frame.lineno or 0


def _cut(made: Callable[[], str], most: int) -> str:
    """A text of the user's own making: it may be of any length, and fail."""
    try:
        text = made()
    except Exception as error:  # noqa: BLE001 - whatever it is, a message is about something else
        return f"(its text cannot be made: {type(error).__name__})"
    return text if len(text) <= most else text[:most] + "…"


def raised(method: str, number: int, error: BaseException) -> TrainerFailure:
    """The failure of a method that raised."""
    import traceback  # noqa: PLC0415 - as above

    said: object = error.problems[0] if isinstance(error, QresError) else error
    text = f"{type(error).__name__}: {_cut(lambda: str(said), MAX_ERROR)}"
    file, line = _place(error)
    whole = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
    return TrainerFailure(method, number, text, file, line, whole)


def described(value: Any) -> str:
    """A value that is refused, for a message.

    Example:
        >>> described(np.zeros(3))
        'an array of float64, shape (3,)'
    """
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return f"an array of {value.dtype}, shape {value.shape}"
    return f"{type(value).__name__} {_cut(lambda: repr(value), _FEW)}"


def fitted(
    trainer: Trainer, model: Vector, round_info: RoundInfo, *, node: str = ""
) -> Update | None:
    """Result of a trainer's ``fit``; ``None`` where it says that there is nothing new.

    Args:
        trainer: the user's.
        model: the round's model, int32, shape ``(d,)``.
        round_info: the round.
        node: name of the node, for the message.

    Raises:
        TrainerError: QRES-E512: it raised, or returned something else.
    """
    try:
        untyped: Any = trainer
        update: Any = untyped.fit(model, round_info)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit or a CancelledError would end the node's thread
        raise TrainerError.about(raised("fit", round_info.number, error), node) from error
    if update is None:
        return None
    if not isinstance(update, Update):
        said = f"returned {described(update)}, and not an Update"
        raise TrainerError.about(TrainerFailure("fit", round_info.number, said), node, _AN_UPDATE)
    if update.vector.size != model.size:
        said = f"returned {update.vector.size} coordinates, and the model has {model.size}"
        raise TrainerError.about(TrainerFailure("fit", round_info.number, said), node)
    return update


def kept_by(trainer: RememberingTrainer, number: int, *, node: str = "") -> bytes:
    """Result of a trainer's ``remember``.

    Args:
        trainer: the user's.
        number: of the round that it trained in last.
        node: name of the node, for the message.

    Raises:
        TrainerError: QRES-E512: it raised, or returned something else.
    """
    try:
        kept: object = trainer.remember()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise TrainerError.about(raised("remember", number, error), node) from error
    if type(kept) is not bytes:
        said = f"returned {described(kept)}, and not bytes"
        raise TrainerError.about(TrainerFailure("remember", number, said), node)
    return kept


def evaluated(
    evaluate: Callable[..., Mapping[str, float]],
    model: Vector,
    round_info: RoundInfo,
    *,
    node: str = "",
) -> dict[str, float]:
    """A trainer's figures of a model.

    Args:
        evaluate: the trainer's method; it is given the round if it takes a second argument.
        model: int32, shape ``(d,)``.
        round_info: the round that made the model.
        node: name of the node, for the message.

    Raises:
        TrainerError: QRES-E512: it raised, or returned something else than numbers by name.
    """
    try:
        figures: object = with_round(evaluate)(model, round_info)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise TrainerError.about(raised("evaluate", round_info.number, error), node) from error
    try:
        made = cast("Mapping[str, float]", figures)
        return {str(name): float(value) for name, value in made.items()}
    except Exception as error:
        said = f"returned {described(figures)}, and not numbers by name"
        raise TrainerError.about(
            TrainerFailure("evaluate", round_info.number, said), node
        ) from error


@contextmanager
def answering(method: str, round_info: RoundInfo) -> Generator[None]:
    """A method of the trainer that a plugin asks, which decides what becomes of an error.

    Raises TrainerError: QRES-E512 for what is no :class:`Exception`, but for Ctrl-C: a SystemExit
    or a CancelledError would pass through the plugin, and end the node.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise TrainerError.about(raised(method, round_info.number, error)) from error


def finer_grid(update: Update, model: Vector, round_info: RoundInfo) -> str | None:
    """Remedy for an update that the grid swallowed; ``None`` where it did not, or cannot be told.

    Args:
        update: what a trainer made.
        model: the round's model, int32, shape ``(d,)``; it and the largest of the update must fit
            into a finer grid too, with room to grow to four times the size.
        round_info: the round.
    """
    lost = update.rounding
    if lost is None or not lost.lossy:
        return None
    held = (model, update.vector)
    largest = max(int(np.abs(vector.astype(np.int64)).max()) for vector in held)
    # At an exponent lower by k the weights are 2**k times as many steps, and 2**31 there are.
    room = max(0, 31 - _GROWTH_BITS - largest.bit_length())
    scale = max(lost.scale, round_info.scale - room, -MAX_SCALE)
    if scale <= lost.scale + _GROWTH_BITS and scale < round_info.scale:
        return f"set swarm.scale = {scale}, on every node"
    return "no grid holds such small steps beside the weights: make larger steps"


def vanishing(update: Update, fix: str) -> str:
    """One sentence for an update of which :func:`finer_grid` knows a remedy."""
    lost = update.rounding
    assert lost is not None  # noqa: S101 - or there would be no remedy
    what = f"{lost.vanished} of the {lost.moved} values that training changed"
    return f"{what} are below half a step of the grid and vanish: {fix}"


def with_round(method: Callable[..., Any]) -> Callable[[Vector, RoundInfo], Any]:
    """A method that takes a model and the round, from one that may take the model alone.

    The second argument is taken for the round if it must be given or is called ``round_info``; one
    of that name may also be given by name only.
    """
    parameters = _parameters(method)
    if _takes_round(parameters):
        return method
    if any(item.name == "round_info" and item.kind is item.KEYWORD_ONLY for item in parameters):
        return lambda vector, round_info: method(vector, round_info=round_info)

    def alone(vector: Vector, _round_info: RoundInfo) -> Any:
        return method(vector)

    return alone


def _parameters(method: Callable[..., Any]) -> list[inspect.Parameter]:
    """None where Python cannot tell, as for some built-in functions."""
    try:
        return list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return []


def _takes_round(parameters: Sequence[inspect.Parameter]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [item for item in parameters if item.kind in kinds]
    if len(positional) > 1:
        second = positional[1]
        return second.default is inspect.Parameter.empty or second.name == "round_info"
    return any(item.kind is inspect.Parameter.VAR_POSITIONAL for item in parameters)
