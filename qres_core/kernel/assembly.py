"""From a configuration to plugin instances: gate, import, configure, verify.

Only plugins that the configuration names are imported. One that cannot be used is fatal and named,
with its distribution and the cause; all problems are collected before anything is raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs
import pluggy

from qres_core.contract.errors import ConfigError, PluginError, Problem, QresError
from qres_core.contract.hookspecs import PROJECT, HookSpecs
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.traits import (
    HIDES_NOTHING,
    NO_NEEDS,
    Extent,
    Hides,
    Needs,
    Surroundings,
)
from qres_core.kernel.config import Config, structure
from qres_core.kernel.discovery import Installed, Status
from qres_core.kernel.slots import ALL_HOOKS

FROM_CHECKOUT = "make node, in a checkout of QRES"
"""How the distributions of this project are installed: their names are not on PyPI yet, and
whoever registers one there is not this project."""
FIRST_PARTY = {
    "bulyan": "qres-krum",
    "dp": "qres-dp",
    "ed25519": "qres-ed25519",
    "krum": "qres-krum",
    "libp2p": "qres-transport-libp2p",
    "pki": "qres-pki",
    "replay": "qres-replay",
    "reputation": "qres-reputation",
    **dict.fromkeys(
        (
            "arc",
            "bucketing",
            "caf",
            "centred_clipping",
            "clipping",
            "dnc",
            "geometric_median",
            "mda",
            "meamed",
            "median",
            "monna",
            "nnm",
            "trimmed_mean",
        ),
        "qres-robust-stats",
    ),
    "public_validation": "qres-validation",
    "secagg": "qres-secagg",
    "validated_mean": "qres-validation",
    "validation": "qres-validation",
    "zk": "qres-zk",
}
"""Distributions a missing plugin may be installed from. For other names no command is offered:
a misspelt one would invite typosquatting."""

_FORBIDDEN = ("wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook", "specname")


@attrs.frozen
class Enabled:
    """A plugin the configuration named, ready to be registered.

    Attributes:
        name: its name in the file.
        origin: the distribution it came from.
        instance: the configured plugin.
        hooks: hooks it implements, in life-cycle order.
    """

    name: str
    origin: Installed
    instance: object
    hooks: tuple[str, ...]

    @property
    def needs(self) -> Needs:
        """What the plugin needs, as configured."""
        needs: Needs = _trait(self, "needs", NO_NEEDS)
        return needs

    @property
    def hides(self) -> Hides:
        """What the plugin hides, as configured."""
        hides: Hides = _trait(self, "hides", HIDES_NOTHING)
        return hides

    @property
    def averages(self) -> bool:
        """Whether its rule is a weighted mean of its rows."""
        averages: bool = _trait(self, "averages", False)  # noqa: FBT003 - the type to be held to
        return averages

    @property
    def bounds(self) -> str:
        """How far one update can move a mean, where the plugin makes every node prove it."""
        bounds: str = _trait(self, "bounds", "")
        return bounds

    @property
    def weighs(self) -> bool:
        """Whether the standings it gives scale weights; assumed where a plugin does not say."""
        weighs: bool = _trait(self, "weighs", True)  # noqa: FBT003 - the type to be held to
        return weighs

    @property
    def alters(self) -> bool:
        """Whether it wraps the rule and changes what the rule gets or returns."""
        alters: bool = _trait(self, "alters", True)  # noqa: FBT003 - the type to be held to
        return alters and "wrap_aggregate" in self.hooks

    @property
    def merges(self) -> int:
        """Of how many rows it makes one, as a wrapper."""
        merges: int = _trait(self, "merges", 1)
        return max(1, merges) if "wrap_aggregate" in self.hooks else 1

    @property
    def reveals(self) -> bool:
        """Whether its ``reveal`` changes updates that no plugin hides."""
        reveals: bool = _trait(self, "reveals", True)  # noqa: FBT003 - the type to be held to
        return reveals and "reveal" in self.hooks

    @property
    def accompanies(self) -> bool:
        """Whether it puts something beside the update."""
        accompanies: bool = _trait(self, "accompanies", False)  # noqa: FBT003 - as above
        return accompanies

    @property
    def transferable(self) -> bool:
        """Whether every honest node comes to the verdict that another came to on a proof."""
        transferable: bool = _trait(self, "transferable", False)  # noqa: FBT003 - as above
        return transferable

    @property
    def notices(self) -> tuple[str, ...]:
        """What the plugin wants an operator to read, as configured."""
        notices: tuple[str, ...] = _trait(self, "notices", ())
        return notices

    def check(self, around: Surroundings) -> tuple[Problem, ...]:
        """Why the plugin would not work in these surroundings.

        Raises:
            PluginError: QRES-E206 if it raises, or returns anything but problems.
        """
        found = _ask(self, "check", (), around)
        problems = tuple(cast("Iterable[object]", found)) if isinstance(found, Iterable) else None
        if problems is None or any(type(one) is not Problem for one in problems):
            what = "'check' returned something but problems"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return cast("tuple[Problem, ...]", problems)

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """How large an update is after the plugin.

        Raises:
            PluginError: QRES-E206 if it raises, or returns anything but an extent.
        """
        found = _ask(self, "passes", extent, extent, around)
        if type(found) is not Extent:
            what = f"'passes' returned a {type(found).__name__}, not Extent"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        clipped_by = extent.clipped_by if found.length == extent.length else self.name
        noised_by = extent.noised_by if found.noise == extent.noise else self.name
        return attrs.evolve(found, clipped_by=clipped_by, noised_by=noised_by)


def _authors(enabled: Enabled) -> str:
    """What is to be done about a mistake in a plugin's code."""
    return f"tell the authors of {enabled.origin.distribution}"


