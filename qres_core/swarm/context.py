"""Where a node is: its context in the swarm, which stays, and its position, which moves on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Reference, Validator
from qres_core.contract.types import NodeId, NodeInfo, Vector
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel


def vote_threshold(nodes: int, byzantine: int) -> int:
    """Votes that decide: ``⌊(n + f) / 2⌋ + 1``; two such quorums share an honest node."""
    return (nodes + byzantine) // 2 + 1


@attrs.frozen(eq=False)
class NodeContext:
    """A node among the others, for as long as it runs."""

    node_id: NodeId  # this node's identity, 32 bytes
    roster: tuple[NodeId, ...]  # identities of all nodes, ascending
    kernel: Kernel  # the node's plugins, set up
    swarm: SwarmConfig  # the swarm's promises

    @property
    def threshold(self) -> int:
        """Votes that decide."""
        return vote_threshold(self.swarm.nodes, self.swarm.byzantine)

    @property
    def vouched(self) -> int:
        """Nodes that must vouch for a model before this one takes it.

        The honest part of a quorum, more than f: so many vouch even when all liars fall silent.
        """
        return self.threshold - self.swarm.byzantine

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        if self.swarm.topology == "coordinator":
            return self.roster[0]
        return self.roster[number % len(self.roster)]

    def nobody_is_missing(self, held: Collection[NodeId]) -> bool:
        """Whether waiting longer can bring nothing: what banned nodes send is never proposed."""
        return len(held) >= self.swarm.quorum and all(
            peer in held or self.kernel.standing(peer).banned for peer in self.roster
        )


@attrs.define(eq=False)
class Position:
    """The model a node holds and the round it is in.

    The round machine moves it, and nothing else does; the machine's parts read it.
    """

    model: Vector  # int32, shape ``(d,)``
    model_digest: bytes  # its digest, 32 bytes
    step: int  # how many rounds closed before it
    model_round: int  # the round that made it, 0 for the initial one
    parent: bytes = b""  # digest of the model before it, empty where there was none
    info: RoundInfo = attrs.field(init=False)  # the current round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self.info.number

    def enter(self, number: int, context: NodeContext) -> None:
        """Go to a round."""
        self.info = RoundInfo(
            context.swarm.name,
            number,
            self.model_digest,
            int(self.model.size),
            context.swarm.scale,
            context.roster,
            context.swarm.quorum,
            context.swarm.byzantine,
            self.step,
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

    The trainer's methods show whether it judges models and makes references too. ``data_dir`` is
    ``None`` where nothing may be kept, and ``seed`` for a real node.
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
    )
