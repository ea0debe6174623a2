"""Krum, Multi-Krum and Bulyan for QRES: robust aggregation, exact on the fixed-point grid."""

from __future__ import annotations

from qres_krum.bulyan import bulyan
from qres_krum.krum import krum, multi_krum
from qres_krum.plugin import Bulyan, Krum

__all__ = ["Bulyan", "Krum", "bulyan", "krum", "multi_krum"]
