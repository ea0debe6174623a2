"""From a configuration to plugin instances: gate, import, configure, verify.

Only plugins that the configuration names are imported. One that cannot be used is fatal and named,
with its distribution and the cause; all problems are collected before anything is raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final, cast

import attrs
import pluggy

from qres_core.contract.abilities import Abilities, abilities, misfits
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
        """Claims of the plugin, as configured: read once, so that nothing changes in between.

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
        """Check that the plugin still claims what it did when it was compared with everything else.

        Raises PluginError: QRES-E210 if it does not, or its claims raise now.
        """
        # The texts are compared: what is in ``effective`` may be of any type.
        before, now = repr(self.claims), repr(attrs.evolve(self).claims)
        if before != now:
            what = f"'claims' changed after they were compared, from {before} to {now}"
            fix = "let 'claims' depend on nothing but the plugin's options"
            raise PluginError.of("QRES-E210", f"plugins.{self.name}", what, fix)

    @cached_property
    def abilities(self) -> frozenset[str]:
        """The methods of :class:`Abilities` that the plugin has."""
        return abilities(self.instance)

    def check(self, around: Surroundings) -> tuple[Problem | str, ...]:
        """See :meth:`Abilities.check`; raises as :meth:`ask`."""
        found: tuple[Problem | str, ...] = self.ask("check", around)
        return found

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """See :meth:`Abilities.passes`, with the plugin named if it changes something."""
        found: Extent = self.ask("passes", extent, around)
        clipped_by = extent.clipped_by if found.length == extent.length else self.name
        noised_by = extent.noised_by if found.noise == extent.noise else self.name
        return attrs.evolve(found, clipped_by=clipped_by, noised_by=noised_by)

    @property
    def remembers(self) -> bool:
        """True if the plugin says what it keeps from round to round, and takes it back."""
        return "remember" in self.abilities and not self.abilities.isdisjoint(_RECALLS)

    @property
    def keeps_agreed(self) -> bool:
        """True if every node keeps the same, because it follows from what the swarm agreed on."""
        return "recall_agreed" in self.abilities

    def remember(self) -> bytes:
        """See :meth:`Abilities.remember`; empty too for a plugin that would not take it back."""
        found: bytes = self.ask("remember") if self.remembers else b""
        return found

    def recall(self, memory: bytes) -> None:
        """Give the plugin what it kept; raises as :meth:`ask`."""
        self.ask("recall_agreed" if self.keeps_agreed else "recall", memory)

    def ask(self, ability: str, *arguments: object) -> Any:
        """Ask the plugin one of :data:`ABILITIES`; several answers come as a tuple.

        Raises PluginError: QRES-E206 if it raises, or answers with anything else than it must.
        """
        asked: Any = self.instance if ability in self.abilities else Abilities()
        try:
            answer: object = getattr(asked, ability)(*arguments)
            # An iterator runs when it is read: what it raises is to be caught here.
            if ability in _SEVERAL and isinstance(answer, Iterable):
                answer = tuple(cast("Iterable[object]", answer))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            what = f"{ability!r} raised {type(error).__name__}: {error}"
            raise self._broken(what) from error
        wrong = _wrong(ability, answer)
        if wrong:
            raise self._broken(f"{ability!r} returned {wrong}")
        return answer

    def _broken(self, what: str) -> PluginError:
        fix = f"tell the authors of {self.origin.distribution}"
        return PluginError.of("QRES-E206", f"plugins.{self.name}", what, fix)


_RECALLS: Final = ("recall", "recall_agreed")
_SEVERAL: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "check": ((Problem, str), "problems and notices"),
    "examine": ((Problem, str), "problems and sentences"),
    "preflight": ((Problem,), "problems"),
}
"""Abilities that answer with any number of things: of these types, and what they are."""


def _wrong(ability: str, answer: object) -> str:
    """Name an answer of an ability that it must not give; empty for none."""
    given = type(answer)
    if ability in _SEVERAL:
        kinds, expected = _SEVERAL[ability]
        several = cast("tuple[object, ...] | None", answer if given is tuple else None)
        if several is None or any(type(item) not in kinds for item in several):
            return f"something but {expected}"
    elif ability == "shard_run" and (type(answer) is not int or answer < 1):
        return f"{answer!r}, not a number of coordinates"
    kind = {"passes": Extent, "remember": bytes}.get(ability)
    return "" if kind in (None, given) else f"a {given.__name__}, not {kind.__name__}"


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
        spot = f"{where}: {origin.provenance}"
        problems.extend(lookalikes(factory, spot))
        for name, arguments in misfits(factory):
            what = f"{name!r} cannot be called with ({arguments})"
            problems.append(Problem("QRES-E206", spot, what, "see docs/reference/hooks.md"))
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
