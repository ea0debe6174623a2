"""Attacks that other distributions bring, under ``qres.attacks`` and ``qres.sabotage``.

As with plugins, only metadata in site-packages counts, two distributions with one name are a
conflict, and nothing is imported before its name is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from qres_core.attacks.context import Attack
from qres_core.attacks.registry import ATTACKS, RegisteredAttack, describe
from qres_core.attacks.sabotage import SABOTAGE, RegisteredSabotage
from qres_core.attacks.simple import BUILT_IN
from qres_core.contract.errors import LabError, PluginError, Problem, QresError
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel import discovery
from qres_core.kernel.discovery import ATTACKS_GROUP, SABOTAGE_GROUP, Installed, scan
from qres_core.kernel.index import not_installed, plugin_index

T = TypeVar("T")


def load(origin: Installed) -> RegisteredAttack:
    """Import one attack of another distribution.

    Raises PluginError: QRES-E202 to QRES-E206, naming the distribution.
    """
    name, where = origin.name, f"attacks.{origin.name}"
    if name in BUILT_IN:
        what = f"{origin.provenance}: the name is that of a built-in attack"
        raise PluginError.of("QRES-E204", where, what, f"remove {origin.distribution}")
    kind: Any = discovery.load(origin, where)
    for attack in ATTACKS.values():  # its class may be decorated
        if attack.kind is kind:
            if attack.name == name:
                return attack
            what = f"{origin.provenance}: registers itself as {attack.name!r}"
            raise PluginError.of("QRES-E206", where, what, "give both one name")
    summary, knowledge = (getattr(kind, label, None) for label in ("summary", "knowledge"))
    return describe(name, kind, summary=summary, knowledge=knowledge)


def load_sabotage(origin: Installed) -> RegisteredSabotage:
    """Import one attack on the protocol of another distribution.

    Raises PluginError: QRES-E202 to QRES-E206, naming the distribution.
    """
    where = f"sabotage.{origin.name}"
    kind: Any = discovery.load(origin, where)
    found = SABOTAGE.get(origin.name)
    if found is None or found.make is not kind:
        what = f"{origin.provenance}: it is not registered under that name"
        fix = "decorate it with @register(name, summary) of qres_core.attacks.sabotage"
        raise PluginError.of("QRES-E206", where, what, fix)
    return found


def on_protocol() -> list[str]:
    """Names of the attacks on the protocol; nothing is imported for it."""
    return [*dict.fromkeys([*SABOTAGE, *scan(group=SABOTAGE_GROUP)])]


def known() -> list[str]:
    """The names of all attacks; nothing is imported for it."""
    return [*dict.fromkeys([*ATTACKS, *scan(group=ATTACKS_GROUP), *on_protocol()])]


def unknown(name: str, where: str) -> Problem | None:
    """QRES-E801 for an attack that nobody knows; ``None`` for one that may only not be here."""
    if name in known() or (problem := missing(name, where)).code != "QRES-E801":
        return None
    return problem


def missing(name: str, where: str) -> Problem:
    """QRES-E201 for an attack that is not installed, QRES-E801 for one that nobody knows."""
    index = plugin_index()
    for group in (ATTACKS_GROUP, SABOTAGE_GROUP):
        if name in index.brought[group]:
            return not_installed(name, index.brought[group][name], where)
    every = {*known(), *index.brought[ATTACKS_GROUP], *index.brought[SABOTAGE_GROUP]}
    return Problem("QRES-E801", where, f"there is no attack {name!r}", did_you_mean(name, every))


def find(name: str) -> RegisteredAttack:
    """The attack of that name; of the others none is imported.

    Raises LabError: QRES-E201 for one that is not installed, QRES-E801 for an unknown name. Raises
    PluginError: QRES-E202 to QRES-E206 for one that cannot be used.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    brought = scan(group=ATTACKS_GROUP)
    if name in brought:
        return load(brought[name])
    raise LabError((missing(name, "simulation.attack"),))


def find_sabotage(name: str) -> RegisteredSabotage:
    """The attack on the protocol of that name. Raises LabError, PluginError: as :func:`find`."""
    if name in SABOTAGE:
        return SABOTAGE[name]
    brought = scan(group=SABOTAGE_GROUP)
    if name in brought:
        return load_sabotage(brought[name])
    raise LabError((missing(name, "simulation.sabotage"),))


def make_attack(name: str, strength: float | None = None) -> Attack:
    """Build the attack of that name.

    Raises LabError: QRES-E201 for one that is not installed, QRES-E801 for an unknown name,
    QRES-E105 for a strength it does not take. Raises PluginError: QRES-E202 to QRES-E206 for one of
    another distribution that cannot be used.
    """
    return find(name).make(strength)


def catalogue() -> Mapping[str, RegisteredAttack]:
    """All attacks: those of this program in the order of their registration, then the others.

    Raises PluginError: every one that cannot be used.
    """
    return _all(ATTACKS_GROUP, load, ATTACKS)


def sabotages() -> Mapping[str, RegisteredSabotage]:
    """All attacks on the protocol, as :func:`catalogue`."""
    return _all(SABOTAGE_GROUP, load_sabotage, SABOTAGE)


def _all(
    group: str, load_one: Callable[[Installed], T], registered: Mapping[str, T]
) -> dict[str, T]:
    brought: dict[str, T] = {}
    problems: list[Problem] = []
    for name, origin in scan(group=group).items():
        try:
            brought[name] = load_one(origin)
        except QresError as error:
            problems.extend(error.problems)
    if problems:
        raise PluginError(problems)
    return {**registered, **brought}  # what is imported may have registered itself meanwhile
