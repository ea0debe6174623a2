"""Where a node is: its context in the swarm, and its position, which moves on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import attrs

from qres_core.contract.by_record import ByRecord
from qres_core.contract.fragments import Fragment
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Reference, Validator, pooled
from qres_core.contract.types import NodeId, NodeInfo, Vector
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.chain import Head
from qres_core.swarm.participants import participants
from qres_core.swarm.timeouts import HeightPace


def vote_threshold(nodes: int, byzantine: int) -> int:
    """Votes that decide: ``⌊(n + f) / 2⌋ + 1``; two such quorums share an honest node."""
    return (nodes + byzantine) // 2 + 1


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
    head: Head  # where the swarm's history is for this node
    first_model: bytes = b""  # digest of the swarm's first model, 32 bytes
    # whether this node may vote at this height; otherwise it follows the others
    votes: bool = attrs.field(default=True, init=False)
    # how long it waits for others, its own view
    waits: HeightPace = attrs.field(init=False)
    # whose large messages are on their way here; a real node's transport knows
    arriving: Callable[[], Collection[NodeId]] = attrs.field(default=tuple, init=False)
    # who goes on past a round of this head and contributes to it no more, as they say themselves
    past: Callable[[int], Collection[NodeId]] = attrs.field(default=_nobody, init=False)
    # who was drawn, of the head and the round that was asked for last
    _drawn: tuple[bytes, int, frozenset[NodeId]] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.waits = HeightPace(self.swarm.deadline_stretch)

    @property
    def roster(self) -> tuple[NodeId, ...]:
        """Identities of all members, ascending."""
        return self.head.roster.members

    @property
    def byzantine(self) -> int:
        """How many of them may lie, f."""
        return self.head.roster.byzantine

    @property
    def quorum(self) -> int:
        """Fewest contributions of a set."""
        return self.head.roster.quorum

    @property
    def threshold(self) -> int:
        """Votes that decide."""
        return self.head.roster.threshold

    @property
    def is_member(self) -> bool:
        """Whether this node is a member at its head.

        A node that was told of a later roster than the first has no link to it yet, and takes no
        part: nobody else was ever at that head.
        """
        known = self.head.height > 0 or not self.head.roster.epoch
        return known and self.node_id in self.head.roster

    def covered(self, whole: int) -> int:
        """Coordinates of an update at its head, of a model with so many."""
        fragment = Fragment.of_step(self.head.step, self.swarm.fragments, whole)
        return whole if fragment is None else fragment.dimension

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        return self.head.proposer(number, coordinator=self.swarm.topology == "coordinator")

    def drawn(self, number: int) -> frozenset[NodeId]:
        """Who trains in a round of this height."""
        if self._drawn is None or self._drawn[:2] != (self.head.digest, number):
            found = participants(self.head, number, self.swarm.participants)
            self._drawn = self.head.digest, number, found
        return self._drawn[2]

    def nobody_is_missing(self, held: Collection[NodeId], number: int) -> bool:
        """Whether waiting longer can bring nothing: what banned nodes send is never proposed.

        Nor is a node waited for that began this round at another head, or a later one: it may not
        contribute twice. ``held``: whose contributions to round ``number`` are here.
        """
        if len(held) < self.quorum:
            return False
        missing = [peer for peer in self.drawn(number) if peer not in held]
        past = self.past(number) if missing else ()
        return all(peer in past or self.kernel.standing(peer).banned for peer in missing)


@attrs.define(eq=False)
class Position:
    """The model a node holds and the round it is in.

    The round machine moves it, and nothing else does; the machine's parts read it.
    """

    model: Vector  # int32, shape ``(d,)``
    voted: int = 0  # the last round that it voted, proposed or contributed in
    info: RoundInfo = attrs.field(init=False)  # the current round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self.info.number

    def enter(self, number: int, context: NodeContext) -> None:
        """Go to a round."""
        self.info = round_info(context.swarm, context.head, int(self.model.size), number)


def round_info(swarm: SwarmConfig, head: Head, whole: int, number: int) -> RoundInfo:
    """A round as plugins see it, at whatever head; ``whole``: coordinates of the model."""
    fragment = Fragment.of_step(head.step, swarm.fragments, whole)
    return RoundInfo(
        swarm=head.swarm,
        number=number,
        model_digest=head.model,
        dimension=whole if fragment is None else fragment.dimension,
        scale=swarm.scale,
        roster=head.roster.members,
        quorum=head.roster.quorum,
        byzantine=head.roster.byzantine,
        step=head.step,
        height=head.height,
        head=head.digest,
        void_sets=head.record.void_sets(head.roster.members),
        mismatches=head.record.mismatches,
        fragment=fragment,
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
    """What the plugins of a node are told at ``setup``; the roster may be in any order.

    The trainer's methods show whether it judges models and makes references too, and its type
    whether it clips single examples. ``data_dir`` is ``None`` where nothing may be kept, and
    ``seed`` for a real node.
    """
    return NodeInfo(
        node_id,
        swarm.name,
        tuple(sorted(roster)),
        swarm.byzantine,
        data_dir=data_dir,
        seed=seed,
        validates=isinstance(trainer, Validator),
        references=isinstance(trainer, Reference),
        pooled=pooled(trainer),
        clipped=trainer.clip if isinstance(trainer, ByRecord) else None,
    )
