"""Training: what is trained, by which trainer, and the ``[trainer]`` table.

The names here are public: what a trainer implements, and what it is given. The modules are not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from qres_core.contract.on_demand import on_demand

if TYPE_CHECKING:
    from qres_core.contract import partition
    from qres_core.contract.by_record import by_record
    from qres_core.contract.held_out import HeldOut, Screening
    from qres_core.contract.last_step import LastStep
    from qres_core.contract.record_clip import RecordClip
    from qres_core.contract.trainer import (
        BasedTrainer,
        RecordTrainer,
        Reference,
        RememberingTrainer,
        Trainer,
        Validator,
    )

_HOME: Final = {
    "by_record": ("by_record",),
    "held_out": ("HeldOut", "Screening"),
    "last_step": ("LastStep",),
    "record_clip": ("RecordClip",),
    "trainer": (
        "BasedTrainer",
        "RecordTrainer",
        "Reference",
        "RememberingTrainer",
        "Trainer",
        "Validator",
    ),
}

__all__ = [
    "BasedTrainer",
    "HeldOut",
    "LastStep",
    "RecordClip",
    "RecordTrainer",
    "Reference",
    "RememberingTrainer",
    "Screening",
    "Trainer",
    "Validator",
    "by_record",
    "partition",
]

_load = on_demand(globals(), "qres_core.contract", _HOME)


def __getattr__(name: str) -> Any:
    if name == "partition":
        return importlib.import_module("qres_core.contract.partition")
    return _load(name)
