"""The attacks that come with QRES, imported in the order in which they are listed."""

from __future__ import annotations

from typing import Final

from qres_core.lab.attacks.registry import ATTACKS
from qres_core.lab.attacks.simple import (
    Duplicate,
    Gaussian,
    Noise,
    Scaled,
    SignFlip,
    Silent,
    Sleeper,
)

# isort: split
from qres_core.lab.attacks.arithmetic import (
    Cancellation,
    Infinite,
    NotANumber,
    Offset,
    WrongLength,
)

# isort: split
from qres_core.lab.attacks.statistical import (
    FallOfEmpires,
    InnerProduct,
    LittleIsEnough,
    MinMax,
    MinMaxSign,
    MinMaxUnit,
    MinSum,
    MinSumSign,
    MinSumUnit,
)

# isort: split
from qres_core.lab.attacks.mimic import Mimic
from qres_core.lab.attacks.optimised import OptimisedInnerProduct, OptimisedLittleIsEnough

# isort: split
from qres_core.lab.attacks.data import Backdoor, LabelFlip
from qres_core.lab.sabotage import SABOTAGE

__all__ = [
    "BUILT_IN",
    "Backdoor",
    "Cancellation",
    "Duplicate",
    "FallOfEmpires",
    "Gaussian",
    "Infinite",
    "InnerProduct",
    "LabelFlip",
    "LittleIsEnough",
    "Mimic",
    "MinMax",
    "MinMaxSign",
    "MinMaxUnit",
    "MinSum",
    "MinSumSign",
    "MinSumUnit",
    "Noise",
    "NotANumber",
    "Offset",
    "OptimisedInnerProduct",
    "OptimisedLittleIsEnough",
    "Scaled",
    "SignFlip",
    "Silent",
    "Sleeper",
    "WrongLength",
]

BUILT_IN: Final = frozenset({*ATTACKS, *SABOTAGE})
"""Names that nobody else can take."""
