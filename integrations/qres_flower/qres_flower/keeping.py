"""Records of Flower as bytes, without pickle: what a client keeps from round to round."""

from __future__ import annotations

import struct
from typing import Any, Final

from qres_core import canonical
from qres_core.errors import ValueRefusedError
from qres_flower.border import app

_KINDS: Final = ("ArrayRecord", "MetricRecord", "ConfigRecord")
_REAL: Final = struct.Struct("<d")
_LARGEST: Final = 2**34


def pack(records: Any) -> bytes:
    """A ``RecordDict`` as bytes. Raises ValueRefusedError: QRES-E503 for what it may not hold."""
    rows: list[Any] = []
    for name, record in records.items():
        kind = type(record).__name__
        if kind not in _KINDS:
            what = f"holds a {kind} under {name!r}"
            raise ValueRefusedError.of("QRES-E503", "context.state", what, "keep records of Flower")
        rows.append([name, kind, [[key, _plain(value)] for key, value in record.items()]])
    return canonical.dumps(rows)


def unpack(octets: bytes) -> Any:
    """The ``RecordDict`` in what :func:`pack` made.

    Raises ValueRefusedError: QRES-E503 for anything else.
    """
    records = app.RecordDict()
    try:
        for name, kind, entries in canonical.loads(octets, max_bytes=_LARGEST):
            made = getattr(app, _KINDS[_KINDS.index(kind)])
            records[name] = made({key: _value(each) for key, each in entries})
    except Exception as error:
        what = f"is not what a Flower client kept: {error}"
        fix = "begin without it"
        raise ValueRefusedError.of("QRES-E503", "context.state", what, fix) from error
    return records


def _plain(value: Any) -> list[Any]:
    if isinstance(value, (bool, str, bytes)):
        return ["plain", value]
    if isinstance(value, int):
        return ["whole", str(value)]
    if isinstance(value, float):
        return ["real", _REAL.pack(value)]
    if canonical.is_list(value):
        return ["list", [_plain(each) for each in value]]
    return ["array", value.dtype, list(value.shape), value.stype, value.data]


def _value(told: list[Any]) -> Any:
    kind, *rest = told
    match kind:
        case "plain":
            return rest[0]
        case "whole":
            return int(rest[0])
        case "real":
            return _REAL.unpack(rest[0])[0]
        case "list":
            return [_value(each) for each in rest[0]]
        case _:
            dtype, shape, stype, data = rest
            return app.Array(dtype=dtype, shape=tuple(shape), stype=stype, data=bytes(data))
