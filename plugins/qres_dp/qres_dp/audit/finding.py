"""What one check measured."""

from __future__ import annotations

import attrs


@attrs.frozen
class Finding:
    """A measured value and what it may not exceed.

    Attributes:
        check: ``white box``, ``exact clip`` or ``black box``.
        mode: of the plugin.
        value: what was measured.
        limit: what the claim allows.
        refused: how the plugin refused an input of the check, which is a failure too; else empty.
    """

    check: str
    mode: str
    value: float
    limit: float
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether the claim holds up; false for a refusal and for NaN."""
        return self.value <= self.limit and not self.refused
