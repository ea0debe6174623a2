"""A rule with its wrappers, found by name, as one plugin that the conformance suite can be given.

``krum`` is an installed plugin, ``my_rules:Median`` a class of a module, and ``nnm+median`` the
rule ``median`` inside the wrapper ``nnm``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from qres_core.contract.claims import Claims, Needs
from qres_core.contract.errors import CompatibilityError, PluginError, ValueRefusedError
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.types import Updates, Vector
from qres_core.kernel.assembly import Enabled, assemble, plugin_class
from qres_core.kernel.config import parse, structure
from qres_core.kernel.discovery import Installed, Status, scan
from qres_core.kernel.merging import check_enough
from qres_lab.testing.builders import make_round_info, make_updates
from qres_lab.testing.hosting import Seated, seat

_MOST: Final = 256
"""So many updates are tried to find how many a composition needs."""
_SWARM: Final[Mapping[str, Any]] = {
    "name": "certify",
    "nodes": 1,
    "byzantine": 0,
    "quorum": 1,
    "insecure": True,
}


@attrs.frozen
class CertifiedPart:
    """One plugin of what is certified.

    Attributes:
        name: its name.
        target: ``module:Class``.
        distribution: the distribution it comes from; ``(local)`` for a class of a module.
        version: version of the distribution.
        digest: SHA-256 of the file that defines the class, hex; empty if there is no file.
        options: its options, as configured.
    """

    name: str
    target: str
    distribution: str
    version: str
    digest: str
    options: Mapping[str, object]

    @property
    def origin(self) -> str:
        """The distribution and its version, if it is of one."""
        return (
            self.distribution
            if self.distribution == "(local)"
            else (f"{self.distribution} {self.version}")
        )


@attrs.frozen(eq=False)
class Composition:
    """Rule and wrappers of a specification.

    Attributes:
        spec: the specification.
        options: the options that were given for it.
        parts: the plugins it names, the outermost wrapper first.
        make: a fresh instance of the rule with its wrappers; every call gives an equal one.
    """

    spec: str
    options: tuple[tuple[str, object], ...]
    parts: tuple[CertifiedPart, ...]
    make: Callable[[], object]


@attrs.define(eq=False)
class Composed:
    """A rule inside wrappers, as the kernel nests them.

    Attributes:
        rule: a plugin with the hook ``aggregate``.
        wrappers: plugins with the hook ``wrap_aggregate``, the outermost first.
        min_updates: fewest updates that all of them together accept.
    """

    rule: object
    wrappers: tuple[object, ...]
    min_updates: int = 1
    _seats: tuple[Seated, ...] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._seats = tuple(seat(wrapper) for wrapper in (*self.wrappers, self.rule))

    @property
    def claims(self) -> Claims:
        """Claims of all of them: their needs; of the liars they withstand, the least."""
        every = [seated.claims for seated in self._seats]
        needs = [claims.needs for claims in every]
        stated = [claims.tolerates for claims in every if claims.tolerates is not None]
        return Claims(
            tolerates=min(stated, default=None),
            needs=Needs(
                visibility=max(each.visibility for each in needs),
                min_updates=max(self.min_updates, *(each.min_updates for each in needs)),
                equal_weights=any(each.equal_weights for each in needs),
            ),
        )

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """The rule inside its wrappers."""
        if len(updates) < self.min_updates:
            what = f"{len(updates)} came, {self.min_updates} are needed"
            raise ValueRefusedError.of("QRES-E505", "updates", what)
        *wrappers, rule = self._seats

        def merge(inner: Updates) -> Vector:
            check_enough("updates", rule.claims, inner)
            results: list[Vector] = rule.manager.hook.aggregate(
                updates=inner, round_info=round_info
            )
            return results[0]

        def wrap(
            proceed: Callable[[Updates], Vector], seated: Seated
        ) -> Callable[[Updates], Vector]:
            def run(outer: Updates) -> Vector:
                check_enough("updates", seated.claims, outer)
                results: list[Vector] = seated.manager.hook.wrap_aggregate(
                    proceed=proceed, updates=outer, held_out=None, round_info=round_info
                )
                return results[0]

            return run

        step: Callable[[Updates], Vector] = merge
        for wrapper in reversed(wrappers):
            step = wrap(step, wrapper)
        return step(updates)


def find_rule(spec: str, options: Sequence[tuple[str, object]] = ()) -> Composition:
    """Import and configure what a specification names.

    Args:
        spec: names of installed plugins and ``MODULE:CLASS``, joined by ``+``. A module may lie in
            the working directory, which is searched last and only if a specification has one.
        options: ``("f", 2)`` for every plugin of the specification that has such an option, or
            ``("nnm.f", 2)`` for one of them.

    Raises:
        PluginError: QRES-E2xx for a plugin that cannot be used, together with QRES-E1xx for its
            options.
        CompatibilityError: QRES-E301 or QRES-E302 unless exactly one of the plugins is a rule and
            each is named once.
        ValueRefusedError: QRES-E505 if the wrappers leave the rule too few updates however many
            come.
    """
    installed = dict(scan())
    names: list[str] = []
    for word in spec.split("+"):
        text = word.strip()
        if ":" in text:
            origin = _local(text)
            installed[origin.name] = origin
            text = origin.name
        names.append(text)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CompatibilityError.of("QRES-E302", spec, f"{twice[0]} is named twice", "name it once")
    tables = _tables(names, options, installed)
    config = parse({"swarm": dict(_SWARM), "plugins": tables}, source="qres certify")
    enabled = assemble(config, installed)
    _one_rule(spec, enabled)
    parts = tuple(_part(plugin) for plugin in enabled)
    return Composition(spec, tuple(options), parts, _maker(enabled, tables))


def _local(text: str) -> Installed:
    module_name, _, path = text.partition(":")
    where = f"plugins.{path or text}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing in it can stand in for what is installed
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        what = f"import of {module_name!r} failed: {type(error).__name__}: {error}"
        raise PluginError.of("QRES-E202", where, what, "run it beside the module") from error
    for label in path.split("."):
        names = [name for name, var in vars(found).items() if inspect.isclass(var)]
        found = vars(found).get(label)
        if not inspect.isclass(found):
            what = f"{module_name} has no class {path!r}"
            raise PluginError.of("QRES-E206", where, what, did_you_mean(label, names))
    return Installed.local(found.__qualname__, found)


def _tables(
    names: Sequence[str], options: Sequence[tuple[str, object]], installed: Mapping[str, Installed]
) -> dict[str, dict[str, object]]:
    tables: dict[str, dict[str, object]] = {name: {} for name in names}
    fields = {name: _fields(installed.get(name)) for name in names}
    for key, value in options:
        part, dot, label = key.rpartition(".")
        takers = [part] if dot else [name for name in names if key in fields[name]]
        for name in takers or names:
            if name not in tables:
                fix = did_you_mean(part, names)
                raise PluginError.of("QRES-E102", f"--option {key}", f"no part {part!r}", fix)
            tables[name][label if dot else key] = value
    return tables


def _fields(origin: Installed | None) -> frozenset[str]:
    if origin is None or origin.status is not Status.INSTALLED:
        return frozenset()  # refused by name, a moment later
    kind: Any = plugin_class(origin)
    return frozenset(field.name for field in attrs.fields(kind))


def _one_rule(spec: str, enabled: Sequence[Enabled]) -> None:
    rules = [plugin.name for plugin in enabled if "aggregate" in plugin.hooks]
    if len(rules) > 1:
        what = f"{', '.join(rules)} are all rules"
        raise CompatibilityError.of("QRES-E302", spec, what, "name one rule and any wrappers")
    if not rules:
        what = "none of them has the hook 'aggregate'"
        fix = f"name a rule too, for example {spec}+mean"
        raise CompatibilityError.of("QRES-E301", spec, what, fix)
    for plugin in enabled:
        if "aggregate" not in plugin.hooks and "wrap_aggregate" not in plugin.hooks:
            what = "has neither 'aggregate' nor 'wrap_aggregate'"
            raise CompatibilityError.of("QRES-E301", f"plugins.{plugin.name}", what, "leave it out")


def _part(plugin: Enabled) -> CertifiedPart:
    kind: Any = type(plugin.instance)
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):
        source = b""
    return CertifiedPart(
        plugin.name,
        f"{kind.__module__}:{kind.__qualname__}",
        plugin.origin.distribution,
        plugin.origin.version,
        hashlib.sha256(source).hexdigest() if source else "",
        {
            field.name: getattr(plugin.instance, field.name)
            for field in attrs.fields(kind)
            if field.init
        },
    )


def _maker(
    enabled: Sequence[Enabled], tables: Mapping[str, Mapping[str, object]]
) -> Callable[[], object]:
    def fresh(plugin: Enabled) -> object:
        made: object = structure(dict(tables[plugin.name]), type(plugin.instance), plugin.name)
        return made

    (rule,) = (plugin for plugin in enabled if "aggregate" in plugin.hooks)
    wrappers = [plugin for plugin in enabled if plugin is not rule]
    if not wrappers and "wrap_aggregate" not in rule.hooks:
        return partial(fresh, rule)

    def composed(fewest: int) -> Composed:
        around = [fresh(wrapper) for wrapper in wrappers]
        inner = fresh(rule)
        if "wrap_aggregate" in rule.hooks:
            around.append(inner)
        return Composed(inner, tuple(around), fewest)

    return partial(composed, _fewest(composed(1)))


def _fewest(composed: Composed) -> int:
    """Least number of updates: wrappers that merge some leave the rule fewer than came."""
    least = composed.claims.needs.min_updates
    for count in range(least, max(_MOST, 2 * least) + 1):
        updates = make_updates(np.arange(count, dtype=np.int64)[:, None])
        liars = composed.claims.liars
        try:
            composed.aggregate(updates, make_round_info(nodes=count, byzantine=liars))
        except ValueRefusedError as error:
            if error.code != "QRES-E505":
                return count
        except Exception:  # noqa: BLE001 - the suite will say what is wrong with it
            return count
        else:
            return count
    what = f"{max(_MOST, 2 * least)} updates are too few for it"
    raise ValueRefusedError.of("QRES-E505", "updates", what)
