"""Masked inputs as contributions carry them, and their hashes, by which nodes know them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Companion, Contribution, NodeId
from qres_secagg.board import Board
from qres_secagg.masks import Residues
from qres_secagg.parameters import Parameters
from qres_secagg.ring import NAME, incoming
from qres_secagg.session import DOMAIN, joined


def input_digest(vector: NDArray[Any], residues: Mapping[str, Residues]) -> bytes:
    """SHA-256 of a masked vector and the masked residues beside it, 32 bytes. O(d)."""
    content = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
    hashed = hashlib.sha256(content.data).digest()
    beside = (
        joined(name.encode(), str(value.modulus).encode(), str(value.values).encode())
        for name, value in sorted(residues.items())
    )
    size = str(vector.itemsize).encode()
    return hashlib.sha256(joined(DOMAIN, b"input", size, hashed, *beside)).digest()


Form = tuple[tuple[str, int, int], ...]
"""Name, modulus and number of every list of residues beside an input."""


def _beside(companions: Mapping[str, Companion]) -> dict[str, Residues]:
    """The residues among companions; open ones are nobody's to sum."""
    return {
        name: Residues(one.residues(), one.modulus)
        for name, one in companions.items()
        if one.modulus
    }


def _form(residues: Mapping[str, Residues]) -> Form:
    return tuple((name, one.modulus, len(one.values)) for name, one in sorted(residues.items()))


@attrs.frozen(eq=False)
class Inputs:
    """The masked inputs of the agreed contributions, in one form.

    What a liar leaves out, or adds, beside its vector must not keep the others' sums from being
    opened: the residues count in the form that most inputs have them in, and of who has them in
    another form as zeros. Its group's sum of residues is then not what it should be, which is for
    the plugin they belong to to see.

    Attributes:
        vectors: ring elements by sender.
        residues: by sender, all of one form.
        odd: who sent another form.
    """

    vectors: Mapping[NodeId, NDArray[Any]]
    residues: Mapping[NodeId, Mapping[str, Residues]]
    odd: tuple[NodeId, ...]

    @classmethod
    def of(cls, contributions: Sequence[Contribution], parameters: Parameters) -> Inputs:
        """Read contributions. High words that are not there count as zeros. O(d) for each."""
        vectors: dict[NodeId, NDArray[Any]] = {}
        found: dict[NodeId, dict[str, Residues]] = {}
        odd: set[NodeId] = set()
        for one in contributions:
            values = incoming(one.vector, one.companions.get(NAME), parameters)
            if values is None:
                values = one.vector.view(np.uint32).astype(np.uint64)
                odd.add(one.sender)
            vectors[one.sender], found[one.sender] = values, _beside(one.companions)
        counted = Counter(_form(residues) for residues in found.values())
        most = max(counted.values(), default=0)
        form = min((one for one, count in counted.items() if count == most), default=())
        zeros = {name: Residues((0,) * count, modulus) for name, modulus, count in form}
        residues = {sender: one if _form(one) == form else zeros for sender, one in found.items()}
        odd.update(sender for sender, one in found.items() if _form(one) != form)
        return cls(vectors, residues, tuple(sorted(odd)))

    def digests(self) -> dict[NodeId, bytes]:
        """What the survivor statement binds: the hash of each. O(d) for each."""
        return {
            sender: input_digest(values, self.residues[sender])
            for sender, values in self.vectors.items()
        }


def listed(board: Board, contributions: Sequence[Contribution]) -> list[Contribution]:
    """The contributions of listed nodes: others were not masked in this session."""
    members, rank = board.listed().members, board.session.rank
    return [one for one in contributions if rank.get(one.sender, -1) in members]
