"""What the solver says of a combination: supported, with a swarm that shows it, or refused.

A combination of a few modes is no configuration yet: a swarm also needs a transport, signatures, a
rule. So it is completed, in a fixed order from the smallest swarm that keeps its promise about
liars to larger ones and, last, to one that promises nothing. It is supported if the solver accepts
one completion, and refused, with the reasons for the first one, if it accepts none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any, Final

import attrs
from qres_hosting.fitting import unhosted
from qres_hosting.trying import try_round

from compatibility.modes import MODES, Mode, Options, Setting, identities
from qres_core.contract.errors import Problem, QresError
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.solver import solve

SIZES: Final = (8, 16, 24)
"""Nodes of a swarm; more for rules that need many rows of groups."""
DIMENSION: Final = 20
OF_NUMBERS: Final = ("QRES-E304", "QRES-E314")
"""Refusals that a larger swarm may not meet with."""


@attrs.frozen
class Answer:
    """What the solver says of a combination.

    Attributes:
        labels: the modes, in file order.
        setting: the swarm of the completion; ``None`` if every one is refused.
        added: modes that complete it, beyond what every swarm has.
        modes: all modes of the completion, in file order.
        problems: why the first completion is refused; empty if one is supported.
    """

    labels: tuple[str, ...]
    setting: Setting | None = None
    added: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether a swarm can run them together."""
        return self.setting is not None

    @property
    def config(self) -> Config:
        """The configuration that shows it."""
        if self.setting is None:
            raise ValueError(self.labels)
        return configuration([MODES[label] for label in self.modes], self.setting)


def exclusive(labels: Sequence[str]) -> bool:
    """Whether two of the modes are of one plugin, whose table can be there once."""
    plugins = [MODES[label].plugin for label in labels]
    return len(set(plugins)) < len(plugins)


def in_file_order(modes: Sequence[Mode]) -> list[Mode]:
    """As they stand in the file."""
    places = list(MODES)
    return sorted(modes, key=lambda mode: places.index(mode.label))


def configuration(modes: Sequence[Mode], setting: Setting, **swarm: Any) -> Config:
    """The configuration of some modes, in the order given."""
    plugins = {mode.plugin: dict(mode.options(setting)) for mode in modes}
    tables = {"swarm": {**setting.swarm, **swarm}, "plugins": plugins}
    return parse(tables, source="compatibility")


@cache
def _installed() -> Mapping[str, Any]:
    return scan()


@cache
def enabled(label: str, setting: Setting) -> Enabled:
    """A mode's plugin; what the solver asks of it changes nothing in it."""
    (item,) = assemble(configuration([MODES[label]], setting), _installed())
    return item


@attrs.frozen
class Completion:
    """A swarm that contains a combination.

    Attributes:
        modes: all modes, in file order.
        helper: the one that was added because the combination does nothing without; may be empty.
        byzantine: liars promised to be withstood.
        weight_cap: largest weight that counts.
    """

    modes: tuple[Mode, ...]
    helper: str
    byzantine: int
    weight_cap: int


def completions(labels: Sequence[str]) -> Iterator[Completion]:
    """Swarms that contain the modes, the one that says most for them first."""
    chosen = [MODES[label] for label in labels]
    names = {mode.plugin for mode in chosen}
    families = {mode.family for mode in chosen}
    base = [MODES[name] for name in ("ed25519", "replay") if name not in names]
    if "transport" not in families:
        base.append(MODES["memory"])
    cap = max((mode.weight_cap for mode in chosen), default=1)
    rules = [""] if "rule" in families else ["median", "mean"]
    alone = any(_must_be_hidden(label) for label in labels) and "secure aggregation" not in families
    helpers = ["secagg: groups", "secagg: sum"] if alone else [""]
    for byzantine in (1, 0):
        for helper in helpers:
            for rule in rules:
                added = [MODES[item] for item in (helper, rule) if item]
                modes = in_file_order([*chosen, *base, *added])
                yield Completion(tuple(modes), helper, byzantine, cap)


def _must_be_hidden(label: str) -> bool:
    return enabled(label, Setting(SIZES[0])).claims.needs.at_most is not Visibility.INDIVIDUAL


