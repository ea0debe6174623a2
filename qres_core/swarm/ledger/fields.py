"""Fields of decoded messages: each is of its type and within its bounds, or refused by name."""

from __future__ import annotations

from typing import Any

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError


@attrs.frozen
class Fields:
    """Checks whose errors name a field. Each returns the value; raises WireError: QRES-E404."""

    prefix: str = ""  # of every name

    def bad(self, field: str, what: str) -> WireError:
        """The error that refuses a field."""
        return WireError.of("QRES-E404", f"{self.prefix}{field}", what)

    def items(self, value: object, least: int, most: int, field: str) -> list[Any]:
        """A list of so many items."""
        if not canonical.is_list(value) or not least <= len(value) <= most:
            raise self.bad(field, f"expected a list of {least}..{most}")
        return value

    def listed(self, value: object, length: int, field: str) -> list[Any]:
        """A list of that length."""
        if not canonical.is_list(value) or len(value) != length:
            raise self.bad(field, f"expected a list of {length}")
        return value

    def octets(self, value: object, length: int, field: str) -> bytes:
        """So many bytes."""
        if type(value) is not bytes or len(value) != length:
            raise self.bad(field, f"expected {length} bytes")
        return value

    def number(self, value: object, low: int, high: int, field: str) -> int:
        """An integer within bounds."""
        if type(value) is not int or not low <= value <= high:
            raise self.bad(field, f"expected an integer in {low}..{high}")
        return value
