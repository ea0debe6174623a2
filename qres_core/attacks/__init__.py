"""Attacks on a round: what a liar sends in place of its update.

Each states what the attacker must know. Here are those that look at nothing but the attacker's own
update. ``qres-lab`` brings the others, as any distribution may: as entry points of the group
``qres.attacks``. More can be registered with :func:`register`.
"""

from __future__ import annotations

from qres_core.attacks.context import (
    Attack,
    AttackContext,
    DataAttack,
    Forgery,
    Measured,
    Probe,
    on_grid,
    send,
)
from qres_core.attacks.installed import (
    catalogue,
    find,
    make_attack,
    sabotages,
)
from qres_core.attacks.registry import (
    ATTACKS,
    Factory,
    RegisteredAttack,
    register,
)
from qres_core.attacks.simple import (
    BUILT_IN,
    Duplicate,
    Gaussian,
    Noise,
    Scaled,
    SignFlip,
    Silent,
    Sleeper,
)
from qres_core.kernel.discovery import ATTACKS_GROUP, SABOTAGE_GROUP

__all__ = [
    "ATTACKS",
    "ATTACKS_GROUP",
    "BUILT_IN",
    "SABOTAGE_GROUP",
    "Attack",
    "AttackContext",
    "DataAttack",
    "Duplicate",
    "Factory",
    "Forgery",
    "Gaussian",
    "Measured",
    "Noise",
    "Probe",
    "RegisteredAttack",
    "Scaled",
    "SignFlip",
    "Silent",
    "Sleeper",
    "catalogue",
    "find",
    "make_attack",
    "on_grid",
    "register",
    "sabotages",
    "send",
]
