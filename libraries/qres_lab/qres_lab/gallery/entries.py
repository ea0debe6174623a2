"""The exhibits: of swarms, of plugins, and those that other distributions bring."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from qres_core.contract.errors import LabError, PluginError, Problem, QresError
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel import discovery
from qres_core.kernel.discovery import Installed, scan
from qres_lab import exhibits
from qres_lab.exhibit import AttackFamily, GalleryEntry
from qres_lab.gallery import swarm
from qres_lab.gallery.defences import DEFENCES, NOTHING, POISONING, SINGLE, STACKS
from qres_lab.gallery.swarm import SwarmAttack

GALLERY_GROUP: Final = "qres.gallery"
"""Entry-point group: name to a :class:`GalleryEntry` or a sequence of them."""

CLEAN: Final = "clean"
CLEAN_UNEVEN: Final = "clean_uneven"
CLEAN_LONG: Final = "clean_long"
_ALPHA: Final = 0.3
_UNEVEN: Final[Mapping[str, Any]] = {"baseline": CLEAN_UNEVEN, "alpha": _ALPHA}
"""For attacks that hide among honest updates: on even data there is no room to hide in."""
_LONG: Final = 16
_WAKE: Final = 4.0
_LOST: Final = "accuracy falls by more than 5 points"


def _plays(attack: SwarmAttack, names: Iterable[str]) -> Mapping[str, Any]:
    return {name: functools.partial(attack.play, DEFENCES[name]) for name in names}


def _clean(name: str, summary: str, names: Iterable[str] = POISONING, **how: Any) -> GalleryEntry:
    attack = SwarmAttack(attack="", judge=swarm.accuracy, **how)
    return GalleryEntry(
        name=name, family=AttackFamily.CLEAN, summary=summary, aim="-", plays=_plays(attack, names)
    )


def _poisoning(
    name: str,
    summary: str,
    *,
    attack: str = "",
    baseline: str = CLEAN,
    judge: swarm.Judge = swarm.accuracy,
    aim: str = _LOST,
    names: Iterable[str] = POISONING,
    **how: Any,
) -> GalleryEntry:
    played = SwarmAttack(attack=attack or name, judge=judge, **how)
    plays = _plays(played, names)
    return GalleryEntry(
        name=name,
        family=AttackFamily.POISONING,
        summary=summary,
        aim=aim,
        plays=plays,
        baseline=baseline,
    )


def _protocol(
    name: str,
    summary: str,
    aim: str,
    judge: swarm.Judge,
    names: Iterable[str],
    *,
    attack: str = "",
    baseline: str = "",
    **how: Any,
) -> GalleryEntry:
    played = SwarmAttack(attack=attack or name, judge=judge, **how)
    return GalleryEntry(
        name=name,
        family=AttackFamily.PROTOCOL,
        summary=summary,
        aim=aim,
        plays=_plays(played, names),
        baseline=baseline,
    )


_FULL: Final = STACKS[0]
_TAKEN: Final = "messages in others' names are taken in"
_RAW: Final[Mapping[str, Any]] = {"lies": "raw", "names": (NOTHING, "median", "krum", "norm proof")}
"""For lies that the attackers' own plugins would make harmless."""
_SEARCHED: Final[Mapping[str, Any]] = {**_UNEVEN, "names": SINGLE}
"""For attackers that try the whole aggregation, which masks do not let them."""
_TRIGGER: Final[Mapping[str, Any]] = {
    "judge": swarm.backdoor,
    "baseline": "",
    "aim": "the trigger turns more than a fifth of the held-out examples",
}
_SLEEP: Final = (NOTHING, "median", "norm proof", "reputation", _FULL)

