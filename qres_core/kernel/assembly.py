"""From a configuration to plugin instances: gate, import, configure, verify.

Only plugins that the configuration names are imported. One that cannot be used is fatal and named,
with its distribution and the cause; all problems are collected before anything is raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, cast

import attrs
import pluggy

from qres_core.contract.claims import (
    CLAIMED_HOOKS,
    NO_CLAIMS,
    Claims,
    Extent,
    Surroundings,
)
from qres_core.contract.errors import ConfigError, PluginError, Problem, QresError
from qres_core.contract.faults import is_plugin_name
from qres_core.contract.hookspecs import PROJECT, HookSpecs
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.transport import LinkKeys
from qres_core.contract.types import NodeInfo
from qres_core.kernel.config import Config, structure
from qres_core.kernel.discovery import Installed, Status, imported
from qres_core.kernel.index import FROM_CHECKOUT, plugin_index
from qres_core.kernel.lookalikes import lookalikes, strays
from qres_core.kernel.slots import ALL_HOOKS

_STATE = (
    "state claims = Claims(tolerates=..., needs=Needs(...)), or a property that returns them; "
    "see docs/how-to/migrate-a-plugin.md"
)
"""What the authors of a plugin do about its claims."""
_FORBIDDEN = ("wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook", "specname")


class _Manager(pluggy.PluginManager):
    """Looks for hooks only where some may be: a simulation makes thousands of managers."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        return None if name.startswith("__") else super().parse_hookspec_opts(module_or_class, name)


