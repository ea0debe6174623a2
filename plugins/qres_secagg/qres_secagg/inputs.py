"""Masked inputs as contributions carry them, and their hashes, by which nodes know them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Companion, Contribution, NodeId
from qres_secagg.board import SessionMessages
from qres_secagg.masks import Residues
from qres_secagg.parameters import Parameters
from qres_secagg.ring import incoming, masked_under
from qres_secagg.session import DOMAIN, joined


def input_digest(vector: NDArray[Any], residues: Mapping[str, Residues]) -> bytes:
    """SHA-256 of a masked vector and the masked residues beside it, 32 bytes. O(d)."""
    content = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
    hashed = hashlib.sha256(content.data).digest()
    beside = (
        joined(name.encode(), str(value.modulus).encode(), value.packed())
        for name, value in sorted(residues.items())
    )
    size = str(vector.itemsize).encode()
    return hashlib.sha256(joined(DOMAIN, b"input", size, hashed, *beside)).digest()


def _sealed(vector: NDArray[Any]) -> NDArray[Any]:
    if vector.flags.writeable:
        vector = vector.copy()
        vector.flags.writeable = False
    return vector


def _frozen(residues: Mapping[str, Residues]) -> Mapping[str, Residues]:
    return MappingProxyType(dict(residues))


@attrs.frozen(eq=False)
class Input:
    """A masked input and the hash that names it. It is hashed here, once, and cannot change.

    Attributes:
        vector: ring elements, shape ``(d,)``, read-only; of what may be written a copy is taken. In
            a sharded round a range of them, or none: they are with committees.
        residues: the masked residues beside it.
        named: what names it where its vector is with committees, 32 bytes: the digest of the
            contribution, whose Merkle root fixes every coordinate. Empty in every other round.
        digest: what names it; if nothing else does, :func:`input_digest` of vector and residues.

    Complexity: O(d).
    """

    vector: NDArray[Any] = attrs.field(converter=_sealed)
    residues: Mapping[str, Residues] = attrs.field(converter=_frozen)
    named: bytes = b""
    digest: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        digest = self.named or input_digest(self.vector, self.residues)
        object.__setattr__(self, "digest", digest)


Form = tuple[tuple[str, int, int], ...]
"""Name, modulus and number of every list of residues beside an input."""


def _beside(companions: Mapping[str, Companion]) -> dict[str, Residues]:
    """The residues among companions; open ones are nobody's to sum."""
    return {
        name: Residues(companion.residues(), companion.modulus)
        for name, companion in companions.items()
        if companion.modulus
    }


def _form(residues: Mapping[str, Residues]) -> Form:
    return tuple((name, item.modulus, len(item.values)) for name, item in sorted(residues.items()))


@attrs.frozen(eq=False)
class Inputs:
    """The masked inputs of the agreed contributions, in one form.

    What a liar leaves out, or adds, beside its vector must not keep the others' sums from being
    opened: the residues count in the form that most inputs have them in, and of who has them in
    another form as zeros. Its group's sum of residues is then not what it should be, which is for
    the plugin they belong to to see.
    """

    read_from: tuple[Contribution, ...]  # the contributions
    by_sender: Mapping[NodeId, Input]  # their inputs, with residues all of one form
    odd: tuple[NodeId, ...]  # who sent another form

    @classmethod
    def of(cls, contributions: Sequence[Contribution], parameters: Parameters) -> Inputs:
        """Read contributions. High words that are not there count as zeros. O(d) for each.

        Of contributions to a sharded round the vectors are not here, and are read as empty.
        """
        vectors: dict[NodeId, NDArray[Any]] = {}
        found: dict[NodeId, dict[str, Residues]] = {}
        odd: set[NodeId] = set()
        named: dict[NodeId, bytes] = {}
        for contribution in contributions:
            elsewhere = bool(contribution.root)  # with committees
            vector = contribution.vector[:0] if elsewhere else contribution.vector
            values, is_right = incoming(vector, contribution.companions, parameters)
            if not is_right:
                odd.add(contribution.sender)
            values.flags.writeable = False
            vectors[contribution.sender], found[contribution.sender] = (
                values,
                _beside(contribution.companions),
            )
            if elsewhere:
                named[contribution.sender] = contribution.digest
        counted = Counter(_form(residues) for residues in found.values())
        most = max(counted.values(), default=0)
        form = min((item for item, count in counted.items() if count == most), default=())
        zeros = {name: Residues((0,) * count, modulus) for name, modulus, count in form}
        odd.update(sender for sender, item in found.items() if _form(item) != form)
        inputs = {
            sender: Input(
                vectors[sender],
                item if _form(item) == form else zeros,
                named.get(sender, b""),
            )
            for sender, item in found.items()
        }
        return cls(tuple(contributions), inputs, tuple(sorted(odd)))

    def are_of(self, contributions: Sequence[Contribution]) -> bool:
        """True if they were read from these very objects, which cannot change."""
        return len(contributions) == len(self.read_from) and all(
            contribution is other
            for contribution, other in zip(contributions, self.read_from, strict=True)
        )

    def digests(self) -> dict[NodeId, bytes]:
        """Hashes that the survivor statement binds, by sender."""
        return {sender: item.digest for sender, item in self.by_sender.items()}


def listed(board: SessionMessages, contributions: Sequence[Contribution]) -> list[Contribution]:
    """The contributions of listed nodes that were masked under the list: others have no part in it.

    A leader may tell nodes different lists. What was masked under one has masks that cancel in no
    sum of another.
    """
    members, rank = board.listed().members, board.session.rank
    return [
        contribution
        for contribution in contributions
        if rank.get(contribution.sender, -1) in members
        and masked_under(contribution.companions) == board.list_hash
    ]
