"""The data that hooks pass about updates and nodes; rounds and evidence have modules beside it.

Everything here is immutable, and arrays are made read-only on the way in, so that no plugin can
change what the next one sees.
"""

from __future__ import annotations

import enum
import hashlib
import mmap
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.companion import Companion
from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.products import inner_products
from qres_core.contract.record_clip import RecordClip

Vector: TypeAlias = NDArray[np.int32]
"""A model or update as one flat vector: int32 on the Q16.16 grid, shape ``(d,)``."""

NodeId: TypeAlias = bytes
"""A node's identity: 32 bytes, the Ed25519 public key where signatures are enabled."""

_Number = TypeVar("_Number", bound=np.generic)

NODE_ID_BYTES: Final = 32
"""Bytes of a :data:`NodeId`."""
DIGEST_BYTES: Final = 32
"""Bytes of the digest of a model, a vector or a contribution."""
MAX_WEIGHT: Final = 2**30
"""Largest weight of an update, and of a row of updates."""
FULL_STANDING: Final = 2**32
"""The standing of a node nobody has anything against: 1.0 in units of 2**-32."""


def _immutable(array: NDArray[Any]) -> bool:
    """True if neither the array nor what it is a view of can be written."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        part = cast("NDArray[Any]", owner)
        if type(part) is not np.ndarray or part.flags.writeable:
            return False
        owner = part.base
    if type(owner) is memoryview:
        return type(owner.obj) is bytes or (type(owner.obj) is mmap.mmap and owner.readonly)
    return owner is None or type(owner) is bytes


def _frozen_copy(array: NDArray[_Number]) -> NDArray[_Number]:
    copied = np.array(array, order="C")
    copied.flags.writeable = False
    return copied


def _freeze(array: NDArray[_Number]) -> NDArray[_Number]:
    """The array itself, made read-only, if it owns its data; a copy of a view or a subclass."""
    if not array.flags.c_contiguous:
        return _frozen_copy(array)
    if _immutable(array):
        return array
    if type(array) is np.ndarray and array.flags.owndata:
        array.flags.writeable = False
        return array
    return _frozen_copy(array)


def _require_int32(array: Any, where: str, *, shape: str, ndim: int) -> NDArray[np.int32]:
    found: object = getattr(array, "dtype", type(array).__name__)
    if not isinstance(array, np.ndarray) or found != np.int32:
        raise ValueRefusedError.of(
            "QRES-E503", where, f"expected int32, got {found}", "encode with qres_core.fixed.encode"
        )
    checked = cast("NDArray[np.int32]", array)
    if checked.ndim != ndim or checked.size == 0:
        raise ValueRefusedError.of(
            "QRES-E502", where, f"expected shape {shape}, got {checked.shape}"
        )
    return checked


def check_vector(vector: object, where: str, *, dimension: int | None = None) -> Vector:
    """Return ``vector`` as a read-only int32 vector of shape ``(d,)``.

    Args:
        vector: the candidate; nothing is converted and native byte order is required. An array
            that is C-contiguous and read-only down to the memory it views is returned as it is;
            every other is copied, so that a later change of the caller's array does not show.
        where: field name for the error.
        dimension: required length, if known.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype, QRES-E502 for another shape.

    Complexity: O(d) to copy, else O(1).
    """
    checked = _require_int32(vector, where, shape="(d,)", ndim=1)
    if dimension is not None and checked.size != dimension:
        raise ValueRefusedError.of(
            "QRES-E502", where, f"expected {dimension} coordinates, got {checked.size}"
        )
    if checked.flags.c_contiguous and _immutable(checked):
        return checked
    return _frozen_copy(checked)


def vector_digest(vector: Vector) -> bytes:
    """SHA-256 of a model vector, domain-separated; equal on every machine.

    Args:
        vector: int32, shape ``(d,)``.

    Returns:
        32 bytes.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype, QRES-E502 for another shape.

    Complexity: O(d), without a copy on little-endian machines.
    """
    checked = _require_int32(vector, "vector", shape="(d,)", ndim=1)
    digest = hashlib.sha256(b"qres/vector/v1\0" + checked.size.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(checked, dtype="<i4").data)
    return digest.digest()


def model_digest(vector: Vector, step: int) -> bytes:
    """Names a model in the chain of models a swarm makes, bound to its place in it.

    The place counts: a round whose merged update is zero makes the same vector again, and messages
    about the two must not be taken for each other.

    Args:
        vector: the model, int32, shape ``(d,)``.
        step: how many rounds closed before it; 0 for the initial model.

    Returns:
        32 bytes.
    """
    place = b"qres/model/v1\0" + step.to_bytes(8, "little")
    return hashlib.sha256(place + vector_digest(vector)).digest()


def _vector_converter(value: object) -> Vector:
    return check_vector(value, "vector")


def _no_metrics() -> Mapping[str, float]:
    return {}


def _no_proofs() -> Mapping[str, bytes]:
    return {}


def _no_companions() -> Mapping[str, Companion]:
    return {}


def _remade(kind: Callable[..., object], values: dict[str, Any]) -> object:
    return kind(**values)


class _Immutable:
    """Can be pickled and copied, though it holds read-only views of maps, which cannot."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again of its fields, and checked as the first time."""
        kind: Any = type(self)
        values = {field.name: getattr(self, field.name) for field in attrs.fields(kind)}
        plain = {
            name: dict(cast("Any", value)) if type(value) is MappingProxyType else value
            for name, value in values.items()
        }
        return _remade, (kind, plain)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: nothing in it ever changes."""
        return self


def _check_weight(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= MAX_WEIGHT:
        raise ValueRefusedError.of("QRES-E506", "weight", f"{value!r} is not in 1..{MAX_WEIGHT}")


def _frozen_mapping(value: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType(dict(value))


def _frozen_proofs(value: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return MappingProxyType(dict(value))


def _frozen_companions(value: Mapping[str, Companion]) -> Mapping[str, Companion]:
    return MappingProxyType(dict(value))


@attrs.frozen(kw_only=True)
class Rounding:
    """Effect of an encoding on small values.

    Attributes:
        moved: values that were not zero.
        vanished: those of them below half a step, which are zero on the grid.
        scale: the exponent of a grid on which a middling value of ``moved`` has 16 steps,
            which may be below any there is; 0 where less than half of them vanished.
    """

    moved: int
    vanished: int
    scale: int = 0

    @property
    def lossy(self) -> bool:
        """True if most of what moved is lost."""
        return 2 * self.vanished > self.moved


@attrs.frozen(eq=False)
class Encoded:
    """The result of ``qres_core.fixed.encode``.

    Attributes:
        vector: int32, shape ``(d,)``.
        saturated: how many coordinates were outside the range and are now ``±LIMIT``.
        rounding: what became of small values; ``None`` where nothing was rounded.
    """

    vector: Vector
    saturated: int
    rounding: Rounding | None = None


@attrs.frozen(eq=False)
class Update(_Immutable):
    """Change by one node's training: the difference from the round's model.

    Attributes:
        vector: ``local model - round model``, int32 on the task's grid, shape ``(d,)``.
        weight: number of examples trained on, 1..2**30. A claim of the sender; capped by
            ``swarm.weight_cap`` before it counts.
        saturated: coordinates that the encoding clipped to the grid's range.
        metrics: local figures for the log (loss, accuracy). They never leave the node.
        companions: what ``privatize`` plugins send beside the vector, by plugin name.
        rounding: what the encoding made of small values; ``None`` where that is not known.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503, QRES-E506.
    """

    vector: Vector = attrs.field(converter=_vector_converter)
    weight: int = attrs.field(default=1, validator=_check_weight)
    saturated: int = 0
    metrics: Mapping[str, float] = attrs.field(factory=_no_metrics, converter=_frozen_mapping)
    companions: Mapping[str, Companion] = attrs.field(
        factory=_no_companions, converter=_frozen_companions
    )
    rounding: Rounding | None = None

    @classmethod
    def of(
        cls, encoded: Encoded, *, weight: int = 1, metrics: Mapping[str, float] | None = None
    ) -> Update:
        """The update of an encoded difference, with what the encoding clipped and lost.

        Args:
            encoded: what ``qres_core.fixed.encode`` made of ``local model - round model``.
            weight: number of examples trained on.
            metrics: local figures for the log.

        Raises:
            ValueRefusedError: QRES-E502, QRES-E503, QRES-E506.
        """
        return cls(
            encoded.vector,
            weight=weight,
            saturated=encoded.saturated,
            metrics=metrics or {},
            rounding=encoded.rounding,
        )


@attrs.frozen(eq=False)
class Contribution(_Immutable):
    """An update as it arrived from a node, after authentication and replay checks.

    Attributes:
        sender: identity of the node that signed it.
        digest: names the contribution in a set by what it says: swarm, round, model, sender and
            payload, not sequence or time. 32 bytes.
        vector: int32, shape ``(d,)``; a view of the message, so that its address need not be a
            multiple of 4: numpy takes it as it is, ``np.require(vector, requirements="A")`` is for
            code that does not.
        weight: the sender's claim, already capped.
        proofs: proof bytes by plugin name.
        companions: what came beside the vector, by plugin name, as sent.
        root: in a sharded round, what fixes all coordinates of the vector, 32 bytes: the Merkle
            root of its shards. The vector itself is then with committees, and ``vector`` is a
            single zero, but at the node that made it. Empty in every other round.
    """

    sender: NodeId
    digest: bytes
    vector: Vector = attrs.field(converter=_vector_converter)
    weight: int = attrs.field(validator=_check_weight)
    proofs: Mapping[str, bytes] = attrs.field(factory=_no_proofs, converter=_frozen_proofs)
    companions: Mapping[str, Companion] = attrs.field(
        factory=_no_companions, converter=_frozen_companions
    )
    root: bytes = b""


class Visibility(enum.IntEnum):
    """View that the aggregation has of the contributions, from least to most."""

    SUM = 0
    GROUP = 1
    INDIVIDUAL = 2


def _check_rows(_instance: object, _attribute: object, value: Any) -> None:
    _require_int32(value, "updates.vectors", shape="(n, d)", ndim=2)


def _check_row_weights(instance: Updates, _attribute: object, value: Any) -> None:
    expected = (instance.vectors.shape[0],)
    found: object = getattr(value, "dtype", None), getattr(value, "shape", None)
    if not isinstance(value, np.ndarray) or found != (np.int64, expected):
        raise ValueRefusedError.of(
            "QRES-E506", "updates.weights", f"expected int64 of shape {expected}"
        )
    weights = cast("NDArray[np.int64]", value)
    if weights.min() < 1 or weights.max() > MAX_WEIGHT:
        raise ValueRefusedError.of("QRES-E506", "updates.weights", f"must be in 1..{MAX_WEIGHT}")


def _check_products(instance: Updates, _attribute: object, value: Any) -> None:
    n = instance.vectors.shape[0]
    if value is None:
        return
    if getattr(value, "dtype", None) != np.object_ or getattr(value, "shape", None) != (n, n):
        what = f"expected Python integers of shape ({n}, {n})"
        raise ValueRefusedError.of("QRES-E502", "updates.products", what)


def _no_members() -> tuple[tuple[NodeId, ...], ...]:
    return ()


def _no_row_companions() -> Mapping[str, tuple[Companion, ...]]:
    return {}


def _frozen_row_companions(
    value: Mapping[str, tuple[Companion, ...]],
) -> Mapping[str, tuple[Companion, ...]]:
    return MappingProxyType(dict(value))


def _check_sums(instance: Updates, _attribute: object, value: Any) -> None:
    if value is None:
        return
    expected = instance.vectors.shape
    found: object = getattr(value, "dtype", None), getattr(value, "shape", None)
    if not isinstance(value, np.ndarray) or found != (np.int64, expected):
        raise ValueRefusedError.of(
            "QRES-E502", "updates.sums", f"expected int64 of shape {expected}"
        )


@attrs.frozen(eq=False)
class Updates(_Immutable):
    """The agreed contributions of a round, stacked, in ascending order of sender.

    Attributes:
        vectors: int32, shape ``(n, d)``, read-only. An array that owns its data and is C-contiguous
            is taken over and made read-only, without a copy; a view is copied. The same holds for
            ``weights``.
        senders: ``n`` identities, ascending and distinct; of a row that several nodes went into,
            the lowest of theirs.
        weights: int64, shape ``(n,)``, each 1..2**30: capped example count times standing. The
            same on every node, because the set they come from is agreed. Of a row that several
            nodes went into, the sum of theirs.
        visibility: whether rows are single updates, means of groups or the mean of all.
        members: whose updates each row holds, ascending; by default each sender's own.
        sums: the exact weighted sums behind the rows, int64, shape ``(n, d)``, where a plugin
            revealed sums: ``vectors`` are then these divided by ``weights``, rounded half to even.
        companions: by plugin name, one for each row; residues are summed as the rows are.
        products: the exact inner product of every two whole updates, Python integers, shape
            ``(n, n)``, where ``vectors`` are a range of their coordinates alone; ``None`` where
            they are whole. Only rules and wrappers that claim ``Reads.PRODUCTS`` are given any;
            what they pass on need not have new ones.
        opened: in a sharded round the exact sums that committees opened with ``reveal_shard``,
            int64, shape ``(rows, d)``, for the ``reveal`` of the same plugin. ``vectors`` then have
            a single zero in the place of each vector. ``None`` everywhere else.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503, QRES-E506.
    """

    vectors: NDArray[np.int32] = attrs.field(validator=_check_rows)
    senders: tuple[NodeId, ...]
    weights: NDArray[np.int64] = attrs.field(validator=_check_row_weights)
    visibility: Visibility = Visibility.INDIVIDUAL
    members: tuple[tuple[NodeId, ...], ...] = attrs.field(factory=_no_members)
    sums: NDArray[np.int64] | None = attrs.field(default=None, validator=_check_sums)
    companions: Mapping[str, tuple[Companion, ...]] = attrs.field(
        factory=_no_row_companions, converter=_frozen_row_companions
    )
    products: NDArray[Any] | None = attrs.field(default=None, validator=_check_products)
    opened: NDArray[np.int64] | None = None

    def __attrs_post_init__(self) -> None:
        n = self.vectors.shape[0]
        if type(self.senders) is not tuple or any(
            type(sender) is not bytes for sender in self.senders
        ):
            raise ValueRefusedError.of("QRES-E502", "updates.senders", "expected a tuple of bytes")
        if len(self.senders) != n or any(
            a >= b for a, b in zip(self.senders, self.senders[1:], strict=False)
        ):
            raise ValueRefusedError.of(
                "QRES-E502", "updates.senders", f"expected {n} distinct senders, ascending"
            )
        if not self.members:
            object.__setattr__(self, "members", tuple((sender,) for sender in self.senders))
        self._check_members(n)
        object.__setattr__(self, "vectors", _freeze(self.vectors))
        object.__setattr__(self, "weights", _freeze(self.weights))
        if self.sums is not None:
            object.__setattr__(self, "sums", _freeze(self.sums))

    def _check_members(self, n: int) -> None:
        named = [item for row in self.members for item in row]
        ascending = all(list(row) == sorted(row) for row in self.members)
        if (
            len(self.members) != n
            or len(set(named)) != len(named)
            or not ascending
            or any(
                row[:1] != (sender,) for row, sender in zip(self.members, self.senders, strict=True)
            )
        ):
            what = "expected for each row its members, ascending, the sender first, nobody twice"
            raise ValueRefusedError.of("QRES-E502", "updates.members", what)
        for name, companions in self.companions.items():
            if type(companions) is not tuple or len(companions) != n:
                what = f"expected one for each of {n} rows"
                raise ValueRefusedError.of("QRES-E502", f"updates.companions.{name}", what)

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def dimension(self) -> int:
        """Number of coordinates ``d``."""
        return int(self.vectors.shape[1])

    def inner_products(self) -> NDArray[Any]:
        """The exact inner product of every two whole updates, given or computed.

        A rule or wrapper that looks at whole updates through these alone, and otherwise at each
        coordinate by itself, claims ``Reads.PRODUCTS`` without more ado.

        Returns:
            Python integers, shape ``(n, n)``, symmetric; in squared grid steps.

        Complexity: O(n**2 d) where they are not given.
        """
        return inner_products(self.vectors) if self.products is None else self.products

    def take(self, rows: NDArray[np.intp]) -> Updates:
        """The updates at ``rows``, for wrappers that drop some.

        Args:
            rows: ascending distinct indices, intp, shape ``(m,)``, at least one.

        Raises:
            ValueRefusedError: QRES-E502 for none, unsorted or repeated rows.
            IndexError: a row out of range.
        """
        return Updates(
            self.vectors[rows],
            tuple(self.senders[int(i)] for i in rows),
            self.weights[rows],
            self.visibility,
            tuple(self.members[int(i)] for i in rows),
            None if self.sums is None else self.sums[rows],
            {
                name: tuple(companions[int(i)] for i in rows)
                for name, companions in self.companions.items()
            },
            None if self.products is None else self.products[np.ix_(rows, rows)],
        )


@attrs.frozen
class NodeInfo:
    """Facts that a plugin may know about the node it runs in, at start.

    Attributes:
        node_id: this node's identity, 32 bytes.
        swarm: the swarm's name.
        roster: identities of all nodes, ascending.
        byzantine: the fault bound ``f`` of the swarm.
        data_dir: folder for the plugin's state, or ``None`` where nothing may be kept (lab).
        seed: seed for reproducible experiments, or ``None``. Never a source of secrets.
        validates: whether the node's trainer can judge models on held-out examples.
        references: whether it can make an update of its own from them, to compare others with.
        pooled: whether it says that they come from a pool that stands for the whole task.
        clipped: what one example may add to the node's update; ``None`` where the trainer does not
            clip single examples.
        visibility: what the enabled ``privatize`` plugins leave visible of contributions.
        colluding: share of the nodes that the plugin that hides them takes for colluding; in a
            round of so many members count them with :func:`~qres_core.claims.most_colluders`.
        rows: fewest rows that the enabled rule and the wrappers around it work with.
        noised: whether an enabled plugin adds noise to contributions.
        observer: true where there is no node: a tool checks what nodes of the swarm signed. It has
            no key and no certificate, ``node_id`` is 32 zero bytes and nothing may be kept.
        hosted: true inside another framework: a dialogue of this node must be a
            :class:`~qres_core.dialogues.HostedDialogue`.
    """

    node_id: NodeId
    swarm: str
    roster: tuple[NodeId, ...]
    byzantine: int = 0
    data_dir: str | None = None
    seed: int | None = None
    validates: bool = False
    references: bool = False
    pooled: bool = False
    clipped: RecordClip | None = None
    visibility: Visibility = Visibility.INDIVIDUAL
    observer: bool = False
    colluding: float = 0.0
    rows: int = 1
    noised: bool = False
    hosted: bool = False
