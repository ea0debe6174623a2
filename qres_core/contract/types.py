"""The data that hooks pass: vectors, updates, rounds, evidence.

Everything here is immutable, and arrays are made read-only on the way in, so that no plugin can
change what the next one sees.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import ValueRefusedError

Vector: TypeAlias = NDArray[np.int32]
"""A model or update as one flat vector: int32 on the Q16.16 grid, shape ``(d,)``."""

NodeId: TypeAlias = bytes
"""A node's identity: 32 bytes, the Ed25519 public key where signatures are enabled."""

NODE_ID_BYTES: Final = 32
DIGEST_BYTES: Final = 32
MAX_WEIGHT: Final = 2**30
FULL_STANDING: Final = 2**16
"""The standing of a node nobody has anything against: 1.0 in units of 2**-16."""


def check_vector(vector: object, where: str, *, dimension: int | None = None) -> Vector:
    """Return ``vector`` as a read-only int32 vector of shape ``(d,)``.

    Args:
        vector: the candidate; nothing is converted but byte order is required native.
        where: field name for the error.
        dimension: required length, if known.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype, QRES-E502 for another shape.
    """
    if not isinstance(vector, np.ndarray) or vector.dtype != np.int32:
        found = getattr(vector, "dtype", type(vector).__name__)
        raise ValueRefusedError.of(
            "QRES-E503", where, f"expected int32, got {found}", "encode with qres_core.fixed.encode"
        )
    if vector.ndim != 1 or vector.size == 0:
        raise ValueRefusedError.of("QRES-E502", where, f"expected shape (d,), got {vector.shape}")
    if dimension is not None and vector.size != dimension:
        raise ValueRefusedError.of(
            "QRES-E502", where, f"expected {dimension} coordinates, got {vector.size}"
        )
    if vector.flags.writeable or not vector.flags.c_contiguous:
        vector = np.array(vector, dtype=np.int32, order="C")
        vector.flags.writeable = False
    return vector


def vector_digest(vector: Vector) -> bytes:
    """SHA-256 of a model vector, domain-separated; equal on every machine.

    Args:
        vector: int32, shape ``(d,)``.

    Returns:
        32 bytes.
    """
    header = b"qres/vector/v1\0" + vector.size.to_bytes(8, "little")
    little = np.ascontiguousarray(vector, dtype="<i4")
    return hashlib.sha256(header + little.tobytes()).digest()


def _vector_converter(value: object) -> Vector:
    return check_vector(value, "vector")


def _check_weight(_instance: object, _attribute: object, value: object) -> None:
    if type(value) is not int or not 1 <= value <= MAX_WEIGHT:
        raise ValueRefusedError.of("QRES-E506", "weight", f"{value!r} is not in 1..{MAX_WEIGHT}")


