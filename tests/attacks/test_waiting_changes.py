"""Changes of the members where sums of groups are opened: none is lost, and none stops the swarm.

Groups are drawn by the members. So whoever joins or leaves before a model is made draws all of them
anew, and next to nothing may be summed after the old groups' sums. Whole nodes with ``secagg``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg import Secagg

from qres_core import RoundInfo, Update, Updates, Vector, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.errors import ValueRefusedError
from qres_core.kernel.discovery import Installed
from qres_core.swarm.members import amendments
from qres_core.swarm.members.amendments import Amendments

Swarm = Callable[..., Any]
GROUPS: Mapping[str, Any] = {"group_size": 4, "min_size": 3, "corrupt": 0.0}
HALVES: Mapping[str, Any] = {"bisect": True, "min_size": 4, "corrupt": 0.05}
FAILED = 2
"""Heights at which liars of all groups spoil their sums."""


@attrs.define
class Spoiled(Mean):
    """A mean of the sums that hold: at the first heights there are none."""

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        if round_info.height < FAILED:
            raise ValueRefusedError.of("QRES-E508", "updates", "no sum is left")
        return Mean.aggregate(self, updates)


def trained(index: int, info: RoundInfo) -> Update:
    return Update(np.array([index, info.step, 1], dtype=np.int32))


@pytest.fixture(name="swarm")
def _swarm(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Swarm:
    """Makes a swarm of so many nodes in groups, in which two thirds sign what they are asked to."""

    def make(nodes: int, *, groups: Mapping[str, Any], rule: type = Mean, **numbers: int) -> Any:
        for name, kind in (("secagg", Secagg), ("mean", rule)):
            monkeypatch.setitem(harness.INSTALLED, name, Installed.local(name, kind))
        plugins = {"secagg": {**groups, "patience": 0.05}}
        net = harness.Net(nodes, plugins=plugins, train=trained, **numbers)
        net.start()
        return net

    return make


def remove(net: Any, member: int) -> None:
    """The operators of all but the member and one more want it to leave."""
    everybody = range(len(net.nodes))
    signers = [index for index in everybody if index != member][1:]
    net.hand_over(net.change("remove", member, signers=signers), everybody)


def test_a_member_leaves_although_all_groups_are_drawn_anew(
    swarm: Swarm,
    waits: bool,  # noqa: FBT001 - False is the control
) -> None:
    net = swarm(14, groups=GROUPS, byzantine=1, quorum=9)
    remove(net, 2)
    net.run(seconds=60, until=lambda: has_left(net) or net.machine(0).head.step >= 2)
    assert has_left(net) == waits


def has_left(net: Any) -> bool:
    return bool(net.machine(0).head.roster.epoch)


@pytest.mark.long
@pytest.mark.parametrize("halved", [True, False])
def test_liars_that_spoil_all_sums_at_a_removal_do_not_stop_the_swarm(
    monkeypatch: pytest.MonkeyPatch,
    swarm: Swarm,
    halved: bool,  # noqa: FBT001 - False is the control
) -> None:
    """The next height works in halves of groups that the removal drew anew: few of them may."""
    if not halved:
        after = Amendments._after_void
        monkeypatch.setattr(Amendments, "_after_void", lambda *given: [next(iter(after(*given)))])
        near: Any = lambda head, remain: len(remain(head)) >= head.roster.quorum  # noqa: E731
        monkeypatch.setattr(amendments, "goes_on", near)
    net = swarm(21, groups=HALVES, rule=Spoiled, byzantine=2, quorum=15)
    assert net.run(seconds=60, until=lambda: net.machine(0).head.height == 1)
    remove(net, 6)
    stay = [index for index in range(21) if index != 6]
    made = net.run(seconds=15, until=lambda: min(net.steps(stay)) >= 1)
    assert made == halved
    net.run(seconds=1)
    assert has_left(net)
