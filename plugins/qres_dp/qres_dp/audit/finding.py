"""What one check measured."""

from __future__ import annotations

import attrs


@attrs.frozen
class Finding:
    """A measured value and what it may not exceed."""

    check: str  # ``white box``, ``exact clip`` or ``black box``
    mode: str  # of the plugin
    value: float  # what was measured
    limit: float  # what the claim allows
    # how the plugin refused an input of the check, which is a failure too; else empty
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether the claim holds up; false for a refusal and for NaN."""
        return self.value <= self.limit and not self.refused
