"""Attacks on a round: what a liar sends in place of its update.

Each states what the attacker must know. More can be registered with :func:`register`, or brought
by other distributions as entry points of the group ``qres.attacks``.
"""

from __future__ import annotations

from qres_core.lab.attacks.builtin import (
    Backdoor,
    Cancellation,
    Duplicate,
    FallOfEmpires,
    Gaussian,
    Infinite,
    InnerProduct,
    LabelFlip,
    LittleIsEnough,
    Mimic,
    MinMax,
    MinMaxSign,
    MinMaxUnit,
    MinSum,
    MinSumSign,
    MinSumUnit,
    Noise,
    NotANumber,
    Offset,
    OptimisedInnerProduct,
    OptimisedLittleIsEnough,
    Scaled,
    SignFlip,
    Silent,
    Sleeper,
    WrongLength,
)
from qres_core.lab.attacks.context import (
    Attack,
    AttackContext,
    Forgery,
    Probe,
    on_grid,
    send,
)
from qres_core.lab.attacks.data import (
    DataAttack,
    Measured,
)
from qres_core.lab.attacks.installed import (
    ATTACKS_GROUP,
    catalogue,
    find,
    make_attack,
)
from qres_core.lab.attacks.registry import (
    ATTACKS,
    Factory,
    RegisteredAttack,
    register,
)

__all__ = [
    "ATTACKS",
    "ATTACKS_GROUP",
    "Attack",
    "AttackContext",
    "Backdoor",
    "Cancellation",
    "DataAttack",
    "Duplicate",
    "Factory",
    "FallOfEmpires",
    "Forgery",
    "Gaussian",
    "Infinite",
    "InnerProduct",
    "LabelFlip",
    "LittleIsEnough",
    "Measured",
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
    "Probe",
    "RegisteredAttack",
    "Scaled",
    "SignFlip",
    "Silent",
    "Sleeper",
    "WrongLength",
    "catalogue",
    "find",
    "make_attack",
    "on_grid",
    "register",
    "send",
]
