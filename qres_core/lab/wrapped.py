"""The kernel of a simulated node: it keeps what is held against others; hooks can be wrapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from qres_core.contract.evidence import Evidence
from qres_core.contract.types import NodeId
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Caller, Kernel

Wrap = Callable[[Enabled, str, Caller], Caller]
"""Given a plugin, the name of a hook of it and what calls it: what is to call it from now on."""


class WrappedKernel(Kernel):
    """A kernel that can be watched.

    Attributes:
        against: by node, how often each fact was held against it.
    """

    def __init__(self, enabled: Sequence[Enabled], swarm: SwarmConfig) -> None:
        super().__init__(enabled, swarm)
        self.against: dict[NodeId, Counter[str]] = {}

    def wrap(self, wrap: Wrap) -> None:
        """Put something around every hook of every plugin.

        Args:
            wrap: asked once for each; may return what it is given.
        """
        plugins = {plugin.name: plugin for plugin in self.enabled}
        self._callers = {
            hook: tuple((name, wrap(plugins[name], hook, caller)) for name, caller in callers)
            for hook, callers in self._callers.items()
        }

    def observe(self, evidence: Evidence) -> None:
        """Note what speaks against a node, and tell every observing plugin."""
        if evidence.against:
            self.against.setdefault(evidence.subject, Counter())[evidence.fact] += 1
        super().observe(evidence)
