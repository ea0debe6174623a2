"""FedAvgM, FedAdam and FedYogi as wrappers: the rule merges, and the optimiser makes the step.

The state of an optimiser follows from what the swarm agreed on: which sets were decided, and which
models they made. A node that was told of every height since the state last began holds it. One that
was not, because it caught up or took a model from others, cannot merge (QRES-E608): it takes the
models that others make until it holds the state again.

After a height without a model the state begins anew, at all nodes that were told. Too many nodes
may lack the state: a swarm that loses it stands still for one height. Or a plugin refused the step:
kept, the state would lead to the same step for ever.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import attrs
import numpy as np

from qres_core import (
    Claims,
    NodeInfo,
    Outcome,
    Reads,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Updates,
    Vector,
    fixed,
    hookimpl,
    options,
)
from qres_core.errors import Problem, RoundError
from qres_server_optimiser.state import FRESH, Arrays, OptimiserState
from qres_server_optimiser.steps import (
    Reals,
    adam_moment,
    adaptive_step,
    momentum_step,
    yogi_moment,
)

NAMES: Final = frozenset({"fedadam", "fedavgm", "fedyogi"})
"""Of all optimisers."""
MOST: Final = 1e6
"""Largest learning rate: its products with any merged update stay far within a float64."""


@attrs.define(eq=False)
class _ServerOptimiser(ABC):
    """Common part of the optimisers: when a state holds, and for which model."""

    _name: ClassVar[str] = ""
    _state: OptimiserState = attrs.field(init=False, factory=OptimiserState, repr=False)
    _next: tuple[bytes, Arrays] | None = attrs.field(init=False, default=None, repr=False)

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Refuse votes on what would be merged, and an optimiser around this one.

        Yields QRES-E303: a set that gets no vote leaves the model and the state as they are. So the
        next step would be the same, and would be refused again, for ever. Around ``fedavgm``,
        ``fedadam`` would make a whole step again of what is left of its own last one, whatever is
        merged: the model would go the same way for ever.
        """
        for other in sorted(NAMES.intersection(around.altered_by)):
            what = f"plugins.{other} would make a step of this step, and there is one optimiser"
            fix = f"remove [plugins.{other}] or [plugins.{self._name}]"
            yield Problem("QRES-E303", f"plugins.{self._name}", what, fix)
        for judge in around.judges:
            what = (
                f"plugins.{judge} votes on what would be merged, which is a step; a step that is "
                "refused comes again, for ever"
            )
            fix = (
                f"remove [plugins.{judge}] or [plugins.{self._name}]; a plugin that judges after "
                f"the merge can stay, before [plugins.{self._name}]"
            )
            yield Problem("QRES-E303", f"plugins.{self._name}", what, fix)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the state, or begin with none where nothing may be kept. Raises QRES-E602."""
        self._state = OptimiserState.open(self._name, node_info)

    @hookimpl
    def teardown(self) -> None:
        self._state.close()

    def remember(self) -> bytes:
        """The state of the current model, for a simulation's checkpoint."""
        return self._state.raw()

    def recall_agreed(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Refuses other bytes."""
        self._state.set_raw(memory)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Make a step along what the rule merges.

        Raises QRES-E608 where this node lacks the state of the round's model. O(d).
        """
        arrays, dimension = self._held(round_info), round_info.dimension
        if arrays is None or any(array.shape != (dimension,) for array in arrays):
            what = "this node was not told of every step since the optimiser last began"
            fix = "none: it takes the models of others until it holds the state again"
            raise RoundError.of("QRES-E608", f"plugins.{self._name}", what, fix)
        arrays = arrays or self._first(dimension, round_info)
        step, after = self._step(proceed(updates), arrays, round_info)
        # Only decided sets are merged, because nothing votes on what would be merged.
        self._next = round_info.model_digest, after
        return step

    def _held(self, round_info: RoundInfo) -> Arrays | None:
        """The state of a round's model; ``None`` if it is not known here."""
        return FRESH if self._begins(round_info) else self._state.of(round_info)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Go on to the state of the next height. Raises QRES-E602."""
        info, made = outcome.round_info, self._next
        if outcome.status is RoundStatus.ABORTED:
            return
        self._next = None
        after: Arrays | None = FRESH
        if outcome.status is RoundStatus.CLOSED:
            own = made is not None and made[0] == info.model_digest and outcome.merged
            after = self._after(outcome, made[1] if made is not None and own else None)
        if after is not None:
            self._state.becomes(outcome.model_digest, info.height + 1, after)

    @abstractmethod
    def _begins(self, round_info: RoundInfo) -> bool:
        """True if the state begins anew with this round, whatever was before."""

    @abstractmethod
    def _first(self, dimension: int, round_info: RoundInfo) -> Arrays:
        """Vectors for :data:`FRESH`, of so many coordinates."""

    @abstractmethod
    def _step(self, merged: Vector, arrays: Arrays, round_info: RoundInfo) -> tuple[Vector, Arrays]:
        """The step along what was merged, and the state after it, of the round's coordinates."""

    @abstractmethod
    def _after(self, outcome: Outcome, made: Arrays | None) -> Arrays | None:
        """The state of the new model; ``made``: what this node made of the set, if it did."""


def _rate(default: float, words: str) -> Any:
    return attrs.field(
        default=default,
        validator=options.real(above=0, high=MOST),
        metadata={"help": words},
    )


def _share(default: float, words: str) -> Any:
    return attrs.field(
        default=default, validator=options.real(0, below=1), metadata={"help": words}
    )


@attrs.define(eq=False)
class FedAvgM(_ServerOptimiser):
    """FedAvgM: a step goes on along the last one, and along what the rule merges.

    ``step = momentum * last step + learning_rate * merged``. The last step is what the round before
    added to the model, so every node reads it off two agreed models. A node that caught up holds it
    again after one round.

    Robustness: what the rule promises holds for what it merges. An error of length ``e`` in every
    merge adds up to ``learning_rate * e / (1 - momentum)`` in a step.

    Attributes:
        learning_rate: above 0, at most a million.
        momentum: from 0, below 1; 0 with a rate of 1 is plain federated averaging.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity:
        O(d); a vector is written and synced in a round.

    Source:
        Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
        Visual Classification", 2019, section 4.3; Reddi et al., "Adaptive Federated Optimization",
        ICLR 2021, algorithm 1 with momentum at the server.

    Example:
        >>> from qres_lab.testing import make_round_info, make_updates
        >>> updates = make_updates([[2], [4], [6]])
        >>> mean = lambda updates: np.int32([4])
        >>> FedAvgM(learning_rate=0.5).wrap_aggregate(mean, updates, make_round_info(1)).tolist()
        [2]
    """

    _name: ClassVar[str] = "fedavgm"
    learning_rate: float = _rate(1.0, "Factor of what the rule merges. 1 takes it as it is.")
    momentum: float = _share(0.9, "Share of the last step that the next one repeats. Below 1.")

    @property
    def claims(self) -> Claims:
        """It works with whatever a rule merges, and promises nothing of its own."""
        reach = self.learning_rate / (1.0 - self.momentum)
        notice = (
            f"what the rule promises holds for what it merges: a step is up to {reach:.3g} times "
            "as far off, if liars pull every merge the same way"
        )
        notices = (notice,) if self.momentum or reach > 1 else ()
        return Claims(tolerates=None, notices=notices, reads=Reads.NOTHING)

    def _begins(self, round_info: RoundInfo) -> bool:
        return round_info.step == 0

    def _first(self, dimension: int, round_info: RoundInfo) -> Arrays:
        del round_info
        return (np.zeros(dimension, dtype=np.int32),)

    def _step(self, merged: Vector, arrays: Arrays, round_info: RoundInfo) -> tuple[Vector, Arrays]:
        del round_info
        last, momentum = arrays[0], self.momentum
        step = momentum_step(merged, last, learning_rate=self.learning_rate, momentum=momentum)
        return step, FRESH

    def _after(self, outcome: Outcome, made: Arrays | None) -> Arrays | None:
        del made  # what all nodes added to the model, whoever merged it
        return None if outcome.change is None else (outcome.change,)


@attrs.define(eq=False)
class _Adaptive(_ServerOptimiser):
    """FedAdam and FedYogi, which differ in their second moment."""

    learning_rate: float = _rate(
        0.01, "About how far a coordinate moves in a round, in model units, if its updates agree."
    )
    beta1: float = _share(0.9, "Share of the mean of past merges that stays. Below 1.")
    beta2: float = _share(0.99, "Share of the mean of their squares that stays. Below 1.")
    tau: float = attrs.field(
        default=0.001,
        validator=options.real(1e-9, MOST, unit="model units"),
        metadata={"help": "Merged values well below it move a coordinate less, in model units."},
    )
    restart: int = attrs.field(
        default=64,
        validator=options.whole(1),
        metadata={
            "help": "Models after which both means start again from nothing. A node that lacks "
            "them merges again from then on."
        },
    )

    @property
    def claims(self) -> Claims:
        """It works with whatever a rule merges, and promises nothing of its own."""
        notice = (
            "what the rule promises holds for what it merges: each coordinate is divided by its "
            "own size, so that small errors in quiet coordinates become whole steps, and a large "
            "one leaves short steps until the next restart"
        )
        return Claims(tolerates=None, notices=(notice,), reads=Reads.NOTHING)

    @abstractmethod
    def _moment(self, second: Reals, square: Reals, beta2: float) -> Reals:
        """The next second moment, see :mod:`qres_server_optimiser.steps`."""

    def _begins(self, round_info: RoundInfo) -> bool:
        return round_info.step % self.restart == 0

    def _first(self, dimension: int, round_info: RoundInfo) -> Arrays:
        tau = math.ldexp(self.tau, fixed.FRACTION_BITS - round_info.scale)
        return np.zeros(dimension), np.zeros(dimension) + tau * tau

    def _step(self, merged: Vector, arrays: Arrays, round_info: RoundInfo) -> tuple[Vector, Arrays]:
        units = fixed.FRACTION_BITS - round_info.scale
        tau = math.ldexp(self.tau, units)
        first, second = arrays
        step, first, second = adaptive_step(
            merged,
            first,
            second,
            self._moment,
            learning_rate=math.ldexp(self.learning_rate, units),
            beta1=self.beta1,
            beta2=self.beta2,
            tau=tau,
        )
        return step, (first, second)

    def _after(self, outcome: Outcome, made: Arrays | None) -> Arrays | None:
        del outcome
        return made


@attrs.define(eq=False)
class FedAdam(_Adaptive):
    """FedAdam: each coordinate steps by the mean of past merges over the root of their mean square.

    A node that took a model from others does not know what was merged. It merges again from the
    next model on whose number is a multiple of ``restart``.

    Robustness: what the rule promises holds for what it merges, not for a step. If
    ``beta1**2 < beta2``, a coordinate moves at most ``learning_rate * (1 - beta1) / sqrt((1 -
    beta2) * (1 - beta1**2 / beta2))`` in a round, whatever is merged: 2.35 times the rate with the
    defaults. Liars reach that in a coordinate in which honest updates are small.

    Attributes:
        learning_rate: above 0, at most a million, in model units.
        beta1: from 0, below 1.
        beta2: from 0, below 1.
        tau: from 1e-9, in model units.
        restart: 1 or more; the same on every node.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity:
        O(d); two float64 vectors are written and synced in a round.

    Source:
        Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated
        Optimization", ICLR 2021, algorithm 2. The restarts are not in it.

    Example:
        >>> from qres_lab.testing import make_round_info, make_updates
        >>> updates = make_updates([[2000], [4000], [6000]])
        >>> mean = lambda updates: np.int32([4000])
        >>> FedAdam(learning_rate=0.01).wrap_aggregate(mean, updates, make_round_info(1)).tolist()
        [557]
    """

    _name: ClassVar[str] = "fedadam"

    def _moment(self, second: Reals, square: Reals, beta2: float) -> Reals:
        return adam_moment(second, square, beta2)


@attrs.define(eq=False)
class FedYogi(_Adaptive):
    """FedYogi: FedAdam with rates that recover slowly after large merges.

    The mean of the squares shrinks by no more than what is merged, so a coordinate that was loud
    once keeps small steps for long. Everything else is as for :class:`FedAdam`, but for the bound
    on a coordinate's step, which is not known.

    Attributes:
        learning_rate: above 0, at most a million, in model units.
        beta1: from 0, below 1.
        beta2: from 0, below 1.
        tau: from 1e-9, in model units.
        restart: 1 or more; the same on every node.

    Raises:
        OptionError: QRES-E105, an option is of another type or out of range; the message names it.

    Complexity:
        O(d); two float64 vectors are written and synced in a round.

    Source:
        Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2. The restarts are
        not in it.
    """

    _name: ClassVar[str] = "fedyogi"

    def _moment(self, second: Reals, square: Reals, beta2: float) -> Reals:
        return yogi_moment(second, square, beta2)
