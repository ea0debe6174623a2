"""Holds a plugin as the kernel does: what only shows in a real hook call shows in a test too."""

from __future__ import annotations

import attrs
import pluggy

from qres_core.contract.claims import Claims
from qres_core.kernel.assembly import enable


def host(plugin: object, *, name: str = "plugin") -> pluggy.PluginManager:
    """Register a plugin with a manager that knows the hooks of QRES, and nothing else.

    Args:
        plugin: an instance of the plugin's attrs class.
        name: the name it is registered under.

    Returns:
        the manager; call hooks as ``manager.hook.aggregate(updates=…, round_info=…)``, which
        returns a list with one result.

    Raises:
        PluginError: what the kernel refuses: QRES-E206 not an attrs class, without hooks, or a hook
            with arguments its specification lacks; QRES-E207 unknown hook; QRES-E208 asynchronous;
            QRES-E209 ordered or wrapping; QRES-E210 without claims, or with wrong ones; QRES-E211
            a name near to a hook or a claim that nobody reads.
    """
    return seat(plugin, name=name).manager


@attrs.frozen(eq=False)
class Seated:
    """A plugin that is held as the kernel holds it.

    Attributes:
        plugin: the plugin.
        manager: the manager it alone is registered with.
        claims: what it claims.
    """

    plugin: object
    manager: pluggy.PluginManager
    claims: Claims


def seat(plugin: object, *, name: str = "plugin") -> Seated:
    """:func:`host`, with what the plugin claims."""
    enabled = enable(plugin, name)
    return Seated(plugin, enabled.manager, enabled.claims)