def _ask(enabled: Enabled, label: str, absent: object, *arguments: object) -> object:
    """The result of a trait that is a method; ``absent`` where the plugin has none."""
    try:
        inspect.getattr_static(enabled.instance, label)
    except AttributeError:
        return absent
    try:
        answer: object = getattr(enabled.instance, label)(*arguments)
        # A generator runs when it is read: what it raises is to be caught here.
        return list(cast("Iterable[object]", answer)) if inspect.isgenerator(answer) else answer
    except Exception as error:
        what = f"{label!r} raised {type(error).__name__}: {error}"
        raise PluginError.of(
            "QRES-E206", f"plugins.{enabled.name}", what, _authors(enabled)
        ) from error


def _trait(enabled: Enabled, label: str, absent: Any) -> Any:
    where = f"plugins.{enabled.name}"
    try:
        inspect.getattr_static(enabled.instance, label)
    except AttributeError:
        return absent
    try:
        value = getattr(enabled.instance, label)
    except Exception as error:  # an AttributeError inside the property is no absence
        what = f"{label!r} raised {type(error).__name__}: {error}"
        raise PluginError.of("QRES-E206", where, what, _authors(enabled)) from error
    if type(value) is not type(absent):
        what = f"{label!r} is a {type(value).__name__}, not {type(absent).__name__}"
        raise PluginError.of("QRES-E206", where, what, _authors(enabled))
    return value


def assemble(config: Config, installed: Mapping[str, Installed]) -> tuple[Enabled, ...]:
    """Import and configure the plugins of a configuration, in file order.

    Args:
        config: the configuration.
        installed: what :func:`qres_core.kernel.discovery.scan` found.

    Returns:
        the enabled plugins.

    Raises:
        PluginError: every plugin that cannot be used (QRES-E2xx), together with every problem of
            the plugins' options (QRES-E1xx).
    """
    problems: list[Problem] = []
    causes: list[QresError] = []
    enabled: list[Enabled] = []
    for name, table in config.plugins.items():
        where = f"plugins.{name}"
        try:
            origin = _gate(name, where, installed)
            factory = _load(origin, where)
            hooks = _verify_class(factory, origin, where)
            instance: object = structure(table, factory, where)
            enabled.append(_enable(instance, hooks, origin, where))
        except (PluginError, ConfigError) as error:
            problems.extend(error.problems)
            causes.append(error)
    if causes:
        cause = causes[0] if len(causes) == 1 else ExceptionGroup("plugins", causes)
        raise PluginError(problems) from cause
    return tuple(enabled)


def enable(instance: object, name: str) -> Enabled:
    """A plugin that is already configured, held to everything :func:`assemble` checks.

    Raises:
        PluginError: QRES-E206 to QRES-E209.
    """
    origin = Installed.local(name, type(instance))
    where = f"plugins.{name}"
    _load(origin, where)
    return _enable(instance, _verify_class(type(instance), origin, where), origin, where)


def _enable(instance: object, hooks: tuple[str, ...], origin: Installed, where: str) -> Enabled:
    _verify_instance(instance, hooks, origin, where)
    plugin = Enabled(origin.name, origin, instance, hooks)
    # Read now, so that a fault in them is reported with all the others.
    _ = plugin.needs, plugin.hides, plugin.averages, plugin.bounds, plugin.weighs, plugin.notices
    _ = plugin.alters, plugin.merges, plugin.reveals, plugin.accompanies, plugin.transferable
    return plugin


