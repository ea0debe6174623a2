"""Attacks of the laboratory, imported in the order in which they are listed.

The core has those of :mod:`qres_core.attacks.simple`.
"""

from __future__ import annotations

from qres_lab.attacks.arithmetic import (
    Cancellation,
    Infinite,
    NotANumber,
    Offset,
    WrongLength,
)

# isort: split
from qres_lab.attacks.statistical import (
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
from qres_lab.attacks.mimic import Mimic
from qres_lab.attacks.optimised import OptimisedInnerProduct, OptimisedLittleIsEnough
from qres_lab.attacks.searched import Searched

# isort: split
from qres_lab.attacks.aimed import Cancel, Drift, Mirror

# isort: split
from qres_lab.attacks.data import Backdoor, HiddenBackdoor, LabelFlip

# isort: split
from qres_lab.attacks.aside import Aside, BackdoorAside

# isort: split
from qres_lab.attacks.ascent import Ascent, OneClass, Steady

# isort: split
from qres_lab.attacks.sabotage import (
    DoubleVote,
    Equivocate,
    Flood,
    Forge,
    Impersonate,
    MadeUpHistory,
    ReplayMessages,
    Sybil,
    Unauthorized,
    Withhold,
)

# isort: split
from qres_lab.attacks.bad_faith import BadFaith, LyingProposer, WithholdVotes

__all__ = [
    "Ascent",
    "Aside",
    "Backdoor",
    "BackdoorAside",
    "BadFaith",
    "Cancel",
    "Cancellation",
    "DoubleVote",
    "Drift",
    "Equivocate",
    "FallOfEmpires",
    "Flood",
    "Forge",
    "HiddenBackdoor",
    "Impersonate",
    "Infinite",
    "InnerProduct",
    "LabelFlip",
    "LittleIsEnough",
    "LyingProposer",
    "MadeUpHistory",
    "Mimic",
    "MinMax",
    "MinMaxSign",
    "MinMaxUnit",
    "MinSum",
    "MinSumSign",
    "MinSumUnit",
    "Mirror",
    "NotANumber",
    "Offset",
    "OneClass",
    "OptimisedInnerProduct",
    "OptimisedLittleIsEnough",
    "ReplayMessages",
    "Searched",
    "Steady",
    "Sybil",
    "Unauthorized",
    "Withhold",
    "WithholdVotes",
    "WrongLength",
]
