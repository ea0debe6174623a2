"""Whoever sums: a public role without secrets that any node may play, and several may share.

One accumulator per group, whatever the number of nodes: inputs are added as they come and need not
be kept. A sum may be cut by coordinate range among several nodes, as keystreams can be entered
anywhere; two that summed the same range compare digests.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId
from qres_secagg.board import SessionMessages
from qres_secagg.client import NO_RESIDUES
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.inputs import Input, input_digest
from qres_secagg.keys import KeyPair, pair_key, self_key
from qres_secagg.masks import Residues, Signed, add_residues, apply, apply_residues
from qres_secagg.session import DOMAIN, joined
from qres_secagg.shamir import decode

BATCH: Final = 256
"""Masks removed in one pass over an accumulator."""


@attrs.frozen(eq=False)
class GroupSum:
    """The exact sum of a group, or a range of it."""

    group: int  # index of the group
    members: tuple[NodeId, ...]  # whose inputs it holds, ascending
    start: int  # first coordinate
    total: NDArray[np.int64]  # int64, shape ``(stop - start,)``, read-only
    residues: Mapping[str, Residues]  # sums of the residues, by name, modulo their moduli
    digest: bytes  # of session, survivor set, group, range and content: equal where the sums are


def ranges(dimension: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Start and stop of ``parts`` ranges that cover ``0..dimension``, none empty."""
    count = min(parts, dimension)
    edges = [dimension * i // count for i in range(count + 1)]
    return tuple(pairwise(edges))


class Aggregator:
    """Sums the masked inputs of a decided session and takes the masks off.

    Attributes:
        board: the public side of the session.
        start: first coordinate of the range that is summed.
        stop: end of the range.

    Memory: 4 (8) bytes per coordinate of the range and group in the ring of 32 (64) bits.
    """

    def __init__(
        self, board: SessionMessages, *, start: int = 0, stop: int | None = None, threads: int = 1
    ) -> None:
        parameters = board.session.parameters
        self.board, self._threads = board, threads
        self.start, self.stop = start, parameters.dimension if stop is None else stop
        if not 0 <= self.start < self.stop <= parameters.dimension:
            raise ValueError("not a range of the vector")
        self._totals: dict[int, NDArray[Any]] = {}
        self._residues: dict[int, dict[str, Residues]] = {}
        self._added: set[int] = set()

    def add(
        self, sender: NodeId, vector: NDArray[Any], residues: Mapping[str, Residues] = NO_RESIDUES
    ) -> None:
        """Add a masked input; it need not be kept.

        Args:
            sender: whose it is.
            vector: the whole masked vector; int32 and uint32 (int64 and uint64) are one ring.
            residues: the masked residues.

        Raises:
            SecaggError: ``WRONG_INPUT``, not the one in the survivor set, or added before;
                ``OUT_OF_ORDER``, no survivor set yet.

        Complexity: O(d).
        """
        self.add_input(sender, Input(self._ring_elements(vector), residues))

    def add_input(self, sender: NodeId, item: Input) -> None:
        """Add a masked input that was hashed before; see :meth:`add`."""
        survivors, parameters = self.board.decided().survivors, self.board.session.parameters
        rank = self.board.session.rank.get(sender, -1)
        values = self._ring_elements(item.vector)
        if (
            rank in self._added
            or values.shape != (parameters.dimension,)
            or survivors.digests.get(rank) != item.digest
        ):
            raise SecaggError(Reason.WRONG_INPUT, "not one of the agreed inputs", [sender])
        group = self.board.topology.group_of[rank]
        if group in survivors.groups:
            self._add_to(group, values, item.residues, sender)
        self._added.add(rank)

    def _ring_elements(self, vector: NDArray[Any]) -> NDArray[Any]:
        dtype = self.board.session.parameters.dtype
        values = np.ascontiguousarray(vector)
        if values.itemsize != dtype.itemsize or values.dtype.kind not in "iu":
            raise SecaggError(Reason.WRONG_INPUT, f"dtype {values.dtype}")
        return values.view(dtype.newbyteorder("=")).astype(dtype, copy=False)

    def _add_to(
        self,
        group: int,
        values: NDArray[Any],
        residues: Mapping[str, Residues],
        sender: NodeId,
    ) -> None:
        part = values[self.start : self.stop]
        if group not in self._totals:
            self._totals[group], self._residues[group] = part.copy(), dict(residues)
            return
        known = self._residues[group]
        if known.keys() != residues.keys():
            raise SecaggError(Reason.WRONG_INPUT, "other residues beside it", [sender])
        try:
            summed = {name: add_residues(known[name], residues[name]) for name in known}
        except ValueError as error:
            raise SecaggError(Reason.WRONG_INPUT, "other residues beside it", [sender]) from error
        np.add(self._totals[group], part, out=self._totals[group])
        self._residues[group] = summed

    def _group_keys(self, group: int) -> Iterable[Signed]:
        """Keys of the masks that are left in a group's sum, with the signs that take them off."""
        board, sid, roster = self.board, self.board.session.sid, self.board.session.roster
        opening = board.decided()
        survivors = opening.survivors.digests
        for rank in board.topology.groups[group]:
            if rank not in board.listed().members:
                continue
            secret = opening.secret(rank)
            if rank in survivors:
                yield self_key(secret, sid, roster[rank]), -1
                continue
            gone = KeyPair(decode(secret))
            me = (roster[rank], gone.public)
            for other in board.partners(rank):
                if other in survivors:
                    public = board.advert(other).mask
                    key = pair_key(gone.exchange(public), sid, me, (roster[other], public))
                    yield key, -1 if other < rank else 1

    def finish(self, progress: Callable[[int, int], None] | None = None) -> tuple[GroupSum, ...]:
        """Take the masks off.

        Args:
            progress: told the number of groups done and of all, for long rounds.

        Returns:
            the exact sums of the groups that are open.

        Raises:
            SecaggError: ``WRONG_INPUT``, an input was not added; ``BELOW_THRESHOLD``, too few
                opened shares; ``BAD_DEALER``. There is no partial result: masked sums stay masked.

        Complexity: O((s + u k) d) for ``s`` survivors and ``u`` dropouts.
        """
        board, parameters = self.board, self.board.session.parameters
        survivors = board.decided().survivors
        lacking = set(survivors.digests) - self._added
        if lacking:
            raise SecaggError(Reason.WRONG_INPUT, f"{len(lacking)} inputs were not added")
        board.decided().open_all()  # all at once is cheaper than in the order of groups
        keys = {group: list(self._group_keys(group)) for group in sorted(survivors.groups)}
        sums: list[GroupSum] = []
        for done, (group, chosen) in enumerate(keys.items(), start=1):
            total = self._totals.pop(group)
            residues = self._residues.pop(group)
            for first in range(0, len(chosen), BATCH):
                batch = chosen[first : first + BATCH]
                apply(total, batch, prg=parameters.prg, start=self.start, threads=self._threads)
            for name in residues:
                value = residues[name]
                residues[name] = apply_residues(value, chosen, name, prg=parameters.prg)
            sums.append(self._sum(group, total, residues))
            if progress is not None:
                progress(done, len(keys))
        return tuple(sums)

    def _sum(self, group: int, total: NDArray[Any], residues: Mapping[str, Residues]) -> GroupSum:
        board = self.board
        signed = "<i4" if total.itemsize == 4 else "<i8"
        exact = total.view(signed).astype(np.int64)
        exact.flags.writeable = False
        survivors = board.decided().survivors
        members = tuple(
            board.session.roster[rank]
            for rank in board.topology.groups[group]
            if rank in survivors.digests
        )
        where = struct.pack("<IQQ", group, self.start, self.stop)
        content = input_digest(exact, residues)
        head = joined(DOMAIN, b"sum", board.session.sid, survivors.statement, where, content)
        digest = hashlib.sha256(head).digest()
        return GroupSum(group, members, self.start, exact, residues, digest)


def assemble(slices: Sequence[GroupSum], dimension: int) -> NDArray[np.int64]:
    """One group's sum from its ranges, some perhaps summed by several nodes.

    ``slices``: of one group, in any order. Returns int64, shape ``(dimension,)``. Raises
    SecaggError: ``SLICES_DIFFER``, two sums of one range do not agree (sum it again to see who is
    wrong) or the ranges do not cover the vector exactly.
    """
    chosen: dict[tuple[int, int], GroupSum] = {}
    for piece in slices:
        place = (piece.start, piece.total.size)
        if chosen.setdefault(place, piece).digest != piece.digest:
            raise SecaggError(Reason.SLICES_DIFFER, f"coordinates from {piece.start}")
    position = 0
    for start, size in sorted(chosen):
        if start != position:
            break
        position += size
    if position != dimension or sum(size for _, size in chosen) != dimension:
        raise SecaggError(Reason.SLICES_DIFFER, "ranges do not cover the vector once")
    return np.concatenate([chosen[place].total for place in sorted(chosen)])