_LABORATORY: Final = (
    _clean(CLEAN, "no attack: the cost of each defence"),
    _clean(CLEAN_UNEVEN, "no attack, on uneven data", alpha=_ALPHA),
    _clean(CLEAN_LONG, "no attack, in more rounds", _SLEEP, rounds=_LONG),
    _poisoning("sign_flip", "the negated update, four times over"),
    _poisoning("scaled", "the update boosted a hundredfold"),
    _poisoning(
        "alie", "the honest mean, less a little of the deviation (a little is enough)", **_UNEVEN
    ),
    _poisoning("ipm", "the honest mean, negated and tenfold", attack="foe"),
    _poisoning("min_max", "as far against the deviation as the farthest honest pair", **_UNEVEN),
    _poisoning(
        "min_sum", "as far against the deviation as the loneliest honest node is", **_UNEVEN
    ),
    _poisoning("mimic", "copies of one honest node", **_UNEVEN),
    _poisoning("label_flip", "honest training on turned labels"),
    _poisoning("backdoor", "a boosted update that ties a trigger to one class", **_TRIGGER),
    _poisoning(
        "backdoor_hidden",
        "the honest mean, moved by its own length towards a backdoor",
        names=SINGLE,
        alpha=_ALPHA,
        **_TRIGGER,
    ),
    _poisoning(
        "backdoor_aside",
        "what the proposer's examples ask for, moved towards a backdoor as far as the swarm lets",
        names=SINGLE,
        alpha=_ALPHA,
        **_TRIGGER,
    ),
    _poisoning(
        "optimised_alie", "alie in the strength that moves the merged update the most", **_SEARCHED
    ),
    _poisoning(
        "optimised_ipm", "ipm in the strength that turns the merged update back most", **_SEARCHED
    ),
    _poisoning(
        "searched", "the honest mean, moved in the worst of a dozen directions", **_SEARCHED
    ),
    _poisoning(
        "cancel", "huge rows that cancel each other at the exact weights alone", **_SEARCHED
    ),
    _poisoning(
        "mirror", "turns the mean into training on the proposer's examples alone", **_SEARCHED
    ),
    _poisoning(
        "drift", "the longest way against the mean that the vote just lets pass", **_SEARCHED
    ),
    _poisoning(
        "aside", "what the proposer's examples ask for, moved where they do not look", **_SEARCHED
    ),
    _poisoning(
        "bad_faith",
        "ipm from attackers that propose the set that suits them and vote for no other",
        attack="foe",
        sabotage="bad_faith",
        names=SINGLE,
    ),
    _poisoning("gaussian", "Gaussian noise in place of an update", **_RAW),
    _poisoning("inf", "the bit patterns of +Inf and -Inf in turn", **_RAW),
    _protocol(
        "replay",
        "re-sends a hundred messages of others a round",
        "more than a tenth of the copies are taken in",
        swarm.admitted(0.1),
        (NOTHING, "signatures", "replay guard", _FULL),
    ),
    _protocol(
        "forge",
        "poison in every honest node's name, authenticators made up",
        _TAKEN,
        swarm.admitted(0.0),
        (NOTHING, "signatures", _FULL),
    ),
    _protocol(
        "impersonate",
        "poison in every honest node's name, signed by the attacker's own key",
        _TAKEN,
        swarm.admitted(0.0),
        (NOTHING, "signatures", _FULL),
    ),
    _protocol(
        "sybil",
        "poison from ten made-up identities an attacker",
        "contributions of unknown identities are accepted",
        swarm.admitted(0.0),
        (NOTHING, "signatures", _FULL),
    ),
    _protocol(
        "unauthorized",
        "nodes of the roster with keys that no authority certified",
        "their contributions are taken in",
        swarm.admitted(0.0),
        (NOTHING, "signatures", "replay guard", "membership", _FULL),
    ),
    _protocol(
        "equivocate",
        "one contribution to half of the nodes, another to the rest",
        "they are merged after sixteen rounds",
        swarm.merged,
        (NOTHING, "replay guard", "reputation", _FULL),
        rounds=_LONG,
    ),
    _protocol(
        "double_vote",
        "two votes for one decision, both signed, in every round",
        "an attacker that did it in every round is banned nowhere",
        swarm.at_large,
        (NOTHING, "signatures", "reputation", _FULL),
    ),
    _protocol(
        "history",
        "a height that nobody decided, with votes in honest nodes' names, and its model",
        "an honest node takes in the made-up model",
        swarm.led_astray,
        (NOTHING, "signatures", _FULL),
    ),
    _protocol(
        "flood",
        "three hundred signed messages of no known kind a round",
        "more than a tenth of them cost the receiver work",
        swarm.unbanned,
        (NOTHING, "signatures", "reputation", _FULL),
    ),
    _protocol(
        "sleeper",
        "honest for four rounds, then boosted a hundredfold",
        _LOST,
        swarm.accuracy,
        _SLEEP,
        rounds=_LONG,
        strength=_WAKE,
        baseline=CLEAN_LONG,
    ),
    _protocol(
        "slander",
        "faults in honest nodes' names, to have these banned",
        "an honest node is banned",
        swarm.honest_banned,
        (NOTHING, "reputation, unsigned", "reputation", _FULL),
        attack="forge",
    ),
)


