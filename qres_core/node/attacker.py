"""Attackers that train a model of the operator's own: its trainer, turned hostile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from qres_core.lab.hostile import turned
from qres_core.node.trainer import TrainerConfig, Work, from_entry

ENTRY: Final = "qres_core.node.attacker:make"
"""The ``trainer.entry`` of such a node."""


def make(
    *,
    own: Mapping[str, Any],
    attack: str,
    nodes: int,
    attackers: int,
    index: int,
    seed: int = 0,
    strength: float | None = None,
) -> Work:
    """A hostile node's trainer and the first model.

    Args:
        own: an honest node's ``entry`` and ``options``, and ``folder``, where its module is looked
            for after what is installed.
        attack: a name of :func:`qres_core.lab.hostile.playable`.
        nodes: number of nodes.
        attackers: how many of them attack: the last ones.
        index: this node's index, from 0.
        seed: decides the attacker's randomness.
        strength: strength of the attack; ``None`` for its own.

    Raises:
        LabError: QRES-E105 or QRES-E801; QRES-E105 too for an attack that poisons data which the
            trainer does not show.
        ConfigError: what is wrong with the factory.
    """
    table = TrainerConfig(entry=own["entry"], options=own["options"], index=index)
    trainer, initial = from_entry(table, Path(own["folder"]), nodes)
    hostile = turned(
        trainer,
        attack=attack,
        nodes=nodes,
        attackers=attackers,
        index=index,
        seed=seed,
        strength=strength,
    )
    return hostile, initial
