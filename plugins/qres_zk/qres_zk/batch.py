"""Many proofs for the price of few multiplications, and who is to blame if one does not hold."""

from __future__ import annotations

from collections.abc import Sequence

from qres_core.errors import WireError
from qres_zk.bundle import ProofBundle
from qres_zk.norm import CombinedEquations, holds, prepare
from qres_zk.statement import Context, NormStatement


def verify_batch(
    statement: NormStatement, items: Sequence[tuple[Context, bytes]]
) -> tuple[int, ...]:
    """Check encoded proofs of one statement together, see :func:`failing`.

    ``items``: for each proof, its context and its bytes. Returns the indices of those that do not
    hold, ascending; empty if all do.
    """
    bad: list[int] = []
    where: list[int] = []
    bundles: list[tuple[Context, ProofBundle]] = []
    for index, (context, data) in enumerate(items):
        try:
            bundles.append((context, ProofBundle.from_bytes(data, statement)))
            where.append(index)
        except WireError:
            bad.append(index)
    return tuple(sorted([*bad, *(where[at] for at in failing(statement, bundles))]))


def failing(
    statement: NormStatement, items: Sequence[tuple[Context, ProofBundle]]
) -> tuple[int, ...]:
    """Proofs, of many proofs of one statement, that do not hold.

    Every equation of every proof has a randomiser of its own, drawn afresh, so errors of two
    proofs cannot cancel. Only where the whole does not hold, halves of it are tried.

    Args:
        statement: the verifier's own.
        items: for each proof, its context and the bundle.

    Returns:
        their indices, ascending; empty if all hold.

    Complexity: one multiplication of ``n (b + 2 log b + 6) + m`` points, and ``2 c log2 n`` smaller
        ones for ``c`` bad proofs; O(n d) word operations.
    """
    bad: list[int] = []
    terms: dict[int, CombinedEquations] = {}
    for index, (context, bundle) in enumerate(items):
        try:
            terms[index] = prepare(statement, context, bundle)
        except WireError:
            bad.append(index)
    if terms:
        bad += _culprits(statement, terms, list(terms))
    return tuple(sorted(bad))


def _culprits(
    statement: NormStatement, terms: dict[int, CombinedEquations], part: list[int]
) -> list[int]:
    if holds(statement, [terms[index] for index in part]):
        return []
    if len(part) == 1:
        return part
    middle = len(part) // 2
    return [
        *_culprits(statement, terms, part[:middle]),
        *_culprits(statement, terms, part[middle:]),
    ]
