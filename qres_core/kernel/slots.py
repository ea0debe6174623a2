"""The slot table: how many plugins a family takes and how their results combine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs


@attrs.frozen
class Slot:
    """One family of hooks."""

    hooks: tuple[str, ...]  # the hooks of the family
    counted: tuple[str, ...]  # the hooks whose implementations are counted against the bounds
    minimum: int  # fewest implementations of each counted hook
    maximum: int | None  # most, or ``None``
    combination: str  # how several results become one, for the reference


SLOTS: Final[Mapping[str, Slot]] = MappingProxyType(
    {
        "transport": Slot(("transport",), ("transport",), 1, 1, "the one result"),
        "authenticate": Slot(
            (
                "identity",
                "key_index",
                "link_keys",
                "sign",
                "authenticate",
                "credential",
                "admit",
                "approve",
            ),
            ("sign", "authenticate"),
            1,
            None,
            "every one must accept",
        ),
        "replay_check": Slot(
            ("replay_check",), ("replay_check",), 1, None, "every one must accept"
        ),
        "reputation": Slot(
            ("reputation", "observe"), ("reputation",), 0, 1, "the one result is weight and gate"
        ),
        "privatize": Slot(
            ("privatize", "revealable", "reveal", "reveal_shard"),
            ("privatize",),
            0,
            None,
            "chain in file order; what any revealable leaves out is in no set",
        ),
        "prove": Slot(
            ("prove", "verify", "verify_shard", "verify_all"),
            ("verify",),
            0,
            None,
            "every one must accept",
        ),
        "aggregate": Slot(
            ("aggregate", "wrap_aggregate", "screen", "endorse"),
            ("aggregate",),
            1,
            1,
            "one rule, inside wrappers that nest in file order; what any screen leaves out stays "
            "out; every endorse must accept",
        ),
    }
)

SECURITY_FAMILIES: Final = ("authenticate", "replay_check")
"""The families that only ``swarm.insecure`` may leave empty."""

LIFE_CYCLE: Final = ("setup", "round_opened", "round_closed", "status", "teardown")

FAMILY_OF: Final[Mapping[str, str]] = MappingProxyType(
    {hook: family for family, slot in SLOTS.items() for hook in slot.hooks}
)

PAIRED: Final = (
    ("sign", "authenticate"),
    ("revealable", "reveal"),
    ("reveal_shard", "reveal"),
    ("prove", "verify"),
    ("verify_shard", "verify"),
    ("verify_all", "verify"),
)
"""A plugin that has the first hook must have the second."""

ALL_HOOKS: Final = (*LIFE_CYCLE, *FAMILY_OF)
