"""Is what the plan prints what the promise needs? By the audit's own formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from qres_dp_audit import reference
from qres_dp_audit.draw import Claim

_CLOSE: Final = 1.0 + 1e-6


def _needs(claim: Claim) -> Iterator[tuple[str, float, float]]:
    """Least needs, and the printed ones."""
    setting, printed, mechanism = claim.setting, claim.printed, claim.mechanism
    table, delta = setting.table, setting.table["delta"]
    sensitivity = setting.apart * setting.bound
    yield "sensitivity", sensitivity, mechanism["sensitivity_steps"]
    yield "bound", mechanism["bound_steps"], setting.bound
    charges = printed["charges"]
    square = sum(row["rounds"] / row["noise_multiplier"] ** 2 for row in charges)
    rounds = sum(row["rounds"] for row in charges)
    yield "rounds", table.get("rounds", rounds), rounds
    yield "delta", printed["delta"], delta
    yield "epsilon", reference.epsilon_of(math.sqrt(square), delta), printed["epsilon"]
    dearest = 1.0 / min(row["noise_multiplier"] for row in charges)
    yield "epsilon of a round", reference.epsilon_of(dearest, delta), printed["round"]["epsilon"]
    yield "budget", printed["epsilon"], printed["budget"]["epsilon"]
    yield "epsilon", printed["epsilon"], table.get("epsilon", math.inf)
    for group in printed["groups"]:
        needed = reference.epsilon_of(group["size"] * math.sqrt(square), delta)
        if group["epsilon"] is not None and needed < reference.LARGEST_EPSILON:
            yield f"epsilon of {group['size']} units", needed, group["epsilon"]
    if not setting.encoded:
        z = table.get("noise_multiplier", 1.0 / dearest)
        yield "noise of a charge", 1.0 / z, dearest
        yield "noise", z, claim.multiplier()
        return
    band, every = table["band"], table["separation"]
    reaches = [  # of a node whose turn is the first
        reference.reach(range(0, step + 1, every), step, band) for step in range(table["rounds"])
    ]
    moved = sum(claim.multiplier(item) ** -2.0 for item in reaches if item)
    yield "noise of all rows", reference.epsilon_of(math.sqrt(moved), delta), printed["epsilon"]


def lacking(claim: Claim) -> list[str]:
    """Needs that are printed too small."""
    return [
        f"{what} is {told:.9g}, and {least:.9g} is needed"
        for what, least, told in _needs(claim)
        if not least <= told * _CLOSE
    ]
