"""Joining a swarm: what a node's plugins are told of it, and the machine that plays its rounds."""

from __future__ import annotations

from collections.abc import Iterable

from qres_core.contract.trainer import Reference, Validator
from qres_core.contract.types import NodeId, NodeInfo, Vector
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.journal import Journal
from qres_core.swarm.rounds import RoundMachine


def node_info(
    swarm: SwarmConfig,
    node_id: NodeId,
    roster: Iterable[NodeId],
    trainer: object,
    *,
    data_dir: str | None = None,
    seed: int | None = None,
) -> NodeInfo:
    """What the plugins of a node are told at ``setup``.

    Args:
        swarm: the swarm's promises.
        node_id: the node's identity, 32 bytes.
        roster: identities of all nodes, in any order.
        trainer: what the node trains with; whether it judges models and makes references too is
            seen from its methods.
        data_dir: folder for the plugins' state; ``None`` where nothing may be kept.
        seed: seed of an experiment; ``None`` for a real node.
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


def round_machine(
    info: NodeInfo,
    kernel: Kernel,
    swarm: SwarmConfig,
    initial: Vector,
    journal: Journal,
    trainer: object,
) -> RoundMachine:
    """The machine of a node.

    Args:
        info: what its plugins were told.
        kernel: its plugins, set up.
        swarm: the swarm's promises.
        initial: the swarm's first model, int32, shape ``(d,)``.
        journal: its durable memory.
        trainer: as in ``info``; judges models for the plugins if it can.
    """
    validator = trainer if isinstance(trainer, Validator) else None
    return RoundMachine(info.node_id, info.roster, kernel, swarm, initial, journal, validator)
