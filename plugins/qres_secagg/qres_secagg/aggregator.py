"""Aggregator: a public role without secrets, which every node plays for itself.

One accumulator per group, whatever the number of nodes: inputs are added as they come and need not
be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId
from qres_secagg.board import SessionMessages
from qres_secagg.client import NO_RESIDUES
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.inputs import Input
from qres_secagg.keys import KeyPair, pair_key, self_key
from qres_secagg.masks import Residues, Signed, add_residues, apply, apply_residues
from qres_secagg.shamir import decode

BATCH: Final = 256
"""Masks removed in one pass over an accumulator."""


@attrs.frozen(eq=False)
class GroupSum:
    """The exact sum of a group."""

    group: int  # index of the group
    members: tuple[NodeId, ...]  # whose inputs it holds, ascending
    total: NDArray[np.int64]  # int64, shape ``(d,)``, read-only
    residues: Mapping[str, Residues]  # sums of the residues, by name, modulo their moduli


class Aggregator:
    """Sums the masked inputs of a decided session and takes the masks off.

    Args:
        board: the public side of the session.
        threads: threads that expand masks.
        span: the coordinates that are summed; all of them if left out.

    Attributes:
        board: as above.

    Memory: 4 (8) bytes per coordinate and group in the ring of 32 (64) bits.
    """

    def __init__(
        self, board: SessionMessages, *, threads: int = 1, span: range | None = None
    ) -> None:
        self.board, self._threads = board, threads
        self._span = range(board.session.parameters.dimension) if span is None else span
        self._totals: dict[int, NDArray[Any]] = {}
        self._residues: dict[int, dict[str, Residues]] = {}
        self._added: set[int] = set()

    def add(
        self, sender: NodeId, vector: NDArray[Any], residues: Mapping[str, Residues] = NO_RESIDUES
    ) -> None:
        """Add a masked input; it need not be kept.

        Args:
            sender: whose it is.
            vector: the masked vector, of the coordinates that are summed; int32 and uint32 (int64
                and uint64) are one ring.
            residues: the masked residues.

        Raises:
            SecaggError: ``WRONG_INPUT``, not the one in the survivor set, or added before;
                ``OUT_OF_ORDER``, no survivor set yet.

        Complexity: O(d).
        """
        self.add_input(sender, Input(self._ring_elements(vector), residues))

    def add_input(self, sender: NodeId, item: Input) -> None:
        """Add a masked input that was hashed before; see :meth:`add`."""
        survivors = self.board.decided().survivors
        rank = self.board.session.rank.get(sender, -1)
        values = self._ring_elements(item.vector)
        if (
            rank in self._added
            or values.shape != (len(self._span),)
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
        if group not in self._totals:
            self._totals[group], self._residues[group] = values.copy(), dict(residues)
            return
        known = self._residues[group]
        if known.keys() != residues.keys():
            raise SecaggError(Reason.WRONG_INPUT, "other residues beside it", [sender])
        try:
            summed = {name: add_residues(known[name], residues[name]) for name in known}
        except ValueError as error:
            raise SecaggError(Reason.WRONG_INPUT, "other residues beside it", [sender]) from error
        np.add(self._totals[group], values, out=self._totals[group])
        self._residues[group] = summed

    def _keys_of(self, group: int) -> list[Signed]:
        """As :meth:`_group_keys`, found once for a session: a committee sums several ranges."""
        found = self.board.decided().keys
        if group not in found:
            found[group] = list(self._group_keys(group))
        return found[group]

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
        keys = {group: self._keys_of(group) for group in sorted(survivors.groups)}
        sums: list[GroupSum] = []
        for done, (group, chosen) in enumerate(keys.items(), start=1):
            total = self._totals.pop(group)
            residues = self._residues.pop(group)
            for first in range(0, len(chosen), BATCH):
                batch = chosen[first : first + BATCH]
                apply(
                    total,
                    batch,
                    prg=parameters.prg,
                    threads=self._threads,
                    start=self._span.start,
                )
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
        return GroupSum(group, members, exact, residues)
