"""Promise of a list of charges: epsilon, mu, a single round, and groups of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from qres_core.errors import CompatibilityError
from qres_dp.accounting.composition import spent, together
from qres_dp.accounting.limits import Kind

GROUPS: Final = (2, 5, 10)
"""Sizes of the groups of units that a plan and a report tell the privacy of."""


def group_of(kinds: Mapping[Kind, int], size: int) -> Mapping[Kind, int]:
    """Charges that cost one unit what the given ones cost a group of so many units together.

    A group moves a sum by ``size`` times as much as a single unit; so the general bound of group
    privacy, ``size * epsilon`` with a larger delta, is not needed.
    """
    return {noise / size: n for noise, n in kinds.items()}


@attrs.frozen
class PrivacyAccount:
    """Cost of rounds together."""

    charges: Mapping[Kind, int]  # noise multiplier, and how many such rounds
    delta: float

    @property
    def rounds(self) -> int:
        """Number of rounds that are charged."""
        return sum(self.charges.values())

    @property
    def epsilon(self) -> float:
        """Of all rounds together, an upper bound."""
        return spent(self.charges, self.delta)

    @property
    def mu(self) -> float:
        """All rounds together are mu-Gaussian-DP (Dong, Roth, Su 2022), rounded up."""
        return together(self.charges)

    @property
    def dearest(self) -> PrivacyAccount:
        """The single round that costs most."""
        each = [attrs.evolve(self, charges={kind: 1}) for kind in self.charges]
        return max(each, key=lambda item: item.epsilon, default=self)

    def of_group(self, size: int) -> float:
        """Epsilon for several units together, such as all records of a person, at the same delta.

        ``size``: 1 or more. Raises CompatibilityError: QRES-E314 for a size below 1, or where less
        noise a unit is left than there is an account for.
        """
        if type(size) is not int or size < 1:
            raise CompatibilityError.of("QRES-E314", "size", f"a group of {size!r} has no account")
        return spent(group_of(self.charges, size), self.delta)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The epsilon of some groups: ``None`` where there is no account."""
        rows: list[dict[str, Any]] = []
        for size in GROUPS:
            try:
                rows.append({"size": size, "epsilon": self.of_group(size)})
            except CompatibilityError:
                rows.append({"size": size, "epsilon": None})
        return rows

    def to_json(self) -> dict[str, Any]:
        """As ``qres dp plan --json`` and ``qres dp report --json`` tell it."""
        dearest = self.dearest
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "mu": self.mu,
            "rounds": self.rounds,
            "round": {"epsilon": dearest.epsilon, "mu": dearest.mu},
            "charges": [
                {"noise_multiplier": noise, "rounds": n}
                for noise, n in sorted(self.charges.items())
            ],
            "groups": self.groups,
        }
