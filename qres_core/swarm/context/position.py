"""Place of a node: its context in the swarm, and its position, which moves on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.types import NodeId, NodeInfo, Vector
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.lateness import Lateness
from qres_core.swarm.context.times import HeightPace
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.participants import participants


def vote_threshold(nodes: int, byzantine: int) -> int:
    """Votes that decide: ``⌊(n + f) / 2⌋ + 1``; two such quorums share an honest node."""
    return (nodes + byzantine) // 2 + 1


def takes_part(head: Head, node_id: NodeId) -> bool:
    """True if a node is a member at a head.

    One that was told of a later roster than the first has no link to it yet, and takes no part:
    nobody else was ever at that head.
    """
    known = head.height > 0 or not head.roster.epoch
    return known and node_id in head.roster


def _at_head(context: NodeContext, _attribute: object, head: Head) -> Head:
    context.look_at(head)
    return head


def _nobody(_number: int) -> Collection[NodeId]:
    return ()


@attrs.define(eq=False)
class NodeContext:
    """A node among the others. Members, f and the quorum are those of its head.

    The round machine moves the head on, and nothing else does.
    """

    node_id: NodeId  # this node's identity, 32 bytes
    kernel: Kernel  # the node's plugins, set up
    swarm: SwarmConfig  # the configuration; what it says of the members holds for the first head
    # where the swarm's history is for this node; what follows from it changes with it
    head: Head = attrs.field(on_setattr=_at_head)
    first_model: bytes = b""  # digest of the swarm's first model, 32 bytes
    # whether this node may vote at this height; otherwise it follows the others
    votes: bool = attrs.field(default=True, init=False)
    # how long it waits for others, its own view
    waits: HeightPace = attrs.field(init=False)
    # for whom it waits before it proposes, its own view
    lateness: Lateness = attrs.field(init=False)
    # whose large messages are on their way here; a real node's transport knows
    arriving: Callable[[], Collection[NodeId]] = attrs.field(default=tuple, init=False)
    # who goes on past a round of this head and contributes to it no more, as they say themselves
    past: Callable[[int], Collection[NodeId]] = attrs.field(default=_nobody, init=False)
    # who was drawn, of the head and the round that was asked for last
    _drawn: tuple[bytes, int, frozenset[NodeId]] | None = attrs.field(default=None, init=False)

    roster: tuple[NodeId, ...] = attrs.field(init=False)  # identities of all members, ascending
    byzantine: int = attrs.field(init=False)  # how many of them may lie, f
    quorum: int = attrs.field(init=False)  # fewest contributions of a set
    threshold: int = attrs.field(init=False)  # votes that decide
    # whether this node is a member at its head
    is_member: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.waits = HeightPace(self.swarm.deadline_stretch)
        self.lateness = Lateness(self.swarm.deadline)
        self.look_at(self.head)

    def look_at(self, head: Head) -> None:
        """Take from a head who the members are, f, the quorum and whether this node is one."""
        roster = head.roster
        self.roster, self.byzantine = roster.members, roster.byzantine
        self.quorum, self.threshold = roster.quorum, roster.threshold
        self.is_member = takes_part(head, self.node_id)

    def proposer(self, number: int) -> NodeId:
        """Member that may propose in a round."""
        return self.head.proposer(number, coordinator=self.swarm.topology == "coordinator")

    def drawn(self, number: int) -> frozenset[NodeId]:
        """Members that train in a round of this height."""
        if self._drawn is None or self._drawn[:2] != (self.head.digest, number):
            found = participants(self.head, number, self.swarm.participants)
            self._drawn = self.head.digest, number, found
        return self._drawn[2]

    def nobody_is_missing(self, held: Collection[NodeId], number: int) -> bool:
        """True if nobody is waited for.

        Late members are waited for as :mod:`qres_core.swarm.context.lateness` says. ``held``: whose
        contributions to round ``number`` are here.
        """
        if len(held) < self.quorum:
            return False
        return self.lateness.given_up.issuperset(self.missing(held, number))

    def missing(self, held: Collection[NodeId], number: int) -> list[NodeId]:
        """Members that may still contribute to a round, and be in its set.

        What banned nodes send is never proposed. And a node does not contribute that began this
        round at another head, or a later one: it may not do so twice. ``held``: whose contributions
        are here.
        """
        missing = [peer for peer in self.drawn(number) if peer not in held]
        past = self.past(number) if missing else ()
        return [
            peer for peer in missing if peer not in past and not self.kernel.standing(peer).banned
        ]


@attrs.define(eq=False)
class Position:
    """The model a node holds and the round it is in.

    The round machine moves it, and nothing else does; the machine's parts read it.
    """

    model: Vector  # int32, shape ``(d,)``
    voted: int = 0  # the last round that it voted, proposed or contributed in
    info: RoundInfo = attrs.field(init=False)  # the current round
    number: int = attrs.field(init=False)  # of the current round

    def enter(self, number: int, context: NodeContext) -> None:
        """Go to a round."""
        self.number = number
        self.info = round_info(context.swarm, context.head, int(self.model.size), number)


def round_info(swarm: SwarmConfig, head: Head, dimension: int, number: int) -> RoundInfo:
    """A round as plugins see it, at whatever head; ``dimension``: coordinates of the model."""
    return RoundInfo(
        swarm=head.swarm,
        number=number,
        model_digest=head.model,
        dimension=dimension,
        scale=swarm.scale,
        roster=head.roster.members,
        quorum=head.roster.quorum,
        byzantine=head.roster.byzantine,
        step=head.step,
        height=head.height,
        head=head.digest,
        void_sets=head.record.void_sets(head.roster.members),
        mismatches=head.record.mismatches,
    )


def node_info(
    swarm: SwarmConfig,
    node_id: NodeId,
    roster: Iterable[NodeId],
    trainer: object,
    *,
    data_dir: str | None = None,
    seed: int | None = None,
) -> NodeInfo:
    """Facts that the plugins of a node are told at ``setup``; the roster may be in any order.

    ``data_dir`` is ``None`` where nothing may be kept, and ``seed`` for a real node.
    """
    able = abilities_of(trainer)
    return NodeInfo(
        node_id,
        swarm.name,
        tuple(sorted(roster)),
        swarm.byzantine,
        data_dir=data_dir,
        seed=seed,
        validates=able.validate is not None,
        references=able.reference is not None,
        pooled=able.pooled,
        clipped=able.clip,
    )
