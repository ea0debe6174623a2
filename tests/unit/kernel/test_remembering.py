"""What plugins keep from round to round is told by name, and given back to the same plugin."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import Claims, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import PluginError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.lab.checkpoint import Checkpoint, plugin_memories
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.model_file import SwarmModel


@attrs.define
class Counting:
    """Counts, and takes back numbers alone."""

    claims = Claims(tolerates=None)
    count: Any = attrs.field(default=b"", init=False)

    @hookimpl
    def round_closed(self) -> None:
        """Has a hook, as every plugin."""

    def remember(self) -> Any:
        return self.count

    def recall(self, memory: bytes) -> None:
        if not memory.isdigit():
            raise ValueError("no number")
        self.count = memory


def counting(*counts: Any) -> tuple[Kernel, list[Counting]]:
    """A kernel with so many counting plugins, and the plugins."""
    swarm = SwarmConfig(name="s", nodes=3, byzantine=0, quorum=3, insecure=True)
    plugins = [Counting() for _ in counts]
    for plugin, count in zip(plugins, counts, strict=True):
        plugin.count = count
    named = {f"counting-{number}": plugin for number, plugin in enumerate(plugins)}
    parts = {"memory": Memory(), **named, "mean": Mean(unprotected=True)}
    return Kernel([enable(plugin, name) for name, plugin in parts.items()], swarm), plugins


def test_each_plugin_is_given_back_its_own() -> None:
    before, _plugins = counting(b"7", b"", b"9")
    kept = before.remember(agreed=False)
    assert kept == {"counting-0": b"7", "counting-2": b"9"}
    after, plugins = counting(b"", b"", b"")
    after.recall(kept)
    assert [plugin.count for plugin in plugins] == [b"7", b"", b"9"]
    assert [plugin.remembers for plugin in after.enabled] == [False, True, True, True, False]


@attrs.define
class Agreeing:
    """Counts what the swarm agreed on, which all nodes count alike."""

    claims = Claims(tolerates=None)
    count: bytes = attrs.field(default=b"", init=False)

    @hookimpl
    def round_closed(self) -> None:
        """Has a hook, as every plugin."""

    def remember(self) -> bytes:
        return self.count

    def recall_agreed(self, memory: bytes) -> None:
        self.count = memory


def test_what_follows_from_agreement_is_that_of_a_node_which_has_it() -> None:
    """Others may not have seen how the last height ended, or took its model from others."""
    swarm = SwarmConfig(name="s", nodes=3, byzantine=0, quorum=3, insecure=True)

    def node(agreed: bytes, own: bytes) -> tuple[Kernel, Agreeing, Counting]:
        common, mine = Agreeing(), Counting()
        common.count, mine.count = agreed, own
        parts = {"memory": Memory(), "common": common, "mine": mine}
        named = {**parts, "mean": Mean(unprotected=True)}
        return Kernel([enable(plugin, name) for name, plugin in named.items()], swarm), common, mine

    before = [node(b"", b"1"), node(b"5", b"2"), node(b"4", b"3")]
    kept = plugin_memories([kernel for kernel, _common, _mine in before], before[1][0])
    assert kept == ({"common": b"5", "mine": b"1"}, {"mine": b"2"}, {"mine": b"3"})
    vector = np.zeros(1, dtype=np.int32)
    model = SwarmModel("s", 0, 0, vector)
    roster = Roster(tuple(bytes([i]) * 32 for i in range(3)), 0, 3)
    head = Head.first("s", model.digest, roster, bytes(32))
    checkpoint = Checkpoint(
        model=model, head=head, number=1, now=0.0, streams={}, counts={}, records=(), plugins=kept
    )
    after = [node(b"", b"") for _ in range(3)]
    checkpoint.recall((), [kernel for kernel, _common, _mine in after])
    assert [(common.count, mine.count) for _kernel, common, mine in after] == [
        (b"5", b"1"),
        (b"5", b"2"),
        (b"5", b"3"),
    ]
    assert after[0][0].enabled[1].remembers


def test_what_a_plugin_does_not_take_is_refused_by_name() -> None:
    kernel, _plugins = counting(b"")
    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.counting-0: 'recall' raised Value"):
        kernel.recall({"counting-0": b"x"})


@pytest.mark.parametrize("bad", [None, 7, "text", bytearray(b"7")])
def test_what_is_no_memory_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.counting-0: 'remember' returned"):
        counting(bad)[0].remember(agreed=False)