def plugin_class(origin: Installed) -> type[object]:
    """Import the class of one plugin, for whoever shows its options.

    Raises:
        PluginError: QRES-E202, QRES-E206.
    """
    return _load(origin, f"plugins.{origin.name}")


def _gate(name: str, where: str, installed: Mapping[str, Installed]) -> Installed:
    origin = installed.get(name)
    if origin is None:
        if name in FIRST_PARTY:
            fix = f"install {FIRST_PARTY[name]}: {FROM_CHECKOUT}"
        else:
            fix = did_you_mean(name, installed)
        raise PluginError.of("QRES-E201", where, "enabled and not installed", fix)
    if origin.status is Status.INCOMPATIBLE:
        fix = f"pip install -U {origin.distribution} qres-core"
        raise PluginError.of("QRES-E203", where, f"{origin.provenance}: {origin.detail}", fix)
    if origin.status is Status.CONFLICT:
        raise PluginError.of("QRES-E204", where, origin.detail, "pip uninstall all but one")
    if origin.status is Status.MISPLACED:
        fix = f"remove that folder and pip install {origin.distribution}"
        raise PluginError.of("QRES-E205", where, f"{origin.provenance}: {origin.detail}", fix)
    return origin


def _load(origin: Installed, where: str) -> type[object]:
    factory: Any = origin.factory
    try:
        if factory is None and origin.entry_point is not None:
            factory = origin.entry_point.load()
    except (Exception, SystemExit) as error:
        what = f"{origin.provenance}: import failed: {type(error).__name__}: {error}"
        fix = f"reinstall or remove {origin.distribution}"
        raise PluginError.of("QRES-E202", where, what, fix) from error
    if not isinstance(factory, type) or not attrs.has(factory):
        what = f"{origin.provenance}: the entry point is not an attrs class"
        raise PluginError.of("QRES-E206", where, what, "decorate it with @attrs.frozen")
    return factory


def _verify_class(factory: type[object], origin: Installed, where: str) -> tuple[str, ...]:
    problems: list[Problem] = []
    found: set[str] = set()
    for label, function in inspect.getmembers(factory, inspect.isfunction):
        options = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            continue
        spot = f"{where}: {origin.provenance}: hook {label!r}"
        if label not in ALL_HOOKS:
            problems.append(
                Problem("QRES-E207", spot, "no such hook", did_you_mean(label, ALL_HOOKS))
            )
            continue
        found.add(label)
        problems.extend(_verify_hook(function, options, spot))
    if not found and not problems:
        what = f"{origin.provenance}: no method is marked @hookimpl"
        problems.append(Problem("QRES-E206", where, what, "mark the methods that are hooks"))
    if problems:
        raise PluginError(problems)
    return tuple(hook for hook in ALL_HOOKS if hook in found)


def _verify_hook(function: Any, options: Mapping[str, Any], spot: str) -> list[Problem]:
    problems: list[Problem] = []
    used = [option for option in _FORBIDDEN if options.get(option)]
    if used:
        fix = "use plain @hookimpl; order plugins in the TOML file"
        problems.append(Problem("QRES-E209", spot, f"uses {', '.join(used)}", fix))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problems.append(Problem("QRES-E208", spot, "is asynchronous", "make it a plain function"))
    elif inspect.isgeneratorfunction(function) and not used:
        problems.append(Problem("QRES-E209", spot, "is a generator", "make it return a value"))
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD}:
        what = "has keyword-only, positional-only or variable arguments"
        problems.append(Problem("QRES-E206", spot, what, "name plain arguments of the hook"))
    return problems


def _verify_instance(
    instance: object, hooks: tuple[str, ...], origin: Installed, where: str
) -> None:
    """Register with a manager of its own, so that a mismatch names this plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(instance, name=origin.name)
        manager.check_pending()
    except Exception as error:
        what = f"{origin.provenance}: {' '.join(str(error).split())}"
        fix = "name only arguments of the hook's specification, in docs/reference/hooks.md"
        raise PluginError.of("QRES-E206", where, what, fix) from error
    registered = {caller.name for caller in manager.get_hookcallers(instance) or ()}
    if odd := sorted(registered.symmetric_difference(hooks)):
        # A class method or a function in a field: one of two readers would not see the hook.
        what = f"{origin.provenance}: hook {odd[0]!r} is not a plain method of the class"
        raise PluginError.of("QRES-E206", where, what, "define it with def, marked @hookimpl")
