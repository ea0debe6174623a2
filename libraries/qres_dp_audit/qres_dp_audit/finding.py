"""Measurement by one check."""

from __future__ import annotations

import attrs


@attrs.frozen
class Finding:
    """A measured value and what it may not exceed."""

    check: str  # its name
    mode: str  # what was audited: the kind of a setting
    seed: int  # of the setting
    value: float  # what was measured: how many comparisons were wrong, or a surprise
    limit: float  # what the claim allows
    refused: str = ""  # what was wrong first; a refusal or a failure too; else empty

    @property
    def passed(self) -> bool:
        """True if the claim holds up; false for a refusal and for NaN."""
        return self.value <= self.limit and not self.refused