@cache
def answer(labels: tuple[str, ...]) -> Answer:
    """Ask the solver about a combination of modes of different plugins.

    Args:
        labels: modes, in file order.

    Complexity: a few milliseconds.
    """
    refused: list[tuple[Problem, ...]] = []
    for completion in completions(labels):
        for nodes in SIZES:
            setting = Setting(nodes, completion.byzantine, completion.weight_cap)
            plugins = tuple(enabled(mode.label, setting) for mode in completion.modes)
            swarm = configuration(completion.modes, setting).swarm
            found = solve(plugins, swarm, dimension=DIMENSION).problems
            if not found:
                names = tuple(mode.label for mode in completion.modes)
                added = (completion.helper,) if completion.helper else ()
                return Answer(labels, setting, added, names)
            refused.append(found)
            if any(problem.code not in OF_NUMBERS for problem in found):
                break  # no larger swarm changes it
    # What is left to say when everything else was put right is the reason.
    return Answer(labels, problems=min(refused, key=len))


SWARMS: Final[Mapping[str, Callable[[Setting], Options]]] = {
    "sharded": lambda _setting: {"aggregation": "sharded"},
    "memory": lambda _setting: {"memory": 1},
    "participants": lambda setting: {
        "participants": setting.nodes - 1,
        "quorum": setting.nodes - 1 - max(1, setting.byzantine),
    },
    "coordinator": lambda _setting: {"topology": "coordinator"},
}
"""Options of the swarm that change what a plugin meets, by the name of their section."""


def in_swarm(label: str, options: str) -> Answer:
    """What the solver says of a mode in a swarm with one of :data:`SWARMS`."""
    alone = _alone(label)
    assert alone.setting is not None  # noqa: S101 - supported
    refused: list[tuple[Problem, ...]] = []
    for nodes in SIZES:
        if nodes < alone.setting.nodes:
            continue
        larger = attrs.evolve(alone, setting=attrs.evolve(alone.setting, nodes=nodes))
        swarm = with_options(larger, options).swarm
        found = solve(_plugins(larger), swarm, dimension=DIMENSION).problems
        if not found:
            return larger
        refused.append(found)
    return attrs.evolve(alone, setting=None, problems=min(refused, key=len))


def with_options(found: Answer, options: str) -> Config:
    """The configuration that shows a supported mode with one of :data:`SWARMS`."""
    assert found.setting is not None  # noqa: S101 - supported
    modes = [MODES[item] for item in found.modes]
    return configuration(modes, found.setting, **SWARMS[options](found.setting))


def in_framework(label: str) -> Answer:
    """What is said of a mode inside a framework that brings its own server.

    Rounds are opened there for a try, as ``qres check --host`` does: a plugin whose nodes would
    talk to each other shows then.
    """
    alone = _alone(label)
    assert alone.setting is not None  # noqa: S101 - supported
    modes = [MODES[item] for item in alone.modes]
    config = configuration(modes, alone.setting, roster=list(identities(alone.setting.nodes)))
    plugins = tuple(assemble(config, _installed()))
    found = tuple(unhosted(plugins, config.swarm))
    if not found:
        try:
            try_round(config, plugins, _installed())
        except QresError as error:
            found = error.problems
    return attrs.evolve(alone, setting=None, problems=found) if found else alone


def _alone(label: str) -> Answer:
    """A mode in the swarm that shows that it is supported."""
    alone = answer((label,))
    assert alone.setting is not None  # noqa: S101 - every mode is supported by itself
    return alone


def _plugins(found: Answer) -> list[Enabled]:
    assert found.setting is not None  # noqa: S101 - supported
    return [enabled(item, found.setting) for item in found.modes]


def groups_of(size: int) -> Iterator[tuple[str, ...]]:
    """Combinations of so many modes, of different plugins, in file order."""
    for labels in combinations(MODES, size):
        if not exclusive(labels):
            yield labels


def triples() -> Iterator[Answer]:
    """All triples whose pairs are supported; the others are refused as their pairs are."""
    for labels in groups_of(3):
        if all(answer(pair).supported for pair in combinations(labels, 2)):
            yield answer(labels)
