"""The ``quantize`` plugin: updates leave in few bits, and what rounding took away comes later."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Final

import attrs
import numpy as np

from qres_core import (
    Claims,
    Needs,
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Update,
    canonical,
    fixed,
    hookimpl,
    options,
)
from qres_core.claims import Extent, Privatizes
from qres_core.errors import Problem
from qres_quantize.feedback import LeftOver, Sent
from qres_quantize.rounding import BITS, rounded

_NO_KEY: Final = bytes(32)
"""Before ``setup``."""


@attrs.define(eq=False)
class Quantize:
    """Rounds each update to few bits a parameter, up or down at random, by a secret of the node.

    Each block of 256 parameters has a step of its own, a whole number of grid steps, and its
    numbers become whole multiples of it. So an update takes ``bits`` for each number and five bytes
    for each block (:mod:`qres_core.packing`). What rounding takes away is added to the next update,
    once the swarm has merged this one.

    Robustness: it is no defence. Honest updates lie farther apart by what is rounded, which gives
    lies as much more room. Liars may send any numbers.

    Attributes:
        bits: 8, 4 or 2; the same on every node.

    Raises:
        OptionError: QRES-E105 for other bits.

    Complexity:
        O(d); two packed vectors are written and synced in a round.

    Source:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD", NeurIPS 2017; Karimireddy, Rebjock, Stich,
        Jaggi, "Error Feedback Fixes SignSGD", ICML 2019.

    Example:
        >>> from qres_lab.testing import make_round_info
        >>> import numpy as np
        >>> update = Update(np.int32([70_000, -21, 40_123]), weight=1)
        >>> Quantize(bits=2).privatize(update, make_round_info(3)).vector.tolist()
        [52500, 0, 52500]
    """

    bits: int = attrs.field(
        default=4,
        validator=options.one_of(*BITS),
        metadata={"help": "Bits that a parameter takes in an update: 8, 4 or 2."},
    )
    _node: bytes = attrs.field(init=False, default=b"")
    _left: LeftOver = attrs.field(init=False, factory=lambda: LeftOver(_NO_KEY), repr=False)
    # the last height whose set this node saw with a contribution of its own, and how it ended
    _seen: tuple[int, RoundStatus] | None = attrs.field(init=False, default=None)

    # ── claims ────────────────────────────────────────────────────────────────────────────────

    @property
    def claims(self) -> Claims:
        """Nothing about liars. It changes updates that noise was added to before."""
        needs = Needs(folder=True, outcomes=True)
        return Claims(tolerates=None, needs=needs, privatizes=Privatizes(reveals=False))

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Refuse what would undo the rounding.

        Yields QRES-E303: masked numbers take all bits of their ring, rounded or not. A plugin after
        this one that changes updates leaves numbers of as many bits as before.
        """
        where = "plugins.quantize"
        if around.hidden_by:
            hider = f"plugins.{around.hidden_by}"
            what = f"saves nothing: {hider} masks every number with as many bits as its ring has"
            yield Problem("QRES-E303", where, what, f"remove [{where}] or [{hider}]")
        for name in around.changing:
            what = f"saves nothing: plugins.{name} changes the update after it was rounded"
            fix = f"put [plugins.{name}] before [{where}] in the file"
            yield Problem("QRES-E303", where, what, fix)

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """Of no sure length: what was left over is added."""
        del around
        return attrs.evolve(extent, length=math.inf, clipped_by="")

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open what is left over, or begin with nothing. Raises QRES-E602.

        A simulation with a seed has keys that follow from it.
        """
        self._node, self._seen = node_info.node_id, None
        key = None
        if node_info.data_dir is None and node_info.seed is not None:
            named = f"qres/quantize/simulated/v1 {node_info.seed} ".encode() + node_info.node_id
            key = hashlib.sha256(named).digest()
        self._left = LeftOver(_NO_KEY) if node_info.observer else LeftOver.open(node_info, key)

    @hookimpl
    def teardown(self) -> None:
        self._left.close()

    @hookimpl
    def round_opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """Settle what became of the last height, if it is over. Raises QRES-E602.

        What is left over is forgotten where the store is older than the journal or the chain: it
        was added already. So it is where this node's history began anew, without its journal: what
        became of the last contribution is not known then. It is, too, where nobody knows which of
        several contributions was merged.
        """
        left = self._left
        known = max(contributed.last_round if contributed.journal else 0, contributed.decided_round)
        if known > left.last_round or left.is_before(round_info):
            left.forget(known)  # an older copy of the store, or a new one; or another history
        if not left.sent:
            return
        last = left.sent[-1]
        if (last.height, last.head) == (round_info.height, round_info.head):
            return
        if not self._is_merged(last, round_info, contributed):
            left.settle(None)
            return
        chosen = _chosen(left.sent, contributed)
        if chosen is None:
            left.forget()
        else:
            left.settle(chosen)

    def _is_merged(self, last: Sent, info: RoundInfo, own: OwnContributions) -> bool:
        """True if the height of a contribution made a model of it, as far as can be known.

        Where it cannot be known, after heights that this node went over at once, it counts as
        merged: what was sent is then never added again.
        """
        seen = self._seen
        if seen is not None and seen[0] == last.height:
            return seen[1] is RoundStatus.CLOSED
        is_silent = own.silent_since <= last.height or 0 <= own.height < last.height
        return not is_silent and info.step > last.step

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Note how the height ended, if its set has a contribution of this node."""
        if outcome.status is not RoundStatus.ABORTED and outcome.members:
            is_in = self._node in outcome.members
            status = outcome.status if is_in else RoundStatus.ABORTED
            self._seen = outcome.round_info.height, status

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """The bits of a parameter, and contributions of which nobody knows yet what became."""
        return {"bits": self.bits, "waiting": len(self._left.sent)}

    # ── a simulation that goes on ─────────────────────────────────────────────────────────────

    def remember(self) -> bytes:
        """Return the rest of rounding, for a simulation's checkpoint."""
        seen = None if self._seen is None else [self._seen[0], self._seen[1].value]
        return canonical.dumps([self._left.raw(), seen])

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ValueError or TypeError for other bytes."""
        left, seen = canonical.loads(memory, max_bytes=len(memory))
        self._left.set_raw(left)
        self._seen = None if seen is None else (seen[0], RoundStatus(seen[1]))

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Round the update and what is left over from before.

        What is left over now is on the disk on return. Raises QRES-E602. O(d).
        """
        left = self._left.vector(round_info.dimension)
        target = update.vector.astype(np.int64) + left
        made = rounded(target, self.bits, self._key(round_info, target.tobytes()))
        rest = np.clip(target - made, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
        self._left.sends(round_info, rest)
        return attrs.evolve(update, vector=made)

    def _key(self, info: RoundInfo, target: bytes) -> bytes:
        """A key for one target in one round, of the node's secret."""
        digest = hashlib.sha256(b"qres/quantize/key/v1\0" + self._left.key)
        digest.update(info.number.to_bytes(8, "little") + info.model_digest)
        digest.update(hashlib.sha256(target).digest())
        return digest.digest()


def _chosen(sent: tuple[Sent, ...], own: OwnContributions) -> Sent | None:
    """The contribution that was decided; ``None`` where that is none of those that are kept.

    Without a chain, as in the vectorised engine, it is the last one.
    """
    last = sent[-1]
    if own.height != last.height or not own.decided_round:
        return last if len(sent) == 1 or own.height < 0 else None
    wanted = own.decided_round, own.decided_head
    return next((item for item in sent if (item.round, item.head) == wanted), None)
