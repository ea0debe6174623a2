"""Attackers that propose and vote in bad faith."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs
import numpy as np

from qres_core.attacks.sabotage import Injection, Outgoing, SabotageContext, register
from qres_core.contract.types import NodeId, Updates


@register("withhold_votes", "votes for no set that an honest node proposes")
@attrs.frozen
class WithholdVotes:
    """The votes of nearly all honest nodes must do, where each judges by examples of its own."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Nothing: it says less than the others, and not more."""
        del context
        return ()

    def withholds(self, message: Outgoing) -> bool:
        """See :meth:`~qres_core.attacks.sabotage.Withholder.withholds`."""
        return message.votes_on_set and not message.accomplice_proposes


@register("lying_proposer", "proposes the fewest updates, all of the attackers' among them")
@attrs.frozen
class LyingProposer:
    """Proposer that leaves out the honest updates that are most against the lie.

    It screens by nothing, and votes for every set.
    """

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Nothing: its proposals have the form of honest ones."""
        del context
        return ()

    def chosen(
        self, updates: Updates, accomplices: Collection[NodeId], quorum: int
    ) -> frozenset[NodeId]:
        """See :meth:`~qres_core.attacks.sabotage.Chooser.chosen`."""
        ours = np.array([sender in accomplices for sender in updates.senders])
        rows = updates.vectors.astype(np.float64)
        honest = rows[~ours].mean(axis=0) if not ours.all() else np.zeros(rows.shape[1])
        way = rows[ours].mean(axis=0) - honest if ours.any() else np.zeros(rows.shape[1])
        toward = (rows - honest) @ way
        order = sorted(range(len(updates)), key=lambda row: (not ours[row], -toward[row], row))
        return frozenset(updates.senders[row] for row in order[: max(quorum, int(ours.sum()))])


@register("bad_faith", "proposes as lying_proposer does, and votes as withhold_votes does")
@attrs.frozen
class BadFaith(LyingProposer):
    """All that attackers can do to the choice of a set without being told of."""

    def withholds(self, message: Outgoing) -> bool:
        """See :class:`WithholdVotes`."""
        return WithholdVotes().withholds(message)