NOT_SHOWN: Final[Mapping[str, str]] = {
    "noise": "gaussian is the same, and more of it",
    "nan": "the same number in every coordinate changes no answer of the gallery's model",
    "offset": "the same number in every coordinate changes no answer of the gallery's model",
    "cancellation": "an exact mean takes the pair for nothing",
    "duplicate": "equivocate sends two contributions too, and to different nodes",
    "silent": "a node that is away",
    "wrong_length": "is refused before it is an update",
    "ipm": "the exhibit ipm plays it five times as strong, as foe",
    "min_max_unit": "min_max along another direction",
    "min_max_sign": "min_max along another direction",
    "min_sum_unit": "min_sum along another direction",
    "min_sum_sign": "min_sum along another direction",
    "withhold": "withholding plays it where it does harm, in secure aggregation",
    "withhold_votes": "half of bad_faith",
    "lying_proposer": "half of bad_faith",
    "ascent": "benchmarks/attack_grid.py plays it: sixty tries of the whole swarm in each round",
    "one_class": "as ascent",
    "steady": "as ascent",
}
"""Attacks of the laboratory without an exhibit, and why."""


def load(origin: Installed) -> Sequence[GalleryEntry]:
    """Import the exhibits of another distribution.

    Raises PluginError: QRES-E202 where the import fails, QRES-E203 to QRES-E205 where the
    distribution cannot be used, QRES-E206 for what is no exhibit.
    """
    where = f"gallery.{origin.name}"
    name = origin.distribution
    loaded = discovery.load(origin, where)
    found: list[Any] = list(loaded) if isinstance(loaded, list | tuple) else [loaded]  # pyright: ignore[reportUnknownArgumentType]
    entries: list[GalleryEntry] = []
    for item in found:
        if not isinstance(item, GalleryEntry):
            what = f"{origin.provenance}: {item!r} is no GalleryEntry"
            raise PluginError.of("QRES-E206", where, what, f"tell the authors of {name}")
        entries.append(item)
    return entries


def gallery() -> Mapping[str, GalleryEntry]:
    """All exhibits by name, in the order shown.

    Raises PluginError: everything that cannot be loaded; QRES-E204 for a name that is taken.
    """
    found = {item.name: item for item in (*_LABORATORY, *exhibits.brought())}
    problems: list[Problem] = []
    for origin in scan(group=GALLERY_GROUP).values():
        try:
            for entry in load(origin):
                if entry.name in found:
                    what = f"{origin.provenance}: the exhibit {entry.name!r} is there already"
                    fix = f"pip uninstall {origin.distribution}"
                    raise PluginError.of("QRES-E204", f"gallery.{entry.name}", what, fix)
                found[entry.name] = entry
        except QresError as error:
            problems.extend(error.problems)
    if problems:
        raise PluginError(problems)
    order = list(AttackFamily)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].family)))


def find(name: str) -> GalleryEntry:
    """The exhibit of that name. Raises LabError: QRES-E801 for an unknown name."""
    known = gallery()
    if name not in known:
        absent = [item for names in exhibits.lacking().values() for item in names]
        more = f"; others need {', '.join(absent)}, not installed" if absent else ""
        hint = did_you_mean(name, known) + more
        raise LabError.of("QRES-E801", "qres attack", f"no exhibit {name!r}", hint)
    return known[name]
