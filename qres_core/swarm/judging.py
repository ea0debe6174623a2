"""A node's own part in the data path: when it chooses, endorses and merges, and what it counts."""

from __future__ import annotations

from qres_core.contract.errors import QresError
from qres_core.contract.faults import KERNEL
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Validator
from qres_core.contract.types import Vector
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.swarm.collecting import Collector
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.merge import Members, Merger
from qres_core.swarm.messages import Proposal


class Judge:
    """A node's merger of the round, and its opinion of the round's proposal."""

    def __init__(
        self,
        seat: NodeContext,
        position: Position,
        collector: Collector,
        validator: Validator | None,
    ) -> None:
        self._seat = seat
        self._position = position
        self._collector = collector
        self._validator = validator
        self._merger: Merger
        self._endorsed: bool | None = None

    def open_round(self) -> None:
        """Forget the opinions of the round before."""
        here, kernel = self._position, self._seat.kernel
        held_out = None
        if self._validator is not None:
            held_out = HeldOut.of(self._validator, here.model, here.info)
        self._merger = Merger(kernel, self._collector.gathering, here.info, held_out)
        self._endorsed = None

    def chosen(self) -> Members | None:
        """What a proposer proposes; ``None`` where a plugin refused to judge it.

        Then this node has nothing to propose in the round.
        """
        kernel = self._seat.kernel
        try:
            choice = self._merger.choose()
        except QresError as error:
            kernel.rejections[f"{KERNEL}:not-screened-{error.code.lower()}"] += 1
            return None
        for evidence in choice.against:
            kernel.observe(evidence)
        return choice.members

    def endorses(self, proposal: Proposal) -> bool:
        """Whether this node's plugins would have it vote for the set; asked once a round.

        A set with a proven lock was endorsed by a quorum; asking again could only stall the swarm.
        """
        if proposal.lock_round:
            return True
        if self._endorsed is None:
            self._endorsed = self._endorse(proposal.candidate.members)
        return self._endorsed

    def _endorse(self, members: Members) -> bool:
        kernel = self._seat.kernel
        try:
            verdict, plugin = self._merger.judge(members)
        except QresError as error:
            kernel.rejections[f"{KERNEL}:proposal-not-merged-{error.code.lower()}"] += 1
            return False
        if verdict is ACCEPT:
            return True
        kernel.refuse(verdict.reason, Blame.NOBODY, None, plugin, self._position.number)
        return False

    @property
    def refused(self) -> bool:
        """Whether the round's proposal was judged and not endorsed."""
        return self._endorsed is False

    def merged(self, members: Members, made_in: RoundInfo) -> Vector:
        """What the decided set merges to. Raises QresError for what a plugin refused."""
        return self._merger.merge(members, made_in)