def _frozen_mapping(value: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType(dict(value))


@attrs.frozen(eq=False)
class Update:
    """What one node's training changed: the difference from the round's model.

    Attributes:
        vector: ``local model - round model``, int32 on the task's grid, shape ``(d,)``.
        weight: number of examples trained on, 1..2**30. A claim of the sender; capped by
            ``swarm.weight_cap`` before it counts.
        saturated: coordinates that the encoding clipped to the grid's range.
        metrics: local figures for the log (loss, accuracy). They never leave the node.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503, QRES-E506.
    """

    vector: Vector = attrs.field(converter=_vector_converter)
    weight: int = attrs.field(default=1, validator=_check_weight)
    saturated: int = 0
    metrics: Mapping[str, float] = attrs.field(factory=dict, converter=_frozen_mapping)


@attrs.frozen(eq=False)
class Contribution:
    """An update as it arrived from a node, after authentication and replay checks.

    Attributes:
        sender: identity of the node that signed it.
        digest: SHA-256 of the whole envelope's signed part; names this contribution in a set.
        vector: int32, shape ``(d,)``.
        weight: the sender's claim, already capped.
        proofs: proof bytes by plugin name.
    """

    sender: NodeId
    digest: bytes
    vector: Vector = attrs.field(converter=_vector_converter)
    weight: int = attrs.field(validator=_check_weight)
    proofs: Mapping[str, bytes] = attrs.field(factory=dict)


class Visibility(enum.IntEnum):
    """What of the contributions the aggregation can see, from least to most."""

    SUM = 0
    GROUP = 1
    INDIVIDUAL = 2


@attrs.frozen(eq=False)
class Updates:
    """The agreed contributions of a round, stacked, in ascending order of sender.

    Attributes:
        vectors: int32, shape ``(n, d)``, read-only.
        senders: ``n`` identities, ascending and distinct.
        weights: int64, shape ``(n,)``, each 1..2**30: capped example count times standing. The
            same on every node, because the set they come from is agreed.
        visibility: whether rows are single updates, group sums or one sum.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503, QRES-E506.
    """

    vectors: NDArray[np.int32] = attrs.field()
    senders: tuple[NodeId, ...]
    weights: NDArray[np.int64] = attrs.field()
    visibility: Visibility = Visibility.INDIVIDUAL

    @vectors.validator
    def _check_vectors(self, _attribute: object, value: object) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != np.int32:
            found = getattr(value, "dtype", type(value).__name__)
            raise ValueRefusedError.of("QRES-E503", "updates.vectors", f"expected int32: {found}")
        if value.ndim != 2 or 0 in value.shape:
            raise ValueRefusedError.of(
                "QRES-E502", "updates.vectors", f"expected shape (n, d), got {value.shape}"
            )

    @weights.validator
    def _check_weights(self, _attribute: object, value: NDArray[np.int64]) -> None:
        n = self.vectors.shape[0]
        if value.dtype != np.int64 or value.shape != (n,):
            raise ValueRefusedError.of(
                "QRES-E506", "updates.weights", f"expected int64 of shape ({n},)"
            )
        if value.min() < 1 or value.max() > MAX_WEIGHT:
            raise ValueRefusedError.of(
                "QRES-E506", "updates.weights", f"must be in 1..{MAX_WEIGHT}"
            )

    def __attrs_post_init__(self) -> None:
        n = self.vectors.shape[0]
        if len(self.senders) != n or any(
            a >= b for a, b in zip(self.senders, self.senders[1:], strict=False)
        ):
            raise ValueRefusedError.of(
                "QRES-E502", "updates.senders", f"expected {n} distinct senders, ascending"
            )
        self.vectors.flags.writeable = False
        self.weights.flags.writeable = False

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def dimension(self) -> int:
        """Number of coordinates ``d``."""
        return int(self.vectors.shape[1])

    def take(self, rows: NDArray[np.intp]) -> Updates:
        """The updates at ``rows`` (ascending indices), for wrappers that drop some."""
        return Updates(
            self.vectors[rows],
            tuple(self.senders[int(i)] for i in rows),
            self.weights[rows],
            self.visibility,
        )


@attrs.frozen
class NodeInfo:
    """What a plugin may know about the node it runs in, at start.

    Attributes:
        node_id: this node's identity, 32 bytes.
        swarm: the swarm's name.
        roster: identities of all nodes, ascending.
        byzantine: the fault bound ``f`` of the swarm.
        data_dir: folder for the plugin's state, or ``None`` where nothing may be kept (lab).
        seed: seed for reproducible experiments, or ``None``. Never a source of secrets.
    """

    node_id: NodeId
    swarm: str
    roster: tuple[NodeId, ...]
    byzantine: int = 0
    data_dir: str | None = None
    seed: int | None = None


@attrs.frozen
class RoundInfo:
    """One round, the same on every node that takes part in it.

    Attributes:
        swarm: the swarm's name.
        number: round number, from 1; increases with every attempt.
        model_digest: SHA-256 of the model the round starts from.
        dimension: ``d``.
        scale: power-of-two exponent of the grid: a coordinate ``v`` means ``v * 2**(scale - 16)``.
        roster: identities of all nodes, ascending.
        quorum: fewest contributions a round may close with.
        byzantine: the fault bound ``f``.
    """

    swarm: str
    number: int
    model_digest: bytes
    dimension: int
    scale: int
    roster: tuple[NodeId, ...]
    quorum: int
    byzantine: int = 0


class RoundStatus(enum.Enum):
    """How a round ended."""

    CLOSED = "closed"
    ABORTED = "aborted"


@attrs.frozen(eq=False)
class Outcome:
    """What ``round_closed`` is told.

    Attributes:
        round_info: the round.
        status: ``CLOSED`` with a new model, or ``ABORTED`` with nothing changed.
        model_digest: digest of the model after the round.
        members: senders whose contributions were agreed, ascending; empty when aborted.
        reason: why it was aborted, else empty.
    """

    round_info: RoundInfo
    status: RoundStatus
    model_digest: bytes
    members: tuple[NodeId, ...] = ()
    reason: str = ""


@attrs.frozen
class Standing:
    """What ``reputation`` says of a node.

    Attributes:
        weight: influence in units of 2**-16, 0..65536.
        banned: if true, nothing of the node is accepted.
    """

    weight: int = attrs.field(default=FULL_STANDING)
    banned: bool = False

    @weight.validator
    def _check_weight(self, _attribute: object, value: object) -> None:
        if type(value) is not int or not 0 <= value <= FULL_STANDING:
            raise ValueRefusedError.of(
                "QRES-E506", "standing.weight", f"{value!r} is not in 0..{FULL_STANDING}"
            )


@attrs.frozen
class Evidence:
    """A fact about a node, told to ``observe``.

    Attributes:
        subject: the node the fact is about: the sender or the delivering link.
        fact: stable and countable, for example ``"bad proof"``, ``"equivocation"``,
            ``"contributed"``.
        source: plugin that found it, or ``"kernel"``.
        against: true if it speaks against the subject.
        round: round number in which it was seen.
    """

    subject: NodeId
    fact: str
    source: str
    against: bool
    round: int
