"""Writing the TOML files of a swarm in a box."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any, Final

from qres_core.contract import canonical

WIDTH: Final = 100
"""Columns; an array that does not fit gets a line for each value."""
_BARE: Final = re.compile("[A-Za-z0-9_-]+")


def _text(text: str) -> str:
    # JSON escapes what TOML wants escaped but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if canonical.is_map(value):
        inside = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if canonical.is_list(value):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)  # inf and nan, which JSON writes otherwise
    return json.dumps(value)  # integers and booleans are written as in TOML


def _line(key: str, value: Any) -> str:
    line = f"{_key(key)} = {_value(value)}"
    if len(line) <= WIDTH or not canonical.is_list(value):
        return line
    inside = "".join(f"    {_value(item)},\n" for item in value)
    return f"{_key(key)} = [\n{inside}]"


def _tables(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The text of each table that has a heading of its own."""
    plain = {key: value for key, value in table.items() if not canonical.is_map(value)}
    heading = [f"[{'.'.join(map(_key, path))}]"] if path and (plain or not table) else []
    lines = [*heading, *(_line(key, value) for key, value in plain.items())]
    if lines:
        yield "\n".join(lines)
    for key, value in table.items():
        if canonical.is_map(value):
            yield from _tables(value, (*path, key))


def render(raw: Mapping[str, Any]) -> str:
    """A TOML file of what TOML can hold, in the order given.

    Example:
        >>> print(render({"swarm": {"nodes": 4}, "plugins": {"krum": {}}}).strip())
        [swarm]
        nodes = 4
        <BLANKLINE>
        [plugins.krum]
    """
    return "\n\n".join(_tables(raw, ())) + "\n"
