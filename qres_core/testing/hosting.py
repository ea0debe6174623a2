"""Holds a plugin as the kernel does: what only shows in a real hook call shows in a test too."""

from __future__ import annotations

import inspect
from typing import Any, Final

import attrs
import pluggy

from qres_core.contract.errors import PluginError
from qres_core.contract.hookspecs import PROJECT, HookSpecs
from qres_core.contract.traits import HIDES_NOTHING, NO_NEEDS, Needs

_FORBIDDEN: Final = ("wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook", "specname")


def _refuse_hook(label: str, function: Any) -> None:
    where = f"hook {label!r}"
    options = getattr(function, f"{PROJECT}_impl")
    if used := [option for option in _FORBIDDEN if options.get(option)]:
        raise PluginError.of("QRES-E209", where, f"uses {', '.join(used)}", "use plain @hookimpl")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError.of("QRES-E208", where, "is asynchronous", "make it a plain function")
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD}:
        what = "has keyword-only, positional-only or variable arguments"
        raise PluginError.of("QRES-E206", where, what, "name plain arguments of the hook")


def host(plugin: object, *, name: str = "plugin") -> pluggy.PluginManager:
    """Register a plugin with a manager that knows the hooks of QRES, and nothing else.

    Args:
        plugin: an instance of the plugin's attrs class.
        name: the name it is registered under.

    Returns:
        the manager; call hooks as ``manager.hook.aggregate(updates=…, round_info=…)``, which
        returns a list with one result.

    Raises:
        PluginError: QRES-E206 not an attrs class, without hooks, or a hook with arguments its
            specification lacks; QRES-E207 unknown hook; QRES-E208 asynchronous; QRES-E209 ordered
            or wrapping.
    """
    kind = type(plugin)
    if not attrs.has(kind):
        what = f"{plugin!r} is not an instance of an attrs class"
        raise PluginError.of("QRES-E206", name, what, "decorate the class with @attrs.frozen")
    for label, expected in (("needs", NO_NEEDS), ("hides", HIDES_NOTHING)):
        if type(value := getattr(plugin, label, expected)) is not type(expected):
            what = f"{label!r} is a {type(value).__name__}, not {type(expected).__name__}"
            raise PluginError.of("QRES-E206", name, what)
    hooks = {
        label: function
        for label, function in inspect.getmembers(kind, inspect.isfunction)
        if hasattr(function, f"{PROJECT}_impl")
    }
    if not hooks:
        raise PluginError.of("QRES-E206", name, "no method is marked @hookimpl")
    for label, function in hooks.items():
        if not hasattr(HookSpecs, label):
            raise PluginError.of("QRES-E207", name, f"no hook is called {label!r}")
        _refuse_hook(label, function)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError.of("QRES-E206", name, " ".join(str(error).split())) from error
    return manager


def needs_of(plugin: object) -> Needs:
    """What the plugin needs, or nothing if it does not say."""
    needs: Needs = getattr(plugin, "needs", NO_NEEDS)
    return needs
