"""Updates in few bits for QRES: random rounding, and feedback of what it took away."""

from __future__ import annotations

from qres_quantize.plugin import Quantize
from qres_quantize.rounding import BITS, rounded

__all__ = ["BITS", "Quantize", "rounded"]