@attrs.frozen
class Enabled:
    """A plugin the configuration named, ready to be registered."""

    name: str  # its name in the file
    origin: Installed  # the distribution it came from
    instance: object  # the configured plugin
    hooks: tuple[str, ...]  # hooks it implements, in life-cycle order

    @cached_property
    def manager(self) -> pluggy.PluginManager:
        """A manager for it alone: results keep their author, and a mismatch names this plugin.

        So plugins need be neither hashable nor different from each other.

        Raises PluginValidationError, of pluggy: a hook does not fit its specification.
        """
        manager = _Manager(PROJECT)
        manager.add_hookspecs(HookSpecs)
        manager.register(self.instance, name=self.name)
        manager.check_pending()
        return manager

    @cached_property
    def claims(self) -> Claims:
        """What the plugin claims, as configured: read once, so that nothing changes in between.

        Raises PluginError: QRES-E210 if it raises, or gives anything but :class:`Claims`; or if
        there is none, and the plugin has a hook of :data:`CLAIMED_HOOKS`.
        """
        where = f"plugins.{self.name}"
        try:
            inspect.getattr_static(self.instance, "claims")
        except AttributeError:
            claimed = [hook for hook in self.hooks if hook in CLAIMED_HOOKS]
            if not claimed:
                return NO_CLAIMS
            what = f"has the hook {claimed[0]!r} and no 'claims', so its promises are unknown"
            raise PluginError.of("QRES-E210", where, what, _STATE) from None
        try:
            claims: object = getattr(self.instance, "claims")  # noqa: B009 - not typed
        except PluginError as error:
            refused = [
                attrs.evolve(each, where=f"{where}: {each.where}") for each in error.problems
            ]
            raise PluginError(refused) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an AttributeError inside the property is no absence
            what = f"'claims' raised {type(error).__name__}: {error}"
            raise PluginError.of("QRES-E210", where, what, _STATE) from error
        if type(claims) is not Claims:
            what = f"'claims' is a {type(claims).__name__}, not Claims"
            if callable(claims):
                kind = "class" if isinstance(claims, type) else "method"
                what = f"'claims' is a {kind}, not a value"
            raise PluginError.of("QRES-E210", where, what, _STATE)
        return claims

    def keeps_its_word(self) -> None:
        """Whether the plugin still claims what it did when it was compared with everything else.

        Raises PluginError: QRES-E210 if it does not, or its claims raise now.
        """
        # The texts are compared: what is in ``effective`` may be of any type.
        before, now = repr(self.claims), repr(attrs.evolve(self).claims)
        if before != now:
            what = f"'claims' changed after they were compared, from {before} to {now}"
            fix = "let 'claims' depend on nothing but the plugin's options"
            raise PluginError.of("QRES-E210", f"plugins.{self.name}", what, fix)

    def check(self, around: Surroundings) -> tuple[Problem | str, ...]:
        """Why the plugin would not work in these surroundings, and notices for the operator.

        Raises PluginError: QRES-E206 if it raises, or returns anything else.
        """
        found = _ask(self, "check", (), around)
        problems = tuple(cast("Iterable[object]", found)) if isinstance(found, Iterable) else None
        if problems is None or any(type(item) not in {Problem, str} for item in problems):
            what = "'check' returned something but problems and notices"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return cast("tuple[Problem | str, ...]", problems)

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """How large an update is after the plugin.

        Raises PluginError: QRES-E206 if it raises, or returns anything but an extent.
        """
        found = _ask(self, "passes", extent, extent, around)
        if type(found) is not Extent:
            what = f"'passes' returned a {type(found).__name__}, not Extent"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        clipped_by = extent.clipped_by if found.length == extent.length else self.name
        noised_by = extent.noised_by if found.noise == extent.noise else self.name
        return attrs.evolve(found, clipped_by=clipped_by, noised_by=noised_by)

    def shard_run(self, dimension: int) -> int:
        """Coordinates in a row of which ``verify_shard`` must be given all; 1 if it does not say.

        Raises PluginError: QRES-E206 if it raises, or returns anything but a number from 1 on.
        """
        found = _ask(self, "shard_run", 1, dimension)
        if type(found) is not int or found < 1:
            what = f"'shard_run' returned {found!r}, not a number of coordinates"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return found

    def examine(
        self,
        node_info: NodeInfo,
        runs: bool,  # noqa: FBT001
        link_keys: LinkKeys | None,
    ) -> tuple[Problem | str, ...]:
        """What the plugin finds of this node's surroundings: problems, and what is well.

        Raises PluginError: QRES-E206 if it raises, or returns anything else.
        """
        found = _ask(self, "examine", (), node_info, runs, link_keys)
        items = tuple(cast("Iterable[object]", found)) if isinstance(found, Iterable) else None
        if items is None or any(type(item) not in {Problem, str} for item in items):
            what = "'examine' returned something but problems and sentences"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return cast("tuple[Problem | str, ...]", items)

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """Why the plugin would refuse to be set up at this node, as far as reading alone shows it.

        Raises PluginError: QRES-E206 if it raises, or returns anything else.
        """
        found = _ask(self, "preflight", (), node_info)
        items = tuple(cast("Iterable[object]", found)) if isinstance(found, Iterable) else None
        if items is None or any(type(item) is not Problem for item in items):
            what = "'preflight' returned something but problems"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return cast("tuple[Problem, ...]", items)

    @property
    def remembers(self) -> bool:
        """Whether the plugin says what it keeps from round to round, and takes it back."""
        kind = type(self.instance)
        return hasattr(kind, "remember") and (hasattr(kind, "recall") or self.keeps_agreed)

    @property
    def keeps_agreed(self) -> bool:
        """Whether every node keeps the same, because it follows from what the swarm agreed on."""
        return hasattr(type(self.instance), "recall_agreed")

    def remember(self) -> bytes:
        """What the plugin keeps from round to round; empty if it does not say, or keeps nothing.

        Raises PluginError: QRES-E206 if it raises, or returns anything else.
        """
        found = _ask(self, "remember", b"") if self.remembers else b""
        if type(found) is not bytes:
            what = f"'remember' returned a {type(found).__name__}, not bytes"
            raise PluginError.of("QRES-E206", f"plugins.{self.name}", what, _authors(self))
        return found

    def recall(self, memory: bytes) -> None:
        """Give the plugin what it kept. Raises PluginError: QRES-E206 if it does not take it."""
        _ask(self, "recall_agreed" if self.keeps_agreed else "recall", None, memory)


def _authors(enabled: Enabled) -> str:
    """What is to be done about a mistake in a plugin's code."""
    return f"tell the authors of {enabled.origin.distribution}"


