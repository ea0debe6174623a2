"""Builders of the data that hooks take, with every field a test does not care about filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import (
    DIGEST_BYTES,
    NodeId,
    NodeInfo,
    Updates,
    Visibility,
)
from qres_core.contract.wire import Envelope

SWARM: Final = "testing"
MODEL_DIGEST: Final = bytes(range(DIGEST_BYTES))
HEAD: Final = MODEL_DIGEST[::-1]


def make_node_ids(count: int) -> tuple[NodeId, ...]:
    """Identities as uneven as public keys are.

    Args:
        count: how many.

    Returns:
        ``count`` distinct identities of 32 bytes, ascending; the same every time.
    """
    return tuple(sorted(hashlib.sha256(b"node %d" % index).digest() for index in range(count)))


def _integers(values: ArrayLike, where: str, low: int, high: int) -> NDArray[np.int64]:
    raw = np.asarray(values)
    if raw.dtype.kind not in "iu":
        raise ValueRefusedError.of(
            "QRES-E503", where, f"expected integers, got {raw.dtype}", "encode with qres_core.fixed"
        )
    if raw.size and (int(raw.min()) < low or int(raw.max()) > high):
        raise ValueRefusedError.of("QRES-E503", where, f"a value is outside {low}..{high}")
    return raw.astype(np.int64)


def make_updates(
    vectors: ArrayLike,
    weights: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    senders: Sequence[NodeId] | None = None,
    visibility: Visibility = Visibility.INDIVIDUAL,
) -> Updates:
    """The updates of a round.

    Args:
        vectors: integers on the grid, shape ``(n, d)``. Copied.
        weights: ``n`` integers, 1..2**30; all 1 if left out.
        senders: ``n`` identities, ascending; made up if left out.
        visibility: what the rows are.

    Returns:
        read-only updates.

    Raises:
        ValueRefusedError: QRES-E503 for anything but integers that fit int32 (NaN has no place on
            the grid), QRES-E502 for another shape, QRES-E506 for a weight.

    Example:
        >>> make_updates([[1, 2], [3, 4], [5, 6]]).dimension
        2
    """
    limits = np.iinfo(np.int32)
    rows = _integers(vectors, "vectors", limits.min, limits.max).astype(np.int32)
    count = rows.shape[0] if rows.ndim else 0
    heavy = np.ones(count, dtype=np.int64) if weights is None else np.array(weights, dtype=np.int64)
    names = make_node_ids(count) if senders is None else tuple(senders)
    return Updates(rows, names, heavy, visibility)


def make_round_info(
    dimension: int = 1,
    *,
    nodes: int = 4,
    byzantine: int = 0,
    number: int = 1,
    scale: int = 0,
    swarm: str = SWARM,
    model_digest: bytes = MODEL_DIGEST,
) -> RoundInfo:
    """A round of a swarm in which every node contributes.

    Args:
        dimension: ``d``.
        nodes: size of the roster, and the quorum.
        byzantine: the fault bound ``f``.
        number: round number, from 1.
        scale: power-of-two exponent of the grid.
        swarm: the swarm's name.
        model_digest: 32 bytes.

    Returns:
        the round.
    """
    return RoundInfo(
        swarm=swarm,
        number=number,
        model_digest=model_digest,
        dimension=dimension,
        scale=scale,
        roster=make_node_ids(nodes),
        quorum=nodes,
        byzantine=byzantine,
        head=HEAD,
    )


def make_node_info(
    *,
    nodes: int = 4,
    index: int = 0,
    byzantine: int = 0,
    swarm: str = SWARM,
    data_dir: str | None = None,
) -> NodeInfo:
    """One node of the roster that :func:`make_round_info` makes.

    Args:
        nodes: size of the roster.
        index: which of them, 0 to ``nodes - 1``.
        byzantine: the fault bound ``f``.
        swarm: the swarm's name.
        data_dir: folder for the plugin's state, or ``None``.

    Returns:
        what ``setup`` and ``transport`` are given.
    """
    roster = make_node_ids(nodes)
    return NodeInfo(roster[index], swarm, roster, byzantine=byzantine, data_dir=data_dir)


def make_envelope(
    *,
    sender: NodeId | None = None,
    payload: bytes = b"payload",
    kind: str = "contribution",
    round_number: int = 1,
    sequence: int = 0,
    time_ms: int = 1_700_000_000_000,
    swarm: str = SWARM,
    head: bytes = HEAD,
) -> Envelope:
    """A message without authenticators.

    Args:
        sender: identity, 32 bytes; the first of the roster if left out.
        payload: the content.
        kind: message kind.
        round_number: the round.
        sequence: sequence number of the sender.
        time_ms: sender's clock, milliseconds since 1970.
        swarm: the swarm's name.
        head: 32 bytes.

    Returns:
        the envelope; add authenticators with :meth:`~qres_core.Envelope.with_auth`.

    Raises:
        WireError: QRES-E404 names the field.
    """
    return Envelope(
        swarm=swarm,
        kind=kind,
        round=round_number,
        head=head,
        sender=make_node_ids(1)[0] if sender is None else sender,
        sequence=sequence,
        time_ms=time_ms,
        payload=payload,
    )
