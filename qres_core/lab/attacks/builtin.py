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
from qres_core.lab.attacks.searched import Searched

# isort: split
from qres_core.lab.attacks.aimed import Cancel, Drift, Mirror

# isort: split
from qres_core.lab.attacks.data import Backdoor, HiddenBackdoor, LabelFlip

# isort: split
from qres_core.lab.attacks.aside import Aside, BackdoorAside

# isort: split
from qres_core.lab.attacks.ascent import Ascent, OneClass, Steady
from qres_core.lab.bad_faith import BadFaith, LyingProposer, WithholdVotes
from qres_core.lab.sabotage import SABOTAGE

__all__ = [
    "BUILT_IN",
    "Ascent",
    "Aside",
    "Backdoor",
    "BackdoorAside",
    "BadFaith",
    "Cancel",
    "Cancellation",
    "Drift",
    "Duplicate",
    "FallOfEmpires",
    "Gaussian",
    "HiddenBackdoor",
    "Infinite",
    "InnerProduct",
    "LabelFlip",
    "LittleIsEnough",
    "LyingProposer",
    "Mimic",
    "MinMax",
    "MinMaxSign",
    "MinMaxUnit",
    "MinSum",
    "MinSumSign",
    "MinSumUnit",
    "Mirror",
    "Noise",
    "NotANumber",
    "Offset",
    "OneClass",
    "OptimisedInnerProduct",
    "OptimisedLittleIsEnough",
    "Scaled",
    "Searched",
    "SignFlip",
    "Silent",
    "Sleeper",
    "Steady",
    "WithholdVotes",
    "WrongLength",
]

BUILT_IN: Final = frozenset({*ATTACKS, *SABOTAGE})
"""Names that nobody else can take."""
