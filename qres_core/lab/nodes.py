"""The nodes of a simulated swarm: their identities, their kernels, and what is noted of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from qres_core.contract.evidence import Evidence
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId, Updates, Vector
from qres_core.contract.verdict import Verdict
from qres_core.contract.wire import Envelope
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.calls import Caller
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.kernel.discovery import Installed
from qres_core.kernel.intake import Intake
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.merging import Merging
from qres_core.kernel.node_ids import node_ids
from qres_core.kernel.settings import shared_settings
from qres_core.kernel.slots import ALL_HOOKS
from qres_core.lab.frames import SharedFindings, SharedFrames, SharedVectors
from qres_core.lab.once import Once
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.driver import Driver
from qres_core.swarm.shards.messages import PART, ShardPart

T = TypeVar("T")
Wrap = Callable[[Enabled, str, Caller], Caller]
"""Given a plugin, the name of a hook of it and what calls it: what is to call it from now on."""


class SharingIntake(Intake):
    """Decodes what all nodes get once."""

    def __init__(self, kernel: WrappedKernel) -> None:
        super().__init__(kernel.calls, kernel.enabled, kernel.swarm)
        self._kernel = kernel

    def read(self, frame: bytes) -> Envelope:
        """Decoded once for all nodes."""
        return self._kernel.frames.read(frame)

    def quoted(
        self, envelope: Envelope, now: float, members: Collection[NodeId] | None = None
    ) -> Verdict:
        """Judge it, with the payload that others have."""
        return super().quoted(self._kernel.frames.shared(envelope), now, members)

    def observe(self, evidence: Evidence) -> None:
        """Note what speaks against a node, and tell every observing plugin."""
        if evidence.against:
            against = self._kernel.against.setdefault(evidence.subject, Counter())
            against[evidence.fact] += 1
        super().observe(evidence)


class SharingMerging(Merging):
    """Holds what all nodes merge to once."""

    def __init__(self, kernel: WrappedKernel) -> None:
        super().__init__(kernel.calls, kernel.intake, kernel.enabled)
        self._vectors = kernel.vectors

    def _vector(self, name: str, hook: str, result: object, round_info: RoundInfo) -> Vector:
        return self._vectors.merged(super()._vector(name, hook, result, round_info))


class WrappedKernel(Kernel):
    """A kernel that can be watched, and shares with those of other nodes what is alike.

    Attributes:
        against: by node, how often each fact was held against it.
        told_alike: plugins and hooks of theirs that tell all nodes the same.
        frames: what it decodes with.
        vectors: what it shares of what it found.
    """

    def __init__(
        self,
        enabled: Sequence[Enabled],
        swarm: SwarmConfig,
        frames: SharedFrames,
        vectors: SharedVectors,
        findings: SharedFindings,
    ) -> None:
        super().__init__(enabled, swarm)
        self.frames, self.vectors, self._findings = frames, vectors, findings
        self.told_alike: Collection[tuple[str, str]] = ()
        self.against: dict[NodeId, Counter[str]] = {}
        self.intake = SharingIntake(self)
        self.merging = SharingMerging(self)

    def sign(self, envelope: Envelope) -> Envelope:
        """Sign it; the others are going to have the same payload."""
        return self.frames.shared(super().sign(envelope))

    def found(
        self, what: tuple[Hashable, ...], find: Callable[[], T], *, by: Collection[str] = ()
    ) -> T:
        """Found once for all nodes, if no hook may say something else to one of them."""
        if by:
            asked = {(plugin.name, hook) for plugin in self.enabled for hook in plugin.hooks}
            if any(hook in by and (name, hook) not in self.told_alike for name, hook in asked):
                return find()
        found = self._findings.found(what, find)
        if what[0] == PART and isinstance(found, ShardPart) and type(what[1]) is bytes:
            self.frames.read_from(found, what[1])
        return found

    def wrap(self, wrap: Wrap) -> None:
        """Put something around every hook of every plugin.

        ``wrap``: asked once for each; may return what it is given.
        """
        plugins = {plugin.name: plugin for plugin in self.enabled}
        self.calls.by_hook = {
            hook: tuple((name, wrap(plugins[name], hook, caller)) for name, caller in callers)
            for hook, callers in self.calls.by_hook.items()
        }

    def propose_by(self, choose: Callable[[Updates, RoundInfo], Screening]) -> None:
        """Have something else than the plugins screen what the node proposes, and endorse all."""

        def screen(updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> list[Any]:
            del held_out
            return [choose(updates, round_info)]

        instead = {"screen": (("attack", screen),), "endorse": ()}
        self.calls.by_hook = {**self.calls.by_hook, **instead}


@attrs.define(eq=False)
class SimulatedNode:
    """A simulated node that plays rounds."""

    index: int  # which of the swarm's nodes, from 0; the attackers are last
    node_id: NodeId  # its identity
    kernel: WrappedKernel  # its plugins
    machine: RoundMachine  # plays its rounds
    attacker: int | None  # its number among the attackers, from 0; ``None`` if it is honest
    online: bool = True  # whether it hears, speaks and works
    merged: bool = True  # whether it made its model itself, or begins: it took none from others
    driver: Driver = attrs.field(init=False)  # has it carried out what the machine wants


def identify(
    config: Config,
    seed: int,
    installed: Mapping[str, Installed],
    *,
    outsiders: int = 0,
    theirs: Mapping[int, Mapping[str, Installed]] | None = None,
    once: Once | None = None,
) -> tuple[list[WrappedKernel], list[NodeId]]:
    """A kernel and an identity for every node of a simulated swarm.

    ``outsiders``: the last so many nodes run without the plugins that decide who is admitted: they
    have no credential to show; ``theirs``: plugins of single nodes by index, instead of those
    installed; ``once``: verdicts that are computed once for all nodes. All nodes claim the settings
    of the swarm: whoever said that it runs other plugins would not be listened to at all.
    """
    kernels: list[WrappedKernel] = []
    ids: list[NodeId] = []
    everything = assemble(config, installed)
    gated = {plugin.name for plugin in everything if "admit" in plugin.hooks}
    tables = {name: table for name, table in config.plugins.items() if name not in gated}
    outside = attrs.evolve(config, plugins=tables)
    settings = shared_settings(config.swarm, everything)
    shared = SharedFrames(config.swarm), SharedVectors(), SharedFindings()
    for index, fallback in enumerate(node_ids(config.swarm.nodes, seed)):
        inside = index < config.swarm.nodes - outsiders
        found = installed if theirs is None else theirs.get(index, installed)
        enabled = assemble(config if inside else outside, found)
        kernel = WrappedKernel(enabled, config.swarm, *shared)
        kernel.settings = settings
        if once is not None:
            kernel.wrap(once.wrap)
            kernel.told_alike = once.named if found is installed else ()
        kernels.append(kernel)
        ids.append(kernel.identity(fallback) or fallback)
    return kernels, ids


def describe(kernel: Kernel) -> tuple[Mapping[str, Any], ...]:
    """The enabled plugins for a report, in file order."""
    return tuple(
        {
            "name": plugin.name,
            "distribution": plugin.origin.distribution,
            "version": plugin.origin.version,
            "hooks": [hook for hook in ALL_HOOKS if hook in plugin.hooks],
        }
        for plugin in kernel.enabled
    )
