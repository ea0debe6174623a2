"""Trainers that ``trainer.entry`` names for a Flower app; Flower is imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qres_core import Vector
    from qres_flower.client import FlowerTrainer


def flower_app(
    app: str, index: int, nodes: int, seed: int, scale: int, **options: Any
) -> tuple[FlowerTrainer, Vector]:
    """A node's trainer and the swarm's first model: see :func:`qres_flower.client.make`.

    Raises LabError: QRES-E802 where Flower is not installed. Raises ConfigError: as ``make``.
    """
    from qres_flower.client import make  # noqa: PLC0415 - Flower takes a second

    return make(app, index, nodes, seed, scale, **options)
