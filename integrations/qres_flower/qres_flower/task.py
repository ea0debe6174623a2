"""Task of a client in a message, as 32 bytes: clients that share a sum were asked alike.

A server that has all clients but one learn nothing, by their settings, reads the update of that one
from the sum. So the digest enters what clients sign of a round.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Final

from qres_core import canonical
from qres_core.errors import ValueRefusedError
from qres_flower.border import RECORD, app

_TASK: Final = b"qres/flower-task/v1\0"
_DOUBLE: Final = struct.Struct("<d")


def task_digest(
    message: Any, arrays: bytes, key: str, run_config: Mapping[str, Any], *, whole: bool
) -> bytes:
    """SHA-256 of what a message asks of a client, 32 bytes.

    Args:
        message: of training or evaluation; the record of ours in it does not count.
        arrays: names its arrays as they are, 32 bytes.
        key: the figure that says how many examples a client has.
        run_config: settings of the run.
        whole: all of that; else the arrays alone, byte for byte, and clients may be asked for
            different things.

    Raises ValueRefusedError: QRES-E503 for settings of another kind than Flower's.
    """
    said: list[object] = [arrays]
    if whole:
        about = message.metadata
        # In their order: an app may take the first.
        records = [_raw(name, each) for name, each in message.content.items() if name != RECORD]
        settings = [[name, _value(name, run_config[name])] for name in sorted(run_config)]
        said += [str(about.message_type), str(about.group_id), key, records, settings]
    return hashlib.sha256(_TASK + canonical.dumps(said)).digest()


def _raw(name: str, record: Any) -> list[object]:
    if type(record) is app.ArrayRecord:
        return [name, "ArrayRecord"]
    return [name, type(record).__name__, [[key, _value(key, each)] for key, each in record.items()]]


def _value(where: str, value: object) -> list[object]:
    """A value with its type: 1, 1.0 and true differ."""
    kind = type(value).__name__
    if canonical.is_list(value):
        return [kind, [_value(where, each) for each in value]]
    if isinstance(value, bool | int):
        return [kind, str(value)]
    if isinstance(value, float):
        return [kind, _DOUBLE.pack(value)]
    if isinstance(value, str | bytes):
        return [kind, value]
    fix = "text, bytes, numbers, true or false, and lists of them"
    raise ValueRefusedError.of("QRES-E503", f"settings[{where!r}]", f"holds a {kind}", fix)
