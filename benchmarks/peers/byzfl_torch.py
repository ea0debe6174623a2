"""byzfl on torch tensors."""

from __future__ import annotations

import torch

from peers import Rows, Rules
from peers.byzfl import rules


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on a tensor that shares the rows' memory."""
    torch.set_num_threads(1)
    return rules(torch.from_numpy(rows), len(rows), f)
