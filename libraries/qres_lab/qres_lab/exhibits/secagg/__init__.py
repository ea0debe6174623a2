"""Attacks on the protocol of secagg, played between its roles in one process."""

from __future__ import annotations

from qres_lab.exhibits.secagg.entries import ENTRIES

__all__ = ["ENTRIES"]
