"""The plugin as the audits drive it: by its hooks alone, as the kernel does."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId, NodeInfo, OwnContributions, RecordClip, RoundInfo, Update, Vector
from qres_dp.audit.claim import CLIP, NODES, SCALE, SEPARATION, AuditSetting

_SWARM: Final = "audit"
Rows = NDArray[np.int64]


def _identities() -> tuple[NodeId, ...]:
    """Identities whose turn in a stream is the first: none has data in more of its steps."""
    found: list[NodeId] = []
    number = 0
    while len(found) < NODES:
        node = NodeId(hashlib.sha256(b"audit %d" % number).digest())
        if int.from_bytes(hashlib.sha256(node).digest()) % SEPARATION == 0:
            found.append(node)
        number += 1
    return tuple(sorted(found))


ROSTER: Final = _identities()


@contextmanager
def same_randomness(seed: int) -> Generator[None]:
    """The operating system gives the same bytes in every such block with the same seed.

    So noise cancels in the difference of two releases, whatever the plugin makes of the bytes.
    """
    source = random.Random(seed)  # noqa: S311 - what is audited must get the same bytes twice
    with mock.patch.object(os, "urandom", source.randbytes):
        yield


class System:
    """Nodes with a plugin each. All of a sum's but the observer, whose share it knows.

    Args:
        package: the plugin's.
        setting: its options.
        folder: where the nodes keep ledgers; ``None`` for in memory.
    """

    def __init__(
        self, package: ModuleType, setting: AuditSetting, folder: Path | None = None
    ) -> None:
        self.setting = setting
        self.inputs = setting.honest
        self._package, self._folder = package, folder
        self._begin()

    def _begin(self) -> None:
        self.plugins = [self._node(node) for node in ROSTER[: self.inputs]]
        self.number = self.step = 0

    def _node(self, node: NodeId) -> Any:
        plugin = self._package.Dp(**self.setting.table)
        records = self.setting.records
        clipped = RecordClip(CLIP, records) if records else None
        folder = str(self.folder_of(node)) if self._folder else None
        plugin.setup(NodeInfo(node, _SWARM, ROSTER, data_dir=folder, clipped=clipped))
        return plugin

    def folder_of(self, node: NodeId) -> Path:
        """Of a node's ledger."""
        assert self._folder is not None  # noqa: S101 - the caller gave one
        return self._folder / node.hex()[:8]

    def info(self, dimension: int) -> RoundInfo:
        """The round that the next release is of."""
        return RoundInfo(
            _SWARM,
            self.number,
            bytes(32),
            dimension,
            SCALE,
            ROSTER,
            len(ROSTER),
            step=self.step - 1,
            height=self.step - 1,
        )

    def release(self, vectors: Sequence[Vector], *, again: bool = False) -> Rows:
        """One round: what each node sends, int64, shape ``(inputs, d)``.

        ``vectors``: the nodes' updates, int32, shape ``(d,)``; ``again``: another attempt at the
        round before. When the budget is used up, new nodes go on.
        """
        if self._folder is None and self.number >= self.setting.rounds:
            self._begin()
        self.number += 1
        self.step += not again
        info = self.info(vectors[0].size)
        sent: list[Vector] = []
        for plugin, vector in zip(self.plugins, vectors, strict=True):
            plugin.round_opened(info, OwnContributions())
            made = plugin.privatize(Update(vector, 1), info)
            sent.append(made.vector)
        return np.stack(sent).astype(np.int64)

    def sums(self, item: Vector, other: Vector, rounds: int = 1) -> Rows:
        """Sums of so many rounds: the last node has ``item`` in each.

        Returns int64, shape ``(rounds, d)``.
        """
        inputs, rows = [other] * (self.inputs - 1) + [item], list[Rows]()
        for _ in range(rounds):
            rows.append(self.release(inputs).sum(axis=0))
        return np.stack(rows)


def moved(
    package: ModuleType,
    setting: AuditSetting,
    items: tuple[Vector, Vector],
    other: Vector,
    rounds: int,
) -> Rows:
    """By how much sums move, noise aside, when a node has one update or the other.

    Returns int64, shape ``(rounds, d)``.
    """
    found: list[Rows] = []
    for item in items:
        with same_randomness(7):
            found.append(System(package, setting).sums(item, other, rounds))
    return found[0] - found[1]