def _ask(enabled: Enabled, label: str, absent: object, *arguments: object) -> object:
    """What a method beside the claims says; ``absent`` where the plugin has none."""
    try:
        inspect.getattr_static(enabled.instance, label)
    except AttributeError:
        return absent
    try:
        answer: object = getattr(enabled.instance, label)(*arguments)
        # An iterator runs when it is read: what it raises is to be caught here.
        return list(cast("Iterable[object]", answer)) if isinstance(answer, Iterator) else answer
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{label!r} raised {type(error).__name__}: {error}"
        raise PluginError.of(
            "QRES-E206", f"plugins.{enabled.name}", what, _authors(enabled)
        ) from error


def assemble(config: Config, installed: Mapping[str, Installed]) -> tuple[Enabled, ...]:
    """Import and configure the plugins of a configuration, in file order.

    ``installed``: what :func:`qres_core.kernel.discovery.scan` found. Returns the enabled plugins.
    Raises PluginError: every plugin that cannot be used (QRES-E2xx), together with every problem of
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

    Raises PluginError: QRES-E206 to QRES-E209.
    """
    origin = Installed.local(name, type(instance))
    where = f"plugins.{name}"
    _load(origin, where)
    return _enable(instance, _verify_class(type(instance), origin, where), origin, where)


def _enable(instance: object, hooks: tuple[str, ...], origin: Installed, where: str) -> Enabled:
    plugin = Enabled(origin.name, origin, instance, hooks)
    _verify_instance(plugin, where)
    if problems := tuple(strays(instance, f"{where}: {origin.provenance}")):
        raise PluginError(problems)
    _ = plugin.claims  # read now, so that a fault in them is reported with all the others
    return plugin


def plugin_class(origin: Installed) -> type[object]:
    """Import the class of one plugin, for whoever shows its options.

    Raises PluginError: QRES-E202, QRES-E206.
    """
    return _load(origin, f"plugins.{origin.name}")


def _gate(name: str, where: str, installed: Mapping[str, Installed]) -> Installed:
    origin = installed.get(name)
    if origin is None:
        distribution = plugin_index().distributions.get(name)
        fix = did_you_mean(name, installed)
        if distribution is not None:
            fix = f"install {distribution}: {FROM_CHECKOUT}"
        raise PluginError.of("QRES-E201", where, "enabled but not installed", fix)
    if origin.status is Status.INCOMPATIBLE:
        fix = f"pip install -U {origin.distribution} qres-core"
        raise PluginError.of("QRES-E203", where, f"{origin.provenance}: {origin.detail}", fix)
    if origin.status is Status.CONFLICT:
        raise PluginError.of("QRES-E204", where, origin.detail, "pip uninstall all except one")
    if origin.status is Status.MISPLACED:
        fix = f"remove that folder and pip install {origin.distribution}"
        raise PluginError.of("QRES-E205", where, f"{origin.provenance}: {origin.detail}", fix)
    if not is_plugin_name(name):  # faults are named after it, and the kernel's are its own
        what = f"{origin.provenance}: {name!r} is no name for a plugin"
        fix = "another name than 'kernel', of A-Z, a-z, 0-9 and ._/-"
        raise PluginError.of("QRES-E206", where, what, fix)
    return origin


def _load(origin: Installed, where: str) -> type[object]:
    factory: Any = imported(origin, where)
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
    else:
        problems.extend(lookalikes(factory, f"{where}: {origin.provenance}"))
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


def _verify_instance(enabled: Enabled, where: str) -> None:
    origin = enabled.origin
    try:
        manager = enabled.manager
    except Exception as error:
        what = f"{origin.provenance}: {' '.join(str(error).split())}"
        fix = "name only arguments of the hook's specification, in docs/reference/hooks.md"
        raise PluginError.of("QRES-E206", where, what, fix) from error
    # Plugins are not compared here: one whose fields ``setup`` fills cannot be yet.
    registered = {hook for hook in ALL_HOOKS if getattr(manager.hook, hook).get_hookimpls()}
    if odd := sorted(registered.symmetric_difference(enabled.hooks)):
        # A class method or a function in a field: one of two readers would not see the hook.
        what = f"{origin.provenance}: hook {odd[0]!r} is not a plain method of the class"
        raise PluginError.of("QRES-E206", where, what, "define it with def, marked @hookimpl")
