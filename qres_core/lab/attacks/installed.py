"""Attacks that other distributions bring, under the entry-point group ``qres.attacks``.

As with plugins, only metadata in site-packages counts, two distributions with one name are a
conflict, and nothing is imported before its name is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qres_core.contract.errors import LabError, PluginError, Problem, QresError
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel import discovery
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.attacks.builtin import BUILT_IN
from qres_core.lab.attacks.context import Attack
from qres_core.lab.attacks.registry import ATTACKS, RegisteredAttack, describe
from qres_core.lab.sabotage import SABOTAGE

ATTACKS_GROUP: Final = "qres.attacks"


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


def known() -> list[str]:
    """The names of all attacks; nothing is imported for it."""
    return [*dict.fromkeys([*ATTACKS, *BUILT_IN, *SABOTAGE, *scan(group=ATTACKS_GROUP)])]


def find(name: str) -> RegisteredAttack:
    """The attack of that name; of the others none is imported.

    Raises LabError: QRES-E801 for an unknown name. Raises PluginError: QRES-E202 to QRES-E206 for
    one that cannot be used.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    brought = scan(group=ATTACKS_GROUP)
    if name in brought and name not in BUILT_IN:
        return load(brought[name])
    hint = did_you_mean(name, known())
    raise LabError.of("QRES-E801", "simulation.attack", f"there is no attack {name!r}", hint)


def make_attack(name: str, strength: float | None = None) -> Attack:
    """Build the attack of that name.

    Raises LabError: QRES-E801 for an unknown name, QRES-E105 for a strength it does not take.
    Raises PluginError: QRES-E202 to QRES-E206 for one of another distribution that cannot be used.
    """
    return find(name).make(strength)


def catalogue() -> Mapping[str, RegisteredAttack]:
    """All attacks: the built-in ones, then those of other distributions, imported.

    Raises PluginError: every one that cannot be used.
    """
    found = dict(ATTACKS)
    problems: list[Problem] = []
    for name, origin in scan(group=ATTACKS_GROUP).items():
        try:
            found[name] = load(origin)
        except QresError as error:
            problems.extend(error.problems)
    if problems:
        raise PluginError(problems)
    return found
