"""The model and the data: a small convolutional network on the digits of scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.out = nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the ten classes."""
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.out(x.flatten(1))


def load_data(partition_id: int, num_partitions: int) -> tuple[DataLoader, DataLoader]:
    """One node's examples, to train on and to measure with."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    mine = order[partition_id::num_partitions]
    images = torch.tensor(x[mine] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(y[mine])
    held_out = len(mine) // 5
    test = TensorDataset(images[:held_out], labels[:held_out])
    train = TensorDataset(images[held_out:], labels[held_out:])
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(test, batch_size=256)


def train(net: Net, loader: DataLoader, epochs: int, rate: float) -> float:
    """Train in place, and return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    """Mean loss and accuracy."""
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            scores = net(images)
            loss += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
            right += (scores.argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return loss / count, right / count
