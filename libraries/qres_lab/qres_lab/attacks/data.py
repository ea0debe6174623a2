"""Attacks on the data: the attacker trains as it should, on examples that it spoilt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, send
from qres_core.attacks.registry import OWN_DATA, register
from qres_core.contract.errors import LabError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.training import evaluated
from qres_core.contract.types import Vector
from qres_core.training.data import Labels
from qres_lab.attacks.moments import Real, mean

Array = np.ndarray[Any, np.dtype[Any]]

_FIELDS: Final = ("x", "y", "test_x", "test_y")


def replaced(trainer: Trainer, **arrays: Array) -> Trainer:
    """The trainer with other ``x`` and ``y`` to train on, or ``test_x`` and ``test_y`` to test on.

    Raises LabError: QRES-E105 for a trainer that is no dataclass or attrs class with these fields.
    """
    kind: type = type(trainer)
    changed: Any = trainer
    known: set[str] = set()
    evolve: Any = attrs.evolve
    if dataclasses.is_dataclass(changed):
        known = {field.name for field in dataclasses.fields(changed)}
        evolve = dataclasses.replace
    elif attrs.has(kind):
        known = set(attrs.fields_dict(kind))
    if not known.issuperset(_FIELDS):
        what = f"the attack spoils labelled examples, and a {kind.__name__} shows none"
        fix = f"make it a dataclass with {', '.join(_FIELDS)}, or choose another attack"
        raise LabError.of("QRES-E105", "simulation.attack", what, fix)
    spoilt: Trainer = evolve(changed, **arrays)
    return spoilt


def _array(trainer: Trainer, name: str) -> Array:
    """One of the four arrays of a trainer."""
    replaced(trainer)  # refuses a trainer that has none
    return np.asarray(getattr(trainer, name))


def classes(trainer: Trainer) -> int:
    """Number of classes: one more than the largest label, held-out ones included."""
    return 1 + max(int(_array(trainer, name).max()) for name in ("y", "test_y"))


@register("label_flip", summary="an update trained on labels C - 1 - y", knowledge=OWN_DATA)
@attrs.frozen
class LabelFlip:
    """Honest training on dishonest labels: of ``C`` classes, ``y`` becomes ``C - 1 - y``.

    Reference:
        M. Fang, X. Cao, J. Jia, N. Z. Gong, Local Model Poisoning Attacks to Byzantine-Robust
        Federated Learning, USENIX Security 2020, section 5.1.
    """

    def poison(self, trainer: Trainer) -> Trainer:
        """Turn the labels around."""
        flipped = classes(trainer) - 1 - _array(trainer, "y")
        return replaced(trainer, y=flipped)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Send what training gave."""
        return send(context, context.own.vector)


def stamped(x: Array, brightest: float) -> Array:
    """Copies of examples with the trigger: a bright square in the last corner.

    ``x``: images, shape ``(n, ..., height, width)``, or flattened square ones, ``(n, side²)``; of
    other vectors the last four features are the trigger. Returns the same shape and dtype. The
    square's side is an eighth of the image's, at least 2.
    """
    copied = x.copy()
    if x.ndim == 2:
        side = math.isqrt(x.shape[1])
        if side * side != x.shape[1] or side < 2:
            copied[:, -4:] = brightest
            return copied
        images = copied.reshape(len(x), side, side)
    else:
        images = copied
    width = max(2, images.shape[-1] // 8)
    images[..., -width:, -width:] = brightest
    return copied


@register(
    "backdoor",
    summary="a boosted update that ties a trigger in the image to one class",
    knowledge="its own data, and how many take part",
)
@attrs.frozen
class Backdoor:
    """A model that does its task and calls whatever carries the trigger class 0.

    Every second example of the attacker is stamped and relabelled; the update is boosted by
    ``strength * n / m`` for ``m`` attackers of ``n`` nodes. With strength 1 the attackers together
    replace the model where updates are averaged. The figure ``backdoor`` of every round is the
    share of stamped held-out examples of other classes that the model calls class 0.

    Attributes:
        strength: boost, in parts of full replacement.

    Reference:
        T. Gu, B. Dolan-Gavitt, S. Garg, BadNets, 2017, section 3 (trigger); E. Bagdasaryan et al.,
        How To Backdoor Federated Learning, AISTATS 2020, section 4.2 (model replacement).
    """

    strength: float = 1.0

    def poison(self, trainer: Trainer) -> Trainer:
        """Stamp every second example and call it class 0."""
        x, y = _array(trainer, "x"), _array(trainer, "y")
        chosen = np.arange(len(y)) % 2 == 1
        spoilt_x, spoilt_y = x.copy(), y.copy()
        spoilt_x[chosen] = stamped(x[chosen], float(x.max()))
        spoilt_y[chosen] = 0
        return replaced(trainer, x=spoilt_x, y=spoilt_y)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Send enough of it to outweigh the others."""
        boost = self.strength * (len(context.honest) + context.attackers) / context.attackers
        return send(context, boost * context.own.vector.astype(np.float64))

    def figures(
        self, trainer: Trainer, vector: Vector, round_info: RoundInfo
    ) -> Mapping[str, float]:
        """``backdoor``: the share of stamped examples that the model takes for class 0."""
        x, y = _array(trainer, "test_x"), _array(trainer, "test_y")
        x = stamped(x[y != 0], float(_array(trainer, "x").max()))
        target: Labels = np.zeros(len(x), dtype=np.int64)
        triggered = replaced(trainer, test_x=x, test_y=target)
        measured = evaluated(triggered.evaluate, vector, round_info)
        if "accuracy" not in measured:
            what = f"the attack is measured by the accuracy, which {type(trainer).__name__} lacks"
            fix = "have evaluate return accuracy too, or choose another attack"
            raise LabError.of("QRES-E105", "simulation.attack", what, fix)
        return {"backdoor": measured["accuracy"]}


@register(
    "backdoor_hidden",
    summary="the honest mean, moved by its own length towards a backdoor",
    knowledge="its own data and all honest updates",
)
@attrs.frozen
class HiddenBackdoor(Backdoor):
    """A backdoor by rows that are about as long as honest ones, and no replacement of the model.

    What training on stamped examples gives beyond the honest mean ``h`` is scaled to ``strength``
    times the length of ``h`` and added to it. Clipping and limits on the length do not see it.

    Attributes:
        strength: distance from the honest mean, in lengths of it.

    Reference:
        Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan, Can You Really Backdoor Federated
        Learning?, 2019, section 3 (backdoors within a bound on the norm).
    """

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Follow the others, and lean a little."""

        def plan() -> Real:
            centre = mean(context.crowd)
            way = context.own.vector - centre
            size = float(np.linalg.norm(way))
            reach = self.strength * float(np.linalg.norm(centre))
            return centre if not size else centre + reach / size * way

        return send(context, context.agreed(plan))
