"""Differential privacy for QRES: exact noise and clipping on the fixed-point grid."""

from __future__ import annotations

from qres_dp.plugin import Dp

__all__ = ["Dp"]
