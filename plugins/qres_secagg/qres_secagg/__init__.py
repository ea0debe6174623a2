"""Secure aggregation for QRES: sums of updates that nobody can see singly."""

from __future__ import annotations

from qres_secagg.plugin import Secagg

__all__ = ["Secagg"]
