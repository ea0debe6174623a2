"""Writing the TOML files of a swarm in a box."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

from qres_core.contract import canonical


def _text(text: str) -> str:
    # JSON escapes what TOML wants escaped but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if canonical.is_map(value):
        inside = ", ".join(f"{_text(key)} = {_value(one)}" for key, one in value.items())
        return f"{{{inside}}}"
    if canonical.is_list(value):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)  # inf and nan, which JSON writes otherwise
    return json.dumps(value)  # integers and booleans are written as in TOML


def _tables(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not canonical.is_map(value)}
    if path and (plain or not table):
        yield f"[{'.'.join(map(_text, path))}]"
    for key, value in plain.items():
        yield f"{_text(key)} = {_value(value)}"
    for key, value in table.items():
        if canonical.is_map(value):
            yield ""
            yield from _tables(value, (*path, key))


def render(raw: Mapping[str, Any]) -> str:
    """A TOML file of what TOML can hold, in the order given.

    Example:
        >>> print(render({"swarm": {"nodes": 4}, "plugins": {"krum": {}}}).strip())
        ["swarm"]
        "nodes" = 4
        <BLANKLINE>
        <BLANKLINE>
        ["plugins"."krum"]
    """
    return "\n".join(_tables(raw, ())) + "\n"
