"""Krum and Multi-Krum for QRES: robust aggregation, exact on the fixed-point grid."""

from __future__ import annotations

from qres_krum.plugin import Krum

__all__ = ["Krum"]
