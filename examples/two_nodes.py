"""Two nodes of one program learn the mean of numbers that neither shows the other.

The nodes keep their state in the folder ``two-nodes``: stopped and run again they go on where they
were, and after the tenth model there is nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import attrs
import numpy as np

from qres_core import RoundInfo, Update, Vector, fixed
from qres_core.kernel.config import parse
from qres_core.swarm.effects import RoundEnded
from qres_core.swarm.node import Event, run_node

NODES = [b"\x01" * 32, b"\x02" * 32]
CONFIG = parse(
    {
        "swarm": {
            "name": "two-nodes",
            "nodes": 2,
            "byzantine": 0,
            "quorum": 2,
            "deadline": 2.0,
            "insecure": True,  # one process, nobody to fear
        },
        "node": {"data_dir": "two-nodes"},
        "plugins": {"memory": {}, "mean": {}},
    },
    source="two_nodes.py",
)


@attrs.frozen(eq=False)
class Halfway:
    """Each round, goes half of the way from the model to its own numbers."""

    numbers: np.ndarray[tuple[int], np.dtype[np.float64]]

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """The difference from the model, on the grid."""
        way = self.numbers - fixed.decode(vector, scale=round_info.scale)
        return Update(fixed.encode(way / 2, scale=round_info.scale).vector)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """How far the model is from this node's numbers."""
        return {"distance": float(np.linalg.norm(self.numbers - fixed.decode(vector)))}


def show(event: Event) -> None:
    """Print what the round made."""
    if isinstance(event, RoundEnded):
        outcome = event.outcome
        print(outcome.round_info.number, outcome.status.value, fixed.decode(event.model).round(3))


async def main() -> None:
    """Run both until the tenth model."""

    async def node(index: int, numbers: list[float]) -> None:
        await run_node(
            CONFIG,
            node_id=NODES[index],
            roster=NODES,
            trainer=Halfway(np.array(numbers)),
            initial=np.zeros(2, dtype=np.int32),
            steps=10,
            on_event=show if index == 0 else None,
            linger=0.5,
        )

    async with anyio.create_task_group() as group:
        group.start_soon(node, 0, [1.0, 10.0])
        group.start_soon(node, 1, [3.0, -10.0])


if __name__ == "__main__":
    anyio.run(main)
