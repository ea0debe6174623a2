"""Figures of clients: what a MetricRecord holds, signed on the way and averaged at the end."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from qres_core import canonical
from qres_core.errors import ValueRefusedError, WireError
from qres_flower.shapes import listed

Figure: TypeAlias = int | float | list[int] | list[float]
MAX_REPORT: Final = 2**20
"""Bytes of a client's figures."""
_MAX_VALUES: Final = 2**16
_DOUBLE: Final = struct.Struct("<d")


def packed(record: Mapping[str, Figure]) -> bytes:
    """Encode. Raises ValueRefusedError: QRES-E506 for figures that take more than 1 MiB."""
    data = canonical.dumps({name: _raw(value) for name, value in record.items()})
    if len(data) > MAX_REPORT:
        what = f"{len(data)} bytes of figures, and {MAX_REPORT} is the limit"
        raise ValueRefusedError.of("QRES-E506", "metrics", what)
    return data


def _raw(value: Figure) -> object:
    if isinstance(value, list):
        return [_raw(each) for each in value]
    return int(value) if isinstance(value, int) else _DOUBLE.pack(value)


def unpacked(payload: bytes) -> dict[str, Figure]:
    """Decode. Raises WireError: QRES-E401 to QRES-E404, whatever the bytes."""
    value = canonical.loads(payload, max_bytes=MAX_REPORT, max_items=_MAX_VALUES)
    if not canonical.is_map(value):
        raise WireError.of("QRES-E402", "metrics", "expected a map")
    found: dict[str, Figure] = {}
    for name, raw in value.items():
        if type(name) is not str:
            raise WireError.of("QRES-E404", "metrics", "expected names")
        found[name] = _list(name, raw) if canonical.is_list(raw) else _number(name, raw)
    return found


def _number(name: str, raw: object) -> int | float:
    if type(raw) is int:
        return raw
    if type(raw) is bytes and len(raw) == _DOUBLE.size:
        return float(_DOUBLE.unpack(raw)[0])
    raise WireError.of("QRES-E404", f"metrics[{name!r}]", "expected numbers")


def _list(name: str, raw: Sequence[object]) -> list[int] | list[float]:
    numbers = [_number(name, each) for each in raw]
    if len({type(each) for each in numbers}) > 1:
        raise WireError.of("QRES-E404", f"metrics[{name!r}]", "expected numbers of one kind")
    return cast("list[int] | list[float]", numbers)


def examples(record: Mapping[str, Figure], key: str, cap: int) -> int:
    """Number of examples that a client claims, at most ``cap``.

    With ``cap`` 1 every client counts once, whatever it says. Raises ValueRefusedError: QRES-E506
    where the figure is missing or no number from 1 on.
    """
    if cap == 1:
        return 1
    claimed = record.get(key)
    if isinstance(claimed, bool | list) or claimed is None or not claimed >= 1:
        what = f"is {claimed!r}, and swarm.weight_cap is {cap}"
        raise ValueRefusedError.of("QRES-E506", f"metrics[{key!r}]", what, "a number from 1 on")
    return min(cap, int(claimed)) if math.isfinite(claimed) else cap


def forms(records: Sequence[Mapping[str, Figure]]) -> dict[str, int]:
    """The figures that at least half of the clients give in one form: lengths, -1 for a number.

    What a few say besides, or in another form, neither counts nor keeps out what the others say.
    """
    counted: dict[str, Counter[int]] = {}
    for record in records:
        for name, value in record.items():
            counted.setdefault(name, Counter())[_form(value)] += 1
    found: dict[str, int] = {}
    for name, each in counted.items():
        form, count = each.most_common(1)[0]
        if 2 * count >= len(records):
            found[name] = form
    return found


def _form(value: Figure) -> int:
    return len(value) if isinstance(value, list) else -1


def _counts(value: Figure, form: int) -> bool:
    values = value if isinstance(value, list) else [value]
    return _form(value) == form and all(math.isfinite(each) for each in values)


def odd(record: Mapping[str, Figure], expected: Mapping[str, int]) -> str:
    """Faults and gaps in a client's figures; empty if all is as others say it."""
    said = {
        "lacks": [name for name in expected if name not in record],
        "adds": [name for name in record if name not in expected],
        "has no finite numbers of the others' form in": [
            name
            for name in record
            if name in expected and not _counts(record[name], expected[name])
        ],
    }
    return " and ".join(f"{verb} {listed(names)}" for verb, names in said.items() if names)


def averaged(reports: Sequence[tuple[int, Mapping[str, Figure]]]) -> dict[str, Figure]:
    """The weighted mean of each figure over the clients that gave it in the form of most, finite.

    A figure that fewer than half of the clients gave in one form is left out.
    """
    made: dict[str, Figure] = {}
    for name, form in forms([record for _weight, record in reports]).items():
        given = [
            (weight, record[name])
            for weight, record in reports
            if name in record and _counts(record[name], form)
        ]
        total = sum(weight for weight, _value in given)
        if not total:
            continue
        means = [0.0] * (1 if form < 0 else form)
        for weight, value in given:
            values = value if isinstance(value, list) else [value]
            # Divided first: what is finite stays so.
            means = [a + weight / total * b for a, b in zip(means, values, strict=True)]
        made[name] = means[0] if form < 0 else means
    return made


def record_of(message_content: Any) -> dict[str, Figure]:
    """The figures of a reply, of all its MetricRecords together."""
    found: dict[str, Figure] = {}
    for record in message_content.metric_records.values():
        found.update(record)
    return found
