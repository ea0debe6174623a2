"""Site policies: what an operator demands of every configuration that runs on a machine.

A policy is a TOML file of its own. A configuration cannot name one, so it cannot choose a weaker
one; several policies all apply, so none can loosen another. Whether a configuration meets them is
asked in :mod:`qres_core.kernel.compliance`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError, Problem
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel.config import NodeConfig, SwarmConfig, read_toml, structure
from qres_core.kernel.slots import SLOTS

SYSTEM_POLICY: Final = Path("/etc/qres/policy.toml")
"""Always applied where it exists."""
VARIABLE: Final = "QRES_POLICY"
"""Environment variable: further policy files, separated as in ``PATH``."""

_TABLES: Final[Mapping[str, type]] = {"swarm": SwarmConfig, "node": NodeConfig}
_KEYS: Final = "swarm.KEY, node.KEY or plugins.NAME.OPTION"


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.frozen(kw_only=True)
class PolicyFile:
    """The keys of a policy file."""

    require: tuple[str, ...] = attrs.field(
        default=(), metadata=_help("Plugins that must be enabled.")
    )
    forbid: tuple[str, ...] = attrs.field(
        default=(), metadata=_help("Plugins that must not be enabled.")
    )
    families: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_help("Families of hooks that an enabled plugin must fill, by whatever plugin."),
    )
    at_least: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any],
        metadata=_help("Key paths and the least number each may have: `swarm.byzantine = 1`."),
    )
    at_most: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any],
        metadata=_help("Key paths and the greatest number each may have."),
    )
    equals: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any],
        metadata=_help("Key paths and the one value each may have."),
    )
    one_of: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any],
        metadata=_help("Key paths and an array of the values each may have."),
    )


@attrs.frozen
class PolicyRule:
    """A bound on one key of a configuration."""

    kind: str  # ``at_least``, ``at_most``, ``equals`` or ``one_of``
    key: tuple[str, ...]  # key path, in parts
    bound: Any  # what the policy file says

    @property
    def path(self) -> str:
        """The key path as in a configuration: ``plugins.dp.epsilon``."""
        return ".".join(self.key)

    def allows(self, value: object) -> bool:
        """True if the value meets the rule. What cannot be compared does not."""
        match self.kind:
            case "at_least":
                return is_number(value) and value >= self.bound
            case "at_most":
                return is_number(value) and value <= self.bound
            case "one_of":
                return any(_same(value, item) for item in self.bound)
            case _:
                return _same(value, self.bound)


@attrs.frozen
class SitePolicy:
    """One policy file, read."""

    source: str  # its path, for messages
    require: tuple[str, ...] = ()  # plugins that must be enabled
    forbid: tuple[str, ...] = ()  # plugins that must not be
    families: tuple[str, ...] = ()  # families of hooks that must be filled
    rules: tuple[PolicyRule, ...] = ()  # bounds on keys


def is_number(value: Any) -> bool:
    """True if a value can be compared with a bound: a number, finite, and no truth value."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _same(value: Any, wanted: Any) -> bool:
    """Equal, and ``1`` is not ``true``. Arrays may have become tuples or sets."""
    if isinstance(value, tuple | list | frozenset) and canonical.is_list(wanted):
        items = list(cast("Iterable[object]", value))
        if isinstance(value, frozenset):
            items, wanted = sorted(items, key=repr), sorted(wanted, key=repr)
        return len(items) == len(wanted) and all(map(_same, items, wanted))
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return bool(value == wanted)


def load(path: Path) -> SitePolicy:
    """Read a policy file.

    Raises ConfigError: QRES-E101 to QRES-E105, every problem of the file; an empty policy is one,
    as it is nearly always a file that was cut short.
    """
    source = str(path)
    try:
        file = structure(read_toml(path), PolicyFile, "")
    except ConfigError as error:
        raise ConfigError(_located(source, problem) for problem in error.problems) from error
    rules: list[PolicyRule] = []
    problems = [*_names(file), *_flatten(file, rules)]
    if not problems and file == PolicyFile():
        known = ", ".join(field.name for field in attrs.fields(PolicyFile))
        fix = f"add one of {known}, or remove the file"
        problems.append(Problem("QRES-E103", "", "the policy has no demands", fix))
    if problems:
        raise ConfigError(_located(source, problem) for problem in problems)
    return SitePolicy(source, file.require, file.forbid, file.families, tuple(rules))


