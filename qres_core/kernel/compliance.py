"""Comparison of a configuration with the site's policies.

A key the configuration does not set counts with its default. A rule about an option binds whoever
enables the plugin; only ``require`` makes a plugin be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import attrs

from qres_core.contract.errors import CompatibilityError, OptionError, Problem
from qres_core.contract.options import Option
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import Config
from qres_core.kernel.index import FROM_CHECKOUT, plugin_index
from qres_core.kernel.policy import PolicyRule, SitePolicy
from qres_core.kernel.slots import SLOTS

_CODE: Final = "QRES-E315"
_OPTION_PARTS: Final = len(("plugins", "NAME", "OPTION"))
_SAYS: Final[Mapping[str, str]] = {
    "at_least": "it must be at least",
    "at_most": "it must be at most",
    "equals": "it must be",
    "one_of": "it must be one of",
}


def unmet(
    policies: Sequence[SitePolicy], config: Config, enabled: Sequence[Enabled] | None
) -> tuple[Problem, ...]:
    """Find demands of the policies that the configuration does not meet.

    ``enabled``: its plugins, configured; ``None`` where they could not be, and then options and
    families are not looked at. Returns a problem (QRES-E315) for every rule that is not met. Raises
    PluginError: QRES-E206 where a plugin does not say properly what its options come to.
    """
    return tuple(problem for policy in policies for problem in _unmet(policy, config, enabled))


def enforce(policies: Sequence[SitePolicy], config: Config, enabled: Sequence[Enabled]) -> None:
    """Refuse a configuration that does not meet the policies.

    Raises CompatibilityError: QRES-E315, every rule that is not met. Raises PluginError: as
    :func:`unmet`.
    """
    problems = unmet(policies, config, enabled)
    if problems:
        raise CompatibilityError(problems)


def remarks(
    policies: Sequence[SitePolicy], config: Config, known: Mapping[str, object]
) -> Iterator[str]:
    """Remarks for an operator on policies that are met."""
    names = {*known, *plugin_index().distributions}
    for policy in policies:
        yield f"site policy {policy.source}: met"
        for name in policy.forbid:
            if name not in names:
                hint = did_you_mean(name, names) if names else ""
                hint = f"; {hint}" if hint.startswith("did") else ""
                yield f"site policy {policy.source}: forbids {name!r}, which is not known{hint}"
        idle = {rule.key[1] for rule in policy.rules if rule.key[0] == "plugins"}
        for name in sorted(idle - set(config.plugins) - set(policy.forbid)):
            yield (
                f"site policy {policy.source}: bounds options of {name!r}, which is not enabled; "
                "add it to require if it must be"
            )


def _unmet(
    policy: SitePolicy, config: Config, enabled: Sequence[Enabled] | None
) -> Iterator[Problem]:
    for name in policy.require:
        if name not in config.plugins:
            what = f"not enabled, and the site policy {policy.source} requires it (require)"
            ours = name in plugin_index().distributions
            install = f"; if it is not installed: {FROM_CHECKOUT}" if ours else ""
            yield Problem(_CODE, f"plugins.{name}", what, f"add [plugins.{name}]{install}")
    for name in policy.forbid:
        if name in config.plugins:
            what = f"enabled, and the site policy {policy.source} forbids it (forbid)"
            yield Problem(_CODE, f"plugins.{name}", what, f"remove [plugins.{name}]")
    hooks = None if enabled is None else {hook for plugin in enabled for hook in plugin.hooks}
    for family in policy.families:
        if hooks is not None and not hooks.issuperset(SLOTS[family].counted):
            what = (
                f"no enabled plugin fills the family {family!r}, and the site policy "
                f"{policy.source} demands it (families)"
            )
            fix = f"enable a plugin with {' and '.join(SLOTS[family].counted)}; see `qres plugins`"
            yield Problem(_CODE, "plugins", what, fix)
    for rule in policy.rules:
        problem = _check(rule, policy, config, enabled)
        if problem is not None:
            yield problem


def _check(
    rule: PolicyRule, policy: SitePolicy, config: Config, enabled: Sequence[Enabled] | None
) -> Problem | None:
    table, *rest = rule.key
    says = f"the site policy {policy.source} says {_SAYS[rule.kind]} {_shown(rule.bound)}"
    says = f"{says} ({rule.kind})"
    if table != "plugins":
        value: object = getattr(getattr(config, table), rest[0])
    else:
        plugin = next((plugin for plugin in enabled or () if plugin.name == rest[0]), None)
        if plugin is None:
            return None
        found = _option(plugin, rest[1:])
        if found is None:
            what = f"the plugin {plugin.name} has no such option, and {says}"
            gone: Mapping[str, tuple[str, str]] = getattr(type(plugin.instance), "GONE", {})
            known = did_you_mean(".".join(rest[1:]), _options(plugin.instance))
            if (once := ".".join(rest[1:])) in gone:
                known = f"it {gone[once][0]}"
            fix = f"correct the policy ({known}), or use a version of {plugin.name} that has it"
            return Problem(_CODE, rule.path, what, fix)
        if wrong := _no_choice(rule, plugin.instance):
            fix = f"correct the policy: {wrong.fix}" if wrong.fix else "correct the policy"
            return Problem(_CODE, rule.path, f"{says}, and {wrong.what}", fix)
        value = found.value
    if rule.allows(value):
        return None
    return Problem(_CODE, rule.path, f"is {_shown(value)}, and {says}", _fix(rule, value))


def _no_choice(rule: PolicyRule, instance: object) -> Problem | None:
    """Explain, for an option, a word of a policy that it does not have (any more).

    A bound that nobody can meet is noticed by itself; one word of several is not.
    """
    if rule.kind not in {"equals", "one_of"} or len(rule.key) != _OPTION_PARTS:
        return None
    name = rule.key[-1]
    if not attrs.has(type(instance)):
        return None
    fields: Mapping[str, object] = attrs.fields_dict(cast("Any", type(instance)))
    option = getattr(fields.get(name), "validator", None)
    if not isinstance(option, Option) or not option.words:
        return None
    for value in rule.bound if rule.kind == "one_of" else (rule.bound,):
        try:
            option.check(name, value)
        except OptionError as error:
            return error.problems[0]
    return None


def _fix(rule: PolicyRule, value: object) -> str:
    if value is None and rule.kind in {"at_least", "at_most"}:
        return f"set {rule.path}"
    match rule.kind:
        case "at_least":
            return f"{rule.path} >= {rule.bound}"
        case "at_most":
            return f"{rule.path} <= {rule.bound}"
        case "one_of":
            choices = " or ".join(map(_shown, rule.bound))
            return f"{rule.path} = {choices}"
        case _:
            return f"{rule.path} = {_shown(rule.bound)}"


def _shown(value: object) -> str:
    """As in TOML, as far as it has the value."""
    if value is None:
        return "not set"
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return repr(value)


@attrs.frozen
class _Compliance:
    value: object


def _options(holder: object) -> tuple[str, ...]:
    """Names of the options of a table."""
    if attrs.has(type(holder)):
        fields = attrs.fields(cast("Any", type(holder)))
        return tuple(field.name for field in fields if field.init)
    if isinstance(holder, Mapping):
        return tuple(str(key) for key in cast("Mapping[object, object]", holder))
    return ()


def _option(plugin: Enabled, path: Sequence[str]) -> _Compliance | None:
    """The value of an option, as configured or by default; ``None`` where there is none."""
    value: object = plugin.instance
    for part in path:
        if part not in _options(value):
            return None
        if isinstance(value, Mapping):
            value = cast("Mapping[str, object]", value)[part]
        else:
            value = getattr(value, part)
    if len(path) == 1 and path[0] in (effective := plugin.claims.effective):
        return _Compliance(effective[path[0]])  # a budget of 0 may stand for as much as rounds cost
    return _Compliance(value)
