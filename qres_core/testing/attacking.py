"""The attacks of the lab's registry, played against one call of a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.types import Update
from qres_core.lab import attacks
from qres_core.testing.builders import make_round_info

Rows = NDArray[np.int64]
Rule = Callable[[Rows], Rows]
"""A rule as an attacker may try it: inputs of shape ``(n, d)`` to a result of shape ``(d,)``."""

_POISON: Final = frozenset({"backdoor", "label_flip"})
"""Attacks on the training data; they need a task to train."""
_LATE: Final = 1000


@attrs.frozen
class Lies:
    """What an attack sends to a rule.

    Attributes:
        attack: name of the attack in the registry.
        rows: one row a liar, int64, shape ``(f, d)``; ``None`` if nothing of it reaches a rule.
        why: why not, else empty.
    """

    attack: str
    rows: Rows | None
    why: str = ""


def registered_lies(honest: Rows, liars: int, rule: Rule, *, seed: int = 0) -> Iterator[Lies]:
    """What every attack of the registry sends, knowing all that it may know.

    Args:
        honest: the honest rows, within int32, shape ``(n - f, d)``.
        liars: ``f``.
        rule: the rule under attack, which attacks that search may try.
        seed: decides everything random.

    Yields:
        the lies of each attack in the order of the registry. What the kernel would not let through
        to a rule (a wrong length, silence) is named with the reason.
    """
    for name in attacks.ATTACKS:
        yield _lies(name, honest, liars, rule, seed)


def _lies(name: str, honest: Rows, liars: int, rule: Rule, seed: int) -> Lies:
    if name in _POISON or getattr(attacks.ATTACKS[name], "poison", None):
        return Lies(name, None, "poisons training data, which one call of a rule has not")
    attack = attacks.make_attack(name)
    sent: list[Rows] = []
    for index in range(liars):
        forgeries = attack.forge(_context(honest, liars, index, rule, seed))
        if not forgeries:
            return Lies(name, None, "sends nothing")
        octets = forgeries[-1].octets  # of two contributions of one sender at most one is admitted
        if len(octets) != 4 * honest.shape[1]:
            return Lies(name, None, "refused before any rule: wrong length")
        sent.append(np.frombuffer(octets, dtype="<i4").astype(np.int64))
    return Lies(name, np.stack(sent))


def _context(
    honest: Rows, liars: int, index: int, rule: Rule, seed: int
) -> attacks.AttackContext:
    rows = honest.astype(np.int32)
    given: dict[str, Any] = {
        "round_info": make_round_info(
            rows.shape[1], nodes=len(rows) + liars, byzantine=liars, number=_LATE
        ),
        "model": np.zeros(rows.shape[1], dtype=np.int32),
        "own": Update(rows[index % len(rows)]),
        "honest": rows,
        "attackers": liars,
        "index": index,
        "rng": np.random.default_rng((seed, index)),
    }
    known = {field.name for field in attrs.fields(cast("Any", attacks.AttackContext))}
    if "probe" in known:
        given["probe"] = _probe(rule)
    return attacks.AttackContext(**{name: one for name, one in given.items() if name in known})


def _probe(rule: Rule) -> Callable[[NDArray[np.int32]], NDArray[np.int32]]:
    def probe(vectors: NDArray[np.int32]) -> NDArray[np.int32]:
        return rule(np.asarray(vectors).astype(np.int64)).astype(np.int32)

    return probe