def _located(source: str, problem: Problem) -> Problem:
    """The problem with the file before its key path."""
    if problem.where == source:
        return problem
    key = problem.where.lstrip(".")
    return attrs.evolve(problem, where=f"{source}: {key}" if key else source)


def _names(file: PolicyFile) -> Iterator[Problem]:
    for name in file.families:
        if name not in SLOTS:
            what = f"there is no family of hooks {name!r}"
            yield Problem("QRES-E105", "families", what, did_you_mean(name, SLOTS))
    for name in file.require:
        if name in file.forbid:
            what = f"{name!r} is required and forbidden: no configuration can be both"
            yield Problem("QRES-E105", "require", what, "remove it from require or from forbid")


def _flatten(file: PolicyFile, rules: list[PolicyRule]) -> Iterator[Problem]:
    """Every bound as a rule; what cannot be one as a problem."""
    for kind, check in _CHECKS.items():
        seen: set[tuple[str, ...]] = set()
        for key, bound in _leaves(getattr(file, kind), ()):
            where = f"{kind}.{'.'.join(key)}"
            problem = check(bound) or _unknown(key)
            if not problem and key in seen:
                problem = "QRES-E105", "the key is there twice", "keep one of the two"
            if problem:
                yield Problem(problem[0], where, problem[1], problem[2])
            else:
                rules.append(PolicyRule(kind, key, bound))
            seen.add(key)


_Said = tuple[str, str, str]
"""Id, what is wrong, and the fix."""


def _leaves(
    table: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Key paths, whether written as tables, as dotted keys or in quotes."""
    for key, value in table.items():
        inner = (*path, *key.split("."))
        if canonical.is_map(value) and value:
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _unknown(key: tuple[str, ...]) -> _Said | None:
    table, *rest = key
    if table == "plugins":
        if len(rest) >= 2 and all(rest):
            return None
        return "QRES-E102", "is no option of a plugin", "write plugins.NAME.OPTION"
    if table not in _TABLES:
        return "QRES-E102", "a policy cannot bound this key", f"keys are {_KEYS}"
    known = [field.name for field in attrs.fields(_TABLES[table])]
    if len(rest) != 1 or rest[0] not in known:
        return "QRES-E102", f"[{table}] has no such key", did_you_mean(".".join(rest), known)
    return None


def _number(bound: object) -> _Said | None:
    if is_number(bound):
        return None
    return "QRES-E104", f"expected a finite number, got {bound!r}", "for other values use equals"


def _value(bound: object) -> _Said | None:
    if canonical.is_map(bound):
        return "QRES-E104", "expected a value, got an empty table", "give the key a value"
    return None


def _choices(bound: object) -> _Said | None:
    if canonical.is_list(bound) and bound:
        return None
    what = f"expected an array of the values that are allowed, got {bound!r}"
    return "QRES-E104", what, "put the values in [ ], or use equals for a single one"


_CHECKS: Final[Mapping[str, Callable[[object], _Said | None]]] = {
    "at_least": _number,
    "at_most": _number,
    "equals": _value,
    "one_of": _choices,
}


def in_force(
    given: Sequence[Path] = (),
    *,
    environment: Mapping[str, str] | None = None,
    system: Path = SYSTEM_POLICY,
) -> tuple[SitePolicy, ...]:
    """Read all policies that apply: the system's, the environment's and those given.

    Returns the policies, in that order. Raises ConfigError: every problem of every file. One that
    is named and cannot be read is a problem, and so is a system policy that is there and cannot be
    read.
    """
    variables = os.environ if environment is None else environment
    named = [Path(word) for word in variables.get(VARIABLE, "").split(os.pathsep) if word]
    policies: list[SitePolicy] = []
    problems: list[Problem] = []
    for path in [*([system] if _there(system) else []), *named, *given]:
        try:
            policies.append(load(path))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return tuple(policies)


def _there(path: Path) -> bool:
    """True if something has that name. A link to nowhere does, and so does what is unreadable."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # reading it will say why
    return True
