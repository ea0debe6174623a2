"""Remedies for a refused combination, in words: names of plugins, keys and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from qres_core.contract.options import Option
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.index import plugin_index

_BASES: Final = 9
"""Small numbers from which a smaller value of an option is looked for."""
_DOUBLINGS: Final = 20
"""Powers of two by which a value is raised to look for a larger one."""

SEEN: Final[Mapping[Visibility, str]] = MappingProxyType(
    {
        Visibility.INDIVIDUAL: "single updates",
        Visibility.GROUP: "sums of groups",
        Visibility.SUM: "one sum of all updates",
    }
)
"""What can be seen of contributions, in words."""


def enable(family: str) -> str:
    """Remedy that fills a family."""
    return f"enable a plugin of the family {family}, for example {plugin_index().example(family)}"


def work_in_groups(plugin: Enabled, hider: Enabled, quorum: int) -> str:
    """Remedy by groups that give a plugin the rows that one sum does not."""
    least = max(1, plugin.claims.needs.min_updates)
    size = quorum // least
    rows = "1 group" if least == 1 else f"{least} groups"
    if size < 3:  # of two members each computes the other's update from their sum
        return (
            f"let {hider.name} work in groups, with a larger swarm: {plugin.name} needs {rows}, "
            f"more than swarm.quorum = {quorum} allows"
        )
    why = f"{plugin.name} needs {rows}, and swarm.quorum = {quorum}"
    found = " or ".join(group_options(hider, size))
    if found:
        return f"{found}: {why}"
    return f"let {hider.name} work in groups of at most {size} nodes: {why}"


def group_options(hider: Enabled, size: int) -> list[str]:
    """Options that make a plugin hide in groups of at most so many; none where no one does.

    Example: ``group_size = 3 in [plugins.y]``; ``group_size <= 3 in [plugins.y]`` where that number
    by itself asks for a change of another option too.
    """
    kind = cast("Any", type(hider.instance))
    found: list[str] = []
    for field in attrs.fields(kind) if attrs.has(kind) else ():
        if not field.init or type(getattr(hider.instance, field.name)) is not int:
            continue
        for number in (size, *(size + 2**power for power in range(_BASES))):
            grouped = partial(_in_groups, number)
            if _trial(hider, grouped, field.alias, number) is not None:
                bound = "=" if number == size else "<="
                found.append(f"{field.name} {bound} {size} in [plugins.{hider.name}]")
                break
    return found


def _in_groups(size: int, plugin: Enabled) -> bool:
    hides = plugin.claims.hides
    return hides.leaves is Visibility.GROUP and hides.group_size == size


def settings(
    plugin: Enabled, content: Callable[[Enabled], bool], *, more: bool = False
) -> list[tuple[str, Enabled]]:
    """Values for one option of a plugin that content it.

    No plugin says which of its options causes a refusal: every number among them is tried.

    Args:
        plugin: as it is configured.
        content: whether a plugin of that configuration would do.
        more: try larger numbers, else smaller ones.

    Returns:
        for each option that helps by itself, ``f = 2 in [plugins.krum]`` with the number nearest to
        the present one, and the plugin with it.

    Complexity: O(log v) instances of the plugin for each option of value v.
    """
    kind = cast("Any", type(plugin.instance))
    if not attrs.has(kind):
        return []
    found: list[tuple[str, Enabled]] = []
    for field in attrs.fields(kind):
        value = getattr(plugin.instance, field.name)
        if not field.init or type(value) not in (int, float):
            continue

        def trial(number: int, name: str = field.alias) -> Enabled | None:
            return _trial(plugin, content, name, number)

        number: int | None = None
        if type(value) is int:
            number = _nearest(value, lambda item: trial(item) is not None, more=more)
        elif not more and trial(0) is not None:  # of other numbers none is worth a word
            number = 0
        if number is not None and (changed := trial(number)):
            found.append((f"{field.name} = {number} in [plugins.{plugin.name}]", changed))
    return found


def say_otherwise(plugin: Enabled, content: Callable[[Enabled], bool]) -> str:
    """Word for an option of a plugin that contents it.

    Example: ``mode = "x" in [plugins.y]``.

    Every option that takes one of some words is tried, as in :func:`settings`. Where none helps by
    itself, the table is named.
    """
    return " or ".join(words_for(plugin, content)) or f"other options in [plugins.{plugin.name}]"


def words_for(plugin: Enabled, content: Callable[[Enabled], bool]) -> list[str]:
    """As :func:`say_otherwise`; none where no word helps by itself."""
    kind = cast("Any", type(plugin.instance))
    return [
        f"{field.name} = {json.dumps(word)} in [plugins.{plugin.name}]"
        for field in (attrs.fields(kind) if attrs.has(kind) else ())
        if field.init and isinstance(field.validator, Option)
        for word in field.validator.words
        if _trial(plugin, content, field.alias, word) is not None
    ]


def leave_out(plugin: Enabled, content: Callable[[Enabled], bool]) -> list[str]:
    """Options to switch, clear or set to nothing, so that a plugin is content.

    Example: ``history = false in [plugins.y]``. Each is tried by itself; none helps if the list is
    empty.
    """
    kind = cast("Any", type(plugin.instance))
    found: list[str] = []
    for field in attrs.fields(kind) if attrs.has(kind) else ():
        value = getattr(plugin.instance, field.name)
        other: object = None
        if type(value) is bool:
            other = not value
        elif type(value) in (str, int, float):
            other = type(value)()
        if field.init and other is not None and _trial(plugin, content, field.alias, other):
            found.append(f"{field.name} = {json.dumps(other)} in [plugins.{plugin.name}]")
    return found


def _trial(
    plugin: Enabled, content: Callable[[Enabled], bool], name: str, value: object
) -> Enabled | None:
    """The plugin with one option changed; ``None`` if it refuses that or is not content."""
    try:
        instance = attrs.evolve(cast("Any", plugin.instance), **{name: value})
        changed = attrs.evolve(plugin, instance=instance)
        return changed if content(changed) else None
    except Exception:  # noqa: BLE001 - a plugin refuses a value in whatever way it likes
        return None


def _nearest(value: int, good: Callable[[int], bool], *, more: bool) -> int | None:
    """The number nearest to ``value`` that is good, if numbers beyond a bound are good."""
    bases = [value + 2**k for k in range(_DOUBLINGS)] if more else range(min(value, _BASES))
    far = next((base for base in bases if good(base)), None)
    if far is None:
        return None
    near = value
    while abs(far - near) > 1:
        middle = (far + near) // 2
        far, near = (middle, near) if good(middle) else (far, middle)
    return far


def ask_for_less(plugin: Enabled, rows: int, byzantine: int) -> list[str]:
    """Remedies that content a plugin with so many rows; none where no single option helps."""
    kept: list[str] = []
    lowered: list[str] = []  # where the swarm must promise less too
    for setting, changed in settings(plugin, lambda item: item.claims.needs.min_updates <= rows):
        tolerates = changed.claims.tolerates
        if tolerates is None or tolerates >= byzantine:
            kept.append(setting)
        else:
            lowered.append(f"{setting} and swarm.byzantine = {max(0, tolerates)}")
    return kept + lowered


def either(remedies: Sequence[str]) -> str:
    """Several remedies, each of which is enough."""
    *most, last = remedies
    return f"{', '.join(most)}, or {last}" if most else last


def withstand(plugin: Enabled, liars: int, quorum: int) -> list[str]:
    """Remedies by which a plugin withstands so many liars; none where no single option helps."""

    def enough(item: Enabled) -> bool:
        return item.claims.tolerates is not None and item.claims.tolerates >= liars

    said: list[str] = []
    for setting, changed in settings(plugin, enough, more=True):
        least = changed.claims.needs.min_updates
        said.append(f"{setting} and swarm.quorum >= {least}" if least > quorum else setting)
    return said


def merge_less(plugin: Enabled, most: int) -> str:
    """Remedy by which a wrapper makes one row of at most so many."""
    found = settings(plugin, lambda item: item.claims.wraps.merges <= most)
    fewer = f"let {plugin.name} make one row of at most {most}"
    return " or ".join(setting for setting, _changed in found) or fewer


def ban_only(plugin: Enabled) -> str:
    """Remedy that keeps a reputation from scaling weights."""
    found = settings(plugin, lambda item: not item.claims.weighs)
    how = f": {' or '.join(setting for setting, _changed in found)}" if found else ""
    return f"let {plugin.name} ban nodes and not weight them{how}"


def counted(liars: int) -> str:
    """So many liars, in words."""
    return "1 liar" if liars == 1 else f"{liars} liars"
