"""The attacks of the lab's registry, played against one call of a rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import attacks
from qres_core.contract.types import Update, Vector
from qres_lab.testing.builders import make_round_info
from qres_lab.testing.rules import ContractViolationError

Rows = NDArray[np.int64]
Rule = Callable[[Rows], Rows]
"""A rule as an attacker may try it: inputs of shape ``(n, d)`` to a result of shape ``(d,)``."""

_LATE: Final = 1000
"""A round number by which every sleeper is awake."""


@attrs.frozen
class Lies:
    """Rows that an attack sends to a rule.

    Attributes:
        attack: name of the attack in the registry.
        rows: one row a liar, int64, shape ``(f, d)``; ``None`` if nothing of it reaches a rule.
        why: why not, else empty.
    """

    attack: str
    rows: Rows | None
    why: str = ""


@functools.cache
def _brought() -> Mapping[str, attacks.RegisteredAttack]:
    return attacks.catalogue()


def known_attacks() -> Mapping[str, attacks.RegisteredAttack]:
    """The registry: the built-in attacks, and those of installed distributions.

    Raises:
        PluginError: every attack of a distribution that cannot be used.
    """
    return {**_brought(), **attacks.ATTACKS}


def registered_lies(honest: Rows, liars: int, rule: Rule, *, seed: int = 0) -> Iterator[Lies]:
    """Rows of every attack of the registry, knowing all that it may know.

    Args:
        honest: the honest rows, within int32, shape ``(n - f, d)``.
        liars: ``f``.
        rule: the rule under attack, which attacks that search may try.
        seed: decides everything random.

    Yields:
        the lies of each attack in the order of the registry. What the kernel would not let through
        to a rule (a wrong length, silence) is named with the reason.

    Raises:
        PluginError: an attack of another distribution cannot be used.
    """
    for name, registered in known_attacks().items():
        yield _lies(name, registered, honest, liars, rule, seed)


def _lies(
    name: str, registered: attacks.RegisteredAttack, honest: Rows, liars: int, rule: Rule, seed: int
) -> Lies:
    crew = [registered.make(None) for _ in range(liars)]
    if isinstance(crew[0], attacks.DataAttack):
        return Lies(name, None, "poisons training data, not a call")
    sent: list[Rows] = []
    board: dict[str, Any] = {}
    for index, attack in enumerate(crew):
        forgeries = attack.forge(_context(honest, liars, index, rule, board, seed))
        if not forgeries:
            return Lies(name, None, "sends nothing")
        octets = forgeries[-1].octets  # of two contributions of one sender at most one is admitted
        if len(octets) != 4 * honest.shape[1]:
            return Lies(name, None, "wrong length: never reaches a rule")
        sent.append(np.frombuffer(octets, dtype="<i4").astype(np.int64))
    return Lies(name, np.stack(sent))


def _context(
    honest: Rows, liars: int, index: int, rule: Rule, board: dict[str, Any], seed: int
) -> attacks.AttackContext:
    rows = honest.astype(np.int32)
    return attacks.AttackContext(
        round_info=make_round_info(
            rows.shape[1], nodes=len(rows) + liars, byzantine=liars, number=_LATE
        ),
        model=np.zeros_like(rows[0]),
        own=Update(rows[index % len(rows)]),
        honest=rows,
        attackers=liars,
        index=index,
        rng=np.random.default_rng((seed, index)),
        probe=functools.partial(_probe, honest, liars, rule),
        board=board,
    )


def _probe(honest: Rows, liars: int, rule: Rule, forged: NDArray[np.int32]) -> Vector | None:
    try:
        merged = rule(np.concatenate([honest, forged.astype(np.int64)]))
    except ContractViolationError:
        if len(forged) < liars:  # a rule may refuse that
            return None
        raise
    return merged.astype(np.int32)
