"""What one check measured."""

from __future__ import annotations

import attrs


@attrs.frozen
class Finding:
    """A measured value and what it may not exceed."""

    check: str  # its name
    mode: str  # what was audited: the name of a setting
    value: float  # what was measured
    limit: float  # what the claim allows
    # what was refused that should not have been, or the reverse; a failure too; else empty
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether the claim holds up; false for a refusal and for NaN."""
        return self.value <= self.limit and not self.refused
