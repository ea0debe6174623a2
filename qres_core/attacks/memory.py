"""Memory of an attack from round to round, as a checkpoint holds it.

An attack keeps it in fields that its constructor does not take. Numbers, text, bytes and arrays of
numbers are written down; what is in another field is lost, and then a simulation does not go on.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.attacks import Attack
from qres_core.contract import canonical
from qres_core.contract.errors import CompatibilityError

_KINDS: Final = frozenset("biuf")
"""Kinds of the arrays that are written down: truth values, whole and real numbers."""


def _fields(attack: Attack) -> tuple[attrs.Attribute[Any], ...]:
    kind: Any = type(attack)
    return tuple(field for field in attrs.fields(kind) if not field.init) if attrs.has(kind) else ()


def remember(attack: Attack | None) -> bytes:
    """Return the attack's memory, for :func:`recall`; empty where it has none. O(its size)."""
    if attack is None or not (fields := _fields(attack)):
        return b""
    kept: dict[str, list[object]] = {}
    for field in fields:
        value: object = getattr(attack, field.name)
        packed: list[object] | None = _packed(value)
        if packed is None:
            nothing: dict[str, object] = {}
            return canonical.dumps([f"{field.name}, a {type(value).__name__}", nothing])
        kept[field.name] = packed
    return canonical.dumps(["", kept])


def recall(attack: Attack | None, name: str, memory: bytes) -> None:
    """Give an attack what :func:`remember` told of it.

    ``name``: the attack's, for messages. Raises CompatibilityError: QRES-E317 where the memory was
    not written down. Raises ValueError: it is not this attack's, whatever it is.
    """
    if not memory and (attack is None or not _fields(attack)):
        return
    if attack is None:
        raise ValueError("there is no attack to remember anything")
    try:
        lost, kept = canonical.loads(memory, max_bytes=len(memory))
        if type(lost) is not str or not canonical.is_map(kept):
            raise ValueError("expected what an attack keeps")
        if lost:
            what = f"the attack {name!r} keeps {lost}, which a checkpoint does not hold"
            fix = "play it from the start, without --resume"
            raise CompatibilityError.of("QRES-E317", "simulation.attack", what, fix)
        if set(kept) != {field.name for field in _fields(attack)}:
            raise ValueError("expected the fields of the attack")
        values = {field: _unpacked(*packed) for field, packed in kept.items()}
    except (struct.error, TypeError, LookupError, OverflowError) as error:
        raise ValueError("expected what an attack keeps") from error
    for field, value in values.items():
        object.__setattr__(attack, field, value)  # the class may be frozen


def _packed(value: object) -> list[object] | None:
    """A value as it is written down, with its kind; ``None`` for a kind that is not."""
    if value is None or type(value) in {bool, str, bytes}:
        return ["", value]
    if type(value) is int:
        return ["int", str(value)]
    if type(value) is float:
        return ["float", struct.pack("<d", value)]
    if type(value) is np.ndarray and value.dtype.kind in _KINDS:
        array: NDArray[Any] = value
        return ["array", array.dtype.str, list(array.shape), array.tobytes()]
    return None


def _unpacked(kind: str, *packed: Any) -> object:
    """Raises ValueError, TypeError, LookupError, OverflowError or struct.error for other things."""
    if kind == "array":
        dtype, shape, octets = packed
        made = np.dtype(dtype)
        if made.kind not in _KINDS:
            raise ValueError("expected an array of numbers")
        return np.frombuffer(octets, made).reshape(shape).copy()
    (value,) = packed
    if kind == "int":
        return int(value)
    if kind == "float":
        (real,) = struct.unpack("<d", value)
        return float(real)
    if kind:
        raise ValueError("expected a kind of value")
    return value
