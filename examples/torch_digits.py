"""A PyTorch network learned together by ten nodes, none of which shows its images to another.

It needs the extra `demo` of qres-core, and qres-torch. In a checkout:

    pip install ".[demo]" integrations/qres_torch
    python examples/torch_digits.py
"""

from __future__ import annotations

from typing import Any

import torch
from qres_torch import TorchTrainer
from torch.utils.data import DataLoader, TensorDataset

from qres_core.contract import partition
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.lab.data import Purpose, digits, stream
from qres_core.lab.record import RoundRecord
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import Task

NODES = 10
ROUNDS = 12
SEED = 1


def examples(x: Any, y: Any) -> TensorDataset:
    """Arrays as a data set of torch."""
    return TensorDataset(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y))


def make_task() -> Task:
    """The digits, dealt unevenly: each node sees its own mixture of the ten classes."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # batches this small lose time to threads, not gain it
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    data = digits(SEED)
    test = DataLoader(examples(data.test_x, data.test_y), batch_size=1000)
    parts = partition.dirichlet(data.train_y, NODES, 1.0, stream(SEED, Purpose.PARTITION))
    trainers = tuple(
        TorchTrainer(
            network,  # the nodes of a simulation share it
            DataLoader(
                examples(data.train_x[part], data.train_y[part]), batch_size=16, shuffle=True
            ),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
            epochs=5,
            proximal=0.01,  # FedProx: unlike nodes do not drift as far apart
            test=test,
            seed=SEED,
            index=node,
        )
        for node, part in enumerate(parts)
    )
    # All nodes measure on the same images, so the first node's figures are the task's.
    return Task("torch-digits", trainers[0].vector(), trainers)


def report(record: RoundRecord) -> None:
    """Print a round as it ends."""
    if record.closed:
        print(f"round {record.number}: accuracy {record.metrics['accuracy']:.3f}")
    else:
        print(f"round {record.number}: aborted, {record.reason}")


def main() -> None:
    """Play the swarm and say whether all nodes hold the same model."""
    swarm = SwarmConfig(name="torch-digits", nodes=NODES, byzantine=0, quorum=NODES, insecure=True)
    config = Config("torch_digits.py", swarm, plugins={"mean": {}, "memory": {}})
    result = simulate(config, Scenario(rounds=ROUNDS, seed=SEED), task=make_task(), progress=report)
    print("all nodes hold the same model" if result.unanimous else "the nodes disagree")


if __name__ == "__main__":
    main()
