"""Readings of masked inputs with some secrets of a session. For attacks, not for nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_secagg.board import SessionMessages
from qres_secagg.failure import SecaggError
from qres_secagg.keys import KeyPair, pair_key, self_key
from qres_secagg.masks import Signed, apply
from qres_secagg.shamir import decode
from qres_secagg.sharing import Secret

Masks = Mapping[int, NDArray[Any]]
"""Masked inputs in the ring, by rank."""


@attrs.frozen
class Spoils:
    """Secrets of nodes that somebody has: its own, its friends', or opened ones."""

    # seeds of the nodes' own masks, 32 bytes, by rank
    seeds: Mapping[int, bytes] = attrs.field(factory=dict[int, bytes])
    # key pairs of the masks against others, by rank
    keys: Mapping[int, KeyPair] = attrs.field(factory=dict[int, KeyPair])

    @classmethod
    def opened(cls, board: SessionMessages) -> Spoils:
        """All that the shares on a board give, as every bystander has it. O(n t**2)."""
        opening = board.decided()
        seeds: dict[int, bytes] = {}
        keys: dict[int, KeyPair] = {}
        for rank in board.listed().members:
            kind = opening.wanted(rank)
            if kind is None:
                continue
            try:
                secret = opening.secret(rank)
            except SecaggError:  # too few opened theirs
                continue
            if kind is Secret.SEED:
                seeds[rank] = secret
            else:
                keys[rank] = KeyPair(decode(secret))
        return cls(seeds, keys)

    def __or__(self, other: Spoils) -> Spoils:
        """Both."""
        return Spoils({**self.seeds, **other.seeds}, {**self.keys, **other.keys})


def unmasked(board: SessionMessages, inputs: Masks, spoils: Spoils) -> NDArray[Any]:
    """The sum of some masked inputs, without the masks that some secrets give.

    Args:
        board: of the session, with its list.
        inputs: whose inputs are added up. Masks that two of them share cancel.
        spoils: what is known. Masks that it does not give stay on.

    Returns:
        signed integers of the ring's width, shape ``(d,)``: the plain sum, if all masks are off.

    Complexity: O(m k d) for ``m`` inputs.
    """
    session = board.session
    values = np.zeros(session.parameters.dimension, session.parameters.dtype)
    for masked in inputs.values():
        values += masked.view(values.dtype)
    keys: list[Signed] = []
    for rank in inputs:
        node = session.roster[rank], board.advert(rank).mask
        if rank in spoils.seeds:
            keys.append((self_key(spoils.seeds[rank], session.sid, node[0]), -1))
        for other in board.partners(rank):
            them = session.roster[other], board.advert(other).mask
            if other in inputs:
                continue
            if rank in spoils.keys:
                secret = spoils.keys[rank].exchange(them[1])
            elif other in spoils.keys:
                secret = spoils.keys[other].exchange(node[1])
            else:
                continue
            keys.append((pair_key(secret, session.sid, node, them), -1 if rank < other else 1))
    apply(values, keys, prg=session.parameters.prg)
    return values.view(f"<i{values.itemsize}")
