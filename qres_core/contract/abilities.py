"""Questions to a plugin beside its hooks: plain methods, without a mark.

A method that a plugin has is asked with the arguments here, by position. One that it has not
answers as the method here does. So it must be a method, and take these arguments, or the plugin is
refused by name (QRES-E211, QRES-E206).

``claims`` is no method: see :mod:`qres_core.contract.claims`. ``check``, ``passes`` and
``shard_run`` complete it for what only numbers of the whole configuration tell. They are pure and
quick, ask for nothing but their arguments and the plugin's options, and run before ``setup``.
"""

# ruff: noqa: ARG002, FBT001 - this is what plugins without these methods answer

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from qres_core.contract.errors import Problem

if TYPE_CHECKING:
    from qres_core.contract.claims import Extent, Surroundings
    from qres_core.contract.transport import LinkKeys
    from qres_core.contract.types import NodeInfo


class Abilities:
    """The specification of every method beside the hooks, and what is the case without it."""

    # ── while configurations are compared ─────────────────────────────────────────────────────────

    def check(self, around: Surroundings) -> Iterable[Problem | str]:
        """Every reason why the plugin would fail, or break its promise, in these surroundings.

        A problem names the option, the other side with its value, and what to do. A text is what an
        operator should read.
        """
        return ()

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """Size of an update after ``privatize``, if it was as large as ``extent`` before."""
        return extent

    def shard_run(self, dimension: int) -> int:
        """Coordinates in a row, 1 or more, that no shard for ``verify_shard`` may part."""
        return 1

    def kappa_bound(self, n: int) -> float | None:
        """The bound that a rule claims for its kappa among ``n`` updates.

        ``None`` for some finite one, ``math.inf`` for none.
        """
        return None

    # ── at a node ─────────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> Iterable[Problem]:
        """Every reason why ``setup`` would refuse this node, as far as reading alone shows it.

        It writes nothing. A start asks it before any ``setup``, and so do ``qres check`` and
        ``qres node doctor``, these with the node's folder.
        """
        return ()

    def examine(
        self, node_info: NodeInfo, runs: bool, link_keys: LinkKeys | None
    ) -> Iterable[Problem | str]:
        """Yield lines of ``qres node doctor`` on the node's surroundings; a text if all is well."""
        return ()

    def retune(self, fresh: Any) -> None:
        """Take over live options of a plugin that was made anew, while the node runs."""

    # ── in a simulation that goes on ──────────────────────────────────────────────────────────────

    def remember(self) -> bytes:
        """Return the plugin's memory from round to round; empty for nothing."""
        return b""

    def recall(self, memory: bytes) -> None:
        """Take back what ``remember`` gave, after ``setup``; refuse any other value."""

    def recall_agreed(self, memory: bytes) -> None:
        """``recall`` of a plugin that keeps nothing but what follows from what the swarm agreed on.

        All nodes are given what one kept that made the last model itself: others may not have seen
        yet how the height ended, or took the model from others.
        """


ABILITIES: Final = tuple(name for name in vars(Abilities) if not name.startswith("_"))
"""Names of the methods, in the order above."""


def abilities(plugin: object) -> frozenset[str]:
    """Methods of these that a plugin has, or a class of plugins; no code of it runs."""

    def has(name: str) -> bool:
        try:
            inspect.getattr_static(plugin, name)
        except AttributeError:
            return False
        return True

    return frozenset(filter(has, ABILITIES))


def misfits(plugin: type[object]) -> Iterable[tuple[str, str]]:
    """The methods of a class that cannot be called as specified, each with its right arguments."""
    for name in ABILITIES:
        method = inspect.getattr_static(plugin, name, None)
        if not inspect.isfunction(method):
            continue
        wanted = tuple(inspect.signature(getattr(Abilities, name)).parameters)  # with ``self``
        try:
            # What is called, and not what it says that it wraps.
            inspect.signature(method, follow_wrapped=False).bind(*wanted)
        except TypeError:
            yield name, ", ".join(wanted[1:])
