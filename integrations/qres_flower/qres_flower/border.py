"""Flower, as untyped names: this project is checked where Flower is not installed."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Final

from qres_core.errors import LabError


def imported(name: str) -> Any:
    """A module. Raises LabError: QRES-E802 where it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        what = f"{name} cannot be imported: {error}"
        fix = 'pip install "flwr>=1.41,<1.43"'
        raise LabError.of("QRES-E802", "qres-flower", what, fix) from error


app: Final = imported("flwr.app")
strategies: Final = imported("flwr.serverapp.strategy")
LOG: Final = logging.getLogger("flwr")
"""Flower's own log: what happened in a round stands beside what Flower says of it."""

RECORD: Final = "qres"
"""Name of the record that carries what is ours; clients and strategies never see it."""
ROUND: Final = "round"
"""Key of that record, from the server: the announcement."""
WEIGHT: Final = "weight"
"""Key of that record, from the server: which figure says how many examples a client has."""
FRAMES: Final = "frames"
"""Key of that record, from a client: what it signed."""
EXAMPLES: Final = "num-examples"
"""That figure where updates are hidden: a server that named another one would be told it."""
TURN: Final = "turn"
"""Key of that record, from the server: a turn of the round's dialogues, in place of a round."""
MAX_FRAMES: Final = 2
"""Of a reply: an update and figures."""


def single(content: Any, where: str) -> Any:
    """The one ArrayRecord of a message's content, with its name. Raises ValueRefusedError."""
    from qres_core.errors import ValueRefusedError  # noqa: PLC0415 - numpy

    found = list(content.array_records.items())
    if len(found) != 1:
        what = f"expected one ArrayRecord, got {len(found)}"
        raise ValueRefusedError.of("QRES-E502", where, what)
    return found[0]
